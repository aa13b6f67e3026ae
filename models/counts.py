"""Counts over time: what item-aggregates would have said of an item at any moment of recorded traffic.

    impressions, clicks, purchases ─ sorted by (row, time) ─ two binary searches a window ─ udfs.logic.item_rates ─ features

Windows are those of udfs/logic/item_aggregates.py, as they stand when a slice of five minutes begins: nothing of the slice that
is under way, so nothing of what is to be predicted. tests/unit/test_models_counts.py holds the two to each other.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from models.featurise import ITEM_COUNTERS
from models.vocabulary import Vocabulary
from schemas.event import Click, Impression, Purchase
from udfs.logic.item_aggregates import DAY_SLICES, DAYS, SLICE_MS, SLICES
from udfs.logic.item_rates import COUNTERS, rates

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]

KINDS = ("impressions", "clicks", "purchases")
# rates() wants the share of a day's clicks for the feature `trend`, which the head does not read.
_ANY_SHARE = 1 / 12


class Acts(NamedTuple):
    """What was counted, as columns: row of the vocabulary, place in KINDS, time."""

    rows: Array
    kinds: Array
    ts_ms: Array


def acts_of(events: Iterable[Any], vocabulary: Vocabulary) -> Acts:
    """Impressions, clicks and order lines of items that the vocabulary knows."""
    found = [(vocabulary.row(item_id), kind, ts_ms) for item_id, kind, ts_ms in _acts(events)]
    rows, kinds, ts_ms = np.array(found, np.int64).reshape(-1, 3).T
    known = rows >= vocabulary.first_item
    return Acts(rows[known].astype(np.int32), kinds[known].astype(np.uint8), ts_ms[known])


def _acts(events: Iterable[Any]) -> Iterator[tuple[str, int, int]]:
    for event in events:
        if isinstance(event, Impression):
            yield event.item_id, 0, event.ts_ms
        elif isinstance(event, Click):
            yield event.item_id, 1, event.ts_ms
        elif isinstance(event, Purchase):  # a line counts once, whatever the quantity
            yield from ((line.item_id, 2, event.ts_ms) for line in event.props.items)


class CountsOverTime:
    """Of acts in any order. What was done with an item counts for its groups and for everything too."""

    def __init__(self, acts: Acts, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._start_ms = int(acts.ts_ms.min()) if len(acts.ts_ms) else 0
        self._span_ms = int(acts.ts_ms.max()) - self._start_ms + 1 if len(acts.ts_ms) else 1
        self._sorted: list[Array] = []
        levels = (acts.rows, vocabulary.subcategory_row[acts.rows], vocabulary.category_row[acts.rows], 0 * acts.rows)
        for kind in range(len(KINDS)):
            of_kind = acts.kinds == kind
            rows = np.concatenate([level[of_kind] for level in levels]).astype(np.int64)
            times = np.tile(acts.ts_ms[of_kind] - self._start_ms, len(levels))
            self._sorted.append(np.sort(rows * self._span_ms + times))

    def counters(self, now_ms: Array, rows: Array) -> dict[str, npt.NDArray[np.float64]]:
        """Each of item_rates.COUNTERS, of rows at moments: arrays that broadcast. Row 0 is everything."""
        slice_no = np.asarray(now_ms) // SLICE_MS
        newest_ms = slice_no * SLICE_MS
        first_ms = {
            "2h": (slice_no - SLICES + 1) * SLICE_MS,
            "28d": (slice_no // DAY_SLICES - DAYS + 1) * DAY_SLICES * SLICE_MS,
        }
        found = {}
        for name in COUNTERS:
            kind, window = name.rsplit("_", 1)
            place = KINDS.index(kind)
            counted = self._before(place, newest_ms, rows) - self._before(place, first_ms[window], rows)
            found[name] = counted.astype(np.float64)
        return found

    def features(self, now_ms: Array, rows: Array) -> Floats:
        """(E, C, ITEM_COUNTERS) logarithms of the registry's features: moments (E,), rows (E, C)."""
        vocabulary, size = self._vocabulary, rows.shape[1]
        at = now_ms[:, None]
        groups = np.arange(vocabulary.first_item)[None, :]
        of_groups = self.counters(at, groups)  # (E, G), everything in the first column
        of_items = self.counters(at, rows)
        lists = np.arange(len(rows))[:, None]
        is_item = rows >= vocabulary.first_item
        subcategory, category = vocabulary.subcategory_row[rows], vocabulary.category_row[rows]

        def level(places: Array, has: Array) -> dict[str, npt.NDArray[np.float64]]:
            return {name: np.where(has, counts[lists, places], 0.0).ravel() for name, counts in of_groups.items()}

        everything = {name: np.repeat(counts[:, 0], size) for name, counts in of_groups.items()}
        chain = [
            everything,
            level(category, category > 0),
            level(subcategory, subcategory > 0),
            {name: np.where(is_item, counts, 0.0).ravel() for name, counts in of_items.items()},
        ]
        computed = rates(chain, _ANY_SHARE)
        found = np.stack([computed[name] for name in ITEM_COUNTERS], axis=-1)
        return np.log(np.maximum(found, 1e-3)).astype(np.float32).reshape(*rows.shape, -1)

    def _before(self, kind: int, before_ms: Array, rows: Array) -> Array:
        """How many acts of the row lie before a moment."""
        keys = self._sorted[kind]
        start = np.asarray(rows, np.int64) * self._span_ms
        inside = np.clip(before_ms - self._start_ms, 0, self._span_ms)
        return np.searchsorted(keys, start + inside) - np.searchsorted(keys, start)
