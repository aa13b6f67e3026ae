"""TLS together with a Redis Cluster, and with a Sentinel: the job's writer and both readers, by certificates of a test's own."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from pathlib import Path

import pytest

from client.feed import AsyncRankedFeed, RankedFeed
from connect.secrets import Secret
from schemas.connections import Connections
from tests import certificates
from tests.integration.test_redis_topologies import (
    USERS,
    fails_over,
    size,
    watching,
    with_passwords,
    write_all,
    writing,
)
from tests.redis_servers import Server, TlsFront, cluster, servers, until

PATIENT_MS = 20_000  # each new connection reads the machine's authorities, a tenth of a second on a busy one


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> certificates.Certificates:
    return certificates.make(tmp_path_factory.mktemp("certificates"))


def test_a_cluster_behind_tls(tmp_path: Path, made: certificates.Certificates) -> None:
    """Contract: the nodes name the ports at which they speak TLS; every user is written and read there, and nowhere else."""
    with ExitStack() as ending:
        fronts = [TlsFront(made.server, behind=0) for _ in range(3)]
        for front in fronts:
            ending.callback(front.close)
        ports = [front.port for front in fronts]
        nodes = ending.enter_context(cluster(tmp_path, announced=ports))
        for node, front in zip(nodes, fronts):
            front.behind = node.port
            until(lambda node=node: ports_named_by(node) == set(ports))  # type: ignore[misc]
        where = Connections(
            redis_url=f"rediss://127.0.0.1:{fronts[1].port}", redis_mode="cluster", redis_cafile=made.cafile
        )
        assert all(writing(where.redis, lambda writer: write_all(writer, 1)).values())
        assert sum(size(node) for node in nodes) == 2 * len(USERS)
        with RankedFeed(where, timeout_ms=PATIENT_MS) as feed:
            assert [feed.get(user, at_least="e1").fallback for user in USERS] == [None] * len(USERS)

        async def reading() -> None:
            async with AsyncRankedFeed(where, timeout_ms=PATIENT_MS) as feed:
                answers = await asyncio.gather(*(feed.get(user) for user in USERS))
                assert [answer.fallback for answer in answers] == [None] * len(USERS)

        asyncio.run(reading())
        stranger = Connections(
            redis_url=where.redis_url, redis_mode="cluster"
        )  # trusts the machine's authorities alone
        with RankedFeed(stranger) as feed:
            assert feed.get(USERS[0]).fallback == "redis_unavailable"


def ports_named_by(node: Server) -> set[int]:
    with node.client() as client:
        return {int(owner[1]) for slots in client.execute_command("CLUSTER SLOTS") for owner in slots[2:]}


def test_sentinels_and_master_behind_tls(tmp_path: Path, made: certificates.Certificates) -> None:
    """Contract: Sentinel and master are asked by TLS, each under its own password, and a failover is followed."""
    asks = with_passwords(tmp_path)
    with ExitStack() as ending:

        def fronted(server: Server) -> TlsFront:
            front = TlsFront(made.server, server.port, and_plain=True)
            ending.callback(front.close)
            return front

        (first,) = ending.enter_context(servers(tmp_path, 1, *asks, password="of-the-master"))
        of_first = fronted(first)
        replica = ("--replicaof", "127.0.0.1", str(first.port))
        (second,) = ending.enter_context(servers(tmp_path, 1, *asks, *replica, password="of-the-master"))
        of_second = fronted(second)
        with second.client() as client:
            client.config_set("replica-announce-port", of_second.port)
            client.config_set("replica-announce-ip", "127.0.0.1")
            client.replicaof("NO", "ONE")  # and again, for its address is told when it begins to follow
            client.replicaof("127.0.0.1", first.port)
            until(lambda: client.info("replication")["master_link_status"] == "up")
        sentinel = watching(tmp_path, of_first.port)
        ending.callback(sentinel.kill)
        where = Connections(
            redis_url=f"rediss://127.0.0.1:{fronted(sentinel).port}",
            redis_mode="sentinel",
            redis_sentinel_master="lists",
            redis_password=Secret(file=str(tmp_path / "master")),
            redis_sentinel_password=Secret(file=str(tmp_path / "sentinels")),
            redis_cafile=made.cafile,
        )
        fails_over(where, sentinel, first, second)
