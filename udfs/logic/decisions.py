"""Decisions: the record of how a list was made, from what the ranking went through."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from schemas.decision import (
    DRAFT,
    GROUP,
    LINEAR,
    OF_GROUP,
    POSTERIORS,
    PREVIOUS,
    ROWS,
    SHOWN,
    Decision,
    DraftedOf,
    encode_decision,
    pack_candidates,
    pack_places,
)
from schemas.keys import id_hash
from schemas.ranking import RankedItem, RankedList, RankTask, encode_json
from udfs.logic.slate import Considered, Gathered, Slate, as_shown
from udfs.logic.slots import Filled

_SHARE_DIGITS = 8


class Asked(NamedTuple):
    """What the list was to be: of how many items, out of how many candidates at most, and whether those were the caller's."""

    k: int
    limit: int
    requested: bool


def decision_record(
    task: RankTask, ranked: RankedList, slate: Slate, asked: Asked, runtime: str, complete_share: float
) -> Decision:
    """`complete_share` of the lists keep every candidate, chosen by list_id; the others keep those shown."""
    considered = slate.considered
    complete = _in_share(ranked.list_id, complete_share)
    if not complete:
        considered = _only_shown(considered)
    gathered, filled = considered.gathered, considered.filled
    request, receipt = task.request, ranked.receipt
    return Decision(
        list_id=ranked.list_id,
        key=task.key,
        surface=ranked.surface,
        state_epoch=task.state_epoch,
        list_no=task.list_no,
        trigger=task.trigger,
        now_ms=task.now_ms,
        append_ms=task.append_ms,
        state=task.state,
        k=asked.k,
        limit=asked.limit,
        requested=asked.requested,
        request_id=request.request_id if request is not None else None,
        fallback=ranked.fallback,
        bundle=receipt.bundle,
        ranker=receipt.ranker,
        policy=receipt.policy,
        runtime=runtime,
        seed=seed_of(task.key, ranked.surface, task.state_epoch, task.list_no, receipt.policy),
        items_offsets=receipt.items_offsets,
        item_features_offsets=receipt.item_features_offsets,
        arms=receipt.arms,
        complete=complete,
        candidates=pack_candidates(
            gathered.item_ids,
            gathered.sources,
            considered.outcomes,
            considered.scores,
            gathered.feature_ids,
            gathered.features,
        ),
        places=pack_places(filled.candidates, filled.slots, filled.propensities),
        inputs=_inputs(gathered) if complete else {},
        described=considered.described if complete else {},
    )


def drafted_record(
    task: RankTask,
    ranked: RankedList,
    rankings: Sequence[tuple[RankedList, Slate]],
    asked: Asked,
    runtime: str,
    complete_share: float,
) -> Decision:
    """Of a list that two rankers filled in turns. `rankings` are what each would have shown, the control first. A place's
    probability, given those above but not who picked them, is not computed: it is unknown."""
    draft = ranked.receipt.draft
    assert draft is not None  # else there is nothing to be drafted
    whole = 1.0 if _in_share(ranked.list_id, complete_share) else 0.0
    records = []
    for one, slate in rankings:
        own = decision_record(task, one, slate, asked, runtime, whole)
        records.append(encode_decision(msgspec.structs.replace(own, key="", state=b"")))
    shown = Slate(ranked.items, {}, {}, as_shown(ranked.items))
    record = decision_record(task, ranked, shown, asked, runtime, 0.0)
    count = len(ranked.items)
    slots = [f"{DRAFT}{item.team}" for item in ranked.items]
    return msgspec.structs.replace(
        record,
        places=pack_places(list(range(count)), slots, [float("nan")] * count),
        draft=DraftedOf(
            draft.experiment,
            [team.arm for team in draft.teams],
            draft_seed_of(task.key, ranked.surface, task.state_epoch, task.list_no, draft.experiment),
            records,
        ),
    )


def draft_seed_of(key: str, surface: str, state_epoch: int, list_no: int, experiment: str) -> int:
    """From which the coin of a drafted list follows. No policy has such a version, so no draw is the coin's."""
    return seed_of(key, surface, state_epoch, list_no, f"{DRAFT}{experiment}")


def list_id_of(key: str, surface: str, state_epoch: int, list_no: int, items: list[RankedItem]) -> str:
    """The same for the same content under the same number, another for any other."""
    named = encode_json([key, surface, state_epoch, list_no, [(item.item_id, item.score) for item in items]])
    return hashlib.sha256(named).hexdigest()[:24]


def seed_of(key: str, surface: str, state_epoch: int, list_no: int, policy: str) -> int:
    """64 bits from which every draw of a list follows: the same list is drawn the same way again."""
    return id_hash(f"{key}\0{surface}\0{state_epoch}\0{list_no}\0{policy}")


def _in_share(list_id: str, share: float) -> bool:
    drawn = int(list_id[:_SHARE_DIGITS], 16) / 16.0**_SHARE_DIGITS
    return drawn < share


def _inputs(gathered: Gathered) -> dict[str, bytes]:
    """The columns that the places were filled by, and the rows that the bundle was asked for."""
    found = {ROWS: gathered.rows.astype("<i4").tobytes()}
    found |= {GROUP + name: codes.astype("<i4").tobytes() for name, codes in gathered.groups.items()}
    if gathered.posteriors is not None:
        found[POSTERIORS] = gathered.posteriors.astype("<f8").tobytes()
    found |= {OF_GROUP + name: values.astype("<f8").tobytes() for name, values in gathered.of_groups.items()}
    if gathered.linear is not None:
        found[LINEAR] = gathered.linear.astype("<f8").tobytes()
    if gathered.previous is not None:
        found[PREVIOUS] = gathered.previous.astype("<i4").tobytes()
    return found


def _only_shown(full: Considered) -> Considered:
    """The same list of which nothing else was considered."""
    shown, all_ = full.filled.candidates, full.gathered
    gathered = Gathered(
        [all_.item_ids[place] for place in shown],
        [all_.sources[place] for place in shown],
        {},
        all_.rows[shown],
        all_.features[shown],
        all_.feature_ids,
    )
    filled = Filled(list(range(len(shown))), full.filled.slots, full.filled.propensities)
    return Considered(gathered, full.scores[shown], [SHOWN] * len(shown), filled)
