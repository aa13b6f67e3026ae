"""What every ranker of the comparison is: fit it, then ask it for scores. The evaluation knows no more of them.

    Sessions ─ fit ─ NextItem ─ score(Prefixes) ─ (P, N) scores ─┐
    Lists    ─ fit ─ Reranker ─ score(Lists)    ─ (R,) scores  ──┴ ranks ─ metrics

Higher is better; a score that is not finite sinks to the bottom. A fit tells its steps to a Tick, which answers how much
of its time is gone: at 1 the fit ends with what it has, so that a comparison ends in time on any machine and any file.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from models.evaluation.clickout_files import Clickouts
from models.evaluation.session_files import Prefixes, Sessions

Floats = NDArray[np.float32]
Tick = Callable[[int, int], float]  # steps done, steps in all -> share of the time that is gone, 1 when it is up


def unwatched(_done: int, _of: int) -> float:
    """A Tick for work that nobody waits for."""
    return 0.0


def until(share: float, tick: Tick) -> Tick:
    """For a part of a fit that must be over when that share of the fit's time is gone."""
    return lambda done, of: tick(done, of) / share


class Lists(NamedTuple):
    """Displayed lists, and what is known of each of their R items: (R, F) of models.evaluation.clickout_features."""

    clickouts: Clickouts
    x: Floats


class NextItem(Protocol):
    """Scores every item of training for each prefix. Of logits, a softmax gives the probabilities that it claims.

    `effort`: how much of the time for fitting a model may take, against the others; 0 for what takes next to none.
    """

    logits: ClassVar[bool]
    effort: ClassVar[float]

    def fit(self, training: Sessions, tick: Tick) -> None: ...

    def score(self, asked: Prefixes) -> Floats:  # (P, N)
        ...


class Reranker(Protocol):
    """Scores every item of each displayed list, one list after the other."""

    logits: ClassVar[bool]
    effort: ClassVar[float]

    def fit(self, training: Lists, tick: Tick) -> None: ...

    def score(self, asked: Lists) -> Floats:  # (R,)
        ...
