"""RankedFeed: how a service reads a user's ranked list, with the guarantee it asks for and a declared fallback.

    feed = RankedFeed("redis://localhost:6379/0")
    answer = feed.get("alice", at_least=token.event_id, wait_ms=100)
    answer.items, answer.receipt, answer.fallback

Both readers are thin: what to do and what it means is decided in client/feed_core.py.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import final

import msgspec
import redis

from client.coverage import demand_of
from client.errors import InvalidArgument
from client.feed_core import (
    REDIS_TIMEOUT,
    REDIS_UNAVAILABLE,
    FeedAnswer,
    FeedCore,
    Pause,
    Read,
    ReadFailed,
    Steps,
    Wish,
)
from connect.redis import AsyncNodes, Nodes
from connect.slots import Command
from schemas.connections import Connections
from schemas.event import Id, Name
from schemas.keys import user_key
from schemas.ranking import DEFAULT_SURFACE

TIMEOUT_MS = 50
MAX_CONNECTIONS = 32
MAX_K = 500
MAX_WAIT_MS = 60_000


@final
class RankedFeed:
    """Reads lists from Redis. Thread-safe; make one per process.

    `timeout_ms` limits each step of each Redis call (a free connection, connecting, the answer), so a `get` returns
    within `wait_ms` and a few of them. `counters` counts reads, met demands and every fallback by its reason.
    """

    def __init__(
        self,
        connections: Connections | str,
        namespace: str = "",
        *,
        timeout_ms: int = TIMEOUT_MS,
        max_connections: int = MAX_CONNECTIONS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        where = _connections(connections, namespace)
        self._redis = Nodes(where.redis, _limit_s(timeout_ms), max_connections)
        self._core = FeedCore(where.redis_namespace, clock)

    @property
    def counters(self) -> dict[str, int]:
        return dict(self._core.counters)

    def get(
        self,
        user: str | None,
        surface: str = DEFAULT_SURFACE,
        k: int = 50,
        *,
        at_least: str | tuple[int, int] | None = None,
        wait_ms: float = 0,
        session_id: str | None = None,
    ) -> FeedAnswer:
        """The newest list of a user, or of the anonymous `session_id` where `user` is None.

        `at_least` demands that the list has seen an event: its id, or the (partition, offset) of its acknowledgement;
        `wait_ms` is how long to wait for that. Raises InvalidArgument; never raises because Redis, the list or the
        event is missing.
        """
        return self._drive(self._core.answer(_wish(user, session_id, surface, k, at_least, wait_ms)))

    def _drive(self, steps: Steps) -> FeedAnswer:
        try:
            step = next(steps)
            while True:
                if isinstance(step, Pause):
                    time.sleep(step.seconds)
                    step = steps.send(None)
                    continue
                try:
                    values = self._redis.run(_commands(step))
                except (redis.RedisError, OSError) as error:
                    step = steps.throw(_failed(error))
                else:
                    step = steps.send(values)
        except StopIteration as end:
            answer: FeedAnswer = end.value
            return answer

    def close(self) -> None:
        self._redis.close()

    def __enter__(self) -> RankedFeed:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@final
class AsyncRankedFeed:
    """RankedFeed for asyncio: the same arguments, answers, limits and counters. One per event loop."""

    def __init__(
        self,
        connections: Connections | str,
        namespace: str = "",
        *,
        timeout_ms: int = TIMEOUT_MS,
        max_connections: int = MAX_CONNECTIONS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        where = _connections(connections, namespace)
        self._redis = AsyncNodes(where.redis, _limit_s(timeout_ms), max_connections)
        self._core = FeedCore(where.redis_namespace, clock)

    @property
    def counters(self) -> dict[str, int]:
        return dict(self._core.counters)

    async def get(
        self,
        user: str | None,
        surface: str = DEFAULT_SURFACE,
        k: int = 50,
        *,
        at_least: str | tuple[int, int] | None = None,
        wait_ms: float = 0,
        session_id: str | None = None,
    ) -> FeedAnswer:
        """As RankedFeed.get."""
        return await self._drive(self._core.answer(_wish(user, session_id, surface, k, at_least, wait_ms)))

    async def _drive(self, steps: Steps) -> FeedAnswer:
        try:
            step = next(steps)
            while True:
                if isinstance(step, Pause):
                    await asyncio.sleep(step.seconds)
                    step = steps.send(None)
                    continue
                values = await self._redis.run(_commands(step))
                error = next((value for value in values if isinstance(value, Exception)), None)
                step = steps.send(values) if error is None else steps.throw(_failed(error))
        except StopIteration as end:
            answer: FeedAnswer = end.value
            return answer

    async def close(self) -> None:
        await self._redis.aclose()

    async def __aenter__(self) -> AsyncRankedFeed:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


def _connections(connections: Connections | str, namespace: str) -> Connections:
    if isinstance(connections, Connections):
        if namespace:
            raise InvalidArgument("namespace belongs to the Connections: set it there, or pass a Redis URL")
        return connections
    return Connections(redis_url=connections, namespace=namespace)


def _limit_s(timeout_ms: int) -> float:
    if timeout_ms <= 0:
        raise InvalidArgument(f"timeout_ms must be positive, not {timeout_ms}")
    return timeout_ms / 1000


def _commands(step: Read) -> list[Command]:
    return [Command(key, ("HGET", key, field)) for key, field in step.fields]


def _wish(
    user: str | None,
    session_id: str | None,
    surface: str,
    k: int,
    at_least: str | tuple[int, int] | None,
    wait_ms: float,
) -> Wish:
    """Validate a caller's arguments. Raises InvalidArgument naming the one that is wrong."""
    if user is None and session_id is None:
        raise InvalidArgument("name the user, or the session_id of an anonymous one")
    for name, value, kind in (
        ("user", user, Id | None),
        ("session_id", session_id, Id | None),
        ("surface", surface, Name),
    ):
        try:
            msgspec.convert(value, kind)
        except msgspec.ValidationError as error:
            raise InvalidArgument(f"{name}: {error}") from error
    if type(k) is not int or not 1 <= k <= MAX_K:
        raise InvalidArgument(f"k must be a whole number from 1 to {MAX_K}, not {k!r}")
    if isinstance(wait_ms, bool) or not isinstance(wait_ms, (int, float)) or not 0 <= wait_ms <= MAX_WAIT_MS:
        raise InvalidArgument(f"wait_ms must be from 0 to {MAX_WAIT_MS}, not {wait_ms!r}")
    return Wish(user_key(user, session_id or ""), surface, k, demand_of(at_least), wait_ms / 1000)


def _failed(error: Exception) -> ReadFailed:
    timed_out = isinstance(error, (redis.TimeoutError, TimeoutError, asyncio.TimeoutError))
    return ReadFailed(REDIS_TIMEOUT if timed_out else REDIS_UNAVAILABLE)
