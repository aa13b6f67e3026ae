"""The way of a choice, on a real Kafka, Flink and Redis: events in, top lists out, and other users' candidates by them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.cluster import submit_top_lists
from connect.redis import Nodes
from connect.slots import Command
from models.bundle import Bundle, latest
from models.store import SHIPPED
from schemas import topics
from schemas.event import Context
from schemas.keys import top_list_redis_key
from schemas.redis_layout import TOP_LIST_FIELD
from schemas.top_lists import TopList, decode_top_list
from tests.e2e.engine import Engine, Reader, event, new_user, personalising, raw, wait_for

SESSIONS = 6
TV = {"surface": "home", "context": {"device": "tv"}}


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    """A stack of its own: what is popular on it is what this test does."""
    with personalising(tmp_path / "stack", task_managers=2) as running:
        running.stack.wait_running(submit_top_lists(running.stack))
        yield running


def strangers() -> tuple[str, list[str]]:
    """A popular item and three popular ones of its subcategory that the bundle does not know as its neighbours."""
    bundle = Bundle.load(SHIPPED / latest(SHIPPED))
    group, names = bundle.vocabulary.subcategory_row, bundle.vocabulary.ids
    for row in bundle.popular.tolist():
        alike = [one for one in bundle.popular.tolist() if group[one] == group[row] and one != row]
        others = [one for one in alike if one not in bundle.neighbours[row]]
        if len(others) >= 3:
            return names[row], [names[one] for one in others[:3]]
    raise AssertionError("every popular item is a neighbour of all of its group")


def test_what_sessions_choose_together_and_where_becomes_candidates(engine: Engine) -> None:
    item, others = strangers()
    nodes = Nodes(engine.where.redis, 5.0)

    def listed(key: str) -> TopList | None:
        name = top_list_redis_key(engine.where.redis_namespace, key)
        (answer,) = nodes.run([Command(name, ("HGET", name, TOP_LIST_FIELD))])
        return None if answer is None else decode_top_list(answer)

    def sources(user: str, context: Context | None = None) -> dict[str, str]:
        with engine.requester() as requester:
            answer = requester.rank_feed(user, None, k=500, session_id="s", context=context, timeout_ms=10_000)
            return {one.item_id: one.source for one in answer.items}

    fan = new_user("fan")
    with engine.events() as events, engine.feed() as feed, Reader(engine.where, topics.TOP_LISTS) as reader:
        seen = events.send(raw(event(fan, item_id=item)))
        assert feed.get(fan, at_least=seen.event_id, wait_ms=10_000).met
        before = sources(fan)
        assert [before.get(one) for one in others].count("covisited") == 0
        assert "popular_here" not in sources(new_user("viewer"), Context(device="tv")).values()

        for number in range(SESSIONS):
            chooser = new_user(f"chooser-{number}")
            for one in (item, *others):
                events.send(raw(event(chooser, item_id=one, props=TV)))
        told = wait_for(
            lambda: (
                (found := listed(f"item|{item}"))
                and {one for one, weight in zip(found.items, found.weights) if weight > SESSIONS / 2 - 0.1}
                >= set(others)
                and found
            ),
            60,
            "the pairs",
        )
        wait_for(lambda: (found := listed("device|tv")) and item in found.items, 30, "what is popular on TVs")
        reader.until(lambda records: {one.key for one in records[topics.TOP_LISTS]} >= {b"device|tv"}, limit_s=10)
    # How the sessions fall into bundles of ten seconds decides when the list is told: with all of them, or with half.
    assert all(SESSIONS / 2 - 0.1 <= weight <= SESSIONS for weight in told.weights[: len(others)])
    wait_for(lambda: [sources(fan).get(one) for one in others].count("covisited") > 0, 10, "candidates by the pairs")
    wait_for(
        lambda: sources(new_user("viewer"), Context(device="tv")).get(item) == "popular_here",
        10,
        "what is popular here",
    )
    nodes.close()
