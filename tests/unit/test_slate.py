"""The stages of a ranking, on a ranker that likes higher item numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from schemas.items import Item
from schemas.policy import AgeLimit, Blocked, Bought, Cap, Following, Hidden, Mmr, Pinned, Policy, PriceBand, Seen
from schemas.ranking import RankedItem
from schemas.user_state import UserState
from tests.fakes import HOUR, MINUTE, NOW, FakeBundle, event
from udfs.logic.sessions import Position, apply_event
from udfs.logic.slate import Slate, World, explain, rank, top, user_level

SHOWN_LIMIT = Seen().times


def user(*actions: tuple[str, str], start_ms: int = NOW) -> UserState:
    state = UserState()
    for n, (kind, item) in enumerate(actions):
        apply_event(state, event(kind, item, ts_ms=start_ms + n), Position(3, n, start_ms + n))
    return state


def ranked(state: UserState, bundle: FakeBundle | None = None, **fields: Any) -> Slate:
    bundle = bundle or FakeBundle(items=9)
    settings: dict[str, Any] = {"surface": "home", "k": 50, "limit": 200, "now_ms": NOW, "stop": None} | fields
    return rank(state, bundle, World(settings.pop("unavailable", set())), lambda _state: None, **settings)


def names(slate: Slate) -> list[str]:
    return [item.item_id for item in slate.items]


def test_the_best_come_first() -> None:
    slate = ranked(UserState(), k=3)
    assert slate.items == [RankedItem(f"item-{n}", float(n), "popular") for n in (9, 8, 7)]


def test_equal_scores_keep_the_order_of_the_candidates() -> None:
    """Contract: a replay gives the same list."""
    assert top(np.array([1, 3, 2, 3, 1], np.float32), 4) == [1, 3, 2, 0]


def test_no_more_candidates_than_allowed_are_scored() -> None:
    assert names(ranked(UserState(), limit=2)) == ["item-2", "item-1"]


def test_the_callers_candidates_replace_our_own() -> None:
    slate = ranked(UserState(), requested=["item-3", "item-7", "item-3", "other"])
    assert names(slate) == ["item-7", "item-3", "other"]
    assert {item.source for item in slate.items} == {"caller"}
    assert slate.counts == {"caller": 3}


@pytest.mark.parametrize("requested", [None, ["item-9", "item-8", "item-7"]])
def test_what_is_out_of_stock_leaves_every_list(requested: list[str] | None) -> None:
    slate = ranked(UserState(), unavailable={"item-9", "item-7"}, requested=requested)
    assert not {"item-9", "item-7"} & set(names(slate))
    assert slate.counts["removed_out_of_stock"] == 2


@pytest.mark.parametrize("requested", [None, ["item-9", "item-8", "item-7"]])
def test_what_the_user_hid_leaves_every_list_for_ever(requested: list[str] | None) -> None:
    state = user(("hide", "item-9"), start_ms=NOW - 5 * HOUR)
    apply_event(state, event("hide", "item-8"), Position(3, 9, NOW))
    slate = ranked(state, requested=requested)
    assert not {"item-9", "item-8"} & set(names(slate))
    assert slate.counts["removed_hidden"] == 2


def bought(item: str) -> UserState:
    state = UserState()
    apply_event(state, event("purchase", props={"items": [{"item_id": item}]}), Position(3, 0, NOW))
    return state


def test_what_was_just_bought_leaves_our_lists() -> None:
    slate = ranked(bought("item-9"))
    assert "item-9" not in names(slate)
    assert slate.counts["removed_bought"] == 1


def test_what_was_bought_in_an_earlier_session_may_be_bought_again() -> None:
    state = bought("item-9")
    apply_event(state, event("scroll", ts_ms=NOW + HOUR), Position(3, 9, NOW + HOUR))
    assert "item-9" in names(ranked(state))


def test_a_callers_candidate_that_was_bought_stays() -> None:
    assert names(ranked(bought("item-9"), requested=["item-9"])) == ["item-9"]


@pytest.mark.parametrize(("times", "left_out"), [(SHOWN_LIMIT - 1, False), (SHOWN_LIMIT, True)])
def test_what_was_shown_often_without_a_click_leaves_our_lists(times: int, left_out: bool) -> None:
    slate = ranked(user(*[("impression", "item-9")] * times, ("impression", "item-8")))
    assert ("item-9" not in names(slate)) is left_out
    assert slate.counts.get("removed_seen", 0) == left_out
    assert "item-8" in names(slate)


def test_what_was_shown_often_and_clicked_stays() -> None:
    assert "item-9" in names(ranked(user(*[("impression", "item-9")] * SHOWN_LIMIT, ("click", "item-9"))))


def test_nothing_left_is_an_empty_list_without_scoring() -> None:
    bundle = FakeBundle(items=2)
    assert ranked(UserState(), bundle, unavailable={"item-1", "item-2"}).items == []
    assert bundle.scored == []


def test_no_candidates_is_an_empty_list() -> None:
    assert ranked(UserState(), requested=[]).items == []


def test_stages_are_timed() -> None:
    assert list(ranked(UserState()).stage_ms) == ["recall", "candidates", "encode", "score", "select"]


def test_the_ranker_is_skipped_where_it_would_begin_too_late() -> None:
    bundle = FakeBundle(items=3)
    bundle.has_light = True
    slate = ranked(UserState(), bundle, begin_by=0.0)
    assert slate.by_light
    assert names(slate) == ["item-1", "item-2", "item-3"]
    assert not bundle.scored


@pytest.mark.parametrize(("actions", "level"), [(0, "new"), (1, "few"), (4, "few"), (5, "known")])
def test_the_level_of_a_user_is_told(actions: int, level: str) -> None:
    assert user_level(user(*[("click", f"item-{n}") for n in range(actions)])) == level


@pytest.mark.parametrize(
    ("state", "requested", "level"),
    [
        (UserState(), None, "new_user"),
        (user(("click", "item-1")), None, None),
        (user(("click", "item-1")), ["unheard-of", "item-2"], None),
        (user(("click", "item-1")), ["unheard-of", "unknown"], "new_item"),
    ],
)
def test_cold_start_is_told(state: UserState, requested: list[str] | None, level: str | None) -> None:
    assert ranked(state, requested=requested).cold_start == level


# ── explaining ───────────────────────────────────────────────────────────────────────────────────────────────────────


class Running(FakeBundle):
    """Every action on item-1 in the session is worth 1 to item-2, and every one on item-3 costs it 3."""

    def score(self, state: UserState, history: Any, rows: Any, *_: Any) -> Any:
        session = state.session().item_ids
        worth = session.count("item-1") - 3 * session.count("item-3")
        return np.array([worth if row == 2 else 0 for row in rows], np.float32)


def explained(state: UserState) -> list[RankedItem]:
    items = [RankedItem("item-2", 0.0, "caller"), RankedItem("item-4", 0.0, "caller")]
    return explain(state, Running(), None, items, NOW, "home", None)


def test_an_explanation_names_the_actions_that_moved_the_item_strongest_first() -> None:
    state = user(("click", "item-1"), ("view", "item-3"), ("click", "item-5"))
    why = explained(state)[0].why or []
    assert [(one.action, one.item_id, one.delta) for one in why] == [
        ("view", "item-3", -3.0),
        ("click", "item-1", 1.0),
        ("click", "item-5", 0.0),
    ]
    assert why[0].ts_ms == NOW + 1


def test_an_explanation_has_five_actions_at_most() -> None:
    state = user(*[("click", f"item-{n}") for n in range(1, 10)])
    assert len(explained(state)[0].why or []) == 5


def test_explaining_leaves_the_state_alone() -> None:
    state = user(("click", "item-1"), ("click", "item-5"))
    explained(state)
    assert state.session().item_ids == ["item-1", "item-5"]


def test_without_a_session_there_is_nothing_to_explain() -> None:
    assert [item.why for item in explained(UserState())] == [[], []]


def test_searches_are_explained_in_their_own_words() -> None:
    state = UserState()
    apply_event(
        state, event("search", props={"query": "Trail shoes"}, ts_ms=NOW + MINUTE), Position(3, 0, NOW + MINUTE)
    )
    assert [one.item_id for one in explained(state)[0].why or []] == ["trail shoes"]


# ── policies ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def governed(state: UserState, catalogue: list[Item], requested: list[str] | None = None, **fields: Any) -> Slate:
    world = World(catalogue={one.item_id: one for one in catalogue}, policy=Policy(version="x", **fields))
    return rank(
        state,
        FakeBundle(items=9),
        world,
        lambda _state: None,
        surface="home",
        k=5,
        limit=9,
        now_ms=NOW,
        stop=None,
        requested=requested,
    )


def test_each_rule_says_what_it_removed() -> None:
    catalogue = [
        Item(item_id="item-9", seller="shady"),
        Item(item_id="item-8", price=99.0),
        Item(item_id="item-7", price=1.0),
        Item(item_id="item-6", min_age=18),
        Item(item_id="item-5", min_age=12, price=10.0),
    ]
    rules = (Blocked(items=["item-4"], sellers=["shady"]), PriceBand(least=5, most=50), AgeLimit(up_to=16))
    slate = governed(UserState(), catalogue, rules=rules)
    assert names(slate) == ["item-5", "item-3", "item-2", "item-1"]
    assert slate.counts == {
        "popular": 9,
        "removed_blocked": 2,
        "removed_price_band": 2,
        "removed_age_limit": 1,
    }


def test_the_first_rule_that_removes_is_named() -> None:
    state = user(("hide", "item-9"))
    assert governed(state, [], rules=(Blocked(items=["item-9"]), Hidden())).counts["removed_blocked"] == 1
    assert governed(state, [], rules=(Hidden(), Blocked(items=["item-9"]))).counts["removed_hidden"] == 1


def test_what_was_bought_stays_away_for_the_days_that_a_policy_says() -> None:
    state = bought("item-9")
    apply_event(state, event("scroll", ts_ms=NOW + HOUR), Position(3, 9, NOW + HOUR))
    assert "item-9" in names(governed(state, []))
    assert "item-9" not in names(governed(state, [], rules=(Bought(days=30),)))


def test_quotas_keep_the_first_of_a_source() -> None:
    slate = governed(UserState(), [], quotas={"popular": 2})
    assert (names(slate), slate.counts["removed_quota"]) == (["item-2", "item-1"], 7)


def test_a_pinned_item_need_not_be_a_candidate() -> None:
    slate = governed(UserState(), [], requested=["item-3", "item-7"], slots=[Pinned(place=2, item="item-1")])
    assert [(item.item_id, item.source) for item in slate.items] == [
        ("item-7", "caller"),
        ("item-1", "pinned"),
        ("item-3", "caller"),
    ]


def test_the_category_of_the_last_items_leads_where_the_policy_follows_it() -> None:
    catalogue = [Item(item_id=f"item-{n}", category="books" if n < 4 else "shoes") for n in range(1, 10)]
    slots = [Following(places=[1])]
    assert names(governed(user(("click", "item-1")), catalogue, slots=slots))[:2] == ["item-9", "item-8"]
    both = user(("click", "item-1"), ("click", "item-3"))
    assert names(governed(both, catalogue, slots=slots))[:2] == ["item-3", "item-9"]
    assert names(governed(both, catalogue))[:2] == ["item-9", "item-8"]


def test_diversity_compares_subcategories_of_the_catalogue() -> None:
    catalogue = [Item(item_id=f"item-{n}", subcategory="shoes" if n > 6 else f"sub-{n}") for n in range(1, 10)]
    by = Mmr(relevance=0.5, by="subcategory")
    assert names(governed(UserState(), catalogue, diversity=by))[:4] == ["item-9", "item-6", "item-5", "item-4"]


def test_places_that_caps_left_empty_are_counted() -> None:
    catalogue = [Item(item_id=f"item-{n}", seller="one") for n in range(1, 10)]
    slate = governed(UserState(), catalogue, rules=(Cap(by="seller", most=2),))
    assert (names(slate), slate.counts["places_unfilled"]) == (["item-9", "item-8"], 3)


def test_a_policys_weights_reach_the_ranker() -> None:
    given: list[Any] = []

    class Weighed(FakeBundle):
        def score(self, *args: Any) -> Any:
            given.append(args[6])
            return super().score(*args)

    world = World(policy=Policy(version="x", weights={"click": 1.0}))
    for one in (world, World()):
        rank(UserState(), Weighed(), one, lambda _s: None, surface="", k=5, limit=9, now_ms=NOW, stop=None)
    assert given == [{"click": 1.0}, None]
