"""What a session follows: the group that its last different items agree on, and what ends the run."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest

from demo import mara
from demo.world import load
from schemas.event import Event
from schemas.items import Item
from schemas.policy import Following
from schemas.user_state import ACTIONS, UserState, action_code
from udfs.logic.following import LONG_VIEW_MS, followed
from udfs.logic.sessions import Position, apply_event

CATALOGUE = {
    item.item_id: item
    for item in (
        Item(item_id="boots", category="sports", subcategory="hiking"),
        Item(item_id="tent", category="sports", subcategory="camping"),
        Item(item_id="stove", category="sports", subcategory="camping"),
        Item(item_id="novel", category="books", subcategory="fiction"),
        Item(item_id="unsorted"),
    )
}
LONG, SHORT = LONG_VIEW_MS, LONG_VIEW_MS - 1


def session(*acts: tuple[str, str] | tuple[str, str, int]) -> UserState:
    state = UserState()
    for number, (kind, item_id, *dwell) in enumerate(acts):
        state.session_slots.append(state.slot_of(item_id))
        state.session_actions.append(action_code(kind, dwell[0] if dwell else None))
        state.session_ts.append(number)
    return state


def group(state: UserState, **slot: Any) -> str | None:
    return followed(Following(places=[1], **slot), state, CATALOGUE)


def test_two_different_items_of_a_category_are_followed() -> None:
    assert (
        group(session(("click", "novel"), ("click", "boots"), ("view", "boots", LONG), ("click", "tent"))) == "sports"
    )


def test_many_actions_on_one_item_are_not_followed() -> None:
    assert group(session(("click", "tent"), ("view", "tent", LONG), ("add_to_cart", "tent"), ("like", "tent"))) is None


def test_as_many_items_as_the_slot_says() -> None:
    state = session(("click", "novel"), ("click", "boots"), ("click", "tent"))
    assert [group(state, items=count) for count in (1, 2, 3)] == ["sports", "sports", None]


def test_subcategories_are_followed_where_the_slot_says_so() -> None:
    assert group(session(("click", "boots"), ("click", "tent")), by="subcategory") is None
    assert group(session(("click", "stove"), ("click", "tent")), by="subcategory") == "camping"


@pytest.mark.parametrize(
    "between",
    [
        ("view", "boots", SHORT),
        ("search", "\x01tents"),
        ("follow", "\x02camping"),
        ("purchase", "boots"),
        ("return", "boots"),
        ("hide", "stove"),
        ("remove_from_cart", "boots"),
        ("click", "novel"),
        ("click", "unsorted"),
        ("click", "unheard-of"),
    ],
)
def test_anything_else_ends_the_run(between: Any) -> None:
    assert group(session(("click", "boots"), between, ("click", "tent"))) is None
    assert group(session(between, ("click", "boots"), ("click", "tent"))) == "sports"


def test_a_view_of_unknown_length_counts() -> None:
    assert group(session(("view", "boots"), ("click", "tent"))) == "sports"


def test_every_action_either_shows_interest_or_ends_the_run() -> None:
    """Contract: a new kind of action is decided here, and not followed by accident."""
    of_interest = {kind for kind in ACTIONS if group(session(("click", "boots"), (kind, "tent"))) == "sports"}
    assert of_interest == {"click", "view", "add_to_cart", "like"}


def test_nothing_is_followed_in_an_empty_session() -> None:
    assert group(UserState()) is None


def test_maras_one_view_is_not_followed() -> None:
    """Contract: twelve seconds of one video re-rank by score alone; the slot waits for a second one."""
    catalogue = {item.item_id: item for item in load().items}
    state = UserState()
    acts = [*mara.history(mara.STORY_MS), *mara.opens_feed(mara.STORY_MS), *mara.watches(mara.MARATHON, mara.STORY_MS)]
    for offset, act in enumerate(acts):
        event = msgspec.convert(act, Event)
        apply_event(state, event, Position(0, offset, event.ts_ms))
    assert followed(Following(places=[1]), state, catalogue) is None


@pytest.mark.parametrize("seed", range(5))
def test_against_a_plain_reading_of_the_rule(seed: int) -> None:
    rng = np.random.default_rng(seed)
    kinds, ids = [*ACTIONS], [*CATALOGUE, "unheard-of"]
    for _ in range(200):
        acts = [
            (str(rng.choice(kinds, p=[0.4, 0.3, *[0.3 / 8] * 8])), str(rng.choice(ids)), int(rng.choice([SHORT, LONG])))
            for _ in range(int(rng.integers(0, 8)))
        ]
        count = int(rng.integers(1, 4))
        assert group(session(*acts), items=count) == plainly(acts, count)


def plainly(acts: list[tuple[str, str, int]], count: int) -> str | None:
    """Whether some tail of the session has interest only, one category only, and so many items."""
    for start in range(len(acts)):
        tail = acts[start:]
        fine = all(kind in ("click", "add_to_cart", "like") or (kind == "view" and ms >= LONG) for kind, _, ms in tail)
        groups = {CATALOGUE[item].category if item in CATALOGUE else None for _, item, _ in tail}
        if fine and len(groups) == 1 and groups != {None} and len({item for _, item, _ in tail}) == count:
            return groups.pop()
    return None
