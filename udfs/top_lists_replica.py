"""A copy of the `top-lists` topic in each ranking worker, from which bundles make their candidates' tables (models.top_lists)."""

from __future__ import annotations

import logging
from collections.abc import Callable

import msgspec

from schemas import topics
from schemas.connections import Connections
from schemas.top_lists import TopList, decode_top_list
from udfs.replica import KeyValue, Replica

log = logging.getLogger(__name__)


class TopListsReplica(Replica):
    """A broken record is skipped and counted: the list stays what it was. `changed` is told the keys of each batch of records, once
    they are applied; it must not raise."""

    def __init__(self, connections: Connections) -> None:
        super().__init__(connections, topics.TOP_LISTS)
        self.changed: Callable[[list[str]], None] = lambda _keys: None
        self.lists: dict[str, TopList] = {}

    def __len__(self) -> int:
        return len(self.lists)

    def _apply_all(self, records: list[KeyValue]) -> None:
        touched = []
        for raw_key, value in records:
            try:
                key = (raw_key or b"").decode()
                told = None if value is None else decode_top_list(value)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                self.rejected += 1
                log.warning("top-lists replica: a record was skipped: %s", error)
                continue
            if told is None or not told.items:
                self.lists.pop(key, None)
            else:
                self.lists[key] = told
            touched.append(key)
        self.changed(list(dict.fromkeys(touched)))
