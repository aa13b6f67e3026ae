"""UpdateTrainingLog on fakes: what is stored, timed, counted and emitted. What is decided is in tests/unit/test_attribution.py."""

from __future__ import annotations

import msgspec
import pytest
from pyflink.common import Row

from schemas import topics
from schemas.decision import encode_decision
from schemas.interaction import Interaction, encode_interaction
from schemas.ranking import encode_json
from schemas.training import decode_row, decode_unmatched
from schemas.training_state import encode
from schemas.user_state import UnknownStateVersion
from tests.fakes import FakeContext, FakeRuntimeContext
from tests.unit.test_attribution import BASE, RULES, decided, interaction, ranked, shown
from udfs.logic.attribution import Trail
from udfs.update_training_log import UpdateTrainingLog


class Harness:
    """The operator with one key, opened, on a watermark that the test moves."""

    def __init__(self) -> None:
        self.runtime, self.context = FakeRuntimeContext(), FakeContext("u:alice")
        self.operator = UpdateTrainingLog(RULES, "test-")
        self.operator.open(self.runtime)
        self.offset = 0

    def send(self, topic: str, value: bytes | None) -> list[Row]:
        self.offset += 1
        row = Row(topic, "u:alice", value, 3, self.offset, BASE)
        return list(self.operator.process_element(row, self.context))

    def happen(self, one: Interaction) -> list[Row]:
        return self.send(topics.INTERACTIONS, encode_interaction(one))

    def advance(self, to_ms: int) -> list[Row]:
        """Move the watermark, and fire what is due in order of time, as Flink does."""
        timers, emitted = self.context.timers, []
        timers.watermark = to_ms
        while timers.timers and min(timers.timers) <= to_ms:
            at_ms = min(timers.timers)
            timers.timers.remove(at_ms)
            emitted += list(self.operator.on_timer(at_ms, self.context))
        return emitted

    @property
    def counts(self) -> dict[str, int]:
        return self.runtime.metrics.counts()


@pytest.fixture
def log() -> Harness:
    return Harness()


def test_a_decision_gives_the_row_its_propensity(log: Harness) -> None:
    log.send(topics.RANKED_FEED, encode_json(ranked()))
    log.send(topics.RANKINGS_LOG, encode_decision(decided()))
    log.happen(shown("i1", BASE))
    (row,) = log.happen(interaction("c1", "click", "a", BASE + 4))
    served = decode_row(bytes(row[2])).served
    assert (served.slot, served.propensity) == ("exploit", 0.5)


def test_a_decision_that_cannot_be_read_is_named(log: Harness) -> None:
    (row,) = log.send(topics.RANKINGS_LOG, b"RD\x09")
    assert decode_unmatched(bytes(row[2])).place == "3:1"


def test_a_click_on_a_list_becomes_a_row(log: Harness) -> None:
    assert log.send(topics.RANKED_FEED, encode_json(ranked())) == []
    assert log.happen(shown("i1", BASE)) == []
    (row,) = log.happen(interaction("c1", "click", "a", BASE + 4))
    assert (row[0], row[1]) == ("test-training-rows", b"u:alice")
    assert decode_row(row[2]).delay_ms == {"click": 4}
    assert log.counts == {"lists_taken": 1, "exposures": 1, "outcomes": 1, "rows": 1}


def test_windows_close_with_the_watermark_and_all_state_goes(log: Harness) -> None:
    log.send(topics.RANKED_FEED, encode_json(ranked()))
    log.happen(shown("i1", BASE))
    assert log.advance(BASE + 29) == []
    rows = log.advance(BASE + 10_000)
    assert [decode_row(row[2]).revision for row in rows] == [1, 2, 3]
    assert (log.runtime.map_state.entries, log.context.timers.timers) == ({}, set())


def test_two_items_that_are_due_together_are_both_seen_to(log: Harness) -> None:
    log.send(topics.RANKED_FEED, encode_json(ranked()))
    for number, item in enumerate("ab"):
        log.happen(shown(f"i{number}", BASE, item=item))
    assert sorted(decode_row(row[2]).item_id for row in log.advance(BASE + 30)) == ["a", "b"]


def test_what_cannot_be_joined_is_put_aside_by_name(log: Harness) -> None:
    log.happen(shown("i1", BASE, list_id="?"))
    log.happen(interaction("c1", "click", "b", BASE))
    rows = log.advance(BASE + 10_000)
    assert {row[0] for row in rows} == {"test-training-unmatched"}
    found = {(one.reason, one.event_id, one.kind) for one in (decode_unmatched(row[2]) for row in rows)}
    assert found == {("unknown_list", "i1", "impression"), ("no_exposure", "c1", "click")}
    assert log.counts["unmatched_unknown_list"] == log.counts["unmatched_no_exposure"] == 1


@pytest.mark.parametrize("topic", [topics.INTERACTIONS, topics.RANKED_FEED])
@pytest.mark.parametrize("value", [None, b"", b"nonsense", b'{"key":"u:alice"}', b"\xff"])
def test_what_cannot_be_read_stops_nothing(log: Harness, topic: str, value: bytes | None) -> None:
    (row,) = log.send(topic, value)
    found = decode_unmatched(row[2])
    assert (found.reason, found.kind, found.place) == ("unreadable", topic, "3:1")


def test_an_entry_is_written_by_itself(log: Harness) -> None:
    """Contract: an event touches the entries of its item, its list and its timer, and no others."""
    log.send(topics.RANKED_FEED, encode_json(ranked()))
    for number in range(20):
        log.happen(interaction(f"c{number}", "click", f"other-{number}", BASE + number))
    before = dict(log.runtime.map_state.entries)
    log.happen(shown("i1", BASE + 30))
    changed = {name for name, blob in log.runtime.map_state.entries.items() if before.get(name) != blob}
    assert changed == {"ia", "lL", f"t{BASE + 60}"}


def test_state_of_a_newer_release_stops_the_job(log: Harness) -> None:
    log.runtime.map_state.entries["ia"] = b"\x09" + encode(Trail())[1:]
    with pytest.raises(UnknownStateVersion):
        log.happen(shown("i1", BASE))


def test_the_row_is_json_of_its_schema(log: Harness) -> None:
    log.send(topics.RANKED_FEED, encode_json(ranked()))
    log.happen(shown("i1", BASE))
    (row,) = log.happen(interaction("c1", "click", "a", BASE + 4))
    assert msgspec.json.decode(row[2])["served"]["bundle"] == "b1"
