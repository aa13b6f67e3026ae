"""Ranks, figures and their uncertainty, held to naive ones on seeded random data."""

from __future__ import annotations

import math

import numpy as np
import pytest

from models.evaluation.outcomes import Confidence
from models.evaluation.ranks import bootstrap, hit_rate, ndcg, paired, ranks_in_lists, ranks_in_rows, reciprocal
from models.evaluation.report import calibration_error


def test_ranks_count_what_stands_at_least_as_high() -> None:
    """Contract: ties count against the model, and what is not finite sinks."""
    scores = np.array([[3.0, 1.0, 2.0], [1.0, 1.0, 1.0], [np.nan, 0.0, np.inf], [np.nan, np.nan, 1.0]])
    assert ranks_in_rows(scores, np.array([0, 0, 1, 0])).tolist() == [1, 3, 1, 3]


def test_ranks_in_lists_are_those_in_rows() -> None:
    rng = np.random.default_rng(0)
    lists = [rng.integers(0, 4, size).astype(float) for size in (2, 7, 3, 25)]
    places = np.array([0, 6, 1, 12])
    starts = np.cumsum([0, *map(len, lists)])
    wanted = [int(ranks_in_rows(one[None], places[at : at + 1])[0]) for at, one in enumerate(lists)]
    assert ranks_in_lists(np.concatenate(lists), starts, places).tolist() == wanted


def test_metrics_of_known_ranks() -> None:
    ranks = np.array([1, 3, 21])
    assert hit_rate(ranks, 20).tolist() == [1, 1, 0]
    np.testing.assert_allclose(reciprocal(ranks, 20), [1, 1 / 3, 0])
    np.testing.assert_allclose(reciprocal(ranks), [1, 1 / 3, 1 / 21])
    np.testing.assert_allclose(ndcg(ranks, 20), [1, 1 / math.log2(4), 0])


def test_the_interval_draws_sessions_and_not_cases() -> None:
    """A session repeated tenfold holds no more evidence than once."""
    rng = np.random.default_rng(1)
    values, clusters = rng.normal(size=200), np.arange(200)
    once = bootstrap(values, clusters)
    tenfold = bootstrap(np.repeat(values, 10), np.repeat(clusters, 10))
    assert tenfold.high - tenfold.low == pytest.approx(once.high - once.low, rel=0.05)
    assert once.high - once.low == pytest.approx(2 * 1.96 / math.sqrt(200), rel=0.15)


def test_the_paired_test_sees_a_difference_and_no_other() -> None:
    rng = np.random.default_rng(2)
    base, clusters = rng.normal(size=500), np.repeat(np.arange(250), 2)
    better = base + 0.1 + 0.2 * rng.normal(size=500)
    found = paired(better, base, clusters)
    assert found.p < 0.01 and found.interval.low > 0
    assert paired(base, base, clusters).p == 1.0
    # With no difference, p is spread evenly: about 5 in 100 below .05.
    below = sum(paired(rng.normal(size=100), np.zeros(100), np.arange(100), seed).p < 0.05 for seed in range(100))
    assert below <= 12


def test_calibration_error_is_the_distance_of_claim_and_truth() -> None:
    rng = np.random.default_rng(4)
    claimed = rng.uniform(size=20_000)
    right = rng.uniform(size=20_000) < claimed
    assert calibration_error(Confidence(claimed, right)) < 0.02
    assert calibration_error(Confidence(np.full(100, 0.9), np.arange(100) % 2 == 0)) == pytest.approx(0.4)
