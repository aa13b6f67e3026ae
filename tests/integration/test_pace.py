"""Gauges at a pace, against PyFlink's own groups and Beam's own containers."""

from __future__ import annotations

from typing import Any

import pytest

from udfs.pace import pace_gauges

pytest.importorskip("apache_beam")


class Bundles:
    """Ends bundles as PyFlink's worker does, and says what each exports."""

    def __init__(self, every_s: float) -> None:
        from apache_beam.metrics.execution import MetricsContainer
        from apache_beam.runners.worker import statesampler
        from apache_beam.utils.counters import CounterFactory
        from pyflink.fn_execution.metrics.process.metric_impl import GenericMetricGroup

        self.now_s = 10.0
        self.container = MetricsContainer("step")
        self._sampler = statesampler.StateSampler("test", CounterFactory())
        self._state = self._sampler.scoped_state("step", "finish", metrics_container=self.container)
        self._tracker = statesampler.set_current_tracker
        self.group = GenericMetricGroup(None, None)
        self.total = 0
        self.group.gauge("total", lambda: self.total)
        self.group.add_group("stage", "redis").gauge("us", lambda: self.total * 2)
        pace_gauges(self.group, every_s, lambda: self.now_s)

    def end(self) -> dict[str, int]:
        from apache_beam.metrics.monitoring_infos import extract_gauge_value
        from pyflink.fn_execution.datastream.process.operations import Operation

        self.container.reset()  # as before each bundle
        self._tracker(self._sampler)
        try:
            with self._state:
                Operation._update_gauge(_Nothing, self.group)  # type: ignore[arg-type]
        finally:
            self._tracker(None)
        infos = self.container.to_runner_api_monitoring_infos("step").values()
        return {info.labels["NAME"]: extract_gauge_value(info)[1] for info in infos}


class _Nothing:
    @staticmethod
    def _update_gauge(group: Any) -> None:
        from pyflink.fn_execution.datastream.process.operations import Operation

        Operation._update_gauge(_Nothing, group)  # type: ignore[arg-type]


def test_gauges_are_exported_once_in_a_while_and_never_as_zero_in_between() -> None:
    bundles, exported = Bundles(every_s=1.0), []
    for after_s in (0.0, 0.1, 0.5, 0.5, 0.1, 2.0, 0.1):
        bundles.now_s += after_s
        bundles.total += 1
        exported.append(bundles.end())
    due = [{"total": number, "us": 2 * number} for number in (1, 4, 6)]
    assert exported == [due[0], {}, {}, due[1], {}, due[2], {}]
