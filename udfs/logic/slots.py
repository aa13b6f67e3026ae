"""Slots: the places of a list, filled from the top.

    for each place:  still free ─ reserved and capped ones out ─ held by stability? ─ pinned, sponsored, explored, or the best

Every place's propensity is the probability of its item given the items above it. Without exploration it is 1: the best is
certain, through rules, caps and diversity, once what stands above is known. The product over the places is that of the list.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from schemas.decision import EXPLOIT
from schemas.policy import Cap, Explore, Pinned, Policy, Sponsored
from udfs.logic.diversity import Worth, worth
from udfs.logic.exploration import BetaTables, chances, draw, uniforms

Array = npt.NDArray[np.float64]
Codes = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

EXPLORE, PINNED, SPONSORED, HELD = "explore", "pinned", "sponsored", "held"
NOWHERE = -1  # of a candidate that the previous list did not have


@dataclass
class Pool:
    """What places are filled from: columns over the n candidates that were scored. What a policy does not ask for is empty."""

    scores: Array
    groups: dict[str, Codes] = field(default_factory=dict)  # by Cap.by; below 0: in no group
    likeness: Array | None = None  # (n, n), for diversity
    posteriors: Array | None = None  # (n, 2) α and β, for exploration
    pinned: dict[int, int] = field(default_factory=dict)  # place, from 1 -> candidate
    previous: Codes | None = None  # place, from 0, in the list before, while nothing new has happened


@dataclass
class Filled:
    """The list, best first: candidates, and of each its slot, propensity, and what diversity gave up in score for it."""

    candidates: list[int] = field(default_factory=list)
    slots: list[str] = field(default_factory=list)
    propensities: list[float] = field(default_factory=list)
    prices: list[float] = field(default_factory=list)


def fill(policy: Policy, pool: Pool, k: int, seed: int, tables: BetaTables) -> Filled:
    """At most k places; fewer where caps leave nothing."""
    return _Filling(policy, pool, min(k, len(pool.scores)), seed, tables).run()


class _Filling:
    def __init__(self, policy: Policy, pool: Pool, k: int, seed: int, tables: BetaTables) -> None:
        self._policy, self._pool, self._k, self._seed, self._tables = policy, pool, k, seed, tables
        self._worth: Worth = worth(policy.diversity, pool.scores, pool.likeness, k)
        self._free: Mask = np.ones(len(pool.scores), bool)
        self._caps = [_Capped(cap, pool.groups[cap.by]) for cap in policy.caps]
        self._slots = policy.slot_at()
        self._found = Filled()

    def run(self) -> Filled:
        for candidate in self._pool.pinned.values():
            self._free[candidate] = False  # until its place comes
        for place in range(1, self._k + 1):
            self._one(place)
        return self._found

    def _one(self, place: int) -> None:
        """Where caps leave nothing for a place, what follows moves up, and the list is shorter."""
        pool, slot = self._pool, self._slots.get(place)
        if isinstance(slot, Pinned) and place in pool.pinned:
            self._take(pool.pinned[place], PINNED, 1.0, 0.0)
            return
        open_ = self._free.copy()
        for cap in self._caps:
            cap.close(open_, place)
        if not open_.any():
            return
        if isinstance(slot, Explore):
            self._explore(slot, open_, place)
        elif isinstance(slot, Sponsored) and (paid := open_ & (pool.groups["sponsored"] >= 0)).any():
            self._best(paid, SPONSORED)
        elif (held := self._held(open_, place)) is not None:
            self._take(held, HELD, 1.0, 0.0)
        else:
            self._best(open_, EXPLOIT)

    def _best(self, open_: Mask, slot: str) -> None:
        gains = np.where(open_, self._worth.gains(), -np.inf)
        chosen = int(np.argmax(gains))
        price = 0.0
        if self._policy.diversity is not None:
            scores = self._pool.scores
            price = float(scores[open_].max() - scores[chosen])
        self._take(chosen, slot, 1.0, price)

    def _explore(self, slot: Explore, open_: Mask, place: int) -> None:
        gains = np.where(open_, self._worth.gains(), -np.inf)
        among = np.argsort(-gains, kind="stable")[: min(slot.pool, int(open_.sum()))]
        assert self._pool.posteriors is not None
        chance = chances(slot, self._pool.scores[among], self._pool.posteriors[among], self._tables)
        drawn = draw(chance, float(uniforms(self._seed, place)))
        self._take(int(among[drawn]), EXPLORE, float(chance[drawn]), 0.0)

    def _held(self, open_: Mask, place: int) -> int | None:
        """Of what stood near the top before: what may not sink further. And what may not rise so far is closed."""
        stability, previous = self._policy.stability, self._pool.previous
        if stability is None or previous is None:
            return None
        was = previous + 1
        held = open_ & (was > 0) & (was <= stability.top)
        due = np.flatnonzero(held & (was <= place - stability.moves))
        if len(due):
            return int(due[np.argmin(was[due])])
        early = held & (was > place + stability.moves)
        if (open_ & ~early).any():
            open_ &= ~early
        return None

    def _take(self, candidate: int, slot: str, propensity: float, price: float) -> None:
        self._free[candidate] = False
        for cap in self._caps:
            cap.take(candidate)
        self._worth.take(candidate)
        found = self._found
        found.candidates.append(candidate)
        found.slots.append(slot)
        found.propensities.append(propensity)
        found.prices.append(price)


class _Capped:
    """A cap at work: which groups are full."""

    def __init__(self, cap: Cap, codes: Codes) -> None:
        self._cap, self._codes = cap, codes
        self._counts: dict[int, int] = {}
        self._full: Mask = np.zeros(len(codes), bool)
        if cap.most == 0:
            self._full = codes >= 0

    def close(self, open_: Mask, place: int) -> None:
        if place <= self._cap.within:
            open_ &= ~self._full

    def take(self, candidate: int) -> None:
        code = int(self._codes[candidate])
        if code < 0:
            return
        self._counts[code] = self._counts.get(code, 0) + 1
        if self._counts[code] == self._cap.most:
            self._full = self._full | (self._codes == code)
