"""How items and shoppers fare that nobody trained on: a small training with a tenth of the items held out, level by level.

    traffic without held-out items ─ ranker ─ towers ─ content map
    other shoppers' visits ─ clicks on held-out items ─┬─ place in the list that was shown, by the ranker
                                                       └─ place among all items, by the towers

    python -m models.cold_start --shoppers 400 --test-shoppers 200
    python -m models.cold_start --bundle models/bundles/demo-6t

Each level of the chain stands in for the same items: subcategory, category, global. Content vectors are made for the purpose: what
an encoder of pictures and texts might say, the item's style and subcategory with noise, and its price.
"""

from __future__ import annotations

import argparse
import importlib
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console

from models import content_map, distil
from models.bundle import Bundle
from models.checkpoint import Checkpoints
from models.featurise import Floats
from models.release import release
from models.scorer import encode_state_history, open_scorer
from models.statistics import contents, last_sessions
from models.towers import Towers
from models.traffic import Examples, examples, moments, shop_items
from models.train import SURFACES, Corpus, Settings, Trainer, knowledge, train
from models.vocabulary import PADDING, Vocabulary, build_vocabulary
from schemas.items import Item
from schemas.user_state import UserState

EVERY = 10  # one item in so many is held out
FIRST_TEST = 800_000  # number of the first shopper to test on
_DAYS = 28
_CONTENT = 12  # wide: of style, subcategory and price


class Case(NamedTuple):
    """A click on a held-out item: the state before it, the list it stood in, and where."""

    state: UserState
    now_ms: int
    items: tuple[str, ...]
    clicked: tuple[int, ...]  # places of held-out items that were clicked


def held_out(items: tuple[Item, ...]) -> set[str]:
    return {item.item_id for item in items[::EVERY]}


def without(data: Examples, vocabulary: Vocabulary) -> Examples:
    """Places of items that the vocabulary does not know are no places."""
    known = data.items >= vocabulary.first_item
    for name in ("clicked", "carted", "bought"):
        setattr(data, name, getattr(data, name) & known)
    data.items = np.where(known, data.items, PADDING)
    return data


def cases(logs: Any, unknown: set[str]) -> Iterator[Case]:
    states: dict[int, UserState] = {}
    for log in logs:
        for shown, state in moments(log, states.setdefault(log.shopper.number, UserState())):
            clicked = [place for place, hit in enumerate(shown.clicked) if hit and shown.items[place] in unknown]
            if clicked:
                yield Case(state, shown.ts_ms, shown.items, tuple(clicked))


def made_content(world: Any, seed: int = 1) -> dict[str, list[float]]:
    rng = np.random.Generator(np.random.PCG64(seed))
    groups = rng.standard_normal((int(world.subcategory.max()) + 1, _CONTENT - 5))[world.subcategory]
    columns = np.concatenate((world.style, groups, world.price_level[:, None]), axis=1)
    noisy = columns + 0.5 * columns.std(axis=0) * rng.standard_normal(columns.shape)
    return {item_id: row.tolist() for item_id, row in zip(world.ids, noisy)}


def stand_ins(items: tuple[Item, ...]) -> dict[str, Callable[[str], tuple[str | None, str | None]]]:
    """What each level says of an unknown item."""
    by_id = {item.item_id: item for item in items}
    return {
        "subcategory": lambda item_id: (by_id[item_id].subcategory, by_id[item_id].category),
        "category": lambda item_id: (None, by_id[item_id].category),
        "global": lambda _item_id: (None, None),
    }


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m models.cold_start", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shop", default="demo", help="package with `offline` and `world` (default demo)")
    parser.add_argument(
        "--bundle", type=Path, help="measure this one, which knows all items: what is lost where a level stands in"
    )
    parser.add_argument("--shoppers", type=int, default=400, help="to train on (default 400)")
    parser.add_argument("--test-shoppers", type=int, default=200, help="to test on (default 200)")
    parser.add_argument("--moments", type=int, default=400, help="to distil the towers on (default 400)")
    options = parser.parse_args(arguments)
    started = time.process_time()
    items = shop_items(options.shop)
    unknown = held_out(items)
    visits = importlib.import_module(f"{options.shop}.offline").visits
    bundle = Bundle.load(options.bundle) if options.bundle else trained(options, items, unknown)
    test = visits(range(FIRST_TEST, FIRST_TEST + options.test_shoppers), days=_DAYS, seed=2)
    content = made_content(importlib.import_module(f"{options.shop}.world").load())
    found = measured(bundle, test, unknown, items, content)
    for name, row in found.items():
        print(f"{name:<14}" + "  ".join(f"{key} {value}" for key, value in row.items()))
    print(json.dumps({"held_out": len(unknown), **found, "cpu_seconds": round(time.process_time() - started)}))


def trained(options: argparse.Namespace, items: tuple[Item, ...], unknown: set[str]) -> Bundle:
    """A small training, and towers, without the items held out."""
    known = tuple(item for item in items if item.item_id not in unknown)
    vocabulary = build_vocabulary(known)
    visits = importlib.import_module(f"{options.shop}.offline").visits
    data = without(examples(visits(range(options.shoppers), days=_DAYS), vocabulary), vocabulary)
    corpus = Corpus(data, vocabulary, contents(known, vocabulary), None)
    settings = Settings(epochs=1, threads=1)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        trainer = Trainer(settings, corpus)
        train(trainer, Console(stderr=True), Checkpoints(folder))
        source = release(
            folder, "held-out", trainer.model, vocabulary, knowledge(corpus, last_sessions(data)),
            surfaces=SURFACES, metrics={}, training={}, samples=50,
        )  # fmt: skip
        of_towers = replace(distil.Settings(), moments=options.moments)
        return Bundle.load(distil.distil(source, "with-towers", options.shop, of_towers, ""))


def measured(
    bundle: Bundle, test: Any, unknown: set[str], items: tuple[Item, ...], content: dict[str, list[float]]
) -> dict[str, dict[str, float]]:
    """By level: of clicks on held-out items, NDCG@10 in the list shown by the ranker; share of the first 200 and 1,000 items
    by the towers. `as shown` is the order that was logged."""
    levels = stand_ins(items)
    vocabulary, towers = bundle.vocabulary, Towers(bundle)
    scorer, ids = open_scorer(bundle), sorted(unknown)
    stand_in = {name: {item_id: vocabulary.group_of(*of(item_id)) for item_id in ids} for name, of in levels.items()}
    if vocabulary.is_item(vocabulary.row(ids[0])):
        stand_in["itself"] = {item_id: vocabulary.row(item_id) for item_id in ids}
    vectors = {name: towers.vectors[list(rows.values())] for name, rows in stand_in.items()}
    learnt = {item_id: vector for item_id, vector in content.items() if item_id not in unknown}
    mapped = content_map.fitted(learnt, vocabulary, towers.vectors)
    assert mapped is not None  # the shop's items have content
    group = np.array(list(stand_in["subcategory"].values()))
    own = np.array([content[item_id] for item_id in ids], np.float32)
    vectors["content"] = vectors["subcategory"] + (own - mapped.means[group]) @ mapped.weights
    place_of = {item_id: place for place, item_id in enumerate(ids)}
    ndcg: dict[str, list[float]] = {name: [] for name in (*stand_in, "as shown")}
    within: dict[str, list[int]] = {name: [] for name in vectors}
    first = vocabulary.first_item
    for case in cases(test, unknown):
        user = towers.user(case.state, towers.past(case.state, case.now_ms), case.now_ms).recall
        of_known = towers.vectors[first:] @ user
        for name, of in vectors.items():
            for place in case.clicked:
                score = of[place_of[case.items[place]]] @ user
                within[name].append(int((of_known > score).sum()))
        encoding = encode_state_history(scorer, case.state, case.now_ms)
        for name, row_of in stand_in.items():
            named = [row_of.get(item_id) or vocabulary.row(item_id) for item_id in case.items]
            scores = scorer.score(case.state, encoding, np.array(named, np.int32), case.now_ms, "home")
            ndcg[name].append(_ndcg(scores, case.clicked))
        ndcg["as shown"].append(_ndcg(-np.arange(len(case.items), dtype=np.float32), case.clicked))
    table: dict[str, dict[str, float]] = {}
    for name in (*stand_in, "content", "as shown"):
        row: dict[str, float] = {}
        if ndcg.get(name):
            row["ndcg@10"] = round(float(np.mean(ndcg[name])), 4)
        if within.get(name):
            row |= {f"among_{n}": round(float(np.mean(np.array(within[name]) < n)), 4) for n in (200, 1_000)}
        table[name] = row | {"n": len(ndcg["as shown"])}
    return table


def _ndcg(scores: Floats, clicked: tuple[int, ...]) -> float:
    """Ties count half a place each."""
    gains = []
    for place in clicked:
        above = float((scores > scores[place]).sum() + 0.5 * ((scores == scores[place]).sum() - 1))
        gains.append(1 / np.log2(2 + above))
    return float(sum(gains) / sum(1 / np.log2(2 + n) for n in range(len(clicked))))


if __name__ == "__main__":
    main()
