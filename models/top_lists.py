"""Top lists of the stream as rows of a bundle: what retrieval reads of `top-lists`, beside the bundle's own tables.

    item|A        ─ by strength, then what the bundle says and the stream does not ─ neighbours
    device|mobile ─ as it comes ─ popular: rows by key

strength(b) = weight(a, b) / sqrt(weight of all that b was chosen with): without it, what is chosen with everything would be
everything's nearest. A bundle's own neighbours are ordered likewise (models/statistics.py). Names that the bundle has no row for
are left out: such items are found as newcomers (models/newcomers.py).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import numpy as np

from models.bundle import Bundle
from models.vocabulary import Rows
from schemas.top_lists import TopList, list_key

_NO_ROWS = np.zeros(0, np.int32)
_SMALLEST_TOTAL = 5.0  # what was hardly chosen with anything yet is nobody's nearest


class Source(Protocol):
    """udfs.top_lists_replica: the newest list of each key."""

    lists: Mapping[str, TopList]


class StreamLists:
    """Of one bundle. Changed by one thread while others ask."""

    def __init__(self, bundle: Bundle) -> None:
        self._vocabulary, self._own = bundle.vocabulary, bundle.neighbours
        self._near: dict[int, Rows] = {}  # by row, (K,)
        self._popular: dict[str, Rows] = {}

    def update(self, keys: Iterable[str], lists: Mapping[str, TopList]) -> None:
        """These lists are as `lists` says now, or are no more."""
        for key in keys:
            kind, _, name = key.partition("|")
            told = lists.get(key)
            if kind != "item":
                if told is None:
                    self._popular.pop(key, None)
                else:
                    self._popular[key] = self._rows(told.items)
                continue
            row = self._vocabulary.row(name)
            if not self._vocabulary.is_item(row):
                continue
            if told is None:
                self._near.pop(row, None)
            else:
                near, own = self._rows(_by_strength(told, lists)), self._own[row]
                self._near[row] = np.concatenate((near, own[~np.isin(own, near)]))[: len(own)]

    def neighbours(self, rows: Rows) -> Rows:
        """(n, K) of items, the nearest first: the stream's, then the bundle's; the bundle's where the stream has none."""
        found: Rows = self._own[rows]
        for place, row in enumerate(rows.tolist()):
            near = self._near.get(row)
            if near is not None:
                found[place] = near
        return found

    def popular(self, device: str | None, geo: str | None, hour: int) -> Rows:
        """Round by round the most chosen of the device, the geo and the hour (of any day, UTC), as far as the stream knows them;
        of everything where it knows none."""
        names = (("device", device), ("geo", geo), ("hour", f"{hour % 24:02d}"))
        known = [
            found for kind, name in names if name and (found := self._popular.get(list_key(kind, name))) is not None
        ]
        if not known:
            return self._popular.get(list_key("all", ""), _NO_ROWS)
        rounds = np.zeros((max(map(len, known)), len(known)), np.int32)  # 0 is padding
        for place, rows in enumerate(known):
            rounds[: len(rows), place] = rows
        found: Rows = rounds.ravel()
        return found

    def _rows(self, names: Sequence[str]) -> Rows:
        rows = self._vocabulary.rows(names)
        return rows[rows >= self._vocabulary.first_item]


def _by_strength(told: TopList, lists: Mapping[str, TopList]) -> list[str]:
    def strength(name: str, weight: float) -> float:
        other = lists.get(list_key("item", name))
        return weight / math.sqrt(max(_SMALLEST_TOTAL, other.total if other is not None else 0.0))

    found = sorted((-strength(name, weight), name) for name, weight in zip(told.items, told.weights))
    return [name for _, name in found]
