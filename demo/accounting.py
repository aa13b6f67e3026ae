"""CTR without luck: every shown list is charged its true expected clicks, next to the lists others would have shown then.

ctr = expected clicks per place of the top 10, position bias included, averaged over moments
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from demo.tastes import Shopper
from demo.truth import Moment, expected_ctr, optimum, popular, relevance, tastes_only
from demo.world import LIST_SIZE, TOP_EXAMINATION, Floats, World


def list_ctr(world: World, shopper: Shopper, moment: Moment, item_ids: Sequence[str]) -> float:
    """Expected CTR of a list of ids. An unknown id takes its place and is never clicked; nor is an item's second place."""
    places = reversed(list(enumerate(item_ids[:LIST_SIZE])))
    known = {world.index[item_id]: place for place, item_id in places if item_id in world.index}
    if not known:
        return 0.0
    relevant = relevance(world, shopper, moment, np.fromiter(known, dtype=np.int64))
    return float(relevant @ TOP_EXAMINATION[list(known.values())]) / LIST_SIZE


def expected_log(
    world: World, shopper: Shopper, moment: Moment, item_ids: Sequence[str], sent: int
) -> tuple[Floats, float]:
    """(clicks by place, impressions) that a visit is expected to report of a list (demo.shoppers.Visit): of the places it examines
    the first `sent`, and every one that it clicks."""
    shown = item_ids[:LIST_SIZE]
    items = np.array([world.index.get(item_id, -1) for item_id in shown], dtype=np.int64)
    known = np.flatnonzero(items >= 0)
    relevant = np.zeros(len(shown))
    relevant[known] = relevance(world, shopper, moment, items[known])
    examined = np.zeros(len(shown))
    examined[known] = TOP_EXAMINATION[known]
    reported, impressions = np.eye(sent + 1)[0], 0.0  # chances of having reported 0, 1, … and `sent` or more
    for chance, click in zip(examined.tolist(), relevant.tolist()):
        more = chance * reported[:sent]
        impressions += float(more.sum() + chance * click * reported[sent])
        reported[:sent] -= more
        reported[1:] += more
    return examined * relevant, impressions


@dataclass(frozen=True)
class Share:
    """A ranking's CTR and what it is of the optimum's on the same moments, with standard errors over visits."""

    ctr: float
    ctr_se: float
    of_optimum: float
    of_optimum_se: float


@dataclass
class CtrAccount:
    """Sums of expected CTR per visit. `with_tastes` also charges the list that knows the lasting tastes (0.1 ms each)."""

    world: World
    with_tastes: bool = False
    moments: int = 0
    _visits: dict[str, tuple[Floats, int]] = field(default_factory=dict)  # visit -> (sum over its moments, how many)
    _by_signs: dict[int, Floats] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        return ("ranked", "popularity", "optimum", *(("tastes_only",) if self.with_tastes else ()))

    def add(self, visit: str, shopper: Shopper, moment: Moment, item_ids: Sequence[str], signs: int = 0) -> None:
        """Charge one shown list. `visit` groups moments; `signs` counts the clicks and searches of the visit before it."""
        world = self.world
        row = [
            list_ctr(world, shopper, moment, item_ids),
            expected_ctr(world, shopper, moment, popular()),
            expected_ctr(world, shopper, moment, optimum(world, shopper, moment)),
        ]
        if self.with_tastes:
            row.append(expected_ctr(world, shopper, moment, tastes_only(world, shopper, moment)))
        charged = np.array(row)
        so_far, moments = self._visits.get(visit, (0.0, 0))
        self._visits[visit] = so_far + charged, moments + 1
        self.moments += 1
        self._by_signs[signs] = self._by_signs.get(signs, 0.0) + charged

    def ctr(self) -> dict[str, float]:
        """Mean expected CTR of each ranking; zeros before the first moment."""
        total = sum((charged for charged, _ in self._visits.values()), np.zeros(len(self.names)))
        return dict(zip(self.names, (total / max(1, self.moments)).tolist(), strict=True))

    def shares(self) -> dict[str, Share]:
        """With standard errors: moments of one visit are not independent, so visits are the unit (ratio estimator)."""
        sums = np.array([charged for charged, _ in self._visits.values()])  # (visits, names)
        sizes = np.array([moments for _, moments in self._visits.values()], dtype=float)
        optimal = sums[:, self.names.index("optimum")]
        shares = {}
        for column, name in enumerate(self.names):
            ctr, ctr_se = _ratio(sums[:, column], sizes)
            share, share_se = _ratio(sums[:, column], optimal)
            shares[name] = Share(ctr, ctr_se, share, share_se)
        return shares

    def over(self, other: CtrAccount, name: str = "ranked") -> tuple[float, float]:
        """Its CTR less the other's on the same moments, and the standard error of that, visits being the unit. Raises ValueError
        where the moments are not the same."""
        sizes = {visit: moments for visit, (_, moments) in self._visits.items()}
        if sizes != {visit: moments for visit, (_, moments) in other._visits.items()}:
            raise ValueError("the two accounts are of different moments: charge both for each list")
        column = self.names.index(name)
        more = np.array([self._visits[visit][0][column] - other._visits[visit][0][column] for visit in sizes])
        return _ratio(more, np.array(list(sizes.values()), dtype=float))

    def after_signs(self, at_least: int, name: str = "ranked") -> float:
        """Share of the optimum over moments that came after so many clicks and searches of the visit, or more."""
        total = sum((row for signs, row in self._by_signs.items() if signs >= at_least), np.zeros(len(self.names)))
        return float(total[self.names.index(name)] / total[self.names.index("optimum")])


def _ratio(above: Floats, below: Floats) -> tuple[float, float]:
    ratio = above.sum() / below.sum()
    spread = np.sqrt(((above - ratio * below) ** 2).sum())
    return float(ratio), float(spread / below.sum())
