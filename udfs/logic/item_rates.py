"""Rates from counters: smoothed CTR and conversion, and the trend score. Computed where rows are read, by this code alone.

A rate is drawn to that of the next level up by PRIOR_WEIGHT imagined trials:

    all ─ category ─ subcategory ─ item        rate = (successes + PRIOR_WEIGHT × rate above) / (trials + PRIOR_WEIGHT)

Rates are not stored: one click changes the rate of everything, and a stored one would be written anew for every item.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from schemas.features import ITEM_RATES, FeatureError, Registry

Count = int | npt.NDArray[np.float64]

# What is read, and what is made: the registry has to agree.
COUNTERS = ("clicks_2h", "impressions_2h", "clicks_28d", "impressions_28d", "purchases_28d")
RATES = ("ctr_2h", "ctr_28d", "conversion_28d", "trend", "lift_2h", "lift_28d", "subcategory_trend")

PRIOR_WEIGHT = 50.0
TREND_WEIGHT = 5.0  # clicks: how much must come before an item can be far from 1

_HOUR_MS = 3_600_000
_DAYS = 28
_WINDOW_HOURS = 2


def smoothed_rate(levels: Sequence[tuple[Count, Count]], weight: float = PRIOR_WEIGHT) -> Any:
    """(successes, trials) from the widest level, which is one for all, to the narrowest → the narrowest level's rate.

    The widest has nothing above it: its rate is as counted, 0 where nothing was tried. A level with no trials takes the rate
    above. Arrays of one length do as well as numbers.
    """
    (successes, trials), *below = levels
    rate = _ratio(successes, trials, 0.0)
    for successes, trials in below:
        rate = (successes + weight * rate) / (trials + weight)
    return rate


def window_share(by_hour: Sequence[int], window_end_ms: int) -> float:
    """The share of a day's clicks that falls into the two hours before `window_end_ms`, by the clicks of each hour (UTC).

    `by_hour` has 24 entries. Where nothing was clicked yet, every hour counts alike. Within an hour clicks are spread evenly.
    """
    total = sum(by_hour)
    if not total:
        return _WINDOW_HOURS / 24
    into_hour = window_end_ms % _HOUR_MS / _HOUR_MS
    hour = window_end_ms // _HOUR_MS % 24
    clicks = by_hour[hour] * into_hour + by_hour[hour - 1] + by_hour[hour - 2] * (1 - into_hour)
    return clicks / total


def trend(clicks_2h: Count, clicks_28d: Count, share: float) -> Any:
    """Clicks of two hours against what 28 days lead one to expect of these hours; 1 is as always, 3 three times as many."""
    expected = clicks_28d / _DAYS * share
    return (clicks_2h + TREND_WEIGHT) / (expected + TREND_WEIGHT)


def lift(rate: Any, everything: Any) -> Any:
    """A rate against that of everything; 1 where nothing was tried or nothing came of it."""
    return _ratio(rate, everything, 1.0)


def group_trend(clicks_2h: Count, clicks_28d: Count, all_2h: Count, all_28d: Count) -> Any:
    """A group's clicks of two hours against its usual share of all: 1 is as always, however much traffic there is."""
    expected = clicks_28d * _ratio(all_2h, all_28d, 0.0)
    return (clicks_2h + TREND_WEIGHT) / (expected + TREND_WEIGHT)


def _ratio(of: Any, to: Any, otherwise: float) -> Any:
    """of / to; `otherwise` where `to` is 0. Numbers or arrays."""
    if isinstance(to, np.ndarray):
        return np.divide(of, to, out=np.full(np.broadcast(of, to).shape, otherwise), where=to > 0)
    return of / to if to else of * 0 + otherwise


def rates(chain: Sequence[Mapping[str, Count]], share: float) -> dict[str, Any]:
    """Every feature that is made by item-rates, of the last of `chain`: counters by name, from everything to the item.

    The levels may be arrays of one length, an entry for each item; everything may be one for all.
    """

    def rate(successes: str, trials: str) -> Any:
        return smoothed_rate([(level[successes], level[trials]) for level in chain])

    everything, group, item = chain[0], chain[-2:][0], chain[-1]
    ctr_2h, ctr_28d = rate("clicks_2h", "impressions_2h"), rate("clicks_28d", "impressions_28d")
    return {
        "ctr_2h": ctr_2h,
        "ctr_28d": ctr_28d,
        "conversion_28d": rate("purchases_28d", "clicks_28d"),
        "trend": trend(item["clicks_2h"], item["clicks_28d"], share),
        "lift_2h": lift(ctr_2h, smoothed_rate([(everything["clicks_2h"], everything["impressions_2h"])])),
        "lift_28d": lift(ctr_28d, smoothed_rate([(everything["clicks_28d"], everything["impressions_28d"])])),
        "subcategory_trend": group_trend(
            group["clicks_2h"], group["clicks_28d"], everything["clicks_2h"], everything["clicks_28d"]
        ),
    }


def require(features: Registry) -> None:
    """Refuse a registry that does not have what is read here, or asks for a rate that is not made. Raises FeatureError."""
    features.require(dict.fromkeys(COUNTERS, "u32") | dict.fromkeys(RATES, "f32"), ITEM_RATES)
    for one in features.of("item", ITEM_RATES):
        if one.name not in RATES or not set(one.sources) <= set(COUNTERS):
            raise FeatureError(
                f"{one.id} is made by {ITEM_RATES}, which makes {', '.join(RATES)} from {', '.join(COUNTERS)}: "
                "add it to udfs/logic/item_rates.py first."
            )
