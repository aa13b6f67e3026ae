"""riffle backfill: files in, tables out; killed and gone on with; and what is said of files that cannot be read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from cli import backfill
from cli.backfill import Tables
from cli.main import app
from tests.fakes import HOUR, NOW
from tests.unit.test_past import a_log
from udfs.logic import past

RUNNER = CliRunner()
SPAN = ["--from", "2026-01-01", "--to", "2026-01-01T03:00"]  # NOW is 2026-01-01
TABLES = ("training-rows", "list-features", "item-features", "unmatched", "refused")


def records(path: Path, kind: str, seed: int = 1) -> Path:
    """What a topic holds, as a file."""
    steps = [step for step in a_log(seed) if step.kind == kind]
    columns = {
        "value": [step.value for step in steps],
        "append_ms": [step.at_ms for step in steps],
        "key": [step.key for step in steps],
        "partition": [step.partition for step in steps],
        "offset": [step.offset for step in steps],
    }
    pq.write_table(pa.table(columns), path)
    return path


@pytest.fixture
def asked(tmp_path: Path) -> list[str]:
    events, lists = records(tmp_path / "events.parquet", past.EVENT), records(tmp_path / "lists.parquet", past.LIST)
    items = records(tmp_path / "items.parquet", past.ITEM)
    return ["backfill", "--events", str(events), "--lists", str(lists), "--items", str(items), *SPAN]


def table(folder: Path, name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = ds.dataset(folder / name).to_table().to_pylist() if (folder / name).exists() else []
    return found


def said(folder: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((folder / "report.json").read_bytes())
    return report


def test_tables_are_what_the_engine_makes(asked: list[str], tmp_path: Path) -> None:
    done = RUNNER.invoke(app, [*asked, "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    made = past.Made()
    engine = past.Past(backfill.registry(), backfill.Rules())
    for step in a_log(1):
        engine.take(step, made)
    engine.finish(NOW + 3 * HOUR, made)
    rows = table(tmp_path / "out", "training-rows")
    assert [(row["row_id"], row["revision"]) for row in rows] == [
        (row.row_id, row.revision) for _, row in made.rows if row.shown_ms >= NOW
    ]
    features = table(tmp_path / "out", "list-features")
    assert [[row[name] for name in engine.feature_ids] for row in features] == [
        pytest.approx(values) for one in made.served for values in one.values
    ]
    assert len(table(tmp_path / "out", "item-features")) == len(made.item_rows)
    assert len(table(tmp_path / "out", "refused")) == len(made.refused)


def test_killed_anywhere_it_goes_on_and_makes_the_same(
    asked: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Contract: the tables are those of a run that nobody killed, and what was done at the last checkpoint is not done again."""
    monkeypatch.setattr(backfill, "_FILE_STEPS", 20)
    monkeypatch.setattr(backfill, "_CHECKPOINT_S", 0.0)
    assert RUNNER.invoke(app, [*asked, "--out", str(tmp_path / "whole")]).exit_code == 0
    write, taken = Tables.write, past.Past.take
    done = last = 0

    def dies(self: Tables, number: int, made: past.Made) -> None:
        write(self, number, made)
        if number >= last:
            raise KeyboardInterrupt  # after the files, before the checkpoint

    def counts(self: past.Past, step: past.Step, made: past.Made) -> None:
        nonlocal done
        done += 1
        taken(self, step, made)

    monkeypatch.setattr(past.Past, "take", counts)
    for file in (0, 2, 5):
        last = file
        monkeypatch.setattr(Tables, "write", dies)
        assert RUNNER.invoke(app, [*asked, "--out", str(tmp_path / "broken")]).exit_code == 130
    monkeypatch.setattr(Tables, "write", write)
    assert RUNNER.invoke(app, [*asked, "--out", str(tmp_path / "broken")]).exit_code == 0
    for name in TABLES:
        assert table(tmp_path / "broken", name) == table(tmp_path / "whole", name), name
    assert said(tmp_path / "broken") == said(tmp_path / "whole")
    assert said(tmp_path / "whole")["steps"] + 3 * 20 == done
    assert not (tmp_path / "broken" / ".work").exists()


def test_another_backfill_does_not_go_on_with_it(
    asked: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Tables, "write", dies)
        assert RUNNER.invoke(app, [*asked, "--out", str(tmp_path / "out")]).exit_code == 130
    done = RUNNER.invoke(app, [*asked, "--to", "2026-01-01T02:00", "--out", str(tmp_path / "out")])
    assert done.exit_code == 1
    assert "unfinished backfill of other input" in done.output
    assert RUNNER.invoke(app, [*asked, "--out", str(tmp_path / "out")]).exit_code == 0
    done = RUNNER.invoke(app, [*asked, "--out", str(tmp_path / "out")])
    assert "is not empty" in done.output


def test_a_truncated_file_is_named_and_the_others_are_read(asked: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "events"
    folder.mkdir()
    whole = records(folder / "a.parquet", past.EVENT, 1)
    (folder / "b.parquet").write_bytes(records(folder / "b.parquet", past.EVENT, 2).read_bytes()[:-200])
    (folder / "c.csv").write_text("name,colour\na,red\n")
    done = RUNNER.invoke(app, [*asked, "--events", str(folder), "--out", str(tmp_path / "out")])
    assert done.exit_code == 1
    first, truncated, wrong, *_ = said(tmp_path / "out")["inputs"]
    assert (first["name"], first["damage"]) == (f"events {whole}", None)
    assert "damaged" in truncated["damage"]
    assert "c.csv has no column for user, item, event, ts" in wrong["damage"]
    assert f"{folder / 'b.parquet'} is neither" in done.output.replace("\n", " ")
    assert table(tmp_path / "out", "training-rows")


def test_bad_rows_are_counted_by_reason(tmp_path: Path) -> None:
    log = tmp_path / "log.csv"
    log.write_text(
        "user,item,event,ts\nann,7,view,1767225600\nann,7,stare,1767225601\nann,,view,1767225602\nann,8,cart,1767225603\n"
    )
    done = RUNNER.invoke(app, ["backfill", "--events", str(log), *SPAN, "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    (read,) = said(tmp_path / "out")["inputs"]
    assert (read["rows"], sum(read["skipped"].values())) == (2, 2)
    assert "has no counterpart" in done.output


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (["--events", "nowhere.csv"], "nowhere.csv does not exist"),
        (["--to", "2025-12-31"], "is not after --from"),
        (["--from", "yesterday"], "--from yesterday: write it as 2026-11-01"),
    ],
)
def test_what_cannot_be_asked(asked: list[str], tmp_path: Path, given: list[str], sentence: str) -> None:
    done = RUNNER.invoke(app, [*asked, *given, "--out", str(tmp_path / "out")])
    assert done.exit_code == 1
    assert sentence in done.output
