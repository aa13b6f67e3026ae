"""Parity: what the jobs wrote against the same built again from the log, field by field.

    training-rows ──────────────────────────┐
    interactions, ranked-feed ─ backfill ───┴─ per field: how many are equal, how far off, and where they part first
    features ───────────────────────────────┐
    interactions ─ session by session ──────┘

Of training rows is compared what was settled at `as_of_ms`: exposures shown by then, and of their outcomes the kinds whose window
had closed. Session features are compared as of the event that they name, where all of the user's events are on the log.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from schemas.interaction import Interaction
from schemas.ranking import SessionFeatures
from schemas.training import KINDS, TrainingRow
from schemas.user_state import UserState
from udfs.logic.attribution import Rules
from udfs.logic.session_features import session_features
from udfs.logic.sessions import Position, apply_event


class Difference(msgspec.Struct, frozen=True):
    """Where a field parts: whose it is, which item's if it is an item's, and the event: the impression, or the newest one seen."""

    key: str
    item_id: str
    event_id: str
    ts_ms: int
    written: Any
    rebuilt: Any


class FieldParity(msgspec.Struct):
    """`worst` is the largest relative error of a number, or edit distance of a sequence by its length; `first` is the earliest."""

    compared: int = 0
    equal: int = 0
    worst: float = 0.0
    first: Difference | None = None


class Report(msgspec.Struct):
    """`missing` were rebuilt but not written, `unexpected` were written but not rebuilt: impressions by event_id.

    `skipped` are users whose events are not all on the log, or into whose state another was merged.
    """

    rows: int = 0
    skipped: int = 0
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
        first = Difference(
            written.key, written.item_id, written.event_id, written.shown_ms, written=value, rebuilt=other[name]
        )
        _note(report, name, first)


def compare_sessions(
    written: Iterable[SessionFeatures], interactions: Iterable[Interaction], merged: Collection[str]
) -> Report:
    """Session features of many users against their interactions, both in the order of their topics."""
    wanted: dict[tuple[str, int], SessionFeatures] = {
        (one.key, one.freshness.event_no): one for one in written if one.key not in merged
    }
    report, states = Report(), dict[str, UserState | None]()
    skipped = {key for key, _ in wanted}
    for one in interactions:
        if one.event_no == 1:
            states[one.key] = UserState()
        state = states.get(one.key)
        if state is None or one.event_no != state.event_no + 1:
            states[one.key] = None  # the log begins in the middle of this user, or has a gap
            continue
        apply_event(state, one.event, Position(one.partition, one.offset, one.append_ms))
        features = wanted.get((one.key, one.event_no))
        if features is not None:
            skipped.discard(one.key)
            report.rows += 1
            again = session_features(one.key, features.state_epoch, features.list_no, state, [])
            for name in _SESSION_FIELDS:
                value, other = getattr(features, name), getattr(again, name)
                _note(report, name, Difference(one.key, "", one.event.event_id, one.ts_ms, value, other))
    report.skipped = len(skipped)
    return report


# `surfaces` is left out: requests and rankings, which are no interactions, add to it.
_SESSION_FIELDS = (
    "session_start_ms",
    "session_items",
    "session_actions",
    "session_ts_ms",
    "history_length",
)


def edit_distance(one: Sequence[Any], other: Sequence[Any]) -> int:
    """Insertions, deletions and replacements that make one sequence the other."""
    row = list(range(len(other) + 1))
    for at, value in enumerate(one, start=1):
        diagonal, row[0] = row[0], at
        for to, wanted in enumerate(other, start=1):
            diagonal, row[to] = row[to], min(row[to] + 1, row[to - 1] + 1, diagonal + (value != wanted))
    return row[-1]


def _note(report: Report, name: str, difference: Difference) -> None:
    """Count one comparison; keep the first that differs."""
    field = report.fields.setdefault(name, FieldParity())
    value, again = difference.written, difference.rebuilt
    field.compared += 1
    if value == again:
        field.equal += 1
        return
    if isinstance(value, list) and isinstance(again, list):
        field.worst = max(field.worst, edit_distance(value, again) / max(len(value), len(again)))
    elif isinstance(value, (int, float)) and isinstance(again, (int, float)):
        field.worst = max(field.worst, abs(value - again) / max(abs(value), abs(again)))
    if field.first is None or difference.ts_ms < field.first.ts_ms:
        field.first = difference


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
