"""Statistics of experiments on simulated ones: what they promise at every look, and what they find."""

from __future__ import annotations

import math

import numpy as np
import pytest

from proof.statistics import (
    ALPHA,
    MIN_UNITS,
    SRM_ALPHA,
    Floats,
    always_valid_p,
    boundary,
    cuped,
    effect,
    eliminated,
    holm,
    interleaving_p,
    mean_and_variance,
    mixture,
    preference_interval,
    sample_ratio_p,
    sums,
)
from udfs.logic.interleaving import team_draft, winner

TESTS, LOOKS, PER_LOOK = 2_000, 50, 100  # looks after every 100 units, 50 per arm


def watched(p_control: float, p_arm: float, seed: int) -> Floats:
    """(TESTS, LOOKS): always-valid p at each look, of conversion in two arms of 50 units a look."""
    rng = np.random.default_rng(seed)
    half = PER_LOOK // 2
    n = half * np.arange(1, LOOKS + 1)  # (LOOKS,) units per arm
    rates = [rng.binomial(half, p, (TESTS, LOOKS)).cumsum(axis=1) / n for p in (p_control, p_arm)]
    variance = sum(rate * (1 - rate) for rate in rates) / (n - 1)
    information = 1 / np.maximum(variance, 1e-12)
    planned = information[:, -1:].mean()
    prior = mixture(planned)
    difference = rates[1] - rates[0]
    whole = information + prior
    log_ratio = 0.5 * np.log(prior / whole) + (difference * information) ** 2 / (2 * whole)
    p = np.exp(-np.maximum(log_ratio, 0.0))
    p[:, n < MIN_UNITS] = 1.0
    found: Floats = p
    return found


def test_the_vectorised_p_is_that_of_the_function() -> None:
    assert always_valid_p(0.04, 5_000.0, 300.0) == pytest.approx(
        math.exp(-(0.5 * math.log(300 / 5_300) + (0.04 * 5_000) ** 2 / (2 * 5_300)))
    )
    half = boundary(5_000.0, 300.0)
    assert always_valid_p(half, 5_000.0, 300.0) == pytest.approx(ALPHA)


@pytest.mark.parametrize("rate", [0.05, 0.2, 0.5])
def test_false_positives_of_watched_tests(rate: float) -> None:
    """Contract: of 2,000 tests of A against A, looked at after every 100 users, at most 5 % ever show a difference."""
    assert (watched(rate, rate, 1).min(axis=1) <= ALPHA).mean() <= 0.05


def test_what_looking_costs() -> None:
    """Power at the planned size against a test at a fixed horizon, which may look once only: and how many units earlier it ends."""
    p = watched(0.2, 0.245, 2)
    found = (p <= ALPHA).any(axis=1)
    ends = np.where(found, (p <= ALPHA).argmax(axis=1) + 1, LOOKS) / LOOKS
    rng = np.random.default_rng(3)
    n = LOOKS * PER_LOOK // 2
    before, after = rng.binomial(n, 0.2, TESTS) / n, rng.binomial(n, 0.245, TESTS) / n
    error = np.sqrt((before * (1 - before) + after * (1 - after)) / n)
    fixed = (np.abs(after - before) / error > 1.96).mean()
    assert fixed > 0.95 and found.mean() > 0.8
    assert ends.mean() < 0.7


def test_looking_at_a_fixed_horizon_test_would_be_wrong() -> None:
    """The test above can fail: the usual interval, looked at as often, shows a difference far too often."""
    rng = np.random.default_rng(1)
    n = 50 * np.arange(2, LOOKS + 1)
    rates = [rng.binomial(50, 0.2, (TESTS, LOOKS)).cumsum(axis=1)[:, 1:] / n for _ in range(2)]
    error = np.sqrt(sum(rate * (1 - rate) for rate in rates) / n)
    assert (np.abs(rates[1] - rates[0]) / error > 1.96).any(axis=1).mean() > 0.2


def test_effect_is_the_difference_of_means() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.normal(1.0, 2.0, 4_000), rng.normal(1.3, 2.0, 4_000)
    found = effect(sums(a), sums(b), 8_000)
    assert found is not None
    assert found.difference == pytest.approx(b.mean() - a.mean())
    assert found.low < 0.3 < found.high and found.p < ALPHA
    assert found.low < found.fixed_low < found.fixed_high < found.high
    usual = 1.96 * math.sqrt(a.var(ddof=1) / 4_000 + b.var(ddof=1) / 4_000)
    assert found.fixed_high - found.difference == pytest.approx(usual, rel=1e-3)
    assert effect(sums(a[:50]), sums(b), 8_000) is None
    assert effect(sums(np.ones(500)), sums(np.ones(500)), 8_000) is None


def test_the_variance_of_a_ratio() -> None:
    """Clicks per impression, where a unit has many or few impressions: against many simulated samples."""
    rng = np.random.default_rng(1)
    shown = rng.integers(1, 30, (400, 2_000)).astype(np.float64)
    own = rng.beta(2, 18, shown.shape)  # units differ, so that impressions of one unit are not independent
    clicks = rng.binomial(shown.astype(int), own).astype(np.float64)
    found = [mean_and_variance(sums(y, x)) for y, x in zip(clicks, shown)]
    assert np.mean([variance for _, variance in found]) == pytest.approx(np.var([value for value, _ in found]), rel=0.2)


def test_cuped_takes_out_what_was_known_before() -> None:
    rng = np.random.default_rng(1)
    before = rng.normal(0, 2, 8_000)
    after = before + rng.normal(0, 1, 8_000)
    after[4_000:] += 0.1
    sides = [sums(after[part], covariate=before[part]) for part in (slice(0, 4_000), slice(4_000, None))]
    theta, _ = cuped(sides)
    with_it, without = effect(*sides, 8_000), effect(*sides, 8_000, adjust=False)
    assert theta == pytest.approx(1.0, abs=0.03)
    assert with_it is not None and without is not None
    assert (with_it.high - with_it.low) < 0.55 * (without.high - without.low)
    assert with_it.low < 0.1 < with_it.high


def test_the_sample_ratio_check_finds_a_bug_and_nothing_else() -> None:
    """Contract: 51/49 where 50/50 was planned is found; watched after every 1,000 users, right shares are not."""
    rng = np.random.default_rng(1)
    alarms = 0
    for _ in range(200):
        left = rng.binomial(1_000, 0.5, 100).cumsum()
        alarms += any(
            sample_ratio_p([int(a), 1_000 * n - int(a)], [0.5, 0.5]) < SRM_ALPHA for n, a in enumerate(left, 1)
        )
    assert alarms <= 1
    assert sample_ratio_p([51_000, 49_000], [0.5, 0.5]) < SRM_ALPHA
    assert sample_ratio_p([30_000, 20_200, 50_100], [0.3, 0.2, 0.5]) > 0.05
    assert sample_ratio_p([0, 0], [0.5, 0.5]) == 1.0


def test_holm() -> None:
    """The example of many textbooks: .01, .04, .03, .005."""
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005}) == pytest.approx(
        {"d": 0.02, "a": 0.03, "c": 0.06, "b": 0.06}
    )


def test_arms_are_eliminated_for_certain_only() -> None:
    rng = np.random.default_rng(1)
    rates = {"control": 0.10, "bad": 0.05, "good": 0.12}
    arms = {name: sums(rng.binomial(1, rate, 6_000).astype(np.float64)) for name, rate in rates.items()}
    assert eliminated(arms).keys() == {"bad"} or eliminated(arms).keys() == {"bad", "control"}
    alike = {name: sums(rng.binomial(1, 0.1, 6_000).astype(np.float64)) for name in rates}
    assert eliminated(alike) == {}
    assert eliminated(arms, higher_is_better=False).keys() >= {"good", "control"}


# ── interleaving ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_draft_is_fair_and_whole() -> None:
    first, second = ["a", "b", "c", "d"], ["c", "a", "e", "f"]
    leads = 0
    for seed in range(400):
        draft = team_draft(first, second, 4, seed)
        assert len(set(draft.items)) == 4 and sorted(draft.teams) == [0, 0, 1, 1]
        assert draft == team_draft(first, second, 4, seed)
        leads += draft.teams[0]
    assert 160 <= leads <= 240
    assert sorted(team_draft(first, second, 50, 1).items) == ["a", "b", "c", "d", "e", "f"]
    assert team_draft([], [], 5, 1).items == []


def test_interleaving_finds_the_better_ranker_and_nothing_between_equals() -> None:
    rng = np.random.default_rng(1)
    good, bad = [str(n) for n in range(10)], [str(n) for n in range(9, -1, -1)]
    chances = {str(n): 0.4 / (n + 1) for n in range(10)}

    def duel(one: list[str], other: list[str], lists: int) -> float:
        wins = [0, 0]
        for seed in range(lists):
            draft = team_draft(one, other, 6, seed)
            won = winner(team for item, team in zip(*draft) if rng.random() < chances[item])
            if won is not None:
                wins[won] += 1
        return interleaving_p(wins[0], wins[1])

    assert duel(good, bad, 400) < 0.001
    assert duel(good, good, 400) > ALPHA


def test_the_interval_of_a_preference_leaves_out_one_half_just_where_p_is_small() -> None:
    assert preference_interval(0, 0) == (0.0, 1.0)
    for wins, losses in [(1, 0), (5, 5), (30, 10), (40, 14), (40, 15), (300, 250), (12_000, 11_000)]:
        low, high = preference_interval(wins, losses)
        assert 0 <= low < wins / (wins + losses) < high + 1e-9 <= 1 + 1e-9
        assert (not low < 0.5 < high) is (interleaving_p(wins, losses) < ALPHA)
        assert preference_interval(losses, wins) == (pytest.approx(1 - high), pytest.approx(1 - low))


def test_people_are_the_units_of_a_duel_and_lists_are_not() -> None:
    """Contract: of 1,000 duels of equals, half the people liking the one and half the other, watched after every 20 people of ten
    lists each, at most 5 % are ever decided. Counting lists as if they were people decides most."""
    rng = np.random.default_rng(11)
    duels, people, lists = 1_000, 200, 10
    taste = rng.choice([0.2, 0.8], (duels, people, 1))
    won = rng.random((duels, people, lists)) < taste
    lead = 2 * won.sum(axis=2) - lists  # (duels, people)
    looks = range(19, people, 20)
    counted = {
        "people": ((lead > 0).cumsum(axis=1), (lead < 0).cumsum(axis=1)),
        "lists": (won.sum(axis=2).cumsum(axis=1), (~won).sum(axis=2).cumsum(axis=1)),
    }
    decided = {
        name: np.mean([
            any(interleaving_p(int(wins[duel, at]), int(losses[duel, at])) <= ALPHA for at in looks)
            for duel in range(duels)
        ])
        for name, (wins, losses) in counted.items()
    }  # fmt: skip
    assert decided["people"] <= 0.05 < 0.3 < decided["lists"]
