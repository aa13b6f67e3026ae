"""The true probabilities: split as promised, and the named best lists are best."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from demo.catalogue import SUBCATEGORY_NO
from demo.tastes import Memory, meet
from demo.truth import Moment, click_probability, expected_ctr, expected_relevance, optimum, popular, relevance, top
from demo.world import DAY_MS, examination, generator, load

NOW_MS = 1_768_938_120_000
COFFEE = SUBCATEGORY_NO["coffee"]


def moment(clicked: frozenset[int] = frozenset(), memory: Memory | None = None, intent: int = COFFEE) -> Moment:
    return Moment(NOW_MS, intent, clicked, memory or Memory())


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), k=st.sampled_from([1, 10, 60, 300]), decimals=st.sampled_from([1, 2, 9]))
def test_top_is_the_naive_sort(seed: int, k: int, decimals: int) -> None:
    """Ties included: scores rounded to one decimal have many."""
    scores = np.round(generator(seed).standard_normal(5_000), decimals)
    assert np.array_equal(top(scores, k), np.argsort(-scores, kind="stable")[:k])


def test_top_of_a_skewed_and_of_a_short_column() -> None:
    skewed = np.zeros(5_000)
    skewed[::16] = 1.0  # the sampled places hold all the high scores
    assert np.array_equal(top(skewed, 400), np.argsort(-skewed, kind="stable")[:400])
    assert top(np.array([1.0, 3.0, 2.0]), 2).tolist() == [1, 2]


def test_click_probability_is_relevance_times_examination() -> None:
    world, shopper = load(), meet(load(), 11)
    items = np.array([3, 900, 2_000, 4_999])
    places = np.array([9, 0, 4, 2])
    expected = relevance(world, shopper, moment())[items] * examination(places)
    assert click_probability(world, shopper, moment(), items, places) == pytest.approx(expected)
    assert np.all(np.diff(examination(np.arange(50))) < 0)
    assert examination(np.array([0]))[0] == 1.0


@settings(max_examples=30, deadline=None)
@given(
    number=st.integers(0, 999),
    intent=st.integers(0, 39),
    chosen=st.lists(st.integers(0, 4_999), min_size=1, max_size=10, unique=True),
)
def test_subset_equals_the_whole(number: int, intent: int, chosen: list[int]) -> None:
    """The fast path for ten items and the column for all agree, whatever was clicked or bought."""
    world, shopper = load(), meet(load(), number)
    bought = {chosen[0]: NOW_MS - 8 * DAY_MS, 7: NOW_MS - DAY_MS}
    now = moment(frozenset(chosen[:3]), Memory(follows={intent}, bought_ms=bought), intent)
    whole = relevance(world, shopper, now)
    assert relevance(world, shopper, now, np.array(chosen)) == pytest.approx(whole[chosen], rel=1e-12)
    assert np.all((whole > 0) & (whole < 1))


def test_a_certain_belief_is_the_truth() -> None:
    world, shopper = load(), meet(load(), 5)
    belief = np.eye(40)[COFFEE]
    assert expected_relevance(world, shopper, moment(), belief) == pytest.approx(relevance(world, shopper, moment()))


def test_a_clicked_item_is_worth_less_and_a_due_consumable_more() -> None:
    world, shopper = load(), meet(load(), 5)
    coffee = int(np.flatnonzero((world.subcategory == COFFEE) & world.in_stock)[0])
    fresh = relevance(world, shopper, moment())[coffee]
    clicked = frozenset([coffee])
    just_bought = Memory(bought_ms={coffee: NOW_MS - DAY_MS})
    due = Memory(bought_ms={coffee: NOW_MS - 8 * DAY_MS})
    assert relevance(world, shopper, moment(clicked))[coffee] < fresh
    assert relevance(world, shopper, moment(memory=just_bought))[coffee] < 0.5 * fresh
    assert relevance(world, shopper, moment(clicked, due))[coffee] >= max(fresh, 0.3)


def test_no_list_beats_the_optimum() -> None:
    world, rng = load(), generator(9)
    for number in range(20):
        shopper, now = meet(world, number), moment(intent=number)
        best = expected_ctr(world, shopper, now, optimum(world, shopper, now))
        assert expected_ctr(world, shopper, now, optimum(world, shopper, now)[::-1]) < best
        assert expected_ctr(world, shopper, now, popular()) < best
        assert expected_ctr(world, shopper, now, rng.integers(0, 5_000, 10)) < best
