"""Tables: everything of the ranker that does not depend on the user, computed once when a bundle is loaded.

    queries      (N, D + 1)   q(c) / √d, then 1, which meets the keys' bias
    projections  (N, D)       P c
    sizes        (N,)         |P c|
    item_part    (N, W)       what c adds to the head's first layer: W (P c) + W' (popularity and price) + b
    hours …      (24, W) …    what the context adds to it, and by what the surface scales it

Serving then gathers rows instead of multiplying matrices (models/ranker.py: candidate_side, context_side).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from models.featurise import Calendar, Floats


@dataclass(frozen=True, eq=False)
class Tables:
    items: Floats
    queries: Floats
    projections: Floats
    sizes: Floats
    item_part: Floats
    hours: Floats
    weekdays: Floats
    weeks: Floats
    surfaces: Floats
    scales: Floats

    def context(self, moment: Calendar, surface: int) -> Floats:
        """(2, W) shift and scale of the head's hidden layer."""
        shift: Floats = (
            self.hours[moment.hour] + self.weekdays[moment.weekday] + self.weeks[moment.week] + self.surfaces[surface]
        )
        return np.stack((shift, self.scales[surface]))


def build_tables(items: Floats, statics: Floats, weights: Mapping[str, npt.NDArray[Any]]) -> Tables:
    """From item[x] (N, D), the head's inputs (N, F) and the ranker's weights by name."""
    queries = linear(items, weights, "query") / np.sqrt(np.float32(items.shape[1]))
    projections = linear(items, weights, "projection")
    item_part = linear(projections, weights, "head_item") + linear(statics, weights, "head_static")
    return Tables(
        items,
        np.concatenate((queries, np.ones((len(items), 1), np.float32)), axis=1),
        projections,
        np.sqrt((projections**2).sum(axis=1) + np.float32(1e-6)),
        item_part,
        *(np.ascontiguousarray(weights[f"{name}.weight"]) for name in ("hour", "weekday", "week", "surface")),
        1 + weights["surface_scale.weight"],
    )


def linear(x: Floats, weights: Mapping[str, npt.NDArray[Any]], name: str) -> Floats:
    """x Wᵀ + b, as torch.nn.Linear stores it."""
    product: Floats = x @ weights[f"{name}.weight"].T
    bias = weights.get(f"{name}.bias")
    return product if bias is None else product + bias
