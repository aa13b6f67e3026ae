"""In the demo shop, where the truth is known: off-policy intervals hold it, and an A/B test finds the true lift."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import numpy as np
import pyarrow as pa
import pytest

from demo.logged import PLACES, Shop, as_logged, cover, draw, open_shop, true_rate, units
from demo.world import generator
from proof.lists import evaluate_tables
from proof.off_policy import evaluate
from proof.report import report
from schemas.experiments import Arm, Definition, Experiment, Layer
from udfs.logic.experiments import Assignment

NOW_MS = 1_800_000_000_000


@pytest.fixture(scope="module")
def shop() -> Shop:
    return open_shop(1_000)


def test_estimates_of_a_new_policy_hold_the_truth(shop: Shop) -> None:
    """Contract: of 200 runs at 95 %, SNIPS and DR hold the true rate in at least 93 %; none is refused."""
    found = cover(shop)
    assert found.runs == 200 and found.refused == 0
    assert min(found.held["snips"], found.held["dr"]) >= 186


def test_the_command_for_training_rows_computes_the_same(shop: Shop) -> None:
    """Contract: `riffle ope rows --slate cascade` on rows of these lists gives what the arrays give, but for the folds."""
    rng = generator(75, 1)
    made = draw(shop, rng.integers(0, len(shop.items), 300), shop.popular, shop.personal, rng)
    rows, target = [], []
    for n, visit in enumerate(made.visit):
        for place in range(PLACES):
            items = shop.items[visit]
            known = {"list_id": f"l{n}", "rank": place}
            shown = {"item_id": str(items[made.chosen[n, place]]), "propensity": made.logging[n, place]}
            rows.append(
                {**known, **shown, "row_id": f"r{n}-{place}", "key": f"u:{n}", "click": bool(made.clicked[n, place])}
            )
            chances = made.target_of_all[n, place]
            target += [{**known, "item_id": str(item), "probability": p} for item, p in zip(items, chances) if p > 0]
    by_rows = evaluate_tables(pa.Table.from_pylist(rows), pa.Table.from_pylist(target), "click", "cascade", None)
    by_arrays = evaluate(as_logged(shop, made, 0), None)
    assert (by_rows.ips, by_rows.snips, by_rows.ess) == pytest.approx((by_arrays.ips, by_arrays.snips, by_arrays.ess))
    assert by_rows.dr == pytest.approx(by_arrays.dr, rel=0.05)


def test_an_experiment_finds_the_true_lift(shop: Shop) -> None:
    """Contract: assigned by the published hash, judged by the report: the interval holds the true difference and leaves out 0."""
    begin = datetime.fromtimestamp(NOW_MS / 1000, timezone.utc)
    arms = (Arm(name="popular", weight=0.5), Arm(name="new", weight=0.5, bundle="personal"))
    running = Experiment(name="ranker", arms=arms, start=begin, end=begin + timedelta(days=7), planned_units=4_000)
    assignment = Assignment(Definition(version="1", salt="shop", layers=(Layer(name="l", experiments=(running,)),)))

    def arm_of(unit: str) -> str | None:
        found = assignment.of(unit, unit, "home", NOW_MS)
        return found.arms["ranker"] if found else None

    lift = true_rate(shop, shop.personal) - true_rate(shop, shop.popular)
    found = report(running, units(shop, arm_of, "ranker", 4_000, 1))
    ctr = next(row for row in found.rows if row.metric == "ctr").effect
    assert ctr is not None
    assert ctr.low < lift < ctr.high and ctr.low > 0
    assert found.sample_ratio_p > 0.01 and np.isclose(sum(found.units.values()), 4_000)
