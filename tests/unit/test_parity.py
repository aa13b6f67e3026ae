"""Parity: equal rows are equal, and a skew of one line is named with its field, its entity and its first event."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from schemas.event import Event
from schemas.interaction import Interaction, decode_interaction
from schemas.ranking import SessionFeatures
from schemas.record import Record
from schemas.training import TrainingRow
from schemas.training_state import Exposure, Labels, Outcome
from schemas.user_state import UserState
from tests.fakes import DAY, HOUR, MINUTE, NOW, SECOND, raw
from tests.unit.test_attribution import BASE, RULES, interaction, ranked, shown
from udfs.logic import attribution, parity, sessions
from udfs.logic.attribution import Rules
from udfs.logic.backfill import Logged, training_rows
from udfs.logic.parity import Report, compare, compare_sessions, edit_distance
from udfs.logic.records import Rules as Records
from udfs.logic.records import Stamp, handle
from udfs.logic.session_features import session_features
from udfs.logic.sessions import Position

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


# ── sessions ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def day(seed: int) -> tuple[list[SessionFeatures], list[Interaction]]:
    """Two users' events through the job's own decision, duplicates and late ones among them, and what it would serve after each."""
    rng = random.Random(seed)
    served, log = [], []
    for key in ("u:alice", "u:bob"):
        state, sent, at_ms = UserState(), list[bytes](), NOW
        for number in range(60):
            at_ms += rng.choice([SECOND, MINUTE, HOUR])
            ts_ms = at_ms - rng.choice([0, 0, 0, MINUTE, 2 * HOUR, 2 * DAY])
            kind = rng.choice(["click", "view", "impression", "add_to_cart", "search", "purchase"])
            value = raw(kind, f"i{rng.randrange(9)}", user_id=key[2:], ts_ms=ts_ms)
            sent.append(value if rng.random() < 0.9 or not sent else rng.choice(sent))
            one = Record("events", key, sent[-1], 3, number, at_ms)
            outcome = handle(state, key, one, at_ms, Stamp(1, None), Records())
            log += [decode_interaction(out.value or b"") for out in outcome.outputs if out.topic == "interactions"]
            served.append(session_features(key, 1, number, state, []))
    return served, log


@pytest.mark.parametrize("seed", range(5))
def test_sequences_rebuilt_from_the_log_are_those_that_were_served(seed: int) -> None:
    served, log = day(seed)
    report = compare_sessions(served, log, ())
    assert len(log) < len(served), "some are duplicates or late"
    assert (report.rows, report.share, report.skipped) == (len(log), 1.0, 0)


def test_a_skew_in_the_sequence_is_named_with_its_first_event(monkeypatch: pytest.MonkeyPatch) -> None:
    served, log = day(1)

    def shorter(state: UserState, event: Event, at: Position) -> object:
        return sessions.apply_event(state, event, at, sessions.SessionSettings(gap_ms=MINUTE // 2))

    monkeypatch.setattr(parity, "apply_event", shorter)
    report = compare_sessions(served, log, ())
    field = report.fields["session_items"]
    assert field.equal < field.compared
    assert 0 < field.worst <= 1
    assert field.first is not None
    parting = min(
        (one.ts_ms, one.event.event_id)
        for one in log
        if one.event.event_id == field.first.event_id and one.key == field.first.key
    )
    assert parting == (field.first.ts_ms, field.first.event_id)
    assert report.share < 1


def test_users_who_cannot_be_rebuilt_are_counted_and_not_compared() -> None:
    served, log = day(2)
    begun_later = [one for one in log if one.key != "u:bob" or one.event_no > 3]
    report = compare_sessions(served, begun_later, {"u:alice"})
    assert (report.rows, report.skipped) == (0, 1)


def test_edit_distance() -> None:
    assert edit_distance("kitten", "sitting") == 3
    assert edit_distance([], [1, 2]) == edit_distance([1, 2], []) == 2
    assert edit_distance([1, 2], [1, 2]) == 0
