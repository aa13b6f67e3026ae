"""Parity: what the jobs wrote against the same built again from the log, field by field.

    training-rows ──────────────────────────┐
    interactions, ranked-feed ─ backfill ───┴─ per field: how many are equal, how far off, and where they part first
    features ───────────────────────────────┐
    interactions ─ session by session ──────┤
    item-features ──────────────────────────┤
    interactions ─ counted ─────────────────┘

Of training rows is compared what was settled at `as_of_ms`: exposures shown by then, and of their outcomes the kinds whose window
had closed. Session features are compared as of the event that they name, where all of the user's events are on the log.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from schemas.features import Registry
from schemas.features_row import ItemRow, RowKey
from schemas.interaction import Interaction
from schemas.ranking import SessionFeatures
from schemas.training import KINDS, TrainingRow
from schemas.user_state import UserState
from udfs.logic.attribution import Rules
from udfs.logic.item_aggregates import LATENESS_MS
from udfs.logic.item_counts import ItemCounts, counted_under
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
        if rebuilt.served.slot is None and name in _OF_DECISIONS:
            continue  # the decision record is no longer on the log, which keeps it for a shorter time than rows
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


def compare_counts(
    written: Mapping[RowKey, ItemRow],
    read_interactions: Callable[[], Iterable[Interaction]],
    features: Registry,
    as_of_ms: int,
) -> Report:
    """The newest row of each item and context against counts of the interactions appended by `as_of_ms`.

    A row is compared as of the end of its own windows. `read_interactions` gives all there are, and is called a second time where
    something differs, to find the event. Left out: groups, which depend on what the catalogue said when, and the columns that
    reach back further than the interactions; skipped are keys that were touched after `as_of_ms`.
    """
    counts, touched, first_ms = ItemCounts(features), set[RowKey](), as_of_ms
    first_no = dict[str, int]()
    for one in sorted(read_interactions(), key=_logged):
        first_ms = min(first_ms, one.append_ms)
        first_no[one.key] = min(one.event_no, first_no.get(one.key, one.event_no))
        if one.append_ms > as_of_ms:
            touched.update(counted_under(one))
        else:
            counts.take(one)
    report, columns = Report(), features.item_columns()
    # Where the log begins with every user's first event, nothing was counted before it.
    reach_ms = math.inf if set(first_no.values()) == {1} else as_of_ms - first_ms
    compared = [place for place, column in enumerate(columns) if (column.window_ms or 0) <= reach_ms]
    for key in sorted(written.keys() | counts.keys()):
        if key.level in _GROUPS:
            continue
        if key in touched:
            report.skipped += 1
            continue
        row = written.get(key)
        if row is None:
            if any(counts.counts(key) or ()):
                report.missing.append(str(key))
            continue
        report.rows += 1
        again = counts.counts_as_of(key, row.window_end_ms)
        for place in compared:
            where = Difference(str(key), "", "", row.window_end_ms, row.counts[place], again[place])
            _note(report, columns[place].id, where)
    _name_events(report, read_interactions, features, as_of_ms)
    return report


_GROUPS = ("subcategory", "category")
_ZEROS = [0] * 1_000  # of a key that nothing is counted under; no row has so many columns


def _logged(one: Interaction) -> tuple[int, int, int]:
    return one.append_ms, one.partition, one.offset


def _name_events(
    report: Report, read_interactions: Callable[[], Iterable[Interaction]], features: Registry, as_of_ms: int
) -> None:
    """Put the event where each differing count parts: the first that this process does not count; where it counts all, the first
    that the written count has no room for."""
    by_id = {one.id: (place, one) for place, one in enumerate(features.item_columns())}
    wanted = {name: field.first for name, field in report.fields.items() if field.first is not None}
    if not wanted:
        return
    counts, counted = ItemCounts(features), dict.fromkeys(wanted, 0)
    uncounted, beyond = dict[str, Interaction](), dict[str, Interaction]()
    for one in sorted(read_interactions(), key=_logged):
        if one.append_ms > as_of_ms or one.flagged or one.append_ms - one.ts_ms > LATENESS_MS:
            continue
        keys = {str(key): key for key in counted_under(one)}
        looked_at = [
            (name, place, keys[first.key])
            for name, first in wanted.items()
            if first.key in keys
            and one.event.event_type in (column := by_id[name][1]).sources
            and one.ts_ms >= first.ts_ms - (column.window_ms or 0)
            for place in [by_id[name][0]]
        ]
        before = {key: counts.counts(key) for _, _, key in looked_at}
        counts.take(one)
        for name, place, key in looked_at:
            counted[name] += 1
            if (counts.counts(key) or _ZEROS)[place] <= (before[key] or _ZEROS)[place]:
                uncounted.setdefault(name, one)
            if counted[name] > wanted[name].written:
                beyond.setdefault(name, one)
    for name, first in wanted.items():
        found = uncounted.get(name) or beyond.get(name)
        if found is not None:
            report.fields[name].first = msgspec.structs.replace(first, event_id=found.event.event_id, ts_ms=found.ts_ms)


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


_OF_DECISIONS = ("served.slot", "served.propensity", "served.item_features_offsets")


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
