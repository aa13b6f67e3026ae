"""Flags: a person never gets one, a flood does; and what is flagged is in no counter and no training row."""

from __future__ import annotations

import msgspec

from schemas.features import registry
from schemas.interaction import FLOOD, Interaction
from schemas.user_state import SESSION_CAP, UserState
from tests.fakes import HOUR, MINUTE, NOW, SECOND, event
from tests.unit.test_attribution import BASE, RULES, interaction, ranked, shown
from udfs.logic.backfill import Logged, replay
from udfs.logic.item_counts import ItemCounts
from udfs.logic.sessions import Applied, Position, apply_event


def notes(state: UserState, ts_ms: int, number: int, kind: str = "click", append_ms: int | None = None) -> list[str]:
    one = event(kind, event_id=f"e{number}", ts_ms=ts_ms)
    applied = apply_event(state, one, Position(0, number, append_ms or ts_ms))
    assert isinstance(applied, Applied)
    return [note for note in applied.notes if note == FLOOD]


def test_a_flood_is_flagged_from_its_fiftieth_act_until_it_slows_down() -> None:
    state = UserState()
    found = [notes(state, NOW + n * 300, n) for n in range(SESSION_CAP + 3)]
    assert found == [[]] * (SESSION_CAP - 1) + [[FLOOD]] * 4
    assert notes(state, NOW + MINUTE, 1_000) == []


def test_a_quick_person_is_no_flood() -> None:
    """An act every half second, for two minutes."""
    state = UserState()
    assert not any(notes(state, NOW + n * 500, n) for n in range(240))


def test_a_page_that_shows_much_is_no_flood() -> None:
    state = UserState()
    assert not any(notes(state, NOW + n, n, "impression") for n in range(4 * SESSION_CAP))


def test_a_log_that_is_played_quickly_is_no_flood() -> None:
    """Contract: the pace is that of the events, not of their sender."""
    state = UserState()
    assert not any(notes(state, NOW + n * SECOND, n, append_ms=NOW + 12 * HOUR) for n in range(300))


def flagged(one: Interaction) -> Interaction:
    return msgspec.structs.replace(one, notes=["out_of_order", FLOOD])


def test_what_is_flagged_is_in_no_counter() -> None:
    counts = ItemCounts(registry())
    assert counts.take(flagged(interaction("c1", "click", "a", BASE))) == []
    assert counts.take(interaction("c2", "click", "a", BASE)) != []


def test_what_is_flagged_is_in_no_training_row() -> None:
    log = [Logged(BASE, ranked()), Logged(BASE, flagged(shown("i1", BASE)))]
    log += [Logged(BASE, shown("i2", BASE, "b")), Logged(BASE + 1, flagged(interaction("c1", "click", "b", BASE + 1)))]
    effects = list(replay(log, RULES))
    rows = [row for one in effects for row in one.rows]
    assert {row.event_id for row in rows} == {"i2"}
    assert not any(row.delay_ms for row in rows)
    assert sum(times for one in effects for name, times in one.counted if name == "flagged") == 2
