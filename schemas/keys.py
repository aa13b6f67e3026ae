"""Keys: how a user is named on Kafka, in Flink state and in Redis.

`u:<user_id>` is a known user, `s:<session_id>` an anonymous one; the prefix keeps the two from colliding.
A record that cannot be parsed is keyed `p:<topic>:<partition>`: never by null, which would send all
of them to one subtask. Every Redis key of a user carries the user's key as its hash tag, so that one script can
write all of them on a Redis Cluster.
"""

from __future__ import annotations

import hashlib

USER_PREFIX = "u:"
SESSION_PREFIX = "s:"
PARTITION_PREFIX = "p:"


def user_key(user_id: str | None, session_id: str | None) -> str:
    """The key a record belongs to: the user's when known, else the anonymous session's. One of them must be given."""
    return USER_PREFIX + user_id if user_id else SESSION_PREFIX + (session_id or "")


def is_anonymous(key: str) -> bool:
    return key.startswith(SESSION_PREFIX)


def id_hash(identifier: str) -> int:
    """64-bit hash of an id: the first 8 bytes of its SHA-256, big endian.

    SHA-256 because every language a reader may be written in has it.
    """
    return int.from_bytes(hashlib.sha256(identifier.encode()).digest()[:8], "big")


def _hash_tag(key: str) -> str:
    """Escape braces: Redis Cluster hashes only what stands between the first `{` and the next `}`."""
    escaped = key.replace("%", "%25").replace("{", "%7B").replace("}", "%7D")
    return "{" + escaped + "}"


def list_redis_key(namespace: str, key: str, surface: str) -> str:
    """Redis key of the newest ranked list of a user on a surface."""
    return f"{namespace}list:{_hash_tag(key)}:{surface}"


def features_redis_key(namespace: str, key: str) -> str:
    """Redis key of a user's session features and freshness record."""
    return f"{namespace}features:{_hash_tag(key)}"


def popular_redis_key(namespace: str, surface: str) -> str:
    """Redis key of the list that a reader falls back to when a user has none."""
    return f"{namespace}popular:{surface}"


def experiment_redis_key(namespace: str, arm_key: str) -> str:
    """Redis key of an arm's totals; `arm_key` is that of the record on `experiment-metrics`."""
    return f"{namespace}experiment:{_hash_tag(arm_key)}"


def top_list_redis_key(namespace: str, list_key: str) -> str:
    """Redis key of a top list; `list_key` is that of the record on `top-lists`."""
    return f"{namespace}top-list:{_hash_tag(list_key)}"


def item_features_redis_key(namespace: str, version: int, row_key: str) -> str:
    """Redis key of a row of item features, of one version of the row; see schemas.features_row."""
    return f"{namespace}item-features:v{version}:{_hash_tag(row_key)}"
