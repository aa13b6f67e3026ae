"""Running native code under a time limit that holds even when it hangs."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class Stop(Protocol):
    """What a call is given to be stopped by: onnxruntime's RunOptions, which ends a run at the next node of its graph."""

    terminate: bool


class TimedOut(Exception):
    """The call was not back in time. It may still be running; its result will be dropped."""


class Busy(Exception):
    """The call was not begun in time: too many were waiting in line. It will not be begun."""


class NoThreadLeft(Exception):
    """All threads hang in native code: nothing can run until one returns."""


class _Call:
    def __init__(self, function: Callable[[Any], Any], stop: Stop, loop: asyncio.AbstractEventLoop) -> None:
        self.function, self.stop, self.loop = function, stop, loop
        self.future: asyncio.Future[Any] = loop.create_future()
        self.begun = self.running = self.given_up = False


class Runner:
    """One working thread that runs calls in order; a call that hangs costs its thread, and another takes over.

    At most `threads` exist at a time. A thread that comes back from a call given up ends, unless nobody works.
    """

    def __init__(self, new_stop: Callable[[], Stop], threads: int = 4) -> None:
        self._new_stop, self._threads = new_stop, threads
        self._calls: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._working = self._hanging = 0
        self._start()

    @property
    def hanging(self) -> int:
        """Threads that are lost in a call."""
        return self._hanging

    async def run(self, function: Callable[[Any], T], limit_s: float) -> T:
        """The function's result; TimedOut or Busy after `limit_s` (waiting in line included); NoThreadLeft at once."""
        if not self._working:
            raise NoThreadLeft
        call = _Call(function, self._new_stop(), asyncio.get_running_loop())
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
        """Whether the call had been begun."""
        with self._lock:
            call.given_up = True
            call.stop.terminate = True
            if call.running:
                self._working, self._hanging = self._working - 1, self._hanging + 1
                if self._working + self._hanging < self._threads:
                    self._start()
            return call.begun

    def _start(self) -> None:
        self._working += 1
        threading.Thread(target=self._work, name="inference", daemon=True).start()

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            with self._lock:
                if call.given_up:
                    continue
                call.running = call.begun = True
            result: Any = None
            error: Exception | None = None
            try:
                result = call.function(call.stop)
            except BaseException as raised:  # whatever it is, it must not end the thread: nobody would notice
                error = raised if isinstance(raised, Exception) else RuntimeError(f"the call raised {raised!r}")
            with self._lock:
                call.running = False
                if call.given_up:
                    self._hanging -= 1
                    if self._working:
                        return
                    self._working += 1
                    continue
            try:
                call.loop.call_soon_threadsafe(_deliver, call.future, result, error)
            except RuntimeError:  # the loop is closed: the job is ending
                return


def _deliver(future: asyncio.Future[Any], result: Any, error: Exception | None) -> None:
    if future.cancelled():
        return
    if isinstance(error, StopIteration):  # a future refuses it
        error = RuntimeError("the call raised StopIteration")
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)
