"""UpdateBeliefs on fakes: what is stored, timed, counted and emitted. What is summed is in test_beliefs.py."""

from __future__ import annotations

from typing import Any

import pytest
from pyflink.common import Row

from schemas.beliefs import decode_belief
from tests.fakes import NOW, FakeContext, FakeRuntimeContext
from udfs.logic.beliefs import HOUR_MS, IDLE_HALF_LIVES
from udfs.update_beliefs import LEFT_OUT, UpdateBeliefs

HALF_LIFE_MS = 10 * HOUR_MS
HOUR = NOW // HOUR_MS


class Harness:
    def __init__(self, key: str = "home|shoe-7") -> None:
        self.runtime, self.context = FakeRuntimeContext(), FakeContext(key)
        self.operator = UpdateBeliefs(HALF_LIFE_MS, "test-")
        self.operator.open(self.runtime)

    def send(self, shown: int, clicked: int, hours: int = 0) -> list[Any]:
        row = Row(HOUR + hours, "mobile", None, "app", False, shown, clicked)
        return list(self.operator.process_element(row, self.context))

    def fire(self) -> list[Any]:
        (due,) = self.context.timers.timers
        self.context.timers.timers.clear()
        return list(self.operator.on_timer(due, self.context))


@pytest.fixture
def item() -> Harness:
    return Harness()


def test_totals_go_out_under_surface_and_item(item: Harness) -> None:
    item.send(4, 1)
    item.operator.open(item.runtime)  # the state outlives the operator
    (row,) = item.send(2, 1)
    assert (row[0], row[1]) == ("test-beliefs", b"home|shoe-7")
    assert decode_belief(row[2]).counts == {"": (2.0, 6.0), "device:mobile": (2.0, 6.0)}
    assert row[2] == item.runtime.state.stored
    assert item.runtime.metrics.counts() == {"exposures": 6, "clicks": 2, "beliefs": 2}


def test_what_nobody_acted_on_for_long_is_forgotten(item: Harness) -> None:
    """Contract: one event-time timer at a time; the state goes, and so does the record."""
    item.send(1, 0)
    item.send(1, 0, hours=5)
    assert item.context.timers.event_timers == item.context.timers.timers
    assert item.fire() == []
    assert item.context.timers.timers == {(HOUR + 5) * HOUR_MS + IDLE_HALF_LIVES * HALF_LIFE_MS}
    (row,) = item.fire()
    assert (row[1], row[2], item.runtime.state.stored) == (b"home|shoe-7", None, None)
    assert item.runtime.metrics.counts()["beliefs_forgotten"] == 1
    item.context.timers.timers.add(1)
    assert item.fire() == []


def test_what_is_left_out_is_only_counted() -> None:
    left_out = Harness(LEFT_OUT)
    assert left_out.send(3, 2) == []
    assert (left_out.runtime.state.stored, left_out.runtime.metrics.counts()) == (None, {"outcomes_left_out": 5})
