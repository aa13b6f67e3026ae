"""Evaluate a bundle on shoppers nobody trained on: expected CTR of its lists next to popularity and the optimum.

    python -m models.evaluate models/bundles/VERSION --visits 400

The shop (default: demo) judges: it plays visits, shows the lists and knows the true click probabilities.
"""

from __future__ import annotations

import argparse
import importlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from models.bundle import Bundle
from models.featurise import history_anchor_ms
from models.retrieval import Retriever
from models.scorer import open_scorer
from schemas.user_state import UserState
from udfs.logic.sessions import Position, apply_event

SURFACE = "home"


class BundleRanking:
    """`rank(situation)` of a shop's evaluation: state through the stream's own logic, then retrieve, filter and score."""

    def __init__(self, bundle: Bundle, unavailable: set[str], limit: int = 200, k: int = 10) -> None:
        self._scorer, self._retriever = open_scorer(bundle), Retriever(bundle)
        self._ids, self._limit, self._k = np.array(bundle.vocabulary.ids, dtype=object), limit, k
        sold_out = bundle.vocabulary.rows(sorted(unavailable)) if unavailable else np.zeros(0, np.int32)
        self._sold_out = np.zeros(bundle.vocabulary.size, dtype=bool)
        self._sold_out[sold_out] = True
        self._key, self._applied, self._state = "", 0, UserState()
        self._encoded: tuple[Any, Any] = (None, None)

    def __call__(self, situation: Any) -> list[str]:
        state = self._state_of(situation)
        rows, _ = self._retriever.retrieve(state, self._limit)
        rows = rows[~self._sold_out[rows]]
        anchor_ms = history_anchor_ms(state, situation.now_ms)
        key = (situation.key, situation.session_id, state.history_no, anchor_ms)
        if self._encoded[0] != key:
            self._encoded = (key, self._scorer.encode_history(state.history(), anchor_ms))
        scores = self._scorer.score(state, self._encoded[1], rows, situation.now_ms, SURFACE)
        best = rows[np.argsort(-scores, kind="stable")[: self._k]]
        ids: list[str] = self._ids[best].tolist()
        return ids

    def _state_of(self, situation: Any) -> UserState:
        events: Sequence[Any] = situation.events
        key = f"{situation.key}|{situation.session_id}"
        if key != self._key or len(events) < self._applied:
            self._key, self._applied, self._state = key, 0, UserState()
        for offset in range(self._applied, len(events)):
            apply_event(self._state, events[offset], Position(0, offset, events[offset].ts_ms))
        self._applied = len(events)
        return self._state


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m models.evaluate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", type=Path, help="a bundle's folder")
    parser.add_argument("--shop", default="demo", help="package with `evaluate` and `world` (default demo)")
    parser.add_argument("--visits", type=int, default=400, help="unseen shoppers, one visit each (default 400)")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    judge = importlib.import_module(f"{options.shop}.evaluate")
    items = importlib.import_module(f"{options.shop}.world").load().items
    bundle = Bundle.load(options.bundle)
    ranking = BundleRanking(bundle, {item.item_id for item in items if item.stock == 0})
    account = judge.evaluate(ranking, visits=options.visits, seed=options.seed)
    shares = account.shares()
    print(judge.table(account))
    ranked, popular = shares["ranked"], shares["popularity"]
    print(json.dumps({
        "bundle": bundle.version, "visits": options.visits, "lists": account.moments, "ctr": round(ranked.ctr, 5),
        "of_popularity": round(ranked.ctr / popular.ctr, 3), "of_optimum": round(ranked.of_optimum, 3),
        "of_optimum_se": round(ranked.of_optimum_se, 4),
    }))  # fmt: skip


if __name__ == "__main__":
    main()
