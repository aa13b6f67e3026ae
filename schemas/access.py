"""Access: what each principal may do on Kafka and in Redis, and nothing more; the lines that grant it.

docs/security.md shows these lines, and the end-to-end test grants exactly these before it starts the job.

    job        the Flink jobs personalise, item-aggregates, experiments and beliefs: read inputs, write outputs and to Redis
    training   the job that makes training rows
    sender     services that send events
    reader     services that read lists: Redis only
    requester  services that ask for a ranking over Kafka
    catalogue  who publishes items
    tools      the `riffle` command: topics, scans, replays, rebuilds
"""

from __future__ import annotations

import msgspec

from schemas import topics
from schemas.connections import Connections

JOB, TRAINING, SENDER, READER, REQUESTER, CATALOGUE, TOOLS = (
    "job",
    "training",
    "sender",
    "reader",
    "requester",
    "catalogue",
    "tools",
)
PRINCIPALS = (JOB, TRAINING, SENDER, READER, REQUESTER, CATALOGUE, TOOLS)

TOPIC, GROUP, TRANSACTION = "topic", "group", "transactional-id"

# The jobs' names, in groups and transactional ids; jobs/*.py. They share a principal, as they share Flink's processes.
_JOB, _AGGREGATES, _EXPERIMENTS, _BELIEFS = "personalise", "item-aggregates", "experiments", "beliefs"
_TOP_LISTS = "top-lists"
_JOB_READS = (
    topics.EVENTS,
    topics.RANK_REQUESTS,
    topics.IDENTITY,
    topics.CONTROL,
    topics.ITEMS,
    topics.INTERACTIONS,
    topics.ITEM_FEATURES,
    topics.RANKED_FEED,
    topics.TOP_LISTS,
    topics.BELIEFS,
)
_JOB_WRITES = (
    topics.EVENTS,
    topics.RANK_REQUESTS,
    topics.RANK_RESPONSES,
    topics.IDENTITY,
    topics.INTERACTIONS,
    topics.RANKED_FEED,
    topics.RANKED_FEED_LATEST,
    topics.RANKINGS_LOG,
    topics.FEATURES,
    topics.ITEM_FEATURES,
    topics.EVENTS_DLQ,
    topics.EVENTS_LATE,
    topics.EXPERIMENT_UNITS,
    topics.EXPERIMENT_METRICS,
    topics.TOP_LISTS,
    topics.BELIEFS,
)

# The same of jobs/training_log.py.
_TRAINING = "training-log"
_TRAINING_READS = (topics.INTERACTIONS, topics.RANKED_FEED, topics.RANKINGS_LOG)
_TRAINING_WRITES = (topics.TRAINING_ROWS, topics.TRAINING_UNMATCHED)


class Grant(msgspec.Struct, frozen=True, kw_only=True):
    """Operations on one thing on Kafka. `prefixed`: on everything whose name begins so."""

    kind: str
    name: str
    operations: tuple[str, ...]
    prefixed: bool = False


def kafka_grants(principal: str, namespace: str) -> list[Grant]:
    """READ and WRITE include DESCRIBE. The topics' names carry the namespace."""
    where = Connections(namespace=namespace)

    def on(names: tuple[str, ...], *operations: str) -> list[Grant]:
        return [Grant(kind=TOPIC, name=where.topic(name), operations=operations) for name in names]

    if principal == JOB:
        group = where.group(_JOB)
        both = tuple(name for name in _JOB_READS if name in _JOB_WRITES)
        return [
            *on(both, "Read", "Write"),
            *on(tuple(name for name in _JOB_READS if name not in both), "Read"),
            *on(tuple(name for name in _JOB_WRITES if name not in both), "Write"),
            Grant(kind=GROUP, name=group, operations=("Read",)),
            Grant(kind=GROUP, name=where.group(_AGGREGATES), operations=("Read",)),
            Grant(kind=GROUP, name=where.group(_EXPERIMENTS), operations=("Read",)),
            Grant(kind=GROUP, name=where.group(_BELIEFS), operations=("Read",)),
            Grant(kind=GROUP, name=where.group(_TOP_LISTS), operations=("Read",)),
            Grant(kind=TRANSACTION, name=group, operations=("Write", "Describe"), prefixed=True),
        ]
    if principal == TRAINING:
        group = where.group(_TRAINING)
        return [
            *on(_TRAINING_READS, "Read"),
            *on(_TRAINING_WRITES, "Write"),
            Grant(kind=GROUP, name=group, operations=("Read",)),
            Grant(kind=TRANSACTION, name=group, operations=("Write", "Describe"), prefixed=True),
        ]
    if principal == SENDER:
        return on((topics.EVENTS,), "Write")
    if principal == REQUESTER:
        return [*on((topics.RANK_REQUESTS,), "Write"), *on((topics.RANK_RESPONSES,), "Read")]
    if principal == CATALOGUE:
        return on((topics.ITEMS,), "Write")
    if principal == TOOLS:
        written = (topics.EVENTS, topics.RANK_REQUESTS, topics.CONTROL)
        rest = tuple(spec.name for spec in topics.TOPICS if spec.name not in written)
        manage = ("Create", "DescribeConfigs", "Read")
        return [*on(written, *manage, "Write"), *on(rest, *manage)]
    return []


def kafka_lines(principal: str, namespace: str, user: str) -> list[str]:
    """Arguments of `kafka-acls --bootstrap-server … --command-config …`, one call a line."""
    alike: dict[tuple[str, tuple[str, ...], bool], list[str]] = {}
    for grant in kafka_grants(principal, namespace):
        alike.setdefault((grant.kind, grant.operations, grant.prefixed), []).append(grant.name)
    lines = []
    for (kind, operations, prefixed), names in alike.items():
        may = " ".join(f"--operation {operation}" for operation in operations)
        on = " ".join(f"--{kind} {name}" for name in names)
        pattern = " --resource-pattern-type prefixed" if prefixed else ""
        lines.append(f"--add --allow-principal User:{user} {may} {on}{pattern}")
    return lines


# Of the script that compares and sets, what it calls; a script runs under its caller's rights.
_WRITES = "+eval +hget +hset +pexpire"
_CONNECTS = "+select +cluster|slots"
_REDIS = {
    JOB: f"{_WRITES} {_CONNECTS}",
    READER: f"+hget {_CONNECTS}",
    TOOLS: f"{_WRITES} {_CONNECTS} +info",
}


def redis_line(principal: str, namespace: str, user: str) -> str | None:
    """`ACL SETUSER …` but for its password, which is added as `>password`; None for who has no business there."""
    if principal not in _REDIS:
        return None
    keys = Connections(namespace=namespace).redis_namespace
    return f"ACL SETUSER {user} reset on ~{keys}* -@all {_REDIS[principal]}"
