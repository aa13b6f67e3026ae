"""Past: the jobs' functions over a log in order of time, in one process: what would have been known, made and written when.

    events ─ records.handle ─┬─ interactions ─┬─ item_counts ── item rows, features of each list's items ─ Made
    (identity within)        └─ rejected      └─ attribution ── training rows, unmatched ─────────────────
    lists ──────────────────────────────────────┘
    items ─ the catalogue

The clock is the append time of the step that is taken: nothing later can be in what is made. A list's features are looked up at
its `created_ms`, before anything that was appended in the same millisecond or later. What the jobs write at their own pace
(two-second sums, checkpoints) is here as of each step. State can be dumped and restored between any two steps.
"""

from __future__ import annotations

import heapq
from collections import Counter
from typing import NamedTuple

import msgspec

from schemas import headers, topics
from schemas.features import ITEM_AGGREGATES, ITEM_RATES, Registry
from schemas.features_row import ALL, RowKey
from schemas.interaction import Interaction, decode_interaction
from schemas.items import decode_item
from schemas.keys import PARTITION_PREFIX
from schemas.ranking import RankedList, decode_list
from schemas.record import Record, TopicRecord
from schemas.training import TrainingRow, Unmatched
from schemas.training_state import ListEntry, Trail, decode_list_entry, decode_trail, encode
from schemas.user_state import decode as decode_user
from udfs.logic.attribution import Effects, Rules, take_interaction, take_list, wake
from udfs.logic.backfill import DictStore
from udfs.logic.item_aggregates import SLICE_MS
from udfs.logic.item_counts import Change, ItemCounts
from udfs.logic.item_rates import Count, rates, require, window_share
from udfs.logic.records import Rules as UserRules
from udfs.logic.records import Stamp, handle

# What a step is; those of one time are taken in this order. A list is two: looked up when made, joined when appended.
SERVED, ITEM, LIST, EVENT = "a-served", "b-item", "c-list", "d-event"

_STAMP = Stamp(0, None)
_USER_RULES = UserRules()
_UNREADABLE = "unreadable"


class Step(NamedTuple):
    """A record of the log, in the order in which it is taken."""

    at_ms: int
    kind: str
    partition: int
    offset: int
    key: str | None
    value: bytes | None


class ItemRowAt(NamedTuple):
    """A key's columns at the end of a 5-minute slice of the log's clock in which they changed."""

    as_of_ms: int
    key: RowKey
    counts: tuple[int, ...]
    subcategory: str | None
    category: str | None


class ServedFeatures(NamedTuple):
    """Features of one list's items, in the order of Past.feature_ids, as of when it was made."""

    created_ms: int
    list_id: str
    item_ids: list[str]
    values: list[list[float]]


class Refused(NamedTuple):
    """A record that became nothing, and why."""

    at_ms: int
    kind: str
    partition: int
    offset: int
    reason: str
    detail: str


class Made:
    """What came of some steps. `rows` are with the clock at which each was made."""

    __slots__ = ("counted", "item_rows", "refused", "rows", "served", "unmatched")

    def __init__(self) -> None:
        self.rows: list[tuple[int, TrainingRow]] = []
        self.unmatched: list[tuple[int, Unmatched]] = []
        self.item_rows: list[ItemRowAt] = []
        self.served: list[ServedFeatures] = []
        self.refused: list[Refused] = []
        self.counted: Counter[str] = Counter()

    def refuse(self, one: Refused) -> None:
        self.refused.append(one)
        self.counted[f"refused_{one.reason}"] += 1


class Dump(msgspec.Struct):
    """State of a Past between two steps."""

    clock_ms: int
    slice_no: int
    users: dict[str, bytes]
    counts: dict[str, bytes]
    trails: dict[str, dict[str, bytes]]
    lists: dict[str, dict[str, bytes]]
    timers: list[tuple[int, str, str]]
    changed: list[tuple[str, str]]


class Past:
    """`features` says what is counted, `rules` how long outcomes count."""

    def __init__(self, features: Registry, rules: Rules) -> None:
        require(features)
        self._rules = rules
        self._columns = [one.name for one in features.item_columns()]
        newest, computed = features.of("item", ITEM_AGGREGATES), features.of("item", ITEM_RATES)
        self._newest = [one.name for one in newest]
        self._rates = [one.name for one in computed]
        self.feature_ids = [one.id for one in (*newest, *computed)]
        self._items = ItemCounts(features)
        self._users: dict[str, bytes] = {}
        self._stores: dict[str, _UserStore] = {}
        self._timers: list[tuple[int, str, str]] = []
        self._changed: dict[RowKey, Change | None] = {}
        self._slice = 0
        self._clock_ms = 0

    @property
    def users(self) -> int:
        return len(self._users)

    def take(self, step: Step, made: Made) -> None:
        """Take the next step; steps come in their own order."""
        self.advance(step.at_ms, made)
        made.counted[step.kind[2:]] += 1
        if step.kind == EVENT:
            record = Record(topics.EVENTS, step.key, step.value, step.partition, step.offset, step.at_ms)
            self._event(record, made)
            return
        try:
            if step.kind == ITEM:
                self._items.describe(step.key or "", None if step.value is None else decode_item(step.value))
                return
            ranked = decode_list(step.value or b"")
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            made.refuse(Refused(step.at_ms, step.kind[2:], step.partition, step.offset, _UNREADABLE, str(error)))
            return
        if step.kind == SERVED:
            made.served.append(self._look_up(ranked))
        else:
            self._attributed(take_list(ranked, self._store(ranked.key), step.at_ms, self._rules), step.at_ms, made)

    def advance(self, now_ms: int, made: Made) -> None:
        """The log's clock has reached `now_ms`: windows close, slices end."""
        self._clock_ms = max(self._clock_ms, now_ms)
        while self._timers and self._timers[0][0] <= now_ms:
            at_ms, key, token = heapq.heappop(self._timers)
            self._attributed(wake(key, token, self._store(key), at_ms, self._rules), at_ms, made)
        slice_no = now_ms // SLICE_MS
        if slice_no > self._slice:
            self._end_slice(made)
            for change in self._items.advance(slice_no * SLICE_MS):
                self._changed[change.key] = change
            self._slice = slice_no

    def finish(self, until_ms: int, made: Made) -> None:
        """The log ends: nothing happens any more until `until_ms`."""
        self.advance(until_ms, made)
        self._end_slice(made)

    def dump(self) -> Dump:
        return Dump(
            self._clock_ms,
            self._slice,
            self._users,
            self._items.dump(),
            {key: {one: encode(trail) for one, trail in store.trails.items()} for key, store in self._stores.items()},
            {key: {one: encode(entry) for one, entry in store.lists.items()} for key, store in self._stores.items()},
            self._timers,
            [(key.level, key.name) for key in self._changed],
        )

    def restore(self, dumped: Dump) -> None:
        """Raises UnknownStateVersion for what another release dumped."""
        self._clock_ms, self._slice = dumped.clock_ms, dumped.slice_no
        self._users, self._timers = dumped.users, list(dumped.timers)
        self._items.restore(dumped.counts)
        for key, trails in dumped.trails.items():
            self._store(key).trails = {one: decode_trail(blob) for one, blob in trails.items()}
        for key, lists in dumped.lists.items():
            self._store(key).lists = {one: decode_list_entry(blob) for one, blob in lists.items()}
        self._changed = {RowKey(level, name): None for level, name in dumped.changed}

    def _event(self, record: Record, made: Made) -> None:
        """One event, and what users' states then say to each other: here at once, on Kafka some milliseconds later."""
        waiting = [record]
        while waiting:
            one = waiting.pop(0)
            key = one.key or f"{PARTITION_PREFIX}{one.topic}:{one.partition}"
            blob = self._users.get(key)
            outcome = handle(decode_user(blob) if blob else None, key, one, one.append_ms, _STAMP, _USER_RULES)
            if outcome.store is not None:
                self._users[key] = outcome.store
            made.counted.update(dict(outcome.counted))
            for sent in outcome.outputs:
                if sent.topic == topics.INTERACTIONS:
                    self._interaction(decode_interaction(sent.value or b""), made)
                elif sent.topic in (topics.EVENTS, topics.IDENTITY):
                    waiting.append(_again(sent, one))
                elif sent.topic in (topics.EVENTS_DLQ, topics.EVENTS_LATE):
                    reason = sent.headers[headers.REASON].decode()
                    detail = sent.headers.get(headers.DETAIL, b"").decode(errors="replace")
                    made.refuse(Refused(one.append_ms, EVENT[2:], one.partition, one.offset, reason, detail))

    def _interaction(self, one: Interaction, made: Made) -> None:
        for change in self._items.take(one):
            self._changed[change.key] = change
        effects = take_interaction(one, self._store(one.key), self._clock_ms, self._rules)
        self._attributed(effects, self._clock_ms, made)

    def _attributed(self, effects: Effects, at_ms: int, made: Made) -> None:
        made.rows += [(at_ms, row) for row in effects.rows]
        made.unmatched += [(at_ms, one) for one in effects.unmatched]
        for name, times in effects.counted:
            made.counted[name] += times

    def _look_up(self, ranked: RankedList) -> ServedFeatures:
        def named(key: RowKey) -> dict[str, Count]:
            return dict(zip(self._columns, self._items.counts(key) or [0] * len(self._columns)))

        nothing, hourly = (0,) * len(self._columns), self._columns.index("clicks_28d")
        everything = named(ALL)
        by_hour = [(self._items.counts(RowKey("hour", f"{hour:02d}")) or nothing)[hourly] for hour in range(24)]
        share = window_share(by_hour, (self._slice + 1) * SLICE_MS)
        values = []
        for one in ranked.items:
            groups = self._items.groups_of(one.item_id)
            chain = [everything, *(named(group) for group in reversed(groups)), named(RowKey("item", one.item_id))]
            computed = rates(chain, share)
            values.append(
                [float(chain[-1][name]) for name in self._newest] + [float(computed[name]) for name in self._rates]
            )
        return ServedFeatures(ranked.created_ms, ranked.list_id, [one.item_id for one in ranked.items], values)

    def _end_slice(self, made: Made) -> None:
        nothing = (0,) * len(self._columns)
        for key, change in self._changed.items():
            # A change of a dump that was restored is looked up anew: it is as it was.
            counts = change.counts if change is not None else self._items.counts(key) or nothing
            groups = change[2:4] if change is not None else self._groups(key)
            made.item_rows.append(ItemRowAt((self._slice + 1) * SLICE_MS, key, counts, *groups))
        self._changed.clear()

    def _groups(self, key: RowKey) -> tuple[str | None, str | None]:
        named = {group.level: group.name for group in self._items.groups_of(key.name)} if key.level == "item" else {}
        return named.get("subcategory"), named.get("category")

    def _store(self, key: str) -> _UserStore:
        store = self._stores.get(key)
        if store is None:
            store = self._stores[key] = _UserStore(key, self._timers)
        return store


class _UserStore(DictStore):
    """One user's part of the join; timers go to the one clock of all."""

    def __init__(self, key: str, all_timers: list[tuple[int, str, str]]) -> None:
        self.trails: dict[str, Trail] = {}
        self.lists: dict[str, ListEntry] = {}
        self._key, self._all = key, all_timers

    def wake_at(self, at_ms: int, token: str) -> None:
        heapq.heappush(self._all, (at_ms, self._key, token))


def _again(sent: TopicRecord, cause: Record) -> Record:
    """A record that one state sends to another, as it arrives there."""

    def said(name: str) -> str | None:
        return sent.headers[name].decode() if name in sent.headers else None

    return Record(
        sent.topic,
        sent.key.decode(),
        sent.value,
        cause.partition,
        cause.offset,
        cause.append_ms,
        said(headers.VIA),
        said(headers.PARTITION),
        said(headers.OFFSET),
        said(headers.APPEND_MS),
    )
