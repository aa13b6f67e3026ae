"""Item features of a bundle's rows: a table made in the background, from which a request takes the rows of its candidates.

    copy of `item-features` ── fetch, all rows, at most once a second ──► (N, ITEM_COUNTERS) logarithms ── take ──► head

A request pays two lookups, whatever the features cost to compute; they are at most a refresh older than the copy. A row that
stands in for unknown items has the rates of its group. What is missing is the registry's default, and counted when it is taken.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from models.featurise import ITEM_COUNTERS, Floats
from models.vocabulary import Rows, Vocabulary

log = logging.getLogger(__name__)

Groups = tuple[str | None, str | None]  # subcategory, category
REFRESH_S = 1.0
_CHUNK = 4_096  # rows fetched at once: others run in between
_SMALLEST = 1e-3  # of a ratio, before its logarithm


class Fetched(NamedTuple):
    values: Floats  # (n, F)
    missing: npt.NDArray[np.bool_]  # (n, F) where the registry's default stands


class Source(Protocol):
    """udfs.item_features_replica: features of items by name. Safe to call from a thread of its own."""

    offsets: dict[int, int]

    def fetch(
        self, item_ids: Sequence[str], now_ms: int, names: Sequence[str], groups: Sequence[Groups] | None = None
    ) -> Fetched: ...


class _Version(NamedTuple):
    """What one refresh has made: swapped as a whole, so that a list sees one version."""

    values: Floats
    missing: npt.NDArray[np.bool_]
    offsets: Mapping[int, int]


class ItemFeatureTable:
    """Of one bundle. Without a source, and until the first refresh, every feature is missing."""

    def __init__(self, vocabulary: Vocabulary, source: Source | None) -> None:
        self._source, self._ids, self._groups = source, vocabulary.ids, _groups_of(vocabulary)
        shape = (vocabulary.size, len(ITEM_COUNTERS))
        self._newest = _Version(np.zeros(shape, np.float32), np.ones(shape, bool), {})
        self.taken = 0  # rows asked for
        self.nulls = np.zeros(len(ITEM_COUNTERS), np.int64)  # of those, how often each was missing

    @property
    def offsets(self) -> Mapping[int, int]:
        """Of the copy, when the table was made: the version of what a list is served."""
        return self._newest.offsets

    def take(self, rows: Rows) -> Floats:
        """(C, ITEM_COUNTERS)"""
        newest = self._newest
        self.taken += len(rows)
        self.nulls += newest.missing.take(rows, axis=0).sum(axis=0)
        found: Floats = newest.values.take(rows, axis=0)
        return found

    def forget_counts(self) -> None:
        self.taken, self.nulls = 0, np.zeros(len(ITEM_COUNTERS), np.int64)

    def refresh(self, now_ms: int) -> None:
        """Make the table anew, where the source has changed or time may have."""
        if self._source is None:
            return
        offsets = dict(self._source.offsets)
        if not offsets and not self._newest.offsets:
            return
        parts = [
            self._source.fetch(self._ids[at : at + _CHUNK], now_ms, ITEM_COUNTERS, self._groups[at : at + _CHUNK])
            for at in range(0, len(self._ids), _CHUNK)
        ]
        values = np.log(np.maximum(np.concatenate([part.values for part in parts]), _SMALLEST)).astype(np.float32)
        self._newest = _Version(values, np.concatenate([part.missing for part in parts]), offsets)


class Refresher:
    """A thread that refreshes tables, until stopped."""

    def __init__(self, tables: Callable[[], Sequence[ItemFeatureTable]]) -> None:
        self._tables, self._stopped = tables, threading.Event()
        self._thread = threading.Thread(target=self._run, name="item-features", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()

    def _run(self) -> None:
        while not self._stopped.wait(REFRESH_S):
            for table in self._tables():
                try:
                    table.refresh(int(time.time() * 1000))
                except Exception as error:  # a thread that ended would leave the features stale for ever
                    log.warning("item features were not refreshed: %s", error)


def _groups_of(vocabulary: Vocabulary) -> list[Groups]:
    """(subcategory, category) of each row, as the vocabulary knows them."""
    names = vocabulary.ids

    def name(row: Any) -> str | None:
        return names[row] if row else None

    return [
        (name(subcategory), name(category))
        for subcategory, category in zip(vocabulary.subcategory_row.tolist(), vocabulary.category_row.tolist())
    ]
