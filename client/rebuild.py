"""Rebuild: Redis from the compacted topics, after it was lost or emptied. Safe beside a running job.

ranked-feed-latest ─┐
features ───────────┼─ compare-and-set, as the jobs write ─► Redis     what Redis already holds newer stays
item-features ──────┤
top-lists ──────────┘
"""

from __future__ import annotations

import msgspec

from client.scan import Scanner
from connect.redis import Nodes
from connect.slots import Command
from schemas import topics
from schemas.features_row import row_codec
from schemas.keys import features_redis_key, item_features_redis_key, list_redis_key, top_list_redis_key
from schemas.ranking import decode_features, decode_list
from schemas.redis_layout import (
    CAS_SCRIPT,
    FEATURES_FIELD,
    FEATURES_TTL_MS,
    LIST_FIELD,
    LIST_TTL_MS,
    ROW_FIELD,
    ROW_TTL_MS,
    TOP_LIST_FIELD,
    TOP_LIST_TTL_MS,
    Entry,
    cas_arguments,
    version,
)
from schemas.top_lists import decode_top_list

BATCH = 200


class Rebuilt(msgspec.Struct):
    """`kept`: Redis held the same or a newer one. `expired`: older than what Redis would still keep."""

    lists: int = 0
    features: int = 0
    item_rows: int = 0
    top_lists: int = 0
    kept: int = 0
    expired: int = 0
    removed: int = 0  # tombstones: nothing to write
    other_version: int = 0  # item rows of another release: that one writes them
    unreadable: int = 0


class Write(msgspec.Struct, frozen=True):
    """One hash, with the time that is left of its life, in ms."""

    entry: Entry
    at: str
    ttl_ms: int


def list_write(_key: bytes | None, value: bytes, namespace: str, now_ms: int) -> Write:
    """What a record of `ranked-feed-latest` writes. Raises msgspec.DecodeError."""
    ranked = decode_list(value)
    key = list_redis_key(namespace, ranked.key, ranked.surface)
    left_ms = LIST_TTL_MS - (now_ms - ranked.created_ms)
    return Write(Entry(key, LIST_FIELD, value), version(ranked.state_epoch, ranked.list_no), left_ms)


def features_write(_key: bytes | None, value: bytes, namespace: str, now_ms: int) -> Write:
    """What a record of `features` writes. Raises msgspec.DecodeError."""
    found = decode_features(value)
    left_ms = FEATURES_TTL_MS - (now_ms - found.updated_ms)
    key = features_redis_key(namespace, found.key)
    return Write(Entry(key, FEATURES_FIELD, value), version(found.state_epoch, found.list_no), left_ms)


def row_write(key: bytes | None, value: bytes, namespace: str, now_ms: int) -> Write | None:
    """What a record of `item-features` writes; None for one of another row version. Raises RowError."""
    codec = row_codec()
    named = codec.row_key(key)
    if named is None:
        return None
    row = codec.decode(value)
    name = item_features_redis_key(namespace, codec.version, str(named))
    left_ms = ROW_TTL_MS - (now_ms - row.window_end_ms)
    return Write(Entry(name, ROW_FIELD, value), version(row.state_epoch, row.row_no), left_ms)


def top_list_write(key: bytes | None, value: bytes, namespace: str, now_ms: int) -> Write:
    """What a record of `top-lists` writes. Raises msgspec.DecodeError."""
    told = decode_top_list(value)
    left_ms = TOP_LIST_TTL_MS - (now_ms - told.window_end_ms)
    name = top_list_redis_key(namespace, (key or b"").decode())
    return Write(Entry(name, TOP_LIST_FIELD, value), version(told.state_epoch, told.list_no), left_ms)


def rebuild(scanner: Scanner, redis: Nodes, namespace: str, now_ms: int) -> Rebuilt:
    """Write every list, user's features, row of counters and top list that Redis would still keep. Redis's errors pass through."""
    rebuilt = Rebuilt()
    for topic, write_of, counter in (
        (topics.RANKED_FEED_LATEST, list_write, "lists"),
        (topics.FEATURES, features_write, "features"),
        (topics.ITEM_FEATURES, row_write, "item_rows"),
        (topics.TOP_LISTS, top_list_write, "top_lists"),
    ):
        batch: list[Write] = []
        for record in scanner.everything(topic):
            if record.value is None:
                rebuilt.removed += 1
                continue
            try:
                write = write_of(record.key, record.value, namespace, now_ms)
            except (msgspec.DecodeError, UnicodeDecodeError, ValueError):
                rebuilt.unreadable += 1
                continue
            if write is None:
                rebuilt.other_version += 1
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
