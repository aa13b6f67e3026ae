"""Writing lists from the event loop, against a real redis-server and against servers that do not answer."""

from __future__ import annotations

import asyncio
import os
import random
import socket
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import redis

from connect.redis_access import RedisAccess
from local.errors import LocalError
from local.redis_server import find_redis_server
from schemas.redis_layout import FEATURES_FIELD, LIST_FIELD, LIST_TTL_MS, Entry, cas_arguments, version
from udfs import redis_writer
from udfs.redis_writer import Owed, RedisWriter, Write

LIMIT_S = 0.15
GENEROUS_S = 10.0  # where the limit is not what is tested


class Server:
    """A redis-server on a port of its own that can be stopped and started again, empty."""

    def __init__(self, binary: Path, folder: Path) -> None:
        self._binary, self._folder = binary, folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        command = [self._binary, "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir", self._folder]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        give_up = time.monotonic() + GENEROUS_S
        while True:
            with suppress(redis.RedisError), redis.Redis(port=self.port, socket_timeout=1) as client:
                client.ping()
                return
            assert time.monotonic() < give_up, (self._folder / "log").read_text()
            time.sleep(0.01)

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    try:
        binary = find_redis_server(os.environ)
    except LocalError as error:
        pytest.skip(f"no redis-server can be run here: {error}")
    found = Server(binary, tmp_path_factory.mktemp("redis"))
    found.start()
    yield found
    found.stop()


@pytest.fixture
def db(server: Server) -> Iterator[Any]:
    with redis.Redis(port=server.port, socket_timeout=GENEROUS_S) as client:
        client.flushall()
        yield client


def writing(url: str, test: Callable[[RedisWriter], Awaitable[Any]], limit_s: float = GENEROUS_S) -> Any:
    """Run a test with a writer on an event loop, and close its connections."""

    async def run() -> Any:
        writer = RedisWriter(RedisAccess(url=url), limit_s)
        try:
            return await asyncio.wait_for(test(writer), 60)
        finally:
            await writer.aclose()

    return asyncio.run(run())


async def write(writer: RedisWriter, number: int, name: str = "a", epoch: int = 1, said: str = "") -> bool:
    body = f"{number}{said}".encode()
    entries = [Entry(f"features:{{{name}}}", FEATURES_FIELD, body), Entry(f"list:{{{name}}}:home", LIST_FIELD, body)]
    return await writer.write(*cas_arguments(version(epoch, number), LIST_TTL_MS, entries))


def calls(db: Any, command: str) -> int:
    return int(db.info("commandstats").get(f"cmdstat_{command}", {}).get("calls", 0))


# ── a server that answers ────────────────────────────────────────────────────────────────────────────────────────────


def test_features_and_lists_are_written_together(server: Server, db: Any) -> None:
    assert writing(server.url, lambda writer: write(writer, 1)) is True
    assert db.hgetall("features:{a}") == {b"version": version(1, 1).encode(), b"features": b"1"}
    assert db.hget("list:{a}:home", "list") == b"1"
    assert 0 < db.pttl("list:{a}:home") <= LIST_TTL_MS


def test_the_newest_stays_whatever_the_order(server: Server, db: Any) -> None:
    async def test(writer: RedisWriter) -> None:
        numbers = list(range(1, 41)) * 2
        random.Random(3).shuffle(numbers)
        assert all(await asyncio.gather(*(write(writer, number) for number in numbers)))

    writing(server.url, test)
    assert db.hget("list:{a}:home", "list") == b"40"


def test_a_newer_epoch_wins_over_a_higher_number(server: Server, db: Any) -> None:
    async def test(writer: RedisWriter) -> None:
        await write(writer, 1, epoch=2)
        await write(writer, 900, epoch=1)

    writing(server.url, test)
    assert db.hget("list:{a}:home", "list") == b"1"


def test_an_equal_number_keeps_what_came_first(server: Server, db: Any) -> None:
    async def test(writer: RedisWriter) -> list[bool]:
        return [await write(writer, 5, said=" first"), await write(writer, 5, said=" again")]

    assert writing(server.url, test) == [True, True]
    assert db.hget("list:{a}:home", "list") == b"5 first"


def test_writes_at_the_same_time_share_round_trips(server: Server, db: Any) -> None:
    """Contract: what waits while a batch is under way is the next batch: 200 writes are a handful of round trips."""
    trips = 0

    async def test(writer: RedisWriter) -> list[bool]:
        nonlocal trips
        send = writer._send

        async def counted(writes: Any) -> list[bool]:
            nonlocal trips
            trips += 1
            return await send(writes)

        writer._send = counted  # type: ignore[method-assign]
        return list(await asyncio.gather(*(write(writer, n, name=f"user-{n}") for n in range(1, 201))))

    assert all(writing(server.url, test))
    assert db.dbsize() == 400
    assert trips <= 3


def test_a_write_that_is_refused_does_not_take_its_batch_along(server: Server, db: Any) -> None:
    """Contract: a key of the wrong type is one user's trouble, and no reason to leave Redis alone."""
    db.set("list:{bad}:home", "not a hash")

    async def test(writer: RedisWriter) -> tuple[list[bool], bool]:
        answers: list[bool] = []
        for number in range(1, 6):
            answers += await asyncio.gather(write(writer, number, "good"), write(writer, number, "bad"))
        return answers, writer.is_down("a")

    assert writing(server.url, test) == ([True, False] * 5, False)
    assert db.hget("list:{good}:home", "list") == b"5"


def test_the_popular_list_is_written(server: Server, db: Any) -> None:
    writing(server.url, lambda writer: writer.set_popular("popular:home", b"[]"))
    assert db.hget("popular:home", "items") == b"[]"


def test_a_write_that_is_refused_for_ever_does_not_hold_up_what_else_is_owed(
    server: Server, db: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_writer, "_REPAID_TOGETHER", 1)
    monkeypatch.setattr(redis_writer, "_REST_S", 0.01)
    db.set("list:{bad}:home", "not a hash")

    async def test(writer: RedisWriter) -> None:
        await write(writer, 1, "bad")
        writer.owed.add(write_of(1, "good"))
        await until(lambda: len(writer.owed) == 1)

    writing(server.url, test)
    assert db.hget("list:{good}:home", "list") == b"1"


# ── what is owed ─────────────────────────────────────────────────────────────────────────────────────────────────────


def write_of(number: int, name: str = "a") -> Write:
    entry = Entry(f"list:{{{name}}}:home", LIST_FIELD, str(number).encode())
    return cas_arguments(version(1, number), LIST_TTL_MS, [entry])


async def until(reached: Callable[[], bool]) -> None:
    give_up = time.monotonic() + GENEROUS_S
    while not reached():
        assert time.monotonic() < give_up
        await asyncio.sleep(0.005)


def test_only_the_newest_write_of_the_same_keys_is_owed() -> None:
    owed, older, newer, other = Owed(), write_of(1), write_of(2), write_of(1, "b")
    for one in (older, other, newer):
        owed.add(one)
    assert owed.oldest(9) == [other, newer]
    owed.settle(write_of(3))
    assert owed.oldest(9) == [other]


def test_what_is_owed_has_a_limit_and_what_is_lost_is_counted() -> None:
    one = write_of(1, "00")
    size = sum(len(value) for value in one[1] if not isinstance(value, int)) + sum(map(len, one[0]))
    owed = Owed(limit_bytes=3 * size)
    for number in range(10):
        owed.add(write_of(1, f"{number:02}"))
    assert (len(owed), owed.lost) == (3, 7)
    for _ in range(3):
        owed.settle(owed.oldest(1)[0])
    for number in range(3):
        owed.add(write_of(1, f"{number:02}"))
    assert owed.lost == 7


def test_what_did_not_reach_redis_is_repeated_without_another_event(server: Server, db: Any) -> None:
    """Contract: after an outage the newest list of every user who acted during it is there, whoever comes back or not."""

    async def test(writer: RedisWriter) -> None:
        server.stop()
        for number in (1, 2):
            assert not any(await asyncio.gather(*(write(writer, number, f"user-{n}") for n in range(150))))
        assert len(writer.owed) == 150
        server.start()
        await until(lambda: not writer.owed)
        assert (writer.repaid, writer.owed.lost) == (150, 0)

    try:
        writing(server.url, test, limit_s=1.0)
        assert {db.hget(f"list:{{user-{n}}}:home", "list") for n in range(150)} == {b"2"}
    finally:
        server.stop()
        server.start()


# ── a server that does not ───────────────────────────────────────────────────────────────────────────────────────────


class BlackHole:
    """Accepts connections and never answers."""

    def __init__(self) -> None:
        self.connections = 0
        self._writers: list[asyncio.StreamWriter] = []

    async def __aenter__(self) -> BlackHole:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.url = f"redis://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/0"
        return self

    async def __aexit__(self, *_: object) -> None:
        for writer in self._writers:
            writer.close()
        self._server.close()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.append(writer)
        with suppress(ConnectionError):
            await reader.read()


def against_a_black_hole(test: Callable[[RedisWriter, BlackHole], Awaitable[Any]]) -> Any:
    async def run() -> Any:
        async with BlackHole() as hole:
            writer = RedisWriter(RedisAccess(url=hole.url), LIMIT_S)
            try:
                return await asyncio.wait_for(test(writer, hole), 60)
            finally:
                await writer.aclose()

    return asyncio.run(run())


def test_a_silent_server_costs_no_more_than_the_limit() -> None:
    async def test(writer: RedisWriter, _hole: BlackHole) -> tuple[bool, float]:
        started = time.monotonic()
        return await write(writer, 1), time.monotonic() - started

    reached, took_s = against_a_black_hole(test)
    assert not reached
    assert LIMIT_S * 0.9 <= took_s < LIMIT_S + 1.0


def test_who_waits_behind_a_silent_batch_waits_for_two_limits_at_most() -> None:
    async def test(writer: RedisWriter, _hole: BlackHole) -> tuple[list[bool], float]:
        first = asyncio.ensure_future(write(writer, 1))
        await asyncio.sleep(0.01)
        started = time.monotonic()
        answers = await asyncio.gather(first, *(write(writer, n) for n in range(2, 30)))
        return list(answers), time.monotonic() - started

    answers, took_s = against_a_black_hole(test)
    assert not any(answers)
    assert took_s < 2 * LIMIT_S + 1.0


def test_the_breaker_spares_the_waiting() -> None:
    async def test(writer: RedisWriter, hole: BlackHole) -> tuple[bool, float, int]:
        await write(writer, 1)
        await write(writer, 2)
        assert writer.is_down("a")
        before, started = hole.connections, time.monotonic()
        answers = [await write(writer, n) for n in range(3, 100)]
        await writer.set_popular("popular:home", b"[]")
        return any(answers), time.monotonic() - started, hole.connections - before

    reached, took_s, connections = against_a_black_hole(test)
    assert not reached
    assert connections == 0
    assert took_s < LIMIT_S


def test_every_write_that_did_not_reach_redis_is_counted() -> None:
    async def test(writer: RedisWriter, _hole: BlackHole) -> int:
        for n in range(5):
            await write(writer, n)
        return writer.failures

    assert against_a_black_hole(test) == 5


def test_an_error_that_nobody_thought_of_still_answers_who_waits() -> None:
    """Contract: a write that is never answered would hang the bundle, the checkpoint and the job."""

    async def test(writer: RedisWriter, _hole: BlackHole) -> bool:
        def fail(_: Any) -> None:
            raise RuntimeError("the pool is closed")

        writer._nodes.run = fail  # type: ignore[assignment, method-assign]
        return await asyncio.wait_for(write(writer, 1), 5)

    assert against_a_black_hole(test) is False


def test_nothing_listens() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"redis://127.0.0.1:{free.getsockname()[1]}/0"
        assert writing(url, lambda writer: write(writer, 1)) is False


def test_it_writes_again_when_the_server_is_back_empty(server: Server, db: Any) -> None:
    """Contract: a restart needs no reload of scripts and no restart of the job."""

    async def until(writer: RedisWriter, reached: bool, numbers: Iterator[int]) -> None:
        give_up = time.monotonic() + GENEROUS_S
        while await write(writer, next(numbers)) is not reached:
            assert time.monotonic() < give_up
            await asyncio.sleep(0.02)

    async def test(writer: RedisWriter) -> None:
        numbers = iter(range(1, 10_000))
        assert await write(writer, next(numbers))
        server.stop()
        await until(writer, False, numbers)
        await until(writer, False, numbers)
        assert writer.is_down("a")
        server.start()
        await until(writer, True, numbers)
        assert not writer.is_down("a")

    try:
        writing(server.url, test, limit_s=1.0)
        assert db.dbsize() == 2
    finally:
        server.stop()
        server.start()
