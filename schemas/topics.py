"""Topics: name, partitions, retention, compaction, size limit and compression of each, in one place."""

from __future__ import annotations

import msgspec

_MIB = 1024 * 1024
_DAY_MS = 86_400_000


class TopicSpec(msgspec.Struct, frozen=True, kw_only=True):
    """`partitions` is fixed for the life of a deployment: state and numbering are keyed through it."""

    name: str
    purpose: str
    partitions: int = 8
    retention_ms: int | None = 7 * _DAY_MS
    compacted: bool = False
    max_message_bytes: int = _MIB
    compression: str = "producer"


EVENTS = "events"
RANK_REQUESTS = "rank-requests"
RANK_RESPONSES = "rank-responses"
IDENTITY = "identity"
CONTROL = "control"
ITEMS = "items"
INTERACTIONS = "interactions"
RANKED_FEED = "ranked-feed"
RANKED_FEED_LATEST = "ranked-feed-latest"
RANKINGS_LOG = "rankings-log"
FEATURES = "features"
ITEM_FEATURES = "item-features"
TOP_LISTS = "top-lists"
BELIEFS = "beliefs"
EVENTS_DLQ = "events-dlq"
EVENTS_LATE = "events-late"
TRAINING_ROWS = "training-rows"
TRAINING_UNMATCHED = "training-unmatched"
EXPERIMENT_UNITS = "experiment-units"
EXPERIMENT_METRICS = "experiment-metrics"

TOPICS: tuple[TopicSpec, ...] = (
    TopicSpec(name=EVENTS, purpose="what users do, keyed u:<user> or s:<session>"),
    TopicSpec(name=RANK_REQUESTS, purpose="rank_feed requests, keyed like events", retention_ms=_DAY_MS),
    TopicSpec(name=RANK_RESPONSES, purpose="answers, keyed by request_id", retention_ms=_DAY_MS, compression="lz4"),
    TopicSpec(name=IDENTITY, purpose="anonymous state on its way to its user, keyed by the receiver"),
    TopicSpec(name=CONTROL, purpose="what operators tell the job", partitions=1, retention_ms=None, compacted=True),
    TopicSpec(name=ITEMS, purpose="the catalogue, keyed by item_id", partitions=4, retention_ms=None, compacted=True),
    TopicSpec(name=INTERACTIONS, purpose="valid numbered events, exactly once", compression="lz4"),
    TopicSpec(name=RANKED_FEED, purpose="every ranked list, keyed user|surface", compression="lz4"),
    TopicSpec(
        name=RANKED_FEED_LATEST,
        purpose="the newest list of each user|surface",
        retention_ms=None,
        compacted=True,
        compression="lz4",
    ),
    TopicSpec(
        name=RANKINGS_LOG,
        purpose="how each list was made, keyed user|surface",
        retention_ms=_DAY_MS,
        compression="lz4",
    ),
    TopicSpec(
        name=FEATURES, purpose="session features, keyed by user", retention_ms=None, compacted=True, compression="lz4"
    ),
    TopicSpec(
        name=ITEM_FEATURES,
        purpose="counters of items, groups and contexts, keyed v<row version>|<level>|<name>",
        partitions=4,
        retention_ms=None,
        compacted=True,
        compression="lz4",
    ),
    TopicSpec(
        name=TOP_LISTS,
        purpose="what is chosen together and in a context, keyed <kind>|<name>",
        partitions=4,
        retention_ms=None,
        compacted=True,
        compression="lz4",
    ),
    TopicSpec(
        name=BELIEFS,
        purpose="what outcomes say of items, keyed surface|item",
        partitions=4,
        retention_ms=None,
        compacted=True,
        compression="lz4",
    ),
    # The dead letters must hold what the inputs may hold, and their headers.
    TopicSpec(
        name=EVENTS_DLQ,
        purpose="rejected records: original bytes, reason in the headers",
        retention_ms=30 * _DAY_MS,
        max_message_bytes=2 * _MIB,
    ),
    TopicSpec(name=EVENTS_LATE, purpose="valid events too late for user state", retention_ms=30 * _DAY_MS),
    TopicSpec(
        name=TRAINING_ROWS,
        purpose="exposures and what came of them, by revision, keyed by user",
        retention_ms=30 * _DAY_MS,
        compression="lz4",
    ),
    TopicSpec(
        name=TRAINING_UNMATCHED,
        purpose="what could not be joined: reason, ids and time",
        retention_ms=30 * _DAY_MS,
        compression="lz4",
    ),
    TopicSpec(
        name=EXPERIMENT_UNITS,
        purpose="totals of each unit in each arm, keyed experiment|arm|day|surface|segment|unit",
        retention_ms=None,
        compacted=True,
        compression="lz4",
    ),
    TopicSpec(
        name=EXPERIMENT_METRICS,
        purpose="totals of each arm, keyed experiment|arm|surface|segment",
        partitions=1,
        retention_ms=None,
        compacted=True,
        compression="lz4",
    ),
)
