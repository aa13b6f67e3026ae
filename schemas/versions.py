"""Names of versions, as they may be written in control records and definitions."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

# It names a folder: no path, no dot in front, and (the look-ahead) no final newline, which Python's `$` would allow.
BundleVersion = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$(?!\n)")]
