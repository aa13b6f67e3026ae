"""A comparison ends in time: fits share what is left of the limit, and one that is cut short says so."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
import pytest

from models.baselines.contract import Floats, Tick, until, unwatched
from models.evaluation.budget import Budget
from models.evaluation.outcomes import on_sessions
from models.evaluation.session_files import Prefixes, Sessions, Split


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_fits_share_what_is_left_by_their_efforts() -> None:
    clock = Clock()
    budget = Budget(1000, 1 + 3, clock)
    first = budget.of("first", 1, unwatched)
    clock.now = 75
    assert first(5, 10) == pytest.approx(75 / (0.75 * 1000 / 4))
    second = budget.of("second", 3, unwatched)  # what the first left is the second's
    clock.now = 75 + 925 * 0.75
    assert second(10, 10) == pytest.approx(1.0)
    assert budget.cut == []


def test_a_fit_that_is_cut_short_is_told_of_once() -> None:
    clock = Clock()
    budget = Budget(100, 1, clock)
    tick = budget.of("slow: fit", 1, unwatched)
    clock.now = 80
    assert tick(1, 10) > 1 and tick(2, 10) > 1
    assert budget.cut == ["slow: fit: its 75 s were up before its last step; --minutes gives it more."]


def test_without_a_limit_no_time_is_gone() -> None:
    clock = Clock()
    tick = Budget(math.inf, 1, clock).of("any", 1, unwatched)
    clock.now = 1e9
    assert tick(1, 10) == 0.0
    assert until(0.5, lambda _done, _of: 0.4)(1, 2) == 0.8


class Endless:
    """A model that fits until it is told to end."""

    logits: ClassVar[bool] = False
    effort: ClassVar[float] = 1

    def fit(self, training: Sessions, tick: Tick) -> None:
        step = 0
        while tick(step, 10**9) < 1:
            step += 1

    def score(self, asked: Prefixes) -> Floats:
        return np.zeros((len(asked), 3), np.float32)


def test_a_comparison_ends_although_a_model_would_not() -> None:
    """Contract: and the reader learns which figures are of a model that was cut short."""
    one = Sessions(np.array([0, 1, 2]), np.arange(3.0), np.array([0, 3]), 3)
    found = on_sessions(Split(one, one, [], 0), {"endless": lambda _seed: Endless()}, 1, lambda _what: unwatched, 0.1)
    assert any(note.startswith("endless: fit, seed 0: its 1 s were up") for note in found.notes)


@pytest.mark.parametrize("name", ["gru4rec", "dual_sequence", "lightgbm"])
def test_a_trained_model_that_is_short_of_time_ends_and_ranks(name: str) -> None:
    """Contract: with half of its steps it still gives finite scores."""
    torch = pytest.importorskip("torch", reason="needs the extra `train`")
    torch.manual_seed(0)
    from tests.unit.test_evaluation_models import cycles, lists, visits

    calls = 0

    def tick(_done: int, _of: int) -> float:
        nonlocal calls
        calls += 1
        return calls / 5

    if name == "gru4rec":
        from models.baselines.gru4rec import GRU4Rec
        from models.baselines.sequence import SequenceSettings
        from models.evaluation.session_files import prefixes

        model = GRU4Rec(SequenceSettings(dim=8, batch=4))
        model.fit(cycles(100, 0), tick)
        assert calls < 10
        assert np.isfinite(model.score(prefixes(cycles(5, 1)))).all()
        return
    from models.baselines.trees import LambdaMART
    from models.dual.ranker import DualSettings
    from models.dual.rerank import DualSequence

    ranker = LambdaMART() if name == "lightgbm" else DualSequence(DualSettings(dim=8, bins=4, members=2, batch=4))
    ranker.fit(lists(visits(50, 0)), tick)
    assert calls == 5
    assert np.isfinite(ranker.score(lists(visits(5, 1)))).all()
