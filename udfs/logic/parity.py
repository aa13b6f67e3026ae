"""Parity: rows that the job wrote against rows built again from the log, field by field.

    training-rows ──────────────────┐
    interactions, ranked-feed ─ backfill ─┴─ per field: how many are equal, how far off, and where they part first

Compared is what was settled at `as_of_ms`: exposures shown by then, and of their outcomes the kinds whose window had closed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from schemas.training import KINDS, TrainingRow
from udfs.logic.attribution import Rules


class Difference(msgspec.Struct, frozen=True):
    """Where a field parts: the row, whose it is, and the impression it is of."""

    row_id: str
    key: str
    item_id: str
    event_id: str
    shown_ms: int
    written: Any
    rebuilt: Any


class FieldParity(msgspec.Struct):
    """`worst` is the largest relative error of a number; `first` the earliest exposure that differs."""

    compared: int = 0
    equal: int = 0
    worst: float = 0.0
    first: Difference | None = None


class Report(msgspec.Struct):
    """`missing` were rebuilt but not written, `unexpected` were written but not rebuilt: impressions by event_id."""

    rows: int = 0
    fields: dict[str, FieldParity] = {}
    missing: list[str] = []
    unexpected: list[str] = []

    @property
    def share(self) -> float:
        """Of all comparisons, rows that have no counterpart included, those that were equal. 1.0 where there was none."""
        compared = sum(one.compared for one in self.fields.values()) + len(self.missing) + len(self.unexpected)
        return sum(one.equal for one in self.fields.values()) / compared if compared else 1.0


def compare(
    written: Mapping[str, TrainingRow], rebuilt: Mapping[str, TrainingRow], as_of_ms: int, rules: Rules
) -> Report:
    """Both by row_id, last revisions."""
    report = Report()
    settled_ms = as_of_ms - min(rules.windows)
    for name in sorted(
        {*written, *rebuilt},
        key=lambda one: (_either(one, written, rebuilt).shown_ms, one),
    ):
        row = _either(name, written, rebuilt)
        if row.shown_ms > settled_ms:
            continue
        if name not in written:
            report.missing.append(row.event_id)
        elif name not in rebuilt:
            report.unexpected.append(row.event_id)
        else:
            report.rows += 1
            _compare_row(report, written[name], rebuilt[name], as_of_ms, rules)
    return report


def _compare_row(report: Report, written: TrainingRow, rebuilt: TrainingRow, as_of_ms: int, rules: Rules) -> None:
    other = dict(_fields(rebuilt, as_of_ms, rules))
    for name, value in _fields(written, as_of_ms, rules):
        field = report.fields.setdefault(name, FieldParity())
        field.compared += 1
        again = other[name]
        if value == again:
            field.equal += 1
            continue
        if isinstance(value, (int, float)) and isinstance(again, (int, float)):
            field.worst = max(field.worst, abs(value - again) / max(abs(value), abs(again)))
        if field.first is None:
            field.first = Difference(
                written.row_id, written.key, written.item_id, written.event_id, written.shown_ms, value, again
            )


def _fields(row: TrainingRow, as_of_ms: int, rules: Rules) -> Iterator[tuple[str, Any]]:
    for name in ("key", "event_id", "event_no", "item_id", "surface", "shown_ms", "position"):
        yield name, getattr(row, name)
    for name, value in msgspec.structs.asdict(row.served).items():
        yield f"served.{name}", value
    for kind, window_ms in zip(KINDS, rules.windows):
        if row.shown_ms + window_ms <= as_of_ms:
            yield kind, row.label(kind)
            yield f"{kind}_delay_ms", row.delay_ms.get(kind)
    if row.shown_ms + rules.dwell_ms <= as_of_ms:
        yield "dwell_ms", row.dwell_ms


def _either(name: str, written: Mapping[str, TrainingRow], rebuilt: Mapping[str, TrainingRow]) -> TrainingRow:
    return written[name] if name in written else rebuilt[name]
