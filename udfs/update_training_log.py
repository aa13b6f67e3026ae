"""UpdateTrainingLog: joins what was shown with what came of it, per user. Thread mode, RocksDB.

Key: `u:<user>` or `s:<session>`, of `interactions`, `ranked-feed` and `rankings-log`.
State: one map, an entry per item, per list and per timer (schemas.training_state); an entry is read and written by itself, so
that a user's months of browsing cost nothing per event. It is cleared by timers, when the last window and the lateness are over.
Time: the watermark, which is made of append times; nothing is dropped for being behind it: it makes a further revision.
What cannot be joined or read goes to `training-unmatched`; all decisions are in udfs.logic.attribution.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
from pyflink.common import Row
from pyflink.common.typeinfo import Types
from pyflink.datastream.functions import KeyedProcessFunction, RuntimeContext
from pyflink.datastream.state import MapStateDescriptor

from schemas import topics
from schemas.decision import DecisionError, decode_decision
from schemas.interaction import decode_interaction
from schemas.ranking import decode_list
from schemas.record import Record, TopicRecord
from schemas.training import Unmatched, encode_row, encode_unmatched
from schemas.training_state import ListEntry, Trail, decode_list_entry, decode_trail, encode
from udfs.logic.attribution import ITEM, LIST, Effects, Rules, take_decision, take_interaction, take_list, wake
from udfs.outputs import Counters, require_thread_mode, to_row

UID = "update-training-log"
STATE = MapStateDescriptor("log", Types.STRING(), Types.PICKLED_BYTE_ARRAY())
_TIMER = "t"  # with ITEM and LIST the first letters of the map's keys; the rest of a timer's key is its time
_TOKEN_END = "\0"  # no id contains it


class UpdateTrainingLog(KeyedProcessFunction):
    """Reads state, calls udfs.logic.attribution, writes state, emits."""

    def __init__(self, rules: Rules, namespace: str) -> None:
        self._rules, self._namespace = rules, namespace

    def open(self, runtime_context: RuntimeContext) -> None:
        require_thread_mode(UID, runtime_context)
        self._map = runtime_context.get_map_state(STATE)
        self._counters = Counters(runtime_context.get_metrics_group())

    def process_element(self, value: Row, ctx: Any) -> Iterator[Row]:
        record = Record(*value)
        now_ms = ctx.timer_service().current_watermark()
        store = _MapStore(self._map, ctx)
        try:
            if record.topic == topics.INTERACTIONS:
                effects = take_interaction(decode_interaction(record.value or b""), store, now_ms, self._rules)
            elif record.topic == topics.RANKINGS_LOG:
                effects = take_decision(decode_decision(record.value or b""), store, now_ms, self._rules)
            else:
                effects = take_list(decode_list(record.value or b""), store, now_ms, self._rules)
        except (msgspec.DecodeError, UnicodeDecodeError, DecisionError):
            effects = _unreadable(record)
        yield from self._emit(effects)

    def on_timer(self, timestamp: int, ctx: Any) -> Iterator[Row]:
        store = _MapStore(self._map, ctx)
        key = ctx.get_current_key()
        for token in store.take_tokens(timestamp):
            yield from self._emit(wake(key, token, store, timestamp, self._rules))

    def _emit(self, effects: Effects) -> Iterator[Row]:
        for name, times in effects.counted:
            self._counters.add(name, times)
        for row in effects.rows:
            yield self._row(topics.TRAINING_ROWS, row.key, encode_row(row))
        for one in effects.unmatched:
            yield self._row(topics.TRAINING_UNMATCHED, one.key, encode_unmatched(one))

    def _row(self, topic: str, key: str, value: bytes) -> Row:
        return to_row(TopicRecord(topic, key.encode(), value), self._namespace)


class _MapStore:
    """udfs.logic.attribution.Store over Flink's map and timers of the current key."""

    def __init__(self, entries: Any, ctx: Any) -> None:
        self._entries, self._ctx = entries, ctx

    def trail(self, item_id: str) -> Trail | None:
        blob = self._entries.get(ITEM + item_id)
        return decode_trail(blob) if blob else None

    def put_trail(self, item_id: str, trail: Trail | None) -> None:
        self._put(ITEM + item_id, trail)

    def list_entry(self, list_id: str) -> ListEntry | None:
        blob = self._entries.get(LIST + list_id)
        return decode_list_entry(blob) if blob else None

    def put_list_entry(self, list_id: str, entry: ListEntry | None) -> None:
        self._put(LIST + list_id, entry)

    def wake_at(self, at_ms: int, token: str) -> None:
        name = f"{_TIMER}{at_ms}"
        tokens = (self._entries.get(name) or b"").decode()
        if token not in tokens.split(_TOKEN_END):
            self._entries.put(name, f"{tokens}{token}{_TOKEN_END}".encode())
        self._ctx.timer_service().register_event_time_timer(at_ms)

    def take_tokens(self, at_ms: int) -> list[str]:
        name = f"{_TIMER}{at_ms}"
        tokens = (self._entries.get(name) or b"").decode()
        self._entries.remove(name)
        return tokens.split(_TOKEN_END)[:-1]

    def _put(self, name: str, value: Trail | ListEntry | None) -> None:
        if value is None:
            self._entries.remove(name)
        else:
            self._entries.put(name, encode(value))


def _unreadable(record: Record) -> Effects:
    """Of a newer release, or somebody else's: nothing of it is kept but where it stands."""
    effects = Effects()
    place = f"{record.partition}:{record.offset}"
    effects.unmatch(Unmatched("unreadable", record.key or "", "", record.topic, "", record.append_ms, place=place))
    return effects
