"""Every way that a record can take through UpdateUserState, without Flink: what leaves, what is stored, when it is ranked."""

from __future__ import annotations

import hashlib
import json
from datetime import datetime, timedelta, timezone
from typing import Any

import msgspec
import pytest

from schemas import headers, topics
from schemas.experiments import Arm, Definition, Experiment, Layer
from schemas.identity import Claim, IdentityRecord, Merge, Release, decode_identity, encode_identity
from schemas.interaction import Interaction, decode_interaction
from schemas.keys import id_hash
from schemas.ranking import REMEMBERED_CANDIDATES, RankRequest, RankResponse, RankTask, decode_response, encode_json
from schemas.record import Record, TopicRecord
from schemas.user_state import UserState, decode, encode
from tests.fakes import DAY, HOUR, MINUTE, NOW, event, raw, record
from udfs.logic.experiments import Assignment
from udfs.logic.records import Outcome, Rules, Stamp, at_timer, handle
from udfs.logic.sessions import Position, apply_event

STAMP = Stamp(state_epoch=7, bundle="b1")
RULES = Rules()
THROTTLE = RULES.ranking.throttle_ms
LAG = RULES.ranking.catch_up_lag_ms


class User:
    """A key with its state and timers, on a clock that the test moves: what the operator does, without Flink."""

    def __init__(self, key: str = "u:alice") -> None:
        self.key, self.blob, self.now_ms = key, b"", NOW
        self.timers: set[int] = set()
        self.tasks: list[RankTask] = []
        self.outputs: list[TopicRecord] = []

    def send(self, one: Record) -> Outcome:
        outcome = handle(decode(self.blob) if self.blob else None, self.key, one, self.now_ms, STAMP, RULES)
        return self._keep(outcome)

    def event(self, kind: str = "click", item: str = "i1", **fields: Any) -> Outcome:
        """An event that is appended now."""
        fields = {"ts_ms": self.now_ms} | fields
        return self.send(record(raw(kind, item, **fields), self.key, append_ms=self.now_ms))

    def request(self, **fields: Any) -> Outcome:
        body = {
            "request_id": "r1",
            "session_id": "s1",
            "user_id": "alice",
            "ts_ms": self.now_ms,
            "schema_version": 2,
        } | fields
        return self.send(record(msgspec.json.encode(body), self.key, topics.RANK_REQUESTS, append_ms=self.now_ms))

    def identity(self, message: IdentityRecord, **fields: Any) -> Outcome:
        return self.send(record(encode_identity(message), self.key, topics.IDENTITY, append_ms=self.now_ms, **fields))

    def advance(self, to_ms: int) -> list[Outcome]:
        """Move the clock; timers fire in order, each at its time."""
        fired: list[Outcome] = []
        while due := [at_ms for at_ms in self.timers if at_ms <= to_ms]:
            at_ms = min(due)
            self.timers.discard(at_ms)
            self.now_ms = max(self.now_ms, at_ms)
            if not self.blob:
                continue
            outcome = at_timer(decode(self.blob), self.key, at_ms, self.now_ms, STAMP, RULES)
            self._keep(outcome)
            if outcome.clear:
                self.blob = b""
            fired.append(outcome)
        self.now_ms = to_ms
        return fired

    def _keep(self, outcome: Outcome) -> Outcome:
        if outcome.store is not None:
            self.blob = outcome.store
        self.timers.update(outcome.timers_ms)
        self.outputs += outcome.outputs
        if outcome.task is not None:
            assert outcome.store == outcome.task.state, "a task carries the state that is stored"
            self.tasks.append(outcome.task)
        return outcome

    @property
    def state(self) -> UserState:
        return decode(self.blob)


def on_topic(outcome: Outcome | User, topic: str) -> list[TopicRecord]:
    return [one for one in outcome.outputs if one.topic == topic]


def interactions(outcome: Outcome | User) -> list[Interaction]:
    return [decode_interaction(one.value or b"") for one in on_topic(outcome, topics.INTERACTIONS)]


def identities(outcome: Outcome) -> list[tuple[str, IdentityRecord]]:
    return [(one.key.decode(), decode_identity(one.value or b"")) for one in on_topic(outcome, topics.IDENTITY)]


def answer(outcome: Outcome) -> RankResponse:
    (one,) = on_topic(outcome, topics.RANK_RESPONSES)
    response = decode_response(one.value or b"")
    assert one.key.decode() == response.request_id
    return response


def counts(outcome: Outcome) -> dict[str, int]:
    return dict(outcome.counted)


def not_applied(user: User) -> list[tuple[str, int, int, str | None]]:
    return list(user.state.tail.not_applied)


# ── applied ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_event_becomes_a_numbered_interaction() -> None:
    user = User()
    user.event(event_id="e1", ts_ms=NOW - 5)
    outcome = user.event("view", event_id="e2", ts_ms=NOW + DAY)
    (found,) = interactions(outcome)
    assert (found.key, found.event_no, found.state_epoch) == ("u:alice", 2, 7)
    assert (found.event.event_id, found.event.event_type) == ("e2", "view")
    assert (found.ts_ms, found.append_ms, found.partition) == (NOW + MINUTE, NOW, 3)
    assert found.notes == ["clamped"]
    assert on_topic(outcome, topics.INTERACTIONS)[0].key == b"u:alice"


def test_an_interaction_holds_the_events_own_time_too() -> None:
    (found,) = interactions(User().event(ts_ms=NOW + DAY))
    assert (found.event.ts_ms, found.ts_ms) == (NOW + DAY, NOW + MINUTE)


def test_a_click_is_ranked_at_once_with_the_state_that_has_seen_it() -> None:
    user = User()
    task = user.event(item="shoe", props={"surface": "shop"}).task
    assert task is not None
    assert (task.key, task.surfaces, task.trigger, task.list_no, task.now_ms) == ("u:alice", ["shop"], "click", 1, NOW)
    assert (task.state_epoch, task.bundle, task.append_ms) == (7, "b1", NOW)
    assert decode(task.state).session().item_ids == ["shoe"]


def test_events_without_a_surface_are_ranked_every_time() -> None:
    user = User()
    for n in range(3):
        user.advance(NOW + n * MINUTE)
        user.event()
    assert [task.surfaces for task in user.tasks] == [["home"]] * 3


def test_state_only_events_refresh_the_features() -> None:
    outcome = User().event("impression")
    assert outcome.task is not None
    assert (outcome.task.surfaces, outcome.task.trigger) == ([], "state")


def test_list_no_strictly_rises_from_task_to_task() -> None:
    user = User()
    user.event()
    user.send(record(b"broken", user.key, append_ms=NOW))
    for n in range(1, 60):
        user.advance(NOW + n * 7)
        [
            user.event,
            user.request,
            lambda: user.event("impression"),
            lambda: user.identity(Release("u:alice", "x", NOW)),
        ][n % 4]()
    user.advance(NOW + 10 * MINUTE)
    numbers = [task.list_no for task in user.tasks]
    assert numbers == sorted(set(numbers))
    assert len(numbers) > 20


# ── rejected ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_rejected_event_goes_to_the_dead_letters_as_it_came() -> None:
    one = record(b'{"event_id": "e1", \xff', "u:alice", offset=17)
    outcome = User().send(one)
    (dead,) = on_topic(outcome, topics.EVENTS_DLQ)
    assert (dead.key, dead.value) == (b"u:alice", one.value)
    assert dead.headers == {
        headers.REASON: b"not_utf8",
        headers.DETAIL: b"the record is not valid UTF-8",
        headers.TOPIC: b"events",
        headers.PARTITION: b"3",
        headers.OFFSET: b"17",
        headers.APPEND_MS: str(NOW).encode(),
    }
    assert counts(outcome) == {"events_rejected": 1, "rejected_not_utf8": 1}


def test_of_a_value_too_large_to_keep_length_and_hash_are_kept() -> None:
    """Contract: a compressed record may hold more than any topic takes back uncompressed; it must not stop the job."""
    value = b"x" * 3_000_000
    (dead,) = on_topic(User().send(record(value, "u:alice", offset=17)), topics.EVENTS_DLQ)
    assert dead.value is None
    assert (dead.headers[headers.REASON], dead.headers[headers.OFFSET]) == (b"too_large", b"17")
    assert dead.headers[headers.LENGTH] == b"3000000"
    assert dead.headers[headers.SHA256] == hashlib.sha256(value).hexdigest().encode()


@pytest.mark.parametrize("topic", [topics.RANK_REQUESTS, topics.IDENTITY])
def test_a_large_record_that_fits_is_kept_whole(topic: str) -> None:
    value = b"[" + b" " * 1_900_000
    (dead,) = on_topic(User().send(record(value, "u:alice", topic)), topics.EVENTS_DLQ)
    assert dead.value == value and headers.LENGTH not in dead.headers


def test_a_valid_request_beyond_the_limit_is_dead_and_not_put_back() -> None:
    """Contract: it could not be put back under its own key; the topic would refuse it, and the job would stand still."""
    value = json.dumps({"request_id": "r1", "session_id": "s1", "ts_ms": 1, "schema_version": 2}).encode()
    outcome = User().send(record(value + b" " * 1_000_000, "u:alice", topics.RANK_REQUESTS))
    (dead,) = outcome.outputs
    assert (dead.topic, dead.headers[headers.REASON]) == (topics.EVENTS_DLQ, b"too_large")


def test_a_rejection_under_a_users_key_is_told_to_who_waits_for_it() -> None:
    user = User()
    outcome = user.send(record(raw(event_id="e1", ts_ms=-1), "u:alice", offset=17))
    assert not_applied(user) == [("out_of_range", 3, 17, f"{id_hash('e1'):016x}")]
    assert user.state.tail.offsets == {3: 17}
    assert (user.state.event_no, user.state.list_no) == (0, 1)
    assert outcome.task is not None
    assert outcome.task.surfaces == []


def test_a_rejection_without_a_key_keeps_no_state() -> None:
    outcome = User("p:events:3").send(record(b"junk", None))
    (dead,) = on_topic(outcome, topics.EVENTS_DLQ)
    assert dead.key == b""
    assert (outcome.store, outcome.task, outcome.timers_ms) == (None, None, [])


def test_a_key_that_is_no_text_does_not_blow_up_its_dead_letter() -> None:
    """Contract: what a producer could write can be written again: a key of bytes comes three times as long as text."""
    (dead,) = on_topic(User("p:events:3").send(record(b"junk", "\ufffd" * 700_000)), topics.EVENTS_DLQ)
    assert len(dead.key) < 10_000


# ── under another key ────────────────────────────────────────────────────────────────────────────────────────────────


def put_back(one: TopicRecord, key: str, append_ms: int = NOW, **fields: Any) -> Record:
    """A record as it arrives after it was put back on its topic."""
    found = {name: value.decode() for name, value in one.headers.items()}
    return record(
        one.value,
        key,
        one.topic,
        append_ms=append_ms,
        via=found[headers.VIA],
        first_partition=found[headers.PARTITION],
        first_offset=found[headers.OFFSET],
        first_append_ms=found[headers.APPEND_MS],
        **fields,
    )


def test_an_event_under_another_key_is_put_back_under_its_own() -> None:
    outcome = User("u:bob").send(record(raw(), "u:bob", offset=17))
    (again,) = outcome.outputs
    assert (again.topic, again.key) == (topics.EVENTS, b"u:alice")
    assert again.headers == {
        headers.VIA: b"reroute",
        headers.PARTITION: b"3",
        headers.OFFSET: b"17",
        headers.APPEND_MS: str(NOW).encode(),
    }
    assert (outcome.store, outcome.task) == (None, None)
    assert counts(outcome) == {"events_reroute": 1}


def test_it_is_then_applied_with_its_first_place_and_time() -> None:
    """Contract: the (partition, offset) that its sender knows stays the token, and lateness is judged by the first time."""
    (again,) = User("u:bob").send(record(raw(ts_ms=NOW - DAY), "u:bob", offset=17)).outputs
    user = User()
    (found,) = interactions(user.send(put_back(again, "u:alice", append_ms=NOW + HOUR, partition=5)))
    assert (found.partition, found.offset, found.append_ms) == (3, 17, NOW)
    assert found.notes == ["reroute"]
    assert user.state.tail.offsets == {3: 17}


def test_put_back_twice_is_dead() -> None:
    one = put_back(User("u:bob").send(record(raw(), "u:bob", offset=17)).outputs[0], "u:carol")
    outcome = User("u:carol").send(one)
    (dead,) = outcome.outputs
    assert (dead.topic, dead.value) == (topics.EVENTS_DLQ, one.value)
    assert (dead.headers[headers.REASON], dead.headers[headers.OFFSET]) == (b"unroutable", b"17")
    assert (outcome.store, outcome.task) == (None, None)


def test_a_valid_event_without_a_key_is_put_back_under_its_own() -> None:
    (again,) = User("p:events:3").send(record(raw(), None)).outputs
    assert (again.topic, again.key) == (topics.EVENTS, b"u:alice")


def test_a_replayed_event_may_be_put_back_once_too() -> None:
    one = record(raw(), "u:bob", via="replay", first_partition="1", first_offset="2", first_append_ms=str(NOW - HOUR))
    (again,) = User("u:bob").send(one).outputs
    assert (again.headers[headers.VIA], again.headers[headers.OFFSET]) == (b"reroute", b"2")


FORGED = {
    "no numbers": ("one", "two", "three"),
    "missing": (None, None, None),
    "partly missing": ("1", "2", None),
    "empty": ("", "", ""),
    "negative": ("-1", "-2", "-3"),
    "fractions": ("1.5", "2.5", "3.5"),
    "partition beyond 32 bits": (str(2**31), "1", str(NOW)),
    "offset beyond 64 bits": ("1", str(2**63), str(NOW)),
    "thousands of digits": ("9" * 5_000, "9" * 5_000, "9" * 5_000),
    "appended in the future": ("1", "2", str(NOW + DAY)),
    "appended in the year 5138": ("1", "2", str(10**14)),
    "appended in 1969": ("1", "2", "0"),
}


@pytest.mark.parametrize("name", FORGED)
def test_headers_that_cannot_be_ours_are_ignored(name: str) -> None:
    """Contract: anyone may write headers; they neither stop the job nor move an event in time."""
    partition, offset, append_ms = FORGED[name]
    one = record(
        raw(), offset=99, via="replay", first_partition=partition, first_offset=offset, first_append_ms=append_ms
    )
    (found,) = interactions(User().send(one))
    assert (found.partition, found.offset, found.append_ms) == (3, 99, NOW)


def test_an_unknown_via_is_no_note() -> None:
    """Contract: what stands in a header does not reach other jobs, however long it is."""
    one = record(raw(), offset=99, via="x" * 1_000_000, first_partition="1", first_offset="2", first_append_ms=str(NOW))
    (found,) = interactions(User().send(one))
    assert (found.notes, found.offset) == ([], 99)


@pytest.mark.parametrize(("key", "user_id"), [("u:bob", "alice"), ("s:other", None), ("p:events:3", None)])
def test_a_forged_alias_does_not_bring_an_event_to_another_key(key: str, user_id: str | None) -> None:
    outcome = User(key).send(record(raw(user_id=user_id), key, via="alias"))
    assert (interactions(outcome), outcome.outputs[0].topic) == ([], topics.EVENTS)


# ── duplicates and latecomers ────────────────────────────────────────────────────────────────────────────────────────


def test_a_duplicate_leaves_a_trace_only() -> None:
    user = User()
    user.event(event_id="e1")
    outcome = user.event(event_id="e1")
    assert (outcome.outputs, counts(outcome)) == ([], {"events_duplicate": 1})
    assert not_applied(user)[0][0] == "duplicate"
    assert user.state.event_no == 1


def test_a_late_event_goes_to_its_topic_as_it_came() -> None:
    user = User()
    one = record(raw(event_id="e1", ts_ms=NOW - 2 * DAY), offset=17)
    outcome = user.send(one)
    (late,) = outcome.outputs
    assert (late.topic, late.key, late.value) == (topics.EVENTS_LATE, b"u:alice", one.value)
    assert late.headers[headers.REASON] == b"late"
    assert (late.headers[headers.PARTITION], late.headers[headers.OFFSET]) == (b"3", b"17")
    assert not_applied(user) == [("late", 3, 17, f"{id_hash('e1'):016x}")]
    assert counts(outcome) == {"events_late": 1}


def test_an_old_record_that_waited_on_the_topic_is_not_late() -> None:
    """Contract: lateness is event time against append time; how long the job was down does not matter."""
    user = User()
    user.now_ms = NOW + 3 * DAY
    outcome = user.send(record(raw(ts_ms=NOW), append_ms=NOW))
    assert len(interactions(outcome)) == 1


def test_overflow_of_the_duplicate_memory_is_counted() -> None:
    state = UserState()
    for n in range(512):
        apply_event(state, event("scroll", event_id=f"o{n}"), Position(3, n, NOW))
    user = User()
    user.blob = encode(state)
    assert counts(user.event())["dedup_overflow"] == 1


# ── identity ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_new_session_id_is_claimed_once() -> None:
    user = User()
    assert identities(user.event(session_id="s1")) == [("s:s1", Claim("s:s1", "u:alice", NOW))]
    assert identities(user.event(session_id="s1")) == []
    assert identities(user.event(session_id="s2")) == [("s:s2", Claim("s:s2", "u:alice", NOW))]


def test_a_login_claims_every_time() -> None:
    user = User()
    user.event(session_id="s1")
    assert identities(user.event("login", session_id="s1")) == [("s:s1", Claim("s:s1", "u:alice", NOW))]


def test_a_logout_releases_the_session() -> None:
    user = User()
    user.event(session_id="s1")
    assert identities(user.event("logout", session_id="s1")) == [("s:s1", Release("s:s1", "u:alice", NOW))]
    assert identities(user.event(session_id="s1")) == [("s:s1", Claim("s:s1", "u:alice", NOW))]


def test_a_logout_as_first_event_claims_nothing() -> None:
    assert identities(User().event("logout")) == [("s:s1", Release("s:s1", "u:alice", NOW))]


def test_an_anonymous_user_claims_nothing() -> None:
    assert identities(User("s:s1").event(user_id=None)) == []


def test_a_session_moves_to_its_user() -> None:
    """The whole way: anonymous clicks, a login, the claim, the merge, a straggler under the old key."""
    anonymous, alice = User("s:s1"), User("u:alice")
    anonymous.event(user_id=None, item="a", event_id="e1")
    ((key, wanted),) = identities(alice.event("login", ts_ms=NOW + 5))
    assert key == anonymous.key
    outcome = anonymous.identity(wanted)
    ((key, moved),) = identities(outcome)
    assert (key, counts(outcome)) == (alice.key, {"identity_handed_over": 1})
    outcome = alice.identity(moved)
    assert counts(outcome) == {"identity_merged": 1, "rankings_deferred": 1}
    assert alice.state.session().item_ids == ["a"]
    alice.advance(NOW + THROTTLE)
    assert (alice.tasks[-1].surfaces, alice.tasks[-1].trigger) == (["home"], "identity")

    late = anonymous.event(user_id=None, item="b", event_id="e2", ts_ms=NOW + 10)
    (forwarded,) = late.outputs
    assert (forwarded.topic, forwarded.key) == (topics.EVENTS, b"u:alice")
    assert not_applied(anonymous)[-1][0] == "moved"
    assert anonymous.state.session().item_ids == []
    (found,) = interactions(alice.send(put_back(forwarded, "u:alice")))
    assert (found.key, found.event_no, found.notes) == ("u:alice", 2, ["alias"])
    assert alice.state.session().item_ids == ["a", "b"]


def test_what_the_anonymous_key_shows_after_the_move_is_empty() -> None:
    anonymous = User("s:s1")
    anonymous.event(user_id=None)
    outcome = anonymous.identity(Claim("s:s1", "u:alice", NOW))
    assert outcome.task is not None
    assert (outcome.task.surfaces, decode(outcome.task.state).session().item_ids) == ([], [])


def test_merging_again_is_counted_and_changes_nothing() -> None:
    user = User()
    moved = Merge("u:alice", "s:s1", 0, encode(UserState()))
    user.identity(moved)
    assert counts(user.identity(moved)) == {"identity_merged_before": 1}


def test_after_a_release_events_stay_with_the_anonymous_key() -> None:
    anonymous = User("s:s1")
    anonymous.identity(Claim("s:s1", "u:alice", NOW))
    anonymous.identity(Release("s:s1", "u:alice", NOW + 1))
    assert len(interactions(anonymous.event(user_id=None))) == 1


def _with_a_slot_that_is_not_there() -> bytes:
    state = UserState()
    state.session_slots.append(9)
    state.session_actions.append(1)
    state.session_ts.append(0)
    return encode(state)


@pytest.mark.parametrize(
    "value",
    [
        b"junk",
        b"{}",
        b'{"type":"steal","key":"u:alice"}',
        None,
        encode_identity(Claim("s:other", "u:alice", NOW)),
        encode_identity(Merge("u:alice", "s:s1", 0, b"\x07 from a later release")),
        encode_identity(Merge("u:alice", "s:s1", 0, b"")),
        encode_identity(Merge("u:alice", "s:s1", 0, _with_a_slot_that_is_not_there())),
    ],
)
def test_a_wrong_identity_record_is_dead_and_changes_nothing(value: bytes | None) -> None:
    user = User()
    user.event()
    before = user.blob
    outcome = user.send(record(value, "u:alice", topics.IDENTITY))
    (dead,) = outcome.outputs
    assert (dead.topic, dead.value, dead.headers[headers.TOPIC]) == (topics.EVENTS_DLQ, value, b"identity")
    assert user.blob == before


def test_a_duplicate_of_what_was_applied_before_the_login_is_not_forwarded() -> None:
    """Contract: the user's key learns these event ids only with the merge; a duplicate must not get there before it."""
    session = User("s:s1")
    session.event(event_id="e1", user_id=None)
    session.identity(Claim("s:s1", "u:alice", NOW))
    outcome = session.event(event_id="e1", user_id=None)
    assert on_topic(outcome, topics.EVENTS) == []
    assert counts(outcome) == {"events_duplicate": 1}
    assert on_topic(session.event(event_id="e2", user_id=None), topics.EVENTS) != []


def test_a_timer_that_is_set_is_not_set_again() -> None:
    """Contract: registering costs as much as a state access, and a user who clicks fast waits for one timer only."""
    user = User()
    user.event(event_id="e1")
    assert [bool(user.event(event_id=f"e{n}").timers_ms) for n in range(2, 5)] == [True, False, False]


# ── requests ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_request_for_a_session_that_has_logged_in_is_the_users() -> None:
    """Contract: whoever asks by the session's id gets a list from the state that the session was merged into."""
    session, user = User("s:s1"), User("u:alice")
    session.event(event_id="e1", user_id=None)
    session.identity(Claim("s:s1", "u:alice", NOW))
    outcome = session.request(user_id=None, session_id="s1")
    assert outcome.task is None
    (sent_on,) = on_topic(outcome, topics.RANK_REQUESTS)
    assert sent_on.key == b"u:alice"
    answered = user.send(
        record(sent_on.value, "u:alice", topics.RANK_REQUESTS, via=sent_on.headers[headers.VIA].decode())
    )
    assert answered.task is not None and answered.task.key == "u:alice"


def test_a_request_is_ranked_at_once() -> None:
    user = User()
    user.event(props={"surface": "shop"})
    task = user.request(surface="shop", k=5).task
    assert task is not None
    assert (task.surfaces, task.trigger, task.request and task.request.k) == (["shop"], "request", 5)


def test_a_request_serves_what_waited_for_the_throttle() -> None:
    user = User()
    user.event(props={"surface": "shop"})
    user.event()
    user.request(surface="shop")
    assert user.state.tail.pending == []


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"request_id": "r1"}, "missing required field"),
        ({"request_id": "r1", "session_id": "s1", "ts_ms": 1, "schema_version": 2, "k": 0}, "$.k"),
        ({"request_id": "r1", "session_id": "s1", "ts_ms": 1, "schema_version": 2, "z" * 900_000: 0}, "unknown field"),
    ],
)
def test_a_bad_request_is_answered_and_dead(value: dict[str, Any], said: str) -> None:
    user = User()
    outcome = user.send(record(json.dumps(value).encode(), "u:alice", topics.RANK_REQUESTS))
    response = answer(outcome)
    assert response.request_id == "r1"
    assert said in (response.error or "")
    (dead,) = on_topic(outcome, topics.EVENTS_DLQ)
    assert sum(map(len, dead.headers.values())) < 2_000
    assert len(encode_json(response)) < 2_000


@pytest.mark.parametrize(
    "value", [b"junk", b"[]", b'{"request_id":7}', None, b'{"request_id":"' + b"r" * 900_000 + b'"}']
)
def test_a_request_without_a_usable_id_is_only_dead(value: bytes | None) -> None:
    outcome = User().send(record(value, "u:alice", topics.RANK_REQUESTS))
    assert [one.topic for one in outcome.outputs] == [topics.EVENTS_DLQ]


def test_a_bad_request_is_not_mistaken_for_an_event() -> None:
    """Contract: traces and offsets are of the topic `events`; another topic's offset 17 must not answer for it."""
    user = User()
    user.event()
    before = user.blob
    user.send(record(b"junk", "u:alice", topics.RANK_REQUESTS, offset=17))
    assert user.blob == before


def test_an_expired_request_is_answered_without_ranking() -> None:
    outcome = User().request(reply_by_ms=NOW - 1)
    assert (answer(outcome).error or "").startswith("expired")
    assert (outcome.task, outcome.store) == (None, None)


def test_a_request_in_time_is_ranked() -> None:
    assert User().request(reply_by_ms=NOW).task is not None


def test_a_request_under_another_key_is_put_back_then_answered() -> None:
    (again,) = User("u:bob").request().outputs
    assert (again.topic, again.key) == (topics.RANK_REQUESTS, b"u:alice")
    outcome = User("u:carol").send(put_back(again, "u:carol"))
    assert on_topic(outcome, topics.EVENTS_DLQ)
    assert "another key" in (answer(outcome).error or "")


def test_candidates_are_remembered_for_events() -> None:
    user = User()
    user.request(candidates=["i1", "i2"], surface="shop")
    user.advance(NOW + MINUTE)
    outcome = user.event()
    assert outcome.task is not None
    assert outcome.task.surfaces == ["shop"]
    assert decode(outcome.task.state).tail.candidates == {"shop": ["i1", "i2"]}


def test_too_many_candidates_leave_the_surface_to_requests() -> None:
    user = User()
    user.request(candidates=[f"i{n}" for n in range(REMEMBERED_CANDIDATES + 1)], surface="shop")
    user.advance(NOW + MINUTE)
    outcome = user.event()
    assert outcome.task is not None
    assert outcome.task.surfaces == []


def test_a_request_without_candidates_gives_the_surface_back() -> None:
    user = User()
    user.request(candidates=["i1"], surface="shop")
    user.request(surface="shop")
    assert user.state.tail.candidates == {}


def test_explaining_does_not_touch_the_surface() -> None:
    user = User()
    user.request(candidates=["i1"], surface="shop")
    before = user.state.tail
    task = user.request(explain=True, surface="shop").task
    assert task is not None
    assert task.request is not None
    assert task.request.explain
    assert (user.state.tail.candidates, user.state.tail.surfaces) == (before.candidates, before.surfaces)


def test_a_callers_clock_that_runs_ahead_does_not_keep_its_surface_active() -> None:
    user = User()
    user.request(surface="shop", ts_ms=NOW + 10 * DAY)
    assert user.state.tail.surfaces["shop"].seen_ms == NOW


def test_requests_for_many_surfaces_keep_the_state_small() -> None:
    user = User()
    for n in range(200):
        user.request(surface=f"s{n}", candidates=["鞋" * 64] * 100, ts_ms=NOW - 200 + n)
    assert len(user.state.tail.surfaces) <= 8
    assert set(user.state.tail.candidates) <= set(user.state.tail.surfaces)


def test_the_request_travels_with_its_task() -> None:
    task = User().request(candidates=["i1"], context={"device": "mobile"}).task
    assert task is not None
    assert isinstance(task.request, RankRequest)
    assert (task.request.candidates, task.request.context and task.request.context.device) == (["i1"], "mobile")


# ── how often ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "kinds", [["click"], ["impression"], ["click", "impression"], ["impression", "impression", "click", "view"]]
)
def test_2000_events_a_second_are_50_tasks(kinds: list[str]) -> None:
    """Contract: a bot, or a replay by one user, cannot rank more than 50 times a second; the last list has seen everything."""
    user = User()
    for n in range(2_000):
        user.advance(NOW + n // 2)
        user.event(kinds[n % len(kinds)])
    last = user.now_ms
    assert len(user.tasks) <= 1_000 // THROTTLE + 1
    user.advance(last + THROTTLE)
    assert decode(user.tasks[-1].state).event_no == 2_000
    if "click" in kinds:
        seen_by_a_list = [decode(task.state) for task in user.tasks if task.surfaces][-1]
        assert "impression" in kinds or seen_by_a_list.event_no == 2_000
        assert user.state.tail.pending == []


def test_an_event_that_comes_before_an_overdue_timer_does_not_undo_it() -> None:
    """Contract: a ranking that waits is ranked, though a record was handled between its time and its timer."""
    user = User()
    user.event()
    user.now_ms = NOW + 1
    user.event(item="last")
    user.now_ms = NOW + 2 * THROTTLE  # the timer is due, but a record is handled first
    user.event("impression")
    user.advance(user.now_ms)
    lists = [task for task in user.tasks if task.surfaces]
    assert decode(lists[-1].state).session().item_ids[-1] == "last"
    assert user.state.tail.pending == []


def test_a_stale_timer_does_nothing_but_store() -> None:
    user = User()
    user.event()
    user.timers.add(NOW + 5)
    (outcome,) = user.advance(NOW + 5)
    assert outcome is not None
    assert (outcome.task, outcome.outputs) == (None, [])


def test_old_records_are_ranked_once_with_what_is_newest() -> None:
    """Contract: while the job catches up, each user is ranked once a second, not once an event."""
    user = User()
    user.now_ms = NOW + HOUR
    for n in range(300):
        user.send(record(raw(item=f"i{n}", ts_ms=NOW + n), append_ms=NOW + n))
    assert user.tasks == []
    user.advance(NOW + HOUR + 1_000)
    (task,) = user.tasks
    assert (task.surfaces, task.trigger, decode(task.state).event_no) == (["home"], "click", 300)
    assert task.append_ms == NOW, "how old what waited is"
    assert user.state.tail.waiting_since_ms == 0


def test_after_catching_up_it_is_at_once_again() -> None:
    user = User()
    user.now_ms = NOW + HOUR
    user.send(record(raw(ts_ms=NOW), append_ms=NOW))
    outcome = user.event()
    assert outcome.task is not None
    assert outcome.task.surfaces == ["home"]


def test_a_deferred_ranking_is_counted() -> None:
    user = User()
    user.event()
    assert counts(user.event())["rankings_deferred"] == 1


# ── clearing ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_user_is_cleared_90_days_after_the_last_record() -> None:
    user = User()
    user.event()
    user.advance(NOW + 90 * DAY - 1)
    assert user.blob
    user.advance(NOW + 90 * DAY + HOUR)
    assert not user.blob


def test_a_record_on_day_80_moves_clearing_to_day_170() -> None:
    user = User()
    user.event()
    user.advance(NOW + 80 * DAY)
    user.event()
    user.advance(NOW + 170 * DAY - 1)
    assert user.blob
    user.advance(NOW + 170 * DAY + HOUR)
    assert not user.blob


def test_there_is_one_clean_up_timer() -> None:
    user = User()
    for n in range(50):
        user.advance(NOW + n * MINUTE)
        user.event()
    far = [at_ms for at_ms in user.timers if at_ms > user.now_ms + DAY]
    assert len(far) == 1
    assert far[0] % HOUR == 0


def test_a_timer_says_nothing_about_when_the_user_was_last_heard_of() -> None:
    user = User()
    user.event()
    user.event()
    user.advance(NOW + THROTTLE)
    assert user.state.updated_ms == NOW


# ── experiments ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_ranking_is_stamped_with_the_arms_of_the_first_seen_unit() -> None:
    """Contract: an anonymous session and the account it becomes are one unit; each ranking says its arms and bundle."""
    begin = datetime.fromtimestamp(NOW / 1000, timezone.utc)
    arms = (Arm(name="control", weight=0.5), Arm(name="new", weight=0.5, bundle="b2"))
    running = Experiment(name="ranker", arms=arms, start=begin, end=begin + timedelta(days=1))
    assignment = Assignment(Definition(version="v1", salt="x", layers=(Layer(name="l", experiments=(running,)),)))
    stamp = STAMP._replace(experiments=assignment)
    seen = set()
    for n in range(20):
        expected = assignment.of(f"s:s{n}", "", "home", NOW)
        assert expected is not None
        for key, user_id in ((f"s:s{n}", None), (f"u:new{n}", f"new{n}")):
            value = raw("click", "i1", user_id=user_id, session_id=f"s{n}", ts_ms=NOW)
            outcome = handle(None, key, record(value, key, append_ms=NOW), NOW, stamp, RULES)
            assert outcome.task is not None and outcome.task.stamped == {"home": expected}
            assert [one.arms for one in interactions(outcome)] == [expected.arms]
        seen.add((expected.arms["ranker"], outcome.task.stamped_of("home").bundle))
    assert seen == {("control", "b1"), ("new", "b2")}


def test_without_experiments_nothing_is_stamped() -> None:
    outcome = User().event()
    assert outcome.task is not None and outcome.task.stamped == {}
    assert [one.arms for one in interactions(outcome)] == [{}]
    assert outcome.task.stamped_of("home").bundle == "b1"
