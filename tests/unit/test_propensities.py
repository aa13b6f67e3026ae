"""Propensities are exact: lists drawn by a naive sampler, which really samples posteriors, come as often as the engine says.

The engine's chances are enumerated, branch by branch; the sampler below knows neither quadrature nor seeds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from schemas.policy import Beliefs, Cap, Explore, Mmr, Pinned, Policy, check_policy
from udfs.logic import slots
from udfs.logic.exploration import BetaTables, beta_tables, draw, thompson, uniforms
from udfs.logic.slots import EXPLORE, Filled, Pool, fill

POLICIES, SLATES = 200, 100_000


def random_case(rng: np.random.Generator) -> tuple[Policy, Pool, int]:
    n, k = int(rng.integers(4, 8)), int(rng.integers(2, 5))
    places = rng.permutation(np.arange(1, k + 1))
    explore: list[Any] = []
    for place in places[: rng.integers(1, min(k, 3) + 1)].tolist():
        how = str(rng.choice(["thompson", "ucb", "epsilon_greedy", "softmax"], p=[0.5, 0.1, 0.2, 0.2]))
        own: dict[str, Any] = {"epsilon_greedy": {"epsilon": 0.3}, "softmax": {"temperature": 0.7}}.get(how, {})
        floor = float(rng.choice([0.0, 0.2]))
        arms = "category" if rng.random() < 0.3 else "item"
        own |= {"policy": how, "arms": arms, "floor": floor}
        explore.append(Explore(places=[place], pool=int(rng.integers(2, n + 1)), **own))
    left = places[len(explore) :].tolist()
    pinned = {left[0]: n - 1} if left and rng.random() < 0.4 else {}
    rules = (Cap(by="category", most=1, within=3),) if rng.random() < 0.5 else ()
    policy = Policy(
        version="x",
        rules=rules,
        diversity=Mmr(relevance=0.6) if rng.random() < 0.5 else None,
        slots=[*explore, *[Pinned(place=place, item=f"{item}") for place, item in pinned.items()]],
        beliefs=Beliefs(),
    )
    check_policy(policy)
    vectors = rng.normal(size=(n, 3))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    posteriors = np.column_stack((rng.uniform(1, 30, n), rng.uniform(1, 200, n)))
    likeness = (vectors @ vectors.T).__getitem__
    codes = rng.integers(-1, 3, n)
    of_groups = {"category": np.column_stack((rng.uniform(1, 30, 4), rng.uniform(1, 200, 4)))[codes + 1]}
    pool = Pool(rng.normal(size=n), {"category": codes}, likeness, posteriors, of_groups=of_groups, pinned=pinned)
    return policy, pool, k


def enumerated(policy: Policy, pool: Pool, k: int, monkeypatch: pytest.MonkeyPatch) -> dict[tuple[int, ...], float]:
    """Every list that the engine can draw, and the product of its propensities."""
    found: dict[tuple[int, ...], float] = {}
    scripts: list[list[int]] = [[]]
    while scripts:
        script, trace = scripts.pop(), list[int]()

        def scripted(chance: Any, _uniform: float, script: list[int] = script, trace: list[int] = trace) -> int:
            if len(trace) < len(script):
                choice = script[len(trace)]
            else:
                choice, *others = np.flatnonzero(chance).tolist()
                scripts.extend([*trace, other] for other in others)
            trace.append(choice)
            return choice

        monkeypatch.setattr(slots, "draw", scripted)
        filled = fill(policy, pool, k, 0, BetaTables())
        found[tuple(filled.candidates)] = math.prod(filled.propensities)
    monkeypatch.setattr(slots, "draw", draw)
    return found


def sampled(policy: Policy, pool: Pool, k: int, rng: np.random.Generator) -> np.ndarray[Any, Any]:
    """(SLATES, k) lists, -1 where nothing was left: place by place, all lists at once."""
    n, every = len(pool.scores), np.arange(SLATES)
    span = pool.scores.max() - pool.scores.min()
    relevance = (pool.scores - pool.scores.min()) / span
    free = np.ones((SLATES, n), bool)
    free[:, list(pool.pinned.values())] = False
    made = np.full((SLATES, k), -1)
    for place in range(1, k + 1):
        slot = policy.slot_at().get(place)
        above = made[:, : place - 1]
        if place in pool.pinned:
            made[:, place - 1] = pool.pinned[place]
            continue
        gains = np.broadcast_to(pool.scores, (SLATES, n))
        if isinstance(policy.diversity, Mmr):
            gains = policy.diversity.relevance * np.broadcast_to(relevance, (SLATES, n))
            if place > 1:
                table = np.stack([pool.likeness(one) for one in range(n)])  # type: ignore[misc]
                nearest = table[above].max(axis=1)
                gains = gains - (1 - policy.diversity.relevance) * nearest
        open_ = free.copy()
        for cap in policy.caps:
            codes = pool.groups["category"]
            if place <= cap.within:
                for code in set(codes[codes >= 0].tolist()):
                    full = ((codes == code)[above] & (above >= 0)).sum(axis=1) >= cap.most
                    open_[np.ix_(full, codes == code)] = False
        gains = np.where(open_, gains, -np.inf)
        choice = gains.argmax(axis=1)
        if isinstance(slot, Explore):
            order = np.argsort(-gains, axis=1)[:, : slot.pool]
            among = np.zeros_like(open_)
            among[every[:, None], order] = True
            among &= open_
            believed = pool.posteriors
            if slot.arms == "category":
                believed = pool.of_groups["category"]
                codes, best_of_its_own = pool.groups["category"], np.zeros_like(among)
                for code in set(codes.tolist()):
                    members = among & (codes == code)
                    best_of_its_own[every, np.where(members, gains, -np.inf).argmax(axis=1)] |= members.any(axis=1)
                among = best_of_its_own
            even = np.where(among, rng.random((SLATES, n)), -1).argmax(axis=1)
            clicks, misses = believed.T  # type: ignore[union-attr]
            scores = np.where(among, pool.scores, -np.inf)
            if slot.policy == "thompson":
                choice = np.where(among, rng.beta(clicks, misses, (SLATES, n)), -1).argmax(axis=1)
            elif slot.policy == "ucb":
                strength = clicks + misses
                total = np.where(among, strength, 0).sum(axis=1, keepdims=True)
                bound = clicks / strength + slot.bonus * np.sqrt(2 * np.log(total) / strength)
                choice = np.where(among, bound, -1).argmax(axis=1)
            elif slot.policy == "softmax":
                choice = (scores / slot.temperature + rng.gumbel(size=(SLATES, n))).argmax(axis=1)
            else:
                choice = np.where(rng.random(SLATES) < slot.epsilon, even, scores.argmax(axis=1))
            choice = np.where(rng.random(SLATES) < slot.floor, even, choice)
        some = open_.any(axis=1)
        made[:, place - 1] = np.where(some, choice, -1)
        free[every[some], choice[some]] = False
    return made


def chi_square_p(statistic: float, freedom: int) -> float:
    """P(χ² > statistic): the upper incomplete gamma function, by its continued fraction or its series (DLMF 8.9, 8.7)."""
    a, x = freedom / 2, statistic / 2
    scale = math.exp(-x + a * math.log(x) - math.lgamma(a)) if x > 0 else 0.0
    if x < a + 1:
        term = total = 1 / a
        for step in range(1, 500):
            term *= x / (a + step)
            total += term
        return 1 - scale * total
    fraction = 0.0
    for step in range(200, 0, -1):
        fraction = step * (step - a) / (x + 2 * step + 1 - a - fraction)
    return scale / (x + 1 - a - fraction)


def p_value(expected: dict[tuple[int, ...], float], made: np.ndarray[Any, Any]) -> float | None:
    """None where the list is certain. Lists expected fewer than ten times count together."""
    lists, counts = np.unique(made, axis=0, return_counts=True)
    seen = {tuple(one[one >= 0].tolist()): int(count) for one, count in zip(lists, counts)}
    assert seen.keys() <= expected.keys(), "a list came that the engine says cannot"
    cells: list[tuple[float, int]] = []
    rare, rare_seen = 0.0, 0
    for one, chance in expected.items():
        if chance * len(made) >= 10:
            cells.append((chance * len(made), seen.get(one, 0)))
        else:
            rare, rare_seen = rare + chance * len(made), rare_seen + seen.get(one, 0)
    if rare >= 10:
        cells.append((rare, rare_seen))
    if len(cells) < 2:
        return None
    return chi_square_p(sum((count - wanted) ** 2 / wanted for wanted, count in cells), len(cells) - 1)


def test_drawn_lists_come_as_often_as_their_propensities_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """Contract: over 200 random policies of 100,000 lists each, the p-values of the χ² tests are uniform at .01."""
    found = []
    for number in range(POLICIES):
        rng = np.random.default_rng(number)
        policy, pool, k = random_case(rng)
        chances = enumerated(policy, pool, k, monkeypatch)
        assert sum(chances.values()) == pytest.approx(1, abs=1e-9)
        p = p_value(chances, sampled(policy, pool, k, rng))
        if p is not None:
            found.append(p)
    values = np.sort(found)
    assert len(values) > 150
    steps = np.arange(len(values) + 1) / len(values)
    gap = max((values - steps[:-1]).max(), (steps[1:] - values).max())
    assert gap < 1.63 / math.sqrt(len(values)), f"Kolmogorov-Smirnov {gap:.3f}; smallest p {values[0]:.2g}"


@pytest.mark.parametrize("number", range(6))
def test_the_engines_own_draws_follow_its_chances(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    policy, pool, k = random_case(np.random.default_rng(number))
    chances = enumerated(policy, pool, k, monkeypatch)
    tables = BetaTables()
    made = np.full((3_000, k), -1)
    for seed in range(len(made)):
        found = fill(policy, pool, k, seed * 2_654_435_761, tables).candidates
        made[seed, : len(found)] = found
    p = p_value(chances, made)
    assert p is None or p > 1e-3


def test_chances_of_a_place_sum_to_one_and_the_rest_is_certain() -> None:
    policy, pool, k = random_case(np.random.default_rng(3))
    filled: Filled = fill(policy, pool, k, 1, BetaTables())
    for slot, propensity in zip(filled.slots, filled.propensities):
        assert 0 < propensity <= 1
        assert slot == EXPLORE or propensity == 1


# ── the quadrature ───────────────────────────────────────────────────────────────────────────────────────────────────


def cases() -> Iterator[np.ndarray[Any, Any]]:
    yield np.array([[1.0, 1.0], [1.0, 1.0], [1.0, 1.0]])
    yield np.array([[1.0, 19.0], [3.0, 50.0], [30.0, 900.0], [20.0, 380.0]])
    yield np.array([[200.0, 9_800.0], [210.0, 9_790.0], [190.0, 9_810.0]])
    yield np.array([[1.0, 99_999.0], [1.0, 1.0], [1_000.0, 1.0]])


@pytest.mark.parametrize("posteriors", list(cases()))
def test_thompson_by_quadrature_is_thompson_by_sampling(posteriors: np.ndarray[Any, Any]) -> None:
    chance = thompson(*beta_tables(posteriors))
    rng = np.random.default_rng(5)
    strength = posteriors.sum(axis=1, keepdims=True)
    widened = posteriors * np.minimum(1, 10_000 / strength)
    drawn = rng.beta(widened[:, 0], widened[:, 1], (500_000, len(posteriors))).argmax(axis=1)
    share = np.bincount(drawn, minlength=len(posteriors)) / len(drawn)
    assert np.abs(share - chance).max() < 4 * math.sqrt(0.25 / len(drawn))
    assert chance.sum() == pytest.approx(1)


def test_equal_arms_have_equal_chances() -> None:
    chance = thompson(*beta_tables(np.array([[1.0, 19.0]] * 50)))
    assert chance == pytest.approx([0.02] * 50, abs=1e-12)


def test_tables_make_room_for_new_ones_and_stay_right() -> None:
    """Contract: whatever was forgotten in between, what comes out is the table of each posterior asked for."""
    rng, tables = np.random.default_rng(1), BetaTables(kept=6)
    for _ in range(40):
        asked = rng.integers(1, 12, (int(rng.integers(1, 9)), 2)).astype(np.float64)
        for found, wanted in zip(tables.of(asked), beta_tables(asked)):
            np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-6)
    assert len(tables._log_cdf) <= 18


def test_uniforms_are_uniform_and_places_independent() -> None:
    seeds = np.arange(200_000, dtype=np.uint64)
    drawn = np.stack([uniforms(seeds, place) for place in (1, 2)])
    counts = np.histogram2d(*drawn, bins=10, range=[[0, 1], [0, 1]])[0]
    assert chi_square_p(float(((counts - 2_000) ** 2 / 2_000).sum()), 99) > 1e-3


def test_one_seed_draws_as_it_does_among_many() -> None:
    """Contract: a replay's single draw is the draw of the test's millions."""
    assert float(uniforms(2**64 - 1, 7)) == uniforms(np.array([1, 2**64 - 1], np.uint64), 7)[1]


def test_a_draw_is_never_a_candidate_without_a_chance() -> None:
    assert draw(np.array([0.0, 1.0, 0.0]), 0.0) == 1
    assert draw(np.array([0.0, 1.0, 0.0]), 1 - 2**-53) == 1


@pytest.mark.parametrize(("statistic", "freedom", "p"), [(3.841459, 1, 0.05), (124.342, 100, 0.05), (0.0158, 1, 0.9)])
def test_the_tests_own_p_value(statistic: float, freedom: int, p: float) -> None:
    assert chi_square_p(statistic, freedom) == pytest.approx(p, abs=2e-4)
