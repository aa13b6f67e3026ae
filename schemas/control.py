"""Control: what an operator tells the running job. Broadcast to UpdateUserState, which stamps every ranking with it."""

from __future__ import annotations

from typing import Union

import msgspec

from schemas.experiments import Definition
from schemas.versions import BundleVersion


class ActivateBundle(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="activate_bundle"):
    """Rank with this bundle from now on. Workers load it from `<bundles folder>/<version>`.

    A version that cannot be loaded leaves the previous one in use, and is counted.
    """

    version: BundleVersion


class PublishExperiments(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="experiments"):
    """Assign by this definition from now on, in place of the one before. One with faults is counted and changes nothing."""

    definition: Definition


ControlRecord = Union[ActivateBundle, PublishExperiments]
decode_control = msgspec.json.Decoder(ControlRecord).decode
