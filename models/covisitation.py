"""Covisitation: ranks by what others acted on together with what this user acted on lately. Learnt by counting, no training.

score(item) = Σ over the last RECENT items acted on, newest first, i = 0 …   DECAY^i / (1 + place among its neighbours)
            + POPULAR · popularity / the largest popularity                    which orders what has no neighbour
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from models.bundle import Bundle
from models.vocabulary import Rows
from schemas.user_state import UserState

RECENT, DECAY = 12, 0.8
POPULAR = 0.01

Floats = npt.NDArray[np.float32]


class Covisitation:
    """The neighbours of a bundle as scores."""

    def __init__(self, bundle: Bundle) -> None:
        self._vocabulary, self._neighbours = bundle.vocabulary, bundle.neighbours
        self._base = (POPULAR * bundle.popularity / max(float(bundle.popularity.max()), 1.0)).astype(np.float32)
        by_place = 1.0 / (1.0 + np.arange(bundle.neighbours.shape[1], dtype=np.float32))
        self._weights = np.float32(DECAY) ** np.arange(RECENT, dtype=np.float32)[:, None] * by_place  # (RECENT, K)

    def score(self, state: UserState, rows: Rows) -> Floats:
        """(C,) one score a row."""
        scores = self._base.take(rows)
        seeds = self._seeds(state)
        if len(seeds):
            near = self._neighbours[seeds]  # (S, K)
            order = np.argsort(rows, kind="stable")
            places = np.searchsorted(rows, near, sorter=order).clip(max=len(rows) - 1)
            found = (rows[order[places]] == near) & (near > 0)
            added = np.bincount(order[places[found]], self._weights[: len(seeds)][found], len(rows))
            scores = scores + added.astype(np.float32)
        return scores

    def _seeds(self, state: UserState) -> npt.NDArray[Any]:
        """Rows of the latest items, newest first, each once."""
        slots = [*reversed(state.session_slots), *reversed(state.history_slots[-RECENT:])]
        rows = self._vocabulary.rows([state.ids[slot].decode() for slot in dict.fromkeys(slots)])
        return rows[rows >= self._vocabulary.first_item][:RECENT]
