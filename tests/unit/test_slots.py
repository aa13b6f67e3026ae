"""Places filled from the top: diversity against naive definitions, caps, pinned and sponsored places, stability."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from schemas.decision import EXPLOIT
from schemas.policy import Cap, Dpp, Following, Mmr, Pinned, Policy, Sponsored, Stability
from udfs.logic.diversity import ALIKE, Likeness, likeness_of_groups, likeness_of_vectors, scaled
from udfs.logic.exploration import BetaTables
from udfs.logic.slots import FOLLOW, FOLLOWED, HELD, PINNED, SPONSORED, Filled, Pool, fill, given_up

SCORES = np.array([5.0, 4.0, 3.0, 2.0, 1.0])


def filled(policy: Policy, pool: Pool, k: int = 5) -> Filled:
    return fill(policy, pool, k, 0, BetaTables())


def policy(**fields: Any) -> Policy:
    return Policy(version="x", **({"rules": ()} | fields))


def vectors(seed: int, n: int = 30, d: int = 8) -> Any:
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)


def table(likeness: Likeness, n: int) -> Any:
    """(n, n)"""
    return np.stack([likeness(place) for place in range(n)])


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("relevance", [0.0, 0.3, 0.9])
def test_mmr_is_its_definition(seed: int, relevance: float) -> None:
    scores, likeness = np.random.default_rng(seed).normal(size=30), table(likeness_of_vectors(vectors(seed)), 30)
    wanted = relevance * (scores - scores.min()) / (scores.max() - scores.min())
    list_: list[int] = []
    for _ in range(10):
        left = [n for n in range(30) if n not in list_]
        gain = {n: wanted[n] - (1 - relevance) * max((likeness[n][m] for m in list_), default=0.0) for n in left}
        list_.append(max(left, key=gain.__getitem__))
    assert (
        filled(policy(diversity=Mmr(relevance=relevance)), Pool(scores, likeness=likeness.__getitem__), 10).candidates
        == list_
    )


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("relevance", [0.2, 2.0])
def test_dpp_takes_the_largest_determinant(seed: int, relevance: float) -> None:
    """Contract: incremental Cholesky finds what determinants of the whole kernel would."""
    scores, likeness = np.random.default_rng(seed).normal(size=20), table(likeness_of_vectors(vectors(seed, 20)), 20)
    quality = np.exp(relevance * (scaled(scores) - 1))
    kernel = quality[:, None] * quality * likeness
    list_: list[int] = []
    for _ in range(6):
        left = [n for n in range(20) if n not in list_]
        list_.append(max(left, key=lambda n: np.linalg.slogdet(kernel[np.ix_([*list_, n], [*list_, n])])[1]))
    assert (
        filled(policy(diversity=Dpp(relevance=relevance)), Pool(scores, likeness=likeness.__getitem__), 6).candidates
        == list_
    )


def test_a_dpp_that_has_spanned_everything_goes_on_by_score() -> None:
    pool = Pool(SCORES, likeness=likeness_of_vectors(np.ones((5, 2), np.float32)))
    assert filled(policy(diversity=Dpp(relevance=1.0)), pool).candidates == [0, 1, 2, 3, 4]


def test_full_relevance_is_the_order_of_scores() -> None:
    pool = Pool(SCORES, likeness=likeness_of_vectors(vectors(1, 5)))
    found = filled(policy(diversity=Mmr(relevance=1.0)), pool)
    assert (found.candidates, found.slots) == ([0, 1, 2, 3, 4], [EXPLOIT] * 5)
    assert given_up(SCORES, found.candidates) == [0.0] * 5


def test_diversity_says_what_it_cost() -> None:
    pool = Pool(SCORES, likeness=likeness_of_groups(np.array([0, 0, 0, 1, -1])))
    found = filled(policy(diversity=Mmr(relevance=0.4)), pool, 3)
    assert (found.candidates, given_up(SCORES, found.candidates)) == ([0, 3, 4], [0.0, 2.0, 3.0])


def test_a_score_that_is_no_number_does_not_stretch_the_scale() -> None:
    assert scaled(np.array([-1e30, 1.0, 2.0])).tolist() == [0.0, 0.0, 1.0]
    assert scaled(np.array([3.0, 3.0])).tolist() == [1.0, 1.0]
    assert scaled(np.array([-1e30])).tolist() == [0.0]


def test_groups_are_alike_within() -> None:
    assert table(likeness_of_groups(np.array([0, 0, -1, -1])), 4).tolist() == [
        [1, ALIKE, 0, 0],
        [ALIKE, 1, 0, 0],
        [0, 0, 1, 0],
        [0, 0, 0, 1],
    ]


# ── caps ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_cap_holds_within_its_places_and_not_beyond() -> None:
    pool = Pool(SCORES, {"seller": np.array([7, 7, 7, 8, -1])})
    capped = policy(rules=(Cap(by="seller", most=1, within=3),))
    assert filled(capped, pool).candidates == [0, 3, 4, 1, 2]


def test_what_caps_leave_out_makes_the_list_shorter() -> None:
    pool = Pool(SCORES, {"category": np.array([0, 0, 0, 0, 1])})
    assert filled(policy(rules=(Cap(by="category", most=2),)), pool).candidates == [0, 1, 4]


def test_no_sponsored_item_where_none_is_allowed() -> None:
    pool = Pool(SCORES, {"sponsored": np.array([0, -1, 0, -1, -1])})
    assert filled(policy(rules=(Cap(by="sponsored", most=0),)), pool).candidates == [1, 3, 4]


# ── slots ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_pinned_item_stands_at_its_place_and_nowhere_else() -> None:
    found = filled(policy(slots=[Pinned(place=3, item="a")]), Pool(SCORES, pinned={3: 0}))
    assert (found.candidates, found.slots[2]) == ([1, 2, 0, 3, 4], PINNED)


def test_a_pinned_item_that_a_rule_removed_leaves_its_place_to_the_best() -> None:
    found = filled(policy(slots=[Pinned(place=1, item="gone")]), Pool(SCORES))
    assert (found.candidates, found.slots) == ([0, 1, 2, 3, 4], [EXPLOIT] * 5)


def test_sponsored_places_go_to_the_best_sponsored() -> None:
    pool = Pool(SCORES, {"sponsored": np.array([-1, -1, -1, 0, 0])})
    found = filled(policy(slots=[Sponsored(places=[1, 3, 4])]), pool)
    assert (found.candidates, found.slots) == ([3, 0, 4, 1, 2], [SPONSORED, EXPLOIT, SPONSORED, EXPLOIT, EXPLOIT])


def test_followed_places_go_to_the_best_that_is_followed() -> None:
    pool = Pool(SCORES, {FOLLOWED: np.array([0, -1, -1, 0, -1])})
    found = filled(policy(slots=[Following(places=[1, 3, 4])]), pool)
    assert (found.candidates, found.slots) == ([0, 1, 3, 2, 4], [FOLLOW, EXPLOIT, FOLLOW, EXPLOIT, EXPLOIT])
    assert found.propensities == [1.0] * 5


def test_where_nothing_is_followed_the_best_leads() -> None:
    pool = Pool(SCORES, {FOLLOWED: np.full(5, -1)})
    found = filled(policy(slots=[Following(places=[1])]), pool)
    assert (found.candidates, found.slots) == ([0, 1, 2, 3, 4], [EXPLOIT] * 5)


def test_a_followed_place_is_not_held() -> None:
    previous = np.array([1, 2, 3, 4, 0])
    pool = Pool(SCORES, {FOLLOWED: np.array([-1, -1, -1, 0, -1])}, previous=previous)
    stable = policy(slots=[Following(places=[1])], stability=Stability(top=2, moves=1))
    assert filled(stable, pool).candidates[0] == 3


def test_a_list_is_no_longer_than_its_candidates() -> None:
    assert filled(policy(), Pool(SCORES), 50).candidates == [0, 1, 2, 3, 4]


# ── stability ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("seed", range(20))
def test_near_the_top_nothing_moves_further_than_allowed(seed: int) -> None:
    rng = np.random.default_rng(seed)
    previous = rng.permutation(20)
    found = filled(
        policy(stability=Stability(top=8, moves=2)), Pool(rng.normal(size=20), previous=np.argsort(previous)), 20
    )
    moved = {item: found.candidates.index(item) - place for place, item in enumerate(previous.tolist()) if place < 8}
    assert sorted(found.candidates) == list(range(20))
    assert all(abs(one) <= 2 for one in moved.values())


def test_an_item_that_sinks_is_held() -> None:
    found = filled(policy(stability=Stability(top=2, moves=1)), Pool(SCORES, previous=np.array([1, 2, 3, 4, 0])), 5)
    assert (found.candidates[:3], found.slots[:3]) == ([0, 4, 1], [EXPLOIT, HELD, EXPLOIT])


def test_after_something_new_nothing_is_held() -> None:
    found = filled(policy(stability=Stability(top=2, moves=1)), Pool(SCORES))
    assert found.candidates == [0, 1, 2, 3, 4]
