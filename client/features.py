"""Reading features from Redis: a user's session, and the rows of counters that the job item-aggregates writes."""

from __future__ import annotations

from collections.abc import Iterable

from connect.redis import Nodes
from connect.slots import Command
from schemas.features_row import ItemRow, RowCodec, RowKey
from schemas.keys import features_redis_key, item_features_redis_key
from schemas.ranking import SessionFeatures, decode_features
from schemas.redis_layout import FEATURES_FIELD, ROW_FIELD


def read_rows(nodes: Nodes, namespace: str, codec: RowCodec, keys: Iterable[RowKey]) -> dict[RowKey, ItemRow]:
    """The rows that Redis has, one round trip per node. Raises redis.RedisError, and RowError for a row it cannot read."""
    wanted = list(dict.fromkeys(keys))
    names = [item_features_redis_key(namespace, codec.version, str(key)) for key in wanted]
    answers = nodes.run([Command(name, ("HGET", name, ROW_FIELD)) for name in names])
    return {key: codec.decode(answer) for key, answer in zip(wanted, answers) if answer is not None}


def read_user(nodes: Nodes, namespace: str, key: str) -> SessionFeatures | None:
    """A user's session features; None where Redis has none. Raises redis.RedisError, and msgspec.DecodeError."""
    name = features_redis_key(namespace, key)
    (answer,) = nodes.run([Command(name, ("HGET", name, FEATURES_FIELD))])
    return None if answer is None else decode_features(answer)
