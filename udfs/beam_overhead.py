"""What every bundle of process mode costs, and need not. The only file of `udfs/` that touches PyFlink's and Beam's internals.

At low load a bundle is one record, so whatever is done for each bundle delays each record.

- Metrics. PyFlink exports every gauge with every bundle, about 10 µs each in the worker, and again in the JVM, before the records
  of the bundle may leave; without gauges Beam still takes 0.3 ms to collect nothing. Once a second is enough for a reporter.
- Sampling. Beam starts a thread for each bundle that samples in which state the operator is, and the end of the bundle waits until
  that thread has slept its last 2 to 5 ms out. What it finds is never read: PyFlink hands on the metrics of users only.

    end of a bundle ─ a second passed? ─ yes: gauges are set, and exported with this bundle
                                      └─ no: nothing is set, nothing is exported
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any

EVERY_S = 1.0


def lighten_bundles(group: Any, every_s: float = EVERY_S, clock: Callable[[], float] = time.monotonic) -> None:
    """From the next bundle on, the operator of this metric group has its metrics exported with some bundles only, and no
    sampling. For a worker process with one operator, whose metrics are all gauges: counters of other bundles would be lost.
    """
    if not hasattr(group, "_flink_gauge"):  # not in a worker
        return
    # Of the worker only: takes seconds to import.
    from apache_beam.runners.worker.bundle_processor import BundleProcessor
    from apache_beam.runners.worker.statesampler import StateSampler

    lead = _Lead(group._flink_gauge, every_s, clock)
    group._flink_gauge = lead
    _follow(group, lead)
    # An operator that is opened again in this process takes over from the one before.
    collect = getattr(BundleProcessor.monitoring_infos, "__wrapped__", BundleProcessor.monitoring_infos)

    @wraps(collect)
    def collect_if_due(processor: Any) -> list[Any]:
        return collect(processor) if lead.due else []

    BundleProcessor.monitoring_infos = collect_if_due
    StateSampler.start, StateSampler.stop = _started, _stopped


def _started(sampler: Any) -> None:
    from apache_beam.runners.worker.statesampler import set_current_tracker

    sampler.tracked_thread = threading.current_thread()
    set_current_tracker(sampler)  # by which counters and gauges find their containers
    sampler.started = True


def _stopped(sampler: Any) -> None:
    from apache_beam.runners.worker.statesampler import set_current_tracker

    set_current_tracker(None)
    sampler.finished = True  # also ends the thread of a bundle that began before


def _follow(group: Any, lead: _Lead) -> None:
    for sub_group in group._sub_groups:
        sub_group._flink_gauge = _Follower(sub_group._flink_gauge, lead)
        _follow(sub_group, lead)


class _Lead(dict[str, Any]):
    """The gauges of the group that PyFlink asks first at the end of a bundle: decides for all."""

    def __init__(self, gauges: dict[str, Any], every_s: float, clock: Callable[[], float]) -> None:
        super().__init__(gauges)
        self._every_s, self._clock = every_s, clock
        self._last_s = -every_s
        self.due = False

    def __iter__(self) -> Iterator[str]:
        now = self._clock()
        self.due = now - self._last_s >= self._every_s
        if not self.due:
            return iter(())
        self._last_s = now
        return super().__iter__()


class _Follower(dict[str, Any]):
    def __init__(self, gauges: dict[str, Any], lead: _Lead) -> None:
        super().__init__(gauges)
        self._lead = lead

    def __iter__(self) -> Iterator[str]:
        return super().__iter__() if self._lead.due else iter(())
