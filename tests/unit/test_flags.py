"""Flags: a person never gets one, a flood and a bot do; and what is flagged is in no counter and no training row."""

from __future__ import annotations

import msgspec

from schemas.features import registry
from schemas.interaction import BOT, FLOOD, Interaction
from schemas.user_state import UserState, decode, encode
from tests.fakes import DAY, HOUR, MINUTE, NOW, SECOND, event
from tests.unit.test_attribution import BASE, RULES, interaction, ranked, shown
from udfs.logic.backfill import Logged, replay
from udfs.logic.flags import BOT_PER_DAY, FLOOD_MINUTES, FLOOD_PER_MINUTE
from udfs.logic.item_counts import ItemCounts
from udfs.logic.sessions import Applied, Position, apply_event


def notes(state: UserState, ts_ms: int, number: int, kind: str = "click", append_ms: int | None = None) -> list[str]:
    one = event(kind, event_id=f"e{number}", ts_ms=ts_ms)
    applied = apply_event(state, one, Position(0, number, append_ms or ts_ms))
    assert isinstance(applied, Applied)
    return [note for note in applied.notes if note in (FLOOD, BOT)]


def test_a_flood_is_flagged_from_its_first_act_too_many_for_ten_minutes() -> None:
    state = UserState()
    found = [notes(state, NOW + n * 100, n) for n in range(FLOOD_PER_MINUTE + 3)]
    assert found == [[]] * FLOOD_PER_MINUTE + [[FLOOD]] * 3
    assert notes(state, NOW + FLOOD_MINUTES * MINUTE - 1, 1_000) == [FLOOD]
    assert notes(state, NOW + FLOOD_MINUTES * MINUTE, 1_001) == []


def test_a_bot_is_flagged_for_the_rest_of_its_day() -> None:
    """One act every 15 seconds, day and night."""
    state = UserState()
    found = [notes(state, NOW + n * 15 * SECOND, n) for n in range(BOT_PER_DAY + 800)]
    assert found.index([BOT]) == BOT_PER_DAY
    of_the_day = DAY // (15 * SECOND)
    assert found[of_the_day - 1] == [BOT]
    assert found[of_the_day:] == [[]] * (len(found) - of_the_day)


def test_a_page_that_shows_much_is_no_flood() -> None:
    state = UserState()
    assert not any(notes(state, NOW + n, n, "impression") for n in range(4 * FLOOD_PER_MINUTE))


def test_a_log_that_is_played_quickly_is_no_flood() -> None:
    """Contract: the pace is that of the events, not of their sender."""
    state = UserState()
    assert not any(notes(state, NOW + n * MINUTE, n, append_ms=NOW + 12 * HOUR) for n in range(300))


def test_the_pace_is_kept_in_state() -> None:
    state = UserState()
    for n in range(FLOOD_PER_MINUTE):
        notes(state, NOW, n)
    assert notes(decode(encode(state)), NOW, 1_000) == [FLOOD]


def flagged(one: Interaction) -> Interaction:
    return msgspec.structs.replace(one, notes=["out_of_order", BOT])


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
