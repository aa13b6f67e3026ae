"""Parity: equal rows are equal, and a skew of one line is named with its field, its entity and its first event."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from schemas.training import TrainingRow
from schemas.training_state import Exposure, Labels, Outcome
from tests.unit.test_attribution import BASE, RULES, interaction, ranked, shown
from udfs.logic import attribution
from udfs.logic.attribution import Rules
from udfs.logic.backfill import Logged, training_rows
from udfs.logic.parity import Report, compare

END = BASE + 10_000
LOG = [
    Logged(BASE, ranked()),
    *(Logged(BASE + n, shown(f"i{n}", BASE + n, "ab"[n % 2])) for n in range(8)),
    Logged(BASE + 20, interaction("c1", "click", "a", BASE + 20, dwell_ms=7)),
    Logged(BASE + 21, interaction("c2", "click", "b", BASE + 21, source_impression_id="i1")),
    Logged(BASE + 22, interaction("p1", "purchase", "b", BASE + 22)),
]


def rows(until_ms: int = END) -> dict[str, TrainingRow]:
    return training_rows(LOG, RULES, until_ms)


def parted(report: Report) -> dict[str, str]:
    """Field -> the impression where it parts first."""
    return {name: field.first.event_id for name, field in report.fields.items() if field.first is not None}


def test_the_same_log_gives_the_same_rows() -> None:
    report = compare(rows(), rows(), END, RULES)
    assert (report.rows, report.share, parted(report)) == (8, 1.0, {})


def test_what_was_not_settled_yet_is_not_compared() -> None:
    """The job may be ahead of what was read of the log."""
    assert compare(rows(), rows(BASE + 33), BASE + 33, RULES).share == 1.0
    assert compare(rows(), {}, BASE, RULES) == Report()


def _window_one_shorter(original: Callable[..., Any]) -> Callable[..., Any]:
    def owner(outcome: Outcome, exposures: list[Exposure], window_ms: int) -> Exposure | None:
        found: Exposure | None = original(outcome, exposures, window_ms - 16)
        return found

    return owner


def _dwell_summed(original: Callable[..., Any]) -> Callable[..., Any]:
    def labels_of(exposure: Exposure, outcomes: list[Outcome], now_ms: int, rules: Rules) -> Labels:
        labels: Labels = original(exposure, outcomes, now_ms, rules)
        labels.dwell_ms *= 2
        return labels

    return labels_of


@pytest.mark.parametrize(
    ("function", "skew", "wanted"),
    [
        ("_owner", _window_one_shorter, {"click": "i1", "click_delay_ms": "i1"}),
        ("labels_of", _dwell_summed, {"dwell_ms": "i6"}),
    ],
)
def test_a_skew_is_named(
    monkeypatch: pytest.MonkeyPatch, function: str, skew: Callable[..., Any], wanted: dict[str, str]
) -> None:
    written = rows()
    monkeypatch.setattr(attribution, function, skew(getattr(attribution, function)))
    report = compare(written, rows(), END, RULES)
    assert parted(report) == wanted
    assert report.share < 1


def test_the_size_of_an_error_and_its_entity_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    written = rows()
    monkeypatch.setattr(attribution, "labels_of", _dwell_summed(attribution.labels_of))
    field = compare(written, rows(), END, RULES).fields["dwell_ms"]
    assert (field.compared, field.equal, field.worst) == (8, 7, 0.5)
    assert field.first is not None
    assert (field.first.key, field.first.item_id, field.first.written, field.first.rebuilt) == ("u:alice", "a", 7, 14)


def test_rows_on_one_side_only_count_against_it() -> None:
    some = rows()
    name, row = next(iter(some.items()))
    without = {one: other for one, other in some.items() if one != name}
    assert compare(without, some, END, RULES).missing == [row.event_id]
    assert compare(some, without, END, RULES).unexpected == [row.event_id]
    assert compare(some, without, END, RULES).share < 1


def test_what_was_served_is_compared_too() -> None:
    some = rows()
    name, row = next(iter(some.items()))
    other = some | {name: msgspec.structs.replace(row, served=msgspec.structs.replace(row.served, score=0.25))}
    assert parted(compare(some, other, END, RULES)) == {"served.score": row.event_id}
