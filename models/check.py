"""Check: the exported graphs, run as they will be served, against torch. Part of every export; raises where they differ."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from models.bundle import Bundle
from models.export import TOLERANCE
from models.featurise import (
    ITEM_COUNTERS,
    PRICE_LEVEL,
    Floats,
    as_batch,
    calendar,
    history_anchor_ms,
    history_sides,
    numbers,
    tokens,
)
from models.ranker import DualSequenceRanker
from models.samples import NOW_MS, sample_states
from models.scorer import DualSequenceScorer, encode_state_history
from models.vocabulary import Rows
from schemas.user_state import UserState


def check(bundle: Bundle, ranker: DualSequenceRanker, count: int = 1_000) -> float:
    """The largest difference of a score over `count` random and edge states. `ranker` holds the weights before export."""
    ranker.eval()
    scorer = DualSequenceScorer(bundle)
    rng = np.random.Generator(np.random.PCG64(2))
    weights = np.array([bundle.manifest.task_weights[task] for task in bundle.manifest.tasks], dtype=np.float32)
    worst = 0.0
    for number, state in enumerate(sample_states(bundle.vocabulary, count)):
        sizes = (1, 0, 200, 1_000)
        size = sizes[number] if number < len(sizes) else int(rng.integers(1, 64))
        rows = rng.integers(1, bundle.vocabulary.size, size).astype(np.int32)
        # Every other state as where no item counters are served.
        over_time = rng.normal(0, 0.5, (size, len(ITEM_COUNTERS))).astype(np.float32) if number % 2 else None
        encoding = encode_state_history(scorer, state, NOW_MS)
        served = scorer.score(state, encoding, rows, NOW_MS, "home", item_counters=over_time)
        if len(served) != size or not np.isfinite(served).all():
            raise AssertionError(
                f"sample {number}: {len(served)} scores of {size} candidates, or one that is not finite"
            )
        if size:
            wanted = torch_logits(bundle, ranker, state, rows, over_time) @ weights + bundle.prior[rows]
            worst = max(worst, float(np.abs(served - wanted).max()))
            if worst > TOLERANCE:
                raise AssertionError(
                    f"sample {number}: torch and onnxruntime differ by {worst:.2e}, more than {TOLERANCE}"
                )
            if same_top(served, wanted) is False:
                raise AssertionError(f"sample {number}: torch and onnxruntime do not give the same top 50")
    return worst


def same_top(served: npt.NDArray[Any], wanted: npt.NDArray[Any], k: int = 50) -> bool:
    """Whether both give the same k best, but for swaps of scores that are closer than 1e-5."""
    gaps = wanted[np.argsort(-wanted, kind="stable")][:k] - wanted[np.argsort(-served, kind="stable")][:k]
    return bool(np.abs(gaps).max() <= 1e-5 + 2e-5 * np.abs(wanted).max())


@torch.no_grad()
def torch_logits(
    bundle: Bundle, ranker: DualSequenceRanker, state: UserState, rows: Rows, item_counters: Floats | None = None
) -> npt.NDArray[Any]:
    """(C, T) by the torch model on the stored item vectors."""
    items, statics = torch.from_numpy(bundle.embedding), torch.from_numpy(bundle.statics)
    vocabulary = bundle.vocabulary
    sides, lengths, read = [], [], []
    for stack, sequence, moment_ms in (
        (ranker.session, state.session(), NOW_MS),
        (ranker.history, state.history(), history_anchor_ms(state, NOW_MS)),
    ):
        one = tokens(sequence, moment_ms, vocabulary)
        keys, values, _ = stack(
            items[torch.from_numpy(one.rows.astype(np.int64))],
            torch.from_numpy(one.actions),
            torch.from_numpy(one.log_hours),
        )
        sides.append((keys, values))
        lengths.append(float(one.length))
        read.append(one)
    places = torch.from_numpy(rows.astype(np.int64))
    surface = bundle.manifest.surfaces.index("home")
    context = ranker.context_side(torch.tensor([*calendar(NOW_MS), surface]))
    level = bundle.statics[:, PRICE_LEVEL]
    before = history_sides(*as_batch(read[1]), vocabulary, level, bundle.tastes)
    found = numbers(state, read[0], before, rows, vocabulary, level, NOW_MS, item_counters, bundle.tastes)
    counted = torch.from_numpy(found[:, : ranker.config.counters])
    candidates = ranker.candidate_side(items[places], statics[places])
    return ranker.score(sides[0], sides[1], torch.tensor(lengths), candidates, counted, context).numpy()
