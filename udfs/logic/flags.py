"""Flags: who acts as no person does. A flagged event is applied like any other; aggregates and training rows leave it out.

    flood   more than FLOOD_PER_MINUTE acts within one minute, and what comes within FLOOD_MS after that
    bot     more than BOT_PER_DAY acts on one day (UTC), and the rest of that day

By the events' own times, as applied: a log that is played quickly is none. Impressions and scrolls are no acts: pages send them by
the dozen. Kept in `Tail.busy`: minute, acts in it, day, acts on it, when a flood's flag ends (ms).
"""

from __future__ import annotations

from schemas.event import Event
from schemas.interaction import BOT, FLOOD
from schemas.user_state import UserState

FLOOD_PER_MINUTE = 120
FLOOD_MS = 10 * 60_000
BOT_PER_DAY = 5_000

_MINUTE_MS = 60_000
_DAY_MINUTES = 24 * 60
_NO_ACTS = ("impression", "scroll")


def flag(state: UserState, event: Event, ts_ms: int) -> list[str]:
    """Count an event that has been applied; the flags it gets."""
    minute, in_minute, day, on_day, until_ms = state.tail.busy or (0, 0, 0, 0, 0)
    if event.event_type not in _NO_ACTS:
        now = ts_ms // _MINUTE_MS
        if now > minute:
            minute, in_minute = now, 0
        if now // _DAY_MINUTES > day:
            day, on_day = now // _DAY_MINUTES, 0
        # What comes late counts with what came last: it is one user's pace all the same.
        in_minute, on_day = in_minute + 1, on_day + 1
        if in_minute > FLOOD_PER_MINUTE:
            until_ms = max(until_ms, ts_ms + FLOOD_MS)
        state.tail.busy = (minute, in_minute, day, on_day, until_ms)
    found = [FLOOD] if ts_ms < until_ms else []
    return [*found, BOT] if on_day > BOT_PER_DAY and ts_ms // _MINUTE_MS // _DAY_MINUTES == day else found
