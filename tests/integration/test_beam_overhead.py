"""Lighter bundles, against PyFlink's own groups and Beam's own bundle processors."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from udfs.beam_overhead import lighten_bundles

pytest.importorskip("apache_beam")


@pytest.fixture(autouse=True)
def unchanged_beam() -> Iterator[None]:
    from apache_beam.runners.worker.bundle_processor import BundleProcessor
    from apache_beam.runners.worker.statesampler import StateSampler

    before = BundleProcessor.monitoring_infos, StateSampler.start, StateSampler.stop
    yield
    BundleProcessor.monitoring_infos, StateSampler.start, StateSampler.stop = before  # type: ignore[method-assign]


class Bundles:
    """Processes bundles as PyFlink's worker does, and says what each exports."""

    def __init__(self, every_s: float) -> None:
        from apache_beam.metrics.execution import MetricsContainer
        from apache_beam.runners.worker.bundle_processor import BundleProcessor
        from apache_beam.runners.worker.statesampler import StateSampler
        from apache_beam.utils.counters import CounterFactory
        from pyflink.fn_execution.metrics.process.metric_impl import GenericMetricGroup

        self.now_s = 10.0
        self.container = MetricsContainer("step")
        self._sampler = StateSampler("test", CounterFactory())
        self._state = self._sampler.scoped_state("step", "finish", metrics_container=self.container)
        self._processor: Any = BundleProcessor.__new__(BundleProcessor)
        self._processor.ops, self._processor.process_bundle_descriptor = {"step": self}, self
        self.group = GenericMetricGroup(None, None)
        self.total = 0
        self.group.gauge("total", lambda: self.total)
        self.group.add_group("stage", "redis").gauge("us", lambda: self.total * 2)
        self.every_s = every_s
        self.open()

    def open(self) -> None:
        lighten_bundles(self.group, self.every_s, lambda: self.now_s)

    @property
    def transforms(self) -> dict[str, Any]:  # of the descriptor
        class Transform:
            outputs: dict[str, str] = {}

        return {"step": Transform}

    def monitoring_infos(self, transform_id: str, _: dict[str, str]) -> Any:  # of the one operation
        return self.container.to_runner_api_monitoring_infos(transform_id)

    def process(self) -> dict[str, int]:
        from apache_beam.metrics.monitoring_infos import extract_gauge_value
        from pyflink.fn_execution.datastream.process.operations import Operation

        self._sampler.reset()
        self.container.reset()
        self._sampler.start()
        try:
            with self._state:
                Operation._update_gauge(_Nothing, self.group)  # type: ignore[arg-type]
        finally:
            self._sampler.stop_if_still_running()
        return {info.labels["NAME"]: extract_gauge_value(info)[1] for info in self._processor.monitoring_infos()}


class _Nothing:
    @staticmethod
    def _update_gauge(group: Any) -> None:
        from pyflink.fn_execution.datastream.process.operations import Operation

        Operation._update_gauge(_Nothing, group)  # type: ignore[arg-type]


def test_gauges_are_exported_once_in_a_while_and_never_as_zero_in_between() -> None:
    bundles = Bundles(every_s=1.0)
    exported = []
    for after_s in (0.0, 0.1, 0.5, 0.5, 0.1, 2.0, 0.1):
        bundles.now_s += after_s
        bundles.total += 1
        exported.append(bundles.process())
    due = [{"total": number, "us": 2 * number} for number in (1, 4, 6)]
    assert exported == [due[0], {}, {}, due[1], {}, due[2], {}]


def test_an_operator_opened_again_has_its_gauges_exported() -> None:
    bundles = Bundles(every_s=1.0)
    assert bundles.process() == {"total": 0, "us": 0}
    bundles.now_s += 0.5
    assert bundles.process() == {}
    again = Bundles(every_s=1.0)
    assert again.process() == {"total": 0, "us": 0}


def test_no_bundle_starts_a_thread() -> None:
    bundles, threads = Bundles(every_s=1.0), threading.active_count()
    started = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        raise AssertionError(f"{thread.name} was started")

    try:
        threading.Thread.start = refuse  # type: ignore[method-assign]
        bundles.process()
    finally:
        threading.Thread.start = started  # type: ignore[method-assign]
    assert threading.active_count() == threads
