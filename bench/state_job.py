"""The state path as a Flink job; only the operator differs: Riffle's own in thread mode (`thread`; `fill`: one that also takes
prepared users), or the same functions in process mode (`process`).

    flink run -py bench/state_job.py --mode thread --brokers ... --out-namespace run1-      (bench/state.py submits it)
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import typer
from pyflink.common import Configuration, Row
from pyflink.common.typeinfo import Types
from pyflink.datastream import DataStream, KeyedStream, StreamExecutionEnvironment
from pyflink.datastream.functions import KeyedProcessFunction, RuntimeContext
from pyflink.datastream.state import ValueStateDescriptor

from bench.filling import Fillable
from bench.session import OUT, RULES, STAMP, step
from jobs.flink import execute, side_output, use_thread_mode
from jobs.personalise import EXACT, RECORDS
from jobs.streams import OUTPUT_TYPE, Streams
from jobs.submission import MAX_PARALLELISM
from schemas import topics
from schemas.connections import Connections
from schemas.record import Record
from udfs.outputs import to_row
from udfs.update_user_state import CONTROL_STATE, UID, UpdateUserState

_BYTES = Types.PRIMITIVE_ARRAY(Types.BYTE())


class InProcessMode(KeyedProcessFunction):
    """The same functions on the same state, as PyFlink runs an operator by default."""

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace

    def open(self, runtime_context: RuntimeContext) -> None:
        self._state = runtime_context.get_state(ValueStateDescriptor("user", Types.PICKLED_BYTE_ARRAY()))

    def process_element(self, value: Row, ctx: Any) -> Iterator[Row]:
        store, outputs = step(self._state.value(), ctx.get_current_key(), Record(*value), int(time.time() * 1000))
        if store is not None:
            self._state.update(store)
        for record in outputs:
            yield to_row(record, self._namespace)


def main(mode: str = "thread", brokers: str = "", out_namespace: str = "") -> None:
    env = StreamExecutionEnvironment.get_execution_environment()
    env.set_max_parallelism(MAX_PARALLELISM)
    if mode != "process":
        use_thread_mode(env)
    else:  # bundles for throughput; jobs/flink.py makes those of our own process mode for latency
        sizes = Configuration()
        sizes.set_string("python.fn-execution.bundle.size", "1000")
        sizes.set_string("python.fn-execution.bundle.time", "1000")
        env.configure(sizes)
    group = f"state-{out_namespace}"
    source = Streams(env, Connections(brokers=brokers), group)
    sink = Streams(env, Connections(brokers=brokers, namespace=out_namespace), group)
    records = source.keyed_by_user([topics.EVENTS])
    for number, stream in enumerate(_built(records, source, mode, out_namespace)):
        sink.write(stream, f"out{number}", OUT, exactly_once=True)
    sink.attach()
    if mode == "process":
        env.execute("state-process")
    else:
        execute(env, f"state-{mode}", unhurried=[EXACT])


def _built(records: KeyedStream, source: Streams, mode: str, namespace: str) -> list[DataStream]:
    if mode == "process":
        return [records.process(InProcessMode(namespace), OUTPUT_TYPE).name(UID).uid(UID)]
    operator = Fillable if mode == "fill" else UpdateUserState
    update = operator(STAMP.state_epoch, STAMP.bundle, RULES, RECORDS, EXACT, namespace)
    control = source.values(topics.CONTROL).broadcast(CONTROL_STATE)
    states = records.connect(control).process(update, _BYTES).name(UID).uid(UID)
    return [side_output(states, RECORDS), side_output(states, EXACT)]


if __name__ == "__main__":
    typer.run(main)
