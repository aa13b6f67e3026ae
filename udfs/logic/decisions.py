"""Decisions: the record of how a list was made, from what the ranking went through."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from schemas.decision import SHOWN, Decision, pack_candidates, pack_places
from schemas.keys import id_hash
from schemas.ranking import RankedList, RankTask
from udfs.logic.slate import Considered, Slate

FALLBACK = "fallback"  # the slot of a place that the ranker did not fill
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
    complete = considered is not None and _in_share(ranked.list_id, complete_share)
    if considered is None:
        considered = _of_fallback(ranked)
    elif not complete:
        considered = _only_shown(considered)
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
            considered.item_ids,
            considered.sources,
            considered.outcomes,
            considered.scores,
            considered.feature_ids,
            considered.features,
        ),
        places=pack_places(considered.shown, considered.slots, considered.propensities),
    )


def seed_of(key: str, surface: str, state_epoch: int, list_no: int, policy: str) -> int:
    """64 bits from which every draw of a list follows: the same list is drawn the same way again."""
    return id_hash(f"{key}\0{surface}\0{state_epoch}\0{list_no}\0{policy}")


def _in_share(list_id: str, share: float) -> bool:
    drawn = int(list_id[:_SHARE_DIGITS], 16) / 16.0**_SHARE_DIGITS
    return drawn < share


def _only_shown(full: Considered) -> Considered:
    shown = full.shown
    return Considered(
        [full.item_ids[place] for place in shown],
        [full.sources[place] for place in shown],
        [SHOWN] * len(shown),
        full.scores[shown],
        full.features[shown],
        full.feature_ids,
        list(range(len(shown))),
        full.slots,
        full.propensities,
    )


def _of_fallback(ranked: RankedList) -> Considered:
    """What the list says, and no more: neither the slots' policy nor its chances had a part in it."""
    items = ranked.items
    return Considered(
        [item.item_id for item in items],
        [item.source for item in items],
        [SHOWN] * len(items),
        np.array([item.score for item in items], np.float32),
        np.zeros((len(items), 0), np.float32),
        [],
        list(range(len(items))),
        [FALLBACK] * len(items),
        np.full(len(items), np.nan),
    )
