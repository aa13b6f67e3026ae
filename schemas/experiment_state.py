"""Experiment state: what the job `experiments` remembers of one user, as one versioned blob."""

from __future__ import annotations

import msgspec

from schemas.user_state import UnknownStateVersion

VERSION = 1


class Cell(msgspec.Struct, array_like=True):
    """Totals of one experiment, arm, day, surface and segment. New fields go at the end, with a default."""

    experiment: str
    arm: str
    day: int  # since 1970, UTC
    surface: str
    segment: str
    exposures: int = 0
    clicks: int = 0
    carts: int = 0
    purchases: int = 0
    revenue: float = 0.0
    sessions: int = 0
    lists: int = 0
    latency_ms: float = 0.0

    def add(self, more: Cell) -> None:
        for field in COUNTED:
            setattr(self, field, getattr(self, field) + getattr(more, field))

    @property
    def name(self) -> tuple[str, str, int, str, str]:
        return (self.experiment, self.arm, self.day, self.surface, self.segment)


COUNTED = ("exposures", "clicks", "carts", "purchases", "revenue", "sessions", "lists", "latency_ms")


class ExperimentState(msgspec.Struct, array_like=True):
    """Cells are those of the last days, which may still change."""

    version: int = VERSION
    once_arms: dict[str, dict[str, str]] = {}  # not used any more; the place stays
    once_listed: dict[str, int] = {}  # likewise
    cells: list[Cell] = []
    last_ms: int = 0  # newest event
    session_ms: int = 0  # first event of the open session
    counted: dict[str, int] = {}  # experiment -> session_ms of the last session that counts for it
    segment: str = ""
    bot: bool = False
    crossed: bool = False
    timer_ms: int = 0
    touched_ms: int = 0  # append time of the newest record


encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(ExperimentState).decode


def decode(blob: bytes) -> ExperimentState:
    """Raises UnknownStateVersion."""
    state = _decode(blob)
    if state.version != VERSION:
        raise UnknownStateVersion(f"experiment state has version {state.version}; this release reads version {VERSION}")
    return state
