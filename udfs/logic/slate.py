"""Slate: the order of the stages that turn a user's state into a ranked list.

    candidates (the caller's, else recalled and pre-ranked) and their features ─ rules
      └─ history encoding (cached) ─ scores ─ slots

`gather` is all that is looked up, `finish` computes on that alone: a decision record holds the one, and replay calls the other.
Who comes too late for the ranker has the pre-ranker's scores instead.
Each stage's time and what each rule removed go into the receipt; what became of each candidate, into the decision record.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from schemas.decision import EXPLOIT, FALLBACK, NOT_SHOWN, SHOWN, Described
from schemas.items import Item
from schemas.policy import DEFAULT, Explore, Pinned, Policy, Sponsored
from schemas.ranking import Contribution, RankedItem
from schemas.user_state import QUERY_MARK, TARGET_MARK, UserState, action_name, seen_hash
from udfs.logic.beliefs import Moment
from udfs.logic.consent import consent_of
from udfs.logic.diversity import likeness_of_groups, likeness_of_vectors
from udfs.logic.exploration import BetaTables
from udfs.logic.following import followed
from udfs.logic.rules import Question, removed
from udfs.logic.slots import FOLLOWED, NOWHERE, Filled, Pool, fill

CALLER, PINNED_SOURCE = "caller", "pinned"
PRE_RANKER = "pre_ranker"  # the receipt's `ranker` where the list has the pre-ranker's order
KNOWN_FROM = 5  # interactions: before, a user is found what is popular as well (models/recall.py)
NO_CONSENT = "no_consent"  # the level of a list that may not be personal: by popularity

_NEVER_SHOWN = np.array([[0.0, 1.0]])  # mean and width of LinUCB, where nothing is known of anything

Rows = npt.NDArray[np.int32]
Scores = npt.NDArray[np.float32]


class Ranker(Protocol):
    """What a bundle offers to the slate."""

    version: str
    name: str
    item_ids: list[str]  # by row
    feature_ids: list[str]  # name@version of the registry: what is served of items beside what the bundle knows
    seen_hashes: npt.NDArray[np.uint32]  # schemas.user_state.seen_hash of each row's id

    def rows(self, item_ids: list[str]) -> Rows:
        """Rows of the ids; an unknown id gets the row that stands in for it (subcategory, category, global)."""

    def level(self, row: int) -> str:
        """What the row is: an "item" of its own, or the "subcategory", "category" or "global" that stands in for one."""

    def described(self, state: UserState) -> Described:
        """What the catalogue says now of the items in the user's sequences that have no row."""

    def popularity(self, rows: Rows) -> Scores:
        """(n,) how popular each row is with everybody: what ranks where a list may not be personal."""

    def retrieve(
        self, state: UserState, limit: int, now_ms: int, done: Callable[[str], None], at: Moment | None = None
    ) -> Retrieved:
        """At most `limit` distinct candidates; `done` is told of each of its stages when it ends. `at` says where the user is; None
        where that may not count."""

    has_light: bool  # whether there is a pre-ranker

    def light(self, state: UserState, rows: Rows, now_ms: int) -> Scores:
        """One score a row by the pre-ranker: cheap, and without native code that may hang."""

    def features(self, rows: Rows) -> Scores:
        """(n, len(feature_ids)) as they are served now."""

    def vectors(self, rows: Rows) -> Scores:
        """(n, d) what diversity compares; no more than a row's direction counts."""

    def score(
        self,
        state: UserState,
        history: Any,
        rows: Rows,
        now_ms: int,
        surface: str,
        stop: Any,
        weights: Mapping[str, float] | None = None,
        features: Scores | None = None,
    ) -> Scores:
        """One finite score a row, higher is better; by these weights of the tasks, or by the bundle's own; by these features,
        or by those that are served now."""


@dataclass
class Retrieved:
    """Candidates as columns, and how many more the pre-ranker passed over."""

    item_ids: list[str]
    sources: list[str]
    rows: Rows
    seen_hashes: npt.NDArray[np.uint32]
    passed_over: int = 0


@dataclass
class World:
    """What is looked up of candidates beside the bundle, and what their places are filled by."""

    unavailable: Container[str] = frozenset()
    catalogue: Mapping[str, Item] = field(default_factory=dict)
    policy: Policy = DEFAULT
    exposures: Callable[[list[str]], npt.NDArray[np.float64]] | None = None  # (n, 2) clicks and misses by item id
    linear: Callable[[list[str]], npt.NDArray[np.float64]] | None = None  # (n, 2) what LinUCB expects: mean and width
    # (n, 2) clicks and misses of groups: by "category" or "subcategory", and the name of each candidate's
    of_groups: Callable[[str, list[str | None]], npt.NDArray[np.float64]] | None = None
    previous: list[str] | None = None  # the list before, where the user has done nothing since
    seed: int = 0
    tables: BetaTables = field(default_factory=BetaTables)
    at: Moment | None = None  # when the list is made, and where the user is


@dataclass
class Gathered:
    """All candidates as columns of n, before any is scored: what a ranking depends on beside the user's state."""

    item_ids: list[str]
    sources: list[str]
    removed: dict[int, str]  # place -> the rule that took it out
    rows: Rows
    features: Scores  # (n, feature_ids) as they were served
    feature_ids: list[str]
    passed_over: int = 0  # by the pre-ranker, and not among the n
    groups: dict[str, npt.NDArray[np.int64]] = field(default_factory=dict)  # capped, compared or followed; -1: in none
    posteriors: npt.NDArray[np.float64] | None = None  # (n, 2)
    of_groups: dict[str, npt.NDArray[np.float64]] = field(default_factory=dict)  # (n, 2) by what is grouped by
    linear: npt.NDArray[np.float64] | None = None  # (n, 2)
    previous: npt.NDArray[np.int64] | None = None  # place in the list before; -1: none


@dataclass
class Considered:
    """All candidates of a list and what became of them, and its places: what the decision record holds."""

    gathered: Gathered
    scores: Scores  # (n,), NaN where none was asked for
    outcomes: list[str]
    filled: Filled  # by places among the n
    described: Described = field(default_factory=dict)  # Ranker.described, of a list that is the user's own


@dataclass
class Slate:
    """A ranked list before it is numbered and stamped."""

    items: list[RankedItem]
    counts: dict[str, int]
    stage_ms: dict[str, float]
    considered: Considered
    cold_start: str | None = None
    levels: dict[str, int] = field(default_factory=dict)  # of the items: how many are scored as what (Ranker.level)
    by_light: bool = False  # the pre-ranker's scores


@dataclass
class Stages:
    """Stop-watch: `done` names the stage that has just ended. The ranker begins before `begin_by`, or not at all."""

    started: float = field(default_factory=time.perf_counter)
    stage_ms: dict[str, float] = field(default_factory=dict)
    begin_by: float = float("inf")  # of time.perf_counter

    def done(self, stage: str) -> None:
        now = time.perf_counter()
        self.stage_ms[stage] = round((now - self.started) * 1000, 3)
        self.started = now

    @property
    def late(self) -> bool:
        return self.started > self.begin_by


def rank(
    state: UserState,
    ranker: Ranker,
    world: World,
    encode_history: Callable[[UserState], Any],
    *,
    surface: str,
    k: int,
    limit: int,
    now_ms: int,
    stop: Any,
    requested: list[str] | None = None,
    begin_by: float = float("inf"),
) -> Slate:
    """Rank one surface. `requested` are the caller's candidates; without them at most `limit` are retrieved. Where the ranker
    cannot begin before `begin_by`, the pre-ranker's scores stand, if there is one."""
    stages = Stages(begin_by=begin_by)
    gathered = gather(state, ranker, world, limit, now_ms, requested, stages.done)
    stages.done("candidates")
    return finish(
        gathered, state, ranker, world, encode_history, surface=surface, k=k, now_ms=now_ms, stop=stop, stages=stages
    )


def gather(
    state: UserState,
    ranker: Ranker,
    world: World,
    limit: int,
    now_ms: int,
    requested: list[str] | None,
    done: Callable[[str], None] = lambda _stage: None,
) -> Gathered:
    """The candidates, what the rules take out, and what is known of the rest."""
    policy, passed_over = world.policy, 0
    if requested is None:
        own = ranker.retrieve(state, limit, now_ms, done, world.at if consent_of(state).personalise else None)
        item_ids, sources, rows, passed_over = own.item_ids, own.sources, own.rows, own.passed_over
        hashes: npt.NDArray[np.uint32] | None = own.seen_hashes
    else:
        item_ids = list(dict.fromkeys(requested))
        rows, sources, hashes = ranker.rows(item_ids), [CALLER] * len(item_ids), None
    mine = set(item_ids) if policy.slots else set()
    pinned = [slot.item for slot in policy.slots if isinstance(slot, Pinned) and slot.item not in mine]
    if pinned:
        item_ids, sources = [*item_ids, *pinned], [*sources, *[PINNED_SOURCE] * len(pinned)]
        rows = np.concatenate((rows, ranker.rows(pinned)))
        if hashes is not None:
            hashes = np.concatenate((hashes, np.array([seen_hash(one) for one in pinned], np.uint32)))
    found = Gathered(item_ids, sources, {}, rows, ranker.features(rows), ranker.feature_ids, passed_over)
    return look_up(state, world, found, hashes, now_ms)


def look_up(
    state: UserState, world: World, found: Gathered, hashes: npt.NDArray[np.uint32] | None, now_ms: int
) -> Gathered:
    """Everything that follows from the policy. `hashes` as Question.seen_hashes."""
    policy, item_ids, sources = world.policy, found.item_ids, found.sources
    # Where lists may not be personal, the state holds no actions: rules find none, and retrieval only what is popular.
    question = Question(state, item_ids, hashes, world.unavailable, world.catalogue, now_ms)
    found.removed = removed(policy, sources, question)
    believed = {slot.arms for slot in policy.slots if isinstance(slot, Explore) and slot.believes_of_groups}
    prior = np.array([policy.prior.clicks, policy.prior.misses])
    for name in sorted(_grouped_by(policy)):
        names = _groups(list(map(world.catalogue.get, item_ids)), name)
        found.groups[name] = _codes(names)
        if name in believed:
            nothing = np.zeros((len(names), 2))
            found.of_groups[name] = prior + (nothing if world.of_groups is None else world.of_groups(name, names))
    if policy.following is not None:
        group = followed(policy.following, state, world.catalogue)
        names = [None] * len(item_ids)  # mostly nothing is followed, and then no candidate need be looked up
        if group is not None:
            names = _groups(list(map(world.catalogue.get, item_ids)), policy.following.by)
        found.groups[FOLLOWED] = _codes([None if one != group else one for one in names])
    if _explores(policy):
        known = np.zeros((len(item_ids), 2)) if world.exposures is None else world.exposures(item_ids)
        found.posteriors = known + prior
    if _explores(policy, "linucb"):
        found.linear = _NEVER_SHOWN.repeat(len(item_ids), axis=0) if world.linear is None else world.linear(item_ids)
    if policy.stability is not None and world.previous is not None:
        before = {item_id: place for place, item_id in enumerate(world.previous)}
        found.previous = np.array([before.get(one, NOWHERE) for one in item_ids], np.int64)
    return found


def finish(
    gathered: Gathered,
    state: UserState,
    ranker: Ranker,
    world: World,
    encode_history: Callable[[UserState], Any],
    *,
    surface: str,
    k: int,
    now_ms: int,
    stop: Any,
    stages: Stages,
) -> Slate:
    """Score what the rules have left, and fill the places. Of `world` only policy, seed and tables count here."""
    personal = consent_of(state).personalise
    by_light = personal and stages.late and ranker.has_light
    item_ids, sources, counts = gathered.item_ids, gathered.sources, _counts(gathered)
    keep = _kept(gathered)
    scores = np.full(len(item_ids), np.nan, np.float32)
    outcomes = [NOT_SHOWN] * len(item_ids)
    for place, reason in gathered.removed.items():
        outcomes[place] = reason
    if not keep:
        return Slate([], counts, stages.stage_ms, Considered(gathered, scores, outcomes, Filled()))
    rows = gathered.rows[keep]
    described = ranker.described(state) if personal else {}
    if not personal:
        scores[keep] = ranker.popularity(rows)
    elif by_light:
        scores[keep] = ranker.light(state, rows, now_ms)
    else:
        history = encode_history(state)
        stages.done("encode")
        scores[keep] = ranker.score(
            state, history, rows, now_ms, surface, stop, world.policy.weights or None, gathered.features[keep]
        )
    stages.done("score")
    filled = _fill(gathered, keep, scores[keep], ranker, world, k)
    filled.candidates = [keep[place] for place in filled.candidates]
    items = []
    for place, score in zip(filled.candidates, scores[filled.candidates].tolist()):
        items.append(RankedItem(item_ids[place], round(score, 6), sources[place]))
        outcomes[place] = SHOWN
    if len(items) < min(k, len(keep)):
        counts["places_unfilled"] = min(k, len(keep)) - len(items)
    stages.done("select")
    considered = Considered(gathered, scores, outcomes, filled, described)
    levels = levels_of(ranker, gathered.rows[filled.candidates])
    return Slate(items, counts, stages.stage_ms, considered, _cold_start(state, levels), levels, by_light)


def levels_of(ranker: Ranker, rows: Rows) -> dict[str, int]:
    """How many of the rows are what."""
    levels: dict[str, int] = {}
    for row in rows.tolist():
        level = ranker.level(row)
        levels[level] = levels.get(level, 0) + 1
    return levels


def fall_back(to: list[RankedItem], removed: dict[int, str], k: int) -> Slate:
    """The first k of a list that was good before or is popular, without what the rules take out of it. Neither slots nor chances
    have a part in it: its propensities are unknown."""
    considered = _of_items(to, removed, k)
    keep = considered.filled.candidates
    return Slate([to[place] for place in keep], {"fallback": len(keep)}, {}, considered)


def as_shown(items: list[RankedItem]) -> Considered:
    """Of a list whose items were considered elsewhere: nothing but them."""
    return _of_items(items, {}, len(items))


def _of_items(items: list[RankedItem], removed: dict[int, str], k: int) -> Considered:
    gathered = Gathered(
        [item.item_id for item in items],
        [item.source for item in items],
        removed,
        np.zeros(len(items), np.int32),
        np.zeros((len(items), 0), np.float32),
        [],
    )
    keep = _kept(gathered)[:k]
    outcomes = [removed.get(place, NOT_SHOWN) for place in range(len(items))]
    for place in keep:
        outcomes[place] = SHOWN
    filled = Filled(keep, [FALLBACK] * len(keep), [float("nan")] * len(keep))
    scores = np.array([item.score for item in items], np.float32)
    return Considered(gathered, scores, outcomes, filled)


def _fill(gathered: Gathered, keep: list[int], scores: Scores, ranker: Ranker, world: World, k: int) -> Filled:
    policy = world.policy
    if not (policy.diversity or policy.slots or policy.caps or policy.stability):
        order = top(scores, k)
        return Filled(order, [EXPLOIT] * len(order), [1.0] * len(order))
    groups = {name: codes[keep] for name, codes in gathered.groups.items()}
    likeness = None
    if policy.diversity is not None and policy.diversity.by == "vector":
        likeness = likeness_of_vectors(ranker.vectors(gathered.rows[keep]))
    elif policy.diversity is not None:
        likeness = likeness_of_groups(groups["subcategory"])
    wanted = {slot.item: slot.place for slot in policy.slots if isinstance(slot, Pinned)}
    pinned = {
        wanted[gathered.item_ids[place]]: number
        for number, place in enumerate(keep)
        if gathered.item_ids[place] in wanted
    }
    pool = Pool(
        scores.astype(np.float64),
        groups,
        likeness,
        None if gathered.posteriors is None else gathered.posteriors[keep],
        None if gathered.linear is None else gathered.linear[keep],
        {name: values[keep] for name, values in gathered.of_groups.items()},
        pinned,
        None if gathered.previous is None else gathered.previous[keep],
    )
    return fill(policy, pool, k, world.seed, world.tables)


def _kept(gathered: Gathered) -> list[int]:
    gone = gathered.removed
    return [place for place in range(len(gathered.item_ids)) if place not in gone]


def _counts(gathered: Gathered) -> dict[str, int]:
    counts: dict[str, int] = {}
    for source in gathered.sources:
        counts[source] = counts.get(source, 0) + 1
    for reason in gathered.removed.values():
        counts[f"removed_{reason}"] = counts.get(f"removed_{reason}", 0) + 1
    if gathered.passed_over:
        counts["passed_over"] = gathered.passed_over
    return counts


def _grouped_by(policy: Policy) -> set[str]:
    """What a policy groups candidates by: only that is looked up."""
    names: set[str] = {cap.by for cap in policy.caps}
    if policy.diversity is not None and policy.diversity.by == "subcategory":
        names.add("subcategory")
    if any(isinstance(slot, Sponsored) for slot in policy.slots):
        names.add("sponsored")
    names |= {slot.arms for slot in policy.slots if isinstance(slot, Explore) and slot.arms != "item"}
    return names


def _groups(items: list[Item | None], name: str) -> list[str | None]:
    if name == "sponsored":
        return [name if item is not None and item.sponsored else None for item in items]
    of = attrgetter(name)
    return [None if item is None else of(item) for item in items]


def _codes(names: list[str | None]) -> npt.NDArray[np.int64]:
    """(n,) a number for each name, in order of first appearance; -1 for none."""
    numbers: dict[str, int] = {}
    return np.array([-1 if one is None else numbers.setdefault(one, len(numbers)) for one in names], np.int64)


def _explores(policy: Policy, by: str | None = None) -> bool:
    return any(isinstance(slot, Explore) and by in (None, slot.policy) for slot in policy.slots)


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


def user_level(state: UserState) -> str:
    """What a list could go by: the context alone ("new"), the first interactions as well ("few"), the user ("known")."""
    count = interactions(state)
    return "known" if count >= KNOWN_FROM else "few" if count else "new"


def interactions(state: UserState) -> int:
    """How many actions of the user are known, in session and history."""
    return len(state.session_slots) + len(state.history_slots)


def _cold_start(state: UserState, levels: Mapping[str, int]) -> str | None:
    if not consent_of(state).personalise:
        return NO_CONSENT
    if not interactions(state):
        return "new_user"
    return None if "item" in levels or not levels else "new_item"
