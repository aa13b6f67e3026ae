"""The stages of a ranking, on a ranker that likes higher item numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from schemas.ranking import RankedItem
from schemas.user_state import UserState
from tests.fakes import HOUR, MINUTE, NOW, FakeBundle, event
from udfs.logic.sessions import Position, apply_event
from udfs.logic.slate import SHOWN_LIMIT, Slate, explain, rank, top


def user(*actions: tuple[str, str], start_ms: int = NOW) -> UserState:
    state = UserState()
    for n, (kind, item) in enumerate(actions):
        apply_event(state, event(kind, item, ts_ms=start_ms + n), Position(3, n, start_ms + n))
    return state


def ranked(state: UserState, bundle: FakeBundle | None = None, **fields: Any) -> Slate:
    bundle = bundle or FakeBundle(items=9)
    settings: dict[str, Any] = {"surface": "home", "k": 50, "limit": 200, "now_ms": NOW, "stop": None} | fields
    return rank(state, bundle, settings.pop("unavailable", set()), lambda _state: None, **settings)


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
    assert list(ranked(UserState()).stage_ms) == ["candidates", "encode", "score", "select"]


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

    def score(self, state: UserState, history: Any, rows: Any, now_ms: int, surface: str, stop: Any) -> Any:
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
