"""Team-draft interleaving: two rankers fill one list in turns, and clicks say whose items were wanted.

Each round a coin decides who picks first; each picks its best item that is not on the list yet (Radlinski, Kurup & Joachims 2008).
A list is won by the ranker with more clicks; proof.statistics.interleaving_p judges the wins.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from typing import NamedTuple


class Draft(NamedTuple):
    """`teams` says for each place who picked it: 0 or 1."""

    items: list[str]
    teams: list[int]


def team_draft(first: Sequence[str], second: Sequence[str], k: int, seed: int) -> Draft:
    """At most `k` items of the two orders. The same seed gives the same list."""
    coin, items, teams = random.Random(seed), list[str](), list[int]()
    orders, places, taken = (first, second), [0, 0], set[str]()
    while len(items) < k:
        begins = coin.randrange(2)
        picked = False
        for team in (begins, 1 - begins):
            order = orders[team]
            while places[team] < len(order) and order[places[team]] in taken:
                places[team] += 1
            if places[team] < len(order) and len(items) < k:
                item = order[places[team]]
                items.append(item)
                teams.append(team)
                taken.add(item)
                picked = True
        if not picked:
            break
    return Draft(items, teams)


def winner(draft: Draft, clicked: Collection[str]) -> int | None:
    """Whose items were clicked more; None for a tie."""
    points = [0, 0]
    for item, team in zip(draft.items, draft.teams):
        points[team] += item in clicked
    return None if points[0] == points[1] else int(points[1] > points[0])
