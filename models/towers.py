"""Towers: a light model of what the ranker would say, distilled from it (models/distil.py). numpy alone.

    item     z = (item vector, statics, prior)           v = z A + relu(z A1 + a1) A2                 (N, R + 1), at load
    session  r_S = Σ w_i t_i / (Σ w_i + 1)               w_i = e^(a[action_i] − λ·Δt_i / 30 min)
    history  r_H likewise, its ages as log(1 + hours)     t_i = (item vector) B
    user     x = (r_S, r_H, log lengths)                 u = x U + relu(x U1 + b1) U2, and then 1      (R + 1)
    recall   u·v                                         of all items: models/nearest.py
    light    u'·v' + groups + gap + own                  of the candidates: the pre-ranker, by vectors of its own

`groups` is one number for each subcategory, from what session and history say of it; `gap` is how far an item's price is
from those acted on; `own` is what this user did with an item before. The inputs are those of models/featurise.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from models.bundle import Bundle, BundleError
from models.featurise import (
    PRICE_LEVEL,
    Floats,
    Sides,
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
from models.vocabulary import Describe, Rows
from schemas.user_state import UserState

HALF_HOURS = 2.0  # in an hour: the session's ages are counted in units of 30 minutes
ITEM = ("item_linear", "item_in", "item_bias", "item_out")
SEQUENCES = ("session", "history")
USER = ("user_linear", "user_in", "user_bias", "user_out")
LIGHT = ("group_in", "group_bias", "group_out", "gap", "own")


class Past(NamedTuple):
    """What a history comes to: its vector, how long it was, and what it says of groups."""

    vector: Floats  # (R,)
    length: int
    sides: Sides


class User(NamedTuple):
    """One user at one moment."""

    recall: Floats  # (R + 1,) to search by
    light: Floats  # (R + 1,) to pre-rank by
    groups: Floats  # (G,) what is added for an item's group
    prices: Floats  # (2,) of featurise.Sides
    own_rows: Rows  # (A,) items acted on, ascending
    own: Floats  # (A,) and what is added for them


class Towers:
    """The towers of one bundle, over its items. Raises BundleError where they do not fit it."""

    def __init__(self, bundle: Bundle, describe: Describe | None = None) -> None:
        self._vocabulary, self._describe = bundle.vocabulary, describe
        weights = self._weights = bundle.towers
        try:
            z = item_inputs(bundle.embedding, bundle.statics, bundle.prior)
            both = perceptron(z, weights, ITEM)  # (N, 2 R + 2)
            self._tokens = bundle.embedding @ weights["tokens"]
        except (KeyError, ValueError) as error:
            raise BundleError(f"the towers of bundle {bundle.version} do not fit it: {error}") from error
        bundle.vocabulary.speak_for_groups(both)
        width = both.shape[1] // 2
        self.vectors = np.ascontiguousarray(both[:, :width])  # (N, R + 1) to be found by
        self._light = np.ascontiguousarray(both[:, width:])
        self._price_level = bundle.statics[:, PRICE_LEVEL].copy()
        self._group_row = bundle.vocabulary.group_row

    def past(self, state: UserState, now_ms: int) -> Past:
        """Of the history alone; it stays as it is as long as featurise.history_anchor_ms and the history do."""
        found = tokens(state.history(), history_anchor_ms(state, now_ms), self._vocabulary, self._describe)
        sides = history_sides(*as_batch(found), self._vocabulary, self._price_level)
        return Past(self._pooled("history", found, found.log_hours), found.length, sides)

    def user(self, state: UserState, past: Past, now_ms: int) -> User:
        found = tokens(state.session(), now_ms, self._vocabulary, self._describe)
        session = self._pooled("session", found, np.expm1(found.log_hours) * HALF_HOURS)
        lengths = np.log1p(np.array([found.length, past.length], np.float32))
        both = perceptron(np.concatenate((session, past.vector, lengths)), self._weights, USER)
        width = len(both) // 2
        one = np.ones(1, np.float32)
        sides = session_sides(*as_batch(found), self._vocabulary, self._price_level)
        weights = self._weights
        of_groups = group_columns(sides, past.sides)[:, : len(weights["group_in"])]  # as many as there were in training
        hidden = np.maximum(of_groups @ weights["group_in"] + weights["group_bias"], 0)
        own_rows, own = acted_on(state, self._vocabulary, now_ms)
        return User(
            np.concatenate((both[:width], one)),
            np.concatenate((both[width:], one)),
            hidden @ weights["group_out"],
            sides.prices[0] + past.sides.prices[0],
            own_rows,
            own @ weights["own"],
        )

    def light(self, user: User, rows: Rows) -> Floats:
        """(C,) the pre-ranker's score of each row."""
        scores: Floats = self._light.take(rows, axis=0) @ user.light
        scores += user.groups.take(self._group_row.take(rows))
        scores += self._weights["gap"][0] * price_gap(user.prices, self._price_level.take(rows))
        if len(user.own_rows):
            places = np.minimum(np.searchsorted(user.own_rows, rows), len(user.own_rows) - 1)
            scores += np.where(user.own_rows[places] == rows, user.own[places], np.float32(0))
        return scores

    def _pooled(self, name: str, found: Tokens, age: Floats) -> Floats:
        """(R,) tokens weighted by action and age; zeros for none."""
        if not found.length:
            return np.zeros(self._tokens.shape[1], np.float32)
        weights = self._weights
        weight = np.exp(weights[f"{name}_action"].take(found.actions) - weights[f"{name}_decay"][0] * age)
        pooled: Floats = weight @ self._tokens.take(found.rows, axis=0) / (weight.sum() + np.float32(1))
        return pooled


def item_inputs(embedding: Floats, statics: Floats, prior: Floats) -> Floats:
    """(N, D + F + 1)"""
    return np.concatenate((embedding, statics, prior[:, None]), axis=1)


def perceptron(x: Floats, weights: Mapping[str, npt.NDArray[Any]], names: tuple[str, ...]) -> Floats:
    """x A + relu(x A1 + a1) A2, by the four names."""
    linear, inner, bias, outer = (weights[name] for name in names)
    made: Floats = x @ linear + np.maximum(x @ inner + bias, 0) @ outer
    return made
