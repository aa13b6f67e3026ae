"""Two deployments share one broker, one Flink and a Redis Cluster of three nodes; only their namespaces tell them apart."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec
import pytest
from typer.testing import CliRunner

from cli.cluster import publish_items
from cli.main import app
from client.feed_core import FeedAnswer
from demo.world import load
from local.stack import Ports, Stack
from schemas.topics import TOPICS
from tests.e2e.engine import Engine, event, raw, wait_for
from tests.redis_servers import Server, addresses, cluster

ITEMS = [item.item_id for item in load().items]
USERS = [f"shopper-{number}" for number in range(12)]


class Deployments(NamedTuple):
    eu: Engine
    us: Engine
    nodes: list[Server]


@pytest.fixture(scope="module")
def deployments(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployments]:
    folder = tmp_path_factory.mktemp("cluster")
    (folder / "redis").mkdir()
    with cluster(folder / "redis") as nodes:
        stack = Stack(
            folder / "run",
            Ports.free(),
            task_managers=2,
            flink_environment={"RIFFLE_REDIS_MODE": "cluster"},
            say=lambda _: None,
        )
        try:
            stack.start()
            engines = [Engine(stack, where_of(stack, nodes, namespace)) for namespace in ("eu-", "us-")]
            for engine in engines:
                stack.create_topics(TOPICS, engine.where.namespace)
                publish_items(engine.where, load().items)
                engine.submit()
            engines[0].warm_up()
            yield Deployments(*engines, nodes)
        finally:
            stack.stop()


def where_of(stack: Stack, nodes: list[Server], namespace: str) -> Any:
    return msgspec.structs.replace(
        stack.connections(namespace), redis_url=f"redis://{addresses(nodes)}", redis_mode="cluster"
    )


def click(engine: Engine, user: str, item: str) -> FeedAnswer:
    with engine.events() as events, engine.feed() as feed:
        token = events.send(raw(event(user, item_id=item)))
        return feed.get(user, at_least=token.event_id, wait_ms=30_000)


def keys_by_node(nodes: list[Server]) -> list[list[str]]:
    found = []
    for node in nodes:
        with node.client() as client:
            found.append([key.decode() for key in client.keys("*")])
    return found


def test_lists_are_spread_over_the_cluster_and_read_from_it(deployments: Deployments) -> None:
    for number, user in enumerate(USERS):
        answer = click(deployments.eu, user, ITEMS[number])
        assert (answer.met, answer.fallback) == (True, None)
    by_node = keys_by_node(deployments.nodes)
    for keys in by_node:
        assert [key for key in keys if "list:{u:shopper-" in key], "every node holds some of the users"
    assert sum("list:{u:shopper-" in key for keys in by_node for key in keys) == len(USERS)


def test_a_namespace_sees_nothing_of_the_other(deployments: Deployments) -> None:
    user = "both-sides"
    first = click(deployments.eu, user, ITEMS[1])
    assert first.receipt is not None
    with deployments.us.feed() as feed:
        assert feed.get(user).list is None
    second = click(deployments.us, user, ITEMS[2])
    assert second.receipt is not None
    # Counted from one in each: state, topics and consumer groups are apart.
    assert (first.receipt.freshness.event_no, second.receipt.freshness.event_no) == (1, 1)
    prefixes = {key.split("riffle:")[0] for keys in keys_by_node(deployments.nodes) for key in keys}
    assert prefixes == {"eu-", "us-"}


def test_redis_is_rebuilt_on_every_node(deployments: Deployments, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("brokers", "redis_url", "redis_mode", "namespace"):
        monkeypatch.setenv(f"RIFFLE_{name.upper()}", getattr(deployments.eu.where, name))
    before = {key for keys in keys_by_node(deployments.nodes) for key in keys if key.startswith("eu-riffle:list:")}
    assert before
    for node in deployments.nodes:
        with node.client() as client:
            client.flushall()
    ended = CliRunner().invoke(app, ["redis", "rebuild", "--json"])
    assert ended.exit_code == 0, ended.output
    after = {key for keys in keys_by_node(deployments.nodes) for key in keys}
    assert before <= after
    assert not any(key.startswith("us-") for key in after), "the other deployment's keys are its own to rebuild"


def test_a_lost_node_does_not_stop_the_job_or_the_other_users(deployments: Deployments) -> None:
    """Runs last: the node comes back empty."""
    engine = deployments.eu
    restarts = engine.restarts
    lost = deployments.nodes[2]
    with lost.client() as client:
        theirs = {user for user in USERS if any(f"{{u:{user}}}" in key.decode() for key in client.keys("eu-*"))}
    assert 0 < len(theirs) < len(USERS)
    lost.kill()
    for user in sorted(set(USERS) - theirs):
        assert click(engine, user, ITEMS[5]).met
    with engine.events() as events:
        for user in sorted(theirs):
            events.send(raw(event(user, item_id=ITEMS[6])))
    time.sleep(1)  # while it is away, their lists go to Kafka only
    lost.start()

    def all_back() -> bool:
        with engine.feed() as feed:
            return all(feed.get(user).list is not None for user in sorted(theirs))

    wait_for(all_back, 30, "what was owed to the node is there without another event")
    assert engine.restarts == restarts
