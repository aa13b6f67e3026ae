"""Experiments from end to end: published over control, stamped on lists, kept through a login, measured, reported.

A stack of its own: the definition would put other tests' users into arms.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from functools import partial

import msgspec
import pytest

from cli.cluster import publish, submit_experiments
from cli.experiments import units_on_topic
from client.decisions import decision_of_list
from client.scan import Limits, Scanner
from connect.redis import Nodes
from connect.slots import Command
from demo.world import load
from models.bundle import latest
from models.replaying import Bundles
from models.store import SHIPPED
from proof.interleaved import report_interleaved
from proof.report import report
from schemas import topics
from schemas.control import PublishExperiments, control_record
from schemas.experiment_metrics import UnitMetrics, decode_arm
from schemas.experiments import HOLDOUT, Arm, Definition, Experiment, Holdout, Layer
from schemas.keys import experiment_redis_key
from schemas.policy import DEFAULT as DEFAULT_POLICY
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
    part=(0.0, 0.7),
)
DUEL = msgspec.structs.replace(RUNNING, name="duel", kind="interleaved", part=(0.7, 1.0))
DEFINITION = Definition(
    version="e2e-1",
    salt="e2e",
    layers=(Layer(name="ranking", experiments=(RUNNING, DUEL)),),
    holdout=Holdout(share=0.05, bundle="demo-popularity"),
)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """With the definition published, and what happens in it measured."""
    with personalising(tmp_path_factory.mktemp("experiments") / "stack", task_managers=2) as running:
        publish(running.where, topics.CONTROL, [control_record(PublishExperiments(DEFINITION))])
        running.stack.wait_running(submit_experiments(running.stack))
        yield running


def test_arms_are_on_lists_through_a_login_and_totals_are_exact(engine: Engine) -> None:
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
            seen[f"s:{session}"] = expected.arms
        in_test = {unit: arms["ranker"] for unit, arms in seen.items() if "ranker" in arms}
        assert set(in_test.values()) == {"control", "popular"}

        for unit in in_test:
            for kind in ("impression", "impression", "click"):
                events.send(raw(event(f"account-{unit[2:]}", kind, ITEMS[1], session_id=unit[2:])))

        def counted() -> list[UnitMetrics] | None:
            """Two records of each unit: of the visitor, who clicked once, and of the account that they opened."""
            found = [one for one in units_on_topic(engine.where, 30) if one.unit in in_test and one.surface == "home"]
            by_unit: dict[str, tuple[int, int, int]] = dict.fromkeys(in_test, (0, 0, 0))
            for one in found:
                shown, clicks, sessions = by_unit[one.unit]
                by_unit[one.unit] = (shown + one.exposures, clicks + one.clicks, sessions + one.sessions)
            return found if set(by_unit.values()) == {(2, 3, 2)} else None

        found = wait_for(counted, 90, "all that the units did is counted")
        clicked = {arm: sum(one.clicks for one in found if one.arm == arm) for arm in ("control", "popular")}

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
    assert {one.unit: one.arm for one in found} == in_test and not any(one.crossed for one in found)
    read = report(RUNNING, found)
    assert sum(read.units.values()) == len(in_test) and read.sample_ratio_p > 0.001
    assert engine.restarts == 0


def test_drafted_lists_are_credited_and_made_again(engine: Engine) -> None:
    """Contract: two rankers on one list, a click for who picked the item, a report that counts people, and a replay."""
    assignment, now_ms = Assignment(DEFINITION), int(time.time() * 1000)
    users = [user for user in (new_user("duel") for _ in range(60)) if _drafted(assignment, user, now_ms)][:8]
    wanted = {}
    with engine.events() as events, engine.feed() as feed:

        def drafted(user: str) -> RankedList | None:
            """A list of two rankers, once both bundles are loaded."""
            token = events.send(raw(event(user, item_id=ITEMS[2], session_id=user)))
            made = feed.get(user, at_least=token.event_id, wait_ms=20_000).list
            return made if made is not None and made.receipt.draft is not None else None

        for number, user in enumerate(users):
            made = wait_for(partial(drafted, user), 60, "a drafted list")
            draft = made.receipt.draft
            assert draft is not None and made.receipt.arms == {"duel": "interleaved"} and made.fallback is None
            assert [(team.arm, team.bundle) for team in draft.teams] == [
                ("control", DEFAULT),
                ("popular", "demo-popularity"),
            ]
            assert {item.team for item in made.items} == {"control", "popular"}
            team = "popular" if number % 4 else "control"
            item = next(item.item_id for item in made.items if item.team == team)
            props = {"surface": "home", "list_id": made.list_id}
            events.send(raw(event(user, item_id=item, session_id=user, props=props)))
            wanted[f"s:{user}"] = team

        def won() -> dict[str, str] | None:
            found = [one for one in units_on_topic(engine.where, 30) if one.unit in wanted and one.wins]
            assert all((one.wins, one.clicks) == (1, 1) for one in found)
            return winners if (winners := {one.unit: one.arm for one in found}).keys() == wanted.keys() else None

        assert wait_for(won, 60, "wins are counted") == wanted
    read = report_interleaved(DUEL, [one for one in units_on_topic(engine.where, 30) if one.unit in wanted])
    assert read.units == {team: list(wanted.values()).count(team) for team in ("control", "popular")}
    with Scanner(engine.where, Limits(seconds=60)) as scanner:
        record = decision_of_list(scanner, made.list_id)
    assert record is not None and record.draft is not None
    assert Bundles("").replay_any(record, {DEFAULT_POLICY.version: DEFAULT_POLICY}).identical


def _drafted(assignment: Assignment, user: str, now_ms: int) -> bool:
    found = assignment.of(f"s:{user}", "", "home", now_ms)
    return found is not None and found.challenger is not None


def _bundle_fits(made: RankedList) -> bool:
    arms = made.receipt.arms
    popular = HOLDOUT in arms or arms.get("ranker") == "popular"
    return made.receipt.bundle == ("demo-popularity" if popular else DEFAULT)
