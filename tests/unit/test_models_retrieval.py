"""Retrieval: distinct items, each with the source that brought it, in the order of the sources."""

from __future__ import annotations

from array import array
from pathlib import Path

import numpy as np

from models.bundle import Bundle
from models.retrieval import COVISITED, POPULAR, POPULAR_GROUP, REPEAT, SOURCES, Retriever
from models.samples import sample_states
from schemas.user_state import ACTIONS, COUNTED, TARGET_MARK, UserState

TINY = Bundle.load(Path(__file__).parents[1] / "fixtures/bundles/tiny-1")


def state_with(*item_ids: str, action: str = "view") -> UserState:
    state = UserState()
    state.session_slots = array("B", [state.slot_of(item_id) for item_id in item_ids])
    state.session_actions = bytearray([ACTIONS[action]] * len(item_ids))
    state.session_ts = array("i", range(len(item_ids)))
    return state


def test_candidates_are_distinct_items_within_the_limit() -> None:
    retriever = Retriever(TINY)
    for state in sample_states(TINY.vocabulary, 60):
        for limit in (0, 1, 7, 200):
            rows, sources = retriever.retrieve(state, limit)
            assert len(rows) == len(sources) <= limit
            assert len(set(rows.tolist())) == len(rows)
            assert all(TINY.vocabulary.is_item(row) for row in rows)
            assert set(sources.tolist()) <= set(range(len(SOURCES)))


def test_a_new_user_gets_the_popular_items() -> None:
    rows, sources = Retriever(TINY).retrieve(UserState(), 5)
    assert rows.tolist() == TINY.popular[:5].tolist()
    assert sources.tolist() == [POPULAR] * 5


def test_a_new_users_first_view_brings_its_neighbours_and_its_group() -> None:
    rows, sources = Retriever(TINY).retrieve(state_with("pasta-2"), 20)
    pasta = TINY.vocabulary.row("pasta-2")
    covisited = rows[sources == COVISITED]
    assert covisited.tolist() == TINY.neighbours[pasta][: len(covisited)].tolist()
    groups = TINY.vocabulary.subcategory_row[rows[sources == POPULAR_GROUP]]
    assert set(groups.tolist()) == {TINY.vocabulary.subcategory_row[pasta]}


def test_a_follow_brings_its_group() -> None:
    rows, sources = Retriever(TINY).retrieve(state_with(TARGET_MARK + "bread", action="follow"), 20)
    groups = {TINY.vocabulary.ids[TINY.vocabulary.subcategory_row[row]] for row in rows[sources == POPULAR_GROUP]}
    assert groups == {"bread"}


def test_what_was_bought_comes_first_the_most_often_before() -> None:
    state = UserState()
    for item_id, times in (("road-1", 1), ("bread-3", 4), ("unknown", 9)):
        state.count(state.slot_of(item_id), COUNTED.index("purchase"), times)
    state.count(state.slot_of("trail-1"), COUNTED.index("view"), 12)
    rows, sources = Retriever(TINY).retrieve(state, 24)
    assert [TINY.vocabulary.ids[row] for row in rows[sources == REPEAT]] == ["bread-3", "road-1"]
    assert rows[:2].tolist() == rows[np.flatnonzero(sources == REPEAT)].tolist()
