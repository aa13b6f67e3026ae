"""Native code under a time limit. A thread that waits for an event stands in for a call that hangs."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from tests.fakes import wait_until
from udfs.runner import Busy, NoThreadLeft, Runner, TimedOut

LIMIT_S = 0.05
PLENTY_S = 20.0


class Stop:
    """In the place of onnxruntime.RunOptions."""

    def __init__(self) -> None:
        self.terminate = False


class Hang:
    """Calls that hang until they are let go, as native code does: they look at no flag."""

    def __init__(self) -> None:
        self.let_go = threading.Event()
        self.stops: list[Stop] = []

    def __call__(self, stop: Stop) -> str:
        self.stops.append(stop)
        self.let_go.wait(PLENTY_S)
        return "late"


@pytest.fixture
def hang() -> Iterator[Hang]:
    found = Hang()
    yield found
    found.let_go.set()


@pytest.fixture
def runner() -> Iterator[Runner]:
    found = Runner(Stop, threads=3)
    yield found
    found.close()


def run(test: Callable[[], Awaitable[Any]]) -> Any:
    async def limited() -> Any:
        return await asyncio.wait_for(test(), PLENTY_S)

    return asyncio.run(limited())


async def hung(runner: Runner, hang: Hang, times: int = 1) -> None:
    """Until `times` calls hang. On a busy machine a thread may not get to a call within its limit: Busy, and asked again."""
    while times:
        with pytest.raises((TimedOut, Busy)) as refused:
            await runner.run(hang, LIMIT_S)
        times -= refused.type is TimedOut


def test_a_result_comes_back(runner: Runner) -> None:
    assert run(lambda: runner.run(lambda _stop: 6 * 7, PLENTY_S)) == 42


def test_calls_run_in_order_and_one_at_a_time(runner: Runner) -> None:
    seen: list[tuple[str, int]] = []

    def call(n: int) -> Callable[[Any], int]:
        def work(_stop: Any) -> int:
            seen.extend([("begin", n), ("end", n)])
            return n

        return work

    async def test() -> list[int]:
        return list(await asyncio.gather(*(runner.run(call(n), PLENTY_S) for n in range(50))))

    assert run(test) == list(range(50))
    assert seen == [(what, n) for n in range(50) for what in ("begin", "end")]


def test_an_exception_comes_back(runner: Runner) -> None:
    def fail(_stop: Any) -> None:
        raise KeyError("column")

    with pytest.raises(KeyError, match="column"):
        run(lambda: runner.run(fail, PLENTY_S))


@pytest.mark.parametrize("raised", [SystemExit(3), KeyboardInterrupt(), asyncio.CancelledError(), StopIteration()])
def test_what_is_no_error_comes_back_as_one_and_the_thread_goes_on(runner: Runner, raised: BaseException) -> None:
    """Contract: no call can end the working thread or cancel the caller: either would hang the bundle."""

    def fail(_stop: Any) -> None:
        raise raised

    async def test() -> int:
        with pytest.raises(RuntimeError):
            await runner.run(fail, PLENTY_S)
        return await runner.run(lambda _stop: 1, PLENTY_S)

    assert run(test) == 1


def test_a_call_that_hangs_frees_its_caller_in_time(runner: Runner, hang: Hang) -> None:
    async def test() -> float:
        started = time.monotonic()
        await hung(runner, hang)
        return time.monotonic() - started

    assert LIMIT_S * 0.9 <= run(test) < 2.0


def test_a_call_that_hangs_is_asked_to_stop(runner: Runner, hang: Hang) -> None:
    run(lambda: hung(runner, hang))
    assert hang.stops[0].terminate


def test_a_call_that_ends_is_not_asked_to_stop(runner: Runner) -> None:
    stops: list[Any] = []
    run(lambda: runner.run(stops.append, PLENTY_S))
    assert not stops[0].terminate


def test_a_call_that_hangs_costs_its_thread_and_the_next_one_runs(runner: Runner, hang: Hang) -> None:
    async def test() -> str:
        await hung(runner, hang)
        assert runner.hanging == 1
        return await runner.run(lambda _stop: threading.current_thread().name, PLENTY_S)

    assert run(test) == "inference"


def test_what_waits_behind_a_hanging_call_runs_on_the_next_thread(runner: Runner, hang: Hang) -> None:
    async def test() -> int:
        first = asyncio.ensure_future(runner.run(hang, LIMIT_S))
        await asyncio.sleep(0)  # into the line
        second = asyncio.ensure_future(runner.run(lambda _stop: 2, PLENTY_S))
        with pytest.raises(TimedOut):
            await first
        return await second

    assert run(test) == 2


def test_a_call_that_was_never_begun_is_told_apart_and_never_begins(runner: Runner, hang: Hang) -> None:
    """Contract: a line that is too long is no sign of a sick model."""
    begun: list[Any] = []

    async def test() -> None:
        first = asyncio.ensure_future(runner.run(hang, PLENTY_S))
        await asyncio.sleep(0)  # into the line
        with pytest.raises(Busy):
            await runner.run(begun.append, LIMIT_S)
        hang.let_go.set()
        assert await first == "late"
        await runner.run(lambda _stop: None, PLENTY_S)

    run(test)
    assert begun == []
    assert runner.hanging == 0


def test_under_overload_what_would_be_late_is_not_begun(runner: Runner) -> None:
    """Contract: a healthy model that is asked for too much does useful work only, and nobody calls it sick."""
    begun: list[int] = []

    def work(_stop: Any) -> None:
        begun.append(1)
        time.sleep(0.02)

    async def test() -> list[Any]:
        for _ in range(30):  # so that the usual time is known
            await runner.run(work, PLENTY_S)
        begun.clear()
        return await asyncio.gather(*(runner.run(work, 0.5) for _ in range(60)), return_exceptions=True)

    found = run(test)
    served = sum(one is None for one in found)
    assert 0 < served < 60
    assert {type(one) for one in found} == {type(None), Busy}
    assert len(begun) <= served + 1
    assert runner.hanging == 0


def test_when_all_threads_hang_callers_are_told_at_once(runner: Runner, hang: Hang) -> None:
    async def test() -> None:
        await hung(runner, hang, times=3)
        assert runner.hanging == 3
        with pytest.raises(NoThreadLeft):
            await runner.run(lambda _stop: 1, PLENTY_S)

    run(test)


def test_no_more_threads_than_allowed_are_started(runner: Runner, hang: Hang) -> None:
    before = threading.active_count()

    async def test() -> None:
        await hung(runner, hang, times=3)
        for _ in range(5):
            with pytest.raises(NoThreadLeft):
                await runner.run(hang, LIMIT_S)

    run(test)
    assert threading.active_count() - before <= 2  # one of the three was there before


def test_it_recovers_when_the_hanging_calls_return(runner: Runner, hang: Hang) -> None:
    async def test() -> int:
        await hung(runner, hang, times=3)
        hang.let_go.set()
        wait_until(lambda: runner.hanging == 0)
        return await runner.run(lambda _stop: 3, PLENTY_S)

    assert run(test) == 3


def test_one_thread_works_after_all_have_returned(runner: Runner, hang: Hang) -> None:
    """Contract: calls are run one at a time also after a recovery: the model's cores are counted on it."""
    running, most = [0], [0]
    lock = threading.Lock()

    def work(_stop: Any) -> None:
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        time.sleep(0.001)
        with lock:
            running[0] -= 1

    async def test() -> None:
        await hung(runner, hang, times=3)
        hang.let_go.set()
        wait_until(lambda: runner.hanging == 0)
        await asyncio.gather(*(runner.run(work, PLENTY_S) for _ in range(20)))

    run(test)
    assert most == [1]


def test_a_late_result_is_dropped(runner: Runner, hang: Hang) -> None:
    async def test() -> int:
        await hung(runner, hang)
        hang.let_go.set()
        wait_until(lambda: runner.hanging == 0)
        return await runner.run(lambda _stop: 4, PLENTY_S)

    assert run(test) == 4


def test_a_late_result_after_the_loop_has_closed_is_no_trouble(hang: Hang) -> None:
    runner = Runner(Stop)

    async def test() -> None:
        left = asyncio.ensure_future(runner.run(hang, PLENTY_S))
        while not hang.stops:
            await asyncio.sleep(0.001)
        assert not left.done()

    run(test)
    hang.let_go.set()
    runner.close()


def test_close_ends_the_working_thread() -> None:
    before = set(threading.enumerate())
    runner = Runner(Stop)
    (mine,) = set(threading.enumerate()) - before
    runner.close()
    mine.join(PLENTY_S)
    assert not mine.is_alive()
