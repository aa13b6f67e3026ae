"""Control: what an operator tells the running job. Broadcast to UpdateUserState, which stamps every ranking with it."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

# It names a folder: no path, no dot in front, and (the look-ahead) no final newline, which Python's `$` would allow.
BundleVersion = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$(?!\n)")]


class ActivateBundle(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="activate_bundle"):
    """Rank with this bundle from now on. Workers load it from `<bundles folder>/<version>`.

    A version that cannot be loaded leaves the previous one in use, and is counted.
    """

    version: BundleVersion


# One kind so far; a union keeps the `type` tag that others will need.
ControlRecord = ActivateBundle
decode_control = msgspec.json.Decoder(ControlRecord).decode
