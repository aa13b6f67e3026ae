"""Identity: how an anonymous session's state reaches its user, though it lives under another key.

u:alice sees session s1 for the first time ─ Claim, keyed s:s1 ─►  s:s1 answers with its state ─ Merge, keyed u:alice
u:alice logs out of s1 ─ Release, keyed s:s1 ─►  s:s1 forgets the alias: a new anonymous epoch begins
"""

from __future__ import annotations

from typing import Union

import msgspec


class Claim(msgspec.Struct, frozen=True, tag="claim"):
    """Sent to the anonymous key: from now on its events belong to `user_key`."""

    key: str
    user_key: str
    ts_ms: int


class Merge(msgspec.Struct, frozen=True, tag="merge"):
    """Sent to the user's key: the anonymous state, once per (anonymous_key, anonymous_epoch)."""

    key: str
    anonymous_key: str
    anonymous_epoch: int
    state: bytes  # base64 in JSON


class Release(msgspec.Struct, frozen=True, tag="release"):
    """Sent to the anonymous key at logout."""

    key: str
    user_key: str
    ts_ms: int


IdentityRecord = Union[Claim, Merge, Release]
encode_identity = msgspec.json.Encoder().encode
decode_identity = msgspec.json.Decoder(IdentityRecord).decode
