"""Tastes: what is kept of shown lists, and whether the fit finds what made the clicks. Fitting needs the `train` extra."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from demo.offline import visits  # noqa: E402
from models.bundle import Bundle  # noqa: E402
from models.statistics import CONTENTS  # noqa: E402
from models.tastes import COLUMNS, FACTORS, fit, joined_shown, settings, shown  # noqa: E402
from models.traffic import Examples, examples, shop_items  # noqa: E402
from models.vocabulary import Vocabulary, build_vocabulary  # noqa: E402

TINY = Path(__file__).parents[1] / "fixtures/bundles/tiny-1"
SHOPPERS, DAYS = range(700_100, 700_106), 14


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return build_vocabulary(shop_items("demo"))


@pytest.fixture(scope="module")
def places(vocabulary: Vocabulary) -> Any:
    return shown(visits(SHOPPERS, days=DAYS, seed=2), vocabulary)


def column(places: Any, name: str) -> Any:
    return places[:, COLUMNS.index(name)]


def test_every_shown_place_is_kept_with_its_outcome(vocabulary: Vocabulary, places: Any) -> None:
    """Contract: the places are those that the ranker's examples have, in the same order."""
    data = examples(visits(SHOPPERS, days=DAYS, seed=2), vocabulary)
    real = data.items > 0
    assert column(places, "row").tolist() == data.items[real].tolist()
    assert column(places, "clicked").tolist() == data.clicked[real].tolist()
    viewed = column(places, "dwell_ms") > 0
    assert viewed.any()
    assert (column(places, "clicked")[viewed] == 1).all()  # a view follows its click
    both = joined_shown([places.copy(), places.copy()])
    assert len(np.unique(column(both, "visit"))) == 2 * len(np.unique(column(places, "visit")))


def test_a_setting_is_what_the_visit_did_elsewhere(vocabulary: Vocabulary, places: Any) -> None:
    """Against a walk: a place's own click is never part of its setting."""
    found = settings(places, vocabulary)
    group = vocabulary.group_row[column(places, "row")]
    visit, clicked = column(places, "visit"), column(places, "clicked")
    flags = 4 * column(places, "named") + 2 * column(places, "acted") + column(places, "bought")
    for at in np.random.Generator(np.random.PCG64(1)).integers(0, len(places), 60):
        others = (visit == visit[at]) & (np.arange(len(places)) != at)
        here, elsewhere = clicked[others & (group == group[at])].sum(), clicked[others & (group != group[at])].sum()
        assert found[at] == (min(here, 4) * 5 + min(elsewhere, 4)) * 8 + flags[at]


def test_worth_is_found_behind_who_was_shown_what() -> None:
    """Half of the items are shown to visits that are not about them: by clicks alone they would look bad."""
    bundle = Bundle.load(TINY)
    vocabulary, rng = bundle.vocabulary, np.random.Generator(np.random.PCG64(3))
    count, visits_ = 24, 4_000
    quality = np.tile([1.2, -1.2, 0.6, -0.6, 0.0, 0.3], 4)
    found = []
    for visit in range(visits_):
        about = int(rng.integers(4))
        for place in range(10):
            item = int(rng.integers(count))
            is_about = item // 6 == about
            if item % 2 == 0 and is_about and rng.random() < 0.8:  # even items are kept from who wants them
                continue
            chance = (0.9 if is_about else 0.15) / (1 + np.exp(0.5 - quality[item]))
            clicked = int(rng.random() < chance)
            found.append((visit % 200, visit, vocabulary.first_item + item, place, clicked, 0, int(is_about), 0, 0))
    nobody = Examples(*[_no_history()] * 2, *[np.zeros(1, np.int64)] * 11)
    content = np.zeros((vocabulary.size, len(CONTENTS)), np.float32)
    tastes, worth, _ = fit(np.array(found, np.int32), nobody, vocabulary, content, seed=1, epochs=60)
    got = worth[vocabulary.first_item :]
    assert np.corrcoef(got, quality)[0, 1] > 0.9
    clicks = np.array(found)
    ratio = (
        np.bincount(clicks[:, 2], clicks[:, 4])[vocabulary.first_item :]
        / np.bincount(clicks[:, 2])[vocabulary.first_item :]
    )
    assert np.corrcoef(ratio, quality)[0, 1] < 0.8  # what plain click rates say
    assert tastes.factors.shape == (vocabulary.size, FACTORS)
    assert not tastes.factors[: vocabulary.first_item].any()
    for row in range(vocabulary.first_subcategory, vocabulary.first_item):
        members = vocabulary.group_row == row
        np.testing.assert_allclose(tastes.factors[members].sum(axis=0), 0, atol=1e-4)


def _no_history() -> Any:
    from models.traffic import Ragged

    return Ragged(np.zeros(0, np.int32), np.zeros(0, np.uint8), np.zeros(0, np.float32), np.zeros(2, np.int64))
