"""What every ranker of the comparison is: fit it, then ask it for scores. The evaluation knows no more of them.

    Sessions ─ fit ─ model ─ score(Prefixes) ─ (P, N) scores ─┐
    Clickouts ─ fit ─ model ─ score(Clickouts) ─ (R,) scores ─┴ ranks ─ metrics
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from models.evaluation.session_files import Prefixes, Sessions

Floats = NDArray[np.float32]
Tick = Callable[[int, int], None]  # steps done, steps in all


class NextItem(Protocol):
    """Scores all items of training for each prefix. Higher is better; a score that is not finite sinks to the bottom."""

    def fit(self, training: Sessions, tick: Tick) -> None: ...

    def score(self, asked: Prefixes) -> Floats:  # (P, N)
        ...
