"""Newcomers: items that the shop has added or moved since the bundle was made, found as candidates without a restart.

    record of `items` ─ known to the bundle, in its old group? ─ nothing to do
                     └ new, or in another group ─ vector ─ a row of the side table ─ searched with every list

A newcomer's vector is that of its subcategory, else of its category, else of all (SPEC R12); moved by what its content vector
says, where the bundle has learnt such a map and the record has one. It is scored by the row that stands in for it; an item that
only moved, by its own.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from models.bundle import Bundle
from models.featurise import Floats
from models.nearest import top
from models.vocabulary import Rows
from schemas.items import Item
from schemas.user_state import seen_hash

log = logging.getLogger(__name__)

AT_MOST = 50_000  # beyond, a new bundle is due: the side table is searched whole
_GONE = np.float32(-1e30)


class _Table(NamedTuple):
    """What a search sees: swapped as a whole when it grows."""

    item_ids: list[str]
    rows: Rows  # stand-ins
    hashes: npt.NDArray[np.uint32]
    vectors: Floats  # (M, W); the last column of one that is gone is _GONE


class Found(NamedTuple):
    item_ids: list[str]
    rows: Rows
    hashes: npt.NDArray[np.uint32]


class Newcomers:
    """Of one bundle. `vectors` (N, W) of its rows, groups included. Written by one thread at a time, read by any."""

    def __init__(self, bundle: Bundle, vectors: Floats) -> None:
        self._vocabulary, self._vectors = bundle.vocabulary, vectors
        self._content_weights = bundle.towers.get("content_weights")  # models/content_map.py
        self._content_means = bundle.towers.get("content_means", np.zeros((0, 0), np.float32))
        self._lock = threading.Lock()
        self._places: dict[str, int] = {}
        self._free: list[int] = []
        width = vectors.shape[1]
        self._table = _Table([], np.zeros(0, np.int32), np.zeros(0, np.uint32), np.zeros((0, width), np.float32))
        self.refused = 0  # that did not fit

    def __len__(self) -> int:
        return len(self._places)

    def update(self, changes: Iterable[tuple[str, Item | None]]) -> None:
        """Items as they are now, by id; None: gone."""
        with self._lock:
            for item_id, item in changes:
                if item is not None and self._is_news(item):
                    self._put(item)
                elif item_id in self._places:
                    self._drop(item_id)

    def search(self, query: Floats, count: int) -> Found:
        """At most `count`, the nearest first. `query` (W,) ends in 1."""
        table = self._table
        if not len(table.rows):
            return Found([], table.rows, table.hashes)
        scores = table.vectors @ query
        best = top(scores, count)
        best = best[table.vectors[best, -1] > _GONE]
        return Found([table.item_ids[place] for place in best.tolist()], table.rows[best], table.hashes[best])

    def _is_news(self, item: Item) -> bool:
        row = self._vocabulary.row(item.item_id)
        if not self._vocabulary.is_item(row):
            return True
        group = self._group(item)
        return group > 1 and group not in (self._vocabulary.subcategory_row[row], self._vocabulary.category_row[row])

    def _group(self, item: Item) -> int:
        """The row that stands for what the shop says of the item."""
        return self._vocabulary.group_of(item.subcategory, item.category)

    def _put(self, item: Item) -> None:
        place = self._places.get(item.item_id)
        if place is None:
            place = self._room()
            if place is None:
                return
            self._places[item.item_id] = place
        group, own = self._group(item), self._vocabulary.row(item.item_id)
        table = self._table
        table.item_ids[place] = item.item_id
        table.rows[place] = own if self._vocabulary.is_item(own) else group
        table.hashes[place] = seen_hash(item.item_id)
        table.vectors[place] = self._vector(item, group)

    def _vector(self, item: Item, group: int) -> Floats:
        of_group: Floats = self._vectors[group]
        weights = self._content_weights
        if not item.vector or weights is None or len(item.vector) != len(weights):
            return of_group
        return of_group + (np.array(item.vector, np.float32) - self._content_means[group]) @ weights

    def _drop(self, item_id: str) -> None:
        place = self._places.pop(item_id)
        self._table.vectors[place] = 0
        self._table.vectors[place, -1] = _GONE
        self._free.append(place)

    def _room(self) -> int | None:
        if not self._free:
            self._grow()
        if self._free:
            return self._free.pop()
        if not self.refused:
            log.warning("%d items are new to the bundle: more are found only when it is made anew", AT_MOST)
        self.refused += 1
        return None

    def _grow(self) -> None:
        table = self._table
        size = len(table.rows)
        more = min(max(256, size), AT_MOST - size)
        gone = np.zeros((more, table.vectors.shape[1]), np.float32)
        gone[:, -1] = _GONE
        self._table = _Table(
            [*table.item_ids, *[""] * more],
            np.concatenate((table.rows, np.zeros(more, np.int32))),
            np.concatenate((table.hashes, np.zeros(more, np.uint32))),
            np.concatenate((table.vectors, gone)),
        )
        self._free += range(size + more - 1, size - 1, -1)
