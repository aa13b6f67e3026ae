"""Scorer: a bundle at work. The only file that imports onnxruntime.

    history ── once per session ──► HistoryEncoding (cache it under the user's key, history_no and anchor)
    session ── once per request ─┐
    candidates ── rows of tables ┴─► one score each, all in one run of the graph

Higher is better, always finite. One thread, no spinning: the caller decides how many requests run side by side. A scorer may
be called from several threads at once, except for its counter `non_finite`, which may then miss some.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np
import onnxruntime

from models.baseline_scorers import Baseline, Encoded, LastInteracted, NearSessions, acted_rows
from models.bundle import (
    COVISITATION,
    DUAL_SEQUENCE,
    ENCODER_GRAPH,
    GRU4REC,
    HISTORY_GRAPH,
    LAST_INTERACTED,
    SASREC,
    SCORER_GRAPH,
    V_SKNN,
    Bundle,
    BundleError,
)
from models.covisitation import Covisitation
from models.featurise import (
    PRICE_LEVEL,
    Floats,
    Sides,
    as_batch,
    calendar,
    history_anchor_ms,
    history_sides,
    numbers,
    tokens,
)
from models.tables import build_tables
from models.vocabulary import Describe, Rows
from schemas.user_state import Sequence, UserState

BOTTOM = np.float32(-1e30)  # what a score that is not a number becomes


class HistoryEncoding(NamedTuple):
    """Keys and values of a history, as the pooling wants them; how many real tokens it had, and what they say of groups."""

    keys: Floats  # (D + 1, L)
    values: Floats  # (L, D)
    length: int
    sides: Sides | None = None  # None where the ranker does not look at them

    @property
    def nbytes(self) -> int:
        of_sides = sum(one.nbytes for one in self.sides) if self.sides is not None else 0
        return self.keys.nbytes + self.values.nbytes + of_sides


class Scorer(Protocol):
    """What every ranker offers. `run_options` is onnxruntime.RunOptions: its `terminate` ends a run that hangs.
    `item_counters` are featurise.ITEM_COUNTERS of the rows (C, 3), as logarithms; None where nothing is known: all 0."""

    bundle: Bundle
    non_finite: int  # scores that were not a number, since the start

    def encode_history(self, history: Sequence, anchor_ms: int, run_options: Any = None) -> HistoryEncoding: ...

    def score(
        self,
        state: UserState,
        encoding: HistoryEncoding,
        rows: Rows,
        now_ms: int,
        surface: str,
        run_options: Any = None,
        *,
        weights: Mapping[str, float] | None = None,
        item_counters: Floats | None = None,
    ) -> Floats: ...

    def session_vector(self, state: UserState, now_ms: int, run_options: Any = None) -> Floats: ...


def open_scorer(bundle: Bundle, threads: int = 1, describe: Describe | None = None) -> Scorer:
    """The scorer for this kind of bundle. `describe` tells the groups of items the bundle does not know."""
    if bundle.ranker == DUAL_SEQUENCE:
        return DualSequenceScorer(bundle, threads, describe)
    if bundle.ranker == COVISITATION:
        return CovisitationScorer(bundle)
    if bundle.ranker == LAST_INTERACTED:
        return BaselineScorer(bundle, LastInteracted(bundle))
    if bundle.ranker == V_SKNN:
        return BaselineScorer(bundle, NearSessions(bundle))
    if bundle.ranker in (GRU4REC, SASREC):
        return BaselineScorer(bundle, Encoded(bundle, _session(bundle, ENCODER_GRAPH, threads)))
    return PopularityScorer(bundle)


class DualSequenceScorer:
    def __init__(self, bundle: Bundle, threads: int = 1, describe: Describe | None = None) -> None:
        self.bundle, self.non_finite = bundle, 0
        self._describe = describe
        self._vocabulary = bundle.vocabulary
        self._tables = build_tables(bundle.embedding, bundle.statics, bundle.weights)
        manifest = bundle.manifest
        self._surfaces = {name: number for number, name in enumerate(manifest.surfaces)}
        self._task_weights = np.array([manifest.task_weights[task] for task in manifest.tasks], dtype=np.float32)
        self._prior = bundle.prior
        self._price_level = bundle.statics[:, PRICE_LEVEL].copy()
        self._history = _session(bundle, HISTORY_GRAPH, threads)
        self._scorer = _session(bundle, SCORER_GRAPH, threads)

    def encode_history(self, history: Sequence, anchor_ms: int, run_options: Any = None) -> HistoryEncoding:
        """Depends on history and anchor alone (featurise.history_anchor_ms), so it may be kept as long as they stay."""
        found = tokens(history, anchor_ms, self._vocabulary, self._describe)
        inputs = {
            "items": self._tables.items.take(found.rows, axis=0),
            "actions": found.actions,
            "log_hours": found.log_hours,
        }
        keys, values = self._history.run(["keys", "values"], inputs, run_options)
        sides = history_sides(*as_batch(found), self._vocabulary, self._price_level)
        return HistoryEncoding(keys, values, found.length, sides)

    def score(
        self,
        state: UserState,
        encoding: HistoryEncoding,
        rows: Rows,
        now_ms: int,
        surface: str,
        run_options: Any = None,
        *,
        weights: Mapping[str, float] | None = None,
        item_counters: Floats | None = None,
    ) -> Floats:
        """(C,) one score a row. `weights` of the tasks, in place of the manifest's; a task left out weighs nothing."""
        if not len(rows):
            return np.zeros(0, dtype=np.float32)
        tables = self._tables
        found = tokens(state.session(), now_ms, self._vocabulary, self._describe)
        inputs = {
            "session_items": tables.items.take(found.rows, axis=0),
            "session_actions": found.actions,
            "session_log_hours": found.log_hours,
            "lengths": np.array([found.length, encoding.length], dtype=np.float32),
            "history_keys": encoding.keys,
            "history_values": encoding.values,
            "queries": tables.queries.take(rows, axis=0),
            "projections": tables.projections.take(rows, axis=0),
            "sizes": tables.sizes.take(rows),
            "item_part": tables.item_part.take(rows, axis=0),
            "counters": numbers(
                state, found, encoding.sides, rows, self._vocabulary, self._price_level, now_ms, item_counters
            ),
            "context": tables.context(calendar(now_ms), self._surfaces.get(surface, 0)),
        }
        logits = self._scorer.run(["logits"], inputs, run_options)[0]  # (C, T)
        by = self._task_weights if weights is None else self._weights(weights)
        scores: Floats = logits @ by + self._prior.take(rows)
        return self._finite(scores)

    def session_vector(self, state: UserState, now_ms: int, run_options: Any = None) -> Floats:
        """(D,) mean of the session's encoded tokens; zeros without any."""
        found = tokens(state.session(), now_ms, self._vocabulary, self._describe)
        if not found.length:
            return np.zeros(self._tables.items.shape[1], dtype=np.float32)
        vector: Floats = self._tables.items.take(found.rows, axis=0).mean(axis=0)
        return vector

    def _weights(self, weights: Mapping[str, float]) -> Floats:
        return np.array([weights.get(task, 0.0) for task in self.bundle.manifest.tasks], dtype=np.float32)

    def _finite(self, scores: Floats) -> Floats:
        good = np.isfinite(scores)
        if not good.all():
            self.non_finite += int((~good).sum())
            scores = np.where(good, scores, BOTTOM)
        return scores


class PopularityScorer:
    """Ranks by popularity alone: the baseline, and the fallback, behind the same contract."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle, self.non_finite = bundle, 0

    def encode_history(self, history: Sequence, anchor_ms: int, run_options: Any = None) -> HistoryEncoding:
        return HistoryEncoding(np.zeros((1, 0), np.float32), np.zeros((0, 0), np.float32), len(history.item_ids))

    def score(
        self,
        state: UserState,
        encoding: HistoryEncoding,
        rows: Rows,
        now_ms: int,
        surface: str,
        run_options: Any = None,
        *,
        weights: Mapping[str, float] | None = None,
        item_counters: Floats | None = None,
    ) -> Floats:
        scores: Floats = self.bundle.popularity.take(rows)
        return scores

    def session_vector(self, state: UserState, now_ms: int, run_options: Any = None) -> Floats:
        return np.zeros(0, dtype=np.float32)


class CovisitationScorer(PopularityScorer):
    """Ranks by neighbours of what the user acted on lately, then by popularity: what a log gives without training."""

    def __init__(self, bundle: Bundle) -> None:
        super().__init__(bundle)
        self._covisitation = Covisitation(bundle)

    def score(
        self,
        state: UserState,
        encoding: HistoryEncoding,
        rows: Rows,
        now_ms: int,
        surface: str,
        run_options: Any = None,
        *,
        weights: Mapping[str, float] | None = None,
        item_counters: Floats | None = None,
    ) -> Floats:
        return self._covisitation.score(state, rows)


class BaselineScorer(PopularityScorer):
    """Ranks by one of models/baseline_scorers.py; by popularity where the user has done nothing yet."""

    def __init__(self, bundle: Bundle, baseline: Baseline) -> None:
        super().__init__(bundle)
        self._baseline = baseline

    def score(
        self,
        state: UserState,
        encoding: HistoryEncoding,
        rows: Rows,
        now_ms: int,
        surface: str,
        run_options: Any = None,
        *,
        weights: Mapping[str, float] | None = None,
        item_counters: Floats | None = None,
    ) -> Floats:
        acted = acted_rows(state, self.bundle.vocabulary)
        if not len(acted):
            return super().score(state, encoding, rows, now_ms, surface, run_options)
        return self._baseline.score(acted, rows, now_ms, run_options)


def encode_state_history(scorer: Scorer, state: UserState, now_ms: int, run_options: Any = None) -> HistoryEncoding:
    """The encoding for a state as it is now; what a cache calls on a miss."""
    return scorer.encode_history(state.history(), history_anchor_ms(state, now_ms), run_options)


def open_graph(graph: bytes, threads: int = 1) -> Any:
    """An onnxruntime.InferenceSession that uses no more than these threads and does not spin."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def _session(bundle: Bundle, name: str, threads: int) -> Any:
    try:
        return open_graph(bundle.graphs[name], threads)
    except Exception as error:  # onnxruntime raises classes of its own, without a common base
        raise BundleError(f"graph {name} of bundle {bundle.version} cannot be loaded: {error}") from error
