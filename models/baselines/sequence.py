"""What GRU4Rec and SASRec share: item vectors tied between input and output, one loss, one loop, one way to stop.

    sessions ─ batches of like lengths ─ encoder ─ (B, L, D) ─ logits on the next item and on sampled ones ─ loss
    the newest tenth of training chooses the number of epochs; then all of it is trained anew for so many

The loss is cross-entropy over the true next item and samples that a batch shares, each corrected by log Q of being
drawn (Klenitskiy and Vasilev, 2023, found that this, and not the architecture, decides between such models).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from models.baselines.contract import Floats, Tick, until
from models.evaluation.ranks import ranks_in_rows, reciprocal
from models.evaluation.session_files import Ints, Prefixes, Sessions, held_out, prefixes

CAP = 50  # newest events of a session that a model reads
_FADING = 0.5  # what is left of that a place further back
_CHOOSING = 0.5  # share of the time by which the number of epochs is chosen


class SequenceSettings(NamedTuple):
    dim: int = 100
    layers: int = 1
    heads: int = 2
    dropout: float = 0.3
    item_dropout: float = 0.5
    negatives: int = 1024
    sample_power: float = 0.5  # samples are drawn by count to this power
    batch: int = 64  # sessions
    learning_rate: float = 3e-3
    weight_decay: float = 0.01
    epochs: int = 10  # at most
    patience: int = 2
    validation: int = 1500  # prefixes, at most


class SequenceNet(nn.Module):
    """Item vectors around an encoder (B, L, D) -> (B, L, D) that looks back only. Code n_items is padding.

    The session's own items reach the output past the encoder too, the older the less: people come back to what they
    just saw, and of an item that training saw twice the encoder cannot have learnt so. What they weigh, `own`, is fixed:
    where it was learnt, it faded faster with every epoch.
    """

    def __init__(self, n_items: int, own: float, settings: SequenceSettings, encoder: nn.Module) -> None:
        super().__init__()
        # Sparse: a step touches some thousands of a shop's items, and pays for those alone.
        self.items = nn.Embedding(n_items + 1, settings.dim, padding_idx=n_items, sparse=True)
        self.bias = nn.Embedding(n_items + 1, 1, sparse=True)
        self.dropout = nn.Dropout(settings.item_dropout)
        self.encoder, self.own = encoder, own
        nn.init.normal_(self.items.weight, std=settings.dim**-0.5)
        nn.init.zeros_(self.bias.weight)

    def forward(self, vectors: Tensor) -> Tensor:  # (B, L, D) of items -> (B, L, D)
        length = vectors.shape[1]
        back = torch.arange(length)[:, None] - torch.arange(length)
        weights = torch.where(back >= 0, _FADING ** back.clamp(min=0), 0.0)  # (L, L)
        return self.encoder(self.dropout(vectors)) + self.own * (weights @ vectors)


class SequenceModel:
    """NextItem over a SequenceNet. `make` builds the encoder; everything is drawn from `seed`."""

    logits: ClassVar[bool] = True
    effort: ClassVar[float] = 2

    def __init__(
        self, make: Callable[[SequenceSettings], nn.Module], settings: SequenceSettings, seed: int = 0
    ) -> None:
        self.make, self.settings, self.seed = make, settings, seed

    def fit(self, training: Sessions, tick: Tick) -> None:
        settings = self.settings
        early, late = held_out(training)
        asked = prefixes(late)
        if len(asked) > settings.validation:
            rows = np.random.default_rng(self.seed).permutation(len(asked))[: settings.validation]
            asked = asked.part(np.sort(rows))
        best, chosen = -1.0, 1
        self.curve: list[float] = []
        for epoch in self._epochs(early, settings.epochs, until(_CHOOSING, tick), 2 * settings.epochs):
            parts = [asked.part(slice(at, at + 256)) for at in range(0, len(asked), 256)]
            found = np.concatenate([ranks_in_rows(self.score(part), part.targets) for part in parts])
            self.curve.append(float(reciprocal(found, 20).mean() + (found <= 20).mean()))
            if self.curve[-1] > best:
                best, chosen = self.curve[-1], epoch
            if epoch - chosen >= settings.patience:
                break
        self.chosen = chosen
        for _ in self._epochs(training, chosen, tick, 2 * settings.epochs, settings.epochs):
            pass
        tick(1, 1)

    def _epochs(self, training: Sessions, epochs: int, tick: Tick, of: int, done: int = 0) -> Iterator[int]:
        settings = self.settings
        torch.manual_seed(self.seed)
        rng = np.random.default_rng(self.seed)
        self._net = SequenceNet(training.n_items, own_weight(training), settings, self.make(settings))
        counts = np.bincount(training.items, minlength=training.n_items)
        sampling = torch.from_numpy(counts.astype(np.float32) ** settings.sample_power * (counts > 0))
        log_q = torch.log(sampling / sampling.sum() * settings.negatives + 1e-12)
        net, rate = self._net, settings.learning_rate
        dense = list(net.encoder.parameters())
        optimisers = (
            torch.optim.SparseAdam([net.items.weight, net.bias.weight], lr=rate),
            torch.optim.AdamW(dense, lr=rate, weight_decay=settings.weight_decay),
        )
        bounds, spent = pieces(training), 0.0
        steps = -(-len(bounds) // settings.batch)
        for epoch in range(1, epochs + 1):
            self._net.train()
            for step, (rows, targets) in enumerate(batches(training, bounds, settings.batch, rng), 1):
                drawn = torch.multinomial(sampling, min(settings.negatives, int((sampling > 0).sum())))
                loss = self._loss(rows, targets, drawn, log_q)
                for optimiser in optimisers:
                    optimiser.zero_grad(set_to_none=True)
                loss.backward()
                nn.utils.clip_grad_norm_(dense, 5.0)
                for optimiser in optimisers:
                    optimiser.step()
                spent = tick((done + epoch - 1) * steps + step, of * steps)
                if spent >= 1:
                    break
            yield epoch
            if spent >= 1:
                return

    def _loss(self, rows: Tensor, targets: Tensor, drawn: Tensor, log_q: Tensor) -> Tensor:
        net = self._net
        batch, length = rows.shape
        vectors = net.items(
            torch.cat((rows.reshape(-1), targets.reshape(-1), drawn))
        )  # one lookup, one sparse gradient
        inputs, true, samples = vectors.split((batch * length, batch * length, len(drawn)))
        real = (targets < net.items.num_embeddings - 1).reshape(-1)
        states = net(inputs.view(batch, length, -1)).reshape(batch * length, -1)[real]  # (P, D)
        bias = net.bias(torch.cat((targets.reshape(-1)[real], drawn)))[:, 0]
        own = (states * true[real]).sum(-1) + bias[: len(states)]  # (P,)
        others = states @ samples.T + bias[len(states) :] - log_q[drawn].clamp(max=0.0)  # (P, M)
        others = others.masked_fill(targets.reshape(-1)[real][:, None] == drawn, -1e9)
        return (torch.logsumexp(torch.cat((own[:, None], others), dim=1), dim=1) - own).mean()

    @torch.no_grad()
    def states(self, asked: Prefixes) -> Tensor:  # (P, D)
        self._net.eval()
        padding, cap = self._net.items.num_embeddings - 1, CAP
        rows = np.full((len(asked), cap), padding)
        lengths = np.minimum(asked.ends - asked.begins, cap)
        for row, length in enumerate(lengths):
            rows[row, :length] = asked.sessions.items[asked.ends[row] - length : asked.ends[row]]
        longest = int(lengths.max())
        states = self._net(self._net.items(torch.from_numpy(rows[:, :longest])))
        return states[torch.arange(len(asked)), torch.from_numpy(lengths - 1)]

    @torch.no_grad()
    def score(self, asked: Prefixes) -> Floats:
        vectors, bias = self._net.items.weight[:-1], self._net.bias.weight[:-1, 0]
        parts = [self.states(asked.part(slice(at, at + 512))) @ vectors.T + bias for at in range(0, len(asked), 512)]
        return np.concatenate([part.numpy() for part in parts])


def own_weight(training: Sessions) -> float:
    """The logit at which an own item among N others at 0 has the share of next events that go back to one in training."""
    session = np.repeat(np.arange(len(training)), training.lengths)
    back = len(session) - len(np.unique(session * training.n_items + training.items))
    others = max(1, len(session) - len(training) - back)
    return max(0.0, float(np.log(max(back, 1e-9) / others * training.n_items)))


def pieces(sessions: Sessions) -> Ints:
    """(N, 2) where each begins and ends: a session of two events and more, or a part of a long one."""
    found: list[tuple[int, int]] = []
    for begin, end in zip(sessions.starts[:-1].tolist(), sessions.starts[1:].tolist()):
        found.extend((at, min(at + CAP + 1, end)) for at in range(begin, end - 1, CAP))
    return np.array(found)


def batches(sessions: Sessions, bounds: Ints, size: int, rng: np.random.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """(B, L) items and (B, L) what came next, padded by n_items at the end; pieces of like lengths together."""
    lengths = bounds[:, 1] - bounds[:, 0] - 1
    order = np.lexsort((rng.random(len(lengths)), lengths))
    groups = [order[at : at + size] for at in range(0, len(order), size)]
    for group in rng.permutation(len(groups)):
        chosen = bounds[groups[group]]
        longest = int((chosen[:, 1] - chosen[:, 0]).max())
        at = chosen[:, :1] + np.arange(longest)
        block = np.where(at < chosen[:, 1:], sessions.items[np.minimum(at, len(sessions.items) - 1)], sessions.n_items)
        rows, targets = torch.from_numpy(block[:, :-1]), torch.from_numpy(block[:, 1:])
        yield rows, targets
