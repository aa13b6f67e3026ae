"""A three-node Redis Cluster and a Sentinel: the job's writer, both readers and the rebuild, while nodes come and go."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import redis

from client.feed import AsyncRankedFeed, RankedFeed
from client.rebuild import rebuild
from connect.redis import AsyncNodes, Nodes
from connect.redis_access import Node, RedisAccess
from connect.secrets import Secret
from connect.slots import Command
from schemas import topics
from schemas.connections import Connections
from schemas.keys import features_redis_key, list_redis_key, popular_redis_key
from schemas.redis_layout import FEATURES_FIELD, LIST_FIELD, LIST_TTL_MS, Entry, cas_arguments, version
from tests.integration.test_lists_in_redis import CompactedTopics, features, ranked
from tests.redis_servers import Server, addresses, cluster, servers, until
from udfs.redis_writer import RedisWriter

NS = "riffle:"
USERS = [f"u{n}" for n in range(60)]
GENEROUS_S = 10.0


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Server]]:
    with cluster(tmp_path_factory.mktemp("cluster")) as found:
        yield found


@pytest.fixture
def where(nodes: list[Server]) -> Connections:
    for node in nodes:
        with node.client() as client:
            client.flushall()
            client.config_resetstat()
    # Of one node's address the others are found.
    return Connections(redis_url=f"redis://{nodes[1].address}", redis_mode="cluster")


def arguments(user: str, number: int) -> tuple[list[str], list[str | int | bytes]]:
    key = f"u:{user}"
    entries = [
        Entry(features_redis_key(NS, key), FEATURES_FIELD, features(number)),
        Entry(list_redis_key(NS, key, "home"), LIST_FIELD, ranked(number)),
    ]
    return cas_arguments(version(0, number), LIST_TTL_MS, entries)


def writing(access: RedisAccess, test: Callable[[RedisWriter], Awaitable[Any]], limit_s: float = GENEROUS_S) -> Any:
    async def run() -> Any:
        writer = RedisWriter(access, limit_s)
        try:
            return await asyncio.wait_for(test(writer), 60)
        finally:
            await writer.aclose()

    return asyncio.run(run())


async def write_all(writer: RedisWriter, number: int) -> dict[str, bool]:
    reached = await asyncio.gather(*(writer.write(*arguments(user, number)) for user in USERS))
    return dict(zip(USERS, reached))


def port_of(access: RedisAccess, key: str) -> int:
    """Of the node that serves a key."""
    found = Nodes(access, GENEROUS_S)
    found.clients()
    port = found._topology.node_of(key).port
    found.close()
    return port


def test_a_batch_is_one_round_trip_per_node(nodes: list[Server], where: Connections) -> None:
    """Contract: what waits together goes out together, to each node once, and each user's keys in one script."""
    trips: list[tuple[int, int]] = []  # the port and how many commands

    async def test(writer: RedisWriter) -> dict[str, bool]:
        one = writer._nodes._one

        async def counted(node: Node, numbers: list[int], *rest: Any) -> None:
            trips.append((node.port, len(numbers)))
            await one(node, numbers, *rest)

        writer._nodes._one = counted  # type: ignore[method-assign]
        return await write_all(writer, 1)

    assert all(writing(where.redis, test).values())
    assert sorted(port for port, _ in trips) == sorted(node.port for node in nodes)
    assert sum(commands for _, commands in trips) == len(USERS)
    assert sum(size(node) for node in nodes) == 2 * len(USERS)


def size(node: Server) -> int:
    with node.client() as client:
        return int(client.dbsize())


def test_readers_find_every_user_and_the_popular_list(where: Connections) -> None:
    async def test(writer: RedisWriter) -> None:
        assert all((await write_all(writer, 3)).values())
        await writer.set_popular(popular_redis_key(NS, "home"), b'["p1"]')

    writing(where.redis, test)
    with RankedFeed(where, timeout_ms=5_000) as feed:
        assert [feed.get(user, at_least="e3", wait_ms=1_000).fallback for user in USERS] == [None] * len(USERS)
        assert feed.get("nobody").items == ["p1"]

    async def reading() -> None:
        async with AsyncRankedFeed(where, timeout_ms=5_000) as feed:
            answers = await asyncio.gather(*(feed.get(user) for user in USERS))
            assert [answer.fallback for answer in answers] == [None] * len(USERS)
            assert (await feed.get("nobody")).items == ["p1"]

    asyncio.run(reading())


def test_a_rebuild_writes_to_every_node(nodes: list[Server], where: Connections) -> None:
    now_ms = int(time.time() * 1000)
    values = [ranked(3, created_ms=now_ms).replace(b"u:al{ice}", f"u:{user}".encode()) for user in USERS]
    scanner: Any = CompactedTopics(values, [])
    assert topics.RANKED_FEED_LATEST in scanner._records
    tool = Nodes(where.redis, GENEROUS_S)
    assert rebuild(scanner, tool, NS, now_ms).lists == len(USERS)
    assert {client.info("server")["tcp_port"] for client in tool.clients()} == {node.port for node in nodes}
    tool.close()
    assert all(size(node) > 5 for node in nodes)


def test_a_lost_node_fails_its_own_users_only(nodes: list[Server], where: Connections) -> None:
    """Contract: neither the others' writes nor their reads notice, and all is well again when it is back."""
    lost = nodes[0]
    theirs = {user: port_of(where.redis, features_redis_key(NS, f"u:{user}")) == lost.port for user in USERS}
    assert 0 < sum(theirs.values()) < len(USERS)

    async def test(writer: RedisWriter) -> None:
        assert all((await write_all(writer, 1)).values())
        lost.kill()
        for number in (2, 3, 4):
            reached = await write_all(writer, number)
            assert {user: not reached[user] for user in USERS} == theirs
        mine, other = (next(user for user in USERS if theirs[user] is lost_one) for lost_one in (True, False))
        assert writer.is_down(features_redis_key(NS, f"u:{mine}"))
        assert not writer.is_down(features_redis_key(NS, f"u:{other}"))
        async with AsyncRankedFeed(where, timeout_ms=2_000) as feed:
            answers = await asyncio.gather(*(feed.get(user) for user in USERS))
        assert {user: answer.fallback is not None for user, answer in zip(USERS, answers)} == theirs
        lost.start()
        deadline = time.monotonic() + GENEROUS_S
        while not all((await write_all(writer, 5)).values()):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.1)

    try:
        writing(where.redis, test)
    finally:
        if size_or_none(lost) is None:
            lost.start()


def size_or_none(node: Server) -> int | None:
    try:
        return size(node)
    except redis.ConnectionError:
        return None


def test_a_slot_that_moves_is_followed_at_once(nodes: list[Server], where: Connections) -> None:
    """Contract: a MOVED costs a second trip, and not one write or read."""
    key = "{moving}:x"
    source = next(node for node in nodes if node.port == port_of(where.redis, key))
    target = next(node for node in nodes if node is not source)

    async def test(used: AsyncNodes, tool: Nodes) -> None:
        assert await used.run([Command(key, ("HSET", key, "a", "1"))]) == [1]
        assert tool.run([Command(key, ("HGET", key, "a"))]) == [b"1"]
        move(source, target, key)
        assert await used.run([Command(key, ("HSET", key, "a", "2"))]) == [0]
        assert tool.run([Command(key, ("HGET", key, "a"))]) == [b"2"]
        move(target, source, key)

    async def run() -> None:
        used, tool = AsyncNodes(where.redis, GENEROUS_S), Nodes(where.redis, GENEROUS_S)
        try:
            await test(used, tool)
        finally:
            await used.aclose()
            tool.close()

    asyncio.run(run())


def move(source: Server, target: Server, key: str) -> None:
    """Move a key's slot and the key, as `redis-cli --cluster reshard` does."""
    with source.client() as giving, target.client() as taking:
        slot = giving.cluster("KEYSLOT", key)
        ids = {client: client.execute_command("CLUSTER MYID").decode() for client in (giving, taking)}
        taking.cluster("SETSLOT", slot, "IMPORTING", ids[giving])
        giving.cluster("SETSLOT", slot, "MIGRATING", ids[taking])
        giving.execute_command("MIGRATE", "127.0.0.1", target.port, key, 0, 5_000)
        taking.cluster("SETSLOT", slot, "NODE", ids[taking])
        giving.cluster("SETSLOT", slot, "NODE", ids[taking])


def test_a_cluster_that_is_away_is_one_answer_and_not_an_exception() -> None:
    nowhere = RedisAccess(url="redis://127.0.0.1:1,127.0.0.1:2", mode="cluster")
    assert not any(writing(nowhere, lambda writer: write_all(writer, 1)).values())
    with RankedFeed(Connections(redis_url=nowhere.url, redis_mode="cluster")) as feed:
        assert feed.get("alice").fallback == "redis_unavailable"


def with_passwords(folder: Path) -> tuple[str, ...]:
    """Files of both passwords, `master` and `sentinels`, and the settings of servers that ask for the first."""
    (folder / "master").write_text("of-the-master")
    (folder / "sentinels").write_text("of-the-sentinels")
    return ("--requirepass", "of-the-master", "--masterauth", "of-the-master")


def watching(folder: Path, port: int) -> Server:
    """A Sentinel of the master `lists` at a port, under the passwords of `with_passwords`."""
    config = folder / "sentinel.conf"
    config.write_text(
        f"requirepass of-the-sentinels\nsentinel monitor lists 127.0.0.1 {port} 1\n"
        "sentinel auth-pass lists of-the-master\nsentinel down-after-milliseconds lists 500\n"
        "sentinel failover-timeout lists 2000\n"
    )
    return Server(folder, sentinel=config, password="of-the-sentinels")


def fails_over(where: Connections, sentinel: Server, first: Server, second: Server) -> None:
    """The first, which is the master, is lost: the job writes and services read where the second is."""
    with sentinel.client() as client:
        until(lambda: client.sentinel_slaves("lists"))

    async def test(writer: RedisWriter) -> None:
        assert await writer.write(*arguments("alice", 1))
        first.kill()
        deadline = time.monotonic() + 30
        while not await writer.write(*arguments("alice", 2)):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.1)

    with RankedFeed(where, timeout_ms=2_000) as feed:
        writing(where.redis, test, limit_s=2.0)
        assert feed.get("alice", at_least="e2", wait_ms=2_000).met
    assert size(second) == 2


def test_the_master_is_the_one_that_the_sentinels_name(tmp_path: Path) -> None:
    """Contract: after a failover the job writes and services read where the new master is, without a restart; master and
    Sentinels each ask for a password of their own."""
    asks = with_passwords(tmp_path)
    with ExitStack() as ending:
        (first,) = ending.enter_context(servers(tmp_path, 1, *asks, password="of-the-master"))
        replica = ("--replicaof", "127.0.0.1", str(first.port))
        (second,) = ending.enter_context(servers(tmp_path, 1, *asks, *replica, password="of-the-master"))
        with second.client() as client:
            until(lambda: client.info("replication")["master_link_status"] == "up")
        sentinel = watching(tmp_path, first.port)
        ending.callback(sentinel.kill)
        where = Connections(
            redis_url=f"redis://127.0.0.1:1,{sentinel.address}",  # the first is away
            redis_mode="sentinel",
            redis_sentinel_master="lists",
            redis_password=Secret(file=str(tmp_path / "master")),
            redis_sentinel_password=Secret(file=str(tmp_path / "sentinels")),
        )
        fails_over(where, sentinel, first, second)


def test_tools_and_job_find_all_primaries_of_a_longer_address(nodes: list[Server]) -> None:
    tool = Nodes(RedisAccess(url=f"redis://{addresses(nodes)}", mode="cluster"), GENEROUS_S)
    assert len(tool.clients()) == 3
    tool.close()


def test_all_who_come_at_once_ask_once_for_the_slots(nodes: list[Server], where: Connections) -> None:
    """Contract: sixty first reads cost one question to the Cluster."""

    async def run() -> None:
        used = AsyncNodes(where.redis, GENEROUS_S)
        try:
            reads = [used.run([Command(f"{{{user}}}", ("GET", f"{{{user}}}"))]) for user in USERS]
            assert await asyncio.gather(*reads) == [[None]] * len(USERS)
        finally:
            await used.aclose()

    asyncio.run(run())
    asked = 0
    for node in nodes:
        with node.client() as client:
            asked += sum(
                stats["calls"]
                for name, stats in client.info("commandstats").items()
                if name.startswith("cmdstat_cluster")
            )
    assert asked == 1
