"""Logged lists are made again bit for bit by the real ranker; what does not fit is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from models.bundle import Bundle
from models.featurise import ITEM_COUNTERS
from models.replaying import Bundles, Summary
from models.runtime import runtime
from models.samples import EDGES, NOW_MS, sample_states
from models.store import LoadedBundle
from schemas.decision import Decision, Described, decode_decision, encode_decision, pack_places
from schemas.items import Item
from schemas.policy import (
    DEFAULT,
    Beliefs,
    Bought,
    Cap,
    Dpp,
    Explore,
    Following,
    Mmr,
    OutOfStock,
    Pinned,
    Policy,
    Sponsored,
    Stability,
)
from schemas.ranking import Challenger, RankedItem, RankedList, RankTask, Receipt
from schemas.user_state import UserState, encode
from tests.fakes import event
from tests.unit.test_models_towers import written
from udfs.logic.decisions import Asked, decision_record, draft_seed_of, drafted_record, list_id_of, seed_of
from udfs.logic.drafting import Ranking, drafted
from udfs.logic.drafting import alone as own
from udfs.logic.replay import CannotReplay, replay
from udfs.logic.sessions import Position, apply_event, freshness
from udfs.logic.slate import PRE_RANKER, Slate, World, fall_back, rank

FOLDER = str(Path(__file__).parents[1] / "fixtures" / "bundles")
EXPLORED = [Explore(places=[2], policy="thompson", floor=0.1), Explore(places=[5], policy="softmax")]
POLICIES = [
    DEFAULT,
    Policy(version="caps", rules=(OutOfStock(), Cap(by="category", most=3), Cap(by="sponsored", most=1, within=5))),
    Policy(version="mmr", diversity=Mmr(relevance=0.7), slots=list(EXPLORED)),
    Policy(version="dpp", diversity=Dpp(relevance=2.0), rules=(Bought(days=9),), stability=Stability(top=6, moves=2)),
    Policy(version="groups", diversity=Mmr(relevance=0.5, by="subcategory"), slots=[Sponsored(places=[3]), *EXPLORED]),
    Policy(version="linear", slots=[Explore(places=[1, 4], policy="linucb", floor=0.3)], beliefs=Beliefs()),
    Policy(
        version="arms",
        diversity=Mmr(relevance=0.7),
        slots=[
            Explore(places=[2], policy="thompson", arms="category"),
            Explore(places=[4], policy="ucb", arms="subcategory", floor=0.2),
        ],
        beliefs=Beliefs(),
    ),
    Policy(version="follow", diversity=Mmr(relevance=0.7), slots=[Following(places=[1, 3], items=1), *EXPLORED]),
    Policy(version="pinned", slots=[Pinned(place=1, item="unheard-of"), *EXPLORED]),
]


@pytest.fixture(scope="module")
def bundles() -> Bundles:
    return Bundles(FOLDER)


class Moving:
    """Item features that are never the same again: a replay must not look."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng

    def take(self, rows: Any) -> Any:
        return self._rng.random((len(rows), len(ITEM_COUNTERS))).astype(np.float32)


def made(
    bundle: LoadedBundle,
    state: UserState,
    policy: Policy,
    number: int,
    requested: list[str] | None,
    begin_by: float = float("inf"),
) -> Decision:
    """A list as the operator makes it, and its record as it comes off the topic."""
    rng = np.random.default_rng(number)
    items = [one for one in bundle.item_ids if not one.startswith("<")]
    catalogue = {
        one: Item(item_id=one, category=f"c{n % 3}", subcategory=f"s{n % 5}", sponsored=n % 4 == 0)
        for n, one in enumerate([*items, "unheard-of"])
    }
    key = f"u:{number}"
    bundle.item_features = Moving(rng)  # type: ignore[assignment]
    world = World(
        unavailable=set(rng.choice(items, 3).tolist()),
        catalogue=catalogue,
        policy=policy,
        exposures=lambda ids: rng.poisson((3.0, 40.0), (len(ids), 2)).astype(np.float64),
        linear=lambda ids: rng.random((len(ids), 2)),
        of_groups=lambda by, names: np.array([(len(by), hash_of(name)) for name in names], np.float64),
        previous=rng.permutation(items).tolist(),
        seed=seed_of(key, "home", 1, number, policy.version),
    )
    encoder = bundle.history_encoder(key, NOW_MS, None)
    slate = rank(
        state, bundle, world, encoder, surface="home", k=6, limit=40, now_ms=NOW_MS, stop=None, requested=requested,
        begin_by=begin_by,
    )  # fmt: skip
    ranker = PRE_RANKER if slate.by_light else bundle.name
    receipt = Receipt(freshness(state), bundle.version, ranker, policy.version, {}, {}, {}, {})
    list_id = list_id_of(key, "home", 1, number, slate.items)
    fallback = "model_late" if slate.by_light else None
    ranked = RankedList(list_id, key, "home", 1, number, NOW_MS, slate.items, receipt, "click", fallback)
    task = RankTask(key, ["home"], 1, number, NOW_MS, "click", encode(state), None, NOW_MS)
    asked = Asked(6, 40, requested is not None)
    return decode_decision(encode_decision(decision_record(task, ranked, slate, asked, "here", 1.0)))


def hash_of(name: str | None) -> int:
    return sum(map(ord, name or ""))


def states(bundle: LoadedBundle, count: int) -> list[UserState]:
    return list(sample_states(bundle._vocabulary, len(EDGES) + count, seed=8))


def record(bundles: Bundles, policy: Policy = DEFAULT, number: int = 3) -> Decision:
    bundle = loaded(bundles)
    return made(bundle, states(bundle, 6)[-1], policy, number, None)


def loaded(bundles: Bundles) -> LoadedBundle:
    class Named:
        bundle = "tiny-1"
        described: Described = {}

    return bundles.of(Named())  # type: ignore[arg-type]


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.version)
def test_every_logged_list_is_made_again_bit_for_bit(bundles: Bundles, policy: Policy) -> None:
    """Contract: from the record alone, with another process's caches; the list_id is a hash of items and scores."""
    bundle = loaded(bundles)
    asked = [*bundle.item_ids[-6:], "unheard-of"]
    fresh = Bundles(FOLDER)
    for number, state in enumerate(states(bundle, 20)):
        found = made(bundle, state, policy, number, asked if number % 3 == 0 else None)
        again = fresh.replay(found, policy)
        assert again.differences == []
        assert (again.list_id, again.gap, again.same_items) == (found.list_id, 0.0, True)


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.version)
def test_a_list_that_may_not_be_personal_is_made_again_too(bundles: Bundles, policy: Policy) -> None:
    state = UserState()
    apply_event(state, event("click", ts_ms=NOW_MS, props={"consent": {"personalise": False}}), Position(3, 0, NOW_MS))
    found = made(loaded(bundles), state, policy, 5, None)
    assert Bundles(FOLDER).replay(found, policy).identical
    assert bundles.task_scores(found) == {}


def test_a_thousand_lists_replay(bundles: Bundles) -> None:
    """Contract: draws, beliefs and caps included, one list after another by one process."""
    bundle, fresh = loaded(bundles), Bundles(FOLDER)
    several = states(bundle, 12)
    differ = [
        number
        for number in range(1_000)
        if not fresh.replay(
            made(bundle, several[number % len(several)], (policy := POLICIES[number % len(POLICIES)]), number, None),
            policy,
        ).identical
    ]
    assert differ == []


def test_the_first_difference_is_named(bundles: Bundles) -> None:
    found = record(bundles)
    order = found.places.candidate_column().tolist()
    swapped = pack_places([order[1], order[0], *order[2:]], ["exploit"] * len(order), np.ones(len(order)))
    ids = found.candidates.item_ids()
    again = bundles.replay(msgspec.structs.replace(found, places=swapped), DEFAULT)
    assert again.differences[0] == f"place 1 had {ids[order[1]]}, and replay gives {ids[order[0]]}"
    assert not again.same_items


def test_a_score_that_differs_is_named_with_its_gap(bundles: Bundles) -> None:
    found = record(bundles)
    scores = found.candidates.score_column().copy()
    first = int(found.places.candidate_column()[0])
    scores[first] += np.float32(0.5)
    candidates = msgspec.structs.replace(found.candidates, scores=scores.tobytes())
    again = bundles.replay(msgspec.structs.replace(found, candidates=candidates), DEFAULT)
    assert again.gap == pytest.approx(0.5, abs=1e-5)
    assert again.same_items
    assert f"the first is that of {found.shown()[0]}" in again.differences[0]


def test_another_seed_draws_another_list(bundles: Bundles) -> None:
    policy = Policy(version="drawn", slots=[Explore(places=list(range(1, 9)), policy="softmax", temperature=50.0)])
    found = record(bundles, policy)
    assert not bundles.replay(msgspec.structs.replace(found, seed=found.seed ^ 1), policy).identical


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.version)
def test_a_list_of_the_pre_ranker_is_made_again_by_the_pre_ranker(policy: Policy, tmp_path: Path) -> None:
    """Contract: who came too late for the ranker replays like everybody else, and is not scored by it now."""
    bundle = LoadedBundle(Bundle.load(written(tmp_path) / "tiny-2"), 1 << 20, None)
    bundles = Bundles(str(tmp_path))
    for number, state in enumerate(states(bundle, 5)):
        found = made(bundle, state, policy, number, None, begin_by=0.0)
        assert (found.fallback, found.ranker, found.complete) == ("model_late", PRE_RANKER, True)
        assert bundles.replay(found, policy).differences == []
        assert bundles.task_scores(found) == {}


def test_what_was_followed_is_on_the_record(bundles: Bundles) -> None:
    """Contract: a replay asks neither the session nor the catalogue what was followed then."""
    bundle = loaded(bundles)
    policy = next(one for one in POLICIES if one.following is not None)
    state = UserState()
    clicked = [one for one in bundle.item_ids if not one.startswith("<")][3]
    apply_event(state, event("click", clicked, ts_ms=NOW_MS), Position(3, 0, NOW_MS))
    found = made(bundle, state, policy, 7, None)
    assert [found.places.slot(place) for place in (0, 2)] == ["follow", "follow"]
    assert found.places.propensity_column()[[0, 2]].tolist() == [1.0, 1.0]
    assert Bundles(FOLDER).replay(found, policy).identical


def test_items_that_came_after_the_bundle_are_what_the_catalogue_said_then(bundles: Bundles) -> None:
    """Contract: in session and history alike, whatever the catalogue says by the time of the replay; and the cached history follows
    the catalogue too."""
    groups: Described = {}
    data = loaded(bundles)._vocabulary.data
    bundle = LoadedBundle(Bundle.load(Path(FOLDER) / "tiny-1"), 1 << 20, lambda item_id: groups.get(item_id))
    state = UserState()
    for number, item_id in enumerate(["later-1", "later-2", "later-1", bundle.item_ids[-1]]):
        at_ms = NOW_MS - (5 - number) * 3_600_000
        apply_event(state, event("click", item_id, event_id=f"e{number}", ts_ms=at_ms), Position(0, number, at_ms))
    said = []
    for subcategory in data.subcategories[:2]:
        groups |= dict.fromkeys(("later-1", "later-2"), (subcategory, None))
        found = made(bundle, state, DEFAULT, 1, None)
        assert found.described == groups
        assert Bundles(FOLDER).replay(found, DEFAULT).differences == []
        said.append(found.candidates.scores)
    assert said[0] != said[1]


def fallback(bundles: Bundles) -> Decision:
    """The record of a list that was neither ranked nor pre-ranked."""
    found = record(bundles)
    scores = np.random.default_rng(4).normal(0, 40, 9).astype(np.float32).tolist()
    to = [RankedItem(f"item-{n}", round(score, 6), "popular") for n, score in enumerate(scores)]
    slate = fall_back(to, {1: "out_of_stock", 2: "hidden"}, 6)
    receipt = Receipt(freshness(UserState()), "tiny-1", "fake", "1", {}, {}, {}, {})
    list_id = list_id_of("u:3", "home", 1, 3, slate.items)
    ranked = RankedList(list_id, "u:3", "home", 1, 3, NOW_MS, slate.items, receipt, "click", "model_busy")
    task = RankTask("u:3", ["home"], 1, 3, NOW_MS, "click", found.state, None, NOW_MS)
    return decode_decision(encode_decision(decision_record(task, ranked, slate, Asked(6, 40, False), "here", 1.0)))


def test_a_fallback_is_made_again_from_what_it_fell_back_to(bundles: Bundles) -> None:
    found = fallback(bundles)
    assert bundles.replay(found, DEFAULT).differences == []
    other = pack_places([8, *found.places.candidate_column().tolist()[1:]], ["fallback"] * 6, np.full(6, np.nan))
    again = bundles.replay(msgspec.structs.replace(found, places=other), DEFAULT)
    assert again.differences == ["place 1 had item-8, and replay gives item-0"]


def test_what_another_policy_makes_of_a_fallback_is_not_known(bundles: Bundles) -> None:
    with pytest.raises(CannotReplay, match="nothing was scored") as raised:
        bundles.with_policy(fallback(bundles), World())
    assert raised.value.reason == "fallback model_busy"


def test_a_record_of_what_was_shown_only_cannot_be_replayed(bundles: Bundles) -> None:
    with pytest.raises(CannotReplay, match="only the items shown are recorded"):
        bundles.replay(msgspec.structs.replace(record(bundles), complete=False), DEFAULT)


def test_a_policy_that_is_not_published_is_named(bundles: Bundles) -> None:
    with pytest.raises(CannotReplay, match=r"Policy mmr of list .* publish its file again"):
        bundles.judged(record(bundles, POLICIES[2]), {})


def test_a_bundle_that_is_gone_is_named(bundles: Bundles) -> None:
    gone = msgspec.structs.replace(record(bundles), bundle="gone-1")
    with pytest.raises(CannotReplay) as raised:
        bundles.judged(gone, {"1": DEFAULT})
    assert raised.value.reason == "bundle gone-1 cannot be loaded"


@pytest.mark.parametrize(
    ("gap", "runtime_", "verdict"),
    [(0.0, "there", "identical"), (5e-6, "there", "close"), (5e-6, None, "different"), (1.0, "there", "different")],
)
def test_scores_may_differ_a_little_on_another_runtime_only(
    bundles: Bundles, gap: float, runtime_: str | None, verdict: str
) -> None:
    found = record(bundles)
    scores = found.candidates.score_column().copy()
    scores[int(found.places.candidate_column()[0])] += np.float32(gap)
    changed = msgspec.structs.replace(
        found,
        candidates=msgspec.structs.replace(found.candidates, scores=scores.tobytes()),
        runtime=runtime_ or runtime(),
    )
    assert bundles.judged(changed, {"1": DEFAULT}).verdict == verdict


def test_a_summary_counts_what_was_tried(bundles: Bundles) -> None:
    summary, policies = Summary(), {one.version: one for one in POLICIES}
    for number, policy in enumerate(POLICIES):
        one = record(bundles, policy, number)
        summary.add(one, bundles.judged(one, policies))
    summary.leave_out("model_busy")
    assert (summary.lists, summary.identical, summary.different, summary.listed) == (10, 9, 0, [])
    assert summary.scored == 9
    assert summary.not_replayed == {"model_busy": 1}
    assert set(summary.policies) == set(policies)
    assert summary.slots["explore"] == 6


def test_another_policy_on_the_same_candidates_is_what_it_would_have_made(bundles: Bundles) -> None:
    """Contract: with its own policy, and the catalogue as it was, nothing changes; another one is asked its own rules."""
    bundle = loaded(bundles)
    found = record(bundles)
    gone = {
        one
        for place, one in enumerate(found.candidates.item_ids())
        if found.candidates.outcome(place) == "out_of_stock"
    }
    same = bundles.with_policy(found, World(unavailable=gone, seed=found.seed))
    assert [item.item_id for item in same.items] == found.shown()
    everything = Policy(version="all", rules=())
    other = bundles.with_policy(found, World(unavailable=gone, policy=everything, seed=found.seed))
    assert not [name for name in other.counts if name.startswith("removed_")]
    assert replay(found, bundle, DEFAULT, bundle.history_encoder("u:x", NOW_MS, None)).identical


# ── drafted lists ────────────────────────────────────────────────────────────────────────────────────────────────────


def made_of_two(bundle: LoadedBundle, state: UserState, policies: tuple[Policy, Policy], number: int) -> Decision:
    """A list drafted of two policies' rankings, as the operator makes it, and its record as it comes off the topic."""
    alone, slates = [made(bundle, state, policy, number, None) for policy in policies], []
    for one, policy in zip(alone, policies):
        world = World(policy=policy, seed=one.seed)
        slates.append(finished(one, bundle, world))
    key, challenger = f"u:{number}", Challenger("duel", "control", "new", None, None)
    rankings = [Ranking(bundle, policy.version, {}, slate) for policy, slate in zip(policies, slates)]
    seed = draft_seed_of(key, "home", 1, number, "duel")
    found = drafted(rankings[0], rankings[1], challenger, 6, seed)
    receipt = Receipt(
        freshness(state), bundle.version, bundle.name, policies[0].version, {}, {}, {}, {}, draft=found.draft
    )
    list_id = list_id_of(key, "home", 1, number, found.slate.items)
    ranked = RankedList(list_id, key, "home", 1, number, NOW_MS, found.slate.items, receipt, "click")
    task = RankTask(key, ["home"], 1, number, NOW_MS, "click", encode(state), None, NOW_MS)
    parts = [own(ranked, one) for one in found.rankings]
    return decode_decision(encode_decision(drafted_record(task, ranked, parts, Asked(6, 40, False), "here", 1.0)))


def finished(decision: Decision, bundle: LoadedBundle, world: World) -> Slate:
    return replay(decision, bundle, world.policy, bundle.history_encoder(decision.key, NOW_MS, None)).slate


def test_drafted_lists_are_made_again_bit_for_bit(bundles: Bundles) -> None:
    """Contract: both rankings, and the draft of them."""
    bundle, fresh = loaded(bundles), Bundles(FOLDER)
    for number, state in enumerate(states(bundle, 20)):
        pair = (POLICIES[number % len(POLICIES)], POLICIES[(number + 2) % len(POLICIES)])
        found = made_of_two(bundle, state, pair, number)
        again = fresh.replay_any(found, {policy.version: policy for policy in pair})
        assert (again.differences, again.list_id, again.same_items) == ([], found.list_id, True)
        assert np.isnan(found.places.propensity_column()).all()


def test_a_difference_of_a_draft_says_whose_it_is(bundles: Bundles) -> None:
    bundle = loaded(bundles)
    pair = (POLICIES[0], POLICIES[2])
    found = made_of_two(bundle, states(bundle, 6)[-1], pair, 3)
    named = {policy.version: policy for policy in pair}
    assert found.draft is not None
    said = []
    for coin in range(10):  # some of which toss as it was tossed
        other_coin = msgspec.structs.replace(found, draft=msgspec.structs.replace(found.draft, seed=coin))
        said += bundles.replay_any(other_coin, named).differences
    assert said and all(line.startswith("the draft of the two is another: place ") for line in said)
    later = found.draft.rankings[0], encode_decision(msgspec.structs.replace(found.rankings()[1], seed=1))
    redrawn = msgspec.structs.replace(found, draft=msgspec.structs.replace(found.draft, rankings=list(later)))
    assert bundles.replay_any(redrawn, named).differences[0].startswith("of new: ")


def test_another_policy_cannot_be_tried_on_a_drafted_list(bundles: Bundles) -> None:
    bundle = loaded(bundles)
    found = made_of_two(bundle, states(bundle, 6)[-1], (POLICIES[0], POLICIES[2]), 3)
    with pytest.raises(CannotReplay, match="was drafted of two rankers, for the experiment duel"):
        bundles.with_policy(found, World())
