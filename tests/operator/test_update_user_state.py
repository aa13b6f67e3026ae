"""UpdateUserState on fakes: what is read, stored, timed, counted and emitted. What is decided is in tests/unit/test_records.py."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pyflink.common import Row
from pyflink.common.typeinfo import Types
from pyflink.datastream import OutputTag

from schemas import topics
from schemas.identity import Claim, encode_identity
from schemas.ranking import RankTask, decode_task
from schemas.record import Record
from schemas.user_state import UnknownStateVersion, decode
from tests.fakes import DAY, HOUR, NOW, FakeClock, FakeContext, FakeRuntimeContext, raw, record
from udfs import update_user_state
from udfs.logic import sessions
from udfs.logic.records import Rules
from udfs.logic.sampled_parity import decode_log, samples
from udfs.update_user_state import UpdateUserState

RECORDS = OutputTag("records", Types.STRING())
EXACT = OutputTag("exact", Types.STRING())


class Harness:
    """The operator with one key, opened, on a clock that the test moves."""

    def __init__(self, clock: FakeClock, key: str = "u:alice", bundle: str | None = None) -> None:
        self.clock, self.runtime, self.context = clock, FakeRuntimeContext(), FakeContext(key)
        self.operator = UpdateUserState(7, bundle, Rules(), RECORDS, EXACT, "test-")
        self.operator.open(self.runtime)

    def send(self, one: Record) -> list[Any]:
        return list(self.operator.process_element(Row(*one), self.context))

    def fire(self, at_ms: int) -> list[Any]:
        self.clock.now = at_ms / 1000
        self.context.timers.timers.discard(at_ms)
        return list(self.operator.on_timer(at_ms, self.context))

    def control(self, value: bytes | None) -> list[Any]:
        return list(self.operator.process_broadcast_element(Row(value), self.context) or ())

    @property
    def counts(self) -> dict[str, int]:
        return self.runtime.metrics.counts()

    @property
    def timers(self) -> list[int]:
        return sorted(self.context.timers.timers)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    found = FakeClock(NOW / 1000)
    monkeypatch.setattr(update_user_state, "time", found)
    return found


@pytest.fixture
def alice(clock: FakeClock) -> Harness:
    return Harness(clock)


def tasks(emitted: list[Any]) -> list[RankTask]:
    return [decode_task(one) for one in emitted if isinstance(one, bytes)]


def side(emitted: list[Any], tag: OutputTag) -> list[Row]:
    return [one[1] for one in emitted if isinstance(one, tuple) and one[0] is tag]


# ── records ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_event_is_one_read_and_one_write(alice: Harness) -> None:
    alice.send(record(raw()))
    assert (alice.runtime.state.reads, alice.runtime.state.writes) == (1, 1)
    assert decode(alice.runtime.state.stored).event_no == 1


def test_the_next_event_starts_from_what_was_stored(alice: Harness) -> None:
    alice.send(record(raw(item="i1")))
    alice.send(record(raw(item="i2")))
    assert decode(alice.runtime.state.stored).session().item_ids == ["i1", "i2"]


def test_an_event_emits_its_task_on_the_main_output(alice: Harness) -> None:
    (task,) = tasks(alice.send(record(raw())))
    assert (task.key, task.surfaces, task.state_epoch, task.bundle, task.now_ms) == ("u:alice", ["home"], 7, None, NOW)
    assert task.state == alice.runtime.state.stored


def test_interactions_and_identity_go_to_the_exactly_once_sink(alice: Harness) -> None:
    """Contract: namespace in front of the topic, the user's key as bytes."""
    emitted = alice.send(record(raw()))
    assert [(row[0], row[1]) for row in side(emitted, EXACT)] == [
        ("test-interactions", b"u:alice"),
        ("test-identity", b"s:s1"),
    ]
    assert side(emitted, RECORDS) == []


@pytest.mark.parametrize(
    ("value", "topic"),
    [
        (b"junk", "test-events-dlq"),
        (raw(ts_ms=NOW - 2 * DAY), "test-events-late"),
        (raw(user_id="bob"), "test-events"),
    ],
)
def test_what_is_not_applied_goes_to_the_other_sink(alice: Harness, value: bytes, topic: str) -> None:
    emitted = alice.send(record(value))
    assert [row[0] for row in side(emitted, RECORDS)] == [topic]
    assert side(emitted, EXACT) == []


def test_a_dead_letter_has_its_bytes_and_headers(alice: Harness) -> None:
    (row,) = side(alice.send(record(b"\xff\xfe", offset=17)), RECORDS)
    assert row[2] == b"\xff\xfe"
    assert (row[3]["riffle-reason"], row[3]["riffle-offset"]) == (b"not_utf8", b"17")


def test_junk_without_a_key_keeps_no_state(clock: FakeClock) -> None:
    harness = Harness(clock, "p:events:3")
    harness.send(record(b"junk", None))
    assert (harness.runtime.state.stored, harness.timers) == (None, [])


def test_counters_count(alice: Harness) -> None:
    one = record(raw(event_id="same"))
    alice.send(one)
    alice.send(one)
    alice.send(record(b"junk"))
    counted = alice.counts
    assert (counted["events_applied"], counted["events_duplicate"], counted["rejected_not_json"]) == (1, 1, 1)


def test_time_spent_is_told_by_the_millisecond(alice: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """Contract: what is not told yet is not lost, and stays below a millisecond."""
    readings = iter(range(0, 10**9, 400_500))  # two a record: each takes 400.5 us
    monkeypatch.setattr(alice.clock, "perf_counter_ns", lambda: next(readings))
    told = []
    for number in range(5):
        alice.send(record(raw(event_id=f"e{number}")))
        told.append(alice.counts.get("records_us", 0))
    assert told == [0, 0, 1201, 1201, 1201]
    alice.send(record(raw(event_id="e5")))
    assert alice.counts["records_us"] == 6 * 4005 // 10


def test_state_of_another_release_stops_the_job_with_a_plain_sentence(alice: Harness) -> None:
    """Contract: going on would overwrite what a newer release has stored."""
    alice.runtime.state.stored = b"\x09" + bytes(60)
    with pytest.raises(UnknownStateVersion, match="version 9"):
        alice.send(record(raw()))


def test_requests_and_identity_come_by_the_same_way(clock: FakeClock) -> None:
    alice, anonymous = Harness(clock), Harness(clock, "s:s1")
    body = {"request_id": "r1", "session_id": "s1", "user_id": "alice", "ts_ms": NOW, "schema_version": 2, "k": 3}
    (task,) = tasks(alice.send(record(json.dumps(body).encode(), topic=topics.RANK_REQUESTS)))
    assert task.request is not None
    assert task.request.k == 3
    anonymous.send(record(raw(user_id=None), "s:s1"))
    emitted = anonymous.send(record(encode_identity(Claim("s:s1", "u:alice", NOW)), "s:s1", topics.IDENTITY))
    assert [(row[0], row[1]) for row in side(emitted, EXACT)] == [("test-identity", b"u:alice")]


# ── timers ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_user_has_one_clean_up_timer_on_the_hour(alice: Harness) -> None:
    for n in range(5):
        alice.clock.now = NOW / 1000 + n
        alice.send(record(raw(), append_ms=NOW + n * 1000))
    (only,) = alice.timers
    assert only % HOUR == 0
    assert 90 * DAY < only - NOW <= 90 * DAY + HOUR


def test_the_throttles_timer_ranks_what_waits(alice: Harness) -> None:
    alice.send(record(raw(item="i1")))
    assert tasks(alice.send(record(raw(item="i2")))) == []
    throttle = alice.timers[0]
    assert throttle == NOW + 20
    (task,) = tasks(alice.fire(throttle))
    assert decode(task.state).session().item_ids == ["i1", "i2"]
    assert (task.surfaces, task.trigger) == (["home"], "click")


def test_state_is_cleared_when_the_user_has_been_away(alice: Harness) -> None:
    alice.send(record(raw()))
    removed = side(alice.fire(alice.timers[-1]), RECORDS)
    assert alice.runtime.state.stored is None
    assert alice.counts["users_cleared"] == 1
    # The compacted topics forget the user too.
    assert [(row[0], row[1], row[2]) for row in removed] == [
        (f"test-{topics.FEATURES}", b"u:alice", None),
        (f"test-{topics.RANKED_FEED_LATEST}", b"u:alice|home", None),
    ]


def test_a_user_who_came_back_gets_a_new_timer(alice: Harness) -> None:
    alice.send(record(raw()))
    (clean_up,) = alice.timers
    alice.clock.now = (NOW + 30 * DAY) / 1000
    alice.send(record(raw(ts_ms=NOW + 30 * DAY), append_ms=NOW + 30 * DAY))
    alice.fire(clean_up)
    assert alice.runtime.state.stored is not None
    (later,) = alice.timers
    assert 120 * DAY < later - NOW <= 120 * DAY + HOUR


def test_a_timer_of_a_cleared_user_does_nothing(alice: Harness) -> None:
    assert alice.fire(NOW + 20) == []
    assert alice.runtime.state.writes == 0


# ── control ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_activated_bundle_is_stamped_on_every_task(alice: Harness) -> None:
    alice.control(b'{"type":"activate_bundle","version":"2026-01-b"}')
    (task,) = tasks(alice.send(record(raw())))
    assert task.bundle == "2026-01-b"
    assert alice.counts["bundles_activated"] == 1


def test_it_replaces_the_bundle_of_the_submission_also_in_use(clock: FakeClock) -> None:
    alice = Harness(clock, bundle="first")
    assert tasks(alice.send(record(raw())))[0].bundle == "first"
    alice.control(b'{"type":"activate_bundle","version":"second"}')
    alice.clock.now += 1
    assert tasks(alice.send(record(raw(), append_ms=NOW + 1000)))[0].bundle == "second"


def test_after_a_restore_the_bundle_is_what_control_said(clock: FakeClock) -> None:
    """Contract: it is broadcast state, not a field of the operator."""
    before, after = Harness(clock), Harness(clock, bundle="first")
    before.control(b'{"type":"activate_bundle","version":"second"}')
    after.context.broadcast = before.context.broadcast
    assert tasks(after.send(record(raw())))[0].bundle == "second"


@pytest.mark.parametrize(
    "value",
    [
        None,
        b"",
        b"junk",
        b"[]",
        b'{"type":"unheard_of"}',
        b'{"type":"activate_bundle"}',
        b'{"type":"activate_bundle","version":"../../etc"}',
        b'{"type":"activate_bundle","version":".."}',
        b'{"type":"activate_bundle","version":"b1\\n"}',
    ],
)
def test_bad_control_is_counted_and_changes_nothing(alice: Harness, value: bytes | None) -> None:
    assert alice.control(value) == []
    assert alice.counts == {"control_rejected": 1}
    assert alice.context.broadcast.entries == {}


def test_published_experiments_stamp_rankings_and_survive_a_restart(clock: FakeClock) -> None:
    """Contract: the definition is in broadcast state; one with faults is counted and changes nothing."""
    user = Harness(clock)
    arms = [{"name": "control", "weight": 0.5, "bundle": "b1"}, {"name": "new", "weight": 0.5, "bundle": "b2"}]
    running = {"name": "ranker", "arms": arms, "start": "2020-01-01T00:00:00Z", "end": "2100-01-01T00:00:00Z"}
    definition = {"version": "v1", "salt": "x", "layers": [{"name": "l", "experiments": [running]}]}
    user.control(json.dumps({"type": "experiments", "definition": definition}).encode())
    arms[0]["weight"] = 0.6
    user.control(json.dumps({"type": "experiments", "definition": definition}).encode())
    assert (user.counts["experiments_published"], user.counts["control_rejected"]) == (1, 1)
    before = next(decode_task(one) for one in user.send(record(raw(event_id="e1"))) if isinstance(one, bytes))
    assert before.stamped["home"].arms.keys() == {"ranker"}
    user.operator.open(user.runtime)
    clock.now += 1
    after = next(decode_task(one) for one in user.send(record(raw(event_id="e2"))) if isinstance(one, bytes))
    assert after.stamped == before.stamped


SAMPLED = next(f"user-{number}" for number in range(10_000) if samples(f"u:user-{number}"))


def of_sampled(kind: str, item: str) -> Record:
    return record(raw(kind, item, user_id=SAMPLED), key=f"u:{SAMPLED}")


def test_a_sampled_users_state_is_compared_with_what_happened(clock: FakeClock) -> None:
    one = Harness(clock, f"u:{SAMPLED}")
    for item in ("boot", "lamp", "boot"):
        one.send(of_sampled("click", item))
    assert one.counts["parity_checked"] == 3
    assert "parity_different" not in one.counts
    assert len(decode_log(one.runtime.others["sampled"].stored).happened) == 3


def test_a_sampled_users_state_that_is_wrong_is_counted_and_named_by_its_offset(
    clock: FakeClock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Contract: an injected one-line change is found; the log says where, and not whose."""
    monkeypatch.setattr(sessions, "ACTION_KIND", {})  # nothing is counted any more
    one = Harness(clock, f"u:{SAMPLED}")
    sent = of_sampled("click", "boot")
    one.send(sent)
    assert one.counts["parity_different"] == 1
    assert f"counts differ from what happened, at offset {sent.offset} of partition 3" in caplog.text
    assert SAMPLED not in caplog.text


def test_who_is_not_in_the_sample_costs_no_second_state(clock: FakeClock) -> None:
    alice = Harness(clock)
    alice.send(record(raw()))
    assert "parity_checked" not in alice.counts
    assert alice.runtime.others["sampled"].reads == alice.runtime.others["sampled"].writes == 0
