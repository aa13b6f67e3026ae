"""Beliefs from end to end: outcomes on a surface are learnt by the job, and an explored place follows them. A stack of its own:
it has a second job."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from cli.cluster import publish, submit_beliefs
from demo.world import load
from schemas import topics
from schemas.control import PublishPolicy, control_record
from schemas.policy import Beliefs, Explore, Policy
from schemas.ranking import RankedItem
from tests.e2e.engine import Engine, event, new_user, personalising, raw, wait_for

SURFACE = "shelf"
ITEMS = [item.item_id for item in load().items[:9]]
LIKED = ITEMS[4]
FIRST = Policy(
    version="learnt-1",
    surface=SURFACE,
    rules=(),
    slots=[Explore(places=[1], policy="linucb", bonus=0.01)],
    beliefs=Beliefs(),
)


@pytest.fixture
def engine(tmp_path: Any) -> Iterator[Engine]:
    with personalising(tmp_path / "stack", task_managers=2) as running:
        yield running


def test_an_explored_place_goes_to_what_users_of_the_surface_clicked(engine: Engine) -> None:
    """Contract: learnt from others' outcomes on this surface, within seconds; what is not learnt from changes nothing."""
    publish(engine.where, topics.CONTROL, [control_record(PublishPolicy(FIRST))])
    engine.stack.wait_running(submit_beliefs(engine.stack))
    with engine.events() as events, engine.requester() as requester:

        def first() -> RankedItem:
            return requester.rank_feed(new_user("reader"), ITEMS, surface=SURFACE, timeout_ms=10_000).items[0]

        before = first().item_id
        refused = next(item for item in ITEMS if item not in (before, LIKED))
        for n in range(30):
            user = new_user(f"other-{n}")
            for item_id in ITEMS:
                events.send(raw(event(user, "impression", item_id, props={"surface": SURFACE})))
            events.send(raw(event(user, "click", LIKED, props={"surface": SURFACE})))
            no = {"surface": SURFACE, "consent": {"train": False}}
            for _ in range(3):
                events.send(raw(event(new_user(f"no-{n}"), "click", refused, props=no)))
        wait_for(lambda: first().item_id == LIKED or None, 90, "the place goes to what was clicked")
    assert engine.restarts == 0
