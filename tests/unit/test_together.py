"""Together: an interaction says beside what the session chose its item, once an item and session."""

from __future__ import annotations

import random
from typing import Any

import pytest

from schemas.interaction import Interaction, decode_interaction, encode_interaction
from schemas.user_state import UserState
from tests.fakes import HOUR, MINUTE, NOW, event
from tests.unit.test_records import User, interactions
from udfs.logic.together import BESIDE_CAP, CHOSEN, beside


def said(user: User, kind: str = "click", item: str | None = "i1", **fields: Any) -> list[str] | None:
    (one,) = interactions(user.event(kind, item, **fields))  # type: ignore[arg-type]
    return one.beside


def test_each_item_is_beside_the_ones_before_it_the_newest_first() -> None:
    user = User()
    assert [said(user, item=name) for name in "abc"] == [[], ["a"], ["b", "a"]]


def test_an_item_counts_once_a_session() -> None:
    user = User()
    assert [said(user, kind, "a") for kind in ("click", "view", "add_to_cart")] == [[], None, None]
    user.advance(NOW + 2 * HOUR)
    assert said(user, item="a") == [], "another session"


def test_only_so_many_are_named() -> None:
    user = User()
    names = [f"i{number}" for number in range(BESIDE_CAP + 3)]
    assert [said(user, item=name) for name in names][-1] == names[-2 : -2 - BESIDE_CAP : -1]


@pytest.mark.parametrize("kind", ["impression", "hide", "remove_from_cart"])
def test_what_is_no_choice_counts_for_nothing(kind: str) -> None:
    user = User()
    assert said(user, kind, "a") is None
    assert said(user, "click", "b") == []
    assert said(user, "click", "a") == ["b"]


def test_queries_and_follows_are_no_items() -> None:
    user = User()
    user.event("search", None, props={"query": "a"})  # type: ignore[arg-type]
    user.event("follow", None, props={"target": "a"})  # type: ignore[arg-type]
    assert said(user, item="a") == []


def test_a_late_one_is_beside_what_its_session_chose_and_not_another() -> None:
    user = User()
    said(user, item="a")
    assert said(user, item="b", ts_ms=NOW - MINUTE) == ["a"]
    user.advance(NOW + 2 * HOUR)
    said(user, item="c")
    assert said(user, item="d", ts_ms=NOW) is None, "the session it belongs to is closed"


def test_who_takes_consent_back_is_counted_with_nobody() -> None:
    user = User()
    said(user, item="a")
    assert said(user, item="b", props={"consent": {"personalise": False}}) is None
    assert said(user, item="c") is None


def test_it_is_what_all_events_of_the_session_say() -> None:
    """Oracle: from the list of all choices, with no state."""
    rng, user, chosen = random.Random(5), User(), []
    for number in range(45):
        kind, item = rng.choice(CHOSEN), f"i{rng.randrange(12)}"
        others = [one for one in dict.fromkeys(reversed(chosen)) if one != item][:BESIDE_CAP]
        assert said(user, kind, item, event_id=f"e{number}") == (None if item in chosen else others)
        chosen.append(item)


def test_records_from_before_have_none() -> None:
    old = Interaction("u:a", 1, 1, event("click", "a"), NOW, 0, 0, NOW)
    assert b"beside" not in encode_interaction(old)
    assert decode_interaction(encode_interaction(old)).beside is None


def test_state_is_not_changed_by_asking() -> None:
    state = UserState()
    assert beside(state, event("click", "a")) is None
    assert state.ids == []
