"""What users did in which arms of which experiments.

interactions ─┐                                           ┌─ experiment-units: totals of each unit
ranked-feed ──┴─ keyed by user ─ update-experiment-metrics ┴─ summed over 2 s ─ aggregate-arms ─ store-arm-metrics ─┐
                                                             experiment-metrics and Redis: totals of each arm ◄─────┘

All at least once: they are totals, so that twice is as once.
"""

from __future__ import annotations

import time
from typing import NamedTuple

import typer
from pyflink.common.typeinfo import Types
from pyflink.datastream import DataStream, KeyedStream, OutputTag
from pyflink.table import Schema, StreamTableEnvironment

from jobs.flink import execute, keyed_on_jvm, run_async, side_output
from jobs.streams import OUTPUT_TYPE, Streams
from jobs.submission import connected, environment
from schemas import topics
from schemas.connections import Connections
from schemas.experiment_metrics import COUNTED
from udfs.aggregate_arms import UID as AGGREGATE_ARMS
from udfs.aggregate_arms import AggregateArms
from udfs.store_arm_metrics import UID as STORE_ARM_METRICS
from udfs.store_arm_metrics import StoreArmMetrics
from udfs.update_experiment_metrics import UID as UPDATE_EXPERIMENT_METRICS
from udfs.update_experiment_metrics import UpdateExperimentMetrics

NAME = "experiments"
TOPICS = (topics.EXPERIMENT_UNITS, topics.EXPERIMENT_METRICS)

_BUNDLE_S = 2
_IN_FLIGHT = 50
_SUMMED = {
    name: ("DOUBLE", Types.DOUBLE()) if name in ("revenue", "latency_ms") else ("BIGINT", Types.LONG())
    for name in COUNTED
}
SUMS_TYPE = Types.ROW_NAMED(list(_SUMMED), [kind for _, kind in _SUMMED.values()])
DELTA_TYPE = Types.ROW_NAMED(["arm_key", *_SUMMED], [Types.STRING(), *(kind for _, kind in _SUMMED.values())])
UNITS = OutputTag("units", OUTPUT_TYPE)


class Outputs(NamedTuple):
    """What the job writes: records of TOPICS."""

    units: DataStream
    arms: DataStream


def build(tables: StreamTableEnvironment, log: KeyedStream, connections: Connections, state_epoch: int) -> Outputs:
    """The job between its sources and its sinks."""
    measure = UpdateExperimentMetrics(UNITS, connections.namespace)
    deltas = log.process(measure, DELTA_TYPE).name(UPDATE_EXPERIMENT_METRICS).uid(UPDATE_EXPERIMENT_METRICS)
    aggregate = AggregateArms(state_epoch, connections.namespace)
    arms = _summed(tables, deltas).process(aggregate, OUTPUT_TYPE).name(AGGREGATE_ARMS).uid(AGGREGATE_ARMS)
    store = StoreArmMetrics(connections)
    stored = run_async(arms, store, _IN_FLIGHT, OUTPUT_TYPE).name(STORE_ARM_METRICS).uid(STORE_ARM_METRICS)
    return Outputs(side_output(deltas, UNITS), stored)


def _summed(tables: StreamTableEnvironment, deltas: DataStream) -> KeyedStream:
    """What comes within _BUNDLE_S of the worker's clock, summed for each arm on the JVM: arms are few and hot."""
    schema = Schema.new_builder().column("arm_key", "STRING")
    for name, (kind, _) in _SUMMED.items():
        schema.column(name, kind)
    tables.create_temporary_view("arm_deltas", deltas, schema.build())
    tables.execute_sql("CREATE TEMPORARY VIEW `timed_deltas` AS SELECT *, PROCTIME() AS `at` FROM `arm_deltas`")
    sums = ", ".join(f"SUM(`{name}`) AS `{name}`" for name in _SUMMED)
    query = f"""SELECT `arm_key`, ROW({", ".join(f"`{name}`" for name in _SUMMED)}) FROM (
        SELECT `arm_key`, {sums}
        FROM TABLE(TUMBLE(TABLE `timed_deltas`, DESCRIPTOR(`at`), INTERVAL '{_BUNDLE_S}' SECOND))
        GROUP BY `window_start`, `window_end`, `arm_key`)"""
    return keyed_on_jvm(tables, tables.sql_query(query), SUMS_TYPE)


def main(
    brokers: str | None = typer.Option(None, help="Kafka bootstrap servers; default: RIFFLE_BROKERS."),
    redis_url: str | None = typer.Option(
        None, help="Where totals are written; default: RIFFLE_REDIS_URL. Without credentials."
    ),
    namespace: str | None = typer.Option(
        None, help="Prefix of topics, Redis keys and groups; default: RIFFLE_NAMESPACE."
    ),
    parallelism: int = typer.Option(0, help="Parallel subtasks; 0 takes the cluster's default."),
) -> None:
    """Submit the experiments job: `flink run -py jobs/experiments.py ...`, see docs/experiments.md."""
    connections = connected(brokers=brokers, redis_url=redis_url, namespace=namespace)
    env = environment(parallelism)
    streams = Streams(env, connections, NAME)
    log = streams.log_by_user(topics.INTERACTIONS, topics.RANKED_FEED)
    made = build(streams.tables, log, connections, int(time.time()))
    streams.write(made.units, "units", [topics.EXPERIMENT_UNITS])
    streams.write(made.arms, "arms", [topics.EXPERIMENT_METRICS])
    streams.attach()
    execute(env, NAME)


if __name__ == "__main__":
    typer.run(main)
