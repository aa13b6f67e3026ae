"""Pretrained: item vectors from what is acted on in the same session, for a ranker to begin with.

    sessions ─ pairs within a window, and each item with itself ─ positive PMI (N, N) ─ truncated SVD ─ (N, D)

What skip-gram with negative sampling fits is a shifted PMI matrix (Levy and Goldberg, 2014); here it is factorised at once. The
ranker begins as nearest neighbours do (models/ranker.py), so with these it begins with what goes together. Needs torch.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from models.traffic import Ragged
from models.vocabulary import Vocabulary

WINDOW = 5
_SPREAD = 0.4  # of a component, as that of a group's vector in the ranker


def item_vectors(sessions: Ragged, vocabulary: Vocabulary, dim: int, seed: int) -> npt.NDArray[Any]:
    """(N, dim) float32; zeros for groups, and for items that no session has beside another."""
    size, first = vocabulary.size, vocabulary.first_item
    rows = sessions.rows.astype(np.int64)
    session_of = np.repeat(np.arange(len(sessions.lengths())), sessions.lengths())
    codes = []
    for apart in range(1, WINDOW + 1):
        one, other = rows[:-apart], rows[apart:]
        good = (session_of[:-apart] == session_of[apart:]) & (one != other) & (one >= first) & (other >= first)
        codes += [one[good] * size + other[good], other[good] * size + one[good]]
    pairs, together = np.unique(np.concatenate(codes), return_counts=True)
    found = np.zeros((size, dim), np.float32)
    if not len(pairs):
        return found
    one, other = pairs // size, pairs % size
    # Each with itself as often as with all others: two that only meet each other come out alike, and not as opposites.
    times = np.bincount(one, together, size)
    beside = np.flatnonzero(times)
    one, other = np.concatenate((one, beside)), np.concatenate((other, beside))
    together = np.concatenate((together, times[beside]))
    times *= 2
    pmi = np.log(together * times.sum() / (times[one] * times[other]))
    kept = pmi > 0
    torch.manual_seed(seed)
    matrix = torch.sparse_coo_tensor(
        torch.from_numpy(np.stack((one[kept], other[kept]))),
        torch.from_numpy(pmi[kept].astype(np.float32)),
        (size, size),
        check_invariants=True,
    )
    width = min(dim, len(beside))
    left, strength, _ = torch.svd_lowrank(matrix.coalesce(), q=width, niter=4)
    vectors = (left * strength.sqrt()).numpy()
    length = np.linalg.norm(vectors[beside], axis=1, keepdims=True)
    found[beside, :width] = vectors[beside] / np.maximum(length, 1e-6) * _SPREAD * dim**0.5
    return found
