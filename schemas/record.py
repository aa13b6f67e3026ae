"""Records: what the job takes from topics and puts on topics, before any meaning."""

from __future__ import annotations

from typing import NamedTuple


class Record(NamedTuple):
    """A record as it arrived. Field for field what jobs.streams reads.

    `first_*` and `via` are set on a record that was put back on its topic: where it stood first, and why it is back.
    """

    topic: str
    key: str | None
    value: bytes | None
    partition: int
    offset: int
    append_ms: int
    via: str | None = None
    first_partition: str | None = None
    first_offset: str | None = None
    first_append_ms: str | None = None


class TopicRecord(NamedTuple):
    """A record on its way to a topic. Field for field what jobs.streams writes."""

    topic: str
    key: bytes
    value: bytes | None
    headers: dict[str, bytes] = {}
