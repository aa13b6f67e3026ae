"""The live experiment of the demo shop on an engine of two fixed lists, in fake time: what the stream's own logic counts, the
report finds, and the shop knows."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from bench.live_experiment import AB, CONTROL, DUEL, NEW, Shop, Truth, definition, of_arms, of_teams
from demo.truth import popular
from demo.world import load
from proof.interleaved import report_interleaved
from proof.report import report
from schemas.event import parse_event
from schemas.experiment_metrics import UnitMetrics, unit_key
from schemas.experiment_state import ExperimentState
from schemas.experiments import INTERLEAVED, faults
from schemas.interaction import Interaction
from schemas.ranking import Draft, Freshness, RankedItem, RankedList, Receipt, Team
from tests.unit.test_demo_traffic import START_MS, FakeClock
from udfs.logic.experiment_log import take_interaction, take_list
from udfs.logic.experiments import Assignment
from udfs.logic.interleaving import team_draft

BEST = [load().ids[item] for item in popular(10).tolist()]
POOR = [load().ids[item] for item in popular(400)[390:].tolist()]


class Engine:
    """Stands for events and feed: lists at once, and what the job `experiments` would have counted."""

    def __init__(self, assignment: Assignment) -> None:
        self.totals: dict[bytes, UnitMetrics] = {}
        self._assignment, self._states = assignment, dict[str, ExperimentState]()
        self._sessions = dict[str, str]()
        self._lists = 0

    def send(self, raw: bytes) -> Any:
        event: Any = parse_event(raw)
        key = f"u:{event.user_id}" if event.user_id else f"s:{event.session_id}"
        self._sessions[key] = event.session_id
        arms, unit = self._arms(key), f"s:{event.session_id}"
        one = Interaction(key, 1, 1, event, event.ts_ms, 0, 0, event.ts_ms, [], arms, unit)
        self._count(key, one)
        return SimpleNamespace(event_id=event.event_id)

    def get(self, user: str | None, surface: str, k: int, *, session_id: str | None, **_demands: Any) -> Any:
        key = f"u:{user}" if user else f"s:{session_id}"
        if key not in self._sessions:  # nothing is known of them yet
            return SimpleNamespace(items=POOR, list=None)
        arms = self._arms(key)
        self._lists += 1
        draft, items = None, [RankedItem(one, 1.0, "popular") for one in (BEST if arms.get(AB) == NEW else POOR)]
        if arms.get(DUEL) == INTERLEAVED:
            names = (CONTROL, NEW)
            draft = Draft(DUEL, [Team(name, "b", "r", "1") for name in names])
            picked = team_draft(POOR, BEST, k, self._lists)
            items = [RankedItem(one, 1.0, "popular", team=names[team]) for one, team in zip(*picked)]
        receipt = Receipt(Freshness(1, None, None, [], {}), "b", "r", "1", {}, arms, {}, {}, draft=draft)
        made = RankedList(f"L{self._lists}", key, surface, 1, self._lists, START_MS, items, receipt, "click")
        self._count(key, made)
        return SimpleNamespace(items=[one.item_id for one in items], list=made)

    def _arms(self, key: str) -> dict[str, str]:
        found = self._assignment.of(f"s:{self._sessions[key]}", "", "home", START_MS)
        return found.arms if found is not None else {}

    def _count(self, key: str, one: Interaction | RankedList) -> None:
        state = self._states.setdefault(key, ExperimentState())
        taken = take_interaction(state, one) if isinstance(one, Interaction) else take_list(state, one)
        self.totals |= {unit_key(total, key): total for total in taken.units}


def test_a_live_experiment_finds_what_is_true() -> None:
    """Contract: the interval of the split holds the true lift, the duel prefers whose items are clicked more."""
    running = definition(START_MS)
    assert faults(running, {"demo-popularity"}) == []
    ab, duel = (experiment for _, experiment in running.experiments())
    engine: Any = Engine(Assignment(running))
    shop = Shop(engine, engine, Truth(load(), Assignment(running), START_MS), 50.0, 1)
    clock = FakeClock()
    shop.traffic.run(240, clock=clock, sleep=clock.sleep)
    shop.traffic.close(int(clock() * 1000))
    records = list(engine.totals.values())
    counted = sum(one.exposures + one.clicks for one in records if one.experiment == AB)
    assert counted == sum(shop.sent.values()) > 2_000
    arms = of_arms(shop.truth, report(ab, records))
    assert arms is not None and min(arms.units.values()) >= 100
    assert arms.holds and arms.low > 0
    teams = of_teams(shop.truth, report_interleaved(duel, records))
    assert teams.expected_clicks[NEW] > 1.5 * teams.expected_clicks[CONTROL]
    assert teams.units[NEW] > teams.units[CONTROL] and teams.p < 0.05
