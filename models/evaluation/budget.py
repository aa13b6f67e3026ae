"""Time for fitting, shared out, so that a comparison ends in time on any machine and on files of any size.

    what is left of the limit ─ less what ranking needs ─ by effort among the fits to come ─ one fit's Tick

What a fit does not use goes to those after it. A fit whose time was up is told of in `cut`: its figures are then those of
a model that would have learnt more.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from models.baselines.contract import Tick

_FITTING = 0.75  # share of what is left that fits may use; models rank with the rest


class Budget:
    """`limit_s` seconds from now on, for fits whose efforts add up to `efforts`."""

    def __init__(self, limit_s: float, efforts: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._ends, self._to_come = clock, clock() + limit_s, efforts
        self.cut: list[str] = []

    def of(self, what: str, effort: float, tick: Tick) -> Tick:
        """The Tick of the next fit, which begins now."""
        if not effort:
            return tick
        begun = self._clock()
        allowed_s = max(1.0, _FITTING * (self._ends - begun) * effort / self._to_come)
        self._to_come = max(effort, self._to_come - effort)
        told = False

        def ticked(done: int, of: int) -> float:
            nonlocal told
            tick(done, of)
            spent = 0.0 if math.isinf(allowed_s) else (self._clock() - begun) / allowed_s
            if spent >= 1 and done < of and not told:
                told = True
                self.cut.append(f"{what}: its {allowed_s:.0f} s were up before its last step; --minutes gives it more.")
            return spent

        return ticked
