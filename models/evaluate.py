"""Evaluate a bundle on shoppers nobody trained on: expected CTR of its lists next to popularity and the optimum.

    python -m models.evaluate models/bundles/VERSION --visits 400 --crowd 1000

Lists are filled by the shop's own slate policy, as the job does; --policy names another, and --beside one that is charged on
the same moments, to say what the first earns or costs over it. What explored places believe is the policy's prior.
With a crowd, the item counters are those of its traffic at each moment, point in time; without, the registry's defaults.

The shop (default: demo) judges: it plays visits, shows the lists and knows the true click probabilities.
"""

from __future__ import annotations

import argparse
import importlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from models.bundle import Bundle
from models.counts import CountsOverTime, acts_of
from models.featurise import Floats
from models.store import LoadedBundle
from models.vocabulary import Rows
from schemas.items import Item
from schemas.policy import ANY_SURFACE, DEFAULT, DEFAULT_VERSION, Policy, PolicyError, parse_policy
from schemas.user_state import UserState
from udfs.logic.decisions import seed_of
from udfs.logic.sessions import Position, apply_event
from udfs.logic.slate import World, rank

SURFACE = "home"
_CACHE_BYTES = 2**24


class _Moment:
    """In the place of the job's copy of item features: what it would hold now."""

    def __init__(self, counts: CountsOverTime | None) -> None:
        self._counts, self.now_ms = counts, 0
        self.offsets: dict[int, int] = {}

    def take(self, rows: Rows) -> Floats:
        assert self._counts is not None
        found: Floats = np.exp(self._counts.features(np.array([self.now_ms]), rows[None])[0])
        return found


class BundleRanking:
    """`rank(situation)` of a shop's evaluation: the state by the stream's own logic, the list by the job's own stages."""

    def __init__(
        self,
        bundle: Bundle,
        items: Iterable[Item],
        policy: Policy = DEFAULT,
        counts: CountsOverTime | None = None,
        limit: int = 200,
        k: int = 10,
    ) -> None:
        self._bundle = LoadedBundle(bundle, _CACHE_BYTES, None)
        self._moment = _Moment(counts)
        if counts is not None:
            self._bundle.item_features = self._moment
        self._catalogue = {item.item_id: item for item in items}
        self._unavailable = {item_id for item_id, item in self._catalogue.items() if item.stock == 0}
        self._policy, self._limit, self._k = policy, limit, k
        self._key, self._applied, self._state = "", 0, UserState()

    def __call__(self, situation: Any) -> list[str]:
        state, now_ms = self._state_of(situation), situation.now_ms
        self._moment.now_ms = now_ms
        encode = self._bundle.history_encoder(situation.key, now_ms, None)
        seed = seed_of(situation.key, SURFACE, 0, state.list_no, self._policy.version)
        slate = rank(
            state,
            self._bundle,
            World(self._unavailable, self._catalogue, self._policy, seed=seed),
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
    parser.add_argument(
        "--policy", default="", help="slate policy, a TOML file, or 1: the default one (default: the shop's own)"
    )
    parser.add_argument("--beside", default="", help="another policy, charged on the same moments; not with --changes")
    options = parser.parse_args(arguments)
    if options.changes and options.beside:
        parser.error("--beside compares clicks, and --changes counts none: leave one out.")
    judge = importlib.import_module(f"{options.shop}.evaluate")
    world = importlib.import_module(f"{options.shop}.world")
    items = world.load().items
    try:
        policy = _policy(options.policy) if options.policy else world.policy()
        beside = _policy(options.beside) if options.beside else None
    except (OSError, PolicyError) as error:
        parser.error(str(error))
    bundle = Bundle.load(options.bundle)
    if options.changes:
        changes = importlib.import_module(f"{options.shop}.changes")
        shares = changes.followed(
            BundleRanking(bundle, items, policy),
            visits=options.changes,
            seed=options.seed,
            first_shopper=options.first_shopper,
        )
        print(json.dumps({
            "bundle": bundle.version, "policy": policy.version, "visits": options.changes, "new_intent_leads_by_event": shares,
        }))  # fmt: skip
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
    rankings = [BundleRanking(bundle, items, one, counts) for one in (policy, beside) if one is not None]
    account, *others = judge.evaluate_beside(
        rankings, visits=options.visits, seed=options.seed, first_shopper=options.first_shopper, start_ms=start_ms
    )
    found = account.shares()
    print(judge.table(account))
    ranked, popular = found["ranked"], found["popularity"]
    over: dict[str, Any] = {}
    if beside is not None:
        more, more_se = account.over(others[0])
        over = {"beside": beside.version, "ctr_over_beside": round(more, 6), "ctr_over_beside_se": round(more_se, 6)}
    print(json.dumps({
        "bundle": bundle.version, "policy": policy.version, "crowd": options.crowd, "visits": options.visits,
        "lists": account.moments,
        "ctr": round(ranked.ctr, 5),
        "of_popularity": round(ranked.ctr / popular.ctr, 3), "of_optimum": round(ranked.of_optimum, 3),
        "of_optimum_se": round(ranked.of_optimum_se, 4),
        **over,
    }))  # fmt: skip


def _policy(named: str) -> Policy:
    """Of a file, or of the default's version. Raises OSError and PolicyError."""
    if named == DEFAULT_VERSION:
        return DEFAULT
    found = parse_policy(Path(named).read_text(), named)
    if found.surface not in (SURFACE, ANY_SURFACE):
        raise PolicyError(
            f"{named}: surface is {found.surface}, and the shop's lists are of {SURFACE}: name another policy."
        )
    return found


if __name__ == "__main__":
    main()
