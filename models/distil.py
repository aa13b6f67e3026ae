"""Distil: train the towers of a bundle (models/towers.py) to say what its ranker says, in about a minute of one core.

    the shop's visits ─ users at moments ─ the ranker's scores of the catalogue ─┐
                                        └ both towers' scores of it ─────────────┴─ KL of their softmaxes ─ towers.npz

    python -m models.distil models/bundles/demo-6 --version demo-6t     a new bundle: the same ranker, and towers

The catalogue is a sample of ITEMS_AT_MOST items where it is larger: what towers know of an item follows from its vector.
"""

from __future__ import annotations

import argparse
import importlib
import json
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
import torch
from rich.progress import track
from torch import Tensor, nn

from models import content_map
from models.bundle import INDEX, TOWERS, Bundle, BundleError, packed, read_manifest, write_bundle
from models.featurise import (
    ACTION_CODES,
    COUNTERS,
    GROUP_COLUMNS,
    PRICE_LEVEL,
    Floats,
    Tokens,
    acted_on,
    as_batch,
    group_columns,
    history_anchor_ms,
    history_sides,
    price_gap,
    session_sides,
    tokens,
)
from models.nearest import FLAT_AT_MOST, made_index
from models.scorer import encode_state_history, open_scorer
from models.towers import HALF_HOURS, ITEM, SEQUENCES, USER, Towers, item_inputs
from models.traffic import moments, shop_items
from models.vocabulary import Rows
from schemas.user_state import UserState, decode, encode

ITEMS_AT_MOST = 8_192
SURFACE = "home"
_HELD_OUT = 0.1
_TOP = 50
_COMPARED, _TOLERANCE = 20, 1e-2  # moments, and by how much the towers served may differ from those trained


@dataclass(frozen=True)
class Settings:
    shoppers: int = 300
    days: int = 28
    moments: int = 1_500
    seed: int = 1
    first_shopper: int = 600_000  # in neither the ranker's training nor its evaluation
    width: int = 32  # R
    hidden: int = 64
    epochs: int = 20
    batch: int = 64
    learning_rate: float = 4e-3
    temperature: float = 1.5  # of both softmaxes: above 1, more than the first few places count


class Sample(NamedTuple):
    """M moments as arrays, and what the ranker said of S items then."""

    session: tuple[Tensor, Tensor, Tensor]  # rows, actions, log_hours (M, L)
    history: tuple[Tensor, Tensor, Tensor]
    lengths: Tensor  # (M, 2)
    groups: Tensor  # (M, G, GROUP_COLUMNS)
    gaps: Tensor  # (M, S)
    own: Tensor  # (M, S, COUNTERS)
    scores: Tensor  # (M, S)
    states: list[tuple[bytes, int]]  # of the last moments: user state, and when it was


class Net(nn.Module):
    """The towers in torch: formulas and names as in models/towers.py, which a test holds them to."""

    def __init__(self, bundle: Bundle, settings: Settings) -> None:
        super().__init__()
        z = item_inputs(bundle.embedding, bundle.statics, bundle.prior)
        self.register_buffer("z", torch.from_numpy(z))
        self.register_buffer("embedding", torch.from_numpy(bundle.embedding))
        self.register_buffer("group_row", torch.from_numpy(bundle.vocabulary.group_row.astype(np.int64)))
        dim, out, r = bundle.embedding.shape[1], 2 * (settings.width + 1), settings.width
        sizes = {
            "item_linear": (z.shape[1], out),
            "item_in": (z.shape[1], settings.hidden),
            "item_bias": (settings.hidden,),
            "item_out": (settings.hidden, out),
            "tokens": (dim, r),
            "user_linear": (2 * r + 2, 2 * r),
            "user_in": (2 * r + 2, settings.hidden),
            "user_bias": (settings.hidden,),
            "user_out": (settings.hidden, 2 * r),
            "group_in": (GROUP_COLUMNS, 16),
            "group_bias": (16,),
            "group_out": (16,),
            "gap": (1,),
            "own": (COUNTERS,),
        } | {f"{name}_{what}": (size,) for name in SEQUENCES for what, size in (("action", ACTION_CODES), ("decay", 1))}
        self.weights = nn.ParameterDict({name: nn.Parameter(_begin(name, size)) for name, size in sizes.items()})

    def forward(self, sample: Sample, rows: Tensor) -> tuple[Tensor, Tensor]:  # (M, S) by recall, (M, S) by light
        weights = self.weights
        items = _perceptron(self.z[rows], weights, ITEM)  # (S, 2 R + 2)
        pooled = [self._pooled(name, *found) for name, found in zip(SEQUENCES, (sample.session, sample.history))]
        users = _perceptron(torch.cat((*pooled, sample.lengths), dim=-1), weights, USER)
        width = users.shape[1] // 2
        recall = users[:, :width] @ items[:, :width].T + items[:, width]
        light = users[:, width:] @ items[:, width + 1 : -1].T + items[:, -1]
        hidden = torch.relu(sample.groups @ weights["group_in"] + weights["group_bias"])
        light = light + (hidden @ weights["group_out"])[:, self.group_row[rows]]
        return recall, light + weights["gap"] * sample.gaps + sample.own @ weights["own"]

    def _pooled(self, name: str, rows: Tensor, actions: Tensor, log_hours: Tensor) -> Tensor:  # (M, L) -> (M, R)
        age = torch.expm1(log_hours) * HALF_HOURS if name == "session" else log_hours
        weights = self.weights
        weight = torch.exp(weights[f"{name}_action"][actions] - weights[f"{name}_decay"] * age) * (rows > 0)
        vectors = (self.embedding @ weights["tokens"])[rows]  # (M, L, R)
        return (weight[..., None] * vectors).sum(1) / (weight.sum(1, keepdim=True) + 1)


def _begin(name: str, size: tuple[int, ...]) -> Tensor:
    if name.endswith("_decay"):
        return torch.full(size, 0.3)
    if len(size) == 1:
        return torch.zeros(size)
    return torch.randn(size) * (0.5 if "linear" in name or name == "tokens" else 1.0) * size[0] ** -0.5


def _perceptron(x: Tensor, weights: nn.ParameterDict, names: tuple[str, ...]) -> Tensor:
    linear, inner, bias, outer = (weights[name] for name in names)
    return x @ linear + torch.relu(x @ inner + bias) @ outer


def collect(bundle: Bundle, shop: str, settings: Settings, rows: Rows) -> Sample:
    """Moments of shoppers, and the ranker's scores then; its item counters are not known, as before the first are counted."""
    scorer, rng = open_scorer(bundle), np.random.Generator(np.random.PCG64(settings.seed))
    level = bundle.statics[:, PRICE_LEVEL]
    columns: list[tuple[Any, ...]] = []
    states: list[tuple[bytes, int]] = []
    shoppers = range(settings.first_shopper, settings.first_shopper + settings.shoppers)
    for state, now_ms in _drawn(shop, shoppers, settings, rng):
        scores = scorer.score(state, encode_state_history(scorer, state, now_ms), rows, now_ms, SURFACE)
        columns.append((*_inputs(state, now_ms, bundle, rows, level), scores))
        states = [*states, (encode(state), now_ms)][-_COMPARED:]
    session, history, groups, gaps, own, scores = zip(*columns)
    lengths = np.log1p([[now.length, before.length] for now, before in zip(session, history)])
    return Sample(
        _padded(session),
        _padded(history),
        torch.from_numpy(lengths.astype(np.float32)),
        *(torch.from_numpy(np.stack(column)) for column in (groups, gaps, own, scores)),
        states,
    )


def _drawn(shop: str, shoppers: range, settings: Settings, rng: np.random.Generator) -> Any:
    """About `moments` of all exposures of these shoppers, in order of time."""
    visits = importlib.import_module(f"{shop}.offline").visits
    known: dict[int, UserState] = {}
    logs = list(visits(shoppers, days=settings.days, seed=settings.seed))
    share = settings.moments / max(1, sum(len(log.exposures) for log in logs))
    for log in track(logs, "The ranker's scores", transient=True):
        for shown, state in moments(log, known.setdefault(log.shopper.number, UserState())):
            if rng.random() < share:
                yield state, shown.ts_ms


def _inputs(state: UserState, now_ms: int, bundle: Bundle, rows: Rows, level: Floats) -> tuple[Any, ...]:
    vocabulary = bundle.vocabulary
    session = tokens(state.session(), now_ms, vocabulary)
    history = tokens(state.history(), history_anchor_ms(state, now_ms), vocabulary)
    now, before = (
        session_sides(*as_batch(session), vocabulary, level),
        history_sides(*as_batch(history), vocabulary, level),
    )
    groups = group_columns(now, before)
    own_rows, counted = acted_on(state, vocabulary, now_ms)
    own = np.zeros((len(rows), COUNTERS), np.float32)
    places = np.searchsorted(rows, own_rows).clip(max=len(rows) - 1)
    here = rows[places] == own_rows
    own[places[here]] = counted[here]
    return session, history, groups, price_gap(now.prices[0] + before.prices[0], level[rows]), own


def _padded(found: Sequence[Tokens]) -> tuple[Tensor, Tensor, Tensor]:
    longest = max(len(one.rows) for one in found)
    columns: tuple[npt.NDArray[Any], ...] = tuple(
        np.zeros((len(found), longest), kind) for kind in (np.int64, np.int64, np.float32)
    )
    for number, one in enumerate(found):
        for column, values in zip(columns, (one.rows, one.actions, one.log_hours)):
            column[number, : len(values)] = values
    rows, actions, log_hours = map(torch.from_numpy, columns)
    return rows, actions, log_hours


def train(
    bundle: Bundle, sample: Sample, rows: Rows, settings: Settings
) -> tuple[dict[str, Any], dict[str, float], Floats]:
    """The towers' weights, how well they agree with the ranker on moments held out, and the light scores of the last of these."""
    torch.manual_seed(settings.seed)
    net, of = Net(bundle, settings), torch.from_numpy(rows.astype(np.int64))
    count = len(sample.scores)
    held_out = max(1, int(count * _HELD_OUT))
    training = torch.arange(count - held_out)  # the last moments in time are held out
    steps = settings.epochs * (len(training) // settings.batch + 1)
    optimiser = torch.optim.AdamW(net.parameters(), lr=settings.learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, settings.learning_rate, total_steps=steps)
    for _ in track(range(settings.epochs), "Towers", transient=True):
        for batch in training[torch.randperm(len(training))].split(settings.batch):
            some = _of(sample, batch)
            wanted = torch.softmax(some.scores / settings.temperature, dim=1)
            made = net(some, of)
            loss = sum(-(wanted * torch.log_softmax(one / settings.temperature, dim=1)).sum(1).mean() for one in made)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[union-attr]
            optimiser.step()
            schedule.step()
    with torch.no_grad():
        some = _of(sample, torch.arange(count - held_out, count))
        recall, light = net(some, of)
    metrics = {
        f"{name}_{kept}": _recall(some.scores, made, kept)
        for name, made in (("recall", recall), ("light", light))
        for kept in (200, 1_000)
    }
    weights = {name: weight.detach().numpy() for name, weight in net.weights.items()}
    return weights, metrics, light[-len(sample.states) :].numpy()


def _of(sample: Sample, places: Tensor) -> Sample:
    return Sample(
        tuple(one[places] for one in sample.session), tuple(one[places] for one in sample.history),
        *(one[places] for one in sample[2:-1]), [],
    )  # fmt: skip


def _recall(wanted: Tensor, made: Tensor, kept: int) -> float:
    """The share of the ranker's best 50 that are among the best `kept` here."""
    best, found = wanted.topk(min(_TOP, wanted.shape[1])).indices, torch.zeros_like(wanted, dtype=torch.bool)
    found.scatter_(1, made.topk(min(kept, made.shape[1])).indices, True)
    return round(float(found.gather(1, best).float().mean()), 4)


def distil(source: Path, version: str, shop: str, settings: Settings, command: str) -> Path:
    """Write the bundle at `source` again beside it, as `version`, with towers."""
    bundle = Bundle.load(source)
    torch.set_num_threads(1)
    first, size = bundle.vocabulary.first_item, bundle.vocabulary.size
    rng = np.random.Generator(np.random.PCG64(settings.seed))
    drawn = rng.choice(np.arange(first, size), min(ITEMS_AT_MOST, size - first), replace=False)
    rows = np.sort(drawn).astype(np.int32)
    started = time.process_time()
    sample = collect(bundle, shop, settings, rows)
    weights, metrics, light = train(bundle, sample, rows, settings)
    content = {item.item_id: item.vector for item in shop_items(shop) if item.vector}
    mapped = content_map.fitted(content, bundle.vocabulary, Towers(replace(bundle, towers=weights)).vectors)
    if mapped is not None:
        weights |= {f"content_{name}": array for name, array in mapped._asdict().items()}
    apart = compared(replace(bundle, towers=weights), sample, rows, light)
    original = read_manifest(source)
    described = msgspec.structs.replace(
        original,
        version=version,
        metrics=original.metrics | {"towers": metrics | {"torch_numpy_difference": apart}},
        training=original.training
        | {"towers": {"command": command, "of": bundle.version, "cpu_seconds": round(time.process_time() - started)}},
    )
    files = {name: (source / name).read_bytes() for name in original.files} | {TOWERS: packed(**weights)}
    vectors = Towers(replace(bundle, towers=weights)).vectors[first:]
    if len(vectors) > FLAT_AT_MOST:
        files[INDEX] = made_index(vectors)
    folder = source.parent / version
    write_bundle(folder, described, files)
    return folder


def compared(bundle: Bundle, sample: Sample, rows: Rows, light: Floats) -> float:
    """The largest difference of light scores between numpy and torch. Raises BundleError where it is no rounding."""
    towers, apart = Towers(bundle), 0.0
    for (state, now_ms), wanted in zip(sample.states[-len(light) :], light):
        user_state = decode(state)
        user = towers.user(user_state, towers.past(user_state, now_ms), now_ms)
        apart = max(apart, float(np.abs(towers.light(user, rows) - wanted).max()))
    if apart > _TOLERANCE:
        raise BundleError(f"the towers of bundle {bundle.version} score differently in numpy and torch, by {apart:.2g}")
    return apart


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m models.distil", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", type=Path, help="a bundle's folder")
    parser.add_argument("--version", required=True, help="of the new bundle, beside it")
    parser.add_argument("--shop", default="demo", help="package with `offline` (default demo)")
    parser.add_argument("--moments", type=int, default=Settings.moments, help=f"default {Settings.moments}")
    parser.add_argument("--epochs", type=int, default=Settings.epochs, help=f"default {Settings.epochs}")
    parser.add_argument("--seed", type=int, default=Settings.seed)
    options = parser.parse_args(arguments)
    settings = Settings(moments=options.moments, epochs=options.epochs, seed=options.seed)
    command = "python -m models.distil " + shlex.join(arguments if arguments is not None else sys.argv[1:])
    try:
        folder = distil(options.bundle, options.version, options.shop, settings, command)
    except (BundleError, FileExistsError) as error:
        sys.exit(str(error))
    print(json.dumps({"bundle": str(folder), **read_manifest(folder).metrics["towers"]}))


if __name__ == "__main__":
    main()
