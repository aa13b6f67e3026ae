"""Off-policy estimates on generated logs whose truth is known, and every reason to refuse."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest

from proof.off_policy import Floats, Logged, Report, evaluate, item_rates

ITEMS, KINDS = 12, 3
RATES = np.random.default_rng(5).uniform(0.02, 0.30, (KINDS, ITEMS))  # true click rate by kind of user and item


class World(NamedTuple):
    """Two policies, (KINDS, ITEMS) each."""

    logging: Floats
    target: Floats

    @property
    def truth(self) -> float:
        return float((self.target * RATES).sum(axis=1).mean())


def world(heat: float, seed: int = 1) -> World:
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(2, KINDS, ITEMS))
    logging, target = (np.exp(heat * one) / np.exp(heat * one).sum(axis=1, keepdims=True) for one in logits)
    return World(logging, target)


def logged(of: World, rows: int, seed: int, rates: Floats = RATES) -> Logged:
    rng = np.random.default_rng([seed, 9])  # not the stream that the bootstrap and the folds draw from
    kind = rng.integers(0, KINDS, rows)
    below = of.logging.cumsum(axis=1)[kind] < rng.random((rows, 1))
    item = np.minimum(below.sum(axis=1), ITEMS - 1)
    reward = (rng.random(rows) < rates[kind, item]).astype(np.float64)
    cluster = np.arange(rows)
    model = item_rates(item, reward, cluster, ITEMS, seed)
    q_target = model.over(of.target)[model.fold, kind]
    return Logged(reward, of.logging[kind, item], of.target[kind, item], model.of(item), q_target, cluster)


MILD = world(0.7)


@pytest.fixture(scope="module")
def runs() -> list[Report]:
    return [evaluate(logged(MILD, 2_000, seed), None, seed) for seed in range(120)]


@pytest.mark.parametrize("name", ["ips", "snips", "dr"])
def test_intervals_cover_the_truth_as_often_as_they_say(name: str, runs: list[Report]) -> None:
    """Of 120 runs at 95 %, 107 and more cover with a chance of 99 %."""
    covered = [low <= MILD.truth <= high for low, high in (one.intervals[name] for one in runs)]
    assert sum(covered) >= 107


@pytest.mark.parametrize("name", ["ips", "snips", "dr"])
def test_estimates_are_unbiased(name: str, runs: list[Report]) -> None:
    values = np.array([getattr(one, name) for one in runs])
    assert abs(values.mean() - MILD.truth) < 4 * values.std() / len(values) ** 0.5


def test_a_reward_model_that_fits_makes_the_estimate_steadier() -> None:
    """Where an item earns the same of everybody the model is right, and IPS carries all the noise of the weights."""
    rates = np.tile(np.linspace(0.5, 0.95, ITEMS), (KINDS, 1))
    runs = [evaluate(logged(MILD, 500, seed, rates), None, seed) for seed in range(40)]
    spread = {name: np.std([getattr(one, name) for one in runs]) for name in ("ips", "dr")}
    assert spread["dr"] < 0.8 * spread["ips"]


def test_formulas_against_a_naive_oracle() -> None:
    rows = logged(MILD, 500, 3)
    report = evaluate(rows, clip=2.0)
    weights = [min(t / p, 2.0) for t, p in zip(rows.target, rows.propensity)]
    assert report.ips == pytest.approx(sum(w * r for w, r in zip(weights, rows.reward)) / 500)
    assert report.snips == pytest.approx(sum(w * r for w, r in zip(weights, rows.reward)) / sum(weights))
    model = [q + w * (r - s) for q, w, r, s in zip(rows.q_target, weights, rows.reward, rows.q_shown)]
    assert report.dr == pytest.approx(sum(model) / 500)
    assert report.ess == pytest.approx(sum(weights) ** 2 / sum(w * w for w in weights))
    assert report.weights is not None
    assert report.weights.clipped_rows == sum(t / p > 2.0 for t, p in zip(rows.target, rows.propensity))


def test_the_same_seed_gives_the_same_figures() -> None:
    rows = logged(MILD, 500, 3)
    assert evaluate(rows, None, 7) == evaluate(rows, None, 7)


def test_rows_of_one_user_are_one_observation() -> None:
    """Contract: ten copies of the same rows, as one user's each, say no more than the rows themselves."""
    rows = logged(MILD, 1_000, 3)
    tenfold = Logged(*(np.repeat(part, 10) if isinstance(part, np.ndarray) else part for part in rows))  # type: ignore[arg-type]
    once, ten = (evaluate(one, None).intervals["snips"] for one in (rows, tenfold))
    assert ten == pytest.approx(once, rel=1e-9)


def test_many_rows_are_resampled_in_groups() -> None:
    rows = logged(MILD, 30_000, 3)
    low, high = evaluate(rows, None).intervals["snips"]
    w = rows.target / rows.propensity
    value = float((w * rows.reward).sum() / w.sum())
    error = float(np.sqrt(np.square(w * (rows.reward - value)).sum())) / w.sum()
    assert (high - low) / (2 * 1.96 * error) == pytest.approx(1.0, abs=0.08)


def test_an_estimated_target_widens_the_interval() -> None:
    rows = logged(MILD, 1_000, 3)
    low, high = evaluate(rows, None).intervals["ips"]
    wider = evaluate(rows._replace(target_error=0.02), None).intervals["ips"]
    assert wider[0] < low and wider[1] > high


# ── refusals ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_sound_logs_are_not_refused(runs: list[Report]) -> None:
    assert not [one.reason for one in runs if one.refused]


def test_exploded_weights_are_refused_with_their_figures() -> None:
    rows = logged(MILD, 2_000, 3)
    rows.propensity[0] = 1e-6
    report = evaluate(rows, None)
    assert report.codes == ["weights_explode"]
    assert report.ips is not None and report.ess is not None and report.ess < 5
    assert "effective sample size" in (report.reason or "")


def test_missing_support_is_refused() -> None:
    """The target likes an item that the logging policy never shows."""
    logging = MILD.logging.copy()
    favourite = int(MILD.target.mean(axis=0).argmax())
    logging[:, favourite] = 0
    rows = logged(World(logging / logging.sum(axis=1, keepdims=True), MILD.target), 3_000, 3)
    assert evaluate(rows, None).codes == ["missing_support"]
    assert "missing_support" in evaluate(rows._replace(unseen=0.2), None).codes


def test_wrong_propensities_are_refused() -> None:
    rows = logged(MILD, 3_000, 3)
    assert evaluate(rows._replace(propensity=rows.propensity / 3), None).codes == ["wrong_propensities"]


@pytest.mark.parametrize("bad", [float("nan"), 0.0, -0.1, 1.5, float("inf")])
def test_a_bad_propensity_is_refused_and_left_out(bad: float) -> None:
    rows = logged(MILD, 2_000, 3)
    clean = evaluate(Logged(*(part[1:] if isinstance(part, np.ndarray) else part for part in rows)), None)  # type: ignore[arg-type]
    rows.propensity[0] = bad
    report = evaluate(rows, None)
    assert report.codes == ["unknown_propensities"] and report.unknown_propensities == 1
    assert report.snips == clean.snips


def test_no_known_propensity_gives_no_figure() -> None:
    rows = logged(MILD, 100, 3)
    report = evaluate(rows._replace(propensity=np.full(100, np.nan)), None)
    assert (report.refused, report.codes, report.ips) == (True, ["unknown_propensities"], None)


def test_no_reward_is_refused() -> None:
    rows = logged(MILD, 2_000, 3)
    report = evaluate(rows._replace(reward=np.zeros(2_000)), None)
    assert report.codes == ["too_few_rewards"] and report.ips == 0


def test_no_rows_are_refused() -> None:
    assert evaluate(logged(MILD, 0, 3), None).codes == ["no_rows"]


def test_a_target_that_never_agrees_is_refused() -> None:
    rows = logged(MILD, 500, 3)
    report = evaluate(rows._replace(target=np.zeros(500)), None)
    assert report.codes == ["missing_support"] and report.snips is None
