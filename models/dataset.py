"""Dataset: examples in batches of whole sessions, bucketed by the length of the history.

A session's history is encoded once however many lists it saw, as in serving; that makes a step five times cheaper.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from models.featurise import Tastes, history_sides, liking, ordered, price_gap, session_sides
from models.statistics import FOLDS
from models.traffic import Examples, Ragged
from models.vocabulary import Rows, Vocabulary
from schemas.user_state import ACTIONS, COUNTED, HISTORY_CAP, SESSION_CAP

_KINDS = torch.tensor([ACTIONS[name] for name in COUNTED])


class Sequences(NamedTuple):
    """(B, L) each; `padding` is 0 at tokens and far below at padding, `lengths` is (B,)."""

    rows: Tensor
    actions: Tensor
    log_hours: Tensor
    padding: Tensor
    lengths: Tensor


class Batch(NamedTuple):
    histories: Sequences  # (H, L)
    sessions: Sequences  # (E, L)
    history: Tensor  # (E,) which of H
    items: Tensor  # (E, P)
    clicked: Tensor
    carted: Tensor
    bought: Tensor
    counters: Tensor  # (E, P, COUNTERS)
    calendar: Tensor  # (E, 4) with the surface
    fold: Tensor  # (E,)
    groups: Tensor  # (E, G, features of featurise.Sides of both sequences, side by side)
    prices: Tensor  # (E, 2) of featurise.Sides, both sequences
    tastes: Tensor  # (E, F, F + 1) of featurise.Sides, both sequences
    ts_ms: npt.NDArray[np.int64]  # (E,)
    lists: npt.NDArray[np.int64]  # (E,) their numbers


class Levels(NamedTuple):
    """What groups, prices and tastes are reckoned with: the vocabulary, each row's price level, factors."""

    vocabulary: Vocabulary
    price: npt.NDArray[np.float32]  # (N,)
    tastes: Tastes | None = None


def batches(
    data: Examples,
    chosen: npt.NDArray[Any],
    per_batch: int,
    rng: np.random.Generator,
    levels: Levels,
    token_dropout: float = 0.0,
    history_cap: int = HISTORY_CAP,
    changes: float = 0.0,
) -> Iterator[Batch]:
    """The chosen lists (numbers), about `per_batch` a batch, those of one history together. Order is drawn anew each time.
    `changes` is the share of lists whose session begins as somebody else's (see `changed`)."""
    for lists in shares(data, chosen, per_batch, rng):
        yield made_batch(data, lists, rng, levels, token_dropout, history_cap, changes)


def shares(
    data: Examples, chosen: npt.NDArray[Any], per_batch: int, rng: np.random.Generator
) -> list[npt.NDArray[Any]]:
    """Which lists are in each batch, in the order of batches."""
    lengths = data.histories.lengths()
    histories = np.unique(data.history[chosen])
    # Buckets: sort by length with noise, cut, shuffle the cuts.
    order = histories[np.argsort(lengths[histories] * np.exp(0.2 * rng.standard_normal(len(histories))))]
    lists_of = np.argsort(data.history[chosen], kind="stable")
    sorted_lists = chosen[lists_of]
    first = np.searchsorted(data.history[sorted_lists], order)
    last = np.searchsorted(data.history[sorted_lists], order, side="right")
    cuts = np.searchsorted(np.cumsum(last - first), np.arange(per_batch, len(chosen) + per_batch, per_batch))
    starts = np.concatenate(([0], np.minimum(cuts + 1, len(order))))
    groups = [(int(a), int(b)) for a, b in pairwise(starts) if b > a]
    drawn = (groups[number] for number in rng.permutation(len(groups)))
    return [np.concatenate([sorted_lists[first[place] : last[place]] for place in range(a, b)]) for a, b in drawn]


def made_batch(
    data: Examples,
    lists: npt.NDArray[Any],
    rng: np.random.Generator,
    levels: Levels,
    token_dropout: float,
    history_cap: int,
    changes: float = 0.0,
) -> Batch:
    histories, history = np.unique(data.history[lists], return_inverse=True)
    calendar = np.concatenate((data.calendar[lists], np.ones((len(lists), 1), np.int16)), axis=1)
    of_histories = padded(data.histories, histories, rng, token_dropout, history_cap)
    sessions, numbers = changed(data.sessions, lists, rng, changes) if changes else (data.sessions, lists)
    of_sessions = padded(sessions, numbers, rng, token_dropout)
    longer = history_sides(*_columns(of_histories), *levels)
    now = session_sides(*_columns(of_sessions), *levels)
    return Batch(
        of_histories,
        of_sessions,
        torch.from_numpy(history.astype(np.int64)),
        torch.from_numpy(data.items[lists].astype(np.int64)),
        torch.from_numpy(data.clicked[lists]),
        torch.from_numpy(data.carted[lists]),
        torch.from_numpy(data.bought[lists]),
        torch.from_numpy(data.counters[lists]),
        torch.from_numpy(calendar.astype(np.int64)),
        torch.from_numpy(data.shopper[lists].astype(np.int64) % FOLDS),
        torch.from_numpy(np.concatenate((now.groups, longer.groups[history]), axis=-1)),
        torch.from_numpy(now.prices + longer.prices[history]),
        torch.from_numpy(now.tastes + longer.tastes[history]),
        data.ts_ms[lists],
        lists,
    )


def _columns(sequences: Sequences) -> tuple[Rows, npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Rows, actions, and which are no padding."""
    return sequences.rows.numpy(), sequences.actions.numpy(), (sequences.padding == 0).numpy()


def grouped(batch: Batch, rows: Tensor, levels: Levels) -> tuple[Tensor, Tensor]:
    """(E, C) -> (E, C, GROUPS), (E, C, RECENT_GROUP and TASTE): featurise's features of a user and a candidate's group, the
    price gap, the taste."""
    at = rows.numpy()
    of_groups = batch.groups.numpy()[np.arange(len(rows))[:, None], levels.vocabulary.group_row[at]]
    first, recent = ordered(of_groups, price_gap(batch.prices.numpy(), levels.price[at]))
    taste = np.zeros((*at.shape, 1), np.float32)
    if levels.tastes is not None:
        taste[..., 0] = liking(batch.tastes.numpy(), levels.tastes.factors[at])
    return torch.from_numpy(first), torch.from_numpy(np.concatenate((recent, taste), axis=-1))


def changed(
    sessions: Ragged, lists: npt.NDArray[Any], rng: np.random.Generator, share: float
) -> tuple[Ragged, npt.NDArray[Any]]:
    """The lists' sessions, a share of them behind the session of another list: the mind has changed, and what is wanted is
    what came last. Minds change seldom in traffic; without these a ranker follows too late. And the numbers of all in it."""
    others = rng.choice(lists, len(lists))
    parts: list[tuple[npt.NDArray[Any], ...]] = []
    for number, other, is_changed in zip(lists.tolist(), others.tolist(), (rng.random(len(lists)) < share).tolist()):
        own = slice(int(sessions.starts[number]), int(sessions.starts[number + 1]))
        columns = sessions.rows[own], sessions.actions[own], sessions.log_hours[own]
        if is_changed and len(columns[0]):
            first = slice(int(sessions.starts[other]), int(sessions.starts[other + 1]))
            # Theirs ended a minute before ours began.
            hours = np.expm1(sessions.log_hours[first]) + np.expm1(columns[2].max()) + 1 / 60
            before = sessions.rows[first], sessions.actions[first], np.log1p(hours).astype(np.float32)
            columns = tuple(np.concatenate(pair)[-SESSION_CAP:] for pair in zip(before, columns))  # type: ignore[assignment]
        parts.append(columns)
    starts = np.concatenate(([0], np.cumsum([len(one[0]) for one in parts])))
    rows, actions, log_hours = (np.concatenate(column) for column in zip(*parts))
    return Ragged(rows, actions, log_hours, starts), np.arange(len(lists))


def padded(
    ragged: Ragged, numbers: npt.NDArray[Any], rng: np.random.Generator, token_dropout: float, cap: int = HISTORY_CAP
) -> Sequences:
    """The newest `cap` tokens, right-padded; dropped tokens are padding too, and the lengths say what is left."""
    lengths = np.minimum(ragged.lengths()[numbers], cap)
    starts = ragged.starts[numbers + 1] - lengths  # the newest
    width = max(1, int(lengths.max(initial=0)))
    real = np.arange(width)[None, :] < lengths[:, None]  # (B, L)
    places = np.minimum(starts[:, None] + np.arange(width)[None, :], max(0, len(ragged.rows) - 1))
    if token_dropout:
        real &= rng.random(real.shape) >= token_dropout
        lengths = real.sum(axis=1)

    def column(values: npt.NDArray[Any], kind: type) -> Tensor:
        """Padded with 0, which is PADDING; of a log in which nobody came twice, all of it."""
        return torch.from_numpy(np.where(real, values[places] if len(values) else 0, 0).astype(kind))

    return Sequences(
        column(ragged.rows, np.int64),
        column(ragged.actions, np.int64),
        column(ragged.log_hours, np.float32),
        torch.from_numpy(np.where(real, 0.0, -1e9).astype(np.float32)),
        torch.from_numpy(lengths.astype(np.float32)),
    )


def counted(batch: Batch, rows: Tensor) -> Tensor:  # (E, M) -> (E, M, COUNTERS)
    """What featurise.counters would say of items that were not shown, as far as the batch's sequences tell."""
    since = torch.full(rows.shape, torch.inf)
    counts = torch.zeros(*rows.shape, len(_KINDS))
    in_session = torch.zeros(rows.shape)
    for sequences, places in ((batch.histories, batch.history), (batch.sessions, slice(None))):
        same = rows[:, :, None] == sequences.rows[places][:, None, :]  # (E, M, L)
        kinds = sequences.actions[places] & 15  # (E, L)
        counts += same.float() @ (kinds[:, :, None] == _KINDS).float()
        hours = torch.where(kinds == ACTIONS["purchase"], sequences.log_hours[places], torch.inf)
        since = torch.minimum(since, torch.where(same, hours[:, None, :], torch.inf).amin(-1))
        in_session = same.sum(-1)
    since = torch.where(torch.isinf(since), 0.0, since)
    return torch.cat((torch.log1p(counts), torch.log1p(in_session.float())[..., None], since[..., None]), dim=-1)


class Sampler:
    """Negatives for the sampled softmax: half from what is shown (in-batch), half uniform; log Q of the mixture."""

    def __init__(self, data: Examples, vocabulary: Vocabulary, rng: np.random.Generator) -> None:
        shown = np.bincount(data.items.ravel(), minlength=vocabulary.size).astype(float)
        shown[: vocabulary.first_item] = 0
        uniform = (np.arange(vocabulary.size) >= vocabulary.first_item) / (vocabulary.size - vocabulary.first_item)
        share = 0.5 * shown / shown.sum() + 0.5 * uniform
        self._cumulative, self._rng = np.cumsum(share), rng
        self.log_q = torch.from_numpy(np.log(np.maximum(share, 1e-12)).astype(np.float32))

    def draw(self, lists: int, each: int) -> Tensor:  # (E, M)
        drawn = np.searchsorted(self._cumulative, self._rng.random((lists, each)) * self._cumulative[-1], side="right")
        return torch.from_numpy(np.minimum(drawn, len(self._cumulative) - 1))
