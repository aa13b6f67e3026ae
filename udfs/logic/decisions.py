"""Decisions: the record of how a list was made, from what the ranking went through."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

from schemas.decision import (
    GROUP,
    LINEAR,
    OF_GROUP,
    POSTERIORS,
    PREVIOUS,
    ROWS,
    SHOWN,
    Decision,
    pack_candidates,
    pack_places,
)
from schemas.keys import id_hash
from schemas.ranking import RankedItem, RankedList, RankTask, encode_json
from udfs.logic.slate import Considered, Gathered, Slate
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
