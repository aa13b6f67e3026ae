"""Baselines at work: models/baselines/ behind the scorer's contract (models/scorer.py), so that any of them can rank by bundle.

    last_interacted   the user's own items, the newest first; then by popularity
    v_sknn            items of the sessions most like this one                       sessions.npz
    gru4rec, sasrec   the inner product with what the encoder makes of the session   encoder.onnx, weights.npz: bias

What a user did is the items of the session, and of the history before it, the newest NEWEST at most.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from models.baselines.knn import VSKNN
from models.bundle import Bundle
from models.evaluation.session_files import Sessions
from models.featurise import Floats
from models.vocabulary import Rows, Vocabulary
from schemas.user_state import UserState

NEWEST = 50


class Baseline(Protocol):
    """(C,) one score a row, from the rows that the user acted on, oldest first, of which there is at least one."""

    def score(self, acted: Rows, rows: Rows, now_ms: int, run_options: Any) -> Floats: ...


class LastInteracted:
    def __init__(self, bundle: Bundle) -> None:
        self._base = _below_one(bundle.popularity)

    def score(self, acted: Rows, rows: Rows, now_ms: int, run_options: Any) -> Floats:
        places = np.zeros(len(self._base), np.float32)
        places[acted] = 1.0 + np.arange(len(acted))  # numpy keeps the last of equal indices
        found: Floats = (self._base + places).take(rows)
        return found


class NearSessions:
    """V-SKNN of the sessions in the bundle; what their items do not hold stands below, by popularity."""

    def __init__(self, bundle: Bundle) -> None:
        self._base, self._first = _below_one(bundle.popularity), bundle.vocabulary.first_item
        kept = bundle.sessions
        self._model = VSKNN()
        self._model.fit(
            Sessions(
                kept["items"].astype(np.int64),
                kept["times"].astype(np.float64),
                kept["starts"].astype(np.int64),
                bundle.vocabulary.size - self._first,
            ),
            lambda _done, _of: None,
        )

    def score(self, acted: Rows, rows: Rows, now_ms: int, run_options: Any) -> Floats:
        found = self._model.found(acted.astype(np.int64) - self._first, now_ms / 1000)
        scores = self._base.copy()
        if len(found.items) and found.scores.max() > 0:
            scores[found.items + self._first] += (1.0 + found.scores / found.scores.max()).astype(np.float32)
        taken: Floats = scores.take(rows)
        return taken


class Encoded:
    """GRU4Rec or SASRec: the graph takes (1, NEWEST, D) vectors of items and gives as many states, of which that of the newest item
    is the session's. Neither looks ahead, so what pads the end is never seen."""

    def __init__(self, bundle: Bundle, graph: Any) -> None:
        self._items, self._bias, self._graph = bundle.embedding, bundle.weights["bias"], graph

    def score(self, acted: Rows, rows: Rows, now_ms: int, run_options: Any) -> Floats:
        vectors = np.zeros((1, NEWEST, self._items.shape[1]), np.float32)
        vectors[0, : len(acted)] = self._items.take(acted, axis=0)
        state = self._graph.run(["states"], {"items": vectors}, run_options)[0][0, len(acted) - 1]
        found: Floats = self._items.take(rows, axis=0) @ state + self._bias.take(rows)
        return found


def acted_rows(state: UserState, vocabulary: Vocabulary) -> Rows:
    """(A,) rows of the items that the user acted on, oldest first."""
    slots = [*state.history_slots, *state.session_slots]
    rows = vocabulary.rows([state.ids[slot].decode() for slot in slots])
    return rows[rows >= vocabulary.first_item][-NEWEST:]


def _below_one(popularity: Floats) -> Floats:
    scaled: Floats = popularity / np.float32(1.0 + max(float(popularity.max()), 0.0))
    return scaled
