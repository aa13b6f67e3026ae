"""Experiment log: what a user did in which arms, as totals by day, surface and segment.

    ranked list ─ counts for the arms that it was made by
    interaction ─ counts for the arms that it carries: those of its surface; one without a surface, of all that the user was on

Outcomes belong to the user's arm, not to a list (intention to treat): what an arm does to later visits is its own. Both kinds of
record say their arms themselves, so it does not matter which of the two topics is read first. A session counts where it first
does. Totals, not differences, go out: a record that comes twice does no harm.
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


class Taken(NamedTuple):
    """Totals that changed, by how much (nothing of a bot's), and whether the record came too late for its day's."""

    units: list[UnitMetrics]
    deltas: list[Cell] = []
    late: bool = False


def take_list(state: ExperimentState, made: RankedList) -> Taken:
    arms = _arms(state, made.receipt.arms)
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
    arms = _arms(state, one.arms)
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


def _arms(state: ExperimentState, said: dict[str, str]) -> dict[str, str]:
    state.crossed = state.crossed or CROSSED in said
    return {name: arm for name, arm in said.items() if name != CROSSED}


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
