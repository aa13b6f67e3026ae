"""Prepared users: the real operator, which also takes made-up states, so that a million users need no million visits.

A record whose value begins with MARK is stored as that user's state, with the clean-up timer that every user has; any other goes
the usual way. Ids, hashes and times are random by user, as what real users leave is: they do not compress.
"""

from __future__ import annotations

import random
import time
from array import array
from collections.abc import Iterator
from typing import Any

from pyflink.common import Row

from schemas.keys import USER_PREFIX, id_hash
from schemas.record import Record
from schemas.user_state import ACTIONS, HASHES_MIN, HISTORY_CAP, SEEN_CAP, SESSION_CAP, UserState, encode
from udfs.update_user_state import UpdateUserState

MARK = b"\x01fill "
FULL, TYPICAL = "full", "typical"
_HOUR_MS = 3_600_000
_IDLE_H = 90 * 24
# ids, session, history, hashes, seen
_SHAPES = {FULL: (250, SESSION_CAP, HISTORY_CAP, HASHES_MIN, SEEN_CAP), TYPICAL: (25, 10, 20, 30, 40)}


def prepared(key: str, shape: str, now_ms: int) -> UserState:
    """A user in the middle of a session."""
    n_ids, n_session, n_history, n_hashes, n_seen = _SHAPES[shape]
    chance = random.Random(key)
    ids, codes = chance.randbytes(8 * n_ids).hex(), list(ACTIONS.values())
    state = UserState()
    state.event_no = state.list_no = n_session + n_history
    state.updated_ms, state.session_start_ms, state.history_no = now_ms, now_ms - 20 * 60_000, n_history
    state.ids = [ids[16 * slot : 16 * slot + 16].encode() for slot in range(n_ids)]
    state.nibbles = bytearray(chance.randbytes(2 * n_ids))
    state.session_slots = array("B", chance.choices(range(n_ids), k=n_session))
    state.session_actions = bytearray(chance.choices(codes, k=n_session))
    state.session_ts = array("i", sorted(chance.choices(range(20 * 60_000), k=n_session)))
    state.history_slots = array("B", chance.choices(range(n_ids), k=n_history))
    state.history_actions = bytearray(chance.choices(codes, k=n_history))
    state.history_ts = array(
        "I", sorted(now_ms // 1000 - chance.randrange(86_400, 5_000_000) for _ in range(n_history))
    )
    state.hashes.frombytes(chance.randbytes(8 * n_hashes))
    state.seen.frombytes(chance.randbytes(4 * n_seen))
    state.tail.session_last_ms = now_ms
    # Known, so that a first event does not claim it as an anonymous one: that would be dearer, and rarer among few users.
    state.tail.sessions = {id_hash(f"session-{key.removeprefix(USER_PREFIX)}"): now_ms // 1000}
    state.tail.hash_hours = [(now_ms // _HOUR_MS, n_hashes)]
    state.tail.idle_timer_h = now_ms // _HOUR_MS + _IDLE_H
    return state


class Fillable(UpdateUserState):
    def process_element(self, value: Row, ctx: Any) -> Iterator[Any]:
        record = Record(*value)
        if record.value is None or not record.value.startswith(MARK):
            yield from super().process_element(value, ctx)
            return
        state = prepared(ctx.get_current_key(), record.value[len(MARK) :].decode(), int(time.time() * 1000))
        self._state.update(encode(state))
        ctx.timer_service().register_processing_time_timer(state.tail.idle_timer_h * _HOUR_MS)
