"""Logging policies: who chose the lists in offline traffic. None of them knows the intent: logs are not confounded by it.

Every place of a list draws its source, so in-list negatives differ in kind, and position is not the same as relevance.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from demo.shoppers import Visit
from demo.tastes import intent_probabilities
from demo.truth import expected_relevance, popular, top
from demo.world import LIST_SIZE, Ints

# (visit, now_ms, rng) -> item numbers, best first
Policy = Callable[[Visit, int, np.random.Generator], Ints]
Source = tuple[float, Policy]

_POOL = 60


def noisy_observer(visit: Visit, now_ms: int, rng: np.random.Generator) -> Ints:
    """Near the best list one can know."""
    return _sample(top(visit.observer.relevance(visit.moment(now_ms)), _POOL), rng)


def noisy_tastes(visit: Visit, now_ms: int, rng: np.random.Generator) -> Ints:
    """Near the best list of one who ignores the visit."""
    moment = visit.moment(now_ms)
    intents = intent_probabilities(visit.world, visit.shopper, visit.memory, now_ms)
    return _sample(top(expected_relevance(visit.world, visit.shopper, moment, intents), _POOL), rng)


def noisy_popular(_visit: Visit, _now_ms: int, rng: np.random.Generator) -> Ints:
    """From the 300 most popular items."""
    return popular(300)[rng.integers(0, 300, LIST_SIZE)]


def random_items(visit: Visit, _now_ms: int, rng: np.random.Generator) -> Ints:
    """Anything: keeps every item in view."""
    return rng.integers(0, len(visit.world.ids), LIST_SIZE)


def in_subcategory(visit: Visit, _now_ms: int, rng: np.random.Generator) -> Ints:
    """Random items of one random subcategory the shopper likes: exposure that depends on no guess about the visit."""
    liked = np.flatnonzero(visit.shopper.tastes)
    subcategory = int(liked[rng.integers(len(liked))])
    here = np.flatnonzero(visit.world.subcategory == subcategory)
    return here[rng.integers(0, len(here), LIST_SIZE)]


DEFAULT_SOURCES: tuple[Source, ...] = (
    (0.4, noisy_observer),
    (0.2, noisy_tastes),
    (0.2, noisy_popular),
    (0.1, random_items),
    (0.1, in_subcategory),
)


def mixed(sources: Sequence[Source] = DEFAULT_SOURCES) -> Policy:
    """Every place draws its source; no item twice."""
    bounds = np.cumsum([weight for weight, _ in sources])

    def policy(visit: Visit, now_ms: int, rng: np.random.Generator) -> Ints:
        drawn = np.minimum(np.searchsorted(bounds, rng.random(LIST_SIZE) * bounds[-1], side="right"), len(sources) - 1)
        queues = {source: iter(sources[source][1](visit, now_ms, rng).tolist()) for source in set(drawn.tolist())}
        taken: dict[int, None] = {}
        for source in drawn.tolist():
            for item in queues[source]:
                if item not in taken:
                    taken[item] = None
                    break
        return np.fromiter(taken, dtype=np.int64, count=len(taken))

    return policy


def _sample(pool: Ints, rng: np.random.Generator) -> Ints:
    """LIST_SIZE of the pool (best first) without replacement, weight falling with rank; Gumbel keys."""
    keys = -np.log(-np.log(rng.random(len(pool)))) - 0.06 * np.arange(len(pool))
    sampled: Ints = pool[np.argsort(-keys, kind="stable")[:LIST_SIZE]]
    return sampled
