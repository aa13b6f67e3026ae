"""Session files and clickout files: what is read, what is left out, and what is refused with which words."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from models.evaluation import clickout_features, clickout_files, session_files
from models.evaluation.session_files import Event, InvalidFile, cut, held_out, prefixes


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_sessions_are_in_order_of_time_and_unknown_items_are_left_out(tmp_path: Path) -> None:
    """Contract: lines may stand in any order; training decides which items there are."""
    train = written(tmp_path / "a.csv", "session_id,item_id,ts\nlate,b,200\nearly,b,101\nearly,a,100\nlate,a,201\n")
    test = written(tmp_path / "b.csv", "session_id,item_id,ts\nx,a,300\nx,new,301\nx,a,302\nx,b,303\ny,new,1\n")
    split = session_files.read(train, test)
    assert split.item_ids == ["a", "b"]
    assert split.training.items.tolist() == [0, 1, 1, 0]
    assert split.test.items.tolist() == [0, 0, 1]
    assert split.unknown_events == 2
    asked = prefixes(split.test)
    assert [(asked.items(row).tolist(), int(asked.targets[row])) for row in range(len(asked))] == [
        ([0], 0),
        ([0, 0], 1),
    ]


def test_without_ts_the_order_of_lines_counts(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", "session_id,item_id\n2,b\n2,a\n1,a\n1,c\n")
    split = session_files.read(path, path)
    assert [split.item_ids[item] for item in split.training.items] == ["b", "a", "a", "c"]
    assert not split.training.timed


@pytest.mark.parametrize("ts", ["1500000000", "1500000000000", "2017-07-14 02:40:00"])
def test_times_are_seconds_whatever_they_were(tmp_path: Path, ts: str) -> None:
    path = written(tmp_path / "a.csv", f"session_id,item_id,ts\n1,a,{ts}\n1,b,{ts}\n")
    assert session_files.read(path, path).training.times.tolist() == [1.5e9, 1.5e9]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("session,item_id\n1,a\n", "column session_id is missing (found: session, item_id)"),
        ("session_id,item_id\n1,a\n1,\n", "item_id is empty in line 3"),
        ("session_id,item_id,ts\n1,a,soon\n1,b,2\n", "ts holds 'soon', which is no time"),
        ("session_id,item_id,ts\n1,a,1\n1,b,\n", "ts is empty in line 3"),
        ("session_id,item_id\n", "holds no events"),
        ("session_id,item_id\n1,a\n2,b\n", "no session has two events"),
    ],
)
def test_a_bad_session_file_is_refused_by_name(tmp_path: Path, text: str, words: str) -> None:
    good = written(tmp_path / "good.csv", "session_id,item_id,ts\n1,a,1\n1,b,2\n")
    with pytest.raises(InvalidFile) as refused:
        session_files.read(written(tmp_path / "bad.csv", text), good)
    assert words in str(refused.value)


def test_files_without_an_item_in_common_are_refused(tmp_path: Path) -> None:
    one = written(tmp_path / "a.csv", "session_id,item_id\n1,a\n1,b\n")
    other = written(tmp_path / "b.csv", "session_id,item_id\n1,c\n1,d\n")
    with pytest.raises(InvalidFile, match="nothing to predict"):
        session_files.read(one, other)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidFile, match=r"nowhere\.csv: cannot be read"):
        session_files.read(tmp_path / "nowhere.csv", tmp_path / "nowhere.csv")


def test_what_is_held_out_is_newest_and_holds_no_item_that_the_rest_lacks(tmp_path: Path) -> None:
    lines = [f"{session},{item},{session}" for session in range(10) for item in ("a", "b", f"own{session}")]
    path = written(tmp_path / "a.csv", "\n".join(["session_id,item_id,ts", *lines]) + "\n")
    early, late = held_out(session_files.read(path, path).training, 0.2)
    assert (len(early), len(late)) == (8, 2)
    assert late.times.min() > early.times.max()
    assert set(late.items) <= set(early.items)


def test_too_few_sessions_to_choose_settings_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", "session_id,item_id\n1,a\n1,b\n2,c\n2,d\n")
    with pytest.raises(InvalidFile, match="give more sessions, or choose --models"):
        held_out(session_files.read(path, path).training, 0.5)


def test_a_log_is_cut_by_gap_and_by_day() -> None:
    day_ms = 86_400_000
    events = [Event("u", "a", 0), Event("u", "b,c", 30 * 60_000), Event("v", "a", 5), Event("u", "a", 60 * 60_000 + 1)]
    train, test = cut([*events, Event("u", "d", 20 * day_ms)], gap_minutes=30, test_days=14)
    assert train[1:] == ["0,a,0", '0,"b,c",1800000', "1,a,5", "2,a,3600001"]
    assert test[1:] == ["3,d,1728000000"]
    with pytest.raises(InvalidFile, match="choose --days within"):
        cut(events, gap_minutes=30, test_days=14)


# ── clickouts ────────────────────────────────────────────────────────────────────────────────────────────────────────


def clickout_table(rows: list[dict], **changed: pa.Array) -> pa.Table:
    blank = dict.fromkeys((*clickout_files.COLUMNS, *clickout_files.OPTIONAL))
    table = pa.Table.from_pylist([blank | row for row in rows], schema=SCHEMA)
    for name, column in changed.items():
        table = table.set_column(table.column_names.index(name), name, column)
    return table


SCHEMA = pa.schema(
    [
        (name, pa.int64() if name in ("timestamp", "step") else pa.string())
        for name in (*clickout_files.COLUMNS, *clickout_files.OPTIONAL)
    ]
)


def action(
    session: str, step: int, kind: str, reference: str, ts: int = 0, shown: str | None = None, **more: str
) -> dict:
    at = {"user_id": "u", "session_id": session, "timestamp": ts + step, "step": step}
    return at | {"action_type": kind, "reference": reference, "impressions": shown} | more


def test_a_clickout_is_read_with_its_list(tmp_path: Path) -> None:
    """Contract: lists of fewer than two items, and clicks beside the list, are left out and counted."""
    rows = [
        action("s", 2, "clickout item", "7", shown="5|7|5|9", prices="10|20|30|x"),
        action("s", 1, "interaction item image", "9"),
        action("s", 3, "clickout item", "7", shown="7", prices="10"),
        action("s", 4, "clickout item", "8", shown="7|9", prices="1|2"),
        action("s", 5, "search for poi", "12 Main Street"),
    ]
    pq.write_table(clickout_table(rows), tmp_path / "a.parquet")
    pq.write_table(
        clickout_table([row | {"session_id": "t", "timestamp": row["timestamp"] + 86_400} for row in rows]),
        tmp_path / "b.parquet",
    )
    training, test = clickout_files.read(tmp_path / "a.parquet", tmp_path / "b.parquet")
    assert (len(training), training.left_out, len(test)) == (1, 2, 1)
    one = training.rows[0]
    assert (one.items.tolist(), one.clicked, one.at, one.last) == ([5, 7, 9], 1, 1, False)
    np.testing.assert_array_equal(one.prices, [10, 20, np.nan])
    assert training.sessions[0].items.tolist() == [9, 7, 7, 8, -1]


def test_looks_at_other_items_of_a_list_are_cases_to_train_on(tmp_path: Path) -> None:
    """Contract: from the last action that asked for a list to the next; not again the same item, nor items elsewhere."""
    kinds = (
        ("interaction item image", "5"), ("filter selection", "cheap"), ("interaction item image", "7"),
        ("interaction item info", "7"), ("interaction item image", "8"), ("clickout item", "9"),
        ("interaction item deals", "5"), ("search for item", "7"), ("interaction item image", "5"),
    )  # fmt: skip
    rows = [
        action("s", at, kind, item, shown="5|7|9" if kind == "clickout item" else None)
        for at, (kind, item) in enumerate(kinds)
    ]
    pq.write_table(clickout_table(rows), tmp_path / "a.parquet")
    pq.write_table(clickout_table([action("t", 1, "clickout item", "1", 0, "1|2")]), tmp_path / "b.parquet")
    training, _ = clickout_files.read(tmp_path / "a.parquet", tmp_path / "b.parquet")
    found = clickout_files.with_touches(training).rows
    assert [(one.at, int(one.items[one.clicked]), one.touch, one.last) for one in found] == [
        (2, 7, True, False), (5, 9, False, True), (6, 5, True, False),
    ]  # fmt: skip
    assert clickout_features.popularity(clickout_files.with_touches(training)) == clickout_features.popularity(training)


def test_one_file_as_both_is_cut_at_its_last_day(tmp_path: Path) -> None:
    rows = [action(name, 1, "clickout item", "1", ts, "1|2") for name, ts in (("a", 0), ("b", 86_398), ("c", 86_400))]
    pq.write_table(clickout_table(rows), tmp_path / "a.parquet")
    training, test = clickout_files.read(tmp_path / "a.parquet", tmp_path / "a.parquet")
    assert (len(training), len(test)) == (2, 1)


def test_a_session_in_both_files_is_refused(tmp_path: Path) -> None:
    pq.write_table(clickout_table([action("a", 1, "clickout item", "1", 0, "1|2")]), tmp_path / "a.parquet")
    pq.write_table(clickout_table([action("a", 2, "clickout item", "1", 0, "1|2")]), tmp_path / "b.parquet")
    with pytest.raises(InvalidFile, match=r"1 sessions are in .* such as session_id 'a'"):
        clickout_files.read(tmp_path / "a.parquet", tmp_path / "b.parquet")


def test_a_bad_clickout_file_is_refused_by_name(tmp_path: Path) -> None:
    good = clickout_table([action("a", 1, "clickout item", "1", 0, "1|2")])
    path = tmp_path / "a.parquet"
    for table, words in (
        (good.drop_columns(["impressions"]), "column impressions is missing"),
        (clickout_table(good.to_pylist(), timestamp=pa.array([0.5])), "column timestamp is double"),
        (clickout_table(good.to_pylist(), user_id=pa.array([None], pa.string())), "user_id is empty in row 0"),
        (clickout_table(good.to_pylist(), impressions=pa.array(["1"])), "has a list of two or more items"),
    ):
        pq.write_table(table, path)
        pq.write_table(clickout_table([action("b", 1, "clickout item", "1", 0, "1|2")]), tmp_path / "b.parquet")
        with pytest.raises(InvalidFile) as refused:
            clickout_files.read(path, tmp_path / "b.parquet")
        assert words in str(refused.value)
    path.write_text("no parquet")
    with pytest.raises(InvalidFile, match="is no parquet file"):
        clickout_files.read(path, tmp_path / "b.parquet")
