"""Featurise: from a user's state to the arrays of the graphs. Used by training and by serving, so that both see the same.

History is timed against an anchor that stays put for a session, so that its encoding can be cached for as long; the session
is timed against now. Elapsed hours enter as log(1 + Δh) (SPEC, formulas: token_i).
"""

from __future__ import annotations

from datetime import datetime, timezone
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from models.vocabulary import PADDING, Describe, Rows, Vocabulary
from schemas.user_state import ACTIONS, COUNTED, Sequence, UserState

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

# Versions of what this file computes: a bundle made for other ones is refused. Raise with any change that a model can see.
FEATURE_VERSIONS = {"tokens": 1, "counters": 2, "calendar": 1}

ACTION_CODES = 128  # type | dwell bucket << 4
COUNTERS = len(COUNTED) + 2
HOUR_MS = 3_600_000
_PURCHASE = ACTIONS["purchase"]
# Of a purchase that is counted but has left the sequences: they reach back so far at least, for who buys often.
_LONG_AGO_H = 90 * 24.0


class Tokens(NamedTuple):
    """A sequence as columns, oldest first. `length` is the number of real tokens: an empty sequence holds one padding token,
    because a softmax over nothing is not a number."""

    rows: Rows  # (L,)
    actions: Ints  # (L,)
    log_hours: Floats  # (L,)
    length: int


class Calendar(NamedTuple):
    """Hour of day, day of week (Monday 0), week of month (0-4); UTC."""

    hour: int
    weekday: int
    week: int


_EMPTY = Tokens(np.array([PADDING], np.int32), np.zeros(1, np.int64), np.zeros(1, np.float32), 0)


def history_anchor_ms(state: UserState, now_ms: int) -> int:
    """The moment that history is timed against: the session's start; between sessions, now floored to the hour."""
    return state.session_start_ms if state.tail.session_last_ms else now_ms - now_ms % HOUR_MS


def tokens(sequence: Sequence, anchor_ms: int, vocabulary: Vocabulary, describe: Describe | None = None) -> Tokens:
    """Columns of a sequence. What lies after the anchor (a late event, a clock that ran ahead) counts as just now."""
    if not sequence.item_ids:
        return _EMPTY
    rows = vocabulary.rows(sequence.item_ids, describe)
    actions = np.frombuffer(sequence.actions, dtype=np.uint8).astype(np.int64)
    elapsed_ms = anchor_ms - np.frombuffer(sequence.ts_ms, dtype=np.int64)
    log_hours = np.log1p(np.maximum(elapsed_ms, 0) / HOUR_MS).astype(np.float32)
    return Tokens(rows, actions, log_hours, len(rows))


def counters(state: UserState, rows: Rows, vocabulary: Vocabulary, now_ms: int) -> Floats:
    """(C, COUNTERS) what this user did with each candidate: log(1 + n) of views, clicks, carts and purchases ever, and of all
    actions in this session; log(1 + hours) since the last purchase, 0 where there was none.

    Only of items that have a row of their own: a row that stands in for many has no counter.
    """
    found = np.zeros((len(rows), COUNTERS), dtype=np.float32)
    pairs = np.frombuffer(bytes(state.nibbles), dtype=np.uint8).reshape(-1, 2)
    in_session = np.bincount(np.frombuffer(state.session_slots, dtype=np.uint8), minlength=len(pairs))
    slots = np.flatnonzero(pairs.any(axis=1) | (in_session > 0))
    names, first_item = state.ids, vocabulary.first_item
    slot_rows = vocabulary.rows([names[slot].decode() for slot in slots.tolist()])
    of_items = slot_rows >= first_item
    slots, slot_rows = slots[of_items], slot_rows[of_items]
    if not len(slots):
        return found
    low, high = pairs[slots, 0], pairs[slots, 1]
    counts = np.stack((low & 15, low >> 4, high & 15, high >> 4, in_session[slots], high >> 4), axis=1).astype(
        np.float32
    )
    for place, more in state.tail.counter_overflow.items():
        counts[slots == place // 4, place % 4] += more
    since = counts[:, -1]
    since[since > 0] = _LONG_AGO_H
    for slot, bought_ms in _last_purchases(state).items():
        since[slots == slot] = max(0, now_ms - bought_ms) / HOUR_MS
    order = np.argsort(slot_rows)
    slot_rows, counts = slot_rows[order], counts[order]
    places = np.minimum(np.searchsorted(slot_rows, rows), len(slot_rows) - 1)
    hits = np.flatnonzero(slot_rows[places] == rows)
    found[hits] = np.log1p(counts[places[hits]])
    return found


def _last_purchases(state: UserState) -> dict[int, int]:
    """When each slot was last bought, in ms, as far as the sequences reach."""
    bought: dict[int, int] = {}
    for place in _purchases(state.history_actions):
        bought[state.history_slots[place]] = state.history_ts[place] * 1000
    for place in _purchases(state.session_actions):
        bought[state.session_slots[place]] = state.session_start_ms + state.session_ts[place]
    return bought


def _purchases(actions: bytearray) -> list[int]:
    places: list[int] = np.flatnonzero(np.frombuffer(actions, dtype=np.uint8) & 15 == _PURCHASE).tolist()
    return places


def calendar(now_ms: int) -> Calendar:
    day = datetime.fromtimestamp(now_ms / 1000, timezone.utc)
    return Calendar(day.hour, day.weekday(), (day.day - 1) // 7)
