"""The circuit breaker, on a clock that stands still."""

from __future__ import annotations

from tests.fakes import FakeClock
from udfs.breaker import Breaker


def opened(clock: FakeClock) -> Breaker:
    breaker = Breaker(failures=2, rest_s=1.0, clock=clock)
    breaker.failed()
    breaker.failed()
    return breaker


def test_it_is_closed_at_first() -> None:
    assert not Breaker(2, 1.0, FakeClock()).is_open


def test_failures_in_a_row_open_it() -> None:
    breaker = Breaker(2, 1.0, FakeClock())
    assert [breaker.failed(), breaker.is_open, breaker.failed(), breaker.is_open] == [False, False, True, True]


def test_a_success_between_failures_starts_the_count_anew() -> None:
    breaker = Breaker(2, 1.0, FakeClock())
    breaker.failed()
    assert not breaker.succeeded()
    breaker.failed()
    assert not breaker.is_open


def test_after_its_rest_calls_may_try() -> None:
    clock = FakeClock()
    breaker = opened(clock)
    clock.now = 0.999
    assert breaker.is_open
    clock.now = 1.0
    assert not breaker.is_open


def test_a_failure_after_the_rest_opens_it_again_without_a_word() -> None:
    """Contract: who logs on opening says it once, not once a second while the neighbour is down."""
    clock = FakeClock()
    breaker = opened(clock)
    clock.now = 1.0
    assert not breaker.failed()
    assert breaker.is_open


def test_a_success_after_the_rest_closes_it_and_says_so() -> None:
    clock = FakeClock()
    breaker = opened(clock)
    clock.now = 1.0
    assert breaker.succeeded()
    assert not breaker.is_open
    assert not breaker.succeeded()
