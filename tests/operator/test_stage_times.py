"""Stage times as Prometheus reads them."""

from __future__ import annotations

import pytest

from tests.fakes import FakeMetricGroup
from udfs.outputs import BUCKETS_MS, StageTimes


def read(group: FakeMetricGroup, stage: str) -> dict[str, int]:
    """The stage's buckets by `le`."""
    return {le: bucket.gauges["ms_bucket"]() for (_, le), bucket in group.groups["stage", stage].groups.items()}


@pytest.mark.parametrize(
    ("ms", "first"), [(0.0, "10"), (10.0, "10"), (10.1, "25"), (1_000.0, "1000"), (1_000.1, "+Inf"), (1e9, "+Inf")]
)
def test_a_time_counts_in_every_bucket_from_its_own_on(ms: float, first: str) -> None:
    group = FakeMetricGroup()
    StageTimes(group, [], ["rank"]).took("rank", ms)
    bounds = [*map(str, BUCKETS_MS), "+Inf"]
    assert read(group, "rank") == {le: int(place >= bounds.index(first)) for place, le in enumerate(bounds)}


def test_times_add_up_and_those_that_are_only_summed_have_no_buckets() -> None:
    group = FakeMetricGroup()
    times = StageTimes(group, ["score"], ["rank"])
    for ms in (1.5, 2.25):
        times.took("rank", ms)
        times.took("score", ms)
    sums = {stage: found.gauges["us_sum"]() for (_, stage), found in group.groups.items()}
    assert sums == {"rank": 3_750, "score": 3_750}
    assert read(group, "rank")["+Inf"] == 2 and read(group, "score") == {}


def test_without_metrics_nothing_is_exported_and_nothing_fails() -> None:
    StageTimes(None, ["score"], ["rank"]).took("rank", 5.0)
