"""What every ranker of the comparison is: fit it, then ask it for scores. The evaluation knows no more of them.

    Sessions ─ fit ─ NextItem ─ score(Prefixes) ─ (P, N) scores ─┐
    Lists    ─ fit ─ Reranker ─ score(Lists)    ─ (R,) scores  ──┴ ranks ─ metrics

Higher is better; a score that is not finite sinks to the bottom.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from models.evaluation.clickout_files import Clickouts
from models.evaluation.session_files import Prefixes, Sessions

Floats = NDArray[np.float32]
Tick = Callable[[int, int], None]  # steps done, steps in all


def unwatched(_done: int, _of: int) -> None:
    """A Tick for work that nobody waits for."""


class Lists(NamedTuple):
    """Displayed lists, and what is known of each of their R items: (R, F) of models.evaluation.clickout_features."""

    clickouts: Clickouts
    x: Floats


class NextItem(Protocol):
    """Scores every item of training for each prefix. Of logits, a softmax gives the probabilities that it claims."""

    logits: ClassVar[bool]

    def fit(self, training: Sessions, tick: Tick) -> None: ...

    def score(self, asked: Prefixes) -> Floats:  # (P, N)
        ...


class Reranker(Protocol):
    """Scores every item of each displayed list, one list after the other."""

    logits: ClassVar[bool]

    def fit(self, training: Lists, tick: Tick) -> None: ...

    def score(self, asked: Lists) -> Floats:  # (R,)
        ...
