"""Control: what an operator tells the running job. UpdateUserState stamps every ranking with the bundle; ranking workers follow
the policies themselves (udfs.policies_replica). The record's key keeps what must outlive compaction: see `control_key`."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from schemas.policy import Policy

# It names a folder: no path, no dot in front, and (the look-ahead) no final newline, which Python's `$` would allow.
BundleVersion = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$(?!\n)")]


class ActivateBundle(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="activate_bundle"):
    """Rank with this bundle from now on. Workers load it from `<bundles folder>/<version>`.

    A version that cannot be loaded leaves the previous one in use, and is counted.
    """

    version: BundleVersion


class PublishPolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="publish_policy"):
    """Fill the places of this policy's surface by it from now on. Every version stays on the topic: replay asks for it."""

    policy: Policy


ControlRecord = ActivateBundle | PublishPolicy


def control_key(record: ActivateBundle | PublishPolicy) -> bytes:
    """Under which the newest record is kept: one bundle is active; of policies, every version."""
    if isinstance(record, ActivateBundle):
        return b"bundle"
    return f"policy|{record.policy.version}".encode()


def control_record(record: ActivateBundle | PublishPolicy) -> tuple[bytes, bytes]:
    """Key and value, to be put on the topic."""
    return control_key(record), msgspec.json.encode(record)


decode_control = msgspec.json.Decoder(ControlRecord).decode
