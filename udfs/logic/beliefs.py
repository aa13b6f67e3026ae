"""Beliefs: how outcomes of an item on a surface add up, and what LinUCB makes of them.

    exposures and clicks of an hour, by context ─ take ─ Belief ─┬─ counts by segment ─ Beta posteriors, of groups: Together
                                                                 └─ A = I + Σ x xᵀ, b = Σ x r ─ linucb ─ mean, width

An exposure counts as a miss at once and its click, whenever it comes, as a hit: late rewards need no waiting. Discounting (Raj and
Kalyani 2017 for Thompson sampling; Russac, Vernade and Cappé 2019 for linear bandits) forgets what has changed.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from schemas.beliefs import EVERYBODY, SEGMENTS, Belief, D
from schemas.event import Context
from schemas.user_state import UserState

Array = npt.NDArray[np.float64]

HOUR_MS = 3_600_000
NEW_USER_EVENTS = 5  # up to here a user is new
IDLE_HALF_LIVES = 8  # what has had no outcome for so long is forgotten: 0.4 % of it is left
_SEGMENTS_CAP = 64  # of an item on a surface: those with the fewest exposures go
_ROUNDING = 1e-9  # of exposures
_EPOCH_WEEKDAY = 3  # 1 January 1970 was a Thursday


class Moment(NamedTuple):
    """What is known of an exposure, or of a list that is about to be made. `hour` counts since 1970, UTC."""

    hour: int
    device: str | None
    geo: str | None
    channel: str | None
    is_new: bool


def moment(state: UserState, said: Context | None, now_ms: int) -> Moment:
    """Of a list that is about to be made: where the request says the user is, else where the newest event said it."""
    device, geo, channel = (
        (said.device, said.geo, said.channel) if said is not None else state.tail.where or (None,) * 3
    )
    return Moment(now_ms // HOUR_MS, device, geo, channel, state.event_no <= NEW_USER_EVENTS)


def context_of(at: Moment) -> Array:
    """(D,) by schemas.beliefs.CONTEXT."""
    angle = 2 * math.pi * (at.hour % 24) / 24
    weekend = (at.hour // 24 + _EPOCH_WEEKDAY) % 7 >= 5
    return np.array(
        [
            1.0,
            at.device in ("mobile", "tablet"),
            at.channel == "app",
            math.sin(angle),
            math.cos(angle),
            weekend,
            at.is_new,
        ]
    )


def segments_of(at: Moment) -> dict[str, str]:
    """Segment by kind, where it is known."""
    return {kind: f"{kind}:{value}" for kind in SEGMENTS if (value := getattr(at, kind)) is not None}


def take(belief: Belief, at: Moment, shown: int, clicked: int, half_life_ms: int) -> None:
    """Add outcomes of one moment, in place; in whichever order they come, the sums are the same."""
    at_ms = at.hour * HOUR_MS
    squares = np.frombuffer(belief.squares).reshape(D, D) if belief.squares else np.zeros((D, D))
    rewards = np.frombuffer(belief.rewards) if belief.rewards else np.zeros(D)
    if at_ms > belief.at_ms:
        left = 0.5 ** ((at_ms - belief.at_ms) / half_life_ms) if belief.at_ms else 0.0
        belief.counts = {name: (clicks * left, shows * left) for name, (clicks, shows) in belief.counts.items()}
        squares, rewards, belief.at_ms = squares * left, rewards * left, at_ms
    weight = 0.5 ** ((belief.at_ms - at_ms) / half_life_ms)
    belief.half_life_ms = half_life_ms
    for name in (EVERYBODY, *segments_of(at).values()):
        clicks, shows = belief.counts.get(name, (0.0, 0.0))
        belief.counts[name] = (clicks + clicked * weight, shows + shown * weight)
    if len(belief.counts) > _SEGMENTS_CAP:
        del belief.counts[min(belief.counts, key=lambda name: belief.counts[name][1])]
    x = context_of(at)
    belief.squares = (squares + shown * weight * np.outer(x, x)).tobytes()
    belief.rewards = (rewards + clicked * weight * x).tobytes()


def counts_at(belief: Belief, segment: str, now_ms: int) -> tuple[float, float]:
    """(clicks, misses) of a segment, discounted to now; a clock that lags makes nothing larger."""
    clicks, shows = belief.counts.get(segment, (0.0, 0.0))
    left = 0.5 ** (max(0, now_ms - belief.at_ms) / belief.half_life_ms) if belief.half_life_ms else 0.0
    return clicks * left, max(0.0, shows - clicks) * left


class Together:
    """Counts of many beliefs as one: what a group's items say together. Discounts are those of its parts, so that the sum is what
    the job would have learnt of the group; a sum for each half-life, since the job may have been started with another."""

    def __init__(self) -> None:
        self._sums: dict[int, Belief] = {}

    def add(self, belief: Belief, sign: int) -> None:
        """Add a belief's counts; or take away, with sign -1, those that were added before."""
        if not belief.counts:
            return
        half_life_ms = belief.half_life_ms
        found = self._sums.setdefault(half_life_ms, Belief(at_ms=belief.at_ms, half_life_ms=half_life_ms))
        at_ms = max(found.at_ms, belief.at_ms)
        left, weight = (0.5 ** ((at_ms - one.at_ms) / half_life_ms) for one in (found, belief))
        counts = {name: (clicks * left, shows * left) for name, (clicks, shows) in found.counts.items()}
        for name, (clicks, shows) in belief.counts.items():
            so_far = counts.get(name, (0.0, 0.0))
            counts[name] = (so_far[0] + sign * weight * clicks, so_far[1] + sign * weight * shows)
        # What is left of a sum whose parts are gone is rounding.
        found.counts = {name: sums for name, sums in counts.items() if sums[1] > _ROUNDING}
        found.at_ms = at_ms

    def counts_at(self, segment: str, now_ms: int) -> tuple[float, float]:
        """(clicks, misses) as of `counts_at` of a belief."""
        each = [counts_at(one, segment, now_ms) for one in self._sums.values()]
        return max(0.0, sum(clicks for clicks, _ in each)), sum(misses for _, misses in each)


def linucb(x: Array, inverses: Array, rewards: Array, shared: Shared | None) -> Array:
    """(n, 2) mean and width of each arm's reward in context x: mean + α · width is its upper bound (Li, Chu, Langford and Schapire
    2010). `inverses` (n, D, D) are the arms' A⁻¹, `rewards` (n, D) their b.

    Without `shared` disjoint. With it hybrid, where what arms have in common is a function of the same x: A₀ and b₀ of the paper
    become sums over arms of I - A⁻¹ and A⁻¹ b, θ + β becomes A⁻¹ (b + β), and the width² gets (A⁻¹x)ᵀ A₀⁻¹ (A⁻¹x) more.
    """
    reached = inverses @ x  # (n, D)
    variance = reached @ x
    if shared is None:
        means = np.einsum("nd,nd->n", reached, rewards)
    else:
        inverse = np.linalg.inv(shared.precision)
        means = np.einsum("nd,nd->n", reached, rewards + inverse @ shared.rewards)
        variance = variance + np.einsum("nd,de,ne->n", reached, inverse, reached)
    return np.column_stack((means, np.sqrt(np.maximum(variance, 0.0))))


class Shared:
    """What all arms of a surface say together: A₀ and b₀ of hybrid LinUCB, kept as their arms change."""

    def __init__(self, d: int = D) -> None:
        self.precision, self.rewards = np.eye(d), np.zeros(d)

    def replace(self, before: tuple[Array, Array], after: tuple[Array, Array]) -> None:
        """An arm's A⁻¹ and b are others than they were; of an arm that was not there, I and 0."""
        (old, old_rewards), (new, new_rewards) = before, after
        self.precision += old - new
        self.rewards += new @ new_rewards - old @ old_rewards
