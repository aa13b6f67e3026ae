"""UpdateExperimentMetrics on fakes: what is stored, timed, counted and emitted. What is decided is in test_experiment_log.py."""

from __future__ import annotations

from pyflink.common import Row

from schemas import topics
from schemas.experiment_metrics import decode_unit
from schemas.interaction import encode_interaction
from schemas.ranking import encode_json
from tests.fakes import NOW, FakeContext, FakeRuntimeContext
from tests.unit.test_experiment_log import happened, ranked
from udfs.logic.experiment_log import IDLE_MS
from udfs.update_experiment_metrics import UpdateExperimentMetrics


class Harness:
    """The operator with one key, opened."""

    def __init__(self, key: str = "u:alice") -> None:
        self.runtime, self.context = FakeRuntimeContext(), FakeContext(key)
        self.operator = UpdateExperimentMetrics("test-")
        self.operator.open(self.runtime)

    def send(self, topic: str, value: bytes | None, append_ms: int = NOW) -> list[Row]:
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
    (row,) = user.send(topics.INTERACTIONS, CLICK)
    assert (row[0], row[1]) == ("test-experiment-units", f"ranker|new|{NOW // 86_400_000}|home||u:alice".encode())
    assert (decode_unit(row[2]).clicks, decode_unit(row[2]).lists) == (1, 1)
    assert user.counts == {"lists_taken": 1, "interactions_taken": 1, "totals": 2}


def test_a_user_in_no_experiment_costs_no_state() -> None:
    user = Harness()
    user.send(topics.INTERACTIONS, CLICK)
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
