"""Drafting: the rankings of two rankers, each made whole by its own bundle and policy, as one list.

control's slate ─┬─ team draft ─ one slate, the team on each item
challenger's ────┘     └─ what each would have shown alone, for the decision record
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from schemas.ranking import Challenger, Draft, RankedItem, RankedList, Team
from udfs.logic.decisions import list_id_of
from udfs.logic.interleaving import team_draft
from udfs.logic.slate import Ranker, Slate, as_shown, levels_of


class Ranking(NamedTuple):
    """One ranker's own list, and what made it."""

    ranker: Ranker
    policy: str
    item_features_offsets: dict[int, int]
    slate: Slate


class Drafted(NamedTuple):
    """Of two rankings, the control's first. `items` are the slate's without their teams."""

    slate: Slate
    items: list[RankedItem]
    draft: Draft
    rankings: tuple[Ranking, Ranking]


def drafted(control: Ranking, other: Ranking, challenger: Challenger, k: int, seed: int) -> Drafted:
    """What was counted and how long it took is the control's."""
    rankings, arms = (control, other), (challenger.control, challenger.arm)
    by_id = [{item.item_id: item for item in one.slate.items} for one in rankings]
    picked = team_draft(list(by_id[0]), list(by_id[1]), k, seed)
    items = [by_id[team][item_id] for item_id, team in zip(*picked)]
    levels: dict[str, int] = {}
    for number, one in enumerate(rankings):
        mine = [item_id for item_id, team in zip(*picked) if team == number]
        for level, count in levels_of(one.ranker, one.ranker.rows(mine)).items():
            levels[level] = levels.get(level, 0) + count
    first = control.slate
    named = [msgspec.structs.replace(item, team=arms[team]) for item, team in zip(items, picked.teams)]
    teams = [Team(arm, one.ranker.version, one.ranker.name, one.policy) for arm, one in zip(arms, rankings)]
    return Drafted(
        Slate(named, first.counts, dict(first.stage_ms), as_shown(items), first.cold_start, levels),
        items,
        Draft(challenger.experiment, teams),
        rankings,
    )


def alone(ranked: RankedList, one: Ranking) -> tuple[RankedList, Slate]:
    """The list that one ranker of this drafted list would have shown, for its decision record."""
    items = one.slate.items
    receipt = msgspec.structs.replace(
        ranked.receipt,
        bundle=one.ranker.version,
        ranker=one.ranker.name,
        policy=one.policy,
        item_features_offsets=one.item_features_offsets,
        draft=None,
    )
    list_id = list_id_of(ranked.key, ranked.surface, ranked.state_epoch, ranked.list_no, items)
    return msgspec.structs.replace(ranked, list_id=list_id, items=items, receipt=receipt), one.slate
