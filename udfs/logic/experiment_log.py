"""Experiment log: what a user did in which arms, as totals by day, surface and segment.

    ranked list ─ its arms are the user's on that surface, until the next list says otherwise
    interaction ─ counts for the arms of its surface; one without a surface for those of all

Outcomes belong to the user's arm, not to a list (intention to treat): what an arm does to later visits is its own. What happens
before a user's first list in an experiment counts for nothing; a session counts where it first does. Totals, not differences, go
out: a record that comes twice does no harm.
"""

from __future__ import annotations

from typing import NamedTuple

from schemas.event import AddToCart, Click, Impression, Purchase
from schemas.experiment_metrics import UnitMetrics
from schemas.experiment_state import Cell, ExperimentState
from schemas.experiments import CROSSED
from schemas.interaction import Interaction
from schemas.ranking import RankedList

DAY_MS = 86_400_000
GAP_MS = 30 * 60_000  # of a session
KEPT_DAYS = 3  # user state takes events of up to a day before: older totals do not change any more
IDLE_MS = 35 * DAY_MS  # after which a user is forgotten
_SURFACES = 16


class Taken(NamedTuple):
    """Totals that changed, by how much (nothing of a bot's), and whether the record came too late for its day's."""

    units: list[UnitMetrics]
    deltas: list[Cell] = []
    late: bool = False


def take_list(state: ExperimentState, made: RankedList) -> Taken:
    """The arms from now on; a list that is older than the one known changes none, but counts."""
    at = made.state_epoch << 32 | made.list_no & 0xFFFFFFFF
    arms = {name: arm for name, arm in made.receipt.arms.items() if name != CROSSED}
    if at >= state.listed.get(made.surface, 0):
        state.arms.pop(made.surface, None)  # to the end: the surface that was ranked longest ago is the first to go
        state.arms[made.surface], state.listed[made.surface] = arms, at
        while len(state.arms) > _SURFACES:
            gone = next(iter(state.arms))
            del state.arms[gone], state.listed[gone]
    state.crossed = state.crossed or CROSSED in made.receipt.arms
    cells = _cells(state, arms, made.created_ms, made.surface)
    if cells is None:
        return Taken([], late=True)
    latency_ms = made.receipt.stage_ms.get("total", 0.0)
    return _taken(state, made.key, cells, [Cell(*cell.name, lists=1, latency_ms=latency_ms) for cell in cells])


def take_interaction(state: ExperimentState, one: Interaction) -> Taken:
    if not one.may_train:
        return Taken([])
    event = one.event
    props = event.props
    state.bot = state.bot or one.flagged
    if props.context is not None and props.context.device is not None:
        state.segment = props.context.device
    surface = props.surface or ""
    arms: dict[str, str] = {}
    for named in [state.arms.get(surface, {})] if surface else list(state.arms.values()):
        arms.update(named)
    if one.ts_ms - state.last_ms > GAP_MS:
        state.session_ms = one.ts_ms
    state.last_ms = max(state.last_ms, one.ts_ms)
    if not arms or not isinstance(event, (Impression, Click, AddToCart, Purchase)):
        return Taken([])
    cells = _cells(state, arms, one.ts_ms, surface)
    if cells is None:
        return Taken([], late=True)
    deltas = []
    for cell in cells:
        delta = Cell(*cell.name)
        if state.counted.get(cell.experiment) != state.session_ms:
            state.counted[cell.experiment] = state.session_ms
            delta.sessions = 1
        if isinstance(event, Impression):
            delta.exposures = 1
        elif isinstance(event, Click):
            delta.clicks = 1
        elif isinstance(event, AddToCart):
            delta.carts = 1
        elif isinstance(event, Purchase):
            delta.purchases = 1
            delta.revenue = sum((line.price or 0.0) * line.quantity for line in event.props.items)
        deltas.append(delta)
    return _taken(state, one.key, cells, deltas)


def _taken(state: ExperimentState, key: str, cells: list[Cell], deltas: list[Cell]) -> Taken:
    for cell, delta in zip(cells, deltas):
        cell.add(delta)
    return Taken([_unit(state, key, cell) for cell in cells], [] if state.bot else deltas)


def _cells(state: ExperimentState, arms: dict[str, str], ts_ms: int, surface: str) -> list[Cell] | None:
    """One for each arm; None where the day's totals are gone."""
    day = ts_ms // DAY_MS
    newest = max(day, max((cell.day for cell in state.cells), default=day))
    if day <= newest - KEPT_DAYS:
        return None
    state.cells = [cell for cell in state.cells if cell.day > newest - KEPT_DAYS]
    by_name = {cell.name: cell for cell in state.cells}
    found = []
    for experiment, arm in arms.items():
        fresh = Cell(experiment, arm, day, surface, state.segment)
        cell = by_name.setdefault(fresh.name, fresh)
        if cell is fresh:
            state.cells.append(cell)
        found.append(cell)
    return found


def _unit(state: ExperimentState, key: str, cell: Cell) -> UnitMetrics:
    return UnitMetrics(
        experiment=cell.experiment,
        arm=cell.arm,
        unit=key,
        day=cell.day,
        surface=cell.surface,
        segment=cell.segment,
        exposures=cell.exposures,
        clicks=cell.clicks,
        carts=cell.carts,
        purchases=cell.purchases,
        revenue=round(cell.revenue, 6),
        sessions=cell.sessions,
        lists=cell.lists,
        latency_ms=round(cell.latency_ms, 3),
        bot=state.bot,
        crossed=state.crossed,
    )
