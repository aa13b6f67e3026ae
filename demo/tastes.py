"""A shopper's lasting side: tastes, style, price level, and what they remember. And which intent a visit may have."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from demo.catalogue import SUBCATEGORIES
from demo.world import DAY_MS, HOUR_MS, NATURE, SEED, STYLES, Floats, World, generator, trend

DEFAULT_SHOPPERS = 2_000
# Shoppers from here on are never trained on: 0 .. 499,999 may be, 500,000 and up are for evaluation and the live shop.
FIRST_UNSEEN = 500_000


@dataclass(frozen=True, eq=False)
class Shopper:
    """Who someone is, over all visits."""

    number: int
    user_id: str
    tastes: Floats  # (S,) sums to 1; a few favourites, the rest 0
    style: Floats  # (STYLES,)
    price_level: float
    visits_per_day: float
    appeal: Floats  # (N,) in (0, 1): what the item is worth to them in a visit that is about its subcategory


@dataclass
class Memory:
    """What a shopper has done so far that outlives a visit."""

    follows: set[int] = field(default_factory=set)  # subcategory numbers
    bought_ms: dict[int, int] = field(default_factory=dict)  # item number -> time of last purchase


def meet(world: World, number: int) -> Shopper:
    """The shopper of that number: always the same one. Any number up to 999,999."""
    rng = generator(SEED, 3, number)
    # Exponential keys weighted by popularity: a draw of favourites without replacement.
    keys = -np.log(1.0 - rng.random(len(SUBCATEGORIES))) / world.popularity
    tastes = np.zeros(len(SUBCATEGORIES))
    for rank, subcategory in enumerate(np.argsort(keys, kind="stable")[: NATURE.favourites]):
        tastes[subcategory] = 1.0 / (1 + rank)
    return shopper_of(
        world,
        number=number,
        user_id=f"shopper-{number:06d}",
        tastes=tastes / tastes.sum(),
        style=rng.standard_normal(STYLES),
        price_level=float(0.8 * rng.standard_normal()),
        visits_per_day=float(0.1 + 0.6 * rng.random()),
    )


def shopper_of(
    world: World, *, number: int, user_id: str, tastes: Floats, style: Floats, price_level: float, visits_per_day: float
) -> Shopper:
    logit = (
        NATURE.appeal_bias
        + NATURE.quality_weight * world.quality
        + NATURE.style_weight * (world.style @ style)
        - NATURE.price_weight * np.abs(world.price_level - price_level) * ~world.free
    )
    appeal = np.where(world.in_stock, 1.0, NATURE.sold_out_factor) / (1.0 + np.exp(-logit))
    return Shopper(number, user_id, tastes, style, price_level, visits_per_day, appeal)


def is_due(world: World, memory: Memory, item: int, now_ms: int) -> bool:
    """A consumable is due again once 80 % of its cycle has passed."""
    cycle_ms = int(world.cycle_ms[world.subcategory[item]])
    return bool(cycle_ms) and now_ms - memory.bought_ms.get(item, now_ms) >= 0.8 * cycle_ms


def intent_probabilities(world: World, shopper: Shopper, memory: Memory, now_ms: int) -> Floats:
    """(S,) what a visit starting now is about: tastes x habits by hour and weekday x trend; now and then something new."""
    wanted = shopper.tastes.copy()
    for subcategory in memory.follows:
        wanted[subcategory] += NATURE.followed_weight
    for item in memory.bought_ms:
        if is_due(world, memory, item, now_ms):
            subcategory = world.subcategory[item]
            wanted[subcategory] = max(wanted[subcategory], NATURE.due_weight)
    bursts = trend(now_ms)
    hour, weekday = now_ms // HOUR_MS % 24, (now_ms // DAY_MS + 3) % 7  # day 0 of the epoch was a Thursday
    known = wanted * world.hours[:, hour] * world.weekdays[:, weekday] * bursts
    new = np.where(wanted > 0, 0.0, world.popularity * bursts)
    mixed: Floats = (1 - NATURE.new_intent) * known / known.sum() + NATURE.new_intent * new / new.sum()
    return mixed


def draw(probabilities: Floats, rng: np.random.Generator) -> int:
    """One index, by inverse transform (Generator.choice may change between numpy versions)."""
    place = int(np.searchsorted(np.cumsum(probabilities), rng.random() * probabilities.sum(), side="right"))
    return min(place, len(probabilities) - 1)
