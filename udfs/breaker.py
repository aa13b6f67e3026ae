"""Circuit breaker: after failures in a row, spare a sick neighbour (and ourselves the waiting) for a while."""

from __future__ import annotations

from collections.abc import Callable


class Breaker:
    """Opens after `failures` in a row for `rest_s`; then calls may try: a success closes it, a failure opens it at once."""

    def __init__(self, failures: int, rest_s: float, clock: Callable[[], float]) -> None:
        self._limit, self._rest_s, self._clock = failures, rest_s, clock
        self._failures = 0
        self._open_until = 0.0

    @property
    def is_open(self) -> bool:
        """Whether to refrain from calling now."""
        return self._failures >= self._limit and self._clock() < self._open_until

    def succeeded(self) -> bool:
        """Note a success; True if this closed an open breaker."""
        was_open = self._failures >= self._limit
        self._failures = 0
        return was_open

    def failed(self) -> bool:
        """Note a failure; True if this opened the breaker."""
        self._failures += 1
        if self._failures < self._limit:
            return False
        self._open_until = self._clock() + self._rest_s
        return self._failures == self._limit
