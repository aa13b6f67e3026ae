"""Experiment log: what a user did in which arms, as totals by day, surface and segment.

    ranked list ─ counts for the arms that it was made by ───────────────────────────────┐
       └ drafted of two rankers: remembered for a day ─ clicked items ─ clicks and wins ─┼─ totals
    interaction ─ counts for the arms that it carries: those of its surface; ────────────┘
                  one without a surface, of all that the user was on

Outcomes belong to the user's arm, not to a list (intention to treat): what an arm does to later visits is its own. Only a drafted
list's clicks belong to it, and so to the ranker that picked the item. All records say their arms themselves, so it does not
matter which of the two topics is read first. A session counts where it first does. Totals, not differences, go out: a
record that comes twice does no harm.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from schemas.event import AddToCart, Click, Impression, Purchase
from schemas.experiment_metrics import UnitMetrics
from schemas.experiment_state import Cell, DraftedList, ExperimentState
from schemas.experiments import CROSSED, INTERLEAVED
from schemas.interaction import Interaction
from schemas.policy import LAST_PLACE
from schemas.ranking import RankedList
from schemas.user_state import seen_hash
from udfs.logic.interleaving import CHALLENGER, CONTROL, winner

DAY_MS = 86_400_000
GAP_MS = 30 * 60_000  # of a session
KEPT_DAYS = 3  # user state takes events of up to a day before: older totals do not change any more
IDLE_MS = 35 * DAY_MS  # after which a user is forgotten
DRAFTS_CAP = 32  # drafted lists of a user that are remembered: 300 bytes each
_HASH_BYTES = 4


class Taken(NamedTuple):
    """Totals that changed, by how much (nothing of a bot's), and whether the record came too late for its day's."""

    units: list[UnitMetrics]
    deltas: list[Cell] = []
    late: bool = False
    without_list: bool = False  # a click of a unit whose lists are drafted, that does not say of which list it is
    outside: bool = False  # an outcome on a surface where an experiment counted the user, and does so no more


def take_list(state: ExperimentState, made: RankedList) -> Taken:
    arms = _arms(state, made.receipt.arms)
    latency_ms = made.receipt.stage_ms.get("total", 0.0)
    deltas = [
        Cell(name, arm, made.created_ms // DAY_MS, made.surface, state.segment, lists=1, latency_ms=latency_ms)
        for name, arm in arms.items()
    ]
    if made.receipt.draft is not None:
        deltas += _made(state, made)
    return _taken(state, made.key, made.receipt.unit, deltas)


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
    if not isinstance(event, (Impression, Click, AddToCart, Purchase)):
        return Taken([])
    day = one.ts_ms // DAY_MS
    lately = {cell.experiment for cell in state.cells if cell.surface == surface and cell.day > day - KEPT_DAYS}
    outside = not isinstance(event, Impression) and not lately <= arms.keys()
    revenue = 0.0
    if isinstance(event, Purchase):
        revenue = sum((line.price or 0.0) * line.quantity for line in event.props.items)
    if arms and day <= max((cell.day for cell in state.cells), default=day) - KEPT_DAYS:
        return Taken([], late=True)
    deltas = []
    for name, arm in arms.items():
        begins = state.counted.get(name) != state.session_ms
        state.counted[name] = state.session_ms
        deltas.append(
            Cell(
                name,
                arm,
                day,
                surface,
                state.segment,
                exposures=int(isinstance(event, Impression)),
                clicks=int(isinstance(event, Click)),
                carts=int(isinstance(event, AddToCart)),
                purchases=int(isinstance(event, Purchase)),
                revenue=revenue,
                sessions=int(begins),
            )
        )
    drafted = isinstance(event, Click) and INTERLEAVED in arms.values()
    if isinstance(event, Click) and drafted and props.list_id is not None:
        deltas += _clicked(state, props.list_id, event.item_id, one.ts_ms)
    taken = _taken(state, one.key, one.unit, deltas)
    return taken._replace(without_list=drafted and props.list_id is None, outside=outside)


# ── drafted lists ────────────────────────────────────────────────────────────────────────────────────────────────────


def _made(state: ExperimentState, made: RankedList) -> list[Cell]:
    """What changes now that it is known who picked what: nothing for a list that comes twice, or is none of ours."""
    draft = made.receipt.draft
    arms = [team.arm for team in draft.teams] if draft is not None else []
    if draft is None or len(arms) != 2 or not {item.team for item in made.items} <= set(arms):
        return []
    known = _remembered(state, made.list_id, made.created_ms)
    if known is None or known.items:
        return []
    known.at_ms = made.created_ms
    known.experiment, known.surface, known.segment, known.arms = draft.experiment, made.surface, state.segment, arms
    known.items = b"".join(_hashed(item.item_id) for item in made.items)
    known.teams = bytes(int(item.team == arms[CHALLENGER]) for item in made.items)
    return _credited(known, lists=1)


def _clicked(state: ExperimentState, list_id: str, item_id: str, ts_ms: int) -> list[Cell]:
    """An item of a list counts once, however often it is clicked."""
    known = _remembered(state, list_id, ts_ms)
    item = _hashed(item_id)
    if known is None or len(known.clicked) >= _HASH_BYTES * LAST_PLACE or item in _split(known.clicked):
        return []
    if not known.items:
        known.clicked += item
        return []
    before = _credited(known)
    known.clicked += item
    changes = [
        msgspec.structs.replace(now, clicks=now.clicks - was.clicks, wins=now.wins - was.wins)
        for now, was in zip(_credited(known), before)
    ]
    return [one for one in changes if one.clicks or one.wins]


def _credited(known: DraftedList, lists: int = 0) -> list[Cell]:
    """Clicks and wins of a list, by team."""
    team_of = dict(zip(_split(known.items), known.teams))
    teams = [team_of[item] for item in _split(known.clicked) if item in team_of]
    won = winner(teams)
    return [
        Cell(
            known.experiment,
            known.arms[team],
            known.at_ms // DAY_MS,
            known.surface,
            known.segment,
            clicks=teams.count(team),
            wins=int(won == team),
            lists=lists,
        )
        for team in (CONTROL, CHALLENGER)
    ]


def _remembered(state: ExperimentState, list_id: str, at_ms: int) -> DraftedList | None:
    """The list's entry, perhaps a new one; None for one too old. The newest lists of a day are kept, DRAFTS_CAP at most."""
    for known in state.drafts:
        if known.list_id == list_id:
            return known
    newest_ms = max((known.at_ms for known in state.drafts), default=at_ms)
    if at_ms <= newest_ms - DAY_MS:
        return None
    fresh = DraftedList(list_id, at_ms)
    kept = [known for known in state.drafts if known.at_ms > at_ms - DAY_MS]
    state.drafts = sorted([*kept, fresh], key=lambda known: known.at_ms)[-DRAFTS_CAP:]
    return fresh if any(known is fresh for known in state.drafts) else None


def _hashed(item_id: str) -> bytes:
    return seen_hash(item_id).to_bytes(_HASH_BYTES, "little")


def _split(hashes: bytes) -> list[bytes]:
    return [hashes[at : at + _HASH_BYTES] for at in range(0, len(hashes), _HASH_BYTES)]


# ── totals ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _arms(state: ExperimentState, said: dict[str, str]) -> dict[str, str]:
    state.crossed = state.crossed or CROSSED in said
    return {name: arm for name, arm in said.items() if name != CROSSED}


def _taken(state: ExperimentState, key: str, unit: str | None, deltas: list[Cell]) -> Taken:
    """Add to the totals; what is of a day whose totals are gone is left out."""
    days = [delta.day for delta in deltas]
    newest = max((cell.day for cell in state.cells), default=0)
    newest = max([newest, *days])
    if deltas:
        state.cells = [cell for cell in state.cells if cell.day > newest - KEPT_DAYS]
    in_time = [delta for delta in deltas if delta.day > newest - KEPT_DAYS]
    changed = _added(state, in_time)
    units = [_unit(state, unit or key, cell) for cell in changed]
    return Taken(units, [] if state.bot else in_time, late=len(in_time) < len(deltas))


def _added(state: ExperimentState, deltas: list[Cell]) -> list[Cell]:
    """The cells that the deltas belong to, each once, with them added."""
    by_name = {cell.name: cell for cell in state.cells}
    for delta in deltas:
        known = by_name.get(delta.name)
        by_name[delta.name] = delta if known is None else known + delta
    state.cells = list(by_name.values())
    return [by_name[name] for name in dict.fromkeys(delta.name for delta in deltas)]


def _unit(state: ExperimentState, unit: str, cell: Cell) -> UnitMetrics:
    fields = msgspec.structs.asdict(cell)
    fields |= {"revenue": round(cell.revenue, 6), "latency_ms": round(cell.latency_ms, 3)}
    return UnitMetrics(**fields, unit=unit, bot=state.bot, crossed=state.crossed)
