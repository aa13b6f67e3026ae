"""Control: what an operator tells the running job. Broadcast to UpdateUserState, which stamps every ranking with it."""

from __future__ import annotations

from typing import Annotated, Union

import msgspec
from msgspec import Meta

# It names a folder: no path, no dot in front, and (the look-ahead) no final newline, which Python's `$` would allow.
BundleVersion = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$(?!\n)")]


class ActivateBundle(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="activate_bundle"):
    """Rank with this bundle from now on. Workers load it from `<bundles folder>/<version>`.

    A version that cannot be loaded leaves the previous one in use, and is counted.
    """

    version: BundleVersion


class Erase(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="erase"):
    """Reserved: erasure is a keyed record on the main input, see docs/decisions.md."""

    key: Annotated[str, Meta(min_length=3, max_length=80)]


ControlRecord = Union[ActivateBundle, Erase]
decode_control = msgspec.json.Decoder(ControlRecord).decode
