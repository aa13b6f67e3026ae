"""Backfill: training rows of a stretch of the log, by the functions that the job calls, with dicts for its state.

    interactions ─┐
    ranked lists ─┼─ by user, in order of append time ─ attribution ─ rows
    decisions ────┘

The state of one user at a time is in memory.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from schemas.decision import Decision
from schemas.interaction import Interaction
from schemas.ranking import RankedList
from schemas.training import TrainingRow
from schemas.training_state import ListEntry, Trail
from udfs.logic.attribution import Effects, Rules, take_decision, take_interaction, take_list, wake

FOREVER_MS = 1 << 62


class Logged(NamedTuple):
    """A record of `interactions`, `ranked-feed` or `rankings-log` and when it was appended there."""

    append_ms: int
    record: Interaction | RankedList | Decision


class DictStore:
    """What attribution remembers of one user, and its timers."""

    def __init__(self) -> None:
        self.trails: dict[str, Trail] = {}
        self.lists: dict[str, ListEntry] = {}
        self.timers: list[tuple[int, str]] = []

    def trail(self, item_id: str) -> Trail | None:
        return self.trails.get(item_id)

    def put_trail(self, item_id: str, trail: Trail | None) -> None:
        if trail is None:
            self.trails.pop(item_id, None)
        else:
            self.trails[item_id] = trail

    def list_entry(self, list_id: str) -> ListEntry | None:
        return self.lists.get(list_id)

    def put_list_entry(self, list_id: str, entry: ListEntry | None) -> None:
        if entry is None:
            self.lists.pop(list_id, None)
        else:
            self.lists[list_id] = entry

    def wake_at(self, at_ms: int, token: str) -> None:
        heapq.heappush(self.timers, (at_ms, token))


def replay(records: Iterable[Logged], rules: Rules, until_ms: int = FOREVER_MS) -> Iterator[Effects]:
    """Everything that leaves for one user's records in order of append time, with the clock at `until_ms` in the end.

    Records appended after `until_ms` have not happened yet.
    """
    store, key = DictStore(), ""
    for append_ms, record in records:
        if append_ms > until_ms:
            break
        key = record.key
        yield from _advance(key, store, append_ms, rules)
        if isinstance(record, Interaction):
            yield take_interaction(record, store, append_ms, rules)
        elif isinstance(record, Decision):
            yield take_decision(record, store, append_ms, rules)
        else:
            yield take_list(record, store, append_ms, rules)
    yield from _advance(key, store, until_ms, rules)


def training_rows(records: Iterable[Logged], rules: Rules, until_ms: int = FOREVER_MS) -> dict[str, TrainingRow]:
    """The last revision of each row, by row_id, of any number of users' records in any order of users."""
    by_key: dict[str, list[Logged]] = {}
    for logged in records:
        by_key.setdefault(logged.record.key, []).append(logged)
    latest: dict[str, TrainingRow] = {}
    for of_user in by_key.values():
        of_user.sort(key=lambda logged: logged.append_ms)
        for effects in replay(of_user, rules, until_ms):
            latest |= {row.row_id: row for row in effects.rows}
    return latest


def _advance(key: str, store: DictStore, now_ms: int, rules: Rules) -> Iterator[Effects]:
    while store.timers and store.timers[0][0] <= now_ms:
        at_ms, token = heapq.heappop(store.timers)
        yield wake(key, token, store, at_ms, rules)
