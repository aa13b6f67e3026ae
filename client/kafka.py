"""Kafka connections of the client: one place for limits, and one plain sentence where a broker or topic is missing."""

from __future__ import annotations

from typing import Any

from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.errors import KafkaError
from kafka.net.compat import KafkaNetClient

from client.errors import KafkaUnavailable
from schemas.connections import Connections

_BOOTSTRAP_MS = 5_000
_METADATA_MS = 5_000


def producer(connections: Connections, topic: str, *, linger_ms: int, timeout_ms: int) -> Any:
    """A producer that knows the topic's partitions, so that its first send does not wait for them.

    Idempotent where the broker supports it (kafka-python's default with acks=all), ordered, retrying for `timeout_ms`.
    Raises KafkaUnavailable.
    """
    network = _Network()
    try:
        made = KafkaProducer(
            **connections.kafka_python(),
            kafka_client=network,
            acks="all",
            linger_ms=linger_ms,
            delivery_timeout_ms=timeout_ms,
            request_timeout_ms=max(1, min(5_000, timeout_ms - linger_ms)),
            max_block_ms=_METADATA_MS,
            bootstrap_timeout_ms=_BOOTSTRAP_MS,
            reconnect_backoff_max_ms=1_000,
            allow_auto_create_topics=False,
            metrics_enabled=False,
        )
    except (KafkaError, OSError) as error:
        network.close()
        raise _unreachable(connections, error) from error
    try:
        made.partitions_for(topic)
    except KafkaError as error:
        made.close(timeout=0)
        raise _no_topic(connections, topic, error) from error
    return made


def consumer(connections: Connections, **settings: Any) -> Any:
    """A consumer without a group: it commits nothing, and nobody else's position moves. Raises KafkaUnavailable."""
    defaults = {
        "group_id": None,
        "enable_auto_commit": False,
        "auto_offset_reset": "earliest",
        "bootstrap_timeout_ms": _BOOTSTRAP_MS,
        "request_timeout_ms": 10_000,
        "reconnect_backoff_max_ms": 1_000,
        "allow_auto_create_topics": False,
        "metrics_enabled": False,
    }
    network = _Network()
    try:
        return KafkaConsumer(**connections.kafka_python(), kafka_client=network, **(defaults | settings))
    except (KafkaError, OSError) as error:
        network.close()
        raise _unreachable(connections, error) from error


class _Network:
    """Makes kafka-python's network client and holds it: where a constructor gives up, kafka-python leaves its thread and
    sockets behind, and a service that tries again would gather them."""

    def __init__(self) -> None:
        self._made: Any = None

    def __call__(self, **settings: Any) -> Any:
        self._made = KafkaNetClient(**settings)
        return self._made

    def close(self) -> None:
        if self._made is not None:
            self._made.close()


def partitions_of(connections: Connections, of: Any, topic: str) -> list[TopicPartition]:
    """All partitions of a topic, by a consumer. Raises KafkaUnavailable where there is no such topic."""
    try:
        found = of.partitions_for_topic(topic)
    except KafkaError as error:
        raise _no_topic(connections, topic, error) from error
    if not found:
        raise _no_topic(connections, topic, None)
    return [TopicPartition(topic, partition) for partition in sorted(found)]


def _unreachable(connections: Connections, error: Exception) -> KafkaUnavailable:
    return KafkaUnavailable(
        f"Kafka at {connections.brokers} does not answer ({error}): is it up, and is the address right?"
    )


def _no_topic(connections: Connections, topic: str, error: Exception | None) -> KafkaUnavailable:
    because = f" ({error})" if error else ""
    return KafkaUnavailable(
        f"Kafka at {connections.brokers} has no topic {topic}{because}: was `riffle up` run, is the namespace right?"
    )
