"""Orders of a displayed list that learn next to nothing: what a re-ranker has to beat."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from models.baselines.contract import Floats, Lists, Tick
from models.evaluation.clickout_features import NAMES

_BELOW_ALL = -1e3
_PLACE_WEIGHT = 1e-3  # decides between items that are equal otherwise


class _Order:
    logits: ClassVar[bool] = False
    effort: ClassVar[float] = 0

    def fit(self, training: Lists, tick: Tick) -> None:
        tick(1, 1)

    def score(self, asked: Lists) -> Floats:
        return self.by(asked) - _PLACE_WEIGHT * _column(asked, "place")

    def by(self, asked: Lists) -> Floats:
        raise NotImplementedError


class AsDisplayed(_Order):
    def by(self, asked: Lists) -> Floats:
        return np.zeros(len(asked.x), np.float32)


class LastInteracted(_Order):
    """Items that the session touched, the last one first; then as displayed."""

    def by(self, asked: Lists) -> Floats:
        return np.nan_to_num(-_column(asked, "recency_rank"), nan=_BELOW_ALL)


class MostClicked(_Order):
    """By clicks in training; then as displayed."""

    def by(self, asked: Lists) -> Floats:
        return _column(asked, "popular_clicks")


def _column(asked: Lists, name: str) -> Floats:
    return asked.x[:, NAMES.index(name)]
