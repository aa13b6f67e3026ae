"""What users did in which arms of which experiments.

interactions ─┐
ranked-feed ──┴─ keyed by user ─ update-experiment-metrics ─ experiment-units     at least once: totals, so that twice is as once
"""

from __future__ import annotations

import typer
from pyflink.datastream import DataStream, KeyedStream

from jobs.flink import execute
from jobs.streams import OUTPUT_TYPE, Streams
from jobs.submission import connected, environment
from schemas import topics
from udfs.update_experiment_metrics import UID as UPDATE_EXPERIMENT_METRICS
from udfs.update_experiment_metrics import UpdateExperimentMetrics

NAME = "experiments"
TOPICS = (topics.EXPERIMENT_UNITS,)


def build(log: KeyedStream, namespace: str) -> DataStream:
    """The job between its sources and its sink."""
    operator = UpdateExperimentMetrics(namespace)
    return log.process(operator, OUTPUT_TYPE).name(UPDATE_EXPERIMENT_METRICS).uid(UPDATE_EXPERIMENT_METRICS)


def main(
    brokers: str | None = typer.Option(None, help="Kafka bootstrap servers; default: RIFFLE_BROKERS."),
    namespace: str | None = typer.Option(None, help="Prefix of topics and groups; default: RIFFLE_NAMESPACE."),
    parallelism: int = typer.Option(0, help="Parallel subtasks; 0 takes the cluster's default."),
) -> None:
    """Submit the experiments job: `flink run -py jobs/experiments.py ...`, see docs/experiments.md."""
    connections = connected(brokers=brokers, namespace=namespace)
    env = environment(parallelism)
    streams = Streams(env, connections, NAME)
    totals = build(streams.log_by_user(), connections.namespace)
    streams.write(totals, "totals", TOPICS)
    streams.attach()
    execute(env, NAME)


if __name__ == "__main__":
    typer.run(main)
