"""Scorer: the graphs against the formulas (slow numpy oracle), and what happens to odd input."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from models.assemble import popularity_of
from models.bundle import Bundle
from models.featurise import (
    ITEM_COUNTERS,
    PRICE_LEVEL,
    as_batch,
    calendar,
    history_anchor_ms,
    history_sides,
    numbers,
    tokens,
)
from models.oracle import Oracle
from models.samples import EDGES, NOW_MS, sample_states
from models.scorer import BOTTOM, DualSequenceScorer, PopularityScorer, encode_state_history, open_scorer
from schemas.user_state import UserState

TINY = Path(__file__).parents[1] / "fixtures/bundles/tiny-1"


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return Bundle.load(TINY)


@pytest.fixture
def scorer(bundle: Bundle) -> DualSequenceScorer:
    return DualSequenceScorer(bundle)


def test_the_graphs_compute_the_formulas(bundle: Bundle, scorer: DualSequenceScorer) -> None:
    """Contract: within 1e-4 of the oracle on edges (no history, no session, neither, full) and random states."""
    oracle, weights = Oracle(bundle), np.array([bundle.manifest.task_weights[task] for task in bundle.manifest.tasks])
    width = bundle.manifest.config["counters"]  # features that came after the bundle was made are not its inputs
    rng = np.random.Generator(np.random.PCG64(3))
    for number, state in enumerate(sample_states(bundle.vocabulary, len(EDGES) + 12, seed=5)):
        surface = number % 2
        rows = rng.integers(1, bundle.vocabulary.size, 3).astype(np.int32)
        over_time = rng.normal(0, 1, (3, len(ITEM_COUNTERS))).astype(np.float32) if number % 3 else None
        encoding = encode_state_history(scorer, state, NOW_MS)
        served = scorer.score(state, encoding, rows, NOW_MS, ("nowhere", "home")[surface], item_counters=over_time)
        session = tokens(state.session(), NOW_MS, bundle.vocabulary)
        history = tokens(state.history(), history_anchor_ms(state, NOW_MS), bundle.vocabulary)
        level = bundle.statics[:, PRICE_LEVEL]
        before = history_sides(*as_batch(history), bundle.vocabulary, level)
        counted = numbers(state, session, before, rows, bundle.vocabulary, level, NOW_MS, over_time)
        for score, row, seen in zip(served, rows, counted):
            logits = oracle.logits(session, history, int(row), seen[:width], calendar(NOW_MS), surface)
            assert score == pytest.approx(logits @ weights + bundle.prior[row], abs=1e-4)


def test_every_part_of_the_input_matters(bundle: Bundle, scorer: DualSequenceScorer) -> None:
    state = list(sample_states(bundle.vocabulary, 12))[-1]
    rows = np.arange(bundle.vocabulary.first_item, bundle.vocabulary.size, dtype=np.int32)
    encoding = encode_state_history(scorer, state, NOW_MS)
    base = scorer.score(state, encoding, rows, NOW_MS, "home")
    others = {
        "surface": scorer.score(state, encoding, rows, NOW_MS, "cart"),
        "hour": scorer.score(state, encoding, rows, NOW_MS + 5 * 3_600_000, "home"),
        "history": scorer.score(state, scorer.encode_history(UserState().history(), NOW_MS), rows, NOW_MS, "home"),
        "session and counters": scorer.score(UserState(), encoding, rows, NOW_MS, "home"),
    }
    trending = np.full((len(rows), len(ITEM_COUNTERS)), 0.5, np.float32)
    others["item counters"] = scorer.score(state, encoding, rows, NOW_MS, "home", item_counters=trending)
    for name, scores in others.items():
        assert np.abs(scores - base).max() > 1e-4, name


def test_a_score_does_not_depend_on_the_other_candidates(bundle: Bundle, scorer: DualSequenceScorer) -> None:
    state = list(sample_states(bundle.vocabulary, 10))[-1]
    encoding = encode_state_history(scorer, state, NOW_MS)
    rows = np.tile(np.arange(1, bundle.vocabulary.size, dtype=np.int32), 400)[:10_000]  # 10,000, with duplicates
    many = scorer.score(state, encoding, rows, NOW_MS, "home")
    few = scorer.score(state, encoding, rows[:5], NOW_MS, "home")
    np.testing.assert_allclose(many[:5], few, atol=1e-5)
    size = bundle.vocabulary.size - 1
    np.testing.assert_allclose(many[:size], many[size : 2 * size], atol=1e-5)


def test_no_candidates_no_scores(scorer: DualSequenceScorer) -> None:
    encoding = encode_state_history(scorer, UserState(), NOW_MS)
    assert scorer.score(UserState(), encoding, np.zeros(0, np.int32), NOW_MS, "home").shape == (0,)


def test_what_is_no_number_sinks_to_the_bottom_and_is_counted(scorer: DualSequenceScorer) -> None:
    scorer._tables.item_part[9] = np.nan
    encoding = encode_state_history(scorer, UserState(), NOW_MS)
    scores = scorer.score(UserState(), encoding, np.array([8, 9, 10], np.int32), NOW_MS, "home")
    assert scores[1] == BOTTOM
    assert np.isfinite(scores).all()
    assert scorer.non_finite == 1


def test_an_item_counter_that_is_no_number_sinks_its_item_alone(scorer: DualSequenceScorer) -> None:
    over_time = np.array([[0, 0, 0], [np.nan, 0, 0], [0, 0, np.inf]], np.float32)
    encoding = encode_state_history(scorer, UserState(), NOW_MS)
    rows = np.array([8, 9, 10], np.int32)
    scores = scorer.score(UserState(), encoding, rows, NOW_MS, "home", item_counters=over_time)
    assert scores[1] == BOTTOM
    assert scores[0] == scorer.score(UserState(), encoding, rows[:1], NOW_MS, "home")[0]


def test_a_run_can_be_stopped(scorer: DualSequenceScorer) -> None:
    stop = onnxruntime.RunOptions()
    stop.terminate = True
    with pytest.raises(Exception, match="terminate"):
        scorer.encode_history(UserState().history(), NOW_MS, stop)


def test_the_encoding_knows_its_size(bundle: Bundle, scorer: DualSequenceScorer) -> None:
    state = list(sample_states(bundle.vocabulary, 6))[-1]
    encoding = encode_state_history(scorer, state, NOW_MS)
    groups = 4 * (3 * bundle.vocabulary.first_item + 2)
    assert encoding.nbytes == 4 * 17 * max(1, len(state.history_slots)) + groups


def test_popularity_keeps_the_same_contract(bundle: Bundle, tmp_path: Path) -> None:
    scorer = open_scorer(Bundle.load(popularity_of(bundle, tmp_path, "p")))
    assert isinstance(scorer, PopularityScorer)
    rows = np.array([9, 12, 9], np.int32)
    scores = scorer.score(UserState(), encode_state_history(scorer, UserState(), NOW_MS), rows, NOW_MS, "home")
    np.testing.assert_array_equal(scores, bundle.popularity[rows])
    assert scorer.encode_history(UserState().history(), 0).nbytes == 0


def test_session_vector(bundle: Bundle) -> None:
    scorer = open_scorer(bundle)
    states = list(sample_states(bundle.vocabulary, 3))
    assert not scorer.session_vector(states[0], NOW_MS).any()
    assert scorer.session_vector(states[2], NOW_MS).shape == (8,)


def test_a_policys_weights_stand_in_for_the_bundles(bundle: Bundle, scorer: DualSequenceScorer) -> None:
    state = list(sample_states(bundle.vocabulary, 10))[-1]
    encoding, rows = encode_state_history(scorer, state, NOW_MS), np.arange(1, 6, dtype=np.int32)
    own = scorer.score(state, encoding, rows, NOW_MS, "home")
    same = scorer.score(state, encoding, rows, NOW_MS, "home", weights=bundle.manifest.task_weights)
    np.testing.assert_array_equal(own, same)
    by_task = [
        scorer.score(state, encoding, rows, NOW_MS, "home", weights={task: 1.0}) - bundle.prior[rows]
        for task in bundle.manifest.tasks
    ]
    weights = [bundle.manifest.task_weights[task] for task in bundle.manifest.tasks]
    np.testing.assert_allclose(np.dot(weights, by_task) + bundle.prior[rows], own, atol=1e-5)
