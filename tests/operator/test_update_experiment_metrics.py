"""UpdateExperimentMetrics on fakes: what is stored, timed, counted and emitted. What is decided is in test_experiment_log.py."""

from __future__ import annotations

from typing import Any

import pytest
from pyflink.common import Row
from pyflink.common.typeinfo import Types
from pyflink.datastream import OutputTag

from schemas import topics
from schemas.experiment_metrics import decode_arm, decode_unit
from schemas.interaction import encode_interaction
from schemas.ranking import encode_json
from tests.fakes import NOW, FakeClock, FakeContext, FakeRuntimeContext
from tests.unit.test_experiment_log import happened, ranked
from udfs import aggregate_arms
from udfs.aggregate_arms import AggregateArms
from udfs.logic.experiment_log import IDLE_MS
from udfs.update_experiment_metrics import UpdateExperimentMetrics

UNITS = OutputTag("units", Types.STRING())


class Harness:
    """The operator with one key, opened."""

    def __init__(self, key: str = "u:alice") -> None:
        self.runtime, self.context = FakeRuntimeContext(), FakeContext(key)
        self.operator = UpdateExperimentMetrics(UNITS, "test-")
        self.operator.open(self.runtime)

    def send(self, topic: str, value: bytes | None, append_ms: int = NOW) -> list[Any]:
        return list(self.operator.process_element(Row(topic, "u:alice", value, 3, 1, append_ms), self.context))

    def fire(self, at_ms: int) -> None:
        self.context.timers.timers.discard(at_ms)
        assert list(self.operator.on_timer(at_ms, self.context)) == []

    @property
    def counts(self) -> dict[str, int]:
        return self.runtime.metrics.counts()


LIST = encode_json(ranked({"ranker": "new"}))
CLICK = encode_interaction(happened("click"))


def test_totals_go_out_under_their_key() -> None:
    user = Harness()
    user.send(topics.RANKED_FEED, LIST)
    user.operator.open(user.runtime)  # the state outlives the operator
    (tag, row), delta = user.send(topics.INTERACTIONS, CLICK)
    assert tag is UNITS
    assert list(delta) == ["ranker|new|home|", 0, 1, 0, 0, 0.0, 1, 0, 0.0]
    assert (row[0], row[1]) == ("test-experiment-units", f"ranker|new|{NOW // 86_400_000}|home||u:alice".encode())
    assert (decode_unit(row[2]).clicks, decode_unit(row[2]).lists) == (1, 1)
    assert user.counts == {"lists_taken": 1, "interactions_taken": 1, "totals": 2}


def test_a_user_in_no_experiment_costs_no_state() -> None:
    user = Harness()
    user.send(topics.INTERACTIONS, encode_interaction(happened("click", arms={})))
    user.send(topics.RANKED_FEED, encode_json(ranked({})))
    assert user.runtime.state.value() is None and not user.context.timers.timers


def test_idle_users_are_forgotten() -> None:
    user = Harness()
    user.send(topics.RANKED_FEED, LIST)
    user.send(topics.INTERACTIONS, CLICK, NOW + 1_000)
    assert user.context.timers.event_timers == {NOW + IDLE_MS}
    user.fire(NOW + IDLE_MS)
    assert user.runtime.state.value() is not None
    user.fire(NOW + 1_000 + IDLE_MS)
    assert user.runtime.state.value() is None


def test_what_cannot_be_read_is_counted() -> None:
    user, nobody = Harness(), Harness("p:interactions:3")
    for one in (user, nobody):
        assert one.send(topics.INTERACTIONS, b"nonsense" if one is user else CLICK) == []
        assert one.counts["records_unreadable"] == 1


def test_arms_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Contract: totals and the metrics made of them; numbers rise, also over a state that was lost."""
    monkeypatch.setattr(aggregate_arms, "time", FakeClock(NOW / 1000))
    runtime, context = FakeRuntimeContext(), FakeContext("ranker|new|home|mobile")
    operator = AggregateArms(7, "test-")
    operator.open(runtime)
    for sums in ((10, 1, 0, 0, 0.0, 2, 4, 12.0), (10, 3, 1, 1, 7.5, 2, 0, 0.0)):
        (row,) = operator.process_element(Row(*sums), context)
    total = decode_arm(row[2])
    assert (row[0], row[1]) == ("test-experiment-metrics", b"ranker|new|home|mobile")
    assert (total.experiment, total.arm, total.surface, total.segment) == ("ranker", "new", "home", "mobile")
    assert (total.exposures, total.clicks, total.state_epoch, total.update_no) == (20, 4, 7, NOW + 1)
    assert total.metrics == {
        "ctr": 0.2,
        "cart_rate": 0.05,
        "conversion_rate": 0.25,
        "revenue_per_session": 1.875,
        "session_depth": 5.0,
        "latency_ms": 3.0,
    }
