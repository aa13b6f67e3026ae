"""Gauges at a pace of their own. The only file of `udfs/` that touches PyFlink's and Beam's internals.

PyFlink exports every gauge of a process-mode operator with every bundle, which at low load is every record: about 10 µs each in
the worker, and again in the JVM, before the records of the bundle may leave. Once a second is enough for a reporter.

    end of a bundle ─ a second passed? ─ yes: gauges are set, and exported with this bundle
                                      └─ no: none is set, and Beam forgets those of the bundle before (it would repeat them as 0)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

EVERY_S = 1.0


def pace_gauges(group: Any, every_s: float = EVERY_S, clock: Callable[[], float] = time.monotonic) -> None:
    """Make PyFlink see the gauges of a metric group of process mode, its sub-groups included, in some bundles only."""
    if hasattr(group, "_flink_gauge"):
        lead = _Lead(group._flink_gauge, every_s, clock)
        group._flink_gauge = lead
        _follow(group, lead)


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
        before, now = self.due, self._clock()
        self.due = now - self._last_s >= self._every_s
        if self.due:
            self._last_s = now
            return super().__iter__()
        if before:
            _forget_gauges()
        return iter(())


class _Follower(dict[str, Any]):
    def __init__(self, gauges: dict[str, Any], lead: _Lead) -> None:
        super().__init__(gauges)
        self._lead = lead

    def __iter__(self) -> Iterator[str]:
        return super().__iter__() if self._lead.due else iter(())


def _forget_gauges() -> None:
    """Of the operator whose bundle ends on this thread."""
    from apache_beam.metrics.cells import GaugeCell  # of the worker only: takes seconds to import
    from apache_beam.metrics.execution import MetricsEnvironment

    container = MetricsEnvironment.current_container()
    if container is not None:
        for name in [name for name in container.metrics if name.cell_type is GaugeCell]:
            del container.metrics[name]
