"""Experiment state: what the job `experiments` remembers of one user, as one versioned blob."""

from __future__ import annotations

import msgspec

from schemas.experiment_metrics import CountedOfUnit
from schemas.user_state import UnknownStateVersion

VERSION = 1


class Cell(CountedOfUnit, frozen=True, array_like=True):
    """Totals of one experiment, arm, day, surface and segment. New counters go to the end of CountedOfUnit, with a default."""

    experiment: str
    arm: str
    day: int  # since 1970, UTC
    surface: str
    segment: str

    def __add__(self, more: Cell) -> Cell:
        sums = {name: getattr(self, name) + getattr(more, name) for name in CountedOfUnit.__struct_fields__}
        return Cell(*self.name, **sums)

    @property
    def name(self) -> tuple[str, str, int, str, str]:
        return (self.experiment, self.arm, self.day, self.surface, self.segment)


class DraftedList(msgspec.Struct, array_like=True):
    """A list drafted of two rankers, and which of its items were clicked; either may be known first. Items as
    schemas.user_state.seen_hash, four bytes each, little endian."""

    list_id: str
    at_ms: int  # when it was made; until that is known, the first click
    clicked: bytes = b""  # each item once, in order of arrival
    items: bytes = b""  # by place; empty: only clicks are known yet
    teams: bytes = b""  # by place: udfs.logic.interleaving.CONTROL or CHALLENGER
    experiment: str = ""
    arms: list[str] = []  # by team
    surface: str = ""
    segment: str = ""


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
    drafts: list[DraftedList] = []  # newest last


encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(ExperimentState).decode


def decode(blob: bytes) -> ExperimentState:
    """Raises UnknownStateVersion."""
    state = _decode(blob)
    if state.version != VERSION:
        raise UnknownStateVersion(f"experiment state has version {state.version}; this release reads version {VERSION}")
    return state
