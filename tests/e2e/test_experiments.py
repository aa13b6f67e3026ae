"""Experiments from end to end: published over control, stamped on lists, kept through a login, measured, reported.

A stack of its own: the definition would put other tests' users into arms.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from cli.cluster import publish, submit_experiments
from cli.experiments import units_on_topic
from connect.redis import Nodes
from connect.slots import Command
from demo.world import load
from models.bundle import latest
from models.store import SHIPPED
from proof.report import report
from schemas import topics
from schemas.control import PublishExperiments, control_record
from schemas.experiment_metrics import UnitMetrics, decode_arm
from schemas.experiments import Arm, Definition, Experiment, Holdout, Layer
from schemas.keys import experiment_redis_key
from schemas.ranking import RankedList
from schemas.redis_layout import ARM_FIELD
from tests.e2e.engine import Engine, event, new_user, personalising, raw, wait_for
from udfs.logic.experiments import Assignment

USERS = 40
DEFAULT = latest(SHIPPED)  # of the job, where no arm says otherwise
ITEMS = [item.item_id for item in load().items[:50]]
BEGIN = datetime.now(timezone.utc) - timedelta(hours=1)
RUNNING = Experiment(
    name="ranker",
    arms=(Arm(name="control", weight=0.5), Arm(name="popular", weight=0.5, bundle="demo-popularity")),
    start=BEGIN,
    end=BEGIN + timedelta(days=7),
)
DEFINITION = Definition(
    version="e2e-1",
    salt="e2e",
    layers=(Layer(name="ranking", experiments=(RUNNING,)),),
    holdout=Holdout(share=0.05, bundle="demo-popularity"),
)


@pytest.fixture
def engine(tmp_path: Any) -> Iterator[Engine]:
    with personalising(tmp_path / "stack", task_managers=2) as running:
        yield running


def test_arms_are_on_lists_through_a_login_and_totals_are_exact(engine: Engine) -> None:
    publish(engine.where, topics.CONTROL, [control_record(PublishExperiments(DEFINITION))])
    measuring = submit_experiments(engine.stack)
    engine.stack.wait_running(measuring)
    assignment = Assignment(DEFINITION)
    with engine.events() as events, engine.feed() as feed:

        def click(user: str | None, session: str) -> RankedList:
            """A click, and the list that has seen it."""
            body = event(user, item_id=ITEMS[0], session_id=session)
            token = events.send(raw(body))
            answer = feed.get(user, at_least=token.event_id, wait_ms=20_000, session_id=session)
            assert answer.met and answer.list is not None
            return answer.list

        def stamped() -> bool:
            return bool(click("probe", "probe").receipt.arms)

        wait_for(stamped, 60, "lists carry arms")
        # The arm's bundle is loaded when it is first asked for.
        wait_for(lambda: all(_bundle_fits(click(f"warm-{n}", f"warm-{n}")) for n in range(8)), 60, "bundles are loaded")
        sessions = [new_user("visit") for _ in range(USERS)]
        seen = {}
        for session in sessions:
            anonymous = click(None, session).receipt
            known = click(f"account-{session}", session).receipt
            expected = assignment.of(f"s:{session}", "", "home", int(time.time() * 1000))
            assert expected is not None
            assert anonymous.arms == known.arms == expected.arms
            assert known.bundle == (expected.bundle or DEFAULT)
            seen[f"u:account-{session}"] = expected.arms
        in_test = {user: arms["ranker"] for user, arms in seen.items() if "ranker" in arms}
        assert set(in_test.values()) == {"control", "popular"}

        def totals() -> dict[str, UnitMetrics]:
            found = units_on_topic(engine.where, 30)
            return {one.unit: one for one in found if one.unit in in_test and one.surface == "home"}

        wait_for(lambda: totals().keys() == in_test.keys(), 60, "all lists are counted")
        for user in in_test:
            for kind in ("impression", "impression", "click"):
                events.send(raw(event(user[2:], kind, ITEMS[1], session_id=user.removeprefix("u:account-"))))

        def shown() -> dict[str, UnitMetrics] | None:
            found = totals()
            return found if all(one.exposures == 2 and one.clicks >= 1 for one in found.values()) else None

        found = wait_for(shown, 60, "all impressions are counted")
        clicked = {arm: sum(one.clicks for one in found.values() if one.arm == arm) for arm in ("control", "popular")}

        def of_arms() -> dict[str, int] | None:
            """Of the users above, and of those who warmed the workers up: what Redis holds of each arm."""
            nodes = Nodes(engine.where.redis, 5.0)
            names = [experiment_redis_key(engine.where.redis_namespace, f"ranker|{arm}|home|") for arm in clicked]
            answers = nodes.run([Command(name, ("HGET", name, ARM_FIELD)) for name in names])
            nodes.close()
            held = {arm: decode_arm(answer).clicks if answer else 0 for arm, answer in zip(clicked, answers)}
            wanted = dict.fromkeys(clicked, 0)
            for one in units_on_topic(engine.where, 30):
                if one.experiment == "ranker" and one.surface == "home":
                    wanted[one.arm] += one.clicks
            return held if held == wanted else None

        arms = wait_for(of_arms, 60, "the totals of arms are the sums of their units")
        assert all(arms[arm] >= clicked[arm] > 0 for arm in arms)
    assert {user: one.arm for user, one in found.items()} == in_test
    assert {one.sessions for one in found.values()} == {1} and not any(one.crossed for one in found.values())
    read = report(RUNNING, found.values())
    assert sum(read.units.values()) == len(in_test) and read.sample_ratio_p > 0.001
    assert engine.restarts == 0


def _bundle_fits(made: RankedList) -> bool:
    arm = made.receipt.arms.get("ranker", "popular")
    return made.receipt.bundle == ("demo-popularity" if arm == "popular" else DEFAULT)
