"""Hindsight: what each item would have been worth to a visit, told by all that the visit did. Soft labels for training.

    visit ─ clicks and named groups, before and after ─ setting ─┐
    shopper ─ tokens of the last list's sequences ─ liking ──────┴─ P(click | looked at) = σ(worth + liking)·σ(setting)

A list says little: ten places, a click or none. The click model of models/tastes.py, fitted on other shoppers, says of every
item of the catalogue how likely a click was, given what only hindsight knows; the ranker learns to foresee it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from models.dataset import Levels, padded
from models.featurise import Floats, Tastes, history_sides, liking, session_sides
from models.traffic import Examples
from models.vocabulary import Rows, Vocabulary
from schemas.user_state import ACTIONS

_NAMES = (ACTIONS["search"], ACTIONS["follow"])
_MOST = 4  # clicks beyond so many are one setting


class ClickModel(NamedTuple):
    """Fitted on shown places (models/tastes.py)."""

    tastes: Tastes
    worth: Floats  # (N,)
    setting: Floats  # (SETTINGS,) logit of what a setting leaves of an item's chance


SETTINGS = (_MOST + 1) ** 2 * 8


def setting_of(in_group: Rows, elsewhere: Rows, named: Rows, acted: Rows, bought: Rows) -> Rows:
    """The number of a setting: the visit's other clicks in the item's group, its clicks elsewhere, whether its group was named,
    whether the item was acted on in the visit before, or ever bought."""
    number = np.minimum(in_group, _MOST) * (_MOST + 1) + np.minimum(elsewhere, _MOST)
    found: Rows = number * 8 + named * 4 + acted * 2 + bought
    return found


class Hindsight:
    """Soft labels for the lists of `data`."""

    def __init__(self, model: ClickModel, data: Examples, levels: Levels) -> None:
        self._model, self._visit = model, data.visit
        self._group, groups = levels.vocabulary.group_row, levels.vocabulary.first_item
        visits = int(data.visit.max(initial=-1)) + 1
        self._clicks = np.zeros((visits, groups), np.int64)
        np.add.at(self._clicks, (data.visit[:, None], self._group[data.items]), data.clicked)
        self._named = _named(data, levels.vocabulary, visits)
        self._taste, self._shopper = _sums(data, levels)

    def chance(self, lists: Rows, rows: Rows, clicked: Rows, acted: Rows) -> Floats:
        """(E, C) P(click | looked at) of rows in these lists; `clicked` (E, C) is 1 where the click is of that very place, which
        does not speak for itself; `acted` where the visit acted on the item before."""
        visit = self._visit[lists][:, None]
        in_group = self._clicks[visit, self._group[rows]] - clicked
        elsewhere = self._clicks.sum(axis=1)[visit] - clicked - in_group
        number = setting_of(in_group, elsewhere, self._named[visit, self._group[rows]], acted, np.zeros_like(acted))
        like = liking(self._taste[self._shopper[lists]], self._model.tastes.factors[rows])
        found: Floats = _sigmoid(self._model.worth[rows] + like) * _sigmoid(self._model.setting[number])
        return found


def _named(data: Examples, vocabulary: Vocabulary, visits: int) -> Rows:
    """(V, G) 1 where the visit came for the group, or searched for it: what it did before its first list, and its queries."""
    found = np.zeros((visits, vocabulary.first_item), np.int64)
    _, first = np.unique(data.visit, return_index=True)
    last = len(data) - 1 - np.unique(data.visit[::-1], return_index=True)[1]
    for lists, queries_only in ((first, False), (last, True)):
        sequences = padded(data.sessions, lists, np.random.default_rng(0), 0.0)
        rows, real = sequences.rows.numpy(), (sequences.padding == 0).numpy()
        if queries_only:
            real &= np.isin(sequences.actions.numpy() & 15, _NAMES)
        at, place = np.nonzero(real)
        found[data.visit[lists][at], vocabulary.group_row[rows[at, place]]] = 1
    return found


def _sums(data: Examples, levels: Levels) -> tuple[Floats, Rows]:
    """(S, F, F + 1) of featurise.Sides.tastes as of each shopper's last list, and (E,) each list's place in it."""
    _, newest, shopper = np.unique(data.shopper[::-1], return_index=True, return_inverse=True)
    lists = len(data) - 1 - newest
    found = []
    for sides, ragged, numbers in (
        (history_sides, data.histories, data.history[lists]),
        (session_sides, data.sessions, lists),
    ):
        parts = []
        for at in range(0, len(lists), 256):  # groups of all of them at once would not fit
            one = padded(ragged, numbers[at : at + 256], np.random.default_rng(0), 0.0)
            parts.append(
                sides(one.rows.numpy(), one.actions.numpy(), (one.padding == 0).numpy(), *levels).tastes  # type: ignore[operator]
            )
        found.append(np.concatenate(parts))
    return found[0] + found[1], shopper[::-1]


def _sigmoid(x: npt.NDArray[np.float32]) -> Floats:
    found: Floats = 1 / (1 + np.exp(-x))
    return found
