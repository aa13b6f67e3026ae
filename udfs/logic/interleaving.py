"""Team-draft interleaving: two rankers fill one list in turns, and clicks say whose items were wanted.

    the control's list ─┐  each round a coin decides who picks first;         list, with the team of each place
    the challenger's ───┴─ each picks its best that is not on the list yet ─► └─ clicks ─ won by the team with more of them

Radlinski, Kurup & Joachims 2008. proof.interleaved judges the wins.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from typing import NamedTuple

CONTROL, CHALLENGER = 0, 1


class Drafted(NamedTuple):
    """`teams` says for each place who picked it: CONTROL or CHALLENGER."""

    items: list[str]
    teams: list[int]


def team_draft(first: Sequence[str], second: Sequence[str], k: int, seed: int) -> Drafted:
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
    return Drafted(items, teams)


def winner(teams: Iterable[int]) -> int | None:
    """Who has more of the items that were clicked, given the team of each; None for a tie."""
    points = [0, 0]
    for team in teams:
        points[team] += 1
    return None if points[CONTROL] == points[CHALLENGER] else int(points[CHALLENGER] > points[CONTROL])
