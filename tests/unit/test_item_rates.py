"""Rates from counters: drawn to the level above, and compared with what is usual."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.features import DEFINITIONS, ITEM_RATES, FeatureError, parse, registry
from udfs.logic.item_rates import PRIOR_WEIGHT, rates, require, smoothed_rate, trend, window_share

HOUR = 3_600_000
TRIALS = st.integers(0, 10_000).flatmap(lambda trials: st.tuples(st.integers(0, trials), st.just(trials)))


def test_an_item_without_trials_has_the_rate_above() -> None:
    assert smoothed_rate([(10, 100), (0, 0)]) == pytest.approx(0.1)


def test_a_rate_is_drawn_to_the_one_above_by_the_weight() -> None:
    assert smoothed_rate([(10, 100), (30, 50)]) == pytest.approx((30 + PRIOR_WEIGHT * 0.1) / (50 + PRIOR_WEIGHT))


def test_nothing_tried_anywhere_is_a_rate_of_zero() -> None:
    assert smoothed_rate([(0, 0), (0, 0)]) == smoothed_rate([(0, 0)]) == 0.0


@given(st.lists(TRIALS, min_size=1, max_size=4))
def test_a_rate_lies_between_the_lowest_and_the_highest_of_its_levels(levels: list[tuple[int, int]]) -> None:
    raw = [successes / trials for successes, trials in levels if trials] or [0.0]
    assert min([*raw, 0.0]) - 1e-12 <= smoothed_rate(levels) <= max(raw) + 1e-12


@given(st.lists(st.integers(0, 1000), min_size=24, max_size=24), st.integers(0, 10 * 24 * 12))
def test_the_share_of_two_hours_is_that_of_their_minutes(by_hour: list[int], slice_no: int) -> None:
    end_ms = slice_no * 300_000
    minutes = range(end_ms // 60_000 - 120, end_ms // 60_000)
    total = sum(by_hour)
    naive = sum(by_hour[minute // 60 % 24] for minute in minutes) / 60 / total if total else 2 / 24
    assert window_share(by_hour, end_ms) == pytest.approx(naive)


def test_a_trend_of_one_is_as_always() -> None:
    share = window_share([100] * 24, 12 * HOUR)
    assert trend(clicks_2h=10, clicks_28d=10 * 12 * 28, share=share) == pytest.approx(1.0)
    assert trend(clicks_2h=100, clicks_28d=10 * 12 * 28, share=share) > 5
    assert trend(clicks_2h=0, clicks_28d=0, share=share) == 1.0


@given(st.lists(st.lists(TRIALS, min_size=3, max_size=3), min_size=1, max_size=3))
def test_rates_of_many_items_are_those_of_each(levels: list[list[tuple[int, int]]]) -> None:
    everything = (7, 100)
    arrays = [tuple(np.array(column, float) for column in zip(*level)) for level in levels]
    together = smoothed_rate([everything, *arrays])  # type: ignore[list-item]
    assert together == pytest.approx([smoothed_rate([everything, *one]) for one in zip(*levels)])


def test_the_registry_names_every_rate() -> None:
    counters = {one.name: 3 for one in registry().item_columns()}
    assert set(rates([counters], 0.1)) == {one.name for one in registry().of("item", ITEM_RATES)}


def test_a_registry_that_does_not_fit_is_refused() -> None:
    require(registry())
    text = DEFINITIONS.read_text()
    entry = next(part for part in text.split("[[feature]]") if 'name = "ctr_28d"' in part)
    with pytest.raises(FeatureError, match="ctr_7d@1 is made by item-rates, which makes ctr_2h"):
        require(parse(f"{text}\n[[feature]]{entry.replace('ctr_28d', 'ctr_7d')}"))
    with pytest.raises(FeatureError, match="item-rates uses ctr_2h as f32"):
        require(
            parse(
                text.replace('type = "f32"', 'type = "text"')
                .replace("default = 0.0", 'default = ""')
                .replace("default = 1.0", 'default = ""')
            )
        )
