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
from collections.abc import Sequence
from typing import Any

import redis
import redis.asyncio
import redis.asyncio.cluster
import redis.asyncio.sentinel
import redis.cluster
import redis.sentinel
from redis.exceptions import MovedError

from connect.redis_access import CLUSTER, SENTINEL, Node, RedisAccess
from connect.slots import Command, Slots, Topology

LOST = (redis.ConnectionError, redis.TimeoutError, OSError, asyncio.TimeoutError)  # of a node, not of one command


class Nodes:
    """Thread-safe. `limit_s` is for each step: a free connection, connecting, an answer. Made without connecting."""

    def __init__(self, access: RedisAccess, limit_s: float, max_connections: int = 8) -> None:
        self._access, self._limit_s, self._max = access, limit_s, max_connections
        self._topology = Topology(access)
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
        self._topology = Topology(access)
        self._clients: dict[Node, Any] = {}
        self._sentinels: list[Any] = []  # the clients that ask them
        self._learning: asyncio.Task[None] | None = None

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
                await self._learn_together()
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

    async def _learn_together(self) -> None:
        """At a start everybody comes at once, and one answer serves all. Not awaited itself: who gives up ends it for nobody."""
        if self._learning is None or self._learning.done():
            self._learning = asyncio.create_task(self._learn())
        learning = self._learning
        await asyncio.wait([learning])
        learning.result()

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
