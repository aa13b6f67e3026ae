"""Dead letters: what was rejected and why, and how a repaired one goes back to where it came from.

A letter is named by its place on `events-dlq`, `<partition>:<offset>`. A replayed record carries the place and time of
the original, so that it is still judged by when it was first appended, and its sender's position stays the freshness
token.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from client.errors import InvalidArgument, InvalidEvent
from client.scan import Scanner, headers_of
from schemas import headers, topics
from schemas.event import Rejected, parse_event
from schemas.keys import user_key
from schemas.record import TopicRecord

REPLAY = "replay"


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """A rejected record: its place here, why it is here, and where it stood (`origin_*`). Times in ms since 1970."""

    partition: int
    offset: int
    append_ms: int
    reason: str
    detail: str
    origin_topic: str
    origin_partition: int | None
    origin_offset: int | None
    origin_append_ms: int | None
    key: str
    value: bytes

    @property
    def name(self) -> str:
        return f"{self.partition}:{self.offset}"


def read_letter(record: Any) -> DeadLetter:
    """A record of `events-dlq` (or `events-late`). Missing headers leave gaps; nothing here raises."""
    found = headers_of(record)
    return DeadLetter(
        partition=record.partition,
        offset=record.offset,
        append_ms=record.timestamp,
        reason=found.get(headers.REASON, "unknown"),
        detail=found.get(headers.DETAIL, ""),
        origin_topic=found.get(headers.TOPIC, topics.EVENTS),
        origin_partition=_number(found.get(headers.PARTITION)),
        origin_offset=_number(found.get(headers.OFFSET)),
        origin_append_ms=_number(found.get(headers.APPEND_MS)),
        key=(record.key or b"").decode(errors="replace"),
        value=record.value or b"",
    )


def letters(scanner: Scanner, reason: str | None = None, contains: bytes | None = None) -> Iterator[DeadLetter]:
    """The dead letters, roughly newest first, of one reason and with some text in the original, where asked."""
    for record in scanner.newest_first(topics.EVENTS_DLQ):
        letter = read_letter(record)
        if (reason is None or letter.reason == reason) and (contains is None or contains in letter.value):
            yield letter


def find_letter(scanner: Scanner, name: str) -> DeadLetter | None:
    """The letter of this name; None where there is none (any more). Raises InvalidArgument for what is no name."""
    partition, colon, offset = name.partition(":")
    if not (colon and partition.isdecimal() and offset.isdecimal()):
        raise InvalidArgument(
            f"{name!r} names no dead letter: write <partition>:<offset>, as `riffle dead-letters list` does"
        )
    record = scanner.one(topics.EVENTS_DLQ, int(partition), int(offset))
    return None if record is None else read_letter(record)


def repaired(letter: DeadLetter, fixed: bytes | None = None) -> TopicRecord:
    """The record to put back on `events`: the fixed JSON, or the original where the engine has been fixed instead.

    Raises InvalidEvent where it would be rejected again, InvalidArgument where it did not come from `events`.
    """
    if letter.origin_topic != topics.EVENTS:
        raise InvalidArgument(
            f"dead letter {letter.name} came from {letter.origin_topic}: only what came from events can be replayed"
        )
    value = letter.value if fixed is None else fixed.strip()
    event = parse_event(value)
    if isinstance(event, Rejected):
        raise InvalidEvent(event.reason.value, f"dead letter {letter.name} would be rejected again: {event.detail}")
    origin = {
        headers.PARTITION: letter.origin_partition,
        headers.OFFSET: letter.origin_offset,
        headers.APPEND_MS: letter.origin_append_ms,
    }
    known = {name: str(value).encode() for name, value in origin.items() if value is not None}
    return TopicRecord(
        topics.EVENTS,
        user_key(event.user_id, event.session_id).encode(),
        value,
        {headers.VIA: REPLAY.encode(), **known},
    )


def printable(raw: bytes, limit: int = 2_000) -> str:
    """Bytes as text that cannot harm a terminal: what is not printable is escaped, a long one is cut.

    `limit` is in bytes.
    """
    text = raw[:limit].decode("utf-8", errors="backslashreplace")
    safe = "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
    return safe if len(raw) <= limit else f"{safe}… ({len(raw)} bytes)"


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isascii() and text.isdecimal() else None
