"""Traffic: training sees a state exactly as serving would; statistics against plain counting."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from demo.offline import visits
from models.featurise import Tokens, counters, history_anchor_ms, tokens
from models.statistics import FOLDS, click_ratio, contents, count, neighbours, statics, statics_by_fold
from models.traffic import Examples, Ragged, examples, joined, shop_items
from models.vocabulary import Vocabulary, build_vocabulary
from schemas.user_state import UserState
from udfs.logic.sessions import Position, apply_event


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return build_vocabulary(shop_items("demo"))


@pytest.fixture(scope="module")
def data(vocabulary: Vocabulary) -> Examples:
    return examples(visits(range(12), days=14, seed=3), vocabulary)


def of(ragged: Ragged, number: int) -> tuple[list[int], list[int], list[float]]:
    part = slice(int(ragged.starts[number]), int(ragged.starts[number + 1]))
    return ragged.rows[part].tolist(), ragged.actions[part].tolist(), ragged.log_hours[part].tolist()


def columns(found: Tokens) -> tuple[list[int], list[int], list[float]]:
    length = found.length
    return found.rows[:length].tolist(), found.actions[:length].tolist(), found.log_hours[:length].tolist()


def test_examples_are_the_states_that_serving_sees(vocabulary: Vocabulary, data: Examples) -> None:
    """Contract: replaying a known user's events gives, at every list, the very tokens and counters of the example."""
    states: dict[int, UserState] = {}
    merged: set[int] = set()  # who was anonymous once: a merged state is the business of udfs.logic.identity
    number = compared = 0
    for log in visits(range(12), days=14, seed=3):
        shopper, events = log.shopper.number, list(log.events)
        state = states.setdefault(shopper, UserState())
        if log.events[0].user_id is None:
            merged.add(shopper)
        for shown in log.exposures:
            while events and events[0].ts_ms < shown.ts_ms:
                event = events.pop(0)
                apply_event(state, event, Position(0, 1, event.ts_ms))
            if shopper not in merged:
                wanted = tokens(state.session(), shown.ts_ms, vocabulary)
                history = tokens(state.history(), history_anchor_ms(state, shown.ts_ms), vocabulary)
                assert of(data.sessions, number) == columns(wanted)
                assert of(data.histories, int(data.history[number])) == columns(history)
                counted = counters(state, data.items[number], vocabulary, shown.ts_ms)
                np.testing.assert_array_equal(data.counters[number], counted)
                compared += 1
            number += 1
        for event in events:
            apply_event(state, event, Position(0, 1, event.ts_ms))
    assert compared >= 20


def test_joining_keeps_every_list(data: Examples) -> None:
    once = len(data)
    histories, sessions = data.histories.lengths(), data.sessions.lengths()
    part = lambda: Examples(**vars(data))  # noqa: E731
    both = joined([part(), part()])
    assert len(both) == 2 * once
    assert both.history[once:].min() >= len(histories)
    assert both.visit[once] > both.visit[once - 1]
    assert both.sessions.lengths().tolist() == [*sessions, *sessions]


def test_counts_are_counts(vocabulary: Vocabulary, data: Examples) -> None:
    found = count(data, vocabulary.size)
    clicks: Counter[int] = Counter(data.items[data.clicked].tolist())
    assert {row: int(n) for row, n in enumerate(found.clicks) if n} == dict(clicks)
    assert found.expected[vocabulary.first_item :].sum() == pytest.approx(
        found.clicks[vocabulary.first_item :].sum(), rel=0.05
    )


def test_ratio_of_an_item_nobody_saw_is_its_groups(vocabulary: Vocabulary, data: Examples) -> None:
    found = count(data, vocabulary.size)
    ratio = click_ratio(found, vocabulary)
    unseen = np.flatnonzero(found.impressions[vocabulary.first_item :] == 0) + vocabulary.first_item
    assert len(unseen)
    np.testing.assert_allclose(ratio[unseen], ratio[vocabulary.subcategory_row[unseen]])


def test_a_fold_does_not_see_its_own_lists(vocabulary: Vocabulary, data: Examples) -> None:
    content = contents(shop_items("demo"), vocabulary)
    worth = np.random.Generator(np.random.PCG64(1)).random(vocabulary.size, np.float32)
    by_fold = statics_by_fold(data, content, vocabulary, worth)
    for fold in range(FOLDS):
        others = count(data, vocabulary.size, data.shopper % FOLDS != fold)
        np.testing.assert_array_equal(by_fold[fold], statics(others, content, vocabulary, worth))
    assert np.isfinite(by_fold).all()


def test_neighbours_are_those_acted_on_together(vocabulary: Vocabulary) -> None:
    a, b, c, d = vocabulary.first_item + np.arange(4)
    rows = np.array([a, b, 1, a, b, c, d, a])
    sessions = Ragged(rows, np.zeros(8), np.zeros(8), np.array([0, 3, 6, 8]))
    table = neighbours(sessions, vocabulary)
    assert table[a][0] == b
    assert set(table[a][:3].tolist()) == {b, c, d}
    assert table[a][3] == 0
    assert not table[1].any()
