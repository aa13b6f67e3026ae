"""Exploration: for each candidate of a place the exact chance to be drawn, and the draw itself.

    posteriors ─ log CDFs on a grid, tabulated when they change ─┐
    scores ──────────────────────────────────────────────────────┴─ chances (n,) ─ floor ─ draw by a uniform of the list's seed

The item is drawn from the very chances that are logged: what the quadrature of Thompson sampling misses changes the draw, and
never makes a propensity wrong.
"""

from __future__ import annotations

import math
import threading
from typing import Any

import numpy as np
import numpy.typing as npt

from schemas.policy import Explore

Array = npt.NDArray[np.float64]
Tables = tuple[Any, Any]  # log CDF and density times step, floats, each (n, GRID)

# θ = sin²(φ/2): in φ every Beta of strength n is about as wide as 1/√n, wherever its mean is, so that one grid serves all.
GRID = 512
_STEP = math.pi / GRID
_PHI = (np.arange(GRID) + 0.5) * _STEP
_LOG_SIN, _LOG_COS = np.log(np.sin(_PHI / 2)), np.log(np.cos(_PHI / 2))
_COT, _TAN = 1 / np.tan(_PHI / 2), np.tan(_PHI / 2)
# A Beta of this strength is 1.6 steps of the grid wide (1 σ); a narrower one is widened to it, which keeps its mean.
STRENGTH_CAP = 10_000.0
_KEPT_TABLES = 8_192  # 4 KB each
_TINY = -80.0  # a log below it is no chance at all

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15


def chances(slot: Explore, scores: Array, posteriors: Array, tables: BetaTables) -> Array:
    """(n,) the probability of each candidate; sums to one. `scores` (n,), `posteriors` (n, 2): Beta's α and β; of linucb, mean and
    width of its reward."""
    if slot.policy == "thompson":
        drawn = thompson(*tables.of(posteriors))
    elif slot.policy == "ucb":
        drawn = _only(ucb1(posteriors, slot.bonus))
    elif slot.policy == "linucb":
        drawn = _only(posteriors[:, 0] + slot.bonus * posteriors[:, 1])
    elif slot.policy == "epsilon_greedy":
        drawn = spread(_only(scores), slot.epsilon)
    else:
        drawn = softmax(scores, slot.temperature)
    return spread(drawn, slot.floor)


def spread(drawn: Array, share: float) -> Array:
    """That share of the draws evenly over all."""
    mixed: Array = (1 - share) * drawn + share / len(drawn)
    return mixed


def softmax(scores: Array, temperature: float) -> Array:
    raised = np.exp((scores - scores.max()) / temperature)
    drawn: Array = raised / raised.sum()
    return drawn


def ucb1(posteriors: Array, bonus: float) -> Array:
    """(n,) mean + bonus · √(2 ln N / n) (Auer, Cesa-Bianchi and Fischer 2002); the prior counts as exposures."""
    strength = posteriors.sum(axis=1)
    bounds: Array = posteriors[:, 0] / strength + bonus * np.sqrt(2 * np.log(strength.sum()) / strength)
    return bounds


def thompson(log_cdf: Array, density: Array) -> Array:
    """(n,) the chance of each arm to have the highest draw: ∫ fᵢ(θ) Π_{j≠i} Fⱼ(θ) dθ (Thompson 1933)."""
    others = log_cdf.sum(axis=0) - log_cdf  # (n, GRID)
    np.exp(np.maximum(others, _TINY, out=others), out=others)
    others *= density
    won = others.sum(axis=1).astype(np.float64)
    drawn: Array = won / won.sum()
    return drawn


class BetaTables:
    """Log CDFs and densities of Beta posteriors on the grid, each a row of one table; a table that is full is begun anew."""

    def __init__(self, kept: int = _KEPT_TABLES) -> None:
        self._kept = kept
        self._lock = threading.Lock()  # a ranking that hangs may come back while another one runs
        self._rows: dict[tuple[float, float], int] = {}
        self._log_cdf = np.empty((0, GRID), np.float32)
        self._density = np.empty((0, GRID), np.float32)

    def of(self, posteriors: Array) -> Tables:
        keys: list[tuple[float, float]] = list(map(tuple, posteriors.tolist()))
        with self._lock:
            missing = [key for key in dict.fromkeys(keys) if key not in self._rows]
            if len(self._rows) + len(missing) > self._kept:
                self._rows, missing = {}, list(dict.fromkeys(keys))
            if missing:
                self._tabulate(missing)
            rows = [self._rows[key] for key in keys]
            return self._log_cdf.take(rows, axis=0), self._density.take(rows, axis=0)

    def _tabulate(self, missing: list[tuple[float, float]]) -> None:
        start = len(self._rows)
        end = start + len(missing)
        if end > len(self._log_cdf):
            more = np.empty((max(end, 2 * start) - len(self._log_cdf), GRID), np.float32)
            self._log_cdf, self._density = (np.concatenate((one, more)) for one in (self._log_cdf, self._density))
        self._log_cdf[start:end], self._density[start:end] = beta_tables(np.array(missing))
        self._rows.update(zip(missing, range(start, end)))


def beta_tables(posteriors: Array) -> Tables:
    """Log CDF and density times step of each Beta(α, β) at the grid's points, the middles of GRID cells; α and β of 1 or more.

    The total is set to one, so no Γ is needed. The CDF is the trapezoid sum with the first term of Euler and Maclaurin.
    """
    strength = posteriors.sum(axis=1, keepdims=True)
    alpha, beta = (posteriors * np.minimum(1.0, STRENGTH_CAP / strength)).T[:, :, None]
    # Density of φ: θ^(α-1) (1-θ)^(β-1) dθ/dφ with θ = sin²(φ/2).
    logs = (2 * alpha - 1) * _LOG_SIN + (2 * beta - 1) * _LOG_COS  # (n, GRID)
    density = np.exp(logs - logs.max(axis=1, keepdims=True))
    density /= density.sum(axis=1, keepdims=True)
    slope = density * ((alpha - 0.5) * _COT - (beta - 0.5) * _TAN)
    cdf = np.cumsum(density, axis=1) - density / 2 - slope * (_STEP / 12)
    return np.log(np.clip(cdf, math.exp(_TINY), 1.0)), density


def uniforms(seed: int | npt.NDArray[np.uint64], place: int) -> Any:
    """In [0, 1): the draw of a place under a seed, or under each of many; splitmix64 (Steele, Lea and Flood 2014)."""
    with np.errstate(over="ignore"):  # modulo 2**64 is meant
        z = np.asarray(seed, np.uint64) + np.uint64((place + 1) * _GOLDEN & _MASK)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    return (z >> np.uint64(11)).astype(np.float64) * 2.0**-53


def draw(chance: Array, uniform: float) -> int:
    """The place whose share of [0, 1) holds the uniform."""
    ends = np.cumsum(chance)
    return min(int(np.searchsorted(ends, uniform * ends[-1], side="right")), len(chance) - 1)


def _only(values: Array) -> Array:
    """All chance to the highest; to the first of equals."""
    found = np.zeros(len(values))
    found[int(np.argmax(values))] = 1.0
    return found
