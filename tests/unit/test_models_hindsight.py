"""Hindsight: soft labels follow what the visit did before and after, and never a place's own click. Needs the `train` extra."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from demo.offline import visits  # noqa: E402
from models.dataset import Levels  # noqa: E402
from models.featurise import ACTION_CODES, Tastes  # noqa: E402
from models.hindsight import SETTINGS, ClickModel, Hindsight, setting_of  # noqa: E402
from models.traffic import Examples, examples, shop_items  # noqa: E402
from models.vocabulary import Vocabulary, build_vocabulary  # noqa: E402


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return build_vocabulary(shop_items("demo"))


@pytest.fixture(scope="module")
def data(vocabulary: Vocabulary) -> Examples:
    return examples(visits(range(700_200, 700_206), days=14, seed=2), vocabulary)


def levels(vocabulary: Vocabulary, factors: Any) -> Levels:
    ones = np.ones(ACTION_CODES, np.float32)
    return Levels(
        vocabulary,
        np.zeros(vocabulary.size, np.float32),
        Tastes(factors, np.zeros(vocabulary.size, np.float32), ones, ones),
    )


def plain(vocabulary: Vocabulary) -> tuple[ClickModel, Levels]:
    """Nobody has a taste, all items are worth the same, and a setting is worth its number."""
    of = levels(vocabulary, np.zeros((vocabulary.size, 2), np.float32))
    assert of.tastes is not None
    return ClickModel(
        of.tastes, np.zeros(vocabulary.size, np.float32), np.linspace(-2, 2, SETTINGS, dtype=np.float32)
    ), of


def test_a_label_is_of_the_visits_other_clicks(vocabulary: Vocabulary, data: Examples) -> None:
    """Against a walk over the visit's lists, for the shown places."""
    model, of = plain(vocabulary)
    hindsight = Hindsight(model, data, of)
    lists = np.flatnonzero(data.clicked.any(axis=1))[:40]
    clicked = data.clicked[lists].astype(np.int64)
    got = hindsight.chance(lists, data.items[lists], clicked, np.zeros_like(clicked))
    group = vocabulary.group_row
    for place, number in enumerate(lists):
        same = data.visit == data.visit[number]
        groups = group[data.items[same]][data.clicked[same]]
        for at, row in enumerate(data.items[number]):
            here = int((groups == group[row]).sum()) - clicked[place, at]
            elsewhere = len(groups) - here - clicked[place, at]
            both = [setting_of(*np.array([here, elsewhere, named, 0, 0])) for named in (0, 1)]
            allowed = [0.5 / (1 + np.exp(-model.setting[one])) for one in both]
            assert min(abs(got[place, at] - one) for one in allowed) < 1e-6


def test_what_a_visit_came_for_and_searched_counts_as_named(vocabulary: Vocabulary, data: Examples) -> None:
    model, of = plain(vocabulary)
    hindsight = Hindsight(model, data, of)
    searches = opened = 0
    for visit in np.unique(data.visit):
        lists = np.flatnonzero(data.visit == visit)
        first, last = (slice(*data.sessions.starts[[number, number + 1]]) for number in (lists[0], lists[-1]))
        for row in data.sessions.rows[first]:
            assert hindsight._named[visit, vocabulary.group_row[row]]
            opened += 1
        found = set(vocabulary.group_row[data.sessions.rows[first]].tolist())
        searched = data.sessions.rows[last][data.sessions.rows[last] < vocabulary.first_item]
        searches += len(searched)
        found |= set(vocabulary.group_row[searched].tolist())
        assert set(np.flatnonzero(hindsight._named[visit]).tolist()) <= found
    assert searches and opened


def test_a_shoppers_later_acts_tell_their_taste(vocabulary: Vocabulary, data: Examples) -> None:
    """All lists of a shopper, the first too, are judged by the taste that the last one shows."""
    rng = np.random.Generator(np.random.PCG64(1))
    of = levels(vocabulary, rng.standard_normal((vocabulary.size, 2)).astype(np.float32))
    assert of.tastes is not None
    model = ClickModel(of.tastes, np.zeros(vocabulary.size, np.float32), np.full(SETTINGS, 10, np.float32))
    hindsight = Hindsight(model, data, of)
    shopper = data.shopper[np.argmax(np.bincount(data.shopper - data.shopper.min())[data.shopper - data.shopper.min()])]
    lists = np.flatnonzero(data.shopper == shopper)[[0, -1]]
    rows = np.tile(np.arange(vocabulary.first_item, vocabulary.first_item + 50), (2, 1))
    first, last = hindsight.chance(lists, rows, np.zeros_like(rows), np.zeros_like(rows))
    np.testing.assert_array_equal(first, last)
    assert first.std() > 0
