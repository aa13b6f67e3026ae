"""Belief: what the outcomes of an item on a surface say, the older the less; on `beliefs`, and what the job keeps.

    ┌ version ┬ at_ms ┬ counts: segment -> (clicks, exposures) ┬ squares: Σ x xᵀ over exposures ┬ rewards: Σ x over clicks ┐

All of it are sums, each term weighted by 0.5^(its age at `at_ms` / the job's half-life). So they may be added in any order, and a
click that comes long after its exposure needs no join. x is the context of a moment, CONTEXT below.
"""

from __future__ import annotations

import msgspec

from schemas.user_state import UnknownStateVersion

VERSION = 1
# What x holds, in this order. Changing it is a new VERSION.
CONTEXT = ("always", "mobile", "app", "hour_sin", "hour_cos", "weekend", "new_user")
D = len(CONTEXT)
EVERYBODY = ""  # the segment of all
SEGMENTS = ("device", "geo")  # and those of its own: `device:mobile`, `geo:de`


class Belief(msgspec.Struct, array_like=True):
    """One item on one surface. New fields go at the end, with a default."""

    version: int = VERSION
    at_ms: int = 0  # to which time all sums are discounted: the newest outcome's, to the hour
    half_life_ms: int = 0
    counts: dict[str, tuple[float, float]] = {}
    squares: bytes = b""  # f64 (D, D), little endian
    rewards: bytes = b""  # f64 (D,)
    timer_ms: int = 0  # the job's own: when it looks whether anything is left


def belief_key(surface: str, item_id: str) -> str:
    """Of a record on `beliefs`. A surface's name holds no bar; an item's id may."""
    return f"{surface}|{item_id}"


encode_belief = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Belief).decode


def decode_belief(blob: bytes) -> Belief:
    """Raises UnknownStateVersion, msgspec.DecodeError."""
    belief = _decode(blob)
    if belief.version != VERSION:
        raise UnknownStateVersion(f"the belief has version {belief.version}; this release reads version {VERSION}")
    if (len(belief.squares), len(belief.rewards)) != (8 * D * D, 8 * D) or belief.half_life_ms <= 0:
        raise msgspec.DecodeError(f"the belief is damaged: its sums are not of {D} features, or it has no half-life")
    return belief
