"""Records: what one input record means for one user's state, and what leaves because of it.

    event ─ valid? ─ travelled under its own key? ─ still this key's? ─ applied ─┬─ interaction
              │          │                           │                           ├─ claim of an anonymous session
              dead       put back under its key      forwarded to its user       └─ ranked now, at the timer, or not at all

`handle` is the whole decision of UpdateUserState. It knows no Flink and no clock.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import msgspec

from schemas import headers, topics
from schemas.event import EventId, Login, Logout, Reason, Rejected, detail_of, parse_event, reason_of
from schemas.identity import Claim, Merge, Release, decode_identity, encode_identity
from schemas.interaction import Interaction, encode_interaction
from schemas.keys import PARTITION_PREFIX, USER_PREFIX, id_hash, is_anonymous, user_key
from schemas.ranking import (
    MAX_REQUEST_BYTES,
    REMEMBERED_CANDIDATES,
    RankRequest,
    RankResponse,
    RankTask,
    decode_request,
    encode_json,
)
from schemas.record import Record, TopicRecord
from schemas.user_state import UserState, decode, encode
from udfs.logic import experiments, identity
from udfs.logic.sessions import (
    CLOSED_SESSION,
    LATE,
    Dropped,
    Position,
    SessionSettings,
    apply_event,
    not_applied,
    touch_surface,
)
from udfs.logic.sessions import handle as count_record
from udfs.logic.together import beside
from udfs.logic.when_to_rank import (
    DEFAULT_POLICY,
    RankPolicy,
    active_surfaces,
    due,
    overdue,
    ranked,
    refresh_at,
    wants_ranking,
)

MOVED = "moved"  # the anonymous session belongs to a user by now
UNROUTABLE = "unroutable"
REPLAY, REROUTE, ALIAS = "replay", "reroute", "alias"  # values of headers.VIA; any other is not ours
_HOUR_MS = 3_600_000
_DEAD_KEY_CHARS = 1_000
# What fits on the dead letters with key and headers. A compressed record can hold more: its topic's limit counts what travels.
_KEPT_BYTES = next(spec.max_message_bytes for spec in topics.TOPICS if spec.name == topics.EVENTS_DLQ) - 64 * 1024


class Stamp(NamedTuple):
    """What every ranking is stamped with: the job's epoch and what control has set."""

    state_epoch: int
    bundle: str | None
    experiments: experiments.Assignment | None = None


class Rules(msgspec.Struct, frozen=True):
    """The settings of the decision."""

    sessions: SessionSettings = SessionSettings()
    ranking: RankPolicy = DEFAULT_POLICY


class Outcome:
    """What the operator has to do: emit, store, set timers, count."""

    __slots__ = ("clear", "counted", "outputs", "store", "task", "timers_ms")

    def __init__(self) -> None:
        self.clear = False  # forget the user
        self.outputs: list[TopicRecord] = []
        self.task: RankTask | None = None
        self.store: bytes | None = None
        self.timers_ms: list[int] = []
        self.counted: list[tuple[str, int]] = []

    def count(self, name: str, times: int = 1) -> None:
        self.counted.append((name, times))


def handle(
    state: UserState | None, routing_key: str, record: Record, now_ms: int, stamp: Stamp, rules: Rules
) -> Outcome:
    """Decide one record. `state` is None for a key without state; `routing_key` is the key that the state is under."""
    outcome = Outcome()
    user = _User(state or UserState(), routing_key, now_ms, stamp, rules, outcome, record.append_ms)
    user.state.updated_ms = now_ms
    if record.topic == topics.EVENTS:
        user.event(record)
    elif record.topic == topics.RANK_REQUESTS:
        user.request(record)
    else:
        user.identity(record)
    return outcome


def at_timer(state: UserState, routing_key: str, timer_ms: int, now_ms: int, stamp: Stamp, rules: Rules) -> Outcome:
    """Decide a timer: rank what has waited for the throttle, or forget a user who has been idle for too long."""
    outcome = Outcome()
    if state.tail.idle_timer_h and timer_ms >= state.tail.idle_timer_h * _HOUR_MS:
        if now_ms - state.updated_ms >= rules.sessions.idle_ms:
            return _forgotten(state, routing_key, outcome)
        state.tail.idle_timer_h = 0
    user = _User(state, routing_key, now_ms, stamp, rules, outcome, state.tail.waiting_since_ms or now_ms)
    if state.tail.timer_ms and timer_ms >= state.tail.timer_ms:
        trigger = state.tail.pending_trigger or "event"
        user.finish(overdue(state, now_ms), trigger, emit=True)
    else:
        user.finish([], "timer", emit=False)
    return outcome


def _forgotten(state: UserState, key: str, outcome: Outcome) -> Outcome:
    """Clear the state, and with it what the compacted topics keep of the user: records without a value."""
    outcome.clear = True
    outcome.count("users_cleared")
    outcome.outputs.append(TopicRecord(topics.FEATURES, key.encode(), None))
    for surface in state.tail.surfaces:
        outcome.outputs.append(TopicRecord(topics.RANKED_FEED_LATEST, f"{key}|{surface}".encode(), None))
    return outcome


class _User:
    """One record's way through one user's state."""

    def __init__(
        self, state: UserState, key: str, now_ms: int, stamp: Stamp, rules: Rules, outcome: Outcome, append_ms: int
    ) -> None:
        self.state, self.key, self.stamp, self.rules, self.outcome = state, key, stamp, rules, outcome
        self.now_ms, self.append_ms = now_ms, append_ms
        self._timer_ms = state.tail.timer_ms  # set by an earlier record, and still set where it lies ahead

    def event(self, record: Record) -> None:
        event = parse_event(record.value)
        if isinstance(event, Rejected):
            self._reject(record, event)
            return
        body_key = user_key(event.user_id, event.session_id)
        if body_key != self.key and not self._forwarded(record, event.user_id):
            self._put_back(record, body_key, REROUTE)
            return
        state, at = self.state, _position(record)
        alias = identity.alias_of(state, self.now_ms) if is_anonymous(self.key) else None
        if alias is not None and id_hash(event.event_id) not in state.hashes:  # else applied here before the claim
            self._put_back(record, alias, ALIAS)
            count_record(state, at)
            not_applied(state, MOVED, at, id_hash(event.event_id))
            self._refresh()
            return
        experiments.name_unit(state, self.key, event.session_id)
        applied = apply_event(state, event, at, self.rules.sessions)
        if isinstance(applied, Dropped):
            self.outcome.count(f"events_{applied.reason}")
            if applied.reason == LATE:
                self.outcome.outputs.append(_with_origin(topics.EVENTS_LATE, record, {headers.REASON: LATE.encode()}))
            self._refresh()
            return
        self.outcome.count("events_applied")
        for note in applied.notes:
            self.outcome.count(f"events_{note}")
        if applied.hashes_dropped:
            self.outcome.count("dedup_overflow", applied.hashes_dropped)
        notes = [*applied.notes, str(record.via)] if _is_ours(record.via) else applied.notes
        assignment = self.stamp.experiments
        arms = (
            experiments.arms_of(assignment, state, self.key, event.props.surface, applied.ts_ms)
            if assignment is not None
            else {}
        )
        interaction = Interaction(
            self.key,
            state.event_no,
            self.stamp.state_epoch,
            event,
            applied.ts_ms,
            at.partition,
            at.offset,
            at.append_ms,
            notes,
            arms,
            beside(state, event) if CLOSED_SESSION not in applied.notes else None,
            experiments.unit_of(state, self.key) if arms else None,
        )
        self._send(topics.INTERACTIONS, self.key, encode_interaction(interaction))
        if isinstance(event, Logout) and event.user_id:
            state.tail.sessions.pop(id_hash(event.session_id), None)
            anonymous = user_key(None, event.session_id)
            self._send(topics.IDENTITY, anonymous, encode_identity(Release(anonymous, self.key, applied.ts_ms)))
        elif event.user_id and (applied.new_session_id or isinstance(event, Login)):
            wanted_claim = identity.new_claim(event.user_id, event.session_id, applied.ts_ms)
            self._send(topics.IDENTITY, wanted_claim.key, encode_identity(wanted_claim))
        if applied.consent_changed:  # no list that was made before may stay
            self._rank(list(state.tail.surfaces), event.event_type)
            return
        if not wants_ranking(event, self.rules.ranking):
            self._refresh()
            return
        surfaces = active_surfaces(state, applied.ts_ms, self.rules.ranking)
        self._rank(surfaces, event.event_type)

    def request(self, record: Record) -> None:
        if len(record.value or b"") > MAX_REQUEST_BYTES:
            size = f"the request has {len(record.value or b'')} bytes; the limit is {MAX_REQUEST_BYTES}"
            self._reject(record, Rejected(Reason.TOO_LARGE, size))
            return
        try:
            request = decode_request(record.value or b"")
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            self._reject(record, Rejected(reason_of(error), detail_of(error)))
            self._answer(_request_id(record.value), error=detail_of(error))
            return
        if request.user_id is None and request.session_id is None:
            missing = (
                "Object missing required field `user_id` or `session_id`: one of them names whose list is asked for"
            )
            self._reject(record, Rejected(Reason.MISSING_FIELD, missing))
            self._answer(request.request_id, error=missing)
            return
        body_key = user_key(request.user_id, request.session_id)
        if body_key != self.key and not self._forwarded(record, request.user_id):
            self._put_back(record, body_key, REROUTE, request.request_id)
            return
        alias = identity.alias_of(self.state, self.now_ms) if is_anonymous(self.key) else None
        if alias is not None:
            self._put_back(record, alias, ALIAS, request.request_id)
            return
        if request.reply_by_ms is not None and request.reply_by_ms < self.now_ms:
            self.outcome.count("requests_expired")
            self._answer(request.request_id, error="expired: the caller had stopped waiting")
            return
        self.outcome.count("requests")
        state = self.state
        count_record(state, None)
        if not request.explain:
            touch_surface(state, request.surface, min(request.ts_ms, record.append_ms))
            if request.candidates is None:
                state.tail.candidates.pop(request.surface, None)
            else:
                few = len(request.candidates) <= REMEMBERED_CANDIDATES
                state.tail.candidates[request.surface] = request.candidates if few else []
            ranked(state, request.surface, self.now_ms)
        self.finish([request.surface], "request", emit=True, request=request)

    def identity(self, record: Record) -> None:
        try:
            message = decode_identity(record.value or b"")
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            self._reject(record, Rejected(reason_of(error), detail_of(error)))
            return
        if message.key != self.key:
            self._reject(
                record, Rejected(Reason.OUT_OF_RANGE, "an identity record travelled under another key than it names")
            )
            return
        state = self.state
        if isinstance(message, Claim):
            answer = identity.claim(state, message, self.now_ms)
            if answer is not None:
                self.outcome.count("identity_handed_over")
                self._send(topics.IDENTITY, answer.key, encode_identity(answer))
            self.finish([], "identity", emit=answer is not None)
        elif isinstance(message, Release):
            identity.release(state, message)
            self.finish([], "identity", emit=False)
        elif isinstance(message, Merge):
            try:
                merged = identity.merge(state, message, self.rules.sessions)
            except ValueError as error:
                self._reject(record, Rejected(Reason.OUT_OF_RANGE, detail_of(error)))
                return
            self.outcome.count("identity_merged" if merged else "identity_merged_before")
            if merged and experiments.merge_units(
                state, self.key, decode(message.state), message.anonymous_key, self.now_ms
            ):
                self.outcome.count("units_crossed")
            self._rank(active_surfaces(state, self.now_ms, self.rules.ranking) if merged else [], "identity")

    def finish(self, surfaces: list[str], trigger: str, *, emit: bool, request: RankRequest | None = None) -> None:
        """Store the state, see to its timers, and emit the task where one is due."""
        state, tail = self.state, self.state.tail
        if emit:
            tail.emitted_ms = self.now_ms
        if not tail.idle_timer_h:
            tail.idle_timer_h = (state.updated_ms + self.rules.sessions.idle_ms) // _HOUR_MS + 1
            self.outcome.timers_ms.append(tail.idle_timer_h * _HOUR_MS)
        self.outcome.store = blob = encode(state)
        if emit:
            assignment = self.stamp.experiments
            self.outcome.task = RankTask(
                self.key,
                surfaces,
                self.stamp.state_epoch,
                state.list_no,
                self.now_ms,
                trigger,
                blob,
                self.stamp.bundle,
                self.append_ms,
                request,
                experiments.stamp(assignment, state, self.key, surfaces, self.now_ms) if assignment is not None else {},
            )

    def _rank(self, wanted: list[str], trigger: str) -> None:
        surfaces = due(self.state, wanted, self.append_ms, self.now_ms, self.rules.ranking)
        if len(surfaces) < len(wanted):
            self.outcome.count("rankings_deferred")
            self.state.tail.pending_trigger = trigger
        self._emit_or_wait(surfaces, trigger)

    def _refresh(self) -> None:
        """A record that only changes state: the session features follow, at the throttle's pace."""
        self._emit_or_wait([], "state")

    def _emit_or_wait(self, surfaces: list[str], trigger: str) -> None:
        tail = self.state.tail
        # Where rankings wait for a timer that is about to fire, it must find itself still set.
        if not surfaces and not tail.pending and tail.timer_ms <= self.now_ms:
            tail.timer_ms = refresh_at(self.state, self.append_ms, self.now_ms, self.rules.ranking)
        waiting = tail.timer_ms > self.now_ms
        if waiting and tail.timer_ms != self._timer_ms:
            self.outcome.timers_ms.append(tail.timer_ms)
        self.finish(surfaces, trigger, emit=bool(surfaces) or not waiting)

    def _reject(self, record: Record, rejected: Rejected) -> None:
        self.outcome.count("events_rejected")
        self.outcome.count(f"rejected_{rejected.reason.value}")
        found = {
            headers.REASON: rejected.reason.value.encode(),
            headers.DETAIL: rejected.detail.encode(errors="replace"),
        }
        self.outcome.outputs.append(_with_origin(topics.EVENTS_DLQ, record, found))
        # Only of events does a reader ask what became of them, by their place on the topic `events`.
        if self.key.startswith(PARTITION_PREFIX) or record.topic != topics.EVENTS:
            return
        at = _position(record)
        count_record(self.state, at)
        not_applied(self.state, rejected.reason.value, at, id_hash(rejected.event_id) if rejected.event_id else None)
        self._refresh()

    def _forwarded(self, record: Record, user_id: str | None) -> bool:
        """Whether the record was anonymous and comes from a key that belongs to this user by now."""
        return record.via == ALIAS and user_id is None and self.key.startswith(USER_PREFIX)

    def _put_back(self, record: Record, key: str, via: str, request_id: str | None = None) -> None:
        """Send the record on under another key; a record that has been sent on before and still does not fit is dead."""
        if record.via == via:
            detail = f"the record was put back under {via} and still travels under another key than its body names"
            self.outcome.count("events_rejected")
            found = {headers.REASON: UNROUTABLE.encode(), headers.DETAIL: detail.encode()}
            self.outcome.outputs.append(_with_origin(topics.EVENTS_DLQ, record, found))
            self._answer(request_id, error=detail)
            return
        self.outcome.count(f"events_{via}")
        at = _position(record)
        origin = {
            headers.VIA: via.encode(),
            headers.PARTITION: str(at.partition).encode(),
            headers.OFFSET: str(at.offset).encode(),
            headers.APPEND_MS: str(at.append_ms).encode(),
        }
        self.outcome.outputs.append(TopicRecord(record.topic, key.encode(), record.value, origin))

    def _answer(self, request_id: str | None, error: str) -> None:
        if request_id is not None:
            self._send(topics.RANK_RESPONSES, request_id, encode_json(RankResponse(request_id, error=error)))

    def _send(self, topic: str, key: str, value: bytes) -> None:
        self.outcome.outputs.append(TopicRecord(topic, key.encode(), value))


def _position(record: Record) -> Position:
    """Where the record stood first. A record put back keeps the place and time that its sender knows.

    Anyone may write headers: those that cannot be ours are ignored, and the record is judged by where it stands.
    """
    here = Position(record.partition, record.offset, record.append_ms)
    if not _is_ours(record.via):
        return here
    try:
        first = Position(
            int(record.first_partition or ""), int(record.first_offset or ""), int(record.first_append_ms or "")
        )
    except ValueError:
        return here
    # It was appended before, but for the clocks of two brokers.
    latest_ms = here.append_ms + _HOUR_MS
    fits = 0 <= first.partition < 2**31 and 0 <= first.offset < 2**63 and 0 < first.append_ms <= latest_ms
    return first if fits else here


def _is_ours(via: str | None) -> bool:
    return via in (REPLAY, REROUTE, ALIAS)


def _with_origin(topic: str, record: Record, found: dict[str, bytes]) -> TopicRecord:
    """The original bytes, with where they stood in the headers; of a value that cannot be kept, its length and hash."""
    at = _position(record)
    origin = {
        headers.TOPIC: record.topic.encode(),
        headers.PARTITION: str(at.partition).encode(),
        headers.OFFSET: str(at.offset).encode(),
        headers.APPEND_MS: str(at.append_ms).encode(),
    }
    value = record.value
    if value is not None and len(value) > _KEPT_BYTES:
        origin[headers.LENGTH] = str(len(value)).encode()
        origin[headers.SHA256] = hashlib.sha256(value).hexdigest().encode()
        value = None
    # A key is bytes that may not be text: what stands for them takes three times the room, which a record may not have.
    return TopicRecord(topic, (record.key or "")[:_DEAD_KEY_CHARS].encode(errors="replace"), value, found | origin)


class _Asked(msgspec.Struct):
    request_id: EventId


_decode_asked = msgspec.json.Decoder(_Asked).decode


def _request_id(value: bytes | None) -> str | None:
    """Of a request that is wrong elsewhere: whom to answer, if it can be told."""
    try:
        return _decode_asked(value or b"").request_id
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
