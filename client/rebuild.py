"""Rebuild: Redis from the compacted topics, after it was lost or emptied. Safe beside a running job.

ranked-feed-latest ─┐
                    ├─ compare-and-set, as the job writes ─► Redis     what Redis already holds newer stays
features ───────────┘
"""

from __future__ import annotations

import msgspec

from client.scan import Scanner
from connect.redis import Nodes
from connect.slots import Command
from schemas import topics
from schemas.keys import features_redis_key, list_redis_key
from schemas.ranking import decode_features, decode_list
from schemas.redis_layout import (
    CAS_SCRIPT,
    FEATURES_FIELD,
    FEATURES_TTL_MS,
    LIST_FIELD,
    LIST_TTL_MS,
    Entry,
    cas_arguments,
    version,
)

BATCH = 200


class Rebuilt(msgspec.Struct):
    """`kept`: Redis held the same or a newer one. `expired`: older than what Redis would still keep."""

    lists: int = 0
    features: int = 0
    kept: int = 0
    expired: int = 0
    removed: int = 0  # tombstones: nothing to write
    unreadable: int = 0


class Write(msgspec.Struct, frozen=True):
    """One hash, with the time that is left of its life, in ms."""

    entry: Entry
    at: str
    ttl_ms: int


def list_write(value: bytes, namespace: str, now_ms: int) -> Write:
    """What a record of `ranked-feed-latest` writes. Raises msgspec.DecodeError."""
    ranked = decode_list(value)
    key = list_redis_key(namespace, ranked.key, ranked.surface)
    left_ms = LIST_TTL_MS - (now_ms - ranked.created_ms)
    return Write(Entry(key, LIST_FIELD, value), version(ranked.state_epoch, ranked.list_no), left_ms)


def features_write(value: bytes, namespace: str, now_ms: int) -> Write:
    """What a record of `features` writes. Raises msgspec.DecodeError."""
    found = decode_features(value)
    left_ms = FEATURES_TTL_MS - (now_ms - found.updated_ms)
    key = features_redis_key(namespace, found.key)
    return Write(Entry(key, FEATURES_FIELD, value), version(found.state_epoch, found.list_no), left_ms)


def rebuild(scanner: Scanner, redis: Nodes, namespace: str, now_ms: int) -> Rebuilt:
    """Write every list and every user's features that Redis would still keep. Redis's errors pass through."""
    rebuilt = Rebuilt()
    for topic, write_of, counter in (
        (topics.RANKED_FEED_LATEST, list_write, "lists"),
        (topics.FEATURES, features_write, "features"),
    ):
        batch: list[Write] = []
        for record in scanner.everything(topic):
            if record.value is None:
                rebuilt.removed += 1
                continue
            try:
                write = write_of(record.value, namespace, now_ms)
            except (msgspec.DecodeError, UnicodeDecodeError, ValueError):
                rebuilt.unreadable += 1
                continue
            if write.ttl_ms <= 0:
                rebuilt.expired += 1
                continue
            batch.append(write)
            if len(batch) == BATCH:
                _flush(redis, batch, rebuilt, counter)
        _flush(redis, batch, rebuilt, counter)
    return rebuilt


def _flush(redis: Nodes, batch: list[Write], rebuilt: Rebuilt, counter: str) -> None:
    if not batch:
        return
    commands = []
    for write in batch:
        keys, argv = cas_arguments(write.at, write.ttl_ms, [write.entry])
        # The text each time, as the job does: no script to load on each node of a Cluster, and none to lose.
        commands.append(Command(keys[0], ("EVAL", CAS_SCRIPT, len(keys), *keys, *argv)))
    done = sum(redis.run(commands))
    setattr(rebuilt, counter, getattr(rebuilt, counter) + done)
    rebuilt.kept += len(batch) - done
    batch.clear()
