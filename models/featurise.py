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
Flags = npt.NDArray[np.bool_]

# Versions of what this file computes: a bundle made for other ones is refused. Raise with any change that a model can see.
FEATURE_VERSIONS = {"tokens": 1, "counters": 2, "groups": 1, "item_counters": 1, "calendar": 1}

ACTION_CODES = 128  # type | dwell bucket << 4
COUNTERS = len(COUNTED) + 2
SESSION_GROUP = (
    "group_clicks",
    "group_long_views",
    "group_short_views",
    "group_named",
    "group_wanted",
    "group_share",
    "group_recency",
    "group_last_named",
)
HISTORY_GROUP = ("group_history", "group_history_share", "group_history_named")
GROUPS = len(SESSION_GROUP) + len(HISTORY_GROUP) + 1  # and price_gap
# Of the registry's item features, what the head reads, as logarithms: ratios, which do not grow with a shop's traffic.
ITEM_COUNTERS = ("lift_2h", "lift_28d", "subcategory_trend")
PRICE_LEVEL = 1  # column of a bundle's statics: log price within the subcategory, in standard deviations
NUMBERS = COUNTERS + GROUPS + len(ITEM_COUNTERS)  # columns of the head's `counters`, in this order
HOUR_MS = 3_600_000
_PURCHASE = ACTIONS["purchase"]
FEW_PRICES = 3.0
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


def _session_columns() -> Floats:
    """(ACTION_CODES, 6) which of the first columns of SESSION_GROUP an action counts in; the last counts all."""
    kinds, dwell = np.arange(ACTION_CODES) & 15, np.arange(ACTION_CODES) >> 4
    is_view = kinds == ACTIONS["view"]
    columns = (
        kinds == ACTIONS["click"],
        is_view & (dwell >= 4),  # from 10 s
        is_view & (dwell > 0) & (dwell < 3),  # below 5 s
        np.isin(kinds, [ACTIONS["search"], ACTIONS["follow"]]),
        np.isin(kinds, [ACTIONS["add_to_cart"], ACTIONS["purchase"], ACTIONS["like"]]),
        kinds >= 0,
    )
    return np.stack(columns, axis=1).astype(np.float32)


_SESSION_COLUMNS = _session_columns()


class Sides(NamedTuple):
    """What a sequence says of groups, and of the prices that were acted on. B sequences, G rows before the first item."""

    groups: Floats  # (B, G, features of SESSION_GROUP or HISTORY_GROUP)
    prices: Floats  # (B, 2) sum and number of the price levels of items


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
    own_rows, own = acted_on(state, vocabulary, now_ms)
    if not len(own_rows):
        return found
    places = np.minimum(np.searchsorted(own_rows, rows), len(own_rows) - 1)
    hits = np.flatnonzero(own_rows[places] == rows)
    found[hits] = own[places[hits]]
    return found


def acted_on(state: UserState, vocabulary: Vocabulary, now_ms: int) -> tuple[Rows, Floats]:
    """(A,) rows of the items this user acted on, ascending, and (A, COUNTERS) what `counters` says of them."""
    pairs = np.frombuffer(bytes(state.nibbles), dtype=np.uint8).reshape(-1, 2)
    in_session = np.bincount(np.frombuffer(state.session_slots, dtype=np.uint8), minlength=len(pairs))
    slots = np.flatnonzero(pairs.any(axis=1) | (in_session > 0))
    names, first_item = state.ids, vocabulary.first_item
    slot_rows = vocabulary.rows([names[slot].decode() for slot in slots.tolist()])
    of_items = slot_rows >= first_item
    slots, slot_rows = slots[of_items], slot_rows[of_items]
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
    return slot_rows[order], np.log1p(counts[order])


def session_sides(rows: Rows, actions: Ints, real: Flags, vocabulary: Vocabulary, price_level: Floats) -> Sides:
    """Of (B, L) tokens, oldest first, of which `real` are no padding: for each group (subcategory; category where there is none)

    log(1 + n) of clicks, of views of 10 s and more, of views below 5 s, of searches and follows that name it, of carts,
    purchases and likes; its share of the tokens; 1 / (1 + tokens since its newest); 1 where the newest search names it.
    """
    in_group, kept = _in_groups(rows, real, vocabulary), real[..., None]
    table = np.empty((len(rows), vocabulary.first_item, len(SESSION_GROUP)), np.float32)
    table[..., :6] = in_group @ (_SESSION_COLUMNS[actions] * kept)
    np.log1p(table[..., :5], out=table[..., :5])
    length = real.sum(axis=1, dtype=np.float32)[:, None]
    table[..., 5] /= np.maximum(length, 1)
    newest = (in_group * np.cumsum(real, axis=1, dtype=np.float32)[:, None]).max(
        axis=2
    )  # its place, from 1; 0 for none
    table[..., 6] = (newest > 0) / (1 + length - newest)
    is_search = real & (actions & 15 == ACTIONS["search"])
    table[..., 7] = 0
    searched = np.flatnonzero(is_search.any(axis=1))
    last = rows.shape[1] - 1 - np.argmax(is_search[searched, ::-1], axis=1)
    table[searched, vocabulary.group_row[rows[searched, last]], 7] = 1
    table[:, :2] = 0  # neither padding nor what is not known at all is a group
    return Sides(table, _prices(rows, actions, real, vocabulary, price_level))


def history_sides(rows: Rows, actions: Ints, real: Flags, vocabulary: Vocabulary, price_level: Floats) -> Sides:
    """For each group log(1 + n) of tokens, its share of the history, log(1 + n) of searches and follows that name it."""
    counted = _in_groups(rows, real, vocabulary) @ (_SESSION_COLUMNS[actions] * real[..., None])
    share = counted[..., 5] / np.maximum(real.sum(axis=1), 1)[:, None]
    table = np.stack((np.log1p(counted[..., 5]), share, np.log1p(counted[..., 3])), axis=-1).astype(np.float32)
    table[:, :2] = 0
    return Sides(table, _prices(rows, actions, real, vocabulary, price_level))


def _in_groups(rows: Rows, real: Flags, vocabulary: Vocabulary) -> Floats:
    """(B, G, L) 1 where a token is of the group."""
    groups = np.where(real, vocabulary.group_row[rows], -1)
    found: Floats = (groups[:, None, :] == np.arange(vocabulary.first_item)[:, None]).astype(np.float32)
    return found


def numbers(
    state: UserState,
    session: Tokens,
    history: Sides | None,
    rows: Rows,
    vocabulary: Vocabulary,
    price_level: Floats,
    now_ms: int,
    item_counters: Floats | None = None,
) -> Floats:
    """(C, NUMBERS) what the head is told of each candidate besides its vector. `history` is history_sides of the history;
    `item_counters` (C, ITEM_COUNTERS) are logarithms, 0 where they are not known."""
    found = np.zeros((len(rows), NUMBERS), np.float32)
    found[:, :COUNTERS] = counters(state, rows, vocabulary, now_ms)
    now = session_sides(*as_batch(session), vocabulary, price_level)
    before = history if history is not None else history_sides(*as_batch(_EMPTY), vocabulary, price_level)
    end = COUNTERS + GROUPS
    of_groups = np.concatenate((now.groups[0], before.groups[0]), axis=1)
    found[:, COUNTERS : end - 1] = of_groups.take(vocabulary.group_row.take(rows), axis=0)
    found[:, end - 1] = price_gap(now.prices[0] + before.prices[0], price_level.take(rows))
    if item_counters is not None:
        found[:, end:] = item_counters
    return found


def as_batch(found: Tokens) -> tuple[Rows, Ints, Flags]:
    """A sequence as a batch of one, for session_sides and history_sides."""
    return found.rows[None], found.actions[None], np.full((1, len(found.rows)), found.length > 0)


def price_gap(prices: Floats, level: Floats) -> Floats:
    """How far a candidate's price level is from the mean of what was acted on, less where little was: (…, 2), (…, C) -> (…, C)."""
    mean = prices[..., 0] / np.maximum(prices[..., 1], 1)
    gap: Floats = np.abs(level - mean[..., None]) * (prices[..., 1] / (prices[..., 1] + FEW_PRICES))[..., None]
    return gap


def _prices(rows: Rows, actions: Ints, real: Flags, vocabulary: Vocabulary, price_level: Floats) -> Floats:
    level = price_level[rows]
    bought = real & (rows >= vocabulary.first_item) & (level != 0) & (actions & 15 < ACTIONS["search"])
    return np.stack((np.where(bought, level, 0).sum(axis=1), bought.sum(axis=1)), axis=1).astype(np.float32)


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
