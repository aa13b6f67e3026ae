"""Slots: the places of a list, filled from the top.

    for each place:  still free ─ reserved and capped ones out ─ held by stability?
                     ─ pinned, sponsored, followed, explored, or the best

Every place's propensity is the probability of its item given the items above it. Without exploration it is 1: the best is
certain, through rules, caps and diversity, once what stands above is known. The product over the places is that of the list.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from schemas.decision import EXPLOIT
from schemas.policy import Cap, Explore, Following, Pinned, Policy, Slot, Sponsored, Stability
from udfs.logic.diversity import Likeness, Worth, worth
from udfs.logic.exploration import BetaTables, chances, draw, uniforms

Array = npt.NDArray[np.float64]
Codes = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

EXPLORE, PINNED, SPONSORED, FOLLOW, HELD = "explore", "pinned", "sponsored", "follow", "held"
FOLLOWED = "followed"  # in Pool.groups: whether a candidate is of the group that is followed
NOWHERE = -1  # of a candidate that the previous list did not have


@dataclass
class Pool:
    """What places are filled from: columns over the n candidates that were scored. What a policy does not ask for is empty."""

    scores: Array
    groups: dict[str, Codes] = field(default_factory=dict)  # by Cap.by, and FOLLOWED; below 0: in no group
    likeness: Likeness | None = None  # for diversity
    posteriors: Array | None = None  # (n, 2) α and β, for exploration
    linear: Array | None = None  # (n, 2) mean and width, for linucb
    of_groups: dict[str, Array] = field(default_factory=dict)  # (n, 2) α and β of each one's group, for arms of groups
    pinned: dict[int, int] = field(default_factory=dict)  # place, from 1 -> candidate
    previous: Codes | None = None  # place, from 0, in the list before, while nothing new has happened


@dataclass
class Filled:
    """The list, best first: candidates, and the slot and propensity of each."""

    candidates: list[int] = field(default_factory=list)
    slots: list[str] = field(default_factory=list)
    propensities: list[float] = field(default_factory=list)


def given_up(scores: npt.NDArray[Any], candidates: list[int]) -> list[float]:
    """For each place what it gave up in score: the best that was still left, less its own."""
    left = np.where(np.isnan(scores), -np.inf, scores)
    found = []
    for candidate in candidates:
        found.append(float(left.max() - left[candidate]))
        left[candidate] = -np.inf
    return found


def fill(policy: Policy, pool: Pool, k: int, seed: int, tables: BetaTables) -> Filled:
    """At most k places; fewer where caps leave nothing."""
    return _Filling(policy, pool, min(k, len(pool.scores)), seed, tables).run()


class _Filling:
    """`_shut` is 0 for a candidate that the place may have, and minus infinity for any other: added to what they are worth."""

    def __init__(self, policy: Policy, pool: Pool, k: int, seed: int, tables: BetaTables) -> None:
        self._policy, self._pool, self._k, self._seed, self._tables = policy, pool, k, seed, tables
        self._worth: Worth = worth(policy.diversity, pool.scores, pool.likeness, k)
        self._free: Mask = np.ones(len(pool.scores), bool)
        self._free[list(pool.pinned.values())] = False  # until their places come
        self._caps = [_Capped(cap, pool.groups[cap.by]) for cap in policy.caps]
        self._ends = {cap.within + 1 for cap in policy.caps}
        self._slots = policy.slot_at()
        stability = policy.stability
        self._held_until = stability.top + stability.moves if stability is not None else 0
        self._found = Filled()

    def run(self) -> Filled:
        self._shut_for(1)
        for place in range(1, self._k + 1):
            if place in self._ends:
                self._shut_for(place)
            self._one(place)
        return self._found

    def _shut_for(self, place: int) -> None:
        self._shut = np.where(self._free, 0.0, -np.inf)
        for cap in self._caps:
            cap.shut(self._shut, place)

    def _one(self, place: int) -> None:
        """Where caps leave nothing for a place, what follows moves up, and the list is shorter."""
        pool, slot = self._pool, self._slots.get(place)
        if isinstance(slot, Pinned) and place in pool.pinned:
            self._take(place, pool.pinned[place], PINNED, 1.0)
            return
        gains = self._worth.gains() + self._shut
        best = int(gains.argmax())
        if gains[best] == -np.inf:
            return
        if isinstance(slot, Explore):
            self._explore(slot, gains, place)
            return
        name = EXPLOIT
        wanted = _reserved_for(slot)
        if wanted is not None and (own := np.where(pool.groups[wanted[0]] >= 0, gains, -np.inf)).max() > -np.inf:
            best, name = int(np.argmax(own)), wanted[1]
        elif pool.previous is not None and place <= self._held_until:
            best, name = _held(self._policy.stability, pool.previous, gains, place)
        self._take(place, best, name, 1.0)

    def _explore(self, slot: Explore, gains: Array, place: int) -> None:
        """By groups too the propensity is the item's: of the group that is drawn its best item is certain."""
        among = np.argsort(-gains, kind="stable")[: slot.pool]
        among = among[gains[among] > -np.inf]
        believed = self._pool.linear if slot.policy == "linucb" else self._pool.posteriors
        if slot.arms != "item":
            _, best = np.unique(self._pool.groups[slot.arms][among], return_index=True)
            among = among[np.sort(best)]
            believed = self._pool.of_groups.get(slot.arms, believed)
        assert believed is not None
        chance = chances(slot, self._pool.scores[among], believed[among], self._tables)
        drawn = draw(chance, float(uniforms(self._seed, place)))
        self._take(place, int(among[drawn]), EXPLORE, float(chance[drawn]))

    def _take(self, place: int, candidate: int, slot: str, propensity: float) -> None:
        self._free[candidate], self._shut[candidate] = False, -np.inf
        for cap in self._caps:
            if cap.take(candidate):
                cap.shut(self._shut, place + 1)
        self._worth.take(candidate)
        found = self._found
        found.candidates.append(candidate)
        found.slots.append(slot)
        found.propensities.append(propensity)


def _reserved_for(slot: Slot | None) -> tuple[str, str] | None:
    """The group whose best item the slot's place goes to, and the slot's name; None where it goes to no group."""
    if isinstance(slot, Sponsored):
        return "sponsored", SPONSORED
    return (FOLLOWED, FOLLOW) if isinstance(slot, Following) else None


def _held(stability: Stability | None, previous: Codes, gains: Array, place: int) -> tuple[int, str]:
    """What may not sink further of what stood near the top before, first; then the best of what may rise so far."""
    assert stability is not None  # else nothing is held
    was = previous + 1
    near = (gains > -np.inf) & (was > 0) & (was <= stability.top)
    due = np.flatnonzero(near & (was <= place - stability.moves))
    if len(due):
        return int(due[np.argmin(was[due])]), HELD
    ripe = np.where(near & (was > place + stability.moves), -np.inf, gains)
    best = int(np.argmax(ripe))
    return (best if ripe[best] > -np.inf else int(np.argmax(gains))), EXPLOIT


class _Capped:
    """A cap at work: which groups are full."""

    def __init__(self, cap: Cap, codes: Codes) -> None:
        self._cap, self._codes, self._of = cap, codes, codes.tolist()
        self._counts: dict[int, int] = {}
        self._full: Mask = codes >= 0 if cap.most == 0 else np.zeros(len(codes), bool)

    def shut(self, shut: Array, place: int) -> None:
        if place <= self._cap.within:
            shut[self._full] = -np.inf

    def take(self, candidate: int) -> bool:
        """Whether a group is full now that was not."""
        code = self._of[candidate]
        if code < 0:
            return False
        count = self._counts[code] = self._counts.get(code, 0) + 1
        if count == self._cap.most:
            self._full = self._full | (self._codes == code)
        return count == self._cap.most
