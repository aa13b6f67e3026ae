"""Statistics of experiments: intervals that hold however often one looks, and what has to be right before one looks at all.

    per-unit sums ─ CUPED ─┬─ difference of means or ratios ─ confidence sequence, always-valid p ─ Holm ─ decision
                           └─ sample-ratio check

Confidence sequence: the normal-mixture boundary over information (Robbins 1970; Johari and others 2022; in its asymptotic form
Waudby-Smith and others 2024), so it covers the truth at all times at once with the stated probability. CUPED: Deng and others 2013.
Ratios: the delta method. Sample ratio: the Dirichlet-multinomial test of Lindon & Malek 2022, valid at all times too. Holm 1979.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import NormalDist

import msgspec
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

ALPHA = 0.05
SRM_ALPHA = 0.001  # a bug is rare, and found with certainty soon enough
MIN_UNITS = 100  # per arm: the boundary is asymptotic
_CONCENTRATION = 1_000.0  # of the Dirichlet prior around the planned shares


class Sums(msgspec.Struct, frozen=True, array_like=True):
    """Of one arm and metric: units, and sums over units of value y, weight x (1 for a plain mean) and covariate c."""

    n: float
    y: float
    x: float
    yy: float
    xy: float
    xx: float
    c: float = 0.0
    cc: float = 0.0
    cy: float = 0.0
    cx: float = 0.0

    def __add__(self, other: Sums) -> Sums:
        return Sums(*(a + b for a, b in zip(msgspec.structs.astuple(self), msgspec.structs.astuple(other))))


EMPTY = Sums(0, 0, 0, 0, 0, 0)


class Effect(msgspec.Struct, frozen=True, kw_only=True):
    """Of an arm against the control. `low` and `high` bound the absolute difference at all times at once."""

    control: float  # the metric's value there, after CUPED
    value: float  # in the arm
    difference: float
    low: float
    high: float
    p: float  # always valid
    fixed_low: float  # of a test planned for exactly this many units: for comparison, not for decisions
    fixed_high: float

    @property
    def relative(self) -> tuple[float, float, float] | None:
        """Difference and bounds as parts of the control's value; None where that is 0."""
        if not self.control:
            return None
        low, high = sorted((self.low / abs(self.control), self.high / abs(self.control)))
        return self.difference / abs(self.control), low, high


def sums(y: Floats, x: Floats | None = None, covariate: Floats | None = None) -> Sums:
    """Of one row per unit."""
    x = np.ones_like(y) if x is None else x
    c = np.zeros_like(y) if covariate is None else covariate
    parts = (y, x, y * y, x * y, x * x, c, c * c, c * y, c * x)
    return Sums(float(len(y)), *(float(part.sum()) for part in parts))


def mean_and_variance(of: Sums, theta: float = 0.0, pooled_c: float = 0.0) -> tuple[float, float]:
    """Σy/Σx, less theta × the covariate's surplus, and its sampling variance by the delta method."""
    if of.n < 2 or of.x == 0:
        return math.nan, math.inf
    ratio, per_unit = of.y / of.x, of.x / of.n
    value = ratio - theta * (of.c / of.n - pooled_c)
    # Of each unit: e = (y - ratio·x) / (x per unit) - theta·(c - mean c).
    e2 = (of.yy - 2 * ratio * of.xy + ratio**2 * of.xx) / per_unit**2
    covered = of.cc - of.c**2 / of.n
    mixed = (of.cy - ratio * of.cx) / per_unit
    variance = (e2 - 2 * theta * mixed + theta**2 * covered) / (of.n * (of.n - 1))
    return value, max(variance, 0.0)


def cuped(arms: Sequence[Sums]) -> tuple[float, float]:
    """(theta, pooled mean of the covariate): the same for all arms, so that it cannot tilt the comparison."""
    whole = EMPTY
    for one in arms:
        whole = whole + one
    spread = whole.cc - whole.c**2 / whole.n if whole.n else 0.0
    if spread <= 1e-12 or whole.x == 0:
        return 0.0, 0.0
    ratio = whole.y / whole.x
    return (whole.cy - ratio * whole.cx) / (whole.x / whole.n) / spread, whole.c / whole.n


def effect(control: Sums, arm: Sums, planned_units: float, alpha: float = ALPHA, adjust: bool = True) -> Effect | None:
    """None before each side has MIN_UNITS, or where nothing varies. `planned_units`: of both, where the interval is narrowest."""
    if min(control.n, arm.n) < MIN_UNITS:
        return None
    theta, pooled = cuped((control, arm)) if adjust else (0.0, 0.0)
    before, before_var = mean_and_variance(control, theta, pooled)
    after, after_var = mean_and_variance(arm, theta, pooled)
    variance = before_var + after_var
    if not 0 < variance < math.inf:
        return None
    information = 1 / variance
    planned = information * planned_units / (control.n + arm.n)
    prior = mixture(planned, alpha)
    difference = after - before
    half = boundary(information, prior, alpha)
    fixed = NormalDist().inv_cdf(1 - alpha / 2) / information**0.5
    return Effect(
        control=before,
        value=after,
        difference=difference,
        low=difference - half,
        high=difference + half,
        p=always_valid_p(difference, information, prior),
        fixed_low=difference - fixed,
        fixed_high=difference + fixed,
    )


def mixture(planned_information: float, alpha: float = ALPHA) -> float:
    """The mixing normal's precision that makes the boundary narrowest at the planned information."""
    a = 2 * math.log(1 / alpha)
    return planned_information / (a + math.log(1 + a))


def boundary(information: float, prior: float, alpha: float = ALPHA) -> float:
    """Half-width, for an estimate of variance 1 / information: the truth is within it at all times at once."""
    whole = information + prior
    return math.sqrt(whole * (math.log(whole / prior) + 2 * math.log(1 / alpha))) / information


def always_valid_p(difference: float, information: float, prior: float) -> float:
    """1 / likelihood ratio of the mixture against no difference. Below alpha exactly where the boundary leaves out 0."""
    whole = information + prior
    log_ratio = 0.5 * math.log(prior / whole) + (difference * information) ** 2 / (2 * whole)
    return min(1.0, math.exp(-log_ratio)) if log_ratio < 700 else 0.0


def sample_ratio_p(counts: Sequence[int], shares: Sequence[float]) -> float:
    """Of units per arm, against the planned shares, valid however often it is asked: 1 / Bayes factor."""
    n = sum(counts)
    prior = [share * _CONCENTRATION for share in shares]
    log_factor = math.lgamma(_CONCENTRATION) - math.lgamma(_CONCENTRATION + n)
    for count, share, weight in zip(counts, shares, prior):
        log_factor += math.lgamma(weight + count) - math.lgamma(weight) - (count * math.log(share) if count else 0.0)
    return min(1.0, math.exp(-log_factor)) if log_factor < 700 else 0.0


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Adjusted p-values: those below alpha are found with a family-wise error of alpha."""
    ordered = sorted(p_values.items(), key=lambda one: one[1])
    adjusted, largest = {}, 0.0
    for place, (name, p) in enumerate(ordered):
        largest = max(largest, min(1.0, p * (len(ordered) - place)))
        adjusted[name] = largest
    return adjusted


def eliminated(arms: Mapping[str, Sums], alpha: float = ALPHA, higher_is_better: bool = True) -> dict[str, str]:
    """Arms that are worse than another one for certain -> that one (successive elimination, Even-Dar and others 2006).

    All pairs are compared at once, each at alpha over their number, so the best arm is ever left out with at most alpha.
    """
    names = list(arms)
    pairs = max(1, len(names) * (len(names) - 1) // 2)
    planned = sum(one.n for one in arms.values())
    out = {}
    for one in names:
        for other in names:
            found = effect(arms[one], arms[other], max(planned, 1.0), alpha / pairs) if one != other else None
            if found is not None and (found.low > 0 if higher_is_better else found.high < 0):
                out[one] = other
                break
    return out


def interleaving_p(wins: int, losses: int) -> float:
    """Two-sided, of units won by the one ranker and by the other, ties left out; always valid: 1 / ratio of the beta mixture."""
    n = wins + losses
    log_ratio = math.lgamma(wins + 1) + math.lgamma(losses + 1) - math.lgamma(n + 2) + n * math.log(2)
    return min(1.0, math.exp(-log_ratio)) if log_ratio < 700 else 0.0


def preference_interval(wins: int, losses: int, alpha: float = ALPHA) -> tuple[float, float]:
    """Bounds of the probability of a win, at all times at once: where the beta mixture does not refute it. They leave out one half
    just where `interleaving_p` is below `alpha`."""
    n = wins + losses
    mixed = math.lgamma(wins + 1) + math.lgamma(losses + 1) - math.lgamma(n + 2)

    def refuted(chance: float) -> bool:
        likely = (wins * math.log(chance) if wins else 0.0) + (losses * math.log1p(-chance) if losses else 0.0)
        return likely < mixed + math.log(alpha)

    middle = wins / n if n else 0.5
    return _edge(refuted, 0.0, middle), _edge(refuted, 1.0, middle)


def _edge(refuted: Callable[[float], bool], out: float, within: float) -> float:
    """Between a bound that may be refuted and a value that is not, the last one that is not."""
    inner = min(max(within, 1e-12), 1 - 1e-12)
    outer = min(max(out, 1e-12), 1 - 1e-12)
    if not refuted(outer):
        return out
    for _ in range(60):
        middle = (inner + outer) / 2
        inner, outer = (inner, middle) if refuted(middle) else (middle, outer)
    return inner
