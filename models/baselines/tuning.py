"""V-SKNN's settings for a shop: one after the other, by what the newest sessions of training say.

Shops differ most in how often people come back to what they just saw, so the factors of seen items come first.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from models.baselines.contract import Floats, Tick, unwatched
from models.baselines.knn import VSKNN, NeighbourSettings
from models.evaluation.ranks import reciprocal
from models.evaluation.session_files import Prefixes, Sessions, held_out, prefixes

_PREFIXES = 1500  # at most, that settings are compared on
# In the order in which they are tried; the figures of the docs come from it.
CHOICES: tuple[tuple[str, tuple[Any, ...]], ...] = (
    ("last", (0.1, 0.5, 2.0, 5.0)),
    ("seen", (0.1, 0.5, 2.0)),
    ("distance_decay", (2.0, 5.0, 50.0)),
    ("before", (0.1, 1.0)),
    ("position_decay", (1.0, 5.0)),
    ("age_decay_days", (20.0, 60.0)),
    ("idf_power", (0.0, 1.0)),
    ("length_power", (0.0, 0.5)),
    ("neighbours", (100,)),
)


class TunedVSKNN:
    """NextItem: V-SKNN with settings chosen on the newest tenth of training, then fitted to all of it."""

    logits: ClassVar[bool] = False
    effort: ClassVar[float] = 1

    def fit(self, training: Sessions, tick: Tick) -> None:
        self.settings = tuned(*held_out(training), tick)
        self._model = VSKNN(self.settings)
        self._model.fit(training, unwatched)

    def score(self, asked: Prefixes) -> Floats:
        return self._model.score(asked)


def tuned(early: Sessions, late: Sessions, tick: Tick = unwatched) -> NeighbourSettings:
    """The best of CHOICES by HR@20 + MRR@20, chosen one setting after the other, as far as time allows."""
    asked = prefixes(late)
    rows = np.random.default_rng(0).permutation(len(asked))[:_PREFIXES]
    asked, best, model = asked.part(np.sort(rows)), NeighbourSettings(), VSKNN()
    model.fit(early, unwatched)
    quality = _quality(model, asked)
    done, of = 0, sum(len(values) for _, values in CHOICES)
    for name, values in CHOICES:
        for value in values:
            model.settings = best._replace(**{name: value})  # read when it is asked, so that one fit serves all
            found = _quality(model, asked)
            if found > quality:
                best, quality = model.settings, found
            done += 1
            if tick(done, of) >= 1:
                return best
    return best


def _quality(model: VSKNN, asked: Prefixes) -> float:
    ranks = np.full(len(asked), np.iinfo(np.int64).max)
    for row, target in enumerate(asked.targets):
        found = model.found(asked.items(row), asked.now(row))
        at = np.flatnonzero(found.items == target)
        if len(at) and found.scores[at[0]] > 0:
            ranks[row] = int((found.scores >= found.scores[at[0]]).sum())
    return float((ranks <= 20).mean() + reciprocal(ranks, 20).mean()) if len(ranks) else 0.0
