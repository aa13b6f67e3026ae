"""What is true in the demo world: click probabilities of a moment, and the best lists that different knowledge allows.

optimum       knows the visit's intent              -> top by relevance
tastes only   knows the shopper, not the visit      -> top by relevance, averaged over intents (with hour, trend, follows)
popularity    knows nobody                          -> top by relevance, averaged over shoppers and intents
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from demo.tastes import DEFAULT_SHOPPERS, Memory, Shopper, intent_probabilities, is_due, meet
from demo.world import DAY_MS, HOUR_MS, LIST_SIZE, NATURE, TOP_EXAMINATION, Floats, Ints, World, examination, load


@dataclass(frozen=True)
class Moment:
    """A visit, as it is when a list is shown."""

    now_ms: int
    intent: int  # subcategory number
    clicked: frozenset[int]  # item numbers clicked in this visit
    memory: Memory


def lift(shopper: Shopper, memory: Memory) -> Floats:
    """(S,) share of its appeal that an item of the subcategory keeps at least, whatever the visit is about."""
    kept: Floats = NATURE.off_intent + NATURE.favourite_lift / shopper.tastes.max() * shopper.tastes
    for subcategory in memory.follows:
        kept[subcategory] += NATURE.followed_lift
    return kept


def match(world: World, shopper: Shopper, memory: Memory) -> Floats:
    """(intent S, subcategory S): share of its appeal that an item of the subcategory keeps under the intent."""
    matched: Floats = np.maximum(lift(shopper, memory), world.related)
    return matched


def relevance(world: World, shopper: Shopper, moment: Moment, items: Ints | None = None) -> Floats:
    """P(click | examined) of the items, or of all N where none are named."""
    kept = np.maximum(lift(shopper, moment.memory), world.related[moment.intent])
    return _relevance(world, shopper, kept, moment, items)


def expected_relevance(
    world: World, shopper: Shopper, moment: Moment, intents: Floats, items: Ints | None = None
) -> Floats:
    """Relevance averaged over a belief about the intent (S,). `moment.intent` is not looked at."""
    kept = intents @ match(world, shopper, moment.memory)
    return _relevance(world, shopper, kept, moment, items)


def _relevance(world: World, shopper: Shopper, kept: Floats, moment: Moment, items: Ints | None) -> Floats:
    value: Floats
    if items is None:
        value = shopper.appeal * kept[world.subcategory]
        for item, factor, floor in _done_before(world, moment):
            value[item] = max(value[item] * factor, floor)
        return value
    value = shopper.appeal[items] * kept[world.subcategory[items]]
    changes = {item: (factor, floor) for item, factor, floor in _done_before(world, moment)}
    if changes:
        for place, item in enumerate(items.tolist()):
            if item in changes:
                factor, floor = changes[item]
                value[place] = max(value[place] * factor, floor)
    return value


def _done_before(world: World, moment: Moment) -> Iterator[tuple[int, float, float]]:
    """(item, factor, floor) of what was clicked in this visit or ever bought. A due consumable is wanted again."""
    memory = moment.memory
    for item in moment.clicked:
        if item not in memory.bought_ms:
            yield item, NATURE.clicked_factor, 0.0
    for item in memory.bought_ms:
        if is_due(world, memory, item, moment.now_ms):
            yield item, 1.0, NATURE.due_floor if world.in_stock[item] else 0.0
        else:
            yield item, NATURE.bought_factor, 0.0


def click_probability(
    world: World, shopper: Shopper, moment: Moment, items: Ints, positions: Ints | None = None
) -> Floats:
    """relevance x examination; `positions` default to the order given, from 0."""
    places = np.arange(len(items)) if positions is None else positions
    probability: Floats = relevance(world, shopper, moment, items) * examination(places)
    return probability


def expected_ctr(world: World, shopper: Shopper, moment: Moment, items: Ints) -> float:
    """Expected clicks per place of a list of LIST_SIZE; a shorter list leaves places empty."""
    top = items[:LIST_SIZE]
    if not len(top):
        return 0.0
    return float(relevance(world, shopper, moment, top) @ TOP_EXAMINATION[: len(top)]) / LIST_SIZE


def top(scores: Floats, k: int = LIST_SIZE) -> Ints:
    """The k best item numbers, best first; ties by number, so that everyone gets the same list.

    A cut taken from every 16th score leaves few to sort; where it leaves too few, all are sorted.
    """
    sample = scores[::16]
    rank = min(len(sample), k // 8 + 3)
    near = np.flatnonzero(scores >= np.partition(sample, -rank)[-rank])
    if len(near) < k:
        near = np.arange(len(scores))
    ordered: Ints = near[np.argsort(-scores[near], kind="stable")[:k]]
    return ordered


def optimum(world: World, shopper: Shopper, moment: Moment, k: int = LIST_SIZE) -> Ints:
    """Examination falls with the position, so the best list is the one sorted by relevance."""
    return top(relevance(world, shopper, moment), k)


def tastes_only(world: World, shopper: Shopper, moment: Moment, k: int = LIST_SIZE) -> Ints:
    """The best list of one who knows the shopper and the clock, and nothing of the visit."""
    ignorant = Moment(moment.now_ms, -1, frozenset(), moment.memory)
    intents = intent_probabilities(world, shopper, moment.memory, moment.now_ms)
    return top(expected_relevance(world, shopper, ignorant, intents), k)


@lru_cache(maxsize=4)
def popularity(shoppers: int = DEFAULT_SHOPPERS) -> Floats:
    """(N,) relevance averaged over shoppers and hours of two weeks: what unbiased click counts converge to. About 1 s."""
    world, total = load(), np.zeros(len(load().items))
    memory = Memory()
    for number in range(shoppers):
        shopper = meet(world, number)
        now_ms = 1_767_571_200_000 + number % 14 * DAY_MS + (8 + 5 * number % 15) * HOUR_MS
        intents = intent_probabilities(world, shopper, memory, now_ms)
        total += expected_relevance(world, shopper, Moment(now_ms, -1, frozenset(), memory), intents)
    total /= shoppers
    total.setflags(write=False)
    return total


@lru_cache(maxsize=4)
def popular(k: int = LIST_SIZE) -> Ints:
    """The k most popular item numbers."""
    return top(popularity(), k)
