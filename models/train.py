"""Train the dual-sequence ranker on a shop's traffic and write a bundle.

collect traffic (2 processes) ─ statistics ─ epochs of whole sessions ─ export with check ─ bundle

python -m models.train --out models/bundles            the demo bundle from nothing
python -m models.train --help                          what can be set

`riffle train` runs the same training on a log of one's own (models/own_log.py).
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import pickle
import shlex
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from dataclasses import field as of
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor
from torch.nn import functional

from models import losses
from models.assemble import ItemKnowledge
from models.bundle import LATEST, Bundle, BundleError
from models.checkpoint import CheckpointError, Checkpoints
from models.counts import CountsOverTime
from models.curves import draw
from models.dataset import Batch, Levels, Sampler, batches, counted, grouped, made_batch, shares
from models.debiased import Rates, debiased
from models.featurise import PRICE_LEVEL, Floats
from models.hindsight import ClickModel, Hindsight
from models.ranker import TASKS, DualSequenceRanker, RankerConfig
from models.release import POPULARITY_WEIGHT, TASK_WEIGHTS, release
from models.statistics import (
    CONTENTS,
    STATICS,
    contents,
    count,
    last_sessions,
    neighbours,
    statics,
    statics_by_fold,
)
from models.tastes import Array, collect_shown, fit, joined_shown
from models.traffic import Examples, Ragged, collect, joined, shop_items
from models.vocabulary import Vocabulary, build_vocabulary
from schemas.user_state import COUNTED

SURFACES = ["<unknown>", "home"]
VALIDATION_SHARE = 0.03
VALIDATION_DRAWN = 100
CLICK, NEXT = TASKS.index("click"), TASKS.index("next")
PURCHASES, IN_SESSION = COUNTED.index("purchase"), 4  # of featurise.counters


@dataclass(frozen=True)
class Settings:
    """Everything that decides what comes out, besides the shop."""

    shoppers: int = 2_300
    taste_shoppers: int = 8_000  # others, whose lists the tastes are fitted on
    days: int = 28
    seed: int = 1
    epochs: int = 2
    steps: int = 0  # at most so many; 0 is all of the epochs
    lists_per_batch: int = 128
    learning_rate: float = 3e-3
    weight_decay: float = 0.02
    negatives: int = 48
    session_negatives: int = 2
    history_negatives: int = (
        4  # what is bought is seldom shown again: without these, nothing says that it is not wanted
    )
    kappa: float = 0.25
    listwise: float = 0.03
    sampled: float = 0.5
    next_listwise: float = 0.5  # of the list's own negatives in the task `next`
    bce: float = 0.3
    hindsight: float = 5.0  # of soft labels: what the visit as a whole says of shown and sampled items
    cart: float = 0.5  # of the cart task next to the click task
    purchase: float = 0.25
    near_negatives: float = 1.0  # how much more the views near a positive weigh than the list's other negatives
    counters_dropout: float = 0.3  # as where no item counters are served
    own_dropout: float = 0.15  # as for an unknown item
    own_decay: float = 0.3  # weight decay of the items' own vectors
    own_rate: float = 0.2  # their share of the learning rate: an item that is seldom seen must not jump when it is
    token_dropout: float = 0.1
    dropout: float = 0.05
    changes: float = 0.6  # share of lists whose session begins as somebody else's: minds that change
    history_cap: int = 100  # newest tokens of a history that training looks at
    dim: int = 64
    history_layers: int = 2
    session_layers: int = 1
    threads: int = 2


class Corpus(NamedTuple):
    """What a training learns from. N rows of the vocabulary."""

    data: Examples
    vocabulary: Vocabulary
    content: Floats  # (N, CONTENTS)
    clicks: ClickModel | None  # None where what was shown is not known, or too little
    rates: Rates | None = None  # where chance chose what was shown: popularity goes by them (models/debiased.py)

    @property
    def worth(self) -> Floats:
        """(N,) 0 without a click model."""
        return np.zeros(self.vocabulary.size, np.float32) if self.clicks is None else self.clicks.worth


@dataclass
class At:
    """How far a training has come."""

    rows: list[dict[str, float]] = of(default_factory=list)  # metrics of the epochs that are over
    losses: list[float] = of(default_factory=list)  # of every step
    done: int = 0  # batches of the epoch that is under way
    began: dict[str, Any] | None = None  # the generator when that epoch began


class Trainer:
    """One model, its optimiser and its data."""

    def __init__(self, settings: Settings, corpus: Corpus) -> None:
        torch.manual_seed(settings.seed)
        torch.set_num_threads(settings.threads)
        data, vocabulary, content, clicks, _ = corpus
        self.settings, self.data, self.vocabulary, self.at = settings, data, vocabulary, At()
        self.statics = torch.from_numpy(statics_by_fold(data, content, vocabulary, corpus.worth))  # (FOLDS, N, F)
        self.model = new_ranker(settings, vocabulary, torch.from_numpy(content))
        self.position_bias = torch.nn.Parameter(torch.zeros(len(TASKS), data.items.shape[1]))  # in training only
        self.levels = Levels(vocabulary, content[:, PRICE_LEVEL], None if clicks is None else clicks.tastes)
        self.hindsight = None if clicks is None else Hindsight(clicks, data, self.levels)
        self.counts = CountsOverTime(data.acts, vocabulary)
        self.rng = np.random.Generator(np.random.PCG64(settings.seed))
        self.sampler = Sampler(data, vocabulary, self.rng)
        visits = np.unique(data.shopper)
        held_out = set(visits[:: max(1, int(1 / VALIDATION_SHARE))].tolist())
        is_validation = np.isin(data.shopper, list(held_out))
        self.training, self.validation = np.flatnonzero(~is_validation), np.flatnonzero(is_validation)
        whole = settings.epochs * (len(self.training) // settings.lists_per_batch + 1)
        self.steps = min(settings.steps, whole) if settings.steps else whole
        self.left = self.steps
        groups = parameter_groups(self.model, settings)
        # A few numbers that everything else leans on: they must be there before the rest has learnt to do without.
        groups.append({"params": [self.position_bias], "weight_decay": 0.0, "lr": 10 * settings.learning_rate})
        self.optimiser = torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(0.9, 0.98))
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimiser,
            [group["lr"] for group in self.optimiser.param_groups],
            total_steps=max(11, self.steps + 8),  # a tenth of ten is one step, by which it divides less one
            pct_start=0.1,
        )

    def epoch(self, stepped: Callable[[], None]) -> float:
        """One pass over the training lists, or what is left of the one that is under way; the mean loss."""
        self.model.train()
        settings, at, now = self.settings, self.at, self.rng.bit_generator.state
        at.began = at.began or now
        self.rng.bit_generator.state = at.began
        parts = shares(self.data, self.training, settings.lists_per_batch, self.rng)
        if at.done:
            self.rng.bit_generator.state = now
        for lists in parts[at.done :]:
            if settings.steps and not self.left:
                break
            self.left -= 1
            made = made_batch(
                self.data, lists, self.rng, self.levels,
                settings.token_dropout, settings.history_cap, settings.changes,
            )  # fmt: skip
            loss = self._loss(made)
            self.optimiser.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimiser.step()
            self.schedule.step()
            at.losses.append(float(loss.detach()))
            at.done += 1
            stepped()
        mean = sum(at.losses[len(at.losses) - at.done :]) / max(1, at.done)
        at.done, at.began = 0, None
        return mean

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """On shoppers held out of training: BCE of clicks, how often a clicked item stands above a passed-over one, and 1 / the
        place of what was clicked next among it and items drawn at random. What nothing was passed over for has the last alone."""
        self.model.eval()
        rng, first = np.random.Generator(np.random.PCG64(0)), self.model.first_item
        bce, right, pairs, count, reciprocal, fresh_count = 0.0, 0.0, 0.0, 0, 0.0, 0
        for batch in batches(self.data, self.validation, 512, rng, self.levels):
            lists, places = batch.items.shape
            drawn = torch.from_numpy(rng.integers(first, self.vocabulary.size, (lists, VALIDATION_DRAWN)))
            both = torch.cat((batch.items, drawn), dim=1)
            logits = self._scores(batch, both, self.model.item_table())
            shown = batch.items > 0
            placed = logits[:, :places, 0] + self.position_bias[0]
            bce += float(losses.weighted_bce(placed, batch.clicked, shown, torch.zeros_like(placed), 0.0)) * lists
            above = placed[:, :, None] > placed[:, None, :]
            told = (batch.clicked & shown)[:, :, None] & (~batch.clicked & shown)[:, None, :]
            right, pairs, count = right + float((above & told).sum()), pairs + float(told.sum()), count + lists
            fresh = batch.clicked & (batch.counters[..., IN_SESSION] == 0)
            following = logits[..., NEXT]
            beaten = (following[:, None, places:] >= following[:, :places, None]).sum(-1)  # (E, P)
            reciprocal, fresh_count = reciprocal + float((fresh / (1 + beaten)).sum()), fresh_count + int(fresh.sum())
        found = {"validation_next_mrr": reciprocal / max(1, fresh_count)}
        if pairs:
            found |= {"validation_bce": bce / max(1, count), "validation_auc_in_list": right / pairs}
        return found

    def _scores(self, batch: Batch, candidates: Tensor, table: Tensor, keep_counters: Tensor | float = 1.0) -> Tensor:
        """(E, C, T) logits of candidates, of which the first are the shown ones."""
        shown = batch.counters.shape[1]
        of_items = torch.cat((batch.counters, counted(batch, candidates[:, shown:])), dim=1)
        of_groups, recent = grouped(batch, candidates, self.levels)
        over_time = torch.from_numpy(self.counts.features(batch.ts_ms, candidates.numpy())) * keep_counters
        numbers = torch.cat((of_items, of_groups, over_time, recent), dim=-1)
        return scores(self.model, batch, candidates, table, self.statics, numbers)

    def _sampled(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """(E, M) negatives and their log Q: drawn from all items, and some that this session and its history have acted on."""
        settings = self.settings
        drawn = self.sampler.draw(len(batch.items), settings.negatives)
        acted = [drawn]
        for sequences, places, own in (
            (batch.sessions, slice(None), settings.session_negatives),
            (batch.histories, batch.history, settings.history_negatives),
        ):
            of = (torch.rand(len(drawn), own) * sequences.rows.shape[1]).long()
            acted.append(sequences.rows[places].gather(1, of))
        # One of those acted on stands for itself alone: Q = 1 / M, which the correction cancels.
        count = settings.negatives + settings.session_negatives + settings.history_negatives
        certain = torch.full((len(drawn), count - settings.negatives), -math.log(count))
        return torch.cat(acted, dim=1), torch.cat((self.sampler.log_q[drawn], certain), dim=1)

    def _loss(self, batch: Batch) -> Tensor:
        settings, model = self.settings, self.model
        keep_own = (torch.rand(model.config.rows, 1) >= settings.own_dropout).float()
        lists, places = batch.items.shape
        sampled, log_q = self._sampled(batch)
        calendar = batch.calendar.clone()
        calendar[:, 3] *= torch.rand(lists) >= 0.1  # an unknown surface
        # Counters and tokens go missing one without the other, as when a view is sent without its click.
        heard = torch.rand(lists, 1, batch.counters.shape[-1]) >= settings.token_dropout
        batch = batch._replace(calendar=calendar, counters=batch.counters * heard)
        candidates = torch.cat((batch.items, sampled), dim=1)
        keep_counters = (torch.rand(lists, 1, 1) >= settings.counters_dropout).float()
        logits = self._scores(batch, candidates, model.item_table(keep_own), keep_counters)  # (E, P + M, T)
        shown = batch.items > 0
        placed = logits[:, :places] + self.position_bias.T
        repeats = batch.counters[..., 2:4].sum(-1)  # of carts and purchases: looking twice is no repeat purchase
        loss = torch.zeros(())
        outcomes = ((batch.clicked, 1.0), (batch.carted, settings.cart), (batch.bought, settings.purchase))
        for task, (positive, weight) in enumerate(outcomes):
            ordered = losses.listwise(placed[..., task], positive, shown, extra=settings.near_negatives)
            alone = losses.weighted_bce(placed[..., task], positive, shown, repeats, settings.kappa)
            # BCE is a mean over places: times P, it is a sum over the list as the others are.
            loss = loss + weight * (settings.bce * alone * places + settings.listwise * ordered)
        # Next is something else: what this session has acted on is no positive, and the negatives hold some of it.
        fresh = batch.clicked & (batch.counters[..., IN_SESSION] == 0)
        hit = ((sampled[:, :, None] == batch.items[:, None, :]) & fresh[:, None, :]).any(-1) | (
            sampled < model.first_item
        )
        chosen, others = logits[:, :places, NEXT], logits[:, places:, NEXT]
        following = losses.sampled_softmax(chosen, fresh, others, log_q, hit)
        # Samples seldom hold two of a kind; the list does, and tells them apart.
        following = following + settings.next_listwise * losses.listwise(placed[..., NEXT], fresh, shown)
        loss = loss + settings.sampled * following
        if self.hindsight is None:
            return loss
        return loss + settings.hindsight * places * self._foreseen(
            self.hindsight, batch, candidates, logits[..., CLICK]
        )

    def _foreseen(self, hindsight: Hindsight, batch: Batch, candidates: Tensor, logits: Tensor) -> Tensor:
        """BCE of (E, C) logits of a click, wherever it stands, against the soft labels."""
        counters = torch.cat((batch.counters, counted(batch, candidates[:, batch.items.shape[1] :])), dim=1)
        clicked = functional.pad(batch.clicked, (0, candidates.shape[1] - batch.items.shape[1])).long().numpy()
        acted, bought = ((counters[..., column] > 0).long().numpy() for column in (IN_SESSION, PURCHASES))
        chance = hindsight.chance(batch.lists, candidates.numpy(), clicked, acted)
        # What was bought is seldom wanted again, and shown for the most part when it is: its label is what it got.
        chance = torch.from_numpy(np.where(bought, clicked, chance).astype(np.float32))
        alone = functional.binary_cross_entropy_with_logits(logits, chance, reduction="none")
        judged = candidates >= self.model.first_item
        return (alone * judged).sum() / judged.sum().clamp(min=1)


def scores(
    model: DualSequenceRanker, batch: Batch, candidates: Tensor, table: Tensor, statics: Tensor, numbers: Tensor
) -> Tensor:
    """(E, C, T) logits; `statics` (FOLDS, N, F) is read at each list's own fold; `numbers` (E, C, NUMBERS) of featurise."""
    histories, sessions = batch.histories, batch.sessions
    h_keys, h_values, _ = model.history(
        table[histories.rows], histories.actions, histories.log_hours, histories.padding
    )
    s_keys, s_values, _ = model.session(table[sessions.rows], sessions.actions, sessions.log_hours, sessions.padding)
    lengths = torch.stack((sessions.lengths, histories.lengths[batch.history]), dim=-1)
    side = model.candidate_side(table[candidates], statics[batch.fold[:, None], candidates])
    context = model.context_side(batch.calendar)
    return model.score(
        (s_keys, s_values), (h_keys[batch.history], h_values[batch.history]), lengths, side, numbers, context
    )


def parameter_groups(model: DualSequenceRanker, settings: Settings) -> list[dict[str, Any]]:
    """Item vectors, matrices, and what must not decay."""
    own = [model.own.weight]
    matrices = [weight for weight in model.parameters() if weight.ndim > 1 and weight is not own[0]]
    rest = [weight for weight in model.parameters() if weight.ndim <= 1]
    return [
        {"params": own, "weight_decay": settings.own_decay, "lr": settings.own_rate * settings.learning_rate},
        {"params": matrices, "weight_decay": settings.weight_decay},
        {"params": rest, "weight_decay": 0.0},
    ]


def new_ranker(settings: Settings, vocabulary: Vocabulary, content: Tensor) -> DualSequenceRanker:
    config = RankerConfig(
        rows=vocabulary.size,
        subcategories=len(vocabulary.data.subcategories),
        categories=len(vocabulary.data.categories),
        contents=len(CONTENTS),
        statics=len(STATICS),
        surfaces=len(SURFACES),
        dim=settings.dim,
        dropout=settings.dropout,
        history_layers=settings.history_layers,
        session_layers=settings.session_layers,
    )
    rows = [torch.from_numpy(rows.astype(np.int64)) for rows in (vocabulary.subcategory_row, vocabulary.category_row)]
    return DualSequenceRanker(config, rows[0], rows[1], content)


def gather(shop: str, settings: Settings) -> Examples:
    """All examples, collected by as many processes as threads: shoppers do not meet."""
    share = -(-settings.shoppers // settings.threads)
    parts = [range(at, min(at + share, settings.shoppers)) for at in range(0, settings.shoppers, share)]
    with multiprocessing.get_context("spawn").Pool(len(parts)) as pool:
        return joined(pool.starmap(collect, [(shop, part, settings.days, settings.seed) for part in parts]))


def gather_shown(shop: str, settings: Settings) -> Array:
    """What was shown to other shoppers."""
    share = -(-settings.taste_shoppers // settings.threads)
    last = settings.shoppers + settings.taste_shoppers
    parts = [range(at, min(at + share, last)) for at in range(settings.shoppers, last, share)]
    with multiprocessing.get_context("spawn").Pool(len(parts)) as pool:
        return joined_shown(pool.starmap(collect_shown, [(shop, part, settings.days, settings.seed) for part in parts]))


def kept(path: Path, resume: bool, asked: Mapping[str, Any], made: Callable[[], Any]) -> Any:
    """What an earlier run has left at `path`, when it is to be resumed; else made now, and left there with what was `asked` for.

    Raises CheckpointError for what was made of something else.
    """
    if resume and path.exists():
        left = pickle.loads(path.read_bytes())
        remedy = "give the same settings, another --version, or remove the file, and it is made anew."
        if not isinstance(left, dict):
            raise CheckpointError(f"{path} does not say which settings it was made with: {remedy}")
        for name, value in asked.items():
            if left["asked"].get(name) != value:
                was = left["asked"].get(name)
                raise CheckpointError(f"{path} was made with {name} {was}, this run has {value}: {remedy}")
        return left["found"]
    found = made()
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(".new")  # a run that is killed leaves nothing half written
    aside.write_bytes(pickle.dumps({"asked": dict(asked), "found": found}, protocol=5))
    os.replace(aside, path)
    return found


def start_from(model: DualSequenceRanker, bundle: Bundle) -> None:
    """Take over a bundle's weights. Inputs that it did not have begin without effect; its item vectors are split into
    the parts of the cold-start chain."""
    own = model.state_dict()
    for name, stored in bundle.weights.items():
        weight, given = own[name], torch.from_numpy(stored)
        if name in ("head_counters.weight", "head_static.weight"):
            weight.zero_()
            weight[:, : given.shape[1]] = given
        elif name == "gate_numbers.weight":  # lengths, counters, cosines
            weight.zero_()
            weight[:, : given.shape[1] - 2], weight[:, -2:] = given[:, :-2], given[:, -2:]
        else:
            weight.copy_(given)
    vectors, first = torch.from_numpy(bundle.embedding), model.first_item
    group = torch.zeros_like(own["group.weight"])
    group[1] = vectors[1]
    group[2 : 2 + model.config.categories] = vectors[2 : 2 + model.config.categories] - vectors[1]
    subcategories = slice(2 + model.config.categories, first)
    group[subcategories] = vectors[subcategories] - vectors[model.category_row[subcategories]]
    own["group.weight"].copy_(group)
    own["content.weight"].zero_()
    own["own.weight"].zero_()
    own["own.weight"][first:] = vectors[first:] - vectors[model.subcategory_row[first:]]


def begin_with(model: DualSequenceRanker, vectors: Floats) -> None:
    """Take over (N, D) vectors of items (models/pretrained.py)."""
    with torch.no_grad():
        model.own.weight += torch.from_numpy(vectors)


def knowledge(corpus: Corpus, sessions: Ragged) -> ItemKnowledge:
    """What is counted over all lists, for serving. Neighbours are counted on `sessions`."""
    data, vocabulary, content, clicks, rates = corpus
    counts = count(data, vocabulary.size)
    popularity = counts.clicks.copy()
    vocabulary.speak_for_groups(popularity)
    if rates is not None:
        popularity = debiased(popularity, rates, vocabulary)
    return ItemKnowledge(
        statics(counts, content, vocabulary, corpus.worth),
        popularity,
        popularity if clicks is None else clicks.worth,
        neighbours(sessions, vocabulary),
        None if clicks is None else clicks.tastes,
    )


def train(trainer: Trainer, console: Console, checkpoints: Checkpoints) -> list[dict[str, float]]:
    """All epochs that are left; one row of metrics each, those of before included."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    rows = trainer.at.rows
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("training", total=trainer.steps, completed=len(trainer.at.losses))

        def stepped() -> None:
            progress.advance(task)
            checkpoints.keep(trainer)

        for epoch in range(len(rows), trainer.settings.epochs):
            loss = trainer.epoch(stepped)
            rows.append(
                {
                    "epoch": epoch + 1,
                    "training_loss": round(loss, 5),
                    **{k: round(v, 5) for k, v in trainer.validate().items()},
                }
            )
            console.print(rows[-1])
    return rows


class Run(NamedTuple):
    """Where a training leaves what it makes, and what the manifest says of it."""

    out: Path  # folder of bundles
    version: str
    folder: Path  # of the run: checkpoint, metrics, curves
    training: dict[str, Any]  # command and source
    task_weights: dict[str, float] = TASK_WEIGHTS
    popularity_weight: float = POPULARITY_WEIGHT


def run(
    where: Run, corpus: Corpus, settings: Settings, sessions: Ragged, console: Console, resume: bool = False,
    begin: Callable[[DualSequenceRanker], None] | None = None,
) -> Path:  # fmt: skip
    """Train, check, write the bundle, point LATEST to it. `begin` sets weights to begin with. Raises CheckpointError."""
    started = time.monotonic()
    trainer, checkpoints = Trainer(settings, corpus), Checkpoints(where.folder)
    if begin is not None:
        begin(trainer.model)
    if resume and checkpoints.take_up(trainer):
        console.print(f"going on after step {len(trainer.at.losses)} of {trainer.steps}")
    rows = train(trainer, console, checkpoints)
    seconds = round(time.monotonic() - started)
    training = {**where.training, "lists": len(corpus.data), "training_seconds": seconds, **asdict(settings)}
    path = release(
        where.out, where.version, trainer.model, corpus.vocabulary, knowledge(corpus, sessions),
        surfaces=SURFACES, metrics=rows[-1], training=training,
        task_weights=where.task_weights, popularity_weight=where.popularity_weight,
    )  # fmt: skip
    (where.out / LATEST).write_text(where.version + "\n")
    where.folder.mkdir(parents=True, exist_ok=True)
    (where.folder / "metrics.json").write_text(json.dumps({"training": training, "epochs": rows}, indent=2) + "\n")
    lines = [",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)]
    (where.folder / "metrics.csv").write_text("\n".join(lines) + "\n")
    draw(where.folder / "curves.png", trainer.at.losses, rows)
    checkpoints.done()
    return path


_HELP = """\
Writes OUT/VERSION (a bundle: see models/bundle.py), points OUT/LATEST to it, and leaves metrics.json, metrics.csv and
curves.png of the run in RUNS/VERSION. A shop is a package with `world.load().items` and `offline.visits(shoppers, days=, seed=)`.
The same settings on the same machine give the same bundle, but for its dates.
"""


def main(arguments: list[str] | None = None) -> Path:
    parser = argparse.ArgumentParser(
        prog="python -m models.train",
        description=__doc__,
        epilog=_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--out", type=Path, default=Path("models/bundles"), help="folder of bundles (default models/bundles)"
    )
    parser.add_argument("--runs", type=Path, default=Path(".runs"), help="folder for metrics of runs (default .runs)")
    parser.add_argument("--version", help="name of the bundle (default: shop and date)")
    parser.add_argument("--resume", action="store_true", help="go on with what a killed run has left in RUNS/VERSION")
    parser.add_argument("--start-from", type=Path, help="a bundle whose weights to begin with (default: random ones)")
    parser.add_argument("--shop", default="demo", help="package that the traffic comes from (default demo)")
    for field in fields(Settings):
        kind = type(field.default)
        parser.add_argument(
            f"--{field.name.replace('_', '-')}", type=kind, default=field.default, help=f"default {field.default}"
        )
    options = parser.parse_args(arguments)
    settings = Settings(**{field.name: getattr(options, field.name) for field in fields(Settings)})
    command = shlex.join(["python", "-m", "models.train", *(sys.argv[1:] if arguments is None else arguments)])
    version = options.version or f"{options.shop}-{datetime.now(timezone.utc):%Y%m%d-%H%M}"
    console, started = Console(), time.monotonic()
    items = shop_items(options.shop)
    vocabulary = build_vocabulary(items)
    content = contents(items, vocabulary)
    folder, resume = options.runs / version, options.resume
    of_lists = {"shop": options.shop, "shoppers": settings.shoppers, "days": settings.days, "seed": settings.seed}
    of_tastes = {**of_lists, "taste_shoppers": settings.taste_shoppers}
    try:
        with console.status(f"collecting {settings.days} days of {settings.shoppers} shoppers"):
            data = kept(folder / "lists.pickle", resume, of_lists, lambda: gather(options.shop, settings))
        console.print(
            f"{len(data):,} lists, {int(data.clicked.sum()):,} clicks after {time.monotonic() - started:.0f} s"
        )
        with console.status(f"fitting tastes on {settings.taste_shoppers} others"):
            places = kept(folder / "shown.pickle", resume, of_tastes, lambda: gather_shown(options.shop, settings))
            clicks = kept(
                folder / "tastes.pickle",
                resume,
                of_tastes,
                lambda: fit(places, data, vocabulary, content, settings.seed),
            )
        console.print(f"tastes of {len(places):,} places after {time.monotonic() - started:.0f} s")
        where = Run(options.out, version, folder, {"command": command, "shop": options.shop})
        corpus = Corpus(data, vocabulary, content, clicks)
        begin = partial(start_from, bundle=Bundle.load(options.start_from)) if options.start_from else None
        path = run(where, corpus, settings, last_sessions(data), console, resume, begin)
    except (BundleError, CheckpointError) as error:
        sys.exit(str(error))
    console.print(f"wrote {path} after {time.monotonic() - started:.0f} s")
    return path


if __name__ == "__main__":
    main()
