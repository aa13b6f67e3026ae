"""Control: what an operator tells the running job. UpdateUserState stamps every ranking with the bundle; ranking workers follow
the policies themselves (udfs.policies_replica). The record's key keeps what must outlive compaction: see `control_key`."""

from __future__ import annotations

from typing import Union

import msgspec

from schemas.experiments import Definition
from schemas.policy import Policy
from schemas.versions import BundleVersion


class ActivateBundle(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="activate_bundle"):
    """Rank with this bundle from now on. Workers load it from `<bundles folder>/<version>`.

    A version that cannot be loaded leaves the previous one in use, and is counted.
    """

    version: BundleVersion


class PublishPolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="publish_policy"):
    """Fill the places of this policy's surface by it from now on; not `in_force`: only where an experiment's arm names it.

    Every version stays on the topic: replay asks for it.
    """

    policy: Policy
    in_force: bool = True


class PublishExperiments(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="experiments"):
    """Assign by this definition from now on, in place of the one before. One with faults is counted and changes nothing."""

    definition: Definition


ControlRecord = Union[ActivateBundle, PublishPolicy, PublishExperiments]


def control_key(record: ActivateBundle | PublishPolicy | PublishExperiments) -> bytes:
    """Under which the newest record is kept: one bundle and one definition are active; of policies, every version."""
    if isinstance(record, ActivateBundle):
        return b"bundle"
    return f"policy|{record.policy.version}".encode() if isinstance(record, PublishPolicy) else b"experiments"


def control_record(record: ActivateBundle | PublishPolicy | PublishExperiments) -> tuple[bytes, bytes]:
    """Key and value, to be put on the topic."""
    return control_key(record), msgspec.json.encode(record)


decode_control = msgspec.json.Decoder(ControlRecord).decode
