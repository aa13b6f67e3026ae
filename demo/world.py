"""The demo world, version 1: the catalogue and the hidden numbers behind every preference. Frozen by seed and checksum.

The true click probability (demo/truth.py) splits into what is lasting and what belongs to the visit:

    relevance(item | shopper, visit) = appeal(item, shopper) x match(subcategory of item | intent, shopper)
    P(click) = relevance x examination(position)

Only PCG64 with random, integers and standard_normal is used, and every derived number is rounded to three decimals: the
world is the same on every platform and numpy 2.x, and CHECKSUM holds it there.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from demo.catalogue import CATEGORY_OF, CYCLE_DAYS, STORY, SUBCATEGORIES, SUBCATEGORY_NO, build_items
from schemas.items import Item
from schemas.policy import Policy, parse_policy

VERSION = "1"
SEED = 20_260_301
CHECKSUM = "1401b287f730541907cc473815a505debd95a1c65ebc29054862a249a6b3655a"

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
LIST_SIZE = 10
STYLES = 4


class Nature(msgspec.Struct, frozen=True):
    """The constants of behaviour. Tuned once (tests/unit/test_demo_hardness.py holds the result), then frozen."""

    # appeal = sigmoid(bias + quality + style + price distance)
    appeal_bias: float = -2.6
    quality_weight: float = 0.8
    style_weight: float = 0.6
    price_weight: float = 0.35
    sold_out_factor: float = 0.3
    # match: what an item of a subcategory keeps of its appeal when the visit is about something else
    off_intent: float = 0.29
    favourite_lift: float = 0.08
    followed_lift: float = 0.05
    # intents
    favourites: int = 5
    new_intent: float = 0.17
    intent_change: float = 0.04
    followed_weight: float = 0.15
    due_weight: float = 0.35
    trend_factor: float = 4.0
    trend_hours: int = 8
    trend_subcategories: int = 2
    # what has been done before
    clicked_factor: float = 0.7
    bought_factor: float = 0.15
    due_floor: float = 0.3
    # examination of position p, from 0: (1 + p) ** -examination_decay
    examination_decay: float = 0.45


NATURE = Nature()

# How much of its appeal an item keeps when the visit's intent is the other of the pair.
_RELATED = {
    ("running", "running-shoes"): 0.55, ("running", "fitness"): 0.5, ("running", "study-music"): 0.4,
    ("cooking", "cookware"): 0.5, ("cooking", "cookbooks"): 0.5, ("cooking", "pantry"): 0.45,
    ("desk-setups", "desks"): 0.5, ("desk-setups", "keyboards"): 0.45, ("desk-setups", "monitors"): 0.5,
    ("study-music", "headphones"): 0.45, ("coffee", "breakfast"): 0.5, ("travel", "camping"): 0.45, ("running", "cooking"): 0.28,
    ("yoga", "fitness"): 0.5, ("sneakers", "running-shoes"): 0.5, ("travel", "cameras"): 0.4,
    ("cleaning", "laundry"): 0.5, ("pet-food", "pet-toys"): 0.55, ("phones", "headphones"): 0.5,
    ("lighting", "desk-setups"): 0.4, ("plants", "bedding"): 0.35, ("snacks", "drinks"): 0.5,
}  # fmt: skip
_SAME_CATEGORY = 0.28

# Hour (UTC) at which interest peaks; subcategories not named peak at a seeded hour. Mara's four share the evening.
_PEAK_HOURS = {
    "cooking": 19, "study-music": 20, "running": 19, "desk-setups": 20, "coffee": 8, "breakfast": 8, "pantry": 18,
    "snacks": 16, "yoga": 7, "fiction": 22, "paper-goods": 11, "cleaning": 10,
}  # fmt: skip
# Subcategories in order of how many shoppers care (Zipf); the others follow in a seeded order.
_POPULAR = ("running", "cooking", "coffee", "study-music", "headphones", "sneakers", "snacks", "desk-setups")
_ZIPF = 0.75
# Quality of Mara's five, in order of STORY: well liked, so that a model has seen them often.
_STORY_QUALITY = (1.72, 1.68, 1.65, 1.4, 1.0)

# What the world says of an item; fields that schemas.items has besides are not part of it.
_SAID = ("item_id", "title", "category", "subcategory", "seller", "price", "stock", "vector")


@dataclass(frozen=True, eq=False)
class World:
    """Items as columns, and the hidden numbers per item and subcategory. S = 40 subcategories, N = 5,000 items."""

    items: tuple[Item, ...]
    ids: tuple[str, ...]
    index: dict[str, int]
    subcategory: Ints  # (N,)
    quality: Floats  # (N,) standard normal
    style: Floats  # (N, STYLES), about unit length
    price_level: Floats  # (N,) log price within the subcategory, in standard deviations; 0 for free items
    free: NDArray[np.bool_]  # (N,) a video: it can be watched, not bought
    in_stock: NDArray[np.bool_]  # (N,)
    cycle_ms: Ints  # (S,) time between repeat purchases, 0 where nothing is used up
    popularity: Floats  # (S,) share of shoppers' favourites
    related: Floats  # (S, S) symmetric, 1 on the diagonal
    hours: Floats  # (S, 24) habit by hour of day, UTC
    weekdays: Floats  # (S, 7) habit by weekday, Monday first

    def checksum(self) -> str:
        """SHA-256 over catalogue, hidden numbers (in thousandths) and constants."""
        digest = hashlib.sha256(VERSION.encode())
        said = [{name: getattr(item, name) for name in _SAID} for item in self.items]
        digest.update(msgspec.json.encode((said, SUBCATEGORIES, NATURE, SEED)))
        for column in (
            self.quality,
            self.style,
            self.price_level,
            self.popularity,
            self.related,
            self.hours,
            self.weekdays,
        ):
            digest.update(np.rint(column * 1000).astype("<i8").tobytes())
        for whole in (self.subcategory, self.free, self.in_stock, self.cycle_ms):
            digest.update(whole.astype("<i8").tobytes())
        return digest.hexdigest()


def generator(*seed: int) -> np.random.Generator:
    """The generator that belongs to these numbers: same numbers, same draws, everywhere."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed)))


def policy() -> Policy:
    """What the shop fills its lists by: policy.toml."""
    file = Path(__file__).with_name("policy.toml")
    return parse_policy(file.read_text(), file.name)


@lru_cache(maxsize=1)
def load() -> World:
    """The frozen world. Built in about 50 ms, once per process."""
    rng = generator(SEED, 1)
    items = build_items(rng)
    ids = tuple(item.item_id for item in items)
    index = {item_id: number for number, item_id in enumerate(ids)}
    subcategory = np.array([SUBCATEGORY_NO[item.subcategory or ""] for item in items])
    quality = np.round(rng.standard_normal(len(items)), 3)
    for (_, _, item_id), value in zip(STORY, _STORY_QUALITY, strict=True):
        quality[index[item_id]] = value
    style = np.round(rng.standard_normal((len(items), STYLES)) / 2, 3)
    style[[index[item_id] for _, _, item_id in STORY]] = 0.0
    prices = np.array([item.price or 0.0 for item in items])
    count = len(SUBCATEGORIES)
    rest = [name for name in _shuffled(SUBCATEGORIES, rng) if name not in _POPULAR]
    shares = np.zeros(count)
    for rank, name in enumerate((*_POPULAR, *rest)):
        shares[SUBCATEGORY_NO[name]] = (1 + rank) ** -_ZIPF
    peaks = [
        _PEAK_HOURS.get(name, seeded) for name, seeded in zip(SUBCATEGORIES, rng.integers(8, 23, count), strict=True)
    ]
    away = np.abs((np.arange(24)[None, :] - np.array(peaks)[:, None] + 12) % 24 - 12)
    weekdays = np.round(0.6 + 0.8 * rng.random((count, 7)), 3)
    weekdays[[SUBCATEGORY_NO[subcategory] for subcategory, _, _ in STORY]] = 1.0  # Mara's story holds on any day
    return World(
        items=items,
        ids=ids,
        index=index,
        subcategory=subcategory,
        quality=quality,
        style=style,
        price_level=_price_levels(prices, subcategory),
        free=prices == 0.0,
        in_stock=np.array([item.stock != 0 for item in items]),
        cycle_ms=np.array(CYCLE_DAYS) * DAY_MS,
        popularity=np.round(shares / shares.sum(), 3),
        related=_related(rng),
        hours=np.round(0.4 + 2.0 * np.exp(-((away / 4.0) ** 2)), 3),
        weekdays=weekdays,
    )


def _shuffled(names: tuple[str, ...], rng: np.random.Generator) -> list[str]:
    return [names[number] for number in np.argsort(rng.random(len(names)), kind="stable")]


def _price_levels(prices: Floats, subcategory: Ints) -> Floats:
    """Log price against the median of its subcategory, in the catalogue's spread of 0.4."""
    levels = np.zeros(len(prices))
    for number in range(len(SUBCATEGORIES)):
        here = (subcategory == number) & (prices > 0)
        if here.any():
            levels[here] = np.log(prices[here] / np.median(prices[here])) / 0.4
    return np.round(levels, 3)


def _related(rng: np.random.Generator) -> Floats:
    category = np.array(CATEGORY_OF)
    related = np.where(category[:, None] == category[None, :], _SAME_CATEGORY, 0.0)
    jitter = np.round(0.1 * rng.random(related.shape), 3)
    related = np.where(related > 0, related + np.triu(jitter, 1) + np.triu(jitter, 1).T, 0.0)
    for (one, other), value in _RELATED.items():
        a, b = SUBCATEGORY_NO[one], SUBCATEGORY_NO[other]
        related[a, b] = related[b, a] = value
    np.fill_diagonal(related, 1.0)
    return np.round(related, 3)


@lru_cache(maxsize=256)
def _trend_of(window: int) -> Floats:
    factors = np.ones(len(SUBCATEGORIES))
    bursting = generator(SEED, 2, window).integers(0, len(SUBCATEGORIES), NATURE.trend_subcategories)
    factors[bursting] = NATURE.trend_factor
    factors.setflags(write=False)
    return factors


def trend(now_ms: int) -> Floats:
    """(S,) how much stronger than usual each subcategory is wanted now: bursts of `trend_hours`, then others."""
    return _trend_of(now_ms // (NATURE.trend_hours * HOUR_MS))


def examination(positions: Ints) -> Floats:
    """Probability that a shopper looks at a position (from 0). Known, so position bias can be judged."""
    seen: Floats = (1.0 + positions) ** -NATURE.examination_decay
    return seen


TOP_EXAMINATION: Floats = examination(np.arange(LIST_SIZE))
