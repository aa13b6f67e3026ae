"""Running native code under a time limit that holds even when it hangs."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

T = TypeVar("T")
_SMOOTHING = 0.1


class Stop(Protocol):
    """What a call is given to be stopped by: onnxruntime's RunOptions, which ends a run at the next node of its graph."""

    terminate: bool


class TimedOut(Exception):
    """The call was not back although it had most of its time. It may still be running; its result will be dropped."""


class Busy(Exception):
    """The call was not begun, or too late to be back in time: too many were waiting in line. No sign that it hangs."""


class NoThreadLeft(Exception):
    """All threads hang in native code: nothing can run until one returns."""


class _Call:
    def __init__(
        self, function: Callable[[Any], Any], stop: Stop, loop: asyncio.AbstractEventLoop, limit_s: float
    ) -> None:
        self.function, self.stop, self.loop, self.limit_s = function, stop, loop, limit_s
        self.future: asyncio.Future[Any] = loop.create_future()
        self.asked_s = time.monotonic()
        self.begun_s: float | None = None
        self.running = self.given_up = False

    def left_s(self) -> float:
        return self.limit_s - (time.monotonic() - self.asked_s)

    def hangs(self) -> bool:
        """Whether the call itself is slow, and has not only waited."""
        return self.begun_s is not None and time.monotonic() - self.begun_s >= self.limit_s / 2

    def tell(self, result: Any, error: Exception | None) -> bool:
        """Hand the outcome to who waits for it, on their loop; False if that is closed: the job is ending."""
        try:
            self.loop.call_soon_threadsafe(_deliver, self, result, error)
        except RuntimeError:
            return False
        return True


class Runner:
    """One working thread that runs calls in order; a call that hangs costs its thread, and another takes over.

    At most `threads` exist at a time. A thread that comes back from a call given up ends, unless nobody works.
    Under overload, calls that would not be back in time are not begun: the time goes to those that will be.
    """

    def __init__(self, new_stop: Callable[[], Stop], threads: int = 4) -> None:
        self._new_stop, self._threads = new_stop, threads
        self._calls: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._working = self._hanging = 0
        self._usual_s = 0.0  # what a call takes, a moving average
        self._start()

    @property
    def hanging(self) -> int:
        """Threads that are lost in a call."""
        return self._hanging

    async def run(self, function: Callable[[Any], T], limit_s: float) -> T:
        """The function's result; TimedOut or Busy after `limit_s` (waiting in line included); NoThreadLeft at once."""
        if not self._working:
            raise NoThreadLeft
        call = _Call(function, self._new_stop(), asyncio.get_running_loop(), limit_s)
        self._calls.put(call)
        # asyncio.wait, because a time limit that cancels would cancel this very coroutine: that hangs a Flink bundle.
        done, _ = await asyncio.wait([call.future], timeout=limit_s)
        if not done:
            raise TimedOut if self._give_up(call) else Busy
        result: T = call.future.result()
        return result

    def close(self) -> None:
        for _ in range(self._working):
            self._calls.put(None)

    def _give_up(self, call: _Call) -> bool:
        """Whether the call itself is to blame."""
        with self._lock:
            hangs = call.hangs()
            call.given_up = True
            call.stop.terminate = True
            if call.running:
                self._working, self._hanging = self._working - 1, self._hanging + 1
                if self._working + self._hanging < self._threads:
                    self._start()
            return hangs

    def _start(self) -> None:
        self._working += 1
        threading.Thread(target=self._work, name="inference", daemon=True).start()

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            with self._lock:
                if call.given_up:
                    continue
                # Half of the limit at most: one slow call must not make all later ones look hopeless.
                hopeless = call.left_s() < min(self._usual_s, call.limit_s / 2)
                if not hopeless:
                    call.running, call.begun_s = True, time.monotonic()
            if hopeless:
                told = call.tell(None, Busy())
            else:
                result, error = self._called(call)
                with self._lock:
                    call.running = False
                    if call.given_up:
                        self._hanging -= 1
                        if self._working:
                            return
                        self._working += 1
                        continue
                told = call.tell(result, error)
            if not told:
                return

    def _called(self, call: _Call) -> tuple[Any, Exception | None]:
        begun_s = time.monotonic()
        try:
            result = call.function(call.stop)
        except BaseException as raised:  # whatever it is, it must not end the thread: nobody would notice
            return None, raised if isinstance(raised, Exception) else RuntimeError(f"the call raised {raised!r}")
        self._usual_s += _SMOOTHING * (time.monotonic() - begun_s - self._usual_s)
        return result, None


def _deliver(call: _Call, result: Any, error: Exception | None) -> None:
    if call.future.cancelled() or call.given_up:
        return
    if isinstance(error, StopIteration):  # a future refuses it
        error = RuntimeError("the call raised StopIteration")
    if error is None:
        call.future.set_result(result)
    else:
        call.future.set_exception(error)
