"""The table of item features that lists take their candidates' rows from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from models.bundle import Bundle
from models.featurise import ITEM_COUNTERS
from models.item_features import Fetched, Groups, ItemFeatureTable, Refresher
from models.scorer import DualSequenceScorer
from models.store import LoadedBundle
from tests.fakes import NOW, wait_until

TINY = Path(__file__).parents[1] / "fixtures/bundles/tiny-1"


class FakeSource:
    """Every item of `known` has the value e; the others are missing. Remembers what it was asked."""

    def __init__(self, *known: str) -> None:
        self.known, self.offsets = set(known), {0: 1}
        self.asked: list[tuple[str, Groups]] = []
        self.fails = False

    def fetch(
        self, item_ids: Sequence[str], now_ms: int, names: Sequence[str], groups: Sequence[Groups] | None = None
    ) -> Fetched:
        if self.fails:
            self.fails = False
            raise RuntimeError("the copy is being changed")
        assert tuple(names) == ITEM_COUNTERS
        assert groups is not None
        self.asked += list(zip(item_ids, groups))
        has = np.array([item_id in self.known for item_id in item_ids])[:, None].repeat(len(names), axis=1)
        return Fetched(np.where(has, np.e, 1.0).astype(np.float32), ~has)


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return Bundle.load(TINY)


def test_rows_are_logarithms_and_what_is_missing_is_zero_and_counted(bundle: Bundle) -> None:
    table = ItemFeatureTable(bundle.vocabulary, FakeSource("trail-1"))
    table.refresh(NOW)
    rows = bundle.vocabulary.rows(["trail-1", "trail-2", "trail-1"])
    np.testing.assert_allclose(table.take(rows), [[1] * 3, [0] * 3, [1] * 3], rtol=1e-6)
    assert (table.taken, table.nulls.tolist()) == (3, [1, 1, 1])


def test_every_row_is_asked_for_with_its_groups(bundle: Bundle) -> None:
    """So that rows which stand in for unknown items have the rates of their group."""
    source = FakeSource()
    ItemFeatureTable(bundle.vocabulary, source).refresh(NOW)
    asked = dict(source.asked)
    assert len(asked) == bundle.vocabulary.size
    assert asked["trail-0"] == asked["trail"] == ("trail", "shoes")
    assert asked["shoes"] == (None, "shoes")
    assert asked["<global>"] == (None, None)


def test_a_list_names_the_version_it_was_served(bundle: Bundle) -> None:
    """Contract: the offsets are those of the refresh, not of the copy as it is now."""
    source = FakeSource()
    table = ItemFeatureTable(bundle.vocabulary, source)
    assert table.offsets == {}
    table.refresh(NOW)
    source.offsets[0] = 9
    assert table.offsets == {0: 1}


def test_without_a_source_or_before_it_is_read_everything_is_missing(bundle: Bundle) -> None:
    unread = FakeSource()
    unread.offsets = {}
    for table in (ItemFeatureTable(bundle.vocabulary, None), ItemFeatureTable(bundle.vocabulary, unread)):
        table.refresh(NOW)
        assert not table.take(np.array([8, 9], np.int32)).any()
        assert table.nulls.tolist() == [2, 2, 2]
    assert unread.asked == []


def test_the_refresher_outlives_a_failure(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.item_features.REFRESH_S", 0.01)
    source = FakeSource("trail-1")
    source.fails = True
    table = ItemFeatureTable(bundle.vocabulary, source)
    refresher = Refresher(lambda: [table])
    refresher.start()
    try:
        wait_until(lambda: table.offsets == {0: 1})
    finally:
        refresher.stop()


def test_a_loaded_bundle_is_warm_and_has_counted_nothing(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """Contract: loading ranks made-up users, and what that took is not in the null rates."""
    ranked = []
    score = DualSequenceScorer.score
    monkeypatch.setattr(DualSequenceScorer, "score", lambda self, *args: ranked.append(args) or score(self, *args))
    loaded = LoadedBundle(bundle, 2**20, None, FakeSource())
    assert max(len(args[0].session_slots) for args in ranked) >= 5
    assert max(len(args[0].history_slots) for args in ranked) >= 10
    assert loaded.item_features.offsets == {0: 1}
    assert loaded.item_features.taken == 0
    assert loaded.cache.hits == loaded.cache.misses == 0
