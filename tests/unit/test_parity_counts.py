"""Parity of counters: equal counts are equal, and a skew of one line is named with feature, entity and event."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from schemas.features import registry
from schemas.features_row import ItemRow, RowKey
from schemas.interaction import Interaction
from tests.fakes import HOUR, MINUTE, NOW, event
from udfs.logic import item_aggregates, item_counts
from udfs.logic.item_counts import ItemCounts
from udfs.logic.parity import Report, compare_counts

AS_OF = NOW + 4 * HOUR


def interaction(
    number: int, kind: str, item: str, ts_ms: int, append_ms: int | None = None, no: int = 1
) -> Interaction:
    props: dict[str, Any] = {"surface": "home"}
    if kind == "purchase":
        props |= {"order_id": "o", "items": [{"item_id": item}, {"item_id": "gift"}]}
    made = event(kind, None if kind == "purchase" else item, event_id=f"e{number}", ts_ms=ts_ms, props=props)
    return Interaction("u:alice", no, 1, made, ts_ms, 0, number, ts_ms if append_ms is None else append_ms)


LOG = [
    interaction(0, "click", "a", NOW),
    interaction(1, "click", "a", NOW + 90 * MINUTE, no=2),
    interaction(2, "click", "b", NOW + 90 * MINUTE, no=3),
    interaction(3, "purchase", "a", NOW + 91 * MINUTE, no=4),
    interaction(4, "click", "a", NOW + 80 * MINUTE, NOW + 92 * MINUTE, no=5),  # late, and counted
    interaction(5, "click", "a", NOW - 3 * HOUR, NOW + 93 * MINUTE, no=6),  # too late for that
    interaction(6, "click", "a", NOW + 150 * MINUTE, no=7),
]


def written(log: list[Interaction] = LOG) -> dict[RowKey, ItemRow]:
    """The newest row of each key, as the job would have left them: by the stream's functions, event by event."""
    counts, rows = ItemCounts(registry()), dict[RowKey, ItemRow]()
    for one in log:
        for change in [*counts.advance(one.ts_ms), *counts.take(one)]:
            end_ms = one.ts_ms // item_aggregates.SLICE_MS * item_aggregates.SLICE_MS + item_aggregates.SLICE_MS
            end_ms = max(end_ms, rows[change.key].window_end_ms if change.key in rows else 0)
            rows[change.key] = ItemRow(1, 1, end_ms, change.counts)
    return rows


def compared(rows: dict[RowKey, ItemRow], log: list[Interaction] = LOG, as_of_ms: int = AS_OF) -> Report:
    return compare_counts(rows, lambda: log, registry(), as_of_ms)


def parted(report: Report) -> dict[str, tuple[str, str]]:
    """Feature -> the entity and the event where it parts first."""
    return {name: (one.first.key, one.first.event_id) for name, one in report.fields.items() if one.first is not None}


def test_the_same_log_gives_the_same_counts() -> None:
    report = compared(written())
    assert (report.share, report.missing, report.unexpected) == (1.0, [], [])
    assert report.rows == len(written()) >= 7


def _no_late_ones(original: Callable[..., Any]) -> Callable[..., Any]:
    def apply(state: Any, slice_no: int, counts: Any) -> None:
        if slice_no >= state.newest:  # the injected line
            original(state, slice_no, counts)

    return apply


def test_a_changed_line_is_named_with_feature_entity_and_event(monkeypatch: pytest.MonkeyPatch) -> None:
    """Contract: whoever stops correcting windows with late events is told by the gate."""
    rows = written()
    monkeypatch.setattr(item_counts, "apply", _no_late_ones(item_counts.apply))
    report = compared(rows)
    assert report.share < 1
    found = report.fields["clicks_28d@1"].first
    assert found is not None
    # Which of its keys is named first follows from the timers of the registry's windows.
    assert found.key in {"hour|01", "all|", "item|a"}
    assert (found.event_id, found.written - found.rebuilt) == ("e4", 1)
    assert set(parted(report)) >= {"clicks_28d@1", "clicks_2h@1"}


@pytest.mark.parametrize(("place", "wanted"), [(0, "e0"), (1, "e1"), (2, "e4")])
def test_the_event_is_the_first_that_has_no_room(place: int, wanted: str) -> None:
    """The log's clicks on `a` are e0, e1, e4, e6: a row that has counted n of them parts at the one after."""
    rows, columns = written(), [one.name for one in registry().item_columns()]
    key, at = RowKey("item", "a"), columns.index("clicks_28d")
    counts = list(rows[key].counts)
    counts[at] = place
    rows[key] = rows[key]._replace(counts=tuple(counts))
    assert parted(compared(rows)) == {"clicks_28d@1": ("item|a", wanted)}


def test_a_row_that_was_never_written_is_missing() -> None:
    rows = written()
    del rows[RowKey("item", "b")]
    assert compared(rows).missing == ["item|b"]


def test_what_was_touched_since_is_not_compared() -> None:
    report = compared(written(), as_of_ms=NOW + 100 * MINUTE)
    assert report.skipped >= 3  # a, home, all …
    assert report.share == 1.0


def test_columns_that_reach_behind_the_log_are_not_compared() -> None:
    """Contract: a log that begins in the middle says nothing of 28 days."""
    middle = LOG[2:]
    report = compared(written(), middle)
    assert {name for name in report.fields if "28d" in name} == set()
    assert {name for name in report.fields if "2h" in name}
