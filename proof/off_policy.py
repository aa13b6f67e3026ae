"""Off-policy evaluation: what a target policy would have earned, from the logs of another policy.

    reward r, propensity p ─┐   weight w = target / p, perhaps clipped
    target's probability ───┼─► IPS    mean of w·r                                        (Horvitz & Thompson 1952)
    reward model q ─────────┘   SNIPS  sum of w·r / sum of w                              (Swaminathan & Joachims 2015)
                                DR     mean of q(target) + w·(r - q(shown))               (Dudík, Langford & Li 2011)
                                switch the same, without the correction where w > τ       (Wang, Agarwal & Dudík 2017)

Each figure comes with an interval (studentised bootstrap over clusters: Efron & Tibshirani 1993, chapter 12) and with what says
whether to trust it; `refusals` is the list of reasons not to. τ is where the estimated squared error is least, and the bias that it
brings is in the interval. Pure numpy; the same input and seed give the same figures.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

LEVEL = 0.95
ESTIMATORS = ("ips", "snips", "dr", "switch_dr")

# Below so many rows' worth of information, or this share of the rows, the estimate is that of a few rows.
MIN_ESS, MIN_ESS_SHARE = 100.0, 0.01
MAX_ONE_ROW = 0.05  # of all the weight: above it one row decides
MAX_UNSEEN = 0.05  # of the target's probability, on what the logs never show
# Weights average 1 where the propensities are right and the support is full: so far off, by so many standard errors, they are not.
MEAN_WEIGHT_OFF, MEAN_WEIGHT_ERRORS = 0.05, 4.0
MIN_REWARDED = 10  # rows with a reward: below, no interval means anything
_KEPT_WEIGHT = 0.9  # of the weight, after clipping; below it a warning
_REPLICATES = 1_000
_CLUSTERS = 10_000  # more rows than this are resampled in so many random groups: sums of groups vary as sums of rows do
_CHUNK = 100  # replicates drawn at a time
_FOLDS = 5
# How often a row is drawn, Poisson with mean 1, by 16 random bits: a table is ten times as fast as the distribution's own draw.
_POISSON = np.searchsorted(
    np.cumsum([math.exp(-1) / math.factorial(k) for k in range(9)]), (np.arange(1 << 16) + 0.5) / (1 << 16)
).astype(np.float32)


class Logged(NamedTuple):
    """Rows of the logs, (n,) each. `propensity` is NaN where it is unknown."""

    reward: Floats
    propensity: Floats
    target: Floats  # the target's probability of what was shown, in the same context
    q_shown: Floats  # the reward model's expectation of what was shown
    q_target: Floats  # the same of what the target would show, averaged over its probabilities
    cluster: Ints  # rows of a cluster are resampled together
    unseen: float = 0.0  # of the target's probability, on what the logs never show
    target_error: float = 0.0  # standard error that the figures have because the target itself was estimated


class Weights(msgspec.Struct, frozen=True):
    """Diagnostics of the weights in use, that is, after clipping; `unclipped_mean` and `unclipped_max` are before it."""

    mean: float
    max: float
    largest_share: float
    p50: float
    p99: float
    clipped_rows: int
    unclipped_mean: float
    unclipped_max: float


class Estimate(msgspec.Struct, frozen=True):
    value: float
    low: float
    high: float


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """Figures are None where nothing can be computed. `refused` where they are not to be trusted, and `reason` says why."""

    ips: float | None = None
    snips: float | None = None
    dr: float | None = None
    switch_dr: float | None = None
    ess: float | None = None  # effective sample size, (Σw)² / Σw² (Kish 1965), in rows
    refused: bool
    reason: str | None
    codes: list[str] = []
    warnings: list[str] = []
    intervals: dict[str, tuple[float, float]] = {}
    level: float = LEVEL
    clip: float | None = None
    switch_at: float | None = None
    rows: int = 0
    unknown_propensities: int = 0
    rewarded_rows: int = 0
    logged_rate: float | None = None  # mean reward of the logs: of the logging policy
    unseen_target: float = 0.0
    weights: Weights | None = None


def refuse(code: str, reason: str, rows: int = 0) -> Report:
    """A report without figures."""
    return Report(refused=True, reason=reason, codes=[code], rows=rows)


def evaluate(logged: Logged, clip: float | None, seed: int = 0, level: float = LEVEL) -> Report:
    """All figures, or those that can be had, and whether to trust them.

    Rows without a usable propensity are left out of the figures, and the report refuses because of them.
    """
    rows = len(logged.reward)
    if rows == 0:
        return refuse("no_rows", "The logs hold no rows.")
    p = logged.propensity
    known = np.isfinite(p) & (p > 0) & (p <= 1)
    unknown = rows - int(known.sum())
    if unknown == rows:
        return refuse("unknown_propensities", "No row has a propensity between 0 and 1: nothing can be weighted.", rows)
    kept = _rows(logged, known)
    raw = kept.target / kept.propensity
    weights = raw if clip is None else np.minimum(raw, clip)
    total = float(weights.sum())
    found: list[tuple[str, str]] = []
    if unknown:
        found.append(
            (
                "unknown_propensities",
                f"{unknown} of {rows} rows have no propensity between 0 and 1; what they would have changed is unknown.",
            )
        )
    if total == 0:
        found.append(("missing_support", "The target never shows what the logs show: every weight is 0."))
        return _bare(kept, clip, found, rows, unknown)
    diagnostics = _diagnose(raw, weights)
    ess = total**2 / float(np.square(weights).sum())
    found += refusals(kept, raw, diagnostics, ess)
    estimates, tau = _estimates(kept, weights, seed, level)
    warnings = _warnings(kept, clip, diagnostics)
    return Report(
        **{name: one.value for name, one in estimates.items()},
        ess=ess,
        refused=bool(found),
        reason=" ".join(sentence for _, sentence in found) or None,
        codes=[code for code, _ in found],
        warnings=warnings,
        intervals={name: (one.low, one.high) for name, one in estimates.items()},
        level=level,
        clip=clip,
        switch_at=tau,
        rows=rows,
        unknown_propensities=unknown,
        rewarded_rows=int(np.count_nonzero(kept.reward)),
        logged_rate=float(kept.reward.mean()),
        unseen_target=kept.unseen,
        weights=diagnostics,
    )


def refusals(kept: Logged, raw: Floats, found: Weights, ess: float) -> list[tuple[str, str]]:
    """(code, sentence) of every reason not to trust figures made of these weights."""
    reasons, rows = [], len(raw)
    if kept.unseen > MAX_UNSEEN:
        reasons.append(
            (
                "missing_support",
                f"{kept.unseen:.1%} of the target's probability is on items that the logs never show: "
                "what they would have earned is unknown.",
            )
        )
    off = abs(found.unclipped_mean - 1.0)
    error = float(raw.std(ddof=1)) / rows**0.5 if rows > 1 else float("inf")
    if off > MEAN_WEIGHT_OFF and off > MEAN_WEIGHT_ERRORS * error:
        reasons.append(
            (
                "missing_support" if found.unclipped_mean < 1 else "wrong_propensities",
                f"The weights average {found.unclipped_mean:.3f}, where right propensities and full support give 1: "
                "the propensities are not those of the logging policy, or the target shows what the logs never show.",
            )
        )
    needed = max(MIN_ESS, MIN_ESS_SHARE * rows)
    if ess < needed or found.largest_share > MAX_ONE_ROW:
        reasons.append(
            (
                "weights_explode",
                f"The effective sample size is {ess:,.1f} of {rows:,} rows (at least {needed:,.0f} are needed), "
                f"and the largest weight, {found.max:,.4g}, holds {found.largest_share:.1%} of all "
                f"(at most {MAX_ONE_ROW:.0%} may be in one row): a few rows decide the figures.",
            )
        )
    rewarded = int(np.count_nonzero(kept.reward))
    if rewarded < MIN_REWARDED:
        reasons.append(
            (
                "too_few_rewards",
                f"{rewarded} rows have a reward, and at least {MIN_REWARDED} are needed: the interval would mean nothing.",
            )
        )
    return reasons


# ── reward model ─────────────────────────────────────────────────────────────────────────────────────────────────────


class ItemRates(NamedTuple):
    """A reward model made of one rate per item, cross-fitted: a row's own fold is not in its rates."""

    fold: Ints  # (n,) of each row
    rates: Floats  # (folds, items)

    def of(self, items: Ints) -> Floats:
        """(n,) the rate of one item per row."""
        rates: Floats = self.rates[self.fold, items]
        return rates

    def over(self, chances: Floats) -> Floats:
        """(folds, kinds): the expected rate of each kind of context, of chances (kinds, items)."""
        expected: Floats = self.rates @ chances.T
        return expected


def item_rates(items: Ints, reward: Floats, cluster: Ints, count: int, seed: int = 0) -> ItemRates:
    """Mean reward per item, shrunk to the mean of all by a prior worth one reward. Folds are drawn by cluster."""
    _, index = np.unique(cluster, return_inverse=True)
    of_cluster = np.random.default_rng(seed).integers(0, _FOLDS, int(index.max(initial=0)) + 1)
    fold = of_cluster[index]
    cell = fold * count + items
    shown = np.bincount(cell, minlength=_FOLDS * count).reshape(_FOLDS, count).astype(np.float64)
    earned = np.bincount(cell, weights=reward, minlength=_FOLDS * count).reshape(_FOLDS, count)
    shown, earned = shown.sum(axis=0) - shown, earned.sum(axis=0) - earned  # all other folds
    mean = earned.sum(axis=1, keepdims=True) / np.maximum(shown.sum(axis=1, keepdims=True), 1.0)  # (folds, 1)
    # One reward takes 1 / mean rows.
    prior = 1.0 / np.maximum(np.abs(mean), 1e-6)
    rates: Floats = (earned + mean * prior) / (shown + prior)
    return ItemRates(fold, rates)


# ── figures and intervals ────────────────────────────────────────────────────────────────────────────────────────────


def _estimates(kept: Logged, weights: Floats, seed: int, level: float) -> tuple[dict[str, Estimate], float]:
    correction = weights * (kept.reward - kept.q_shown)
    tau, bias = _switch_at(kept.q_target, correction, weights)
    ones = np.ones(len(weights))
    # Every estimator is a ratio of two sums over rows.
    parts = {
        "ips": (weights * kept.reward, ones),
        "snips": (weights * kept.reward, weights),
        "dr": (kept.q_target + correction, ones),
        "switch_dr": (kept.q_target + np.where(weights <= tau, correction, 0.0), ones),
    }
    intervals = ratio_intervals(list(parts.values()), _grouped(kept.cluster, seed), seed, level)
    least, most = float(kept.reward.min()), float(kept.reward.max())
    found = {}
    for (name, (top, bottom)), interval in zip(parts.items(), intervals):
        value = float(top.sum() / bottom.sum())
        more = float(np.hypot(kept.target_error, bias if name == "switch_dr" else 0.0))
        low, high = _wider(value, interval, more, level)
        # A mean of rewards is nowhere else.
        found[name] = Estimate(value, min(max(low, least), most), max(min(high, most), least))
    return found, tau


def _switch_at(model: Floats, correction: Floats, weights: Floats) -> tuple[float, float]:
    """(τ, bias) of the τ with the least variance + bias².

    What is left out estimates the bias, with an error of its own: that is taken off where τ is chosen, and not where the
    bias widens the interval.
    """
    rows, largest = len(weights), float(weights.max())
    steps = max(1, int(np.ceil(np.log2(max(largest, 1.0)))))
    best = (np.inf, largest, 0.0)
    for tau in (largest, *(float(2**power) for power in range(steps - 1, -1, -1))):
        kept = np.where(weights <= tau, correction, 0.0)
        left_out = correction - kept
        variance = float((model + kept).var()) / rows
        bias2 = max(0.0, float(left_out.mean()) ** 2 - float(left_out.var()) / rows)
        if variance + bias2 < best[0]:
            best = (variance + bias2, tau, abs(float(left_out.mean())))
    return best[1:]


def ratio_intervals(
    ratios: Sequence[tuple[Floats, Floats]],
    groups: Ints,
    seed: int,
    level: float = LEVEL,
) -> list[tuple[float, float]]:
    """Studentised bootstrap interval of each sum(top) / sum(bottom); whole groups are resampled, all ratios on the same draws."""
    size = int(groups.max()) + 1
    columns = []
    for top, bottom in ratios:
        a, b = (np.bincount(groups, weights=part, minlength=size) for part in (top, bottom))
        columns += [a, b, a * a, a * b, b * b]
    sums = np.stack(columns, axis=1).astype(np.float64)  # (groups, 5 per ratio)
    rng = np.random.default_rng(seed)
    drawn = []
    for _ in range(0, _REPLICATES, _CHUNK):
        # Poisson counts stand for the multinomial ones (Chamandy and others 2012): sums need no fixed size.
        drawn.append(_POISSON[rng.integers(0, 1 << 16, (_CHUNK, size), dtype=np.uint16)] @ sums)
    replicates = np.concatenate(drawn)  # (replicates, 5 per ratio)
    whole = sums.sum(axis=0)
    return [_studentised(whole[5 * n : 5 * n + 5], replicates[:, 5 * n : 5 * n + 5], level) for n in range(len(ratios))]


def _studentised(whole: Floats, replicates: Floats, level: float) -> tuple[float, float]:
    value, error = (part[0] for part in _ratio_and_error(whole[None, :]))
    values, errors = _ratio_and_error(replicates)
    usable = errors > 0
    if error == 0 or usable.mean() < level:
        return float(value), float(value)
    t = (values[usable] - value) / errors[usable]
    lower, upper = np.quantile(t, [(1 - level) / 2, (1 + level) / 2])
    return float(value - upper * error), float(value - lower * error)


def _wider(value: float, interval: tuple[float, float], more: float, level: float) -> tuple[float, float]:
    """The interval with a further standard error `more`, of another and independent source."""
    margin = more * NormalDist().inv_cdf(0.5 + level / 2)
    low, high = interval
    return value - float(np.hypot(value - low, margin)), value + float(np.hypot(high - value, margin))


def _ratio_and_error(sums: Floats) -> tuple[Floats, Floats]:
    """Ratio and its delta-method standard error, of rows (Σa, Σb, Σa², Σab, Σb²)."""
    a, b, aa, ab, bb = sums.T
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = a / b
        variance = (aa - 2 * ratio * ab + ratio**2 * bb) / b**2
    good = np.isfinite(ratio) & np.isfinite(variance) & (variance > 0)
    return np.where(good, ratio, 0.0), np.where(good, np.sqrt(np.where(good, variance, 0.0)), 0.0)


def _grouped(cluster: Ints, seed: int) -> Ints:
    """Cluster numbers from 0; where there are very many, clusters are gathered into _CLUSTERS random groups."""
    names, index = np.unique(cluster, return_inverse=True)
    if len(names) <= _CLUSTERS:
        return index.astype(np.int64)
    gathered = np.random.default_rng(seed).permutation(len(names)) % _CLUSTERS
    grouped: Ints = gathered[index]
    return grouped


# ── diagnostics ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _diagnose(raw: Floats, weights: Floats) -> Weights:
    return Weights(
        mean=float(weights.mean()),
        max=float(weights.max()),
        largest_share=float(weights.max() / weights.sum()),
        p50=float(np.median(weights)),
        p99=float(np.quantile(weights, 0.99)),
        clipped_rows=int(np.count_nonzero(raw > weights)),
        unclipped_mean=float(raw.mean()),
        unclipped_max=float(raw.max()),
    )


def _warnings(kept: Logged, clip: float | None, found: Weights) -> list[str]:
    said = []
    if clip is not None and found.mean < _KEPT_WEIGHT * min(found.unclipped_mean, 1.0):
        said.append(
            f"Clipping at {clip:g} leaves weights that average {found.mean:.3f}: IPS is too low by about as much as "
            "that is below 1, and SNIPS leans to what the logging policy liked to show."
        )
    if kept.target_error:
        said.append("The target's probabilities were estimated; the intervals include what that adds.")
    return said


def _bare(kept: Logged, clip: float | None, found: list[tuple[str, str]], rows: int, unknown: int) -> Report:
    return Report(
        refused=True,
        reason=" ".join(sentence for _, sentence in found),
        codes=[code for code, _ in found],
        clip=clip,
        rows=rows,
        unknown_propensities=unknown,
        rewarded_rows=int(np.count_nonzero(kept.reward)),
        logged_rate=float(kept.reward.mean()),
        unseen_target=kept.unseen,
    )


def _rows(logged: Logged, kept: npt.NDArray[np.bool_]) -> Logged:
    columns = (part[kept] if isinstance(part, np.ndarray) else part for part in logged)
    return Logged(*columns)  # type: ignore[arg-type]
