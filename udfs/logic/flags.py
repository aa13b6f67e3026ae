"""Flags: who acts as no person does. A flagged event is applied like any other; aggregates and training rows leave it out.

    flood   the session's sequence is full (50 acts) and all of it happened within FLOOD_MS

By the events' own times, as applied: a log that is played quickly is none. Impressions and scrolls are no acts and have no place in
the sequence. It needs no state of its own; who is slower than that is not seen.
"""

from __future__ import annotations

from schemas.interaction import FLOOD
from schemas.user_state import SESSION_CAP, UserState

FLOOD_MS = 20_000


def flags(state: UserState) -> list[str]:
    """The flags of an event that has just been applied to the state."""
    times = state.session_ts
    return [FLOOD] if len(times) == SESSION_CAP and times[-1] - times[0] <= FLOOD_MS else []
