"""The training side: losses against plain loops, batches against single requests. Needs the `train` extra."""

from __future__ import annotations

import itertools
import math
from array import array
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from models import losses  # noqa: E402
from models.bundle import Bundle  # noqa: E402
from models.check import check, torch_logits  # noqa: E402
from models.counts import Acts  # noqa: E402
from models.dataset import Batch, Levels, batches, changed, counted, grouped, padded  # noqa: E402
from models.featurise import (  # noqa: E402
    COUNTERS,
    GROUPS,
    NUMBERS,
    Tastes,
    as_batch,
    counters,
    history_sides,
    numbers,
    session_sides,
    tokens,
)
from models.naive import ranker_of  # noqa: E402
from models.ranker import DualSequenceRanker, RankerConfig, pool  # noqa: E402
from models.samples import NOW_MS, sample_states  # noqa: E402
from models.scorer import encode_state_history, open_scorer  # noqa: E402
from models.statistics import STATICS  # noqa: E402
from models.traffic import Examples, Ragged  # noqa: E402
from models.train import kept, start_from  # noqa: E402
from udfs.logic.sessions import ACTION_KIND  # noqa: E402

TINY = Path(__file__).parents[1] / "fixtures/bundles/tiny-1"


def test_listwise_is_each_positive_against_the_passed_over() -> None:
    logits = torch.tensor([[1.0, 0.5, -1.0, 2.0, 0.0]])
    positive = torch.tensor([[True, False, False, False, False]])
    shown = torch.tensor([[True, True, True, True, False]])
    near = {1: 2.0, 2: 2.0, 3: 1.0}  # within two places of the positive, a negative weighs double
    total = sum(weight * math.exp(logits[0, place]) for place, weight in near.items())
    wanted = -math.log(math.exp(1.0) / (math.exp(1.0) + total))
    assert float(losses.listwise(logits, positive, shown)) == pytest.approx(wanted, rel=1e-5)


def test_listwise_without_positives_is_zero_and_no_nan() -> None:
    logits = torch.zeros(2, 3, requires_grad=True)
    loss = losses.listwise(logits, torch.zeros(2, 3, dtype=torch.bool), torch.ones(2, 3, dtype=torch.bool))
    loss.backward()
    assert float(loss.detach()) == 0
    assert torch.isfinite(logits.grad).all()


def test_log_q_makes_the_sample_stand_for_all() -> None:
    """Sampling items by Q and correcting by log Q estimates the sum over all items: exact for equal exp(s)/Q."""
    scores = torch.log(torch.tensor([0.1, 0.2, 0.7])) + 3.0
    log_q = torch.log(torch.tensor([0.1, 0.2, 0.7]))
    everything = float(torch.logsumexp(scores, 0))
    for drawn in ([0, 1], [2, 2], [1, 0]):
        hit = torch.zeros(1, 2, dtype=torch.bool)
        one, positive = torch.zeros(1, 1), torch.ones(1, 1, dtype=torch.bool)
        got = losses.sampled_softmax(one, positive, scores[drawn][None], log_q[drawn][None], hit)
        assert float(got) == pytest.approx(math.log1p(math.exp(everything)), rel=1e-5)


def test_weighted_bce_weighs_positives_by_repeats() -> None:
    logits, repeats = torch.zeros(1, 2), torch.tensor([[math.log(4), 0.0]])
    got = losses.weighted_bce(logits, torch.tensor([[True, False]]), torch.ones(1, 2, dtype=torch.bool), repeats, 0.5)
    assert float(got) == pytest.approx(math.log(2) * (1 + 0.5 * math.log(4) + 1) / 2, rel=1e-5)


def ragged(lengths: list[int], rng: np.random.Generator) -> Ragged:
    total = sum(lengths)
    starts = np.concatenate(([0], np.cumsum(lengths)))
    return Ragged(rng.integers(1, 30, total), rng.integers(0, 128, total), rng.random(total).astype(np.float32), starts)


def test_every_list_is_in_one_batch_with_its_history() -> None:
    rng = np.random.Generator(np.random.PCG64(1))
    count = 40
    history = np.sort(rng.integers(0, 12, count))
    data = Examples(
        ragged(list(range(12)), rng), ragged([n % 5 for n in range(count)], rng), history, np.arange(count), np.arange(count),
        np.arange(count * 10).reshape(count, 10), *[np.zeros((count, 10), bool)] * 3,
        np.zeros((count, 10, COUNTERS), np.float32), np.zeros((count, 3), np.int16), np.zeros(count, np.int64),
        Acts(*[np.zeros(0, np.int64)] * 3),
    )  # fmt: skip
    vocabulary = Bundle.load(TINY).vocabulary
    seen = []
    for batch in batches(data, np.arange(count), 7, rng, Levels(vocabulary, np.zeros(vocabulary.size, np.float32))):
        for items, place in zip(batch.items, batch.history):
            number = int(items[0]) // 10
            seen.append(number)
            assert int(batch.histories.lengths[place]) == history[number]
    assert sorted(seen) == list(range(count))


def test_changed_sessions_end_as_the_lists_own() -> None:
    """Contract: all lists keep their own tokens last; a share begins with another list's, which is older; none is too long."""
    rng = np.random.Generator(np.random.PCG64(6))
    lengths = [int(n) for n in rng.integers(0, 40, 60)]
    sessions = ragged(lengths, rng)
    lists = np.arange(60)
    found, numbers = changed(sessions, lists, rng, 0.5)
    grown = 0
    for number, length in zip(numbers, lengths):
        got = found.rows[found.starts[number] : found.starts[number + 1]]
        hours = found.log_hours[found.starts[number] : found.starts[number + 1]]
        own = slice(sessions.starts[number], sessions.starts[number] + length)
        assert got[len(got) - length :].tolist() == sessions.rows[own].tolist()
        assert len(got) <= max(length, 50)
        if len(got) > length:
            grown += 1
            assert hours[: len(got) - length].min() > sessions.log_hours[own].max()
    assert 15 <= grown <= 40
    same, numbers = changed(sessions, lists, rng, 0.0)
    np.testing.assert_array_equal(same.rows, sessions.rows)


def test_what_is_counted_for_samples_is_what_featurise_counts() -> None:
    """Contract: for a state whose sequences hold all it did, both count the same."""
    vocabulary = Bundle.load(TINY).vocabulary
    rng = np.random.Generator(np.random.PCG64(4))
    level = rng.standard_normal(vocabulary.size).astype(np.float32)
    items = np.arange(vocabulary.size) >= vocabulary.first_item
    columns = rng.random((vocabulary.size, 3)) * items[:, None], rng.random(vocabulary.size), *rng.random((2, 128))
    tastes = Tastes(*(column.astype(np.float32) for column in columns))
    for state in sample_states(vocabulary, 12, seed=4):
        state.nibbles[:] = bytes(len(state.nibbles))
        state.tail.counter_overflow.clear()
        state.session_ts = array("i", sorted(state.session_ts))
        for slot, code in [
            *zip(state.history_slots, state.history_actions),
            *zip(state.session_slots, state.session_actions),
        ]:
            if (code & 15) in ACTION_KIND:
                state.count(slot, ACTION_KIND[code & 15])
        session, history = tokens(state.session(), NOW_MS, vocabulary), tokens(state.history(), NOW_MS, vocabulary)
        sides = [
            padded(Ragged(one.rows, one.actions, one.log_hours, np.array([0, one.length])), np.arange(1), rng, 0.0)
            for one in (history, session)
        ]
        rows = np.arange(vocabulary.first_item, vocabulary.size, dtype=np.int32)
        now = session_sides(*as_batch(session), vocabulary, level, tastes)
        before = history_sides(*as_batch(history), vocabulary, level, tastes)
        both = (
            np.concatenate((now.groups, before.groups), axis=-1),
            now.prices + before.prices,
            now.tastes + before.tastes,
        )
        rest = [None] * 7
        batch = Batch(*sides, torch.zeros(1, dtype=torch.int64), *rest, *map(torch.from_numpy, both), None, None)  # type: ignore[arg-type]
        chosen = torch.from_numpy(rows.astype(np.int64))[None]
        got = counted(batch, chosen)[0]
        np.testing.assert_allclose(got.numpy(), counters(state, rows, vocabulary, NOW_MS), rtol=1e-4, atol=1e-5)
        of_groups, recent = (one[0].numpy() for one in grouped(batch, chosen, Levels(vocabulary, level, tastes)))
        served = numbers(state, session, before, rows, vocabulary, level, NOW_MS, None, tastes)
        np.testing.assert_allclose(of_groups, served[:, COUNTERS : COUNTERS + GROUPS], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(recent, served[:, -recent.shape[1] :], rtol=1e-3, atol=1e-4)


def test_padding_does_not_change_a_score() -> None:
    ranker = ranker_of(Bundle.load(TINY))
    rng = np.random.Generator(np.random.PCG64(2))
    items = torch.randn(32, 8)
    sequences = padded(ragged([3, 7, 1], rng), np.arange(3), rng, 0.0)
    queries = torch.randn(1, 4, 9)
    queries[..., -1] = 1.0
    keys, values, _ = ranker.session(items[sequences.rows], sequences.actions, sequences.log_hours, sequences.padding)
    together = pool(queries.expand(3, 4, 9), keys, values)
    for number, length in enumerate((3, 7, 1)):
        alone = [column[number, :length] for column in (sequences.rows, sequences.actions, sequences.log_hours)]
        keys, values, _ = ranker.session(items[alone[0]], alone[1], alone[2])
        torch.testing.assert_close(pool(queries[0], keys, values), together[number], atol=1e-5, rtol=1e-5)


def test_the_fixture_is_still_what_torch_computes() -> None:
    bundle = Bundle.load(TINY)
    assert check(bundle, ranker_of(bundle), 40) < 1e-4


def test_hard_collapse() -> None:
    """Contract: without a history the gate is on the session, and the other way round; without both u is 0."""
    bundle = Bundle.load(TINY)
    ranker = ranker_of(bundle)
    rows = np.arange(8, 14, dtype=np.int32)
    states = list(itertools.islice(sample_states(bundle.vocabulary, 8), 8))
    scorer = open_scorer(bundle)
    for state in states[:3]:
        before = torch_logits(bundle, ranker, state, rows)
        with torch.no_grad():
            ranker.gate_out.bias += 50.0  # would open the gate wide, were it asked
        after = torch_logits(bundle, ranker, state, rows)
        np.testing.assert_array_equal(before, after)
        assert np.isfinite(scorer.score(state, encode_state_history(scorer, state, NOW_MS), rows, NOW_MS, "home")).all()


def test_training_goes_on_from_a_bundle_with_fewer_inputs() -> None:
    """Contract: item vectors and groups are the bundle's, weights too, and inputs that it did not have begin without effect."""
    bundle = Bundle.load(TINY)
    config = RankerConfig(**{**bundle.manifest.config, "counters": NUMBERS + 1, "statics": len(STATICS) + 1})
    vocabulary = bundle.vocabulary
    rows = [torch.from_numpy(rows.astype(np.int64)) for rows in (vocabulary.subcategory_row, vocabulary.category_row)]
    model = DualSequenceRanker(config, rows[0], rows[1], torch.randn(vocabulary.size, config.contents))
    start_from(model, bundle)
    with torch.no_grad():
        np.testing.assert_allclose(model.item_table().numpy()[1:], bundle.embedding[1:], atol=1e-5)
    known = bundle.manifest.config["counters"]
    np.testing.assert_array_equal(
        model.head_counters.weight.detach()[:, :known], bundle.weights["head_counters.weight"]
    )
    assert not model.head_counters.weight.detach()[:, known:].any()
    gate = model.gate_numbers.weight.detach()
    np.testing.assert_array_equal(gate[:, -2:], bundle.weights["gate_numbers.weight"][:, -2:])
    assert not gate[:, 2 + known : -2].any()
    np.testing.assert_array_equal(model.history.key.weight.detach(), bundle.weights["history.key.weight"])


def test_what_an_earlier_run_left_is_taken_up(tmp_path: Path) -> None:
    path = tmp_path / "run" / "lists.pickle"
    assert kept(path, True, {}, lambda: "first") == "first"  # nothing there yet
    assert kept(path, True, {}, lambda: "second") == "first"
    assert kept(path, False, {}, lambda: "third") == "third"
