"""Redis clients of every topology, in one place: one server, a Cluster, or a master named by Sentinels.

    access ─┬─ Nodes       for threads: readers, tools
            └─ AsyncNodes  for an event loop: the job's writer, readers
                 run(commands) ─ by node (the slot of each command's key) ─ one pipeline per node ─ answers in order

A node that fails fails its own commands only. The library's own Cluster client closes its connections to all nodes when one
fails, and pauses for 250 ms; a reader has 50 (docs/decisions.md).
"""

from __future__ import annotations

import asyncio
import threading
import time
from bisect import bisect_right
from collections.abc import Sequence
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import msgspec
import redis
import redis.asyncio
import redis.asyncio.cluster
import redis.asyncio.sentinel
import redis.cluster
import redis.sentinel
from redis.connection import parse_url
from redis.crc import key_slot
from redis.credentials import CredentialProvider
from redis.exceptions import MovedError

from connect.secrets import InvalidConnection, Secret

SINGLE, CLUSTER, SENTINEL = "single", "cluster", "sentinel"
MODES = (SINGLE, CLUSTER, SENTINEL)
LOST = (redis.ConnectionError, redis.TimeoutError, OSError, asyncio.TimeoutError)  # of a node, not of one command

_LOOK_AGAIN_S = 1.0  # how often a Cluster is asked for its slots at most
_SLOTS = 16_384


class Command(NamedTuple):
    """A command and the key that decides which node takes it."""

    key: str
    words: tuple[str | int | bytes, ...]


class Node(NamedTuple):
    host: str
    port: int


class RedisAccess(msgspec.Struct, frozen=True, kw_only=True):
    """How to reach Redis. `url` is redis:// or rediss:// (TLS) with one or, for a Cluster and Sentinels, several host:port.

    Credentials stand beside it, never in it. `cafile` (PEM) replaces the machine's authorities. Sentinels are asked under
    `sentinel_password`, by TLS where the master is. Raises InvalidConnection.
    """

    url: str
    mode: str = SINGLE
    master: str | None = None
    username: str | None = None
    password: Secret | None = None
    sentinel_password: Secret | None = None
    cafile: str | None = None

    def __post_init__(self) -> None:
        check_redis(self)

    @property
    def nodes(self) -> list[Node]:
        """The addresses of the URL: of Sentinels those of the Sentinels."""
        default = 26_379 if self.mode == SENTINEL else 6_379
        parts = (urlsplit(f"//{address}") for address in urlsplit(self.url).netloc.split(","))
        return [Node(part.hostname or "localhost", part.port or default) for part in parts]

    def settings(self, limit_s: float) -> dict[str, Any]:
        """Keyword arguments of a connection, but host and port. Every step of it is limited."""
        url = urlsplit(self.url)
        found: dict[str, Any] = dict(parse_url(f"{url.scheme}://localhost{url.path}?{url.query}"))
        for name in ("host", "port", "connection_class"):
            found.pop(name, None)
        # Without the library's name and version: telling them costs two trips and a right that nothing else needs.
        found |= {"socket_timeout": limit_s, "socket_connect_timeout": limit_s, "lib_name": None, "lib_version": None}
        if self.password is not None:
            found["credential_provider"] = _Credentials(self.username, self.password)
        return found | self.tls()

    def sentinel_settings(self, limit_s: float) -> dict[str, Any]:
        credentials = (
            {}
            if self.sentinel_password is None
            else {"credential_provider": _Credentials(None, self.sentinel_password)}
        )
        secure = {"ssl": True, **self.tls()} if self.uses_tls else {}
        return {"socket_timeout": limit_s, "socket_connect_timeout": limit_s, **credentials, **secure}

    @property
    def uses_tls(self) -> bool:
        return self.url.startswith("rediss://")

    def tls(self) -> dict[str, Any]:
        if not self.uses_tls:
            return {}
        return {"ssl_cert_reqs": "required", "ssl_check_hostname": True, "ssl_ca_certs": self.cafile}


def check_redis(access: RedisAccess) -> None:
    """Raises InvalidConnection naming the variable, and never a password that stands in the wrong place."""
    try:
        url = urlsplit(access.url)
        hosts = url.netloc.split(",")
        ports = [urlsplit(f"//{host}").port for host in hosts]
        database = int(url.path.strip("/") or 0)
    except ValueError:
        raise InvalidConnection(
            "RIFFLE_REDIS_URL is no address: write redis://host:6379/0, or rediss:// for TLS"
        ) from None
    if "@" in url.netloc or "password=" in url.query:
        raise InvalidConnection(
            "RIFFLE_REDIS_URL holds credentials, which lists of processes and logs would show: put them into "
            "RIFFLE_REDIS_USERNAME and RIFFLE_REDIS_PASSWORD, or into a file named by RIFFLE_REDIS_PASSWORD_FILE"
        )
    if url.scheme not in ("redis", "rediss") or not all(hosts) or 0 in ports:
        raise InvalidConnection("RIFFLE_REDIS_URL must be redis://host:port or, for TLS, rediss://host:port")
    if access.mode not in MODES:
        raise InvalidConnection(f"RIFFLE_REDIS_MODE is {access.mode}: it must be one of {', '.join(MODES)}")
    if access.mode == SINGLE and len(hosts) > 1:
        raise InvalidConnection("RIFFLE_REDIS_URL names several hosts: set RIFFLE_REDIS_MODE to cluster or sentinel")
    if access.mode == CLUSTER and database:
        raise InvalidConnection("RIFFLE_REDIS_URL names a database, and a Redis Cluster has only 0: leave it out")
    if (access.mode == SENTINEL) != bool(access.master):
        raise InvalidConnection("RIFFLE_REDIS_SENTINEL_MASTER belongs to RIFFLE_REDIS_MODE=sentinel: set both or none")
    if access.sentinel_password is not None and access.mode != SENTINEL:
        raise InvalidConnection("RIFFLE_REDIS_SENTINEL_PASSWORD is set, but RIFFLE_REDIS_MODE is not sentinel")
    if access.username and access.password is None:
        raise InvalidConnection(
            "RIFFLE_REDIS_USERNAME is set without RIFFLE_REDIS_PASSWORD or RIFFLE_REDIS_PASSWORD_FILE"
        )
    if access.cafile and not access.uses_tls:
        raise InvalidConnection(
            "RIFFLE_REDIS_CAFILE is set, but RIFFLE_REDIS_URL is not rediss://: TLS would not be used"
        )


class _Credentials(CredentialProvider):
    """Read anew for each connection, so that a rotated password needs no restart."""

    def __init__(self, username: str | None, password: Secret) -> None:
        self._username, self._password = username, password

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        password = self._password.read()
        return (self._username, password) if self._username else (password,)

    async def get_credentials_async(self) -> tuple[str] | tuple[str, str]:
        return self.get_credentials()


class Slots:
    """Which primary serves which slot of a Cluster: the answer to CLUSTER SLOTS, rows of start, end, primary, replicas …"""

    def __init__(self, answer: Sequence[Sequence[Any]], asked: Node) -> None:
        # A node that knows no name of its own answers an empty one: then it is the one that was asked.
        self._ranges = sorted(
            (int(start), int(end), Node(primary[0].decode() or asked.host, int(primary[1])))
            for start, end, primary, *_ in answer
        )
        self._starts = [start for start, _, _ in self._ranges]

    def node_of(self, key: str) -> Node:
        slot = key_slot(key.encode(), _SLOTS)
        at = bisect_right(self._starts, slot) - 1
        if at < 0 or slot > self._ranges[at][1]:
            raise redis.ConnectionError(f"no node of the Redis Cluster serves slot {slot}")
        return self._ranges[at][2]

    @property
    def nodes(self) -> list[Node]:
        return list(dict.fromkeys(node for _, _, node in self._ranges))


class _Topology:
    """What both kinds of clients know: where a key lives, and when to ask again."""

    def __init__(self, access: RedisAccess) -> None:
        self.access = access
        self.slots: Slots | None = None
        self._asked_at = float("-inf")
        self._stale = access.mode == CLUSTER

    def node_of(self, key: str) -> Node:
        """Raises redis.ConnectionError where a Cluster is not known yet or does not serve the key."""
        if self.access.mode != CLUSTER:
            return self.access.nodes[0]
        if self.slots is None:
            raise redis.ConnectionError("the Redis Cluster has not said which node serves which slot")
        return self.slots.node_of(key)

    @property
    def must_ask(self) -> bool:
        return self._stale and time.monotonic() - self._asked_at >= (_LOOK_AGAIN_S if self.slots is not None else 0.0)

    def asked(self) -> None:
        self._asked_at = time.monotonic()

    def learnt(self, slots: Slots) -> None:
        self.slots, self._stale = slots, False

    def doubt(self, at_once: bool = False) -> None:
        """A node failed, or said that a slot has moved."""
        self._stale = self.access.mode == CLUSTER
        if at_once:
            self._asked_at = float("-inf")

    def whom_to_ask(self) -> list[Node]:
        return list(dict.fromkeys([*(self.slots.nodes if self.slots else ()), *self.access.nodes]))

    def by_node(self, commands: Sequence[Command]) -> dict[Node, list[int]]:
        """The numbers of the commands that each node takes."""
        found: dict[Node, list[int]] = {}
        for number, command in enumerate(commands):
            found.setdefault(self.node_of(command.key), []).append(number)
        return found


class Nodes:
    """Thread-safe. `limit_s` is for each step: a free connection, connecting, an answer. Made without connecting."""

    def __init__(self, access: RedisAccess, limit_s: float, max_connections: int = 8) -> None:
        self._access, self._limit_s, self._max = access, limit_s, max_connections
        self._topology = _Topology(access)
        self._lock = threading.Lock()
        self._clients: dict[Node, Any] = {}
        self._sentinels: list[Any] = []  # the clients that ask them

    def run(self, commands: Sequence[Command]) -> list[Any]:
        """Answers in the order of the commands; one round trip per node. Raises the first error: redis.RedisError, OSError."""
        answers = self._once(commands)
        moved = [number for number, answer in enumerate(answers) if isinstance(answer, MovedError)]
        if moved:
            self._topology.doubt(at_once=True)
            for number, answer in zip(moved, self._once([commands[number] for number in moved])):
                answers[number] = answer
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        return answers

    def clients(self) -> list[Any]:
        """A redis.Redis for each server that holds data: one, or a Cluster's primaries."""
        self._learn()
        nodes = self._topology.slots.nodes if self._topology.slots else self._access.nodes[:1]
        return [self._client(node) for node in nodes]

    def close(self) -> None:
        with self._lock:
            clients, self._clients, self._sentinels = [*self._clients.values(), *self._sentinels], {}, []
        for client in clients:
            client.close()
            client.connection_pool.disconnect()

    def _once(self, commands: Sequence[Command]) -> list[Any]:
        self._learn()
        answers: list[Any] = [None] * len(commands)
        for node, numbers in self._topology.by_node(commands).items():
            pipeline = self._client(node).pipeline(transaction=False)
            for number in numbers:
                pipeline.execute_command(*commands[number].words)
            try:
                found = pipeline.execute(raise_on_error=False)
            except LOST:
                self._topology.doubt()
                raise
            for number, answer in zip(numbers, found):
                answers[number] = answer
        return answers

    def _learn(self) -> None:
        if not self._topology.must_ask:
            return
        self._topology.asked()
        lost: Exception | None = None
        for node in self._topology.whom_to_ask():
            try:
                self._topology.learnt(Slots(self._client(node).execute_command("CLUSTER SLOTS"), node))
                return
            except (redis.RedisError, OSError) as error:
                lost = error
        if self._topology.slots is None and lost is not None:
            raise _no_cluster(lost)

    def _client(self, node: Node) -> Any:
        with self._lock:
            if node not in self._clients:
                self._clients[node] = self._make(node)
            return self._clients[node]

    def _make(self, node: Node) -> Any:
        settings = self._access.settings(self._limit_s)
        if self._access.mode == SENTINEL:
            sentinels: Any = redis.sentinel.Sentinel(
                self._access.nodes, sentinel_kwargs=self._access.sentinel_settings(self._limit_s)
            )
            self._sentinels += sentinels.sentinels
            secure = {"ssl": True} if self._access.uses_tls else {}
            return sentinels.master_for(self._access.master, max_connections=self._max, **secure, **settings)
        pool = redis.BlockingConnectionPool(
            host=node.host,
            port=node.port,
            connection_class=redis.SSLConnection if self._access.uses_tls else redis.Connection,
            max_connections=self._max,
            timeout=self._limit_s,
            **({"parser_class": redis.cluster.ClusterParser} if self._access.mode == CLUSTER else {}),
            **settings,
        )
        return redis.Redis(connection_pool=pool)


class AsyncNodes:
    """As Nodes, for one event loop. `limit_s` is for the whole of a node's round trip."""

    def __init__(self, access: RedisAccess, limit_s: float, max_connections: int = 8) -> None:
        self._access, self._limit_s, self._max = access, limit_s, max_connections
        self._topology = _Topology(access)
        self._clients: dict[Node, Any] = {}
        self._sentinels: list[Any] = []  # the clients that ask them

    def node_of(self, key: str) -> Node | None:
        """The node that serves a key, as far as is known."""
        try:
            return self._topology.node_of(key)
        except redis.ConnectionError:
            return None

    async def run(self, commands: Sequence[Command]) -> list[Any]:
        """Each command's answer, or the error in its place: one node's failure is not the others'. Does not raise for Redis."""
        answers = await self._once(commands)
        moved = [number for number, answer in enumerate(answers) if isinstance(answer, MovedError)]
        if moved:
            self._topology.doubt(at_once=True)
            for number, answer in zip(moved, await self._once([commands[number] for number in moved])):
                answers[number] = answer
        return answers

    async def aclose(self) -> None:
        clients, self._clients, self._sentinels = [*self._clients.values(), *self._sentinels], {}, []
        for client in clients:
            await client.aclose(close_connection_pool=True)

    async def _once(self, commands: Sequence[Command]) -> list[Any]:
        try:
            if self._topology.must_ask:
                await self._learn()
            by_node = self._topology.by_node(commands)
        except LOST as error:
            return [error] * len(commands)
        answers: list[Any] = [None] * len(commands)
        if len(by_node) == 1:
            ((node, numbers),) = by_node.items()
            await self._one(node, numbers, commands, answers)
        else:
            await asyncio.gather(*(self._one(*part, commands, answers) for part in by_node.items()))
        return answers

    async def _one(self, node: Node, numbers: list[int], commands: Sequence[Command], answers: list[Any]) -> None:
        pipeline = self._client(node).pipeline(transaction=False)
        for number in numbers:
            pipeline.execute_command(*commands[number].words)
        try:
            found = await asyncio.wait_for(pipeline.execute(raise_on_error=False), self._limit_s)
        except (redis.RedisError, *LOST) as error:
            self._topology.doubt()
            found = [error] * len(numbers)
        for number, answer in zip(numbers, found):
            answers[number] = answer

    async def _learn(self) -> None:
        self._topology.asked()
        lost: Exception | None = None
        for node in self._topology.whom_to_ask():
            try:
                asking = self._client(node).execute_command("CLUSTER SLOTS")
                self._topology.learnt(Slots(await asyncio.wait_for(asking, self._limit_s), node))
                return
            except (redis.RedisError, *LOST) as error:
                lost = error
        if self._topology.slots is None and lost is not None:
            raise _no_cluster(lost)

    def _client(self, node: Node) -> Any:
        if node not in self._clients:
            self._clients[node] = self._make(node)
        return self._clients[node]

    def _make(self, node: Node) -> Any:
        settings = self._access.settings(self._limit_s)
        if self._access.mode == SENTINEL:
            sentinels: Any = redis.asyncio.sentinel.Sentinel(
                self._access.nodes, sentinel_kwargs=self._access.sentinel_settings(self._limit_s)
            )
            self._sentinels += sentinels.sentinels
            secure = {"ssl": True} if self._access.uses_tls else {}
            return sentinels.master_for(self._access.master, max_connections=self._max, **secure, **settings)
        tls = self._access.uses_tls
        pool = redis.asyncio.BlockingConnectionPool(
            host=node.host,
            port=node.port,
            connection_class=redis.asyncio.SSLConnection if tls else redis.asyncio.Connection,
            max_connections=self._max,
            timeout=self._limit_s,  # type: ignore[arg-type]  # the stubs know whole seconds only
            **({"parser_class": redis.asyncio.cluster.ClusterParser} if self._access.mode == CLUSTER else {}),
            **settings,
        )
        return redis.asyncio.Redis(connection_pool=pool)


def _no_cluster(error: Exception) -> redis.ConnectionError:
    return redis.ConnectionError(f"no node of the Redis Cluster says who serves what ({error})")
