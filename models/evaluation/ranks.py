"""From scores to ranks, and from ranks to figures with their uncertainty.

Every rank is pessimistic: an item with the same score as the true one stands above it, so a model that cannot tell
items apart earns nothing by it. A score that is not finite sinks to the bottom.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Doubles = NDArray[np.float64]
_DRAWS = 1000


def ranks_in_rows(scores: NDArray[np.floating], targets: Ints) -> Ints:
    """(P, N) scores and (P,) columns -> (P,) ranks from 1."""
    clean = np.where(np.isfinite(scores), scores, -np.inf)
    own = clean[np.arange(len(targets)), targets]
    return np.asarray((clean >= own[:, None]).sum(axis=1), dtype=np.int64)  # the item itself makes it start at 1


def ranks_in_lists(scores: NDArray[np.floating], starts: Ints, targets: Ints) -> Ints:
    """(R,) scores of lists one after the other, (C + 1,) starts, (C,) places of the true one in its list -> (C,) ranks from 1."""
    clean = np.where(np.isfinite(scores), scores, -np.inf)
    own = np.repeat(clean[starts[:-1] + targets], np.diff(starts))
    return np.asarray(np.add.reduceat(clean >= own, starts[:-1]), dtype=np.int64)


def hit_rate(ranks: Ints, k: int) -> Doubles:
    return (ranks <= k).astype(np.float64)


def reciprocal(ranks: Ints, k: int | None = None) -> Doubles:
    """1 / rank; 0 beyond k. With one true item a list this is average precision as well."""
    return np.where(ranks <= (k or np.inf), 1.0 / ranks, 0.0)


def ndcg(ranks: Ints, k: int) -> Doubles:
    """1 / log2(1 + rank), 0 beyond k: with one true item the ideal is 1."""
    return np.where(ranks <= k, 1.0 / np.log2(1.0 + ranks), 0.0)


class Interval(NamedTuple):
    low: float
    high: float


class Paired(NamedTuple):
    """The mean of a − b per case, its interval, and the two-sided p of no difference."""

    difference: float
    interval: Interval
    p: float


def bootstrap(values: Doubles, clusters: Ints, seed: int = 0) -> Interval:
    """95 % interval of the mean, sessions drawn with replacement: cases of one session are not independent."""
    return _percentiles(_means(values, clusters, seed))


def paired(a: Doubles, b: Doubles, clusters: Ints, seed: int = 0) -> Paired:
    """Sessions drawn for the interval; for p, the signs of whole sessions' differences are flipped at random."""
    difference = a - b
    sums = np.bincount(clusters, difference)
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], size=(_DRAWS, len(sums)))
    extreme = np.abs(signs @ sums) >= abs(sums.sum()) - 1e-9
    # With itself counted, p is never 0: no sharper than the number of draws.
    p = (1 + int(extreme.sum())) / (1 + _DRAWS)
    return Paired(float(difference.mean()), bootstrap(difference, clusters, seed), p)


def _means(values: Doubles, clusters: Ints, seed: int) -> Doubles:
    sums, sizes = np.bincount(clusters, values), np.bincount(clusters)
    held = sizes > 0
    sums, sizes = sums[held], sizes[held]
    rng = np.random.default_rng(seed)
    draws = [rng.multinomial(len(sums), np.full(len(sums), 1 / len(sums))) for _ in range(_DRAWS)]
    return np.array([(weights @ sums) / (weights @ sizes) for weights in draws])


def _percentiles(values: Doubles) -> Interval:
    low, high = np.percentile(values, [2.5, 97.5])
    return Interval(float(low), float(high))
