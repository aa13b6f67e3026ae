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
from schemas.user_state import COUNTED, Sequence, UserState

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

# Versions of what this file computes: a bundle made for other ones is refused. Raise with any change that a model can see.
FEATURE_VERSIONS = {"tokens": 1, "counters": 1, "calendar": 1}

ACTION_CODES = 128  # type | dwell bucket << 4
COUNTERS = len(COUNTED)
HOUR_MS = 3_600_000


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


def counters(state: UserState, rows: Rows, vocabulary: Vocabulary) -> Floats:
    """(C, COUNTERS) log(1 + n) of this user's views, clicks, carts and purchases of each candidate.

    Only of items that have a row of their own: a row that stands in for many has no counter.
    """
    found = np.zeros((len(rows), COUNTERS), dtype=np.float32)
    if not len(rows) or not any(state.nibbles):
        return found
    pairs = np.frombuffer(bytes(state.nibbles), dtype=np.uint8).reshape(-1, 2)
    slots = np.flatnonzero(pairs.any(axis=1))
    names, first_item = state.ids, vocabulary.first_item
    slot_rows = vocabulary.rows([names[slot].decode() for slot in slots.tolist()])
    of_items = slot_rows >= first_item
    slots, slot_rows = slots[of_items], slot_rows[of_items]
    if not len(slots):
        return found
    low, high = pairs[slots, 0], pairs[slots, 1]
    counts = np.stack((low & 15, low >> 4, high & 15, high >> 4), axis=1).astype(np.float32)  # (n, COUNTERS)
    for place, more in state.tail.counter_overflow.items():
        counts[slots == place // 4, place % 4] += more
    order = np.argsort(slot_rows)
    slot_rows, counts = slot_rows[order], counts[order]
    places = np.minimum(np.searchsorted(slot_rows, rows), len(slot_rows) - 1)
    hits = np.flatnonzero(slot_rows[places] == rows)
    found[hits] = np.log1p(counts[places[hits]])
    return found


def calendar(now_ms: int) -> Calendar:
    day = datetime.fromtimestamp(now_ms / 1000, timezone.utc)
    return Calendar(day.hour, day.weekday(), (day.day - 1) // 7)
