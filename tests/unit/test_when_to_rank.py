"""When a user is ranked: which events, which surfaces, and how often."""

from __future__ import annotations

from typing import Any

import pytest

from schemas.ranking import DEFAULT_SURFACE
from schemas.user_state import Surface, UserState
from tests.fakes import MINUTE, NOW, event
from udfs.logic.when_to_rank import DEFAULT_POLICY, active_surfaces, due, overdue, ranked, refresh_at, wants_ranking

POLICY = DEFAULT_POLICY
THROTTLE, LAG, CATCH_UP = POLICY.throttle_ms, POLICY.catch_up_lag_ms, POLICY.catch_up_interval_ms


def on(**seen_ms: int) -> UserState:
    """A user who was on these surfaces at these times."""
    state = UserState()
    state.tail.surfaces = {name: Surface(at_ms) for name, at_ms in seen_ms.items()}
    return state


@pytest.mark.parametrize(
    ("kind", "props", "wanted"),
    [
        ("click", {}, True),
        ("add_to_cart", {}, True),
        ("remove_from_cart", {}, True),
        ("purchase", {}, True),
        ("return", {}, True),
        ("search", {}, True),
        ("follow", {}, True),
        ("like", {}, True),
        ("hide", {}, True),
        ("login", {}, True),
        ("view", {"dwell_ms": 5_000}, True),
        ("view", {"dwell_ms": 4_999}, False),
        ("impression", {}, False),
        ("scroll", {}, False),
        ("logout", {}, False),
    ],
)
def test_intent_ranks_and_looking_does_not(kind: str, props: dict[str, Any], wanted: bool) -> None:
    assert wants_ranking(event(kind, props=props), POLICY) is wanted


# ── surfaces ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_user_of_no_known_surface_is_ranked_on_the_default_one() -> None:
    assert active_surfaces(UserState(), NOW, POLICY) == [DEFAULT_SURFACE]


def test_the_default_surface_stays_once_it_has_been_ranked() -> None:
    """Contract: events that name no surface are ranked again and again, not only the first time."""
    state = UserState()
    due(state, active_surfaces(state, NOW, POLICY), NOW, NOW, POLICY)
    assert active_surfaces(state, NOW + MINUTE, POLICY) == [DEFAULT_SURFACE]


@pytest.mark.parametrize(("age_ms", "found"), [(30 * MINUTE, ["cart", "shop"]), (30 * MINUTE + 1, ["shop"])])
def test_surfaces_left_long_ago_are_not_ranked(age_ms: int, found: list[str]) -> None:
    assert active_surfaces(on(cart=NOW - age_ms, shop=NOW), NOW, POLICY) == found


def test_a_surface_seen_later_than_the_event_is_active() -> None:
    assert active_surfaces(on(cart=NOW + MINUTE), NOW, POLICY) == ["cart"]


def test_a_surface_with_too_many_candidates_is_left_to_requests() -> None:
    state = on(cart=NOW, shop=NOW)
    state.tail.candidates = {"cart": [], "shop": ["i1"]}
    assert active_surfaces(state, NOW, POLICY) == ["shop"]
    state.tail.candidates["shop"] = []
    assert active_surfaces(state, NOW, POLICY) == []


# ── throttle ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_first_ranking_is_at_once() -> None:
    state = on(home=NOW)
    assert due(state, ["home"], NOW, NOW, POLICY) == ["home"]
    assert (state.tail.pending, state.tail.timer_ms) == ([], 0)


def test_the_next_one_waits_for_the_throttle() -> None:
    state = on(home=NOW)
    due(state, ["home"], NOW, NOW, POLICY)
    assert due(state, ["home"], NOW, NOW + 5, POLICY) == []
    assert (state.tail.pending, state.tail.timer_ms) == (["home"], NOW + THROTTLE)


def test_waiting_does_not_move_the_timer() -> None:
    """Contract: a user who never pauses is still ranked, every throttle_ms."""
    state = on(home=NOW)
    due(state, ["home"], NOW, NOW, POLICY)
    for ms in range(1, THROTTLE):
        due(state, ["home"], NOW, NOW + ms, POLICY)
    assert (state.tail.pending, state.tail.timer_ms) == (["home"], NOW + THROTTLE)


@pytest.mark.parametrize(("lag_ms", "wait_ms"), [(0, 20), (20, 20), (300, 300), (5_000, 1_000)])
def test_the_throttle_grows_with_the_lag(lag_ms: int, wait_ms: int) -> None:
    """Contract: a job that is behind ranks each user less often, and one that is not loses nothing."""
    state = on(home=NOW)
    due(state, ["home"], NOW, NOW, POLICY)
    early, late = NOW + wait_ms - 1, NOW + wait_ms
    assert due(state, ["home"], early - lag_ms, early, POLICY) == []
    assert state.tail.timer_ms == NOW + wait_ms
    assert due(state, ["home"], late - lag_ms, late, POLICY) == ["home"]


def test_after_the_throttle_it_is_at_once_again() -> None:
    state = on(home=NOW)
    due(state, ["home"], NOW, NOW, POLICY)
    assert due(state, ["home"], NOW, NOW + THROTTLE, POLICY) == ["home"]


def test_a_ranking_serves_what_waited_for_it() -> None:
    state = on(home=NOW, cart=NOW)
    state.tail.pending = ["home", "cart"]
    ranked(state, "home", NOW)
    assert state.tail.pending == ["cart"]


def test_surfaces_are_throttled_apart() -> None:
    state = on(home=NOW, cart=NOW)
    due(state, ["home"], NOW, NOW, POLICY)
    assert due(state, ["home", "cart"], NOW, NOW + 5, POLICY) == ["cart"]
    assert state.tail.pending == ["home"]


def test_the_timer_is_that_of_the_surface_that_waits_shortest() -> None:
    state = on(home=NOW, cart=NOW)
    due(state, ["home"], NOW, NOW, POLICY)
    due(state, ["cart"], NOW, NOW + 10, POLICY)
    due(state, ["cart"], NOW, NOW + 11, POLICY)
    due(state, ["home"], NOW, NOW + 12, POLICY)
    assert state.tail.timer_ms == NOW + THROTTLE


def test_overdue_empties_what_waits() -> None:
    state = on(home=NOW)
    due(state, ["home"], NOW, NOW, POLICY)
    due(state, ["home"], NOW, NOW + 1, POLICY)
    assert overdue(state, NOW + THROTTLE) == ["home"]
    assert (state.tail.pending, state.tail.timer_ms, state.tail.surfaces["home"].ranked_ms) == ([], 0, NOW + THROTTLE)


# ── catching up ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_old_records_only_rank_at_the_timer() -> None:
    state = on(home=NOW)
    assert due(state, ["home"], NOW - LAG - 1, NOW, POLICY) == []
    assert (state.tail.pending, state.tail.timer_ms) == (["home"], NOW + CATCH_UP)


def test_a_record_that_is_just_in_time_ranks_at_once() -> None:
    assert due(on(home=NOW), ["home"], NOW - LAG, NOW, POLICY) == ["home"]


def test_more_old_records_do_not_move_the_timer() -> None:
    state = on(home=NOW)
    for ms in range(0, 900, 100):
        due(state, ["home"], NOW - LAG - 1, NOW + ms, POLICY)
    assert state.tail.timer_ms == NOW + CATCH_UP


# ── session features ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("emitted_ms", "append_ms", "at_ms"),
    [
        (0, NOW, 0),
        (NOW - THROTTLE, NOW, 0),
        (NOW - 5, NOW, NOW - 5 + THROTTLE),
        (NOW - 5, NOW - 300, NOW - 5 + 300),
        (NOW - 301, NOW - 300, 0),
        (0, NOW - LAG - 1, NOW + CATCH_UP),
    ],
)
def test_features_follow_at_the_throttles_pace(emitted_ms: int, append_ms: int, at_ms: int) -> None:
    state = UserState()
    state.tail.emitted_ms = emitted_ms
    assert refresh_at(state, append_ms, NOW, POLICY) == at_ms
