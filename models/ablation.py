"""Ablation: the same small training with one part off at a time, judged on shoppers held out, and where the truth is known.

    traffic of a shop ─ Corpus ─┬─ as it is ────────────┐
                                ├─ a loss at 0 ─────────┤
                                ├─ sequences emptied ───┼─ one training each, same seed, same steps ─ table
                                └─ gate at one half ────┘

    python -m models.ablation losses       what each loss, the sequences and the gate are worth
    python -m models.ablation positions    what learning a bias of each place is worth where lists are sorted by popularity

The tastes are left out: they are a fit of their own, on other shoppers (models/tastes.py).
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.console import Console

from models.checkpoint import Checkpoints
from models.dataset import made_batch
from models.statistics import contents
from models.traffic import Examples, Ragged, examples, shop_items
from models.train import Corpus, Settings, Trainer, train
from models.vocabulary import Vocabulary, build_vocabulary
from schemas.user_state import HISTORY_CAP

_DAYS = 28
_VALIDATION = ("validation_auc_in_list", "validation_next_mrr")
FIRST_TEST = 850_000  # number of the first shopper to test on


class Variant(NamedTuple):
    """What is changed, before the training and after the model is made."""

    settings: dict[str, Any] = {}
    of_data: Callable[[Examples], Examples] = lambda data: data
    of_trainer: Callable[[Trainer], None] | None = None


def without_sequences(data: Examples) -> Examples:
    """No tokens, and with them nothing that they say of groups; the user's counters of an item stay."""

    return replace(data, histories=_emptied(data.histories), sessions=_emptied(data.sessions))


def _emptied(sequences: Ragged) -> Ragged:
    return Ragged(sequences.rows[:0], sequences.actions[:0], sequences.log_hours[:0], np.zeros_like(sequences.starts))


def without_history(data: Examples) -> Examples:
    return replace(data, histories=_emptied(data.histories))


def without_session(data: Examples) -> Examples:
    return replace(data, sessions=_emptied(data.sessions))


def without_gate(trainer: Trainer) -> None:
    """Session and history weigh the same; where one is empty, the other has all."""
    for weight in trainer.model.gate_out.parameters():
        with torch.no_grad():
            weight.zero_()
        weight.requires_grad_(False)


def without_positions(trainer: Trainer) -> None:
    trainer.position_bias.requires_grad_(False)


LOSSES = {
    "all of it": Variant(),
    "no BCE": Variant({"bce": 0.0}),
    "no listwise": Variant({"listwise": 0.0}),
    "no near negatives": Variant({"near_negatives": 0.0}),
    "no sampled softmax": Variant({"sampled": 0.0}),
    "no repeat weight": Variant({"kappa": 0.0}),
    "no carts, no purchases": Variant({"cart": 0.0, "purchase": 0.0}),
    "no sequences": Variant(of_data=without_sequences),
    "no history": Variant(of_data=without_history),
    "no session": Variant(of_data=without_session),
    "no gate": Variant(of_trainer=without_gate),
}
POSITIONS = {
    "a bias of each place": Variant(),
    "none": Variant(of_trainer=without_positions),
}


class Truth(NamedTuple):
    """Lists shown to shoppers held out, and how relevant each place's item truly was; 0 where there is none."""

    data: Examples
    relevance: Any  # (E, P)
    examination: Any  # (P,)


def collected(shop: str, vocabulary: Vocabulary, shoppers: range, policy: Any = None) -> tuple[Examples, Any]:
    """Examples, and the true P(click) of each of their places."""
    visits = importlib.import_module(f"{shop}.offline").visits
    logs = list(visits(shoppers, days=_DAYS, policy=policy))
    data = examples(logs, vocabulary)
    chances = np.zeros(data.items.shape)
    # In the order of models/traffic.py: by visit, and within it by time.
    for row, one in enumerate(one for log in logs for one in log.exposures):
        assert row < len(data) and one.ts_ms == data.ts_ms[row]
        chances[row, : len(one.probability)] = one.probability[: data.items.shape[1]]
    return data, chances


def sorted_by_popularity(shop: str) -> Any:
    """The shop's usual lists, the most popular item first: as most shops log, places say what an item is worth."""
    usual = importlib.import_module(f"{shop}.policies").mixed()
    popularity = importlib.import_module(f"{shop}.truth").popularity(200)

    def policy(visit: Any, now_ms: int, rng: np.random.Generator) -> Any:
        items = usual(visit, now_ms, rng)
        return items[np.argsort(-popularity[items], kind="stable")]

    return policy


@torch.no_grad()
def resorted(trainer: Trainer, truth: Truth, data: Examples) -> Any:
    """(S,) by shopper: the true CTR of the lists shown, sorted by the model's click logit, as a share of the best order's."""
    trainer.model.eval()
    trainer.data = data
    rng = np.random.Generator(np.random.PCG64(0))
    own, best = np.zeros(len(data)), np.zeros(len(data))
    numbers = np.arange(len(data))
    for lists in np.array_split(numbers, max(1, len(numbers) // 256)):
        batch = made_batch(data, lists, rng, trainer.levels, 0.0, HISTORY_CAP)
        logits = trainer._scores(batch, batch.items, trainer.model.item_table())[..., 0]
        logits = torch.where(batch.items > 0, logits, -1e9).numpy()
        of = truth.relevance[lists]
        own[lists] = np.take_along_axis(of, np.argsort(-logits, axis=1, kind="stable"), axis=1) @ truth.examination
        best[lists] = -np.sort(-of, axis=1) @ truth.examination
    shopper = np.unique(data.shopper, return_inverse=True)[1]
    shares: Any = np.bincount(shopper, own) / np.bincount(shopper, best)
    return shares


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m models.ablation", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("losses", "positions"))
    parser.add_argument(
        "--shop", default="demo", help="package with `offline`, `policies`, `truth` and `world` (default demo)"
    )
    parser.add_argument("--shoppers", type=int, default=300, help="to train on (default 300)")
    parser.add_argument("--test-shoppers", type=int, default=100, help="to test on (default 100)")
    parser.add_argument("--seeds", type=int, default=1, help="trainings of each; the figures are means (default 1)")
    options = parser.parse_args(arguments)
    variants = LOSSES if options.what == "losses" else POSITIONS
    items = shop_items(options.shop)
    vocabulary = build_vocabulary(items)
    policy = sorted_by_popularity(options.shop) if options.what == "positions" else None
    data, _ = collected(options.shop, vocabulary, range(options.shoppers), policy)
    test, chances = collected(options.shop, vocabulary, range(FIRST_TEST, FIRST_TEST + options.test_shoppers))
    examination = importlib.import_module(f"{options.shop}.world").examination(np.arange(test.items.shape[1]))
    truth = Truth(test, chances / examination, examination)
    content = contents(items, vocabulary)
    table: dict[str, dict[str, Any]] = {}
    reference = np.zeros(0)
    for name, variant in variants.items():
        rows, shares, biases, started = [], [], [], time.process_time()
        for seed in range(1, options.seeds + 1):
            settings = replace(Settings(epochs=1, threads=1, seed=seed), **variant.settings)
            trainer = Trainer(settings, Corpus(variant.of_data(data), vocabulary, content, None))
            if variant.of_trainer is not None:
                variant.of_trainer(trainer)
            with tempfile.TemporaryDirectory() as scratch:
                rows.append(train(trainer, Console(quiet=True), Checkpoints(Path(scratch)))[-1])
            shares.append(resorted(trainer, truth, variant.of_data(test)))
            biases.append(trainer.position_bias[0].detach().numpy())
        share = np.mean(shares, axis=0)
        reference = reference if len(reference) else share
        less = share - reference
        table[name] = {
            "of_best_order": round(float(share.mean()), 4),
            "less": round(float(less.mean()), 4),
            "less_se": round(float(less.std() / len(less) ** 0.5), 4),
            **{key: round(float(np.mean([row[key] for row in rows])), 4) for key in _VALIDATION},
            "cpu_seconds": round(time.process_time() - started),
        }  # fmt: skip
        if options.what == "positions":
            bias = np.mean(biases, axis=0)
            table[name]["bias_of_last_place"] = round(float(bias[-1] - bias[0]), 3)
            table[name]["true_bias_of_last_place"] = round(float(np.log(examination[-1] / examination[0])), 3)
        print(name, json.dumps(table[name]), file=sys.stderr, flush=True)
    print(json.dumps({"lists": len(data), "test_lists": len(test), **table}))


if __name__ == "__main__":
    main()
