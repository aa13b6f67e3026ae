"""Orders that learn next to nothing: what a model has to beat."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from models.baselines.contract import Floats, Tick
from models.evaluation.session_files import Prefixes, Sessions


class Popularity:
    """By the number of events in training."""

    logits: ClassVar[bool] = False
    effort: ClassVar[float] = 0

    def fit(self, training: Sessions, tick: Tick) -> None:
        self._counts = np.bincount(training.items, minlength=training.n_items).astype(np.float32)
        tick(1, 1)

    def score(self, asked: Prefixes) -> Floats:
        return np.tile(self._counts, (len(asked), 1))


class LastInteracted(Popularity):
    """The session's own items, the last one first; then by popularity."""

    def score(self, asked: Prefixes) -> Floats:
        scores = super().score(asked) / (1.0 + self._counts.max())  # below 1
        for row in range(len(asked)):
            items = asked.items(row)
            scores[row, items] = 1.0 + np.arange(len(items))  # numpy keeps the last of equal indices
        return scores
