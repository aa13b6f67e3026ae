"""Identity: joining an anonymous session's state to its user's.

Merging is idempotent: each (anonymous key, anonymous epoch) is merged once, however often its record arrives.
"""

from __future__ import annotations

import struct
from array import array
from operator import itemgetter

import msgspec

from schemas.identity import Claim, Merge, Release
from schemas.keys import id_hash, user_key
from schemas.user_state import (
    HASHES_MAX,
    HISTORY_CAP,
    IDS_CAP,
    SEEN_CAP,
    SESSION_CAP,
    UserState,
    decode,
    encode,
)
from udfs.logic.consent import consent_of
from udfs.logic.sessions import MAX_SESSION_MS, SessionSettings, handle, touch_surface

ALIAS_MS = 30 * 24 * 3_600_000
_MERGED_CAP = 16


def claim(state: UserState, record: Claim, now_ms: int) -> Merge | None:
    """At the anonymous key: hand the state over, and from now on forward what still comes. None if there is nothing."""
    handle(state, None)
    tail = state.tail
    if record.ts_ms <= tail.released_ms:
        return None  # an event from before the logout that came after it: the session is not this user's any more
    tail.alias, tail.alias_until_ms = record.user_key, now_ms + ALIAS_MS
    if not (state.session_slots or state.history_slots or state.seen or tail.consent):
        return None
    merge = Merge(record.user_key, record.key, tail.anonymous_epoch, encode(state))
    _forget(state)
    tail.anonymous_epoch += 1
    return merge


def release(state: UserState, record: Release) -> None:
    """At the anonymous key: the user has logged out. What comes now is somebody else's until claimed."""
    handle(state, None)
    state.tail.released_ms = max(state.tail.released_ms, record.ts_ms)
    if state.tail.alias == record.user_key:
        state.tail.alias, state.tail.alias_until_ms = None, 0


def alias_of(state: UserState, now_ms: int) -> str | None:
    """The user's key that an anonymous key's events belong to by now."""
    return state.tail.alias if state.tail.alias is not None and now_ms < state.tail.alias_until_ms else None


def merge(state: UserState, record: Merge, settings: SessionSettings) -> bool:
    """At the user's key: take the anonymous state in. False if this very state has been merged before.

    Raises ValueError, with `state` unchanged, where the anonymous state cannot be read.
    """
    try:
        other = decode(record.state)
        _actions(other), dict(other.counted())  # what names an id that is not there would stop the merge half way
    except (IndexError, struct.error, msgspec.DecodeError) as error:
        raise ValueError(f"user state is damaged: {error}") from error
    handle(state, None)
    token = id_hash(f"{record.anonymous_key}|{record.anonymous_epoch}")
    if token in state.tail.merged:
        return False
    state.tail.merged = [*state.tail.merged, token][-_MERGED_CAP:]
    _merge_sequences(state, other, settings)
    _merge_traces(state, other)
    state.tail.consent = max(filter(None, (state.tail.consent, other.tail.consent)), key=itemgetter(0), default=None)
    if not consent_of(state).personalise:
        state.forget_actions()
    return True


def new_claim(user_id: str, session_id: str, ts_ms: int) -> Claim:
    return Claim(user_key(None, session_id), user_key(user_id, session_id), ts_ms)


def _merge_sequences(state: UserState, other: UserState, settings: SessionSettings) -> None:
    """All actions of both in order of time: those since the last gap are the session. The dictionary is built anew."""
    actions = sorted(_actions(state) + _actions(other), key=lambda action: action[0])
    counts: dict[str, tuple[int, ...]] = dict(state.counted())
    for identifier, theirs in other.counted():
        ours = counts.get(identifier, (0, 0, 0, 0))
        counts[identifier] = tuple(a + b for a, b in zip(ours, theirs))
    open_sessions = [(s.session_start_ms, s.tail.session_last_ms) for s in (state, other) if s.tail.session_last_ms]
    # The newest open session, joined by the other one where the gap between them is not a session's end.
    start_ms, last_ms = max(open_sessions, key=lambda span: span[1], default=(0, 0))
    for earlier_start, earlier_last in open_sessions:
        if earlier_last + settings.gap_ms >= start_ms:
            start_ms = max(min(start_ms, earlier_start), last_ms - MAX_SESSION_MS)
    session = [action for action in actions if last_ms and action[0] >= start_ms - settings.gap_ms][-SESSION_CAP:]
    history = [action for action in actions if not last_ms or action[0] < start_ms - settings.gap_ms][-HISTORY_CAP:]
    state.clear_sequences()
    state.session_start_ms, state.tail.session_last_ms = start_ms, last_ms
    for ts_ms, identifier, code in history:
        state.history_slots.append(state.slot_of(identifier))
        state.history_actions.append(code)
        state.history_ts.append(ts_ms // 1000)
    for ts_ms, identifier, code in session:
        state.session_slots.append(state.slot_of(identifier))
        state.session_actions.append(code)
        state.session_ts.append(ts_ms - start_ms)
    named = {identifier for _, identifier, _ in history + session}
    for identifier in sorted(counts, key=lambda one: one not in named):
        if identifier in named or len(state.ids) < IDS_CAP:
            slot = state.slot_of(identifier)
            for kind, times in enumerate(counts[identifier]):
                state.count(slot, kind, times)
    state.history_no += 1


def _actions(state: UserState) -> list[tuple[int, str, int]]:
    found: list[tuple[int, str, int]] = []
    for sequence in (state.history(), state.session()):
        found += zip(sequence.ts_ms, sequence.item_ids, sequence.actions)
    return found


def _merge_traces(state: UserState, other: UserState) -> None:
    tail, theirs = state.tail, other.tail
    # Theirs first: they happened before the login, and the newest hashes are what a reader may ask for.
    known = set(state.hashes)
    new = array("Q", (event_hash for event_hash in other.hashes if event_hash not in known))
    state.hashes = (new + state.hashes)[-HASHES_MAX:]
    tail.hash_hours = _hours(theirs.hash_hours, len(new)) + tail.hash_hours
    surplus = sum(count for _, count in tail.hash_hours) - len(state.hashes)
    tail.hash_hours = _hours(tail.hash_hours, len(state.hashes)) if surplus > 0 else tail.hash_hours
    state.seen = (other.seen + state.seen)[-SEEN_CAP:]
    for name, surface in theirs.surfaces.items():
        touch_surface(state, name, surface.seen_ms)
    if (theirs.last_event_ts_ms or 0) > (tail.last_event_ts_ms or 0):
        tail.last_event_id, tail.last_event_ts_ms = theirs.last_event_id, theirs.last_event_ts_ms
        tail.where = theirs.where or tail.where


def _hours(hours: list[tuple[int, int]], total: int) -> list[tuple[int, int]]:
    """The newest `total` of the counted hashes, hour by hour."""
    kept: list[tuple[int, int]] = []
    for hour, count in reversed(hours):
        taken = min(count, total)
        total -= taken
        if taken:
            kept.insert(0, (hour, taken))
    return kept


def _forget(state: UserState) -> None:
    """What has been handed over is not this key's any more. Numbers and remembered event ids stay."""
    state.forget_actions()
    state.session_start_ms = state.tail.session_last_ms = 0
    state.tail.candidates, state.tail.pending, state.tail.waiting_since_ms = {}, [], 0
