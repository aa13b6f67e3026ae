"""A copy of the `item-features` topic in each ranking worker: counters and rates of candidates in microseconds, without Redis.

    batch of records ─ fixed parts joined, read by numpy at once ─ table (rows, columns) ─ fetch ─ (items, features)

An item's row knows its groups; an item without a row takes the groups that the caller or the catalogue says, and so their
rates. A value that is missing, or too old by the registry's time to live, is the registry's default and marked as missing.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

import numpy as np

from models.item_features import Fetched
from schemas import topics
from schemas.connections import Connections
from schemas.features import ITEM_AGGREGATES, ITEM_RATES, Feature, Registry
from schemas.features_row import ALL, LEVELS, RowCodec, RowError, RowKey
from udfs.logic.item_rates import Count, rates, require, window_share
from udfs.replica import KeyValue, Replica

log = logging.getLogger(__name__)

Groups = tuple[str | None, str | None] | None  # subcategory, category

_NOTHING = 0  # the table's first row: zeros, for what has no row


class ItemFeaturesReplica(Replica):
    """`fetch` knows the registry's item features, counters and rates, by name: models.item_features asks it."""

    def __init__(
        self, connections: Connections, registry: Registry, groups_of: Callable[[str], Groups] = lambda _: None
    ) -> None:
        super().__init__(connections, topics.ITEM_FEATURES)
        require(registry)
        self._codec = RowCodec(registry)
        self._groups_of = groups_of
        self._counters = registry.item_columns()
        newest, made = registry.of("item", ITEM_AGGREGATES), registry.of("item", ITEM_RATES)
        self._features: dict[str, Feature] = {one.name: one for one in (*newest, *made)}
        self._places = {one.name: place for place, one in enumerate(self._counters)}  # of the newest version
        self._sources = {name: self._places[name] for one in made for name in one.sources}
        self._dtype = np.dtype(
            [
                ("version", "u1"),
                ("state_epoch", "<u8"),
                ("row_no", "<u8"),
                ("window_end_ms", "<i8"),
                ("counts", "<u4", (len(self._counters),)),
            ]
        )
        assert self._dtype.itemsize == self._codec.fixed_size
        self._lock = threading.Lock()
        self._index: dict[str, dict[str, int]] = {level: {} for level in LEVELS}
        self._free: list[int] = []
        self._counts = np.zeros((1, len(self._counters)), np.uint32)
        self._groups = np.zeros((1, 2), np.int64)  # places of the row's subcategory and category
        self._has_row = np.zeros(1, bool)
        self.window_end_ms = 0  # of the newest row

    def __len__(self) -> int:
        """Keys that have a row."""
        return int(self._has_row.sum())

    def age_ms(self, now_ms: int) -> int:
        """How long ago the windows of the newest row ended; 0 within its slice, -1 before the first. Counters that do not change
        are not sent again: all of them are as old as the newest."""
        return max(0, now_ms - self.window_end_ms) if self.window_end_ms else -1

    def fetch(
        self, item_ids: Sequence[str], now_ms: int, names: Sequence[str], groups: Sequence[Groups] | None = None
    ) -> Fetched:
        """(C, F) the named features of items. `groups` says (subcategory, category) of those without a row; where it is not
        given, the catalogue does."""
        with self._lock:
            index = self._index["item"]
            places = np.array([index.get(item_id, _NOTHING) for item_id in item_ids], np.int64)
            without_row = ~self._has_row[places]
            group_places = self._groups[places]
            for number in np.flatnonzero(without_row).tolist():
                of = groups[number] if groups is not None else self._groups_of(item_ids[number])
                group_places[number] = self._places_of(of)
            everything = self._counts[self._index["all"].get(ALL.name, _NOTHING)]
            hours = [self._index["hour"].get(f"{hour:02d}", _NOTHING) for hour in range(24)]
            by_hour = self._counts[hours, self._places["clicks_28d"]].tolist()
            subcategory, category = self._counts[group_places[:, 0]], self._counts[group_places[:, 1]]
            counts = self._counts[places]
            end_ms = self.window_end_ms
        chain: list[dict[str, Count]] = [{name: int(everything[place]) for name, place in self._sources.items()}]
        for level in (category, subcategory, counts):
            chain.append({name: level[:, place].astype(np.float64) for name, place in self._sources.items()})
        computed = rates(chain, window_share(by_hour, end_ms))
        values = np.empty((len(item_ids), len(names)), np.float32)
        missing = np.zeros(values.shape, bool)
        for column, name in enumerate(names):
            one = self._features[name]
            if one.made_by == ITEM_RATES:
                values[:, column] = computed[name]
                missing[:, column] = not everything.any()
            else:
                values[:, column], missing[:, column] = counts[:, self._places[name]], without_row
            if one.ttl_ms is not None and now_ms - end_ms > one.ttl_ms:
                missing[:, column] = True
            values[missing[:, column], column] = float(one.default)
        return Fetched(values, missing)

    def _apply_all(self, records: list[KeyValue]) -> None:
        """The newest record of each key counts; rows of another version are somebody else's."""
        newest: dict[RowKey, bytes | None] = {}
        for raw_key, value in records:
            try:
                key = self._codec.row_key(raw_key)
                if key is None:
                    continue
                if value is not None:
                    self._codec.decode(value)
            except RowError as error:
                self.rejected += 1
                log.warning("item-features replica: a record was skipped: %s", error)
                continue
            newest[key] = value
        rows = {key: value for key, value in newest.items() if value is not None}
        fixed = np.frombuffer(b"".join(value[: self._codec.fixed_size] for value in rows.values()), self._dtype)
        with self._lock:
            for key in newest.keys() - rows.keys():
                self._forget(key)
            places = np.array([self._place(key) for key in rows], np.int64)
            self._counts[places] = fixed["counts"]
            self._has_row[places] = True
            for key, value in rows.items():
                if key.level == "item":
                    row = self._codec.decode(value)
                    self._groups[self._place(key)] = [
                        self._place(RowKey("subcategory", row.subcategory)) if row.subcategory else _NOTHING,
                        self._place(RowKey("category", row.category)) if row.category else _NOTHING,
                    ]
            if len(fixed):
                self.window_end_ms = max(self.window_end_ms, int(fixed["window_end_ms"].max()))

    def _places_of(self, groups: Groups) -> tuple[int, int]:
        subcategory, category = groups or (None, None)
        return (
            self._index["subcategory"].get(subcategory, _NOTHING) if subcategory else _NOTHING,
            self._index["category"].get(category, _NOTHING) if category else _NOTHING,
        )

    def _place(self, key: RowKey) -> int:
        """The key's row in the table, a new one where it has none: a group may be named before its own row comes."""
        place = self._index[key.level].get(key.name)
        if place is None:
            if not self._free:
                self._grow()
            place = self._index[key.level][key.name] = self._free.pop()
        return place

    def _forget(self, key: RowKey) -> None:
        place = self._index[key.level].get(key.name)
        if place is None:
            return
        self._counts[place], self._groups[place], self._has_row[place] = 0, _NOTHING, False
        if key.level == "item":  # rows of items may still point to a group
            del self._index[key.level][key.name]
            self._free.append(place)

    def _grow(self) -> None:
        size = len(self._counts)
        more = max(1_024, size)
        self._counts = np.concatenate((self._counts, np.zeros((more, self._counts.shape[1]), np.uint32)))
        self._groups = np.concatenate((self._groups, np.zeros((more, 2), np.int64)))
        self._has_row = np.concatenate((self._has_row, np.zeros(more, bool)))
        self._free += range(size + more - 1, size - 1, -1)
