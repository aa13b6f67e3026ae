"""Creating topics with their settings, and saying where an existing one differs from what the code wants."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import msgspec
from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient
from kafka.errors import KafkaError, TopicAlreadyExistsError

from local.errors import LocalError
from schemas.connections import Connections
from schemas.topics import TopicSpec


class Difference(msgspec.Struct, frozen=True):
    topic: str
    setting: str
    wanted: str
    found: str


class TopicReport(msgspec.Struct, frozen=True):
    created: list[str]
    existing: list[str]
    differences: list[Difference]


def settings_of(spec: TopicSpec) -> dict[str, str]:
    """The topic-level configuration of a spec."""
    return {
        # Lateness and lag are judged against the broker's clock: a producer's may be wrong by days.
        "message.timestamp.type": "LogAppendTime",
        "cleanup.policy": "compact" if spec.compacted else "delete",
        "retention.ms": str(-1 if spec.retention_ms is None else spec.retention_ms),
        "max.message.bytes": str(spec.max_message_bytes),
        "compression.type": spec.compression,
    }


def create_topics(specs: Sequence[TopicSpec], connections: Connections, *, replication: int = 1) -> TopicReport:
    """Create what is missing. What exists is left alone: its data would not survive most of the changes."""
    return _with_admin(specs, connections, lambda admin, missing: _create(admin, missing, replication))


def check_topics(specs: Sequence[TopicSpec], connections: Connections) -> TopicReport:
    """The same report, creating nothing: `created` is what is missing."""
    return _with_admin(specs, connections, lambda _admin, _missing: None)


def _with_admin(
    specs: Sequence[TopicSpec],
    connections: Connections,
    create: Callable[[KafkaAdminClient, dict[str, TopicSpec]], None],
) -> TopicReport:
    try:
        admin = KafkaAdminClient(**connections.kafka_python())
    except (KafkaError, OSError) as error:
        raise LocalError(
            f"Kafka at {connections.brokers} does not answer ({error}): is it up, and is the address right?"
        ) from error
    try:
        names = {connections.topic(spec.name): spec for spec in specs}
        existing = sorted(set(admin.list_topics()) & set(names))
        created = [name for name in names if name not in existing]
        if created:
            create(admin, {name: names[name] for name in created})
        return TopicReport(created, existing, _differences(admin, {name: names[name] for name in existing}))
    except KafkaError as error:
        raise LocalError(f"Kafka at {connections.brokers} refused to list or create topics: {error}.") from error
    finally:
        admin.close()


def _create(admin: KafkaAdminClient, specs: dict[str, TopicSpec], replication: int) -> None:
    topics: dict[str, Any] = {
        name: {"num_partitions": spec.partitions, "replication_factor": replication, "configs": settings_of(spec)}
        for name, spec in specs.items()
    }
    # Another starter may be faster. With metadata: a Flink source whose topic is not yet visible fails its job.
    with suppress(TopicAlreadyExistsError):
        admin.create_topics(topics, timeout_ms=20_000, wait_for_metadata=True)


def _differences(admin: KafkaAdminClient, specs: dict[str, TopicSpec]) -> list[Difference]:
    if not specs:
        return []
    partitions = {topic["name"]: len(topic["partitions"]) for topic in admin.describe_topics(list(specs))}
    resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in specs]
    described = admin.describe_configs(resources, config_filter="all")
    found = next(iter(described.values()))
    differences = []
    for name, spec in specs.items():
        actual = {key: _value(entry) for key, entry in found[name].items()}
        wanted = {**settings_of(spec), "partitions": str(spec.partitions)}
        actual["partitions"] = str(partitions[name])
        differences += [
            Difference(name, key, value, actual.get(key, ""))
            for key, value in wanted.items()
            if actual.get(key) != value
        ]
    return differences


def _value(entry: Any) -> str:
    return str(entry["value"] if isinstance(entry, dict) else entry)
