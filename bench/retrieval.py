"""Recall and cascade: searching a million vectors against an exact search, and each stage of a list of the shipped bundle.

    vectors   the item vectors of the shipped bundle, each many times with noise of 0.3 of their spread; queries: users' vectors
    exact     faiss IndexFlatIP, and the same product and selection in numpy
    index     models/nearest.py's, made and opened as a bundle's is

One thread. CPU time, medians over the queries; recall@1,000 is the share of the exact search's 1,000 that the index finds.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import faiss
import numpy as np
from rich.progress import track

from bench.machine import about
from bench.results import Retrieval, Searched
from bench.stack import err
from models.bundle import Bundle, latest
from models.nearest import Ivf, made_index
from models.samples import NOW_MS, sample_state, sample_states
from models.scorer import encode_state_history
from models.store import SHIPPED, LoadedBundle
from models.towers import Towers
from udfs.logic.slate import World, rank

FOUND = 1_000
_NOISE = 0.3
_SESSION, _HISTORY = 20, 100
_CACHE_BYTES = 2**24


def run(quick: bool, repeat: int) -> Retrieval:
    """Raises ValueError where the shipped bundle has no towers."""
    bundle = Bundle.load(SHIPPED / latest(SHIPPED))
    if not bundle.towers:
        raise ValueError(f"bundle {bundle.version} has no towers: python -m models.distil makes one that has")
    faiss.omp_set_num_threads(1)
    sizes = (100_000,) if quick else (100_000, 1_000_000)
    rng = np.random.Generator(np.random.PCG64(1))
    towers = Towers(bundle)
    queries = _queries(bundle, towers, 10 if quick else 40)
    searched = [
        _searched(_vectors(towers, bundle.vocabulary.first_item, size, rng), queries)
        for size in track(sizes, "Searching", console=err, transient=True)
    ]
    rounds = 30 if quick else 300
    stages = [_cascade(bundle, rounds) for _ in track(range(repeat), "The cascade", console=err, transient=True)]
    return Retrieval(
        about(
            quick, repeat, bundle=bundle.version, width=towers.vectors.shape[1], queries=len(queries),
            session=_SESSION, history=_HISTORY, rounds=rounds,
        ),
        searched,
        stages,
    )  # fmt: skip


def _vectors(towers: Towers, first: int, size: int, rng: np.random.Generator) -> Any:
    items = towers.vectors[first:]
    noise = rng.standard_normal((size, items.shape[1]), dtype=np.float32) * (_NOISE * items.std(axis=0))
    return items[rng.integers(0, len(items), size)] + noise


def _queries(bundle: Bundle, towers: Towers, count: int) -> Any:
    found = []
    for state in sample_states(bundle.vocabulary, 2 * count + 8):
        if state.session_slots and len(found) < count:
            found.append(towers.user(state, towers.past(state, NOW_MS), NOW_MS).recall)
    return np.stack(found)


def _searched(vectors: Any, queries: Any) -> Searched:
    flat = faiss.IndexFlatIP(vectors.shape[1])
    flat.add(vectors)
    exact = [set(flat.search(query[None], FOUND)[1][0].tolist()) for query in queries]
    size = len(vectors)
    started = time.process_time()
    made = made_index(vectors)
    made_s = time.process_time() - started
    index = Ivf(made, 0, size)
    shared = [len(wanted & set(index.search(query, FOUND).tolist())) for query, wanted in zip(queries, exact)]
    return Searched(
        size,
        _cpu_ms(lambda query: flat.search(query[None], FOUND), queries),
        _cpu_ms(lambda query: np.argpartition(vectors @ query, size - FOUND)[size - FOUND :], queries),
        _cpu_ms(lambda query: index.search(query, FOUND), queries),
        round(sum(shared) / (FOUND * len(queries)), 4),
        round(made_s, 1),
        round(len(made) / 2**20, 1),
    )


def _cpu_ms(function: Callable[[Any], Any], queries: Any) -> float:
    taken = []
    for query in (queries[0], *queries):
        started = time.process_time_ns()
        function(query)
        taken.append(time.process_time_ns() - started)
    return round(statistics.median(taken[1:]) / 1e6, 3)


def _cascade(bundle: Bundle, rounds: int) -> dict[str, float]:
    """CPU ms of each stage of a list of 50, history cached, and of all; medians of one run."""
    loaded = LoadedBundle(bundle, _CACHE_BYTES, None)
    rng = np.random.Generator(np.random.PCG64(1))
    state = sample_state(bundle.vocabulary, rng, _SESSION, _HISTORY)
    encoding = encode_state_history(loaded._scorer, state, NOW_MS)
    taken: dict[str, list[float]] = {}
    for _ in range(rounds + 10):
        started = time.process_time_ns()
        slate = rank(
            state, loaded, World(), lambda _state: encoding,
            surface="home", k=50, limit=200, now_ms=NOW_MS, stop=None,
        )  # fmt: skip
        whole = (time.process_time_ns() - started) / 1e6
        for name, value in {**slate.stage_ms, "whole, CPU": whole}.items():
            taken.setdefault(name, []).append(value)
    return {name: round(statistics.median(values[10:]), 3) for name, values in taken.items() if name != "encode"}
