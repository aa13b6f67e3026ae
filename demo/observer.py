"""The ideal observer: knows the shopper's tastes and the laws of the world, sees the visit, but never its intent.

What it reaches is the ceiling for any ranker; it is also a sound logging policy, because it acts on visible things only
(a policy that knew the intent would confound every model trained on its logs).
"""

from __future__ import annotations

import numpy as np

from demo.catalogue import SUBCATEGORIES
from demo.tastes import Memory, Shopper, intent_probabilities
from demo.truth import Moment, expected_relevance, match
from demo.world import NATURE, Floats, Ints, World, examination

# Standard deviation of log dwell, and median dwell in ms = base + slope x relevance: 12 s at a relevance of 0.25.
DWELL_SPREAD = 0.45
DWELL_BASE_MS = 2_500
DWELL_SLOPE_MS = 38_000


class Observer:
    """A belief (S,) over what the visit is about, updated by Bayes' rule with every visible act."""

    def __init__(self, world: World, shopper: Shopper, memory: Memory, now_ms: int) -> None:
        self._world, self._shopper, self._memory = world, shopper, memory
        self._prior = intent_probabilities(world, shopper, memory, now_ms)
        self.belief = self._prior
        self._kept, self._follows = match(world, shopper, memory), len(memory.follows)

    def searched(self, subcategory: int) -> None:
        """A search, or a landing on an item from outside, tells the intent."""
        self.belief = np.eye(len(SUBCATEGORIES))[subcategory]

    def reacted(self, items: Ints, clicked: Ints) -> None:
        """A shown list (item numbers in order of position) and the places in it that were clicked."""
        appeal = self._shopper.appeal[items]
        kept = self._match()[:, self._world.subcategory[items]]  # (S, places)
        likelihood = 1.0 - examination(np.arange(len(items))) * appeal * kept
        if len(clicked):
            likelihood[:, clicked] = kept[:, clicked]
        self._update(likelihood.prod(axis=1))
        self.belief = (1 - NATURE.intent_change) * self.belief + NATURE.intent_change * self._prior

    def viewed(self, item: int, dwell_ms: int) -> None:
        """The longer the view, the more relevant the item, the likelier the intents under which it is."""
        kept = self._match()[:, self._world.subcategory[item]]
        median_ms = DWELL_BASE_MS + DWELL_SLOPE_MS * self._shopper.appeal[item] * kept
        self._update(np.exp(-0.5 * (np.log(dwell_ms / median_ms) / DWELL_SPREAD) ** 2))

    def relevance(self, moment: Moment) -> Floats:
        """(N,) expected relevance under the belief; its order is the best list one can know."""
        return expected_relevance(self._world, self._shopper, moment, self.belief)

    def _match(self) -> Floats:
        if len(self._memory.follows) != self._follows:
            self._kept, self._follows = match(self._world, self._shopper, self._memory), len(self._memory.follows)
        return self._kept

    def _update(self, likelihood: Floats) -> None:
        weighted = self.belief * likelihood
        self.belief = weighted / weighted.sum()
