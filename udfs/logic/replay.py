"""Replay: a list made again from its decision record, by the stages that made it; or by another policy, to see what would change.

record ─ Gathered, as it was looked up ─ slate.finish ─ the same? ─ scores, places, propensities, list_id
             │  by the ranker, or by the pre-ranker where that made it; a fallback from what it fell back to
             └ with another policy: its rules are asked again, of the catalogue as it is now
  └ of a drafted list: both rankings that way, then the draft
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from schemas.decision import (
    DRAFT,
    FALLBACK,
    GROUP,
    LINEAR,
    NOT_SHOWN,
    OF_GROUP,
    POSTERIORS,
    PREVIOUS,
    ROWS,
    SHOWN,
    Decision,
)
from schemas.policy import Policy
from schemas.ranking import RankedItem
from schemas.user_state import UserState, decode, seen_hash
from udfs.logic.decisions import list_id_of
from udfs.logic.exploration import BetaTables
from udfs.logic.interleaving import team_draft
from udfs.logic.slate import PRE_RANKER, Gathered, Ranker, Slate, Stages, World, as_shown, fall_back, finish, look_up

CLOSE = 1e-5  # what scores may differ by on another kind of CPU or another onnxruntime

_TOO_LATE, _IN_TIME = 0.0, float("inf")  # of Stages.begin_by

EncodeHistory = Callable[[UserState], Any]


class CannotReplay(ValueError):
    """A record that does not hold what a replay needs. One plain sentence; `reason` is its kind in a few words."""

    def __init__(self, sentence: str, reason: str) -> None:
        super().__init__(sentence)
        self.reason = reason


@dataclass
class Replayed:
    """`differences` are sentences, the first difference first; without any, all bits are the same. `gap` is the largest between
    two scores of a candidate, `same_items` whether the list holds the same items in the same order."""

    list_id: str
    differences: list[str]
    gap: float
    same_items: bool
    slate: Slate

    @property
    def identical(self) -> bool:
        return not self.differences


def replay(decision: Decision, ranker: Ranker, policy: Policy, encode_history: EncodeHistory) -> Replayed:
    """Make the list again and compare. Raises CannotReplay."""
    gathered = _as_recorded(decision)
    if FALLBACK in decision.places.slot_names:
        return _compared(decision, _fallen_back(decision, gathered))
    world = World(policy=policy, seed=decision.seed, tables=BetaTables())
    slate = _finished(decision, gathered, ranker, world, encode_history)
    return _compared(decision, slate)


def replay_draft(decision: Decision, alone: Sequence[Replayed]) -> Replayed:
    """Of a drafted list, whose rankings were made again: whether the draft of them is the same. Raises CannotReplay."""
    draft = decision.draft
    if draft is None:
        raise CannotReplay(f"List {decision.list_id} was made by one ranker: there is no draft to replay.", "no draft")
    differences = [f"of {arm}: {line}" for arm, one in zip(draft.arms, alone) for line in one.differences]
    by_id = [{item.item_id: item for item in one.slate.items} for one in alone]
    again = team_draft(list(by_id[0]), list(by_id[1]), decision.k, draft.seed)
    items = [by_id[team][item_id] for item_id, team in zip(*again)]
    places = decision.places
    before = [(item, places.slot(place)) for place, item in enumerate(decision.shown())]
    after = [(item_id, f"{DRAFT}{draft.arms[team]}") for item_id, team in zip(*again)]
    if before != after:
        differences.append("the draft of the two is another: " + _first_apart(before, after))
    list_id = list_id_of(decision.key, decision.surface, decision.state_epoch, decision.list_no, items)
    if not differences and list_id != decision.list_id:
        differences.append(f"the list_id was {decision.list_id}, and replay gives {list_id}")
    gap = max(one.gap for one in alone)
    same = [item for item, _ in before] == [item for item, _ in after]
    return Replayed(list_id, differences, gap, same, Slate(items, {}, {}, as_shown(items)))


def _first_apart(before: list[tuple[str, str]], after: list[tuple[str, str]]) -> str:
    for place, (one, other) in enumerate(zip(before, after), start=1):
        if one != other:
            return f"place {place} had {one[0]} ({one[1]}), and replay gives {other[0]} ({other[1]})"
    return f"the list had {len(before)} items, and replay gives {len(after)}"


def with_policy(
    decision: Decision,
    ranker: Ranker,
    world: World,
    encode_history: EncodeHistory,
) -> Slate:
    """The list that `world.policy` would have made of the same candidates. Raises CannotReplay."""
    require_scored(decision)
    recorded = _as_recorded(decision)
    hashes = None if decision.requested else np.array([seen_hash(one) for one in recorded.item_ids], np.uint32)
    fresh = Gathered(recorded.item_ids, recorded.sources, {}, recorded.rows, recorded.features, recorded.feature_ids)
    gathered = look_up(decode(decision.state), world, fresh, hashes, decision.now_ms)
    return _finished(decision, gathered, ranker, world, encode_history)


def require_all(decision: Decision) -> None:
    """Raises CannotReplay where the record does not hold what the list was made of: all candidates of one ranker."""
    if decision.draft is not None:
        raise CannotReplay(
            f"List {decision.list_id} was drafted of two rankers, for the experiment {decision.draft.experiment}: its record holds "
            "a ranking of each.",
            "drafted of two rankers",
        )
    if not decision.complete:
        raise CannotReplay(
            f"Of list {decision.list_id} only the items shown are recorded: raise the job's --decisions-share to replay such "
            "lists.",
            "only shown items recorded",
        )


def require_scored(decision: Decision) -> None:
    """Raises CannotReplay where the record is not of a list that was ranked or pre-ranked from all its candidates."""
    require_all(decision)
    if FALLBACK in decision.places.slot_names:
        raise CannotReplay(
            f"List {decision.list_id} is a fallback ({decision.fallback}) that neither the ranker nor the pre-ranker made: nothing "
            "was scored.",
            f"fallback {decision.fallback}",
        )


def _as_recorded(decision: Decision) -> Gathered:
    require_all(decision)
    found = decision.candidates
    n = len(found)
    outcomes = [found.outcome(place) for place in range(n)]
    gathered = Gathered(
        found.item_ids(),
        [found.source(place) for place in range(n)],
        {place: reason for place, reason in enumerate(outcomes) if reason not in (SHOWN, NOT_SHOWN)},
        np.frombuffer(decision.inputs[ROWS], "<i4").astype(np.int32),
        found.feature_rows(),
        found.feature_ids,
    )
    for name, column in decision.inputs.items():
        if name.startswith(GROUP):
            gathered.groups[name.removeprefix(GROUP)] = np.frombuffer(column, "<i4").astype(np.int64)
        elif name.startswith(OF_GROUP):
            gathered.of_groups[name.removeprefix(OF_GROUP)] = np.frombuffer(column, "<f8").reshape(n, 2)
    if POSTERIORS in decision.inputs:
        gathered.posteriors = np.frombuffer(decision.inputs[POSTERIORS], "<f8").reshape(n, 2)
    if LINEAR in decision.inputs:
        gathered.linear = np.frombuffer(decision.inputs[LINEAR], "<f8").reshape(n, 2)
    if PREVIOUS in decision.inputs:
        gathered.previous = np.frombuffer(decision.inputs[PREVIOUS], "<i4").astype(np.int64)
    return gathered


def _fallen_back(decision: Decision, recorded: Gathered) -> Slate:
    scores = decision.candidates.score_column().tolist()
    to = [
        RankedItem(item_id, round(score, 6), source)
        for item_id, score, source in zip(recorded.item_ids, scores, recorded.sources)
    ]
    return fall_back(to, recorded.removed, decision.k)


def _finished(
    decision: Decision, gathered: Gathered, ranker: Ranker, world: World, encode_history: EncodeHistory
) -> Slate:
    return finish(
        gathered,
        decode(decision.state),
        ranker,
        world,
        encode_history,
        surface=decision.surface,
        k=decision.k,
        now_ms=decision.now_ms,
        stop=None,
        stages=Stages(begin_by=_TOO_LATE if decision.ranker == PRE_RANKER else _IN_TIME),
    )


def _compared(decision: Decision, slate: Slate) -> Replayed:
    considered = slate.considered
    was, now = decision.candidates.score_column(), considered.scores
    ids = decision.candidates.item_ids()
    differences = []
    scored = ~(np.isnan(was) & np.isnan(now))
    gaps = np.abs(was.astype(np.float64) - now)[scored]
    gap = float(np.nan_to_num(gaps, nan=np.inf).max()) if len(gaps) else 0.0
    apart = np.flatnonzero(scored & (was != now)).tolist()
    before = decision.places.candidate_column().tolist()
    after = considered.filled.candidates
    for place, (one, other) in enumerate(zip(before, after), start=1):
        if one != other:
            differences.append(f"place {place} had {ids[one]}, and replay gives {ids[other]}")
            break
    if len(before) != len(after):
        differences.append(f"the list had {len(before)} items, and replay gives {len(after)}")
    if apart:
        first = apart[0]
        differences.append(
            f"{len(apart)} of {len(ids)} scores differ, by {gap:.2g} at most; the first is that of {ids[first]}: "
            f"{was[first]:.9g}, and replay gives {now[first]:.9g}"
        )
    chances = decision.places.propensity_column()
    for place, (had, has) in enumerate(zip(chances.tolist(), considered.filled.propensities), start=1):
        if had != has and not (np.isnan(had) and np.isnan(has)):
            differences.append(f"the propensity of place {place} was {had:.9g}, and replay gives {has:.9g}")
            break
    list_id = list_id_of(decision.key, decision.surface, decision.state_epoch, decision.list_no, slate.items)
    if not differences and list_id != decision.list_id:
        differences.append(f"the list_id was {decision.list_id}, and replay gives {list_id}")
    return Replayed(list_id, differences, gap, before == after, slate)
