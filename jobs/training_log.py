"""What was shown, joined with what came of it.

interactions ─┐
ranked-feed ──┼─ keyed by user ─ update-training-log ─┬─ training-rows
rankings-log ─┘                                       └─ training-unmatched     both exactly once
"""

from __future__ import annotations

import typer
from pyflink.datastream import DataStream, KeyedStream

from jobs.flink import execute
from jobs.streams import OUTPUT_TYPE, Streams
from jobs.submission import connected, environment
from schemas import topics
from udfs.logic.attribution import Rules
from udfs.update_training_log import UID as UPDATE_TRAINING_LOG
from udfs.update_training_log import UpdateTrainingLog

NAME = "training-log"
TOPICS = (topics.TRAINING_ROWS, topics.TRAINING_UNMATCHED)


def build(log: KeyedStream, namespace: str, rules: Rules) -> DataStream:
    """The job between its sources and its sink."""
    return (
        log.process(UpdateTrainingLog(rules, namespace), OUTPUT_TYPE).name(UPDATE_TRAINING_LOG).uid(UPDATE_TRAINING_LOG)
    )


def rules_from(click_s: int, dwell_s: int, cart_s: int, purchase_s: int, return_s: int) -> Rules:
    return Rules(
        click_ms=click_s * 1000,
        dwell_ms=dwell_s * 1000,
        cart_ms=cart_s * 1000,
        purchase_ms=purchase_s * 1000,
        return_ms=return_s * 1000,
    )


def main(
    brokers: str | None = typer.Option(None, help="Kafka bootstrap servers; default: RIFFLE_BROKERS."),
    namespace: str | None = typer.Option(None, help="Prefix of topics and groups; default: RIFFLE_NAMESPACE."),
    click_s: int = typer.Option(30 * 60, min=1, help="How long after an exposure a click counts."),
    dwell_s: int = typer.Option(30 * 60, min=1, help="The same for a dwell."),
    cart_s: int = typer.Option(24 * 3600, min=1, help="The same for putting into the cart."),
    purchase_s: int = typer.Option(7 * 86_400, min=1, help="The same for a purchase."),
    return_s: int = typer.Option(7 * 86_400, min=1, help="The same for a return."),
    parallelism: int = typer.Option(0, help="Parallel subtasks; 0 takes the cluster's default."),
) -> None:
    """Submit the training log: `flink run -py jobs/training_log.py ...`, as the personalise job."""
    connections = connected(brokers=brokers, namespace=namespace)
    env = environment(parallelism)
    streams = Streams(env, connections, NAME)
    rows = build(
        streams.log_by_user(topics.INTERACTIONS, topics.RANKED_FEED, topics.RANKINGS_LOG),
        connections.namespace,
        rules_from(click_s, dwell_s, cart_s, purchase_s, return_s),
    )
    streams.write(rows, "training", TOPICS, exactly_once=True)
    streams.attach()
    execute(env, NAME)


if __name__ == "__main__":
    typer.run(main)
