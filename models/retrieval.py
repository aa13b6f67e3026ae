"""Retrieval: candidates from tables of the bundle and of the stream, each with the source that brought it.

    repeat          what this user bought or put into the cart before
    covisited       neighbours of what the user acted on lately, the newest first: the stream's (models/top_lists.py), then
                    the bundle's
    popular_group   popular in the subcategories of the session: acted on, searched, followed
    nearest         nearest to the user's vector (models/towers.py), where the bundle has towers
    popular_here    popular now on the device, in the geo, at this hour, where the stream knows it (models/top_lists.py)
    popular         popular overall, by the bundle
    new             items that the bundle does not know yet (models/newcomers.py)

Sources are asked in this order, each up to its quota; an item belongs to the first that names it; popular fills what is left.
`new` has places of its own (models/recall.py).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from models.bundle import Bundle
from models.top_lists import StreamLists
from models.vocabulary import Rows
from schemas.user_state import UserState

SOURCES = ("repeat", "covisited", "popular_group", "nearest", "popular_here", "popular", "new")
REPEAT, COVISITED, POPULAR_GROUP, NEAREST, POPULAR_HERE, POPULAR, NEW = range(7)
LIMIT = 200

_REPEATS = 20  # quota
_SEEDS = 12  # recent tokens whose neighbours are taken
_COVISITED_SHARE, _GROUP_SHARE = 0.35, 0.4
_HERE_SHARE, _HERE_SHARE_NEW_USER = 0.05, 0.5
_GROUPS = 8  # of the latest tokens
_NO_ROWS = np.zeros(0, np.int32)

Codes = npt.NDArray[np.uint8]


class Retriever:
    """Vectorised over the tables; 0.1 ms for 200 candidates."""

    def __init__(self, bundle: Bundle) -> None:
        vocabulary = self._vocabulary = bundle.vocabulary
        self._first_item = vocabulary.first_item
        self.lists = StreamLists(bundle)
        self._popular = bundle.popular
        self._in_group = bundle.popular_in_group
        self._group = vocabulary.group_row  # whose popular items a row calls for

    def retrieve(
        self, state: UserState, limit: int = LIMIT, nearest: Rows = _NO_ROWS, here: Rows = _NO_ROWS
    ) -> tuple[Rows, Codes]:
        """At most `limit` distinct items (rows), and the place in SOURCES of what brought each. `nearest` and `here`, which is what
        is popular where the user is, are taken in their order."""
        recent = self._recent(state)
        parts = [self._repeats(state)[:_REPEATS]]
        if len(recent):
            items = recent[recent >= self._first_item][:_SEEDS]
            # Round by round: the strongest neighbour of every seed, then the second of every seed.
            around = self.lists.neighbours(items).T.ravel()
            parts.append(_distinct(around)[: int(limit * _COVISITED_SHARE)])
            groups = _distinct(self._group[recent])[:_GROUPS]
            parts.append(self._in_group[groups].T.ravel()[: int(limit * _GROUP_SHARE)])
        else:
            parts += [_NO_ROWS] * 2
        here_share = _HERE_SHARE if len(recent) else _HERE_SHARE_NEW_USER
        parts += [nearest, _distinct(here)[: int(limit * here_share)], self._popular]
        rows = np.concatenate(parts)
        sources = np.repeat(np.arange(len(parts), dtype=np.uint8), [len(part) for part in parts])
        first = _first_places(rows)[:limit]
        return rows[first], sources[first]

    def _recent(self, state: UserState) -> Rows:
        """Rows of the latest tokens, newest first, each once: the session's, then the history's."""
        slots = [*reversed(state.session_slots), *reversed(state.history_slots[-_SEEDS:])]
        ids = state.ids
        rows = self._vocabulary.rows([ids[slot].decode() for slot in dict.fromkeys(slots)])
        return rows[rows > 1]

    def _repeats(self, state: UserState) -> Rows:
        """Items bought or put into the cart, the most often first."""
        ids = state.ids
        often = [(nibble, slot) for slot, nibble in enumerate(state.nibbles[1::2]) if nibble]
        often.sort(reverse=True)
        rows = self._vocabulary.rows([ids[slot].decode() for _, slot in often])
        return rows[rows >= self._first_item]


def _first_places(rows: Rows) -> npt.NDArray[np.int64]:
    """Places at which a row stands for the first time, in order; PADDING left out."""
    if not len(rows):
        return np.zeros(0, np.int64)
    # Written from the back, so that the first place stays; no more of the table is looked at than was written.
    places = np.arange(len(rows))
    first = np.empty(int(rows.max()) + 1, np.int64)
    first[rows[::-1]] = places[::-1]
    kept: npt.NDArray[np.int64] = np.flatnonzero((first[rows] == places) & (rows > 0))
    return kept


def _distinct(rows: Rows) -> Rows:
    return rows[_first_places(rows)]
