"""UpdateBeliefs: what the outcomes of each item on each surface say. Thread mode, RocksDB.

Key: `<surface>|<item>`. State: one versioned blob (schemas.beliefs), which is also what goes out. It is cleared, and its record
removed, by an event-time timer once the item has had no outcome there for eight half-lives. Nothing is too late: what is old
weighs little. Floods, and users who do not allow learning, are left out by the job's SQL, which counts them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pyflink.common import Row
from pyflink.common.typeinfo import Types
from pyflink.datastream.functions import KeyedProcessFunction, RuntimeContext
from pyflink.datastream.state import ValueStateDescriptor

from schemas import topics
from schemas.beliefs import Belief, decode_belief, encode_belief
from schemas.record import TopicRecord
from udfs.logic.beliefs import IDLE_HALF_LIVES, Moment, take
from udfs.outputs import Counters, require_thread_mode, to_row

UID = "update-beliefs"
LEFT_OUT = "left-out"  # the key of what is only counted
FIELDS = ("hour", "device", "geo", "channel", "is_new", "shown", "clicked")


class UpdateBeliefs(KeyedProcessFunction):
    """Takes sums of an hour (FIELDS), calls udfs.logic.beliefs, writes state, emits."""

    def __init__(self, half_life_ms: int, namespace: str) -> None:
        self._half_life_ms, self._namespace = half_life_ms, namespace

    def open(self, runtime_context: RuntimeContext) -> None:
        require_thread_mode(UID, runtime_context)
        # Bytes travel pickled: a plain byte-array state raises when it is empty in thread mode.
        self._state = runtime_context.get_state(ValueStateDescriptor("belief", Types.PICKLED_BYTE_ARRAY()))
        self._counters = Counters(runtime_context.get_metrics_group())

    def process_element(self, value: Row, ctx: Any) -> Iterator[Row]:
        hour, device, geo, channel, is_new, shown, clicked = value
        key = ctx.get_current_key()
        if key == LEFT_OUT:
            self._counters.add("outcomes_left_out", shown + clicked)
            return
        blob = self._state.value()
        belief = decode_belief(blob) if blob else Belief()
        self._counters.add("exposures", shown)
        self._counters.add("clicks", clicked)
        take(belief, Moment(hour, device, geo, channel, bool(is_new)), shown, clicked, self._half_life_ms)
        if not belief.timer_ms:
            self._wake(belief, ctx)
        yield self._said(key, belief)

    def on_timer(self, timestamp: int, ctx: Any) -> Iterator[Row]:
        blob = self._state.value()
        if not blob:
            return
        belief = decode_belief(blob)
        if belief.at_ms + IDLE_HALF_LIVES * self._half_life_ms <= timestamp:
            self._state.clear()
            self._counters.add("beliefs_forgotten")
            record = TopicRecord(topics.BELIEFS, ctx.get_current_key().encode(), None)
            yield to_row(record, self._namespace)
            return
        self._wake(belief, ctx)
        self._state.update(encode_belief(belief))

    def _wake(self, belief: Belief, ctx: Any) -> None:
        belief.timer_ms = belief.at_ms + IDLE_HALF_LIVES * self._half_life_ms
        ctx.timer_service().register_event_time_timer(belief.timer_ms)

    def _said(self, key: str, belief: Belief) -> Row:
        blob = encode_belief(belief)
        self._state.update(blob)
        self._counters.add("beliefs")
        return to_row(TopicRecord(topics.BELIEFS, key.encode(), blob), self._namespace)
