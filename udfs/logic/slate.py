"""Slate: the order of the stages that turn a user's state into a ranked list.

    candidates (the caller's, else retrieved) ─ filters ─ history encoding (cached) ─ scores ─ top k

Each stage's time and what each filter removed go into the receipt; what became of each candidate, into the decision record.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Container
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from schemas.decision import EXPLOIT, NOT_SHOWN, SHOWN
from schemas.ranking import Contribution, RankedItem
from schemas.user_state import ACTIONS, QUERY_MARK, TARGET_MARK, UserState, action_name

CALLER = "caller"
SHOWN_LIMIT = 8
_ACTED = frozenset(ACTIONS[name] for name in ("click", "view", "add_to_cart", "purchase"))
_BOUGHT = frozenset([ACTIONS["purchase"]])
_HIDDEN = frozenset([ACTIONS["hide"]])

Rows = npt.NDArray[np.int32]
Scores = npt.NDArray[np.float32]


class Ranker(Protocol):
    """What a bundle offers to the slate."""

    version: str
    name: str
    item_ids: list[str]  # by row
    seen_hashes: npt.NDArray[np.uint32]  # schemas.user_state.seen_hash of each row's id

    def rows(self, item_ids: list[str]) -> Rows:
        """Rows of the ids; an unknown id gets the row that stands in for it (subcategory, category, global)."""

    def is_item(self, row: int) -> bool:
        """Whether the row is an item of its own, not a stand-in."""

    def retrieve(self, state: UserState, limit: int) -> tuple[Rows, list[str]]:
        """At most `limit` distinct candidates, and where each came from."""

    def score(self, state: UserState, history: Any, rows: Rows, now_ms: int, surface: str, stop: Any) -> Scores:
        """One finite score a row, higher is better."""


class ItemFeatures(NamedTuple):
    """What is served of candidates beside what the bundle knows: `fetch` answers (C, len(ids)) as of `now_ms`."""

    ids: list[str]  # name@version of the registry
    fetch: Callable[[list[str], int], Scores]


NO_FEATURES = ItemFeatures([], lambda item_ids, _now_ms: np.zeros((len(item_ids), 0), np.float32))


@dataclass
class Considered:
    """All candidates of a list as columns, and which of them became its places: what the decision record holds."""

    item_ids: list[str]
    sources: list[str]
    outcomes: list[str]
    scores: Scores  # (n,), NaN where none was asked for
    features: Scores  # (n, features), NaN rows likewise
    feature_ids: list[str]
    shown: list[int]  # places among the candidates, best first
    slots: list[str]  # of each place of the list
    propensities: npt.NDArray[np.float64]  # of each place of the list, NaN where unknown


@dataclass
class Slate:
    """A ranked list before it is numbered and stamped."""

    items: list[RankedItem]
    counts: dict[str, int]
    stage_ms: dict[str, float]
    cold_start: str | None = None
    considered: Considered | None = None  # None for a list that the ranker did not make


@dataclass
class _Stages:
    """Stop-watch: `done` names the stage that has just ended."""

    started: float = field(default_factory=time.perf_counter)
    stage_ms: dict[str, float] = field(default_factory=dict)

    def done(self, stage: str) -> None:
        now = time.perf_counter()
        self.stage_ms[stage] = round((now - self.started) * 1000, 3)
        self.started = now


def rank(
    state: UserState,
    ranker: Ranker,
    unavailable: Container[str],
    encode_history: Callable[[UserState], Any],
    *,
    surface: str,
    k: int,
    limit: int,
    now_ms: int,
    stop: Any,
    requested: list[str] | None = None,
    features: ItemFeatures = NO_FEATURES,
) -> Slate:
    """Rank one surface. `requested` are the caller's candidates; without them at most `limit` are retrieved."""
    stages = _Stages()
    if requested is None:
        rows, sources = ranker.retrieve(state, limit)
        item_ids = [ranker.item_ids[row] for row in rows]
        removed = _removed(state, item_ids, ranker.seen_hashes[rows], unavailable)
    else:
        item_ids = list(dict.fromkeys(requested))
        rows, sources = ranker.rows(item_ids), [CALLER] * len(item_ids)
        removed = _removed(state, item_ids, None, unavailable)
    counts: dict[str, int] = {}
    for source in sources:
        counts[source] = counts.get(source, 0) + 1
    for reason in removed.values():
        counts[f"removed_{reason}"] = counts.get(f"removed_{reason}", 0) + 1
    keep = [place for place in range(len(item_ids)) if place not in removed]
    considered = _considered(item_ids, sources, removed, features.ids)
    if keep:
        considered.features[keep] = features.fetch([item_ids[place] for place in keep], now_ms)
    stages.done("candidates")
    if not keep:
        return Slate([], counts, stages.stage_ms, considered=considered)
    history = encode_history(state)
    stages.done("encode")
    scores = ranker.score(state, history, rows[keep], now_ms, surface, stop)
    considered.scores[keep] = scores
    stages.done("score")
    considered.shown = [keep[place] for place in top(scores, k)]
    items = []
    for place in considered.shown:
        items.append(RankedItem(item_ids[place], round(float(considered.scores[place]), 6), sources[place]))
        considered.outcomes[place] = SHOWN
    considered.slots = [EXPLOIT] * len(items)
    considered.propensities = np.ones(len(items))
    stages.done("select")
    return Slate(items, counts, stages.stage_ms, _cold_start(state, ranker, rows[keep]), considered)


def _considered(item_ids: list[str], sources: list[str], removed: dict[int, str], feature_ids: list[str]) -> Considered:
    """Before anything is scored or shown."""
    count = len(item_ids)
    outcomes = [NOT_SHOWN] * count
    for place, reason in removed.items():
        outcomes[place] = reason
    scores = np.full(count, np.nan, np.float32)
    features = np.full((count, len(feature_ids)), np.nan, np.float32)
    return Considered(item_ids, sources, outcomes, scores, features, feature_ids, [], [], np.zeros(0))


def top(scores: Scores, k: int) -> list[int]:
    """Places of the k highest scores, best first; equal scores in order of place, so that a replay agrees."""
    order: list[int] = np.argsort(-scores, kind="stable")[:k].tolist()
    return order


def explain(
    state: UserState, ranker: Ranker, history: Any, items: list[RankedItem], now_ms: int, surface: str, stop: Any
) -> list[RankedItem]:
    """For each item, how each action of the session moved its score: the score with it less the score without it."""
    rows = ranker.rows([item.item_id for item in items])
    session = state.session()
    base = ranker.score(state, history, rows, now_ms, surface, stop)
    why: list[list[Contribution]] = [[] for _ in items]
    for place, (item_id, code, ts_ms) in enumerate(zip(*session)):
        without = ranker.score(_without(state, place), history, rows, now_ms, surface, stop)
        for found, with_it, without_it in zip(why, base, without):
            delta = round(float(with_it - without_it), 6)
            found.append(Contribution(action_name(code), item_id.lstrip(QUERY_MARK + TARGET_MARK), ts_ms, delta))
    return [
        RankedItem(item.item_id, item.score, item.source, sorted(found, key=lambda one: -abs(one.delta))[:5])
        for item, found in zip(items, why)
    ]


def _without(state: UserState, place: int) -> UserState:
    shorter = UserState()
    for name in UserState.__slots__:
        setattr(shorter, name, getattr(state, name))
    shorter.session_slots = state.session_slots[:place] + state.session_slots[place + 1 :]
    shorter.session_actions = state.session_actions[:place] + state.session_actions[place + 1 :]
    shorter.session_ts = state.session_ts[:place] + state.session_ts[place + 1 :]
    return shorter


def hidden(state: UserState) -> set[str]:
    """Items that the user does not want to see, as far back as the history goes."""
    return _acted_on(state, _HIDDEN, with_history=True)


def _removed(
    state: UserState, item_ids: list[str], seen_hashes: npt.NDArray[np.uint32] | None, unavailable: Container[str]
) -> dict[int, str]:
    """Places to leave out, and why. What the caller hands in (`seen_hashes` None) is not filtered by having been seen."""
    removed = {place: "out_of_stock" for place, item_id in enumerate(item_ids) if item_id in unavailable}
    if unwanted := hidden(state):
        removed |= {place: "hidden" for place, item_id in enumerate(item_ids) if item_id in unwanted}
    if seen_hashes is None:
        return removed
    bought = _acted_on(state, _BOUGHT, with_history=False)
    if bought:
        removed |= {place: "bought" for place, item_id in enumerate(item_ids) if item_id in bought}
    if len(state.seen) >= SHOWN_LIMIT:
        # Seen so often and never acted on: an item that was clicked may be wanted again, and the ranker knows it.
        hashes, times = np.unique(np.frombuffer(state.seen, np.uint32), return_counts=True)
        often = hashes[times >= SHOWN_LIMIT]
        if len(often):
            acted = _acted_on(state, _ACTED, with_history=True)
            places = np.nonzero(np.isin(seen_hashes, often))[0].tolist()
            removed |= {place: "seen" for place in places if item_ids[place] not in acted}
    return removed


def _acted_on(state: UserState, kinds: frozenset[int], *, with_history: bool) -> set[str]:
    ids = state.ids
    slots = {slot for slot, code in zip(state.session_slots, state.session_actions) if code & 15 in kinds}
    if with_history:
        slots |= {slot for slot, code in zip(state.history_slots, state.history_actions) if code & 15 in kinds}
    return {ids[slot].decode() for slot in slots}


def _cold_start(state: UserState, ranker: Ranker, rows: Rows) -> str | None:
    if not state.session_slots and not state.history_slots:
        return "new_user"
    return None if any(ranker.is_item(int(row)) for row in rows) else "new_item"
