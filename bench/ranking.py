"""Ranking: CPU of one ranking, from user state to scores, against the naive export of the same weights and against torch.

    hit     history encoding from the cache, session encoded, candidates gathered from tables: what serving does
    miss    the same, history encoded first
    naive   one ONNX graph that encodes both sequences, padded to their caps, and projects every candidate at each call
    torch   the model as it is trained, one thread

128 wide with random weights: cost does not depend on them. Catalogue and tables are those of the shipped bundle. The naive graph
and torch get their features from the same functions.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from rich.progress import track

from bench.machine import about
from bench.results import Ranking, Rankings
from bench.stack import err
from models.bundle import Bundle, latest
from models.measure import CANDIDATES, naive_inputs
from models.samples import NOW_MS, sample_state
from models.scorer import encode_state_history, open_graph, open_scorer
from models.store import SHIPPED

WIDTH, SESSION, HISTORY = 128, 20, 100


def run(quick: bool, repeat: int) -> Rankings:
    """Needs torch and onnx (the extra `train`); raises ImportError without."""
    with tempfile.TemporaryDirectory() as scratch:
        bundle, naive, ranker = _export(Path(scratch))
        rounds = 30 if quick else 300
        runs = [
            [_measure(bundle, naive, ranker, size, rounds) for size in CANDIDATES]
            for _ in track(range(repeat), "Ranking", console=err, transient=True)
        ]
    return Rankings(
        about(
            quick,
            repeat,
            width=WIDTH,
            session=SESSION,
            history=HISTORY,
            rounds=rounds,
            catalogue=bundle.vocabulary.size,
        ),
        runs,
    )


def _export(scratch: Path) -> tuple[Bundle, bytes, Any]:
    """A bundle of random weights through the export of every bundle, its check against torch included."""
    import torch

    from models.assemble import ItemKnowledge
    from models.export import naive_graph
    from models.ranker import DualSequenceRanker, RankerConfig
    from models.release import release

    torch.set_num_threads(1)
    torch.manual_seed(1)
    shipped = Bundle.load(SHIPPED / latest(SHIPPED))
    vocabulary = shipped.vocabulary
    config = RankerConfig(**{**shipped.manifest.config, "dim": WIDTH})
    subcategories, categories = (
        torch.from_numpy(rows.astype(np.int64)) for rows in (vocabulary.subcategory_row, vocabulary.category_row)
    )
    ranker = DualSequenceRanker(config, subcategories, categories, torch.randn(vocabulary.size, config.contents)).eval()
    knowledge = ItemKnowledge(
        shipped.statics, shipped.popularity, shipped.popularity, shipped.neighbours, shipped.tastes
    )
    folder = release(
        scratch, "bench", ranker, vocabulary, knowledge,
        surfaces=shipped.manifest.surfaces, metrics={}, training={}, samples=8,
    )  # fmt: skip
    bundle = Bundle.load(folder)
    naive = naive_graph(ranker, torch.from_numpy(bundle.embedding), torch.from_numpy(bundle.statics))
    return bundle, naive, ranker


def _measure(bundle: Bundle, naive: bytes, ranker: Any, size: int, rounds: int) -> Ranking:
    from models.check import torch_logits

    scorer, graph = open_scorer(bundle), open_graph(naive)
    rng = np.random.Generator(np.random.PCG64(1))
    state = sample_state(bundle.vocabulary, rng, SESSION, HISTORY)
    items = np.arange(bundle.vocabulary.first_item, bundle.vocabulary.size, dtype=np.int32)
    rows = rng.choice(items, size, replace=False).astype(np.int32)
    encoding = encode_state_history(scorer, state, NOW_MS)
    served = _Inputs(scorer)
    scorer.score(state, encoding, rows, NOW_MS, "home")
    naive_ready = naive_inputs(bundle, state, rows)
    served.release()
    np.testing.assert_allclose(
        served.graph.run(None, served.inputs)[0], torch_logits(bundle, ranker, state, rows), atol=1e-4
    )
    found = _cpu_ms(
        {
            "hit": lambda: scorer.score(state, encoding, rows, NOW_MS, "home"),
            "miss": lambda: scorer.score(state, encode_state_history(scorer, state, NOW_MS), rows, NOW_MS, "home"),
            "naive": lambda: graph.run(None, naive_inputs(bundle, state, rows)),
            "hit_graph": partial(served.graph.run, None, served.inputs),
            "naive_graph": partial(graph.run, None, naive_ready),
            "torch": lambda: torch_logits(bundle, ranker, state, rows),
        },
        rounds,
    )
    return msgspec.convert({"candidates": size, **found}, Ranking)


class _Inputs:
    """Looks at what the scorer hands its graph, until released."""

    def __init__(self, scorer: Any) -> None:
        self._scorer, self.graph = scorer, scorer._scorer
        self.inputs: dict[str, Any] = {}
        scorer._scorer = self

    def run(self, names: Any, inputs: dict[str, Any], options: Any) -> Any:
        self.inputs = inputs
        return self.graph.run(names, inputs, options)

    def release(self) -> None:
        self._scorer._scorer = self.graph


def _cpu_ms(functions: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Median CPU time of a call. In turns of ten, so that all meet the same machine."""
    taken: dict[str, list[int]] = {name: [] for name in functions}
    for _ in range(max(1, rounds // 10)):
        for name, function in functions.items():
            for _ in range(3):
                function()
            for _ in range(10):
                started = time.process_time_ns()
                function()
                taken[name].append(time.process_time_ns() - started)
    return {name: round(statistics.median(values) / 1e6, 3) for name, values in taken.items()}
