"""Sessions: what one event does to a user's state.

A session ends with a gap of 30 minutes in the event times of a user, across devices; it closes lazily, when the next event
shows the gap, and its actions join the history. An event is judged by its own time against the time the broker appended it:

    duplicate (its id is remembered) · late (more than 24 h old) · clamped (its clock runs ahead) · placed by its time

The same function builds state in the stream, in training and in a backfill: it knows no clock but its arguments.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import NamedTuple

import msgspec

from schemas.event import Event, Follow, Impression, Purchase, Return, Search
from schemas.keys import id_hash
from schemas.ranking import Freshness, NotApplied
from schemas.user_state import (
    ACTIONS,
    COUNTED,
    HASHES_MAX,
    HASHES_MIN,
    HISTORY_CAP,
    NOT_APPLIED_CAP,
    QUERY_MARK,
    RECENT,
    SEEN_CAP,
    SESSION_CAP,
    TARGET_MARK,
    Surface,
    UserState,
    action_code,
    seen_hash,
)
from udfs.logic.consent import consent_of, hear, notes_of
from udfs.logic.flags import flags

DUPLICATE = "duplicate"
LATE = "late"
CLOSED_SESSION = "closed_session"  # a note: the event belongs to a session before the open one

_HOUR_MS = 3_600_000
MAX_SESSION_MS = 2**31 - 1  # what the session's time column can hold: 24 days
_KNOWN_SESSIONS_CAP = 8
_SURFACES_CAP = 8
_PARTITIONS_CAP = 16  # a user's records come by one partition, or by two where they were put back


class SessionSettings(msgspec.Struct, frozen=True):
    """Times by which events are judged. Changing `gap_ms` changes what a session is: retrain with it."""

    gap_ms: int = 30 * 60_000
    lateness_ms: int = 24 * _HOUR_MS
    future_tolerance_ms: int = 60_000
    idle_ms: int = 90 * 24 * _HOUR_MS


DEFAULTS = SessionSettings()


class Position(NamedTuple):
    """Where a record stands on its topic and when the broker appended it."""

    partition: int
    offset: int
    append_ms: int


class Applied(NamedTuple):
    """The event changed the state. `ts_ms` is its time as applied."""

    ts_ms: int
    notes: list[str]
    new_session_id: bool  # the user's first event with this session_id: the anonymous state may have to be claimed
    hashes_dropped: int  # remembered ids given up although still within lateness
    consent_changed: bool  # lists may be personal from now on, or may not be any more


class Dropped(NamedTuple):
    """The event changed nothing but its trace. `reason` is DUPLICATE or LATE."""

    reason: str


def apply_event(
    state: UserState, event: Event, at: Position, settings: SessionSettings = DEFAULTS
) -> Applied | Dropped:
    """Apply one valid event to the state, in place."""
    handle(state, at)
    event_hash = id_hash(event.event_id)
    if event_hash in state.hashes:
        not_applied(state, DUPLICATE, at, event_hash)
        return Dropped(DUPLICATE)
    ts_ms = min(event.ts_ms, at.append_ms + settings.future_tolerance_ms)
    if at.append_ms - ts_ms > settings.lateness_ms:
        not_applied(state, LATE, at, event_hash)
        return Dropped(LATE)

    notes = ["clamped"] if ts_ms < event.ts_ms else []
    hashes_dropped = _remember(state, event_hash, at.append_ms, settings)
    tail = state.tail
    if tail.last_event_ts_ms is not None and ts_ms < tail.last_event_ts_ms:
        notes.append("out_of_order")
    # A record that was refused and is now repaired: whoever waits for its place is told of the repair.
    tail.not_applied = [trace for trace in tail.not_applied if trace[1:3] != (at.partition, at.offset)]
    state.event_no += 1
    tail.last_event_id, tail.last_event_ts_ms = event.event_id, ts_ms
    if not _in_session(state, ts_ms, settings):
        notes.append(CLOSED_SESSION)
    if event.props.surface is not None:
        touch_surface(state, event.props.surface, ts_ms)
    consent_changed = hear(state, event.props.consent, ts_ms)
    consent = consent_of(state)
    if consent.personalise:
        for identifier, code in tokens_of(event):
            _add_token(state, identifier, code, ts_ms, CLOSED_SESSION not in notes)
        if event.props.context is not None and "out_of_order" not in notes:
            said = event.props.context
            tail.where = (said.device, said.geo, said.channel)
        if isinstance(event, Impression):
            state.seen.append(seen_hash(event.item_id))
            del state.seen[:-SEEN_CAP]
    notes += flags(state) + notes_of(consent)
    return Applied(ts_ms, notes, _new_session_id(state, event, ts_ms), hashes_dropped, consent_changed)


def tokens_of(event: Event) -> list[tuple[str, int]]:
    """The sequence tokens of an event: (id, action code). Impressions, scrolls, logins and logouts have none."""
    kind = event.event_type
    if kind not in ACTIONS:
        return []
    code = action_code(kind, getattr(event.props, "dwell_ms", None))
    if isinstance(event, (Purchase, Return)):
        return [(line.item_id, code) for line in event.props.items]
    if isinstance(event, Search):
        return [(QUERY_MARK + event.props.query.casefold().strip()[:48], code)]
    if isinstance(event, Follow):
        return [(TARGET_MARK + event.props.target, code)]
    return [(event.item_id, code)] if event.item_id else []


def handle(state: UserState, at: Position | None) -> None:
    """Count a record, whatever comes of it: `list_no` orders what is written about this user."""
    state.list_no += 1
    if at is not None:
        offsets = state.tail.offsets
        offsets[at.partition] = max(offsets.get(at.partition, -1), at.offset)
        if len(offsets) > _PARTITIONS_CAP:
            del offsets[next(iter(offsets))]


def not_applied(state: UserState, reason: str, at: Position, event_hash: int | None) -> None:
    """Keep the trace of a record that changed nothing, so that whoever waits for it can be told why."""
    trace = (reason, at.partition, at.offset, None if event_hash is None else f"{event_hash:016x}")
    state.tail.not_applied = [*state.tail.not_applied, trace][-NOT_APPLIED_CAP:]


def freshness(state: UserState) -> Freshness:
    """What this state has seen, as a reader compares it."""
    tail = state.tail
    return Freshness(
        event_no=state.event_no,
        last_event_id=tail.last_event_id,
        last_event_ts_ms=tail.last_event_ts_ms,
        recent=[f"{event_hash:016x}" for event_hash in state.hashes[-RECENT:]],
        offsets=tail.offsets,
        not_applied=[NotApplied(*trace) for trace in tail.not_applied],
    )


def _remember(state: UserState, event_hash: int, append_ms: int, settings: SessionSettings) -> int:
    """Append the id's hash; forget those past lateness, keeping HASHES_MIN; past HASHES_MAX give up the oldest."""
    hours = state.tail.hash_hours
    hour = append_ms // _HOUR_MS
    state.hashes.append(event_hash)
    if hours and hours[-1][0] == hour:
        hours[-1] = (hour, hours[-1][1] + 1)
    else:
        hours.append((hour, 1))
    # An event may come as late as `lateness` after its time, and so may its duplicate: one more hour for rounding.
    horizon = hour - settings.lateness_ms // _HOUR_MS - 1
    while hours[0][0] < horizon and len(state.hashes) - hours[0][1] >= HASHES_MIN:
        del state.hashes[: hours[0][1]]
        del hours[0]
    dropped = len(state.hashes) - HASHES_MAX
    if dropped <= 0:
        return 0
    still_needed = 0
    del state.hashes[:dropped]
    while dropped:
        oldest_hour, count = hours[0]
        taken = min(count, dropped)
        dropped -= taken
        still_needed += taken if oldest_hour >= horizon else 0
        if taken == count:
            del hours[0]
        else:
            hours[0] = (oldest_hour, count - taken)
    return still_needed


def _in_session(state: UserState, ts_ms: int, settings: SessionSettings) -> bool:
    """Whether the time belongs to the current session, after closing and opening what it shows to be over or new."""
    last = state.tail.session_last_ms
    if not last or ts_ms > last + settings.gap_ms or ts_ms - state.session_start_ms > MAX_SESSION_MS:
        _close_session(state)
        state.session_start_ms = state.tail.session_last_ms = ts_ms
        # What a caller handed in ends with the session, unless it was handed in for the one that opens now.
        candidates, surfaces = state.tail.candidates, state.tail.surfaces
        state.tail.candidates = {
            name: candidates[name] for name in candidates if ts_ms - surfaces[name].seen_ms <= settings.gap_ms
        }
        return True
    first = state.session_start_ms + min(0, state.session_ts[0] if state.session_ts else 0)
    if ts_ms < first - settings.gap_ms:
        return False
    state.tail.session_last_ms = max(last, ts_ms)
    return True


def _close_session(state: UserState) -> None:
    """Move the session's actions to the history."""
    for slot, code, ts in zip(state.session_slots, state.session_actions, state.session_ts):
        _insert_history(state, slot, code, (state.session_start_ms + ts) // 1000)
    del state.session_slots[:], state.session_actions[:], state.session_ts[:]


def _add_token(state: UserState, identifier: str, code: int, ts_ms: int, current: bool) -> None:
    slot = state.slot_of(identifier)
    kind = ACTION_KIND.get(code & 15)
    if kind is not None:
        state.count(slot, kind)
    if not current:
        _insert_history(state, slot, code, ts_ms // 1000)
        return
    ts = ts_ms - state.session_start_ms
    place = bisect_right(state.session_ts, ts)
    state.session_slots.insert(place, slot)
    state.session_actions.insert(place, code)
    state.session_ts.insert(place, ts)
    if len(state.session_slots) > SESSION_CAP:
        # The oldest action leaves the sequence, not the counters. It does not join the history: that would make the
        # history's cached encoding stale on every further action.
        del state.session_slots[0], state.session_actions[0], state.session_ts[0]


def _insert_history(state: UserState, slot: int, code: int, ts_s: int) -> None:
    place = bisect_right(state.history_ts, ts_s)
    if not place and len(state.history_slots) == HISTORY_CAP:
        return  # older than all that is kept
    state.history_slots.insert(place, slot)
    state.history_actions.insert(place, code)
    state.history_ts.insert(place, ts_s)
    if len(state.history_slots) > HISTORY_CAP:
        del state.history_slots[0], state.history_actions[0], state.history_ts[0]
    state.history_no += 1


ACTION_KIND = {ACTIONS[name]: kind for kind, name in enumerate(COUNTED)}


def touch_surface(state: UserState, name: str, ts_ms: int) -> None:
    """Note that the user was on the surface; the one left longest ago makes room, with what its caller handed in."""
    surfaces = state.tail.surfaces
    known = surfaces.get(name)
    if known is not None:
        known.seen_ms = max(known.seen_ms, ts_ms)
        return
    while len(surfaces) >= _SURFACES_CAP:
        oldest = min(surfaces, key=lambda other: surfaces[other].seen_ms)
        del surfaces[oldest]
        state.tail.candidates.pop(oldest, None)
    surfaces[name] = Surface(ts_ms)


def _new_session_id(state: UserState, event: Event, ts_ms: int) -> bool:
    if event.user_id is None:
        return False
    sessions = state.tail.sessions
    session_hash = id_hash(event.session_id)
    is_new = session_hash not in sessions
    sessions[session_hash] = ts_ms // 1000
    if len(sessions) > _KNOWN_SESSIONS_CAP:
        del sessions[min(sessions, key=sessions.__getitem__)]
    return is_new
