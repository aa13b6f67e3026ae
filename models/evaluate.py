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

from models.bundle import Bundle
from models.store import LoadedBundle
from schemas.user_state import UserState
from udfs.logic.sessions import Position, apply_event
from udfs.logic.slate import World, rank

SURFACE = "home"
_CACHE_BYTES = 2**24


class BundleRanking:
    """`rank(situation)` of a shop's evaluation: the state by the stream's own logic, the list by the job's own stages."""

    def __init__(self, bundle: Bundle, unavailable: set[str], limit: int = 200, k: int = 10) -> None:
        self._bundle = LoadedBundle(bundle, _CACHE_BYTES, None)
        self._unavailable, self._limit, self._k = unavailable, limit, k
        self._key, self._applied, self._state = "", 0, UserState()

    def __call__(self, situation: Any) -> list[str]:
        state, now_ms = self._state_of(situation), situation.now_ms
        encode = self._bundle.history_encoder(situation.key, now_ms, None)
        slate = rank(
            state,
            self._bundle,
            World(self._unavailable),
            encode,
            surface=SURFACE,
            k=self._k,
            limit=self._limit,
            now_ms=now_ms,
            stop=None,
        )
        return [item.item_id for item in slate.items]

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
    parser.add_argument(
        "--first-shopper", type=int, default=500_000, help="number of the first shopper (default 500000)"
    )
    options = parser.parse_args(arguments)
    judge = importlib.import_module(f"{options.shop}.evaluate")
    items = importlib.import_module(f"{options.shop}.world").load().items
    bundle = Bundle.load(options.bundle)
    ranking = BundleRanking(bundle, {item.item_id for item in items if item.stock == 0})
    account = judge.evaluate(ranking, visits=options.visits, seed=options.seed, first_shopper=options.first_shopper)
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
