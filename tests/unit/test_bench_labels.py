"""Label delays: the committed plot is what the simulated day gives, and its figures are what the page says."""

from __future__ import annotations

import re

from bench.labels import PLOT, SHOPPERS, Delays, label_delays
from bench.plot import delay_plot
from demo.offline import visits
from tests.unit.test_docs import PAGES


def test_the_plot_and_the_page_are_what_the_day_gives() -> None:
    found = label_delays(visits(range(SHOPPERS), days=1))
    assert PLOT.read_text() == delay_plot({one.kind: one.delays_ms for one in found})
    by_kind = {one.kind: one for one in found}
    clicks, purchases, page = by_kind["click"], by_kind["purchase"], PAGES["docs/training-rows.md"]
    assert f"({clicks.rows:,} exposures;" in page
    assert f"after {clicks.within(0.5) / 1000:.1f} s, 99 % after {clicks.within(0.99) / 1000:.0f} s" in page
    assert f"99 % of the purchases after {purchases.within(0.99) / 1000:.0f} s" in page


def test_every_point_is_on_the_plot() -> None:
    svg = delay_plot({"click": [0, 1_000, 90_000_000], "cart": [5, 5]})
    points = [
        tuple(map(float, point.split(","))) for path in re.findall(r'points="([^"]+)"', svg) for point in path.split()
    ]
    assert points
    assert all(72 <= x <= 580 and 16 <= y <= 280 for x, y in points)


def test_a_share_is_the_delay_that_it_does_not_exceed() -> None:
    delays = Delays("click", 1_000, list(range(1, 102)))
    assert [delays.within(share) for share in (0.5, 0.9, 0.99)] == [51, 91, 100]
