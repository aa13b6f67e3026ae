"""Writing to Redis from the event loop: what several events write at the same time shares one round trip per node."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from typing import Any

from connect.redis import LOST, AsyncNodes
from connect.redis_access import Node, RedisAccess
from connect.slots import Command
from schemas import redis_layout
from udfs.breaker import Breaker

log = logging.getLogger(__name__)

Write = tuple[list[str], list[str | int | bytes]]  # KEYS and ARGV of redis_layout.CAS_SCRIPT

_OWED_BYTES = 64 << 20
_REPAID_TOGETHER = 64
_REST_S = 1.0


class Owed:
    """Writes that did not reach Redis, the newest of each set of keys, oldest first; at most `limit_bytes` of them."""

    def __init__(self, limit_bytes: int = _OWED_BYTES) -> None:
        self._limit, self._used = limit_bytes, 0
        self._writes: OrderedDict[tuple[str, ...], Write] = OrderedDict()
        self.lost = 0  # writes that found no room: what `riffle redis rebuild` is for

    def __len__(self) -> int:
        return len(self._writes)

    def add(self, write: Write) -> None:
        self.settle(write)
        self._writes[tuple(write[0])] = write
        self._used += _size(write)
        while self._used > self._limit:
            self._used -= _size(self._writes.popitem(last=False)[1])
            self.lost += 1

    def settle(self, write: Write) -> None:
        """This write, or a newer one of the same keys, has reached Redis."""
        before = self._writes.pop(tuple(write[0]), None)
        if before is not None:
            self._used -= _size(before)

    def holds(self, write: Write) -> bool:
        """Whether this very write is still owed: a newer one may have taken its place."""
        return self._writes.get(tuple(write[0])) is write

    def oldest(self, count: int) -> list[Write]:
        return [write for _, write in zip(range(count), self._writes.values())]


def _size(write: Write) -> int:
    return sum(len(value) for value in write[1] if not isinstance(value, int)) + sum(map(len, write[0]))


class RedisWriter:
    """Compare-and-set writes, in order, each node's part of a batch under a time limit and behind a circuit breaker.

    `write` answers whether the write reached Redis. One that did not is owed: the newest of each user is repeated as soon as
    Redis answers, which compare-and-set makes safe at any time. What is owed lives in memory, within a limit: what a worker
    takes with it when it dies, `riffle redis rebuild` restores from the compacted topics.
    """

    def __init__(self, access: RedisAccess, limit_s: float) -> None:
        self._nodes = AsyncNodes(access, limit_s, max_connections=4)
        self._breakers: dict[Node | None, Breaker] = {}  # None: a Cluster that has not said yet who serves what
        self._waiting: list[tuple[Write, asyncio.Future[bool]]] = []
        self._flushing: asyncio.Task[None] | None = None
        self._repaying: asyncio.Task[None] | None = None
        self.owed = Owed()
        self.failures = self.repaid = 0

    def is_down(self, key: str) -> bool:
        """Whether the node that serves the key is left alone for now."""
        return self._breaker(self._nodes.node_of(key)).is_open

    @property
    def nodes_down(self) -> int:
        """How many nodes are left alone for now."""
        return sum(breaker.is_open for breaker in self._breakers.values())

    async def write(self, keys: list[str], args: list[str | int | bytes]) -> bool:
        if self.is_down(keys[0]):
            self.failures += 1
            self._owe((keys, args))
            return False
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.append(((keys, args), future))
        if self._flushing is None or self._flushing.done():
            self._flushing = asyncio.get_running_loop().create_task(self._flush())
        return await future

    async def set_popular(self, key: str, body: bytes) -> None:
        """The list that a reader falls back to; best effort, repeated by the caller."""
        if not self.is_down(key):
            await self._run([Command(key, ("HSET", key, redis_layout.POPULAR_FIELD, body))])

    async def aclose(self) -> None:
        await self._nodes.aclose()

    async def _flush(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting, []
            answers = [False] * len(batch)
            try:
                answers = await self._send([write for write, _ in batch])
            except Exception as error:  # whoever waits must be answered: a bundle waits for all of them
                log.exception("writing to Redis failed: %s", type(error).__name__)
            self.failures += answers.count(False)
            for (write, future), reached in zip(batch, answers):
                if reached:
                    self.owed.settle(write)
                else:
                    self._owe(write)
                if not future.done():
                    future.set_result(reached)

    def _owe(self, write: Write) -> None:
        self.owed.add(write)
        if self._repaying is None or self._repaying.done():
            self._repaying = asyncio.get_running_loop().create_task(self._repay())

    async def _repay(self) -> None:
        """Repeat what is owed until nothing is; rest for a while whenever Redis takes none of it."""
        progress = False
        while self.owed:
            if not progress or any(breaker.is_open for breaker in self._breakers.values()):
                await asyncio.sleep(_REST_S)
            progress = False
            writes = self.owed.oldest(_REPAID_TOGETHER)
            answers = [False] * len(writes)
            try:
                answers = await self._send(writes)
            except Exception as error:  # as in _flush: nothing may end what pays the debts
                log.exception("repeating writes to Redis failed: %s", type(error).__name__)
            for write, reached in zip(writes, answers):
                if self.owed.holds(write):
                    self.owed.settle(write)
                    if not reached:  # to the end of the line: one that is refused must not hold up the others
                        self.owed.add(write)
                self.repaid += reached
                progress |= reached

    async def _send(self, writes: list[Write]) -> list[bool]:
        """For each write whether it reached Redis: one that is refused must not take the others of its batch with it."""
        script = redis_layout.CAS_SCRIPT
        answers = await self._run(
            [Command(keys[0], ("EVAL", script, len(keys), *keys, *args)) for keys, args in writes]
        )
        return [not isinstance(answer, Exception) for answer in answers]

    async def _run(self, commands: list[Command]) -> list[Any]:
        """The answers; each node's breaker is told how its part went."""
        answers = await self._nodes.run(commands)
        lost: dict[Node | None, Exception | None] = {}
        for command, answer in zip(commands, answers):
            lost[self._nodes.node_of(command.key)] = answer if isinstance(answer, LOST) else None
        for node, error in lost.items():
            if error is None:
                if self._breaker(node).succeeded():
                    log.warning("Redis answers again")
            elif self._breaker(node).failed():
                log.warning("Redis does not answer (%s): lists go to Kafka only until it does", type(error).__name__)
        return answers

    def _breaker(self, node: Node | None) -> Breaker:
        if node not in self._breakers:
            self._breakers[node] = Breaker(failures=2, rest_s=_REST_S, clock=time.monotonic)
        return self._breakers[node]
