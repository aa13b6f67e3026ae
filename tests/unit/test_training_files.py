"""Training rows as files: each record in exactly one file, whatever fails; damage is found and repaired."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

import pyarrow.dataset as ds
import pytest

from client import training_files
from client.errors import InvalidArgument
from client.training_files import ROWS, SERVED, Stored, TrainingFiles, export
from schemas.decision import encode_decision
from schemas.training import Served, TrainingRow, encode_row
from tests.fakes import HOUR, NOW
from tests.unit.test_attribution import decided


def row(number: int, revision: int = 1, **more: object) -> TrainingRow:
    served = Served("L", NOW, 1, 2, 3, 4, 0.5, "ann", "b1", "r1", "p1", "click", {0: 7}, {"layer": "arm"})
    fields = {"delay_ms": {"click": 9}, "closed": ["click", "cart"], **more}
    return TrainingRow(f"row-{number}", revision, "u:alice", f"i{number}", 1, "a", "home", NOW, served, **fields)  # type: ignore[arg-type]


class Topic:
    """Two partitions of rows, an hour between the halves; `fail_at` breaks the connection before an offset, once."""

    def __init__(self, count: int = 10) -> None:
        self.records = {
            partition: [
                Stored(partition, n, NOW + HOUR * (n // 5), encode_row(row(100 * partition + n))) for n in range(count)
            ]
            for partition in (0, 1)
        }
        self.first = 0
        self.fail_at: int | None = None

    def extent(self) -> dict[int, tuple[int, int]]:
        return {partition: (self.first, len(records)) for partition, records in self.records.items()}

    def read(self, partition: int, start: int, end: int) -> Iterable[Stored]:
        for record in self.records[partition][start:end]:
            if record.offset == self.fail_at:
                self.fail_at = None
                raise ConnectionError("the broker went away")
            yield record


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_files, "CHUNK", 4)


@pytest.fixture
def files(tmp_path: Path) -> TrainingFiles:
    return TrainingFiles(tmp_path / "out", ROWS)


def run(topic: Topic, files: TrainingFiles, now_ms: int = NOW) -> training_files.Exported:
    return export(topic, files, lambda _done, _total: None, now_ms)


def offsets(files: TrainingFiles) -> list[tuple[int, int]]:
    """As a reader without any knowledge of commits finds them."""
    table = ds.dataset(files.folder / "rows", partitioning="hive").to_table(["topic_partition", "topic_offset"])
    return sorted(zip(*(column.to_pylist() for column in table.columns)))


EVERYTHING = [(partition, offset) for partition in (0, 1) for offset in range(10)]


def test_each_record_is_in_one_file_and_a_second_run_adds_nothing(files: TrainingFiles) -> None:
    topic = Topic()
    assert (run(topic, files).rows, offsets(files)) == (20, EVERYTHING)
    assert (run(topic, files).rows, offsets(files)) == (0, EVERYTHING)
    topic.records[1].append(Stored(1, 10, NOW + 2 * HOUR, encode_row(row(999))))
    assert (run(topic, files).rows, offsets(files)) == (1, [*EVERYTHING, (1, 10)])


def test_pandas_reads_the_last_revisions(files: TrainingFiles) -> None:
    pd = pytest.importorskip("pandas", reason="pandas is not among Riffle's dependencies: uv pip install pandas")
    topic = Topic()
    topic.records[0].append(Stored(0, 10, NOW, encode_row(row(3, revision=2, delay_ms={"click": 9, "cart": 8}))))
    run(topic, files)
    frame = pd.read_parquet(files.folder / "rows").sort_values("revision").drop_duplicates("row_id", keep="last")
    assert len(frame) == 20
    found = frame.set_index("row_id").loc["row-3"]
    assert (found.revision, found.click, found.cart, found.cart_delay_ms, found.bundle) == (2, True, True, 8, "b1")
    assert found.purchase is None  # its window is open
    assert not frame.set_index("row_id").loc["row-4"].cart
    assert found.shown == pd.Timestamp(NOW, unit="ms", tz="UTC")


@pytest.mark.parametrize("at", range(10))
def test_a_broker_that_goes_away_leaves_no_half_stretch(files: TrainingFiles, at: int) -> None:
    topic = Topic()
    topic.fail_at = at
    with pytest.raises(ConnectionError):
        run(topic, files)
    run(topic, files)
    assert offsets(files) == EVERYTHING


def test_a_writer_killed_at_any_step_repeats_and_loses_nothing(
    files: TrainingFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Contract: at every moment a reader sees each record at most once, and after the next run exactly once."""
    topic, original = Topic(), Path.rename
    for deadly in range(1, 40):
        steps = 0

        def rename(path: Path, target: Path) -> Path:
            nonlocal steps
            steps += 1
            if steps == deadly:  # noqa: B023 - used within this turn of the loop
                raise SystemError("killed")
            return original(path, target)

        one = TrainingFiles(files.folder / str(deadly), ROWS)
        monkeypatch.setattr(Path, "rename", rename)
        try:
            run(topic, one)
            finished = True
        except SystemError:
            finished = False
        monkeypatch.setattr(Path, "rename", original)
        if any(one.folder.rglob("rows/**/*.parquet")):
            seen = offsets(one)
            assert len(seen) == len(set(seen))
        run(topic, one)
        assert offsets(one) == EVERYTHING
        if finished:
            assert deadly > 5
            return
    raise AssertionError("it was killed at every step")


def test_a_truncated_file_is_found_and_exported_again(files: TrainingFiles) -> None:
    topic = Topic()
    run(topic, files)
    assert files.damaged() == []
    victim, other = sorted((files.folder / "rows").rglob("*.parquet"))[:2]
    victim.write_bytes(victim.read_bytes()[:-7])
    other.unlink()
    damage = files.damaged()
    assert {(one.path, one.what) for one in damage} == {
        (victim.relative_to(files.folder).as_posix(), "changed"),
        (other.relative_to(files.folder).as_posix(), "missing"),
    }
    for commit in {one.commit.name: one.commit for one in damage}.values():
        files.set_aside(commit)
    run(topic, files)
    assert (files.damaged(), offsets(files)) == ([], EVERYTHING)


def test_what_the_topic_has_lost_is_said(files: TrainingFiles) -> None:
    topic = Topic()
    topic.records = {0: topic.records[0][:4]}
    run(topic, files)
    topic.records, topic.first = Topic().records, 7
    topic.records.pop(1)
    assert run(topic, files).lost == [(0, 4, 7)]
    assert offsets(files) == [(0, n) for n in (0, 1, 2, 3, 7, 8, 9)]


def test_what_is_no_row_is_counted_and_stops_nothing(files: TrainingFiles) -> None:
    topic = Topic()
    topic.records[0][2] = Stored(0, 2, NOW, b"nonsense")
    assert run(topic, files).unreadable == 1
    assert [commit.unreadable for commit in files.commits() if commit.unreadable] == [[2]]


def test_an_hour_is_marked_once_no_transaction_of_it_can_be_open(files: TrainingFiles) -> None:
    def marked() -> list[str]:
        return sorted(path.parent.name for path in files.folder.rglob("_SUCCESS"))

    run(Topic(), files, NOW + HOUR)
    assert marked() == []
    run(Topic(), files, NOW + HOUR + 15 * 60_000)
    assert marked() == ["hour=00"]


def test_two_writers_do_not_meet(files: TrainingFiles) -> None:
    with files.writing(), pytest.raises(InvalidArgument, match="Another export writes"):
        run(Topic(), files)


def test_a_commit_that_cannot_be_read_is_named(files: TrainingFiles) -> None:
    run(Topic(), files)
    (files.folder / "_commits" / "0-0-4.json").write_text("{")
    with pytest.raises(InvalidArgument, match=r"0-0-4\.json is no commit"):
        run(Topic(), files)


def test_a_decision_becomes_the_places_of_its_list(tmp_path: Path) -> None:
    """Contract: features as served, by name; an unknown propensity is null; what is no record is named."""
    files = TrainingFiles(tmp_path / "served", SERVED)
    good = Stored(0, 0, NOW, encode_decision(decided("L", propensities=(0.5, math.nan))))
    with files.writing():
        commit = files.write(0, 0, 2, [good, Stored(0, 1, NOW, b"RD\x09")])
    assert commit.unreadable == [1]
    rows = ds.dataset(files.folder / "rows", partitioning="hive").to_table().to_pylist()
    assert [(row["item_id"], row["rank"], row["slot"], row["propensity"]) for row in rows] == [
        ("a", 0, "exploit", 0.5),
        ("b", 1, "explore", None),
    ]
    assert [(row["feature_ids"], row["features"]) for row in rows] == [(["clicks_2h@1"], [1.0])] * 2
