"""What a slate policy adds to a list: CPU of rules, diversity, exploration and all of them, over the default policy.

    python -m bench.policy            200 candidates to 50 places, one thread; a table, and JSON as the last line

The ranker is left out: scores are made up, so that what is measured is the policy's own. Policies take turns, so that whatever
else the machine does meets all of them; the table has the median and the least of the rounds.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

from models.store import BundleStore
from schemas.event import Click
from schemas.items import Item
from schemas.policy import (
    DEFAULT,
    Blocked,
    Bought,
    Cap,
    Dpp,
    Explore,
    Following,
    Hidden,
    Mmr,
    OutOfStock,
    Policy,
    PriceBand,
    Seen,
    Stability,
)
from schemas.user_state import UserState
from udfs.logic.exploration import BetaTables
from udfs.logic.sessions import Position, apply_event
from udfs.logic.slate import World, rank

CANDIDATES, PLACES, ROUNDS, TIMES = 200, 50, 15, 40
NOW_MS = 1_767_225_600_000
RULES = (
    Seen(),
    Bought(days=30),
    Hidden(),
    OutOfStock(),
    Blocked(items=["none"], sellers=["seller-3"]),
    PriceBand(least=2, most=80),
    Cap(by="seller", most=3, within=20),
)
EXPLORED = [Explore(places=[4, 9, 14], policy="thompson", floor=0.05)]
POLICIES = {
    "default": DEFAULT,
    "seven rules": Policy(version="rules", rules=RULES),
    "mmr": Policy(version="mmr", diversity=Mmr(relevance=0.8)),
    "dpp": Policy(version="dpp", diversity=Dpp(relevance=3.0)),
    "thompson at three places": Policy(version="explored", slots=list(EXPLORED)),
    "stability": Policy(version="stability", stability=Stability(top=10, moves=3)),
    "follow": Policy(version="follow", slots=[Following(places=[1])]),
    "mmr and thompson": Policy(version="mmr-explored", diversity=Mmr(relevance=0.8), slots=list(EXPLORED)),
    "dpp and thompson": Policy(version="dpp-explored", diversity=Dpp(relevance=3.0), slots=list(EXPLORED)),
    "all, mmr": Policy(version="all-mmr", rules=RULES, diversity=Mmr(relevance=0.8), slots=list(EXPLORED)),
    "all, dpp": Policy(version="all-dpp", rules=RULES, diversity=Dpp(relevance=3.0), slots=list(EXPLORED)),
}


class MadeUp:
    """A bundle's items, with scores at random."""

    def __init__(self) -> None:
        self._bundle = BundleStore("", 16).current
        self.version, self.name = "made-up", "made-up"
        self.item_ids, self.seen_hashes = self._bundle.item_ids, self._bundle.seen_hashes
        self.rows, self.level, self.vectors = self._bundle.rows, self._bundle.level, self._bundle.vectors
        self.feature_ids, self.features = self._bundle.feature_ids, self._bundle.features
        self.has_light = False
        self._found = self._bundle.retrieve(self.state(), CANDIDATES, NOW_MS, lambda _stage: None)
        self._scores = np.random.default_rng(1).normal(size=len(self.item_ids)).astype(np.float32)

    def state(self) -> UserState:
        """Half of 50 clicks in an earlier session."""
        state = UserState()
        for number, item_id in enumerate(self.item_ids[100:150]):
            at_ms = NOW_MS - (2 * 3_600_000 if number < 25 else 0)
            click = Click(event_id=f"e{number}", session_id="s", ts_ms=at_ms, schema_version=2, item_id=item_id)
            apply_event(state, click, Position(0, number, at_ms))
        return state

    def described(self, *_: object) -> dict[str, tuple[str | None, str | None]]:
        return {}

    def retrieve(self, *_: object) -> object:
        return self._found

    def score(self, _state: object, _history: object, rows: object, *_: object) -> object:
        return self._scores[rows]


def main() -> None:
    ranker, rng, tables = MadeUp(), np.random.default_rng(2), BetaTables()
    state, ids = ranker.state(), ranker.item_ids
    catalogue = {
        one: Item(
            item_id=one,
            category=f"category-{n % 8}",
            subcategory=f"subcategory-{n % 40}",
            seller=f"seller-{n % 100}",
            price=float(n % 90),
        )
        for n, one in enumerate(ids)
    }
    counted, rows = rng.poisson((5.0, 100.0), (len(ids), 2)).astype(float), {one: row for row, one in enumerate(ids)}
    previous = rng.permutation(ids)[:PLACES].tolist()
    took: dict[str, list[float]] = {name: [] for name in POLICIES}
    for _ in range(ROUNDS):
        for name, policy in POLICIES.items():
            begun = time.thread_time_ns()
            for seed in range(TIMES):
                world = World(
                    catalogue=catalogue,
                    policy=policy,
                    exposures=lambda asked: counted[[rows[one] for one in asked]],
                    previous=previous,
                    seed=seed,
                    tables=tables,
                )
                rank(
                    state,
                    ranker,
                    world,
                    lambda _state: None,
                    surface="home",
                    k=PLACES,
                    limit=CANDIDATES,
                    now_ms=NOW_MS,
                    stop=None,
                )
            took[name].append((time.thread_time_ns() - begun) / TIMES / 1e6)
    found = {}
    for name, times in took.items():
        over = [one - default for one, default in zip(times, took["default"])]
        found[name] = {"ms": round(statistics.median(times), 3), "over_default_ms": round(statistics.median(over), 3)}
        found[name]["least_over_default_ms"] = round(min(times) - min(took["default"]), 3)
        sys.stdout.write(
            f"{name:<26} {found[name]['ms']:.2f} ms, {found[name]['over_default_ms']:.2f} over the default "
            f"(least {found[name]['least_over_default_ms']:.2f})\n"
        )
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
