"""Trace: where one event is, or where it stopped and why.

events ─► interactions (its number) ─► ranked-feed (lists that have seen it)
   ├─► events-dlq   rejected: reason
   └─► events-late  too late for user state
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import msgspec

from client.coverage import Coverage, SeenPosition, judge
from client.dead_letters import DeadLetter, read_letter
from client.scan import Scanner, headers_of
from schemas import headers, topics
from schemas.interaction import Interaction, decode_interaction
from schemas.keys import id_hash
from schemas.ranking import Freshness, RankedList, decode_list

LISTS = 10  # how many lists that have seen the event are looked for

FreshnessOf = Callable[[str], Freshness | None]  # of a user's key, None where there is no record


class Sighting(msgspec.Struct, frozen=True):
    """A record that carries the event. `via` says why it was put back on `events`, where it was."""

    topic: str
    partition: int
    offset: int
    append_ms: int
    key: str
    via: str | None = None


class SeenBy(msgspec.Struct, frozen=True):
    """A list that has seen the event."""

    list_id: str
    surface: str
    list_no: int
    created_ms: int
    trigger: str


class Trace(msgspec.Struct, kw_only=True):
    """What was found, and the conclusion in one sentence. `cut_short` names the topics not read to the end."""

    event_id: str
    sightings: list[Sighting] = []
    interaction: Interaction | None = None
    lists: list[SeenBy] = []
    dead: DeadLetter | None = None
    late: DeadLetter | None = None
    handled: str | None = None  # what the user's freshness record says: covered, not_yet, or a reason
    cut_short: list[str] = []
    conclusion: str = ""


class _Named(msgspec.Struct):
    event_id: str


_decode_named = msgspec.json.Decoder(_Named).decode


def trace(event_id: str, scanner: Scanner, freshness_of: FreshnessOf) -> Trace:
    """Look for an event on every topic it may be on, newest records first."""
    found = Trace(event_id=event_id)
    needles = _needles(event_id)
    for record in scanner.newest_first(topics.EVENTS):
        if _carries(record, event_id, needles):
            found.sightings.append(_sighting(topics.EVENTS, record))
            if headers.VIA not in headers_of(record):  # where it was put back, its first place is older
                break
    if not found.sightings:
        found.dead = _letter(scanner, topics.EVENTS_DLQ, needles)
    begun_ms = min((sighting.append_ms for sighting in found.sightings), default=None)
    found.interaction = _interaction(scanner, event_id, needles, begun_ms)
    if found.interaction is not None:
        found.lists = _lists(scanner, event_id, found.interaction)
    else:
        found.dead = found.dead or _letter(scanner, topics.EVENTS_DLQ, needles)
        found.late = None if found.dead else _letter(scanner, topics.EVENTS_LATE, needles)
        if found.sightings and not (found.dead or found.late):
            place = found.sightings[-1]
            freshness = freshness_of(place.key)
            if freshness is not None:
                verdict = judge(SeenPosition(place.partition, place.offset), freshness)
                found.handled = verdict.value if isinstance(verdict, Coverage) else verdict
    found.cut_short = sorted(set(scanner.cut_short))
    found.conclusion = conclude(found)
    return found


def conclude(found: Trace) -> str:
    """Where the event is, or where it stopped and why, in one sentence."""
    if found.interaction is not None:
        number = f"It was applied as event {found.interaction.event_no} of {found.interaction.key}"
        if found.lists:
            return f"{number}, and {_some(len(found.lists))} seen it."
        return f"{number}; no list has seen it yet: it changes state only, or the next list is still to come."
    if found.dead is not None:
        return f"It stopped at validation: {found.dead.reason}, {found.dead.detail}."
    if found.late is not None:
        return "It stopped because it came too late for user state; it is kept on events-late."
    if found.sightings:
        place = found.sightings[0]
        if found.handled == Coverage.NOT_YET.value or found.handled is None:
            return (
                f"It waits on events at {place.partition}:{place.offset}: the job, if it runs, has not handled it yet."
            )
        if found.handled == Coverage.COVERED.value:
            return "It was handled, but its interaction is not visible yet: it will be after the next checkpoint."
        return f"It was handled and changed nothing: {found.handled}."
    where = f" in what was read ({', '.join(found.cut_short)} not to the end)" if found.cut_short else ""
    return f"It is on no topic{where}: it was not sent, or is older than what the topics keep."


def _some(lists: int) -> str:
    if lists == 1:
        return "1 list has"
    return f"at least {lists} lists have" if lists >= LISTS else f"{lists} lists have"


def _needles(event_id: str) -> tuple[bytes, ...]:
    """The id as JSON may spell it, to find candidates without decoding every record."""
    plain = json.dumps(event_id, ensure_ascii=False)[1:-1].encode("utf-8", errors="surrogatepass")
    return tuple({plain, json.dumps(event_id)[1:-1].encode()})


def _carries(record: Any, event_id: str, needles: tuple[bytes, ...]) -> bool:
    value = record.value or b""
    if not any(needle in value for needle in needles):
        return False
    try:
        return _decode_named(value).event_id == event_id
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False


def _sighting(topic: str, record: Any) -> Sighting:
    via = headers_of(record).get(headers.VIA)
    key = (record.key or b"").decode(errors="replace")
    return Sighting(topic, record.partition, record.offset, record.timestamp, key, via)


def _letter(scanner: Scanner, topic: str, needles: tuple[bytes, ...]) -> DeadLetter | None:
    """A rejected record may not be JSON at all: naming the id is enough."""
    for record in scanner.newest_first(topic):
        if any(needle in (record.value or b"") for needle in needles):
            return read_letter(record)
    return None


def _interaction(
    scanner: Scanner, event_id: str, needles: tuple[bytes, ...], begun_ms: int | None
) -> Interaction | None:
    records = (
        scanner.newest_first(topics.INTERACTIONS) if begun_ms is None else scanner.since(topics.INTERACTIONS, begun_ms)
    )
    for record in records:
        if not any(needle in (record.value or b"") for needle in needles):
            continue
        try:
            interaction = decode_interaction(record.value)
        except (msgspec.DecodeError, UnicodeDecodeError):
            continue  # of a newer release
        if interaction.event.event_id == event_id:
            return interaction
    return None


def _lists(scanner: Scanner, event_id: str, interaction: Interaction) -> list[SeenBy]:
    event_hash = f"{id_hash(event_id):016x}"
    prefix = f"{interaction.key}|".encode()
    lists: list[SeenBy] = []
    for record in scanner.since(topics.RANKED_FEED, interaction.append_ms):
        if not (record.key or b"").startswith(prefix):
            continue
        try:
            ranked = decode_list(record.value or b"")
        except (msgspec.DecodeError, UnicodeDecodeError):
            continue
        if ranked.key == interaction.key and _has_seen(ranked, event_hash, interaction):
            lists.append(SeenBy(ranked.list_id, ranked.surface, ranked.list_no, ranked.created_ms, ranked.trigger))
            if len(lists) == LISTS:
                break
    return lists


def _has_seen(ranked: RankedList, event_hash: str, interaction: Interaction) -> bool:
    freshness = ranked.receipt.freshness
    return event_hash in freshness.recent or (
        ranked.state_epoch == interaction.state_epoch and freshness.event_no >= interaction.event_no
    )
