"""Importing a log: columns, kinds and times; and what becomes of the real ones, where they are."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import msgspec
import pyarrow.parquet as pq
import pytest

from cli.importing import _factor, due, mapping
from client.errors import InvalidArgument
from client.importing import read_log, records
from schemas import headers
from schemas.record import Record
from schemas.user_state import UserState
from tests.fakes import DAY, NOW
from udfs.logic.records import Rules, Stamp, handle

DATA = Path(os.environ.get("RIFFLE_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data")
CSV = "user,item,ts,event,sid\nann,7,1433221969,view,1\nann,8,1433222104,cart,1\nbob,9,1433221000,buy,2\nbob,9,1433229999,stare,2\n"


def written(folder: Path, text: str = CSV, name: str = "log.csv") -> Path:
    path = folder / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return path


@pytest.mark.parametrize("name", ["log.csv", "log.csv.gz"])
def test_rows_become_events_in_order_of_time(tmp_path: Path, name: str) -> None:
    log = read_log(written(tmp_path, name=name))
    told = [(one.body["event_type"], one.body["user_id"], one.body["session_id"], one.ts_ms) for one in log.events]
    assert told == [
        ("purchase", "bob", "bob-2", 1_433_221_000_000),
        ("click", "ann", "ann-1", 1_433_221_969_000),
        ("add_to_cart", "ann", "ann-1", 1_433_222_104_000),
    ]
    assert log.skipped == {"event 'stare' has no counterpart": 1}


def test_other_names_are_found_or_given(tmp_path: Path) -> None:
    text = "visitorid,timestamp,event,itemid\n1,1433221332117,view,5\n"
    assert read_log(written(tmp_path, text)).events[0].ts_ms == 1_433_221_332_117
    text = "customer,when,what,thing\n1,1433221332117,view,5\n"
    given = {"user": "customer", "ts": "when", "event": "what", "item": "thing"}
    assert len(read_log(written(tmp_path, text), given).events) == 1


@pytest.mark.parametrize(
    ("text", "given", "sentence"),
    [
        ("a,b\n1,2\n", {}, r"no column for user, item, event, ts: name it with --column user=<one of a, b>"),
        (CSV, {"user": "nobody"}, r"--column user=nobody: on the left one of"),
        (CSV, {"wer": "user"}, r"--column wer=user"),
        ("a,b\n1\n", {}, "damaged"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_in_a_sentence(
    tmp_path: Path, text: str, given: dict[str, str], sentence: str
) -> None:
    with pytest.raises(InvalidArgument, match=sentence):
        read_log(written(tmp_path, text), given)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match=r"nothing\.csv is not there"):
        read_log(tmp_path / "nothing.csv")


def test_a_replay_keeps_the_gaps_and_ends_with_the_last_event(tmp_path: Path) -> None:
    log = read_log(written(tmp_path))
    paced = list(records(log, 10.0, NOW))
    assert [at_ms for at_ms, _ in paced] == [0, 96_900, 110_400]
    times = [msgspec.json.decode(record.value or b"")["ts_ms"] for _, record in paced]
    assert [later - times[0] for later in times] == [0, 969_000, 1_104_000]
    assert times[-1] == NOW + 110_400
    assert all(ts_ms <= NOW + at_ms for ts_ms, (at_ms, _) in zip(times, paced)), "nothing comes from the future"


def test_what_happened_long_before_is_not_late(tmp_path: Path) -> None:
    """Contract: a log of months is applied, not put aside as late."""
    text = f"user,item,ts,event\nann,7,{(NOW - 90 * DAY) // 1000},view\nann,8,{NOW // 1000},view\n"
    log = read_log(written(tmp_path, text))
    _, first = next(records(log, 1000.0, NOW))
    named = {name: value.decode() for name, value in first.headers.items()}
    record = Record(
        first.topic,
        first.key.decode(),
        first.value,
        3,
        4,
        NOW,
        named[headers.VIA],
        named[headers.PARTITION],
        named[headers.OFFSET],
        named[headers.APPEND_MS],
    )
    outcome = handle(UserState(), "u:ann", record, NOW, Stamp(1, None), Rules())
    assert ("events_applied", 1) in outcome.counted


def test_batches_are_what_is_due_together(tmp_path: Path) -> None:
    log = read_log(written(tmp_path))
    assert [len(batch) for batch in due(records(log, 1e8, NOW))] == [3]
    assert sum(len(batch) for batch in due(records(log, 5_000.0, NOW))) == 3


def test_options_that_make_no_sense_are_refused() -> None:
    assert mapping(["user=customer"]) == {"user": "customer"}
    for wrong in (["user"], ["=a"], ["user="]):
        with pytest.raises(InvalidArgument, match="write it as"):
            mapping(wrong)
    assert _factor("60x") == _factor("60") == 60.0
    for speed in ("fast", "0x", "-1", "nan"):
        with pytest.raises(InvalidArgument, match="above 0"):
            _factor(speed)


@pytest.mark.skipif(not (DATA / "retailrocket").is_dir(), reason="the RetailRocket sample is not here")
def test_retailrocket_becomes_events() -> None:
    log = read_log(DATA / "retailrocket" / "events.csv.gz")
    assert (len(log.events), log.skipped) == (97_381, {})


@pytest.mark.skipif(not (DATA / "trivago").is_dir(), reason="the trivago sample is not here")
def test_trivago_becomes_events_with_the_lists_that_were_shown(tmp_path: Path) -> None:
    pq.write_table(pq.read_table(DATA / "trivago" / "sessions.parquet").slice(0, 2_000), tmp_path / "some.parquet")
    log = read_log(tmp_path / "some.parquet")
    assert {one.body["event_type"] for one in log.events} == {"impression", "click", "search"}
    clicked = [one.body for one in log.events if one.body["event_type"] == "click" and "props" in one.body]
    shown = {(one.row, one.body["item_id"]) for one in log.events if one.body["event_type"] == "impression"}
    assert clicked
    assert all((int(body["event_id"].split("-")[1]), body["item_id"]) in shown for body in clicked)
    assert set(log.skipped) == {
        "action 'filter selection' has no counterpart",
        "action 'change of sort order' has no counterpart",
    }
