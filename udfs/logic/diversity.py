"""Diversity: what each candidate is worth next, given what stands above. Vectorised: one step is a few operations over n.

`gains()` is to be maximised over the candidates still free; `take` says which one came to stand there. Only of those is it asked
how alike the others are: 50 rows of likeness cost less than all 200.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from schemas.policy import Dpp, Mmr

Array = npt.NDArray[Any]  # of floats; likeness in half the room where it comes from vectors
Codes = npt.NDArray[np.int64]
Likeness = Callable[[int], Array]  # (n,) how alike all candidates are to this one, itself 1

ALIKE = 0.9  # likeness of two items of one subcategory, where subcategories are what is compared
_NOT_A_SCORE = -1e29  # what ranks at the bottom because its score is no number must not stretch the scale
_SPENT = 1e-10  # what is left of a candidate that is spanned by those above


class Worth(Protocol):
    def gains(self) -> Array:
        """(n,) what each candidate adds."""

    def take(self, place: int) -> None:
        """This candidate stands in the list."""


class ByScore:
    """No diversity: the score, whatever stands above."""

    def __init__(self, scores: Array) -> None:
        self._scores = scores

    def gains(self) -> Array:
        return self._scores

    def take(self, place: int) -> None:
        pass


class ByMmr:
    def __init__(self, relevance: float, scores: Array, likeness: Likeness) -> None:
        self._wanted = relevance * scaled(scores)
        self._price, self._likeness = 1 - relevance, likeness
        self._nearest: Array | None = None  # the likeness to the only one above may be negative

    def gains(self) -> Array:
        if self._nearest is None:
            return self._wanted
        gains: Array = self._wanted - self._nearest
        return gains

    def take(self, place: int) -> None:
        costs = self._price * self._likeness(place)
        if self._nearest is None:
            self._nearest = costs
        else:
            np.maximum(self._nearest, costs, out=self._nearest)


class ByDpp:
    """Greedy MAP of a DPP by incremental Cholesky: the kernel is q_i q_j likeness_ij, and `_left` its remaining diagonal."""

    def __init__(self, relevance: float, scores: Array, likeness: Likeness, most: int) -> None:
        between = scaled(scores)
        self._quality, self._likeness = np.exp(relevance * (between - 1)), likeness
        self._left: Array = self._quality**2 + _SPENT * between  # what is spanned already comes last, by score
        self._rows = np.zeros((most, len(scores)))
        self._count = 0

    def gains(self) -> Array:
        return self._left

    def take(self, place: int) -> None:
        left = self._left[place]
        if left <= 2 * _SPENT or self._count == len(self._rows):
            return
        above = self._rows[: self._count]
        row: Array = self._quality[place] * self._quality * self._likeness(place) - above[:, place] @ above
        row /= math.sqrt(left)
        self._rows[self._count] = row
        self._count += 1
        self._left -= row * row


def worth(method: Mmr | Dpp | None, scores: Array, likeness: Likeness | None, most: int) -> Worth:
    """`likeness` is needed where there is a method; `most` are the places to fill."""
    if method is None or likeness is None:
        return ByScore(scores)
    if isinstance(method, Mmr):
        return ByMmr(method.relevance, scores, likeness)
    return ByDpp(method.relevance, scores, likeness, most)


def likeness_of_vectors(vectors: npt.NDArray[np.float32]) -> Likeness:
    """Cosines; a vector of zeros is like nothing but itself."""
    lengths = np.sqrt(np.einsum("nd,nd->n", vectors, vectors))
    unit = vectors / np.where(lengths > 0, lengths, 1)[:, None]  # (n, d)

    def to(place: int) -> Array:
        cosines: Array = unit @ unit[place]
        cosines[place] = 1.0
        return cosines

    return to


def likeness_of_groups(codes: Codes) -> Likeness:
    """ALIKE within a group, 0 between groups; a code below 0 is no group."""

    def to(place: int) -> Array:
        alike: Array = ALIKE * ((codes == codes[place]) & (codes >= 0))
        alike[place] = 1.0
        return alike

    return to


def scaled(scores: Array) -> Array:
    """To 0…1 within the list."""
    real = scores[scores > _NOT_A_SCORE]
    if not len(real):
        return np.zeros(len(scores))
    low, high = float(real.min()), float(real.max())
    if high <= low:
        flat: Array = (scores > _NOT_A_SCORE).astype(np.float64)
        return flat
    found: Array = np.clip((scores - low) / (high - low), 0.0, 1.0)
    return found
