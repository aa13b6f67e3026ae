"""The dual-sequence ranker on lists: both stacks over what the visitor did, pooled for each candidate of the list.

    dense (C, F) ─ quantile bins + numbers ─ candidate x ────────────────────────────────────┐
    newest actions ─ session stack ─ pooling per candidate ─ r_S ─┐                          ├ head ─ logit of each member
    older actions  ─ history stack ─ pooling per candidate ─ r_H ─┴ gate ─ u ────────────────┘

An action's token is the vector of the item it was on where the list holds that item, so pooling can match the two. The
head has `members` that share all weights but their signs and scales (Gorishniy and others, TabM, 2024); a list's score
is their mean. It is one model, one pass.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.baselines.contract import Floats, Tick
from models.ranker import RankerConfig, Stack, norm, pool

Ints = NDArray[np.int64]
_FAR = -1e9
_WARM_UP = 0.1  # of the fit
_SHORT_OF_TIME = 0.5  # share of its time after which a fit that is behind follows the clock
_PLACES = 128  # candidates whose place tokens can be matched by


class DualSettings(NamedTuple):
    dim: int = 64
    bins: int = 24
    members: int = 8
    dropout: float = 0.2
    feature_dropout: float = 0.1
    sequence_dropout: float = 0.3
    batch: int = 64  # lists
    epochs: int = 6
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    average_from: float = 0.5  # weights are averaged from this share of the steps on
    taught: float = 0.5  # what a teacher's probabilities weigh next to what was clicked
    sequences: bool = True  # for the ablation
    bins_on: bool = True


class Examples(NamedTuple):
    """Lists one after the other: list n has the candidates `starts[n]:starts[n + 1]`, and tokens in two sequences."""

    starts: Ints  # (N + 1,)
    x: Floats  # (R, F) dense features, NaN for unknown
    right: Ints  # (N,) place of the true candidate
    places: Ints  # (N, 2, L) of session and history: what a token was on, as in Batch
    actions: Ints  # (N, 2, L)
    hours: Floats  # (N, 2, L)
    lengths: Ints  # (N, 2)


class Batch(NamedTuple):
    bins: Tensor  # (B, C, F) rows of the bin table
    numbers: Tensor  # (B, C, F) standardised, 0 for unknown
    padding: Tensor  # (B, C) 0 or _FAR
    places: Tensor  # (B, 2, L) place in the list + 2; 1: another item, 0: no item
    actions: Tensor  # (B, 2, L)
    log_hours: Tensor  # (B, 2, L) log(1 + Δ)
    token_padding: Tensor  # (B, 2, L)
    lengths: Tensor  # (B, 2)
    wanted: Tensor  # (B, C) how much each candidate is the right one: sums to 1


class Binning(NamedTuple):
    """Edges of each feature's quantiles, and what standardises its ranks."""

    edges: list[NDArray[np.float64]]

    def bins(self, x: Floats, of: int) -> Ints:
        columns = [1 + np.searchsorted(edges, x[:, at], side="right") for at, edges in enumerate(self.edges)]
        found = np.stack(columns, axis=1)
        found[np.isnan(x)] = 0
        return found + np.arange(x.shape[1]) * (of + 2)

    def numbers(self, x: Floats) -> Floats:
        """Ranks among the training's quantiles, −1 … 1, between two of them by the line that joins them; unknown 0."""
        columns = []
        for at, edges in enumerate(self.edges):
            if len(edges) < 2:
                columns.append(np.zeros(len(x)))
                continue
            columns.append(np.interp(x[:, at], edges, np.linspace(-1, 1, len(edges))))
        return np.nan_to_num(np.stack(columns, axis=1)).astype(np.float32)


def binning(x: Floats, bins: int) -> Binning:
    return Binning([_edges(column[np.isfinite(column)].astype(np.float64), bins) for column in x.T])


def _edges(known: NDArray[np.float64], bins: int) -> NDArray[np.float64]:
    """Quantiles, where a value that would fill a bin by itself is one edge and the others share the rest.

    Most items of a list were never touched: of plain quantiles nearly every edge is that nought, and one touch and ten
    fall into the same bin.
    """
    values, counts = np.unique(known, return_counts=True)
    if len(values) <= bins:
        return values
    alone = counts * bins > len(known)
    others = np.repeat(values[~alone], counts[~alone])
    edges: NDArray[np.float64] = np.union1d(
        values[alone], np.quantile(others, np.linspace(0, 1, bins - int(alone.sum())))
    )
    return edges


class DualNet(nn.Module):
    def __init__(self, features: int, settings: DualSettings) -> None:
        super().__init__()
        dim = settings.dim
        self.settings = settings
        # Only sizes that the stacks and the block use are this model's; the rest belongs to the shipped ranker.
        config = RankerConfig(
            rows=1, subcategories=0, categories=0, contents=1, statics=1, dim=dim, dropout=settings.dropout
        )
        self.bin_table = nn.EmbeddingBag(features * (settings.bins + 2), dim, mode="sum")
        self.linear = nn.Linear(features, dim)
        self.mix = nn.Sequential(nn.ReLU(), nn.Dropout(settings.dropout), nn.Linear(dim, dim))
        self.places = nn.Embedding(_PLACES, dim)
        self.elsewhere = nn.Embedding(2, dim)
        self.session, self.history = Stack(config, 1), Stack(config, 1)
        self.item, self.query, self.projection = nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.gate = nn.Sequential(nn.Linear(2 * dim + 4, 16), nn.ReLU(), nn.Linear(16, 1))
        self.head_in, self.head_sequences = nn.Linear(dim, dim), nn.Linear(2 * dim, dim, bias=False)
        self.member_in = nn.Parameter(1 + 0.5 * torch.randn(settings.members, dim))
        self.head_hidden = nn.Linear(dim, dim)
        self.member_out = nn.Parameter(torch.randn(settings.members, dim) * dim**-0.5)
        self.dropout = nn.Dropout(settings.dropout)
        nn.init.normal_(self.bin_table.weight, std=0.02)
        nn.init.normal_(self.places.weight, std=0.3)
        nn.init.zeros_(self.head_sequences.weight)  # the sequences have to earn their say

    def forward(self, batch: Batch) -> Tensor:  # (B, C, M)
        lists, candidates, features = batch.bins.shape
        x = self.linear(batch.numbers)
        if self.settings.bins_on:
            x = x + self.bin_table(batch.bins.view(-1, features)).view(lists, candidates, -1)
        x = x + self.mix(x)  # (B, C, D)
        hidden = self.head_in(self.dropout(x))
        if self.settings.sequences:
            place = self.places(torch.arange(candidates).clamp(max=_PLACES - 1))
            u, match = self._pooled(x + place, self.item(x) + place, batch)
            said = self.head_sequences(self.dropout(torch.cat((u, match), dim=-1)))
            if self.training:  # some lists go without, so that the dense part does not come to rely on them
                said = said * (torch.rand(lists, 1, 1) >= self.settings.sequence_dropout)
            hidden = hidden + said
        hidden = torch.relu(hidden)
        each = hidden[..., None, :] * self.member_in  # (B, C, M, D)
        each = self.dropout(torch.relu(self.head_hidden(each)))
        return (each * self.member_out).sum(-1) + batch.padding[..., None]

    def _pooled(self, c: Tensor, items: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        dim = c.shape[-1]
        queries = torch.cat((self.query(c) * dim**-0.5, torch.ones_like(c[..., :1])), dim=-1)  # (B, C, D + 1)
        projection = self.projection(c)
        # What tokens may be on: no item, an item that is not in the list, or one of the list's.
        table = torch.cat((self.elsewhere.weight.expand(len(c), -1, -1), items), dim=1)  # (B, 2 + C, D)
        pooled = []
        for which, stack in enumerate((self.session, self.history)):
            rows = batch.places[:, which, :, None].expand(-1, -1, dim)
            keys, values, _ = stack(
                table.gather(1, rows), batch.actions[:, which], batch.log_hours[:, which], batch.token_padding[:, which]
            )
            pooled.append(pool(queries, keys, values) * (batch.lengths[:, which] > 0)[:, None, None])
        r_session, r_history = pooled
        size = norm(projection)
        cosines = [(r * projection).sum(-1, keepdim=True) / (norm(r) * size) for r in pooled]
        lengths = torch.log1p(batch.lengths)[:, None, :].expand(-1, c.shape[1], -1)
        g = torch.sigmoid(self.gate(torch.cat((r_session, r_history, *cosines, lengths), dim=-1)))
        has_session, has_history = ((batch.lengths > 0).float()[:, None, at, None] for at in (0, 1))
        g = has_session * (1 - has_history * (1 - g))  # hard collapse to the side that is not empty
        u = r_history + g * (r_session - r_history)
        return u, u * projection


class DualRanker:
    """Fits a DualNet to examples, and scores others. `fit` keeps the mean of the weights over the last steps."""

    def __init__(self, settings: DualSettings = DualSettings(), seed: int = 0) -> None:
        self.settings, self.seed = settings, seed

    def fit(self, examples: Examples, tick: Tick, teacher: Floats | None = None) -> None:
        """`teacher` (R,): each candidate's probability by a model that has not seen the list's click, to be learnt along
        with it (Hinton and others, Distilling the knowledge in a neural network, 2015)."""
        settings, count = self.settings, len(examples.right)
        torch.manual_seed(self.seed)
        rng = np.random.default_rng(self.seed)
        self._binning = binning(examples.x, settings.bins)
        net = DualNet(examples.x.shape[1], settings)
        inputs = self._inputs(examples)
        if teacher is not None:
            inputs = inputs._replace(wanted=(1 - settings.taught) * inputs.wanted + settings.taught * teacher)
        steps = settings.epochs * -(-count // settings.batch)
        optimiser = torch.optim.AdamW(net.parameters(), weight_decay=settings.weight_decay)
        mean = torch.optim.swa_utils.AveragedModel(net, multi_avg_fn=torch.optim.swa_utils.get_swa_multi_avg_fn())
        batches = (
            one for _ in range(settings.epochs) for one in inputs.batches(rng.permutation(count), settings.batch)
        )
        net.train()
        progress = 0.0
        for step, batch in enumerate(batches, 1):
            optimiser.param_groups[0]["lr"] = settings.learning_rate * one_cycle(progress)
            loss = self._loss(net, batch)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimiser.step()
            spent = tick(step, steps)
            # A fit that is short of time comes to its end in good order too; one that is not depends on no clock.
            progress = max(step / steps, spent) if spent > _SHORT_OF_TIME else step / steps
            if progress > settings.average_from:
                mean.update_parameters(net)
            if progress >= 1:
                break
        self._net = mean.module.eval()

    def _loss(self, net: DualNet, batch: Batch) -> Tensor:
        features = batch.bins.shape[2]
        heard = torch.rand(len(batch.bins), 1, features) >= self.settings.feature_dropout
        nothing = torch.arange(features) * (self.settings.bins + 2)
        batch = batch._replace(bins=torch.where(heard, batch.bins, nothing), numbers=batch.numbers * heard)
        logits = net(batch)  # (B, C, M)
        return nn.functional.cross_entropy(logits, batch.wanted[..., None].expand_as(logits))

    @torch.no_grad()
    def score(self, examples: Examples) -> Floats:
        """Mean log-probability of the members, lists one after the other: (R,)."""
        parts = []
        for batch in self._inputs(examples).batches(np.arange(len(examples.right)), 256):
            logs = torch.log_softmax(self._net(batch), dim=1).mean(-1)  # (B, C)
            parts.append(logs[batch.padding == 0].numpy())
        return np.concatenate(parts)

    def _inputs(self, examples: Examples) -> Inputs:
        wanted = np.zeros(len(examples.x), np.float32)
        wanted[examples.starts[:-1] + examples.right] = 1
        bins, numbers = self._binning.bins(examples.x, self.settings.bins), self._binning.numbers(examples.x)
        return Inputs(examples, bins, numbers, wanted)


def one_cycle(progress: float) -> float:
    """Learning rate by progress 0 … 1, as a share of its peak: up over the first tenth, then down along a cosine."""
    if progress < _WARM_UP:
        return 0.04 + 0.96 * progress / _WARM_UP
    return 0.5 + 0.5 * math.cos(math.pi * min(1.0, (progress - _WARM_UP) / (1 - _WARM_UP)))


class Inputs(NamedTuple):
    """Examples in the form that the net reads; padded batch by batch."""

    examples: Examples
    bins: Ints  # (R, F)
    numbers: Floats  # (R, F)
    wanted: Floats  # (R,)

    def batches(self, order: Ints, size: int) -> Iterator[Batch]:
        examples, starts = self.examples, self.examples.starts
        for at in range(0, len(order), size):
            rows = order[at : at + size]
            counts = starts[rows + 1] - starts[rows]
            inside = np.arange(counts.max()) < counts[:, None]  # (B, C)
            flat = np.minimum(starts[rows, None] + np.arange(counts.max()), len(self.bins) - 1)
            longest = max(1, int(examples.lengths[rows].max()))
            tokens = np.arange(longest) < examples.lengths[rows][..., None]  # (B, 2, L)
            yield Batch(
                torch.from_numpy(self.bins[flat]),
                torch.from_numpy(self.numbers[flat]),
                torch.from_numpy(np.where(inside, 0.0, _FAR).astype(np.float32)),
                torch.from_numpy(examples.places[rows, :, :longest]),
                torch.from_numpy(examples.actions[rows, :, :longest]),
                torch.from_numpy(examples.hours[rows, :, :longest]),
                torch.from_numpy(np.where(tokens, 0.0, _FAR).astype(np.float32)),
                torch.from_numpy(examples.lengths[rows].astype(np.float32)),
                torch.from_numpy(np.where(inside, self.wanted[flat], 0).astype(np.float32)),
            )
