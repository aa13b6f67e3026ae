"""Popularity without the shop's own hand in it: what an item is clicked at where chance, not the ranker, put it on a list.

    rows of a list ─ places with 0 < propensity < 1 ─ weight w = 1 / p ─ rate of an item = Σ w·click / Σ w ─ popularity

An item that is shown more is clicked more; counted clicks therefore call popular what was shown. A place that an `explore` slot
filled knows with what probability p each item could have stood there, so the weights undo the shop's choice (self-normalised
inverse propensities, Swaminathan & Joachims 2015; for implicit feedback Schnabel et al. 2016). Places that were filled without
chance (p = 1) say nothing of what was passed over, and are left out.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from models.featurise import Floats
from models.own_log import ShownList
from models.vocabulary import Vocabulary

FEWEST_PLACES = 1_000  # filled by chance: below, rates are noise
MOST_WEIGHT = 100.0  # of one place: a propensity below 1 / 100 would let it decide alone
PRIOR_PLACES = 20.0  # an item's rate begins as that of all items, as if seen in so many places of equal weight


class TooFewPlaces(ValueError):
    """Chance filled too few places; the message says what to do."""


class Rates(NamedTuple):
    """What chance has shown of each item: (N,) by row. `places` counts them; `effective` is (Σw)² / Σw² (Kish 1965)."""

    rate: Floats
    effective: Floats
    places: int
    unknown: int  # places without a propensity


def click_rates(lists: Iterable[ShownList], vocabulary: Vocabulary) -> Rates:
    """(N,) rates, shrunk to the mean of all by PRIOR_PLACES; an item that chance never showed has the mean. Raises TooFewPlaces."""
    items, chances, clicks, unknown = [], [], [], 0
    for one in lists:
        for item, chance, clicked in zip(one.items, one.propensity, one.clicked):
            if chance is None:
                unknown += 1
            elif 0 < chance < 1:
                items.append(item)
                chances.append(chance)
                clicks.append(clicked)
    if len(items) < FEWEST_PLACES:
        raise TooFewPlaces(
            f"chance filled {len(items)} places of the lists ({unknown} more have no propensity), and {FEWEST_PLACES} is the "
            "least that debiased popularity can be had from: give the policy an `explore` slot, and train again later."
        )
    rows, weight = vocabulary.rows(items), np.minimum(1 / np.array(chances), MOST_WEIGHT)
    total, squares, clicked_weight = (
        np.bincount(rows, of, vocabulary.size) for of in (weight, weight**2, weight * np.array(clicks))
    )
    seen = total > 0
    effective = np.divide(total**2, squares, out=np.zeros_like(total), where=seen)
    own = np.divide(clicked_weight, total, out=np.zeros_like(total), where=seen)
    mean = clicked_weight.sum() / total.sum()
    rate = (effective * own + PRIOR_PLACES * mean) / (effective + PRIOR_PLACES)
    return Rates(rate.astype(np.float32), effective.astype(np.float32), len(items), unknown)


def debiased(counted: Floats, rates: Rates, vocabulary: Vocabulary) -> Floats:
    """(N,) popularity as large in all as `counted`, shared out among the items by their rates."""
    rate = rates.rate.copy()
    rate[: vocabulary.first_item] = 0  # rows of groups speak for their items, below
    found: Floats = rate * (counted[vocabulary.first_item :].sum() / max(float(rate.sum()), 1e-12))
    vocabulary.speak_for_groups(found)
    return found
