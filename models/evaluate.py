"""Evaluate a bundle on shoppers nobody trained on: expected CTR of its lists next to popularity and the optimum.

    python -m models.evaluate models/bundles/VERSION --visits 400 --crowd 1000

With a crowd, the item counters are those of its traffic at each moment, point in time; without, the registry's defaults.

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
from models.counts import CountsOverTime, acts_of
from models.featurise import Floats
from models.store import LoadedBundle
from models.vocabulary import Rows
from schemas.user_state import UserState
from udfs.logic.sessions import Position, apply_event
from udfs.logic.slate import rank

SURFACE = "home"
_CACHE_BYTES = 2**24


class _Moment:
    """In the place of the job's copy of item features: what it would hold now."""

    def __init__(self, counts: CountsOverTime | None) -> None:
        self._counts, self.now_ms = counts, 0
        self.offsets: dict[int, int] = {}

    def take(self, rows: Rows) -> Floats:
        assert self._counts is not None
        return self._counts.features(np.array([self.now_ms]), rows[None])[0]


class BundleRanking:
    """`rank(situation)` of a shop's evaluation: the state by the stream's own logic, the list by the job's own stages."""

    def __init__(
        self,
        bundle: Bundle,
        unavailable: set[str],
        counts: CountsOverTime | None = None,
        limit: int = 200,
        k: int = 10,
    ) -> None:
        self._bundle = LoadedBundle(bundle, _CACHE_BYTES, None)
        self._moment = _Moment(counts)
        if counts is not None:
            self._bundle.item_features = self._moment
        self._unavailable, self._limit, self._k = unavailable, limit, k
        self._key, self._applied, self._state = "", 0, UserState()

    def __call__(self, situation: Any) -> list[str]:
        state, now_ms = self._state_of(situation), situation.now_ms
        self._moment.now_ms = now_ms
        encode = self._bundle.history_encoder(situation.key, now_ms, None)
        slate = rank(
            state,
            self._bundle,
            self._unavailable,
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
    parser.add_argument(
        "--crowd", type=int, default=0, help="other shoppers whose traffic is counted for the item counters (default 0)"
    )
    parser.add_argument(
        "--days-later",
        type=int,
        default=0,
        help="evaluate so many days after the training's first (default 0: the same days)",
    )
    parser.add_argument(
        "--changes", type=int, default=0, help="instead: so many visits in which the intent changes (default 0)"
    )
    options = parser.parse_args(arguments)
    judge = importlib.import_module(f"{options.shop}.evaluate")
    items = importlib.import_module(f"{options.shop}.world").load().items
    bundle = Bundle.load(options.bundle)
    unavailable = {item.item_id for item in items if item.stock == 0}
    if options.changes:
        changes = importlib.import_module(f"{options.shop}.changes")
        shares = changes.followed(
            BundleRanking(bundle, unavailable),
            visits=options.changes,
            seed=options.seed,
            first_shopper=options.first_shopper,
        )
        print(json.dumps({"bundle": bundle.version, "visits": options.changes, "new_intent_leads_by_event": shares}))
        return
    shop = importlib.import_module(f"{options.shop}.offline")
    start_ms = shop.START_MS + options.days_later * 86_400_000
    counts = None
    if options.crowd:
        others = range(options.first_shopper + options.visits, options.first_shopper + options.visits + options.crowd)
        logs = shop.visits(others, start_ms=start_ms, seed=options.seed)
        counts = CountsOverTime(
            acts_of((event for log in logs for event in log.events), bundle.vocabulary), bundle.vocabulary
        )
    ranking = BundleRanking(bundle, unavailable, counts)
    account = judge.evaluate(
        ranking, visits=options.visits, seed=options.seed, first_shopper=options.first_shopper, start_ms=start_ms
    )
    found = account.shares()
    print(judge.table(account))
    ranked, popular = found["ranked"], found["popularity"]
    print(json.dumps({
        "bundle": bundle.version, "crowd": options.crowd, "visits": options.visits, "lists": account.moments,
        "ctr": round(ranked.ctr, 5),
        "of_popularity": round(ranked.ctr / popular.ctr, 3), "of_optimum": round(ranked.of_optimum, 3),
        "of_optimum_se": round(ranked.of_optimum_se, 4),
    }))  # fmt: skip


if __name__ == "__main__":
    main()
