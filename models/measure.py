"""Measure: CPU time of each stage of a ranking, one thread.

python -m models.measure models/bundles/VERSION [--naive /tmp/naive.onnx]
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from models.bundle import Bundle
from models.featurise import PRICE_LEVEL, as_batch, calendar, counters, history_sides, numbers, tokens
from models.retrieval import Retriever
from models.samples import NOW_MS, sample_state
from models.scorer import encode_state_history, open_graph, open_scorer
from schemas.user_state import HISTORY_CAP, SESSION_CAP

CANDIDATES = (60, 200, 1_000)


def cpu_ms(function: Callable[[], Any], rounds: int = 300) -> float:
    """Median CPU time of a call of this process, in ms."""
    for _ in range(20):
        function()
    taken = []
    for _ in range(rounds):
        started = time.process_time_ns()
        function()
        taken.append(time.process_time_ns() - started)
    return round(float(np.median(taken)) / 1e6, 3)


def measure(bundle: Bundle, n_session: int, n_history: int, naive: bytes | None) -> dict[str, Any]:
    scorer, retriever = open_scorer(bundle), Retriever(bundle)
    rng = np.random.Generator(np.random.PCG64(1))
    state = sample_state(bundle.vocabulary, rng, n_session, n_history)
    encoding = encode_state_history(scorer, state, NOW_MS)
    items = np.arange(bundle.vocabulary.first_item, bundle.vocabulary.size, dtype=np.int32)
    found: dict[str, Any] = {
        "session": n_session,
        "history": n_history,
        "retrieve_200": cpu_ms(lambda: retriever.retrieve(state)),
        "encode_history": cpu_ms(lambda: encode_state_history(scorer, state, NOW_MS)),
    }
    graph = open_graph(naive) if naive is not None else None
    for size in CANDIDATES:
        rows = rng.choice(items, min(size, len(items)), replace=False).astype(np.int32)
        found[f"counters_{size}"] = cpu_ms(partial(counters, state, rows, bundle.vocabulary, NOW_MS))
        found[f"score_{size}"] = cpu_ms(partial(scorer.score, state, encoding, rows, NOW_MS, "home"))
        if graph is not None:
            found[f"naive_graph_{size}"] = cpu_ms(partial(graph.run, None, naive_inputs(bundle, state, rows)), 100)

    def whole() -> None:
        picked, _ = retriever.retrieve(state)
        scorer.score(state, encoding, picked, NOW_MS, "home")

    found["retrieve_and_score_200"] = cpu_ms(whole)
    return found


def naive_inputs(bundle: Bundle, state: Any, rows: Any) -> dict[str, Any]:
    """Both sequences padded to their caps, as a graph without dynamic lengths wants them."""
    history, session = (
        tokens(state.history(), NOW_MS, bundle.vocabulary),
        tokens(state.session(), NOW_MS, bundle.vocabulary),
    )
    level = bundle.statics[:, PRICE_LEVEL]
    before = history_sides(*as_batch(history), bundle.vocabulary, level, bundle.tastes)
    inputs: dict[str, Any] = {}
    for side, found, cap in (("history", history, HISTORY_CAP), ("session", session, SESSION_CAP)):
        more = cap - len(found.rows)
        inputs |= {
            f"{side}_rows": np.pad(found.rows.astype(np.int64), (0, more)),
            f"{side}_actions": np.pad(found.actions, (0, more)),
            f"{side}_log_hours": np.pad(found.log_hours, (0, more)),
            f"{side}_padding": np.pad(np.zeros(len(found.rows), np.float32), (0, more), constant_values=-1e9),
        }
    return inputs | {
        "lengths": np.array([session.length, history.length], np.float32),
        "rows": rows.astype(np.int64),
        "counters": numbers(state, session, before, rows, bundle.vocabulary, level, NOW_MS, None, bundle.tastes)[
            :, : bundle.manifest.config["counters"]
        ],
        "calendar": np.array([*calendar(NOW_MS), 1], np.int64),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m models.measure", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--naive", type=Path, help="graph written by models.naive")
    options = parser.parse_args()
    bundle = Bundle.load(options.bundle)
    for n_session, n_history in ((20, 100), (50, 200)):
        naive = options.naive.read_bytes() if options.naive else None
        print(json.dumps(measure(bundle, n_session, n_history, naive)))


if __name__ == "__main__":
    main()
