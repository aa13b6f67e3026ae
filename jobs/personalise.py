"""Events in, a ranked list per user out.

events, rank-requests, identity ─ keyed by user ─ update-user-state ─ rank-candidates ─┬─ ranked-feed, features, …
control ─ broadcast ──────────────────────────────┘      │                            └─ newest list in Redis
                                                         ├─ interactions, identity (exactly once)
                                                         └─ events-dlq, events-late, put back on events
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import NamedTuple

import msgspec
import typer
from pyflink.common.typeinfo import Types
from pyflink.datastream import DataStream, KeyedStream, OutputTag

from jobs.flink import execute, run_async, side_output
from jobs.streams import OUTPUT_TYPE, Streams
from jobs.submission import connected, environment
from models.bundle import BundleError, latest, read_manifest
from models.store import SHIPPED
from schemas import topics
from schemas.connections import Connections
from schemas.features import FeatureError, registry
from udfs.logic.item_rates import require
from udfs.logic.records import Rules
from udfs.outputs import EXACTLY_ONCE_TOPICS
from udfs.rank_candidates import UID as RANK_CANDIDATES
from udfs.rank_candidates import RankCandidates, RankSettings
from udfs.update_user_state import CONTROL_STATE, UpdateUserState
from udfs.update_user_state import UID as UPDATE_USER_STATE

NAME = "personalise"

RANKED_TOPICS = (
    topics.RANKED_FEED,
    topics.RANKED_FEED_LATEST,
    topics.RANKINGS_LOG,
    topics.RANK_RESPONSES,
    topics.FEATURES,
)
RECORDS_TOPICS = (
    topics.EVENTS_DLQ,
    topics.EVENTS_LATE,
    topics.RANK_RESPONSES,
    topics.EVENTS,  # put back under another key
    topics.RANK_REQUESTS,
    topics.RANKED_FEED_LATEST,  # without a value, of users who are forgotten
    topics.FEATURES,
)

_BYTES = Types.PRIMITIVE_ARRAY(Types.BYTE())
RECORDS = OutputTag("records", OUTPUT_TYPE)
EXACT = OutputTag("exact", OUTPUT_TYPE)


class Settings(msgspec.Struct, frozen=True):
    """What a submission decides. `state_epoch` rises with every submission: newer lists are never blocked by older ones."""

    ranking: RankSettings
    state_epoch: int
    bundle: str | None = None
    rules: Rules = Rules()
    in_flight: int = 100


class Outputs(NamedTuple):
    """What the job writes."""

    ranked: DataStream  # lists, features and answers
    records: DataStream  # dead letters, late events, records put back under another key
    exact: DataStream  # interactions and identity


def build(records: KeyedStream, control: DataStream, connections: Connections, settings: Settings) -> Outputs:
    """The job between its sources and its sinks."""
    update = UpdateUserState(
        settings.state_epoch, settings.bundle, settings.rules, RECORDS, EXACT, connections.namespace
    )
    states = (
        records.connect(control.broadcast(CONTROL_STATE))
        .process(update, _BYTES)
        .name(UPDATE_USER_STATE)
        .uid(UPDATE_USER_STATE)
    )
    rank = RankCandidates(connections, settings.ranking)
    # Threads of their own: state goes on while lists are ranked, and while a checkpoint flushes the sinks of exact records.
    ranked = run_async(states, rank, settings.in_flight, OUTPUT_TYPE).name(RANK_CANDIDATES).uid(RANK_CANDIDATES)
    ranked = ranked.start_new_chain()
    return Outputs(ranked, side_output(states, RECORDS), side_output(states, EXACT))


def main(
    brokers: str | None = typer.Option(None, help="Kafka bootstrap servers; default: RIFFLE_BROKERS."),
    redis_url: str | None = typer.Option(
        None, help="Where lists are written; default: RIFFLE_REDIS_URL. Without credentials."
    ),
    namespace: str | None = typer.Option(
        None, help="Prefix of topics, Redis keys and groups; default: RIFFLE_NAMESPACE."
    ),
    bundles: str = typer.Option("", help="Folder of model bundles, on every worker; default: the shipped ones."),
    bundle: str = typer.Option(
        "", help="Bundle version to rank with until control names another; default: the folder's LATEST."
    ),
    decisions_share: float = typer.Option(
        1.0, min=0, max=1, help="Share of the lists whose decision record holds all candidates, not only those shown."
    ),
    parallelism: int = typer.Option(0, help="Parallel subtasks; 0 takes the cluster's default."),
) -> None:
    """Submit the personalise job: `flink run -py jobs/personalise.py ...`, see the README."""
    _require_bundle(Path(bundles) if bundles else SHIPPED, bundle)
    connections = connected(brokers=brokers, redis_url=redis_url, namespace=namespace)
    try:
        require(registry())
    except FeatureError as error:
        raise typer.BadParameter(str(error)) from error
    env = environment(parallelism)
    streams = Streams(env, connections, NAME)
    settings = Settings(
        RankSettings(bundles, decisions_share=decisions_share),
        state_epoch=int(time.time()),
        bundle=bundle or None,
    )
    outputs = build(
        streams.keyed_by_user([topics.EVENTS, topics.RANK_REQUESTS, topics.IDENTITY]),
        streams.values(topics.CONTROL),
        connections,
        settings,
    )
    streams.write(outputs.ranked, "ranked", RANKED_TOPICS)
    streams.write(outputs.records, "records", RECORDS_TOPICS)
    streams.write(outputs.exact, "exact", sorted(EXACTLY_ONCE_TOPICS), exactly_once=True)
    streams.attach()
    execute(env, NAME, unhurried=[EXACT])


def _require_bundle(folder: Path, version: str) -> None:
    """Refuse a bundle that no worker could load before the job starts. A folder that only the workers have is theirs to check."""
    if folder.is_dir():
        try:
            read_manifest(folder / (version or latest(folder)))
        except BundleError as error:
            raise typer.BadParameter(str(error)) from error


if __name__ == "__main__":
    typer.run(main)
