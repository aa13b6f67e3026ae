"""RankCandidates on fakes: order, skipping, fallbacks, what is written and what is emitted. No JVM, no Redis, no Kafka."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import msgspec
import numpy as np
import pytest

from schemas import topics
from schemas.connections import Connections
from schemas.decision import Decision, decode_decision
from schemas.event import Context
from schemas.items import Item
from schemas.policy import DEFAULT, Beliefs, Blocked, Explore, Policy, Stability
from schemas.ranking import (
    Challenger,
    Draft,
    RankedList,
    RankRequest,
    RankResponse,
    RankTask,
    SessionFeatures,
    Stamped,
    Team,
    decode_features,
    decode_list,
    decode_response,
    encode_task,
)
from schemas.redis_layout import version
from schemas.user_state import UserState, encode
from tests.fakes import NOW, FakeBundle, FakeBundleStore, FakeRunOptions, FakeRuntimeContext, event
from udfs import rank_candidates
from udfs.breaker import Breaker
from udfs.logic.beliefs import Moment
from udfs.logic.sessions import Position, apply_event, freshness
from udfs.rank_candidates import RankCandidates, RankSettings
from udfs.redis_writer import Owed
from udfs.runner import Runner

PLENTY_S = 20.0


class FakeReplica:
    def __init__(self) -> None:
        self.changed: Callable[[list[str]], None] = lambda _item_ids: None
        self.unavailable: set[str] = set()
        self.items: dict[str, Any] = {}
        self.offsets = {0: 41}
        self.running = False
        self.rejected = 0
        self.ready = threading.Event()
        self.ready.set()

    def start(self) -> None:
        self.running = True

    def stop(self) -> None:
        self.running = False

    def groups_of(self, item_id: str) -> None:
        return None


class FakeFeatures(FakeReplica):
    """A copy of item-features of which the ranker only asks how it is."""

    def __init__(self) -> None:
        super().__init__()
        self.offsets = {2: 7}

    def exposures(self, item_ids: list[str]) -> Any:
        return np.zeros((len(item_ids), 2))

    def __len__(self) -> int:
        return 5

    def age_ms(self, now_ms: int) -> int:
        return 6


class FakeBeliefs(FakeReplica):
    """Beliefs that are sure of one item, and remember what they were asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[Any] = []

    def __len__(self) -> int:
        return 0

    def exposures(self, surface: str, segment: str | None, at: Any, item_ids: list[str]) -> Any:
        return self.linear(surface, segment, at, item_ids)

    def items_changed(self, item_ids: list[str]) -> None:
        self.changed = item_ids

    def of_groups(self, surface: str, segment: str | None, at: Any, by: str, names: list[str | None]) -> Any:
        self.asked.append((surface, segment, by))
        return np.array([[900.0 * (name == "hats"), 0.0] for name in names])

    def linear(self, surface: str, how: Any, at: Any, item_ids: list[str]) -> Any:
        self.asked.append((surface, how, at))
        return np.array([[900.0 * (item_id == "item-7"), 0.0] for item_id in item_ids])


class FakeLists(FakeReplica):
    """A copy of top-lists of which the ranker only asks how it is."""

    def __init__(self) -> None:
        super().__init__()
        self.lists: dict[str, Any] = {"all|": None}

    def __len__(self) -> int:
        return len(self.lists)


class FakePolicies(FakeReplica):
    """Policies by surface, and by version."""

    def __init__(self) -> None:
        super().__init__()
        self.in_force: dict[str, Policy] = {}
        self.known: dict[str, Policy] = {}
        self.taken_up = self.missed = 0

    def __len__(self) -> int:
        return len(self.in_force)

    def of(self, surface: str, version: str | None = None) -> Policy:
        return self.known[version] if version is not None else self.in_force.get(surface, DEFAULT)


class FakeRedis:
    """Keeps what is written, in order; `down` makes it answer as the writer does when Redis is away."""

    def __init__(self) -> None:
        self.writes: list[tuple[list[str], list[Any]]] = []
        self.popular: list[str] = []
        self.owed, self.repaid = Owed(), 0
        self.down, self.nodes_down = False, 0
        self.before_write: Callable[[], Awaitable[None]] | None = None

    async def write(self, keys: list[str], args: list[Any]) -> bool:
        if self.before_write is not None:
            await self.before_write()
        if not self.down:
            self.writes.append((keys, args))
        return not self.down

    async def set_popular(self, key: str, body: bytes) -> None:
        self.popular.append(key)


class Harness:
    """The operator, opened, with fakes for everything around it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> None:
        self.bundle = FakeBundle()
        self.store = FakeBundleStore(self.bundle, FakeBundle("b2"))
        self.replica, self.redis, self.runtime = FakeReplica(), FakeRedis(), FakeRuntimeContext()
        monkeypatch.setattr(rank_candidates, "BundleStore", lambda *_, **__: self.store)
        monkeypatch.setattr(rank_candidates, "ItemsReplica", lambda *_: self.replica)
        self.features = FakeFeatures()
        monkeypatch.setattr(rank_candidates, "ItemFeaturesReplica", lambda *_: self.features)
        self.policies = FakePolicies()
        monkeypatch.setattr(rank_candidates, "PoliciesReplica", lambda *_: self.policies)
        self.beliefs = FakeBeliefs()
        monkeypatch.setattr(rank_candidates, "BeliefsReplica", lambda *_: self.beliefs)
        self.lists = FakeLists()
        monkeypatch.setattr(rank_candidates, "TopListsReplica", lambda *_: self.lists)
        monkeypatch.setattr(rank_candidates, "RedisWriter", lambda *_: self.redis)
        self.operator = RankCandidates(
            Connections(namespace="test-"), RankSettings("", **({"model_limit_ms": 5_000} | settings))
        )
        self.operator.open(self.runtime)
        self.operator._runner.close()
        self.operator._runner = Runner(FakeRunOptions)

    def run(self, *tasks: RankTask | bytes) -> list[list[Any]]:
        """All tasks at once, as they stand in one bundle; the rows of each."""

        async def all_at_once() -> list[list[Any]]:
            values = [one if isinstance(one, bytes) else encode_task(one) for one in tasks]
            return await asyncio.wait_for(
                asyncio.gather(*(self.operator.async_invoke(value) for value in values)), PLENTY_S
            )

        return asyncio.run(all_at_once())

    @property
    def counts(self) -> dict[str, int]:
        return self.runtime.metrics.counts()


@pytest.fixture
def harness(monkeypatch: pytest.MonkeyPatch) -> Iterator[Harness]:
    found = Harness(monkeypatch)
    yield found
    found.operator.close()


def user(*items: str) -> UserState:
    state = UserState()
    for n, item in enumerate(items):
        apply_event(state, event("click", item, ts_ms=NOW + n, event_id=f"e{n}"), Position(3, n, NOW + n))
    return state


def task(*surfaces: str, list_no: int = 1, state: UserState | None = None, **fields: Any) -> RankTask:
    values: dict[str, Any] = {
        "key": "u:alice",
        "state_epoch": 7,
        "now_ms": NOW,
        "trigger": "click",
        "bundle": None,
        "append_ms": NOW,
    }
    return RankTask(
        surfaces=list(surfaces), list_no=list_no, state=encode(state or user("item-1")), **(values | fields)
    )


def request(**fields: Any) -> RankRequest:
    values: dict[str, Any] = {
        "request_id": "r1",
        "session_id": "s1",
        "user_id": "alice",
        "ts_ms": NOW,
        "schema_version": 2,
    }
    return RankRequest(**(values | fields))


def by_topic(rows: list[Any], topic: str) -> list[bytes]:
    return [row[2] for row in rows if row[0] == f"test-{topic}"]


def lists(rows: list[Any]) -> list[RankedList]:
    return [decode_list(value) for value in by_topic(rows, topics.RANKED_FEED)]


def features(rows: list[Any]) -> list[SessionFeatures]:
    return [decode_features(value) for value in by_topic(rows, topics.FEATURES)]


def responses(rows: list[Any]) -> list[RankResponse]:
    return [decode_response(value) for value in by_topic(rows, topics.RANK_RESPONSES)]


def names(ranked: RankedList) -> list[str]:
    return [item.item_id for item in ranked.items]


# ── a list ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_task_becomes_a_list_on_both_topics(harness: Harness) -> None:
    (rows,) = harness.run(task("home"))
    assert [(row[0], row[1]) for row in rows] == [
        ("test-ranked-feed", b"u:alice|home"),  # what others wait for leaves first
        ("test-features", b"u:alice"),
        ("test-ranked-feed-latest", b"u:alice|home"),
        ("test-rankings-log", b"u:alice|home"),
    ]
    assert by_topic(rows, topics.RANKED_FEED) == by_topic(rows, topics.RANKED_FEED_LATEST)


def test_a_list_says_who_where_and_which(harness: Harness) -> None:
    ((found,),) = [lists(rows) for rows in harness.run(task("home", list_no=5))]
    assert (found.key, found.surface, found.state_epoch, found.list_no, found.trigger) == (
        "u:alice",
        "home",
        7,
        5,
        "click",
    )
    assert (found.fallback, found.degraded, found.request_id) == (None, [], None)
    assert names(found)[:3] == ["item-20", "item-19", "item-18"]


def test_the_receipt_says_what_was_seen_and_what_made_it(harness: Harness) -> None:
    state = user("item-1", "item-2")
    receipt = lists(harness.run(task("home", state=state))[0])[0].receipt
    assert receipt.freshness == freshness(state)
    assert (receipt.bundle, receipt.ranker, receipt.policy, receipt.items_offsets) == ("b1", "fake", "1", {0: 41})
    assert receipt.item_features_offsets == {2: 7}
    assert set(receipt.stage_ms) == {"recall", "candidates", "encode", "score", "select", "total"}


def test_without_consent_the_list_is_the_popular_one_and_says_so(harness: Harness) -> None:
    """Contract: also where the ranker fails; a personal list that is remembered is not served again."""
    harness.run(task("home", state=user("item-1")))
    refused = user("item-1")
    no = event("click", "item-2", event_id="no", props={"consent": {"personalise": False}})
    apply_event(refused, no, Position(3, 9, NOW))
    scored = len(harness.bundle.scored)
    made = lists(harness.run(task("home", state=refused, list_no=2))[0])[0]
    assert names(made)[:3] == ["item-1", "item-2", "item-3"]
    assert (made.receipt.cold_start, made.fallback, len(harness.bundle.scored)) == ("no_consent", None, scored)
    assert features(harness.run(task("home", state=refused, list_no=3))[0])[0].session_items == []
    harness.run(task("home", state=user("item-1"), list_no=4))
    harness.operator._breaker = Breaker(failures=0, rest_s=60.0, clock=lambda: -1.0)
    fallen = lists(harness.run(task("home", state=refused, list_no=5))[0])[0]
    assert (fallen.fallback, fallen.receipt.cold_start) == ("model_breaker", "no_consent")
    assert [item.source for item in fallen.items] == ["popular"] * 5


@pytest.mark.parametrize(("by", "how"), [("thompson", "device"), ("linucb", False)])
def test_explored_places_are_drawn_by_what_the_surface_has_shown(harness: Harness, by: Any, how: Any) -> None:
    """Contract: by the beliefs that the policy names, for where the request says that the user is."""
    harness.policies.in_force["home"] = Policy(
        version="p", slots=[Explore(places=[1], policy=by)], beliefs=Beliefs(segment="device", shared=False)
    )
    asked = request(context=Context(device="mobile", geo="de", channel="app"))
    made = lists(harness.run(task("home", trigger="request", request=asked))[0])[0]
    assert names(made)[0] == "item-7"
    assert harness.beliefs.asked[-1] == ("home", how, Moment(NOW // 3_600_000, "mobile", "de", "app", True))


def test_arms_of_groups_are_drawn_by_what_the_surface_has_shown_of_them(harness: Harness) -> None:
    """Contract: the group that is believed in is drawn, and the best of its items takes the place; groups are the catalogue's."""
    for item_id, category in (("item-5", "hats"), ("item-8", "hats"), ("item-20", "shoes")):
        harness.replica.items[item_id] = Item(item_id=item_id, category=category)
    harness.policies.in_force["home"] = Policy(
        version="p",
        slots=[Explore(places=[1], policy="thompson", arms="category", floor=0.03)],
        beliefs=Beliefs(segment="device"),
    )
    (rows,) = harness.run(
        task("home", list_no=2)
    )  # whose draw is .58; the first list's is .005, which the floor gives to others
    (found,) = decisions(rows)
    assert (found.shown()[0], found.places.slot(0)) == ("item-8", "explore")
    assert found.places.propensity_column()[0] == pytest.approx(0.97 + 0.03 / 3), "three arms: hats, shoes, neither"
    assert ("home", "device", "category") in harness.beliefs.asked


def test_the_copy_of_item_features_is_followed_and_measured(harness: Harness) -> None:
    assert harness.features.running
    counted = harness.counts
    assert (counted["item_features_ready"], counted["item_features_keys"], counted["item_features_age_ms"]) == (1, 5, 6)
    assert (counted["features_fetched"], counted["feature_nulls_lift_2h"]) == (4, 3)
    harness.operator.close()
    assert not harness.features.running
    assert harness.store.closed


def test_the_copy_of_top_lists_is_followed_and_tells_the_bundles(harness: Harness) -> None:
    assert harness.lists.running
    harness.lists.changed(["all|"])  # type: ignore[attr-defined]
    assert harness.store.lists_told == ["all|"]
    harness.lists.rejected = 3
    assert (harness.counts["top_lists_known"], harness.counts["top_lists_rejected"]) == (1, 3)
    harness.operator.close()
    assert not harness.lists.running


def test_candidates_are_found_by_where_the_request_says_the_user_is(harness: Harness) -> None:
    asked = request(context=Context(device="mobile", geo="de", channel="app"))
    harness.run(task("home", trigger="request", request=asked))
    assert harness.bundle.asked_at == Moment(NOW // 3_600_000, "mobile", "de", "app", True)


def test_the_same_content_has_the_same_list_id_and_other_content_another(harness: Harness) -> None:
    first = lists(harness.run(task("home"))[0])[0]
    again = lists(harness.run(task("home"))[0])[0]
    harness.replica.unavailable.add("item-20")
    other = lists(harness.run(task("home"))[0])[0]
    assert (first.list_id == again.list_id, first.list_id == other.list_id) == (True, False)


def test_each_surface_gets_its_list(harness: Harness) -> None:
    assert [one.surface for one in lists(harness.run(task("home", "cart"))[0])] == ["home", "cart"]


def test_features_tell_the_session(harness: Harness) -> None:
    state = user("item-1")
    apply_event(state, event("search", props={"query": "Shoes"}, ts_ms=NOW + 9), Position(3, 9, NOW + 9))
    (found,) = features(harness.run(task("home", state=state, list_no=5))[0])
    assert (found.key, found.list_no, found.session_items, found.session_actions) == (
        "u:alice",
        5,
        ["item-1", "shoes"],
        ["click", "search"],
    )
    assert (found.session_ts_ms, found.freshness) == ([NOW, NOW + 9], freshness(state))


def test_a_state_only_task_writes_features_only(harness: Harness) -> None:
    (rows,) = harness.run(task(trigger="state"))
    assert [row[0] for row in rows] == ["test-features"]
    assert [keys for keys, _ in harness.redis.writes] == [["test-riffle:features:{u:alice}"]]
    assert harness.bundle.scored == []


def test_redis_gets_all_of_an_event_in_one_write(harness: Harness) -> None:
    (rows,) = harness.run(task("home", "cart", list_no=5))
    ((keys, args),) = harness.redis.writes
    assert keys == [
        "test-riffle:features:{u:alice}",
        "test-riffle:list:{u:alice}:home",
        "test-riffle:list:{u:alice}:cart",
    ]
    assert args[0] == version(7, 5)
    assert args[3::2] == [*by_topic(rows, topics.FEATURES), *by_topic(rows, topics.RANKED_FEED)]


def test_the_popular_list_is_refreshed_now_and_then(harness: Harness) -> None:
    harness.run(task("home", "cart"))
    harness.run(task("home", list_no=2))
    assert harness.redis.popular == ["test-riffle:popular:home", "test-riffle:popular:cart"]


def test_candidates_handed_in_are_ranked_for_events_too(harness: Harness) -> None:
    state = user("item-1")
    state.tail.candidates = {"home": ["item-3", "item-5"]}
    home, cart = lists(harness.run(task("home", "cart", state=state))[0])
    assert names(home) == ["item-5", "item-3"]
    assert len(names(cart)) == 20


# ── bundles ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_stamped_bundle_ranks(harness: Harness) -> None:
    assert lists(harness.run(task("home", bundle="b2"))[0])[0].receipt.bundle == "b2"
    assert "bundle_fallbacks" not in harness.counts


def test_an_arm_s_bundle_ranks_its_surface_only(harness: Harness) -> None:
    """Contract: arms are on the receipt; another surface, and a user without arms, get everybody's bundle."""
    arm = Stamped({"ranker": "new"}, "b2")
    made = {one.surface: one.receipt for one in lists(harness.run(task("home", "cart", stamped={"home": arm}))[0])}
    assert {surface: (one.bundle, one.arms) for surface, one in made.items()} == {
        "home": ("b2", {"ranker": "new"}),
        "cart": ("b1", {}),
    }


def test_an_arm_s_bundle_that_is_not_there_is_everybody_s(harness: Harness) -> None:
    arm = Stamped({"ranker": "new"}, "b9")
    (one, *_) = lists(harness.run(task("home", stamped={"home": arm}))[0])
    assert (one.receipt.bundle, harness.counts["bundle_fallbacks"]) == ("b1", 1)


def test_an_unknown_bundle_is_stood_in_for_and_counted(harness: Harness) -> None:
    assert lists(harness.run(task("home", bundle="b9"))[0])[0].receipt.bundle == "b1"
    assert harness.counts["bundle_fallbacks"] == 1


# ── drafts ───────────────────────────────────────────────────────────────────────────────────────────────────────────

OTHER = Challenger("duel", "control", "new", "b2", None)
DRAFTED = Stamped({"duel": "interleaved"}, challenger=OTHER)


def backwards(bundle: FakeBundle) -> None:
    """A ranker that likes lower item numbers."""
    bundle.score = lambda _state, _history, rows, *_rest: -rows.astype(np.float32)  # type: ignore[method-assign, assignment]


def test_a_list_is_drafted_of_two_rankers(harness: Harness) -> None:
    """Contract: each item says whose it is, the receipt who they are; the draws follow from user and list number."""
    backwards(harness.store.bundles["b2"])
    (one,) = lists(harness.run(task("home", stamped={"home": DRAFTED}))[0])
    assert one.receipt.draft == Draft("duel", [Team("control", "b1", "fake", "1"), Team("new", "b2", "fake", "1")])
    assert (one.receipt.bundle, one.receipt.arms, one.fallback) == ("b1", {"duel": "interleaved"}, None)
    assert one.receipt.levels == {"item": 20}
    teams = {team: [item.item_id for item in one.items if item.team == team] for team in ("control", "new")}
    assert teams == {
        "control": [f"item-{n}" for n in range(20, 10, -1)],
        "new": [f"item-{n}" for n in range(1, 11)],
    }
    assert {"draft", "total"} <= one.receipt.stage_ms.keys()
    (again,) = lists(harness.run(task("home", stamped={"home": DRAFTED}))[0])
    (other,) = lists(harness.run(task("home", list_no=2, stamped={"home": DRAFTED}))[0])
    assert again.items == one.items and other.items != one.items
    assert "drafts_missed" not in harness.counts


def test_the_callers_k_holds_for_the_draft(harness: Harness) -> None:
    backwards(harness.store.bundles["b2"])
    asked = request(candidates=["item-3", "item-5", "item-9"], k=2)
    (one,) = lists(harness.run(task("home", stamped={"home": DRAFTED}, request=asked))[0])
    assert sorted(names(one)) == ["item-3", "item-9"]


@pytest.mark.parametrize(
    "stamped",
    [
        msgspec.structs.replace(DRAFTED, challenger=msgspec.structs.replace(OTHER, bundle="b9")),
        msgspec.structs.replace(DRAFTED, bundle="b9"),
        msgspec.structs.replace(DRAFTED, challenger=msgspec.structs.replace(OTHER, policy="p9")),
        msgspec.structs.replace(DRAFTED, policy="p9"),
    ],
    ids=["challenger's bundle", "control's bundle", "challenger's policy", "control's policy"],
)
def test_without_the_rankers_that_the_experiment_names_nothing_is_drafted(harness: Harness, stamped: Stamped) -> None:
    harness.policies.known["p9"] = DEFAULT  # as where a version is not known: the policy in force
    (one,) = lists(harness.run(task("home", stamped={"home": stamped}))[0])
    assert (one.receipt.draft, one.receipt.bundle, one.fallback) == (None, "b1", None)
    assert {item.team for item in one.items} == {None}
    assert harness.counts["drafts_missed"] == 1


@pytest.mark.parametrize("ends", ["error", "hang"])
def test_a_challenger_that_fails_leaves_the_controls_list(monkeypatch: pytest.MonkeyPatch, ends: str) -> None:
    """Contract: in time, no fallback, and the breaker does not open for everybody."""
    harness, gate = Harness(monkeypatch, model_limit_ms=300), threading.Event()
    other = harness.store.bundles["b2"]
    other.during_score = (
        fail(RuntimeError()) if ends == "error" else lambda _state, _stop: (gate.wait(PLENTY_S), None)[1]
    )
    for number in range(3):
        (one,) = lists(harness.run(task("home", list_no=number + 1, stamped={"home": DRAFTED}))[0])
        assert (one.fallback, one.receipt.draft, len(one.items)) == (None, None, 20)
    assert harness.counts["drafts_missed"] == 3 and not harness.operator._breaker.is_open
    gate.set()
    harness.operator.close()


def test_a_fallback_is_not_drafted(harness: Harness) -> None:
    harness.bundle.during_score = fail(RuntimeError())
    (one,) = lists(harness.run(task("home", stamped={"home": DRAFTED}))[0])
    assert (one.fallback, one.receipt.draft, harness.counts["drafts_missed"]) == ("model_error", None, 1)
    assert harness.store.bundles["b2"].scored == []


def test_the_last_good_list_has_no_teams(harness: Harness) -> None:
    (one,) = lists(harness.run(task("home", stamped={"home": DRAFTED}))[0])
    harness.bundle.during_score = fail(RuntimeError())
    (after,) = lists(harness.run(task("home", list_no=2))[0])
    assert names(after) == names(one) and {item.team for item in after.items} == {None}


def test_the_record_of_a_draft_holds_both_rankings(harness: Harness) -> None:
    backwards(harness.store.bundles["b2"])
    (rows,) = harness.run(task("home", stamped={"home": DRAFTED}))
    (one,), (found,) = lists(rows), decisions(rows)
    assert (found.shown(), found.complete) == (names(one), False)
    assert {found.places.slot(place) for place in range(20)} == {"draft:control", "draft:new"}
    assert np.isnan(found.places.propensity_column()).all()
    control, new = found.rankings()
    assert (control.bundle, new.bundle) == ("b1", "b2")
    assert control.shown() == [f"item-{n}" for n in range(20, 0, -1)] == new.shown()[::-1]
    assert control.complete and control.key == found.key and control.state == new.state == found.state


# ── order and skipping ───────────────────────────────────────────────────────────────────────────────────────────────


def test_a_superseded_task_is_skipped_and_counted(harness: Harness) -> None:
    older, newer = harness.run(task("home", list_no=1), task("home", list_no=2))
    assert older == []
    assert [one.list_no for one in lists(newer)] == [2]
    assert harness.counts["rankings_superseded"] == 1


def test_a_task_is_ranked_where_only_one_of_its_surfaces_is_superseded(harness: Harness) -> None:
    older, newer = harness.run(task("home", "cart", list_no=1), task("home", list_no=2))
    assert [one.surface for one in lists(older)] == ["home", "cart"]
    assert [one.surface for one in lists(newer)] == ["home"]


def test_users_do_not_supersede_each_other(harness: Harness) -> None:
    one, other = harness.run(task("home", list_no=1), task("home", list_no=2, key="u:bob"))
    assert (len(lists(one)), len(lists(other))) == (1, 1)


def test_requests_and_state_only_tasks_are_never_skipped(harness: Harness) -> None:
    asked, told, newest = harness.run(
        task("home", list_no=1, request=request()), task(list_no=2, trigger="state"), task("home", list_no=3)
    )
    assert (len(responses(asked)), len(features(told)), len(lists(newest))) == (1, 1, 1)


def test_an_explanation_supersedes_nothing(harness: Harness) -> None:
    """Contract: it is not published, so the list before it is still the newest that a reader can find."""
    ranked, explained = harness.run(task("home", list_no=1), task("home", list_no=2, request=request(explain=True)))
    assert [one.list_no for one in lists(ranked)] == [1]
    assert len(responses(explained)) == 1


def test_nothing_is_remembered_of_tasks_that_are_done(harness: Harness) -> None:
    harness.run(task("home", list_no=1), task("home", list_no=2), task("cart", list_no=3), b"junk")
    assert (harness.operator._newest, harness.operator._last_of_user) == ({}, {})


def arrange(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The order in which the tasks of a bundle end, by list_no."""
    ended: list[int] = []
    rank = harness.operator._rank

    async def told(one: RankTask) -> Any:
        try:
            return await rank(one)
        finally:
            ended.append(one.list_no)

    monkeypatch.setattr(harness.operator, "_rank", told)
    return ended


def test_a_users_tasks_end_in_order_though_the_first_is_slow(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = arrange(harness, monkeypatch)
    turns = iter(range(100))

    async def first_is_slow() -> None:
        if next(turns) == 0:
            for _ in range(20):
                await asyncio.sleep(0.001)

    harness.redis.before_write = first_is_slow
    harness.run(*(task(f"s{n}", list_no=n) for n in range(1, 6)))
    assert ended == [1, 2, 3, 4, 5]
    assert [args[0] for _, args in harness.redis.writes] == [version(7, n) for n in range(1, 6)]


def test_a_skipped_task_does_not_let_the_next_overtake_the_one_before(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Contract: ranked-feed is in list_no order: 1 is slow, 2 is skipped, 3 must wait for 1."""
    ended = arrange(harness, monkeypatch)
    gate = threading.Event()

    async def let_the_others_try() -> None:
        if not gate.is_set():
            gate.set()
            for _ in range(20):
                await asyncio.sleep(0.001)

    harness.redis.before_write = let_the_others_try
    harness.run(task("cart", list_no=1), task("home", list_no=2), task("home", list_no=3))
    assert ended == [1, 2, 3]
    assert [args[0] for _, args in harness.redis.writes] == [version(7, 1), version(7, 3)]


def test_a_failed_task_does_not_let_the_next_overtake_the_one_before(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = arrange(harness, monkeypatch)
    broken = msgspec.structs.replace(task("shop", list_no=2), state=b"\x09")
    harness.run(task("cart", list_no=1), broken, task("home", list_no=3))
    assert ended == [1, 2, 3]
    assert harness.counts["tasks_failed"] == 1


# ── what goes wrong ──────────────────────────────────────────────────────────────────────────────────────────────────


def fail(error: BaseException) -> Callable[[UserState, Any], None]:
    def during_score(_state: UserState, _stop: Any) -> None:
        raise error

    return during_score


@pytest.mark.parametrize(
    "error", [RuntimeError("bad node"), MemoryError(), asyncio.CancelledError(), SystemExit(1), StopIteration()]
)
def test_a_model_error_is_a_named_fallback(harness: Harness, error: BaseException) -> None:
    """Contract: whatever scoring raises, the user gets a list that says why it is another."""
    harness.bundle.during_score = fail(error)
    (found,) = lists(harness.run(task("home"))[0])
    assert (found.fallback, names(found)) == ("model_error", [f"item-{n}" for n in range(1, 6)])
    assert harness.counts["fallback_model_error"] == 1


def test_the_last_good_list_is_the_first_fallback(harness: Harness) -> None:
    good = lists(harness.run(task("home"))[0])[0]
    harness.bundle.during_score = fail(RuntimeError())
    found = lists(harness.run(task("home", list_no=2))[0])[0]
    assert (found.fallback, names(found)) == ("model_error", names(good))


def test_what_has_sold_out_since_leaves_the_fallback(harness: Harness) -> None:
    harness.run(task("home"))
    harness.replica.unavailable.add("item-20")
    harness.bundle.during_score = fail(RuntimeError())
    assert "item-20" not in names(lists(harness.run(task("home", list_no=2))[0])[0])


def test_a_callers_candidates_are_its_fallback_each_once(harness: Harness) -> None:
    harness.bundle.during_score = fail(RuntimeError())
    (rows,) = harness.run(task("home", request=request(candidates=["item-3", "item-5", "item-3"])))
    assert names(lists(rows)[0]) == ["item-3", "item-5"]


def test_an_explanation_is_not_a_last_good_list(harness: Harness) -> None:
    harness.run(task("home", request=request(explain=True)))
    harness.bundle.during_score = fail(RuntimeError())
    found = lists(harness.run(task("home", list_no=2))[0])[0]
    assert all(item.why is None for item in found.items)


def test_a_model_that_hangs_is_left_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    harness, let_go = Harness(monkeypatch, model_limit_ms=50), threading.Event()
    stops: list[Any] = []

    def hang(_state: UserState, stop: Any) -> None:
        stops.append(stop)
        let_go.wait(PLENTY_S)

    harness.bundle.during_score = hang
    try:
        assert lists(harness.run(task("home"))[0])[0].fallback == "model_timeout"
        assert stops[0].terminate
        assert harness.operator._runner.hanging == 1
    finally:
        let_go.set()
        harness.operator.close()


def test_a_line_that_is_too_long_falls_back_without_blaming_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Contract: overload sheds lists by name; the breaker, which would shed all, stays closed."""
    harness, let_go = Harness(monkeypatch, model_limit_ms=100), threading.Event()

    def hang(_state: UserState, _stop: Any) -> None:
        let_go.wait(PLENTY_S)

    harness.bundle.during_score = hang
    try:
        found = harness.run(*(task("home", key=f"u:{n}") for n in range(20)))
        reasons = [lists(rows)[0].fallback for rows in found]
        assert reasons.count("model_busy") >= 16  # there are four threads to be begun on
        assert not harness.operator._breaker.is_open
    finally:
        let_go.set()
        harness.operator.close()


@pytest.mark.parametrize("waiting", [{"trigger": "identity"}, {"append_ms": NOW - 6_000}])
def test_lists_that_nobody_waits_for_wait_their_turn(monkeypatch: pytest.MonkeyPatch, waiting: dict[str, Any]) -> None:
    """Contract: merges and old events come in crowds; each gets the ranker's own list, a little later."""
    harness, done = Harness(monkeypatch, model_limit_ms=1), threading.Event()
    harness.bundle.during_score = lambda _state, _stop: done.wait(0.01)
    try:
        found = harness.run(*(task("home", key=f"u:{n}", **waiting) for n in range(20)))
        assert {lists(rows)[0].fallback for rows in found} == {None}
    finally:
        harness.operator.close()


def test_with_a_pre_ranker_its_order_comes_before_the_last_good_list(harness: Harness) -> None:
    """Contract: a list without the ranker still knows the newest event; the receipt says who ordered it."""
    harness.run(task("home"))
    harness.bundle.has_light = True
    harness.bundle.during_score = fail(RuntimeError())
    found = lists(harness.run(task("home", list_no=2))[0])[0]
    assert (found.fallback, found.receipt.ranker) == ("model_error", "pre_ranker")
    assert names(found)[:3] == ["item-1", "item-2", "item-3"]
    assert harness.counts["lists_by_pre_ranker"] == 1


def test_a_pre_ranker_that_fails_too_leaves_the_last_good_list(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = lists(harness.run(task("home"))[0])[0]
    harness.bundle.has_light = True
    harness.bundle.during_score = fail(RuntimeError())
    monkeypatch.setattr(harness.bundle, "light", lambda *_: 1 / 0)
    found = lists(harness.run(task("home", list_no=2))[0])[0]
    assert (found.fallback, found.receipt.ranker, names(found)) == ("model_error", "fake", names(good))


def test_who_comes_too_late_for_the_ranker_is_pre_ranked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Contract: the ranker does not begin what it has no time for."""
    harness = Harness(monkeypatch, ranker_budget_ms=6_000)  # more than the whole limit
    try:
        ranked = lists(harness.run(task("home"))[0])[0]
        assert ranked.fallback is None  # without a pre-ranker there is no way but to try
        harness.bundle.has_light, scored = True, len(harness.bundle.scored)
        late = lists(harness.run(task("home", list_no=2))[0])[0]
        assert (late.fallback, late.receipt.ranker) == ("model_late", "pre_ranker")
        assert len(harness.bundle.scored) == scored
        assert "encode" not in late.receipt.stage_ms
        assert harness.counts["fallback_model_late"] == 1
    finally:
        harness.operator.close()


def test_changed_items_reach_the_bundles(harness: Harness) -> None:
    harness.replica.changed(["item-new"])
    assert harness.store.changed == ["item-new"]


def test_a_list_says_by_what_levels_it_was_made(harness: Harness) -> None:
    receipt = lists(harness.run(task("home", state=user("item-1")))[0])[0].receipt
    assert (receipt.user_level, receipt.levels, receipt.cold_start) == ("few", {"item": 20}, None)


def test_a_sick_model_is_left_alone_for_a_while(harness: Harness) -> None:
    harness.bundle.during_score = fail(RuntimeError())
    found = [lists(harness.run(task("home", list_no=n))[0])[0].fallback for n in range(1, 8)]
    assert found == ["model_error"] * 5 + ["model_breaker"] * 2
    assert len(harness.bundle.scored) == 5


def test_a_bundle_that_fails_before_scoring_is_a_fallback_too(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(harness.bundle, "retrieve", lambda *_: 1 / 0)
    assert lists(harness.run(task("home"))[0])[0].fallback == "model_error"


def test_without_redis_lists_go_to_kafka_and_say_so(harness: Harness) -> None:
    harness.redis.down = True
    (rows,) = harness.run(task("home", request=request()))
    assert lists(rows)[0].degraded == ["redis"]
    answered = responses(rows)[0].list
    assert answered is not None
    assert answered.degraded == ["redis"]
    assert harness.counts["redis_failures"] == 1


@pytest.mark.parametrize(
    "error", [RuntimeError(), OSError(), asyncio.CancelledError(), KeyboardInterrupt(), GeneratorExit()]
)
def test_nothing_escapes(harness: Harness, error: BaseException) -> None:
    """Contract: an exception or a cancellation that escapes hangs bundle, checkpoint and job for ever."""

    async def refuse() -> None:
        raise error

    harness.redis.before_write = refuse
    assert harness.run(task("home")) == [[]]
    assert harness.counts["tasks_failed"] == 1


@pytest.mark.parametrize(
    "value", [b"", b"junk", encode_task(task("home"))[:-9], encode_task(task("home", state=UserState()))[:20]]
)
def test_a_task_that_cannot_be_read_is_counted(harness: Harness, value: bytes) -> None:
    assert harness.run(value) == [[]]
    assert harness.counts["tasks_failed"] == 1


def test_being_cancelled_does_not_block_the_users_next_task(harness: Harness) -> None:
    async def test() -> list[Any]:
        gate = asyncio.Event()

        async def wait() -> None:
            await gate.wait()

        harness.redis.before_write = wait
        first = asyncio.ensure_future(harness.operator.async_invoke(encode_task(task("cart", list_no=1))))
        second = asyncio.ensure_future(harness.operator.async_invoke(encode_task(task("shop", list_no=2))))
        third = asyncio.ensure_future(harness.operator.async_invoke(encode_task(task("home", list_no=3))))
        while not harness.bundle.scored or len(harness.bundle.scored) < 3:
            await asyncio.sleep(0.001)
        second.cancel()
        await asyncio.sleep(0)
        gate.set()
        return list(await asyncio.gather(first, second, third))

    first, second, third = asyncio.run(asyncio.wait_for(test(), PLENTY_S))
    assert (len(lists(first)), second, len(lists(third))) == (1, [], 1)


# ── decision records ──────────────────────────────────────────────────────────────────────────────────────────────


def decisions(rows: list[Any]) -> list[Decision]:
    return [decode_decision(value) for value in by_topic(rows, topics.RANKINGS_LOG)]


def test_a_list_leaves_a_record_of_how_it_was_made(harness: Harness) -> None:
    harness.replica.unavailable.add("item-20")
    (rows,) = harness.run(task("home", "cart", list_no=5))
    for ranked, found in zip(lists(rows), decisions(rows)):
        assert (found.list_id, found.surface, found.key) == (ranked.list_id, ranked.surface, "u:alice")
        assert (found.shown(), found.complete) == (names(ranked), True)
        assert found.state == task().state
        assert len(found.candidates) == 20
        assert (found.candidates.outcome(0), found.candidates.outcome(19)) == ("shown", "out_of_stock")
        assert found.candidates.feature_ids == ["lift_2h@1"]
        assert found.candidates.feature_rows()[[0, 18, 19]].ravel().tolist() == [6, 7, 7]
        assert found.places.propensity_column().tolist() == [1.0] * 19


def test_the_share_of_complete_records_is_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    harness = Harness(monkeypatch, decisions_share=0.0)
    (found,) = decisions(harness.run(task("home", request=request(k=3)))[0])
    assert (found.complete, len(found.candidates), found.k, found.request_id) == (False, 3, 3, "r1")
    harness.operator.close()


def test_a_fallback_is_recorded_as_one(harness: Harness) -> None:
    harness.bundle.during_score = fail(RuntimeError())
    (found,) = decisions(harness.run(task("home"))[0])
    assert (found.fallback, len(found.shown()), found.complete) == ("model_error", 5, True)


# ── policies ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_surfaces_policy_is_on_its_receipts_and_fills_its_places(harness: Harness) -> None:
    explore = Explore(places=[2, 3], policy="epsilon_greedy", epsilon=1.0, pool=4)
    harness.policies.in_force["home"] = Policy(version="home-2", surface="home", slots=[explore])
    (rows,) = harness.run(task("home", "cart"))
    home, cart = lists(rows)
    assert (home.receipt.policy, cart.receipt.policy) == ("home-2", "1")
    found = decisions(rows)[0]
    assert [found.places.slot(place) for place in range(4)] == ["exploit", "explore", "explore", "exploit"]
    assert found.places.propensity_column()[:4].tolist() == [1.0, 0.25, 0.25, 1.0]
    assert set(names(cart)[:5]) == {f"item-{n}" for n in range(16, 21)}


def test_an_arm_chooses_the_policy_of_its_users_only(harness: Harness) -> None:
    harness.policies.known["home-3"] = Policy(version="home-3", surface="home")
    treated = {"home": Stamped({"slots": "new"}, None, "home-3")}
    found = harness.run(task("home", stamped=treated), task("home", key="u:bob"))
    assert [lists(rows)[0].receipt.policy for rows in found] == ["home-3", "1"]


def test_draws_follow_from_user_list_number_and_policy(harness: Harness) -> None:
    """Contract: the same list is drawn the same way again; another number draws anew."""
    explore = Explore(places=list(range(1, 11)), policy="softmax", temperature=100.0)
    harness.policies.in_force["home"] = Policy(version="home-2", slots=[explore])
    first, again, other = (names(lists(harness.run(task("home", list_no=number))[0])[0]) for number in (1, 1, 2))
    assert first == again != other


def test_a_list_is_held_to_the_one_before_until_something_happens(harness: Harness) -> None:
    harness.policies.in_force["home"] = Policy(version="home-2", stability=Stability(top=3, moves=0))
    before = names(lists(harness.run(task("home"))[0])[0])
    harness.replica.unavailable.add("item-20")
    harness.bundle.score = lambda *given: -given[2].astype(np.float32)  # type: ignore[method-assign]
    held = names(lists(harness.run(task("home", list_no=2))[0])[0])
    assert held[1:3] == before[1:3]
    moved = names(lists(harness.run(task("home", list_no=3, state=user("item-1", "item-2")))[0])[0])
    assert moved[:3] == ["item-1", "item-2", "item-3"]


def test_what_a_policy_blocks_does_not_come_back_with_a_fallback(harness: Harness) -> None:
    harness.policies.in_force["home"] = Policy(version="home-2", rules=(Blocked(items=["item-2", "item-4"]),))
    harness.bundle.during_score = fail(RuntimeError())
    found = lists(harness.run(task("home"))[0])[0]
    assert (found.fallback, names(found)) == ("model_error", ["item-1", "item-3", "item-5"])


# ── requests ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_request_is_answered_and_published(harness: Harness) -> None:
    (rows,) = harness.run(task("home", request=request(k=3), trigger="request"))
    (found,) = responses(rows)
    assert (found.request_id, found.error) == ("r1", None)
    assert found.list == lists(rows)[0]
    assert len(names(lists(rows)[0])) == 3
    assert [row[1] for row in rows if row[0] == "test-rank-responses"] == [b"r1"]


def test_a_requests_candidates_are_ranked(harness: Harness) -> None:
    (found,) = responses(harness.run(task("home", request=request(candidates=["item-3", "item-7"])))[0])
    assert found.list is not None
    assert names(found.list) == ["item-7", "item-3"]


def test_an_explanation_is_answered_and_not_published(harness: Harness) -> None:
    (rows,) = harness.run(task("home", request=request(explain=True, k=2)))
    assert [row[0] for row in rows] == ["test-rank-responses"]
    assert harness.redis.writes == []
    found = responses(rows)[0].list
    assert found is not None
    assert [[one.item_id for one in item.why or []] for item in found.items] == [["item-1"], ["item-1"]]


def test_what_is_explained_is_the_list_that_the_surface_has(harness: Harness) -> None:
    """Contract: a surface whose caller handed in candidates is explained with them."""
    state = user("item-1")
    state.tail.candidates = {"home": ["item-3", "item-5"]}
    found = responses(harness.run(task("home", state=state, request=request(explain=True)))[0])[0].list
    assert found is not None
    assert names(found) == ["item-5", "item-3"]


# ── lifetime ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_replica_lives_as_long_as_the_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    harness = Harness(monkeypatch)
    assert harness.replica.running
    harness.operator.close()
    assert not harness.replica.running


def test_last_good_lists_are_kept_for_the_newest_users(monkeypatch: pytest.MonkeyPatch) -> None:
    harness = Harness(monkeypatch, last_good_lists=3)
    harness.run(*(task("home", key=f"u:{n}") for n in range(5)))
    assert [key for key, _ in harness.operator._last_good] == ["u:2", "u:3", "u:4"]
    harness.operator.close()


def test_lists_say_so_while_the_catalogue_is_being_read(harness: Harness) -> None:
    harness.replica.ready.clear()
    assert lists(harness.run(task("home"))[0])[0].degraded == ["items"]
