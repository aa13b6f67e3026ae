"""Writing to Redis from the event loop: what several events write at the same time shares one round trip."""

from __future__ import annotations

import asyncio
import logging
import time

import redis.asyncio as aioredis
from redis.exceptions import RedisError

from schemas import redis_layout
from udfs.breaker import Breaker

log = logging.getLogger(__name__)

Write = tuple[list[str], list[str | int | bytes]]  # KEYS and ARGV of redis_layout.CAS_SCRIPT


class RedisWriter:
    """Compare-and-set writes, in order, each batch under a time limit and behind a circuit breaker.

    `write` answers whether the write reached Redis. A write that did not is not repeated: the next event of that user carries
    all there is to know, and `riffle redis rebuild` restores the others from the compacted topics.
    """

    def __init__(self, url: str, limit_s: float) -> None:
        self._limit_s = limit_s
        self._client = aioredis.Redis.from_url(
            url,
            socket_timeout=limit_s,
            socket_connect_timeout=limit_s,
            single_connection_client=False,
            max_connections=4,
        )
        self._breaker = Breaker(failures=2, rest_s=1.0, clock=time.monotonic)
        self._waiting: list[tuple[Write, asyncio.Future[bool]]] = []
        self._flushing: asyncio.Task[None] | None = None
        self.failures = 0

    @property
    def is_down(self) -> bool:
        return self._breaker.is_open

    async def write(self, keys: list[str], args: list[str | int | bytes]) -> bool:
        if self._breaker.is_open:
            self.failures += 1
            return False
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.append(((keys, args), future))
        if self._flushing is None or self._flushing.done():
            self._flushing = asyncio.get_running_loop().create_task(self._flush())
        return await future

    async def set_popular(self, key: str, body: bytes) -> None:
        """The list that a reader falls back to; best effort, repeated by the caller."""
        if self._breaker.is_open:
            return
        try:
            await asyncio.wait_for(self._client.hset(key, redis_layout.POPULAR_FIELD, body), self._limit_s)  # type: ignore[arg-type]
        except (RedisError, OSError, asyncio.TimeoutError) as error:
            self._failed(error)

    async def _flush(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting, []
            answers = [False] * len(batch)
            try:
                answers = await self._send([write for write, _ in batch])
            except Exception as error:  # whoever waits must be answered: a bundle waits for all of them
                log.exception("writing to Redis failed: %s", type(error).__name__)
            self.failures += answers.count(False)
            for (_, future), reached in zip(batch, answers):
                if not future.done():
                    future.set_result(reached)

    async def _send(self, writes: list[Write]) -> list[bool]:
        """For each write whether it reached Redis: one that is refused must not take the others of its batch with it."""
        pipeline = self._client.pipeline(transaction=False)
        for keys, args in writes:
            pipeline.eval(redis_layout.CAS_SCRIPT, len(keys), *keys, *args)
        try:
            answers = await asyncio.wait_for(pipeline.execute(raise_on_error=False), self._limit_s)
        except (RedisError, OSError, asyncio.TimeoutError) as error:
            self._failed(error)
            return [False] * len(writes)
        if self._breaker.succeeded():
            log.warning("Redis answers again")
        return [not isinstance(answer, Exception) for answer in answers]

    def _failed(self, error: BaseException) -> None:
        if self._breaker.failed():
            log.warning("Redis does not answer (%s): lists go to Kafka only until it does", type(error).__name__)
