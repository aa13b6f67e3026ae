"""The script, the readers and the rebuild against a real redis-server, started for this file on a port of its own."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, NamedTuple

import msgspec
import pytest
import redis

from client.feed import AsyncRankedFeed, RankedFeed
from client.rebuild import rebuild
from connect.redis import Nodes
from connect.redis_access import RedisAccess
from local.redis_server import find_redis_server
from schemas import topics
from schemas.keys import features_redis_key, id_hash, list_redis_key, popular_redis_key
from schemas.ranking import Freshness, RankedItem, RankedList, Receipt, SessionFeatures, decode_features, decode_list
from schemas.redis_layout import (
    CAS_SCRIPT,
    FEATURES_FIELD,
    FEATURES_TTL_MS,
    LIST_FIELD,
    LIST_TTL_MS,
    Entry,
    cas_arguments,
    version,
)

NS = "test-riffle:"
KEY = "u:al{ice}"
FEATURES_KEY = features_redis_key(NS, KEY)
HOME = list_redis_key(NS, KEY, "home")
CART = list_redis_key(NS, KEY, "cart")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, int]]:
    """(port, pid) of a redis-server."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("redis")
    command = [str(find_redis_server()), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    with (folder / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        client = redis.Redis(port=port, socket_timeout=1)
        limit_s = time.monotonic() + 10
        while True:
            with suppress(redis.RedisError):
                client.ping()
                break
            assert time.monotonic() < limit_s, (folder / "log").read_text()
            time.sleep(0.02)
        client.close()
        yield port, process.pid
        process.kill()


@pytest.fixture
def db(server: tuple[int, int]) -> Iterator[Any]:
    client = redis.Redis(port=server[0], socket_timeout=2)
    client.flushall()
    yield client
    client.close()


@pytest.fixture
def url(server: tuple[int, int]) -> str:
    return f"redis://127.0.0.1:{server[0]}/0"


@pytest.fixture
def nodes(url: str) -> Iterator[Nodes]:
    found = Nodes(RedisAccess(url=url), limit_s=2)
    yield found
    found.close()


def cas(db: Any, at: str, *entries: Entry, ttl_ms: int = LIST_TTL_MS) -> int:
    keys, argv = cas_arguments(at, ttl_ms, entries)
    return int(db.eval(CAS_SCRIPT, len(keys), *keys, *argv))


def features(number: int, *, epoch: int = 0, updated_ms: int = 1, not_applied: tuple[Any, ...] = ()) -> bytes:
    recent = [f"{id_hash(f'e{n}'):016x}" for n in range(max(1, number - 15), number + 1)]
    fresh = Freshness(number, f"e{number}", 1, recent, {0: number}, list(not_applied))
    return msgspec.json.encode(SessionFeatures(KEY, epoch, number, updated_ms, None, [], [], [], 0, ["home"], fresh))


def ranked(number: int, *, epoch: int = 0, created_ms: int = 1, surface: str = "home") -> bytes:
    receipt = Receipt(decode_features(features(number)).freshness, "b1", "test", "p1", {}, {}, {}, {})
    items = [RankedItem(f"item-{number}-{place}", 1.0, "test") for place in range(50)]
    return msgspec.json.encode(RankedList("l", KEY, surface, epoch, number, created_ms, items, receipt, "click"))


def write(db: Any, number: int) -> int:
    entries = (Entry(FEATURES_KEY, FEATURES_FIELD, features(number)), Entry(HOME, LIST_FIELD, ranked(number)))
    return cas(db, version(0, number), *entries)


# --- the script ------------------------------------------------------------------------------------------------------------


def test_a_ranking_event_sets_features_and_lists_with_their_ttl(db: Any) -> None:
    entries = (Entry(FEATURES_KEY, FEATURES_FIELD, b"f"), Entry(HOME, LIST_FIELD, b"h"), Entry(CART, LIST_FIELD, b"c"))
    assert cas(db, version(1, 2), *entries) == 3
    assert db.hgetall(FEATURES_KEY) == {b"version": version(1, 2).encode(), b"features": b"f"}
    assert db.hgetall(HOME) == {b"version": version(1, 2).encode(), b"list": b"h"}
    assert db.hgetall(CART)[b"list"] == b"c"
    assert all(LIST_TTL_MS - 10_000 < db.pttl(key) <= LIST_TTL_MS for key in (FEATURES_KEY, HOME, CART))


def test_a_state_only_event_sets_features_and_leaves_the_list(db: Any) -> None:
    write(db, 1)
    assert cas(db, version(0, 2), Entry(FEATURES_KEY, FEATURES_FIELD, features(2))) == 1
    assert db.hget(HOME, "version").decode() == version(0, 1)


def test_equal_keeps_the_first_and_lower_is_refused(db: Any) -> None:
    assert cas(db, version(0, 5), Entry(HOME, LIST_FIELD, b"first")) == 1
    assert cas(db, version(0, 5), Entry(HOME, LIST_FIELD, b"again")) == 0
    assert cas(db, version(0, 4), Entry(HOME, LIST_FIELD, b"older")) == 0
    assert db.hget(HOME, "list") == b"first"


def test_each_hash_is_judged_alone(db: Any) -> None:
    """Contract: a replayed ranking repairs the hash that was lost and leaves the one that is newer."""
    cas(db, version(0, 9), Entry(FEATURES_KEY, FEATURES_FIELD, b"newer"))
    entries = (Entry(FEATURES_KEY, FEATURES_FIELD, b"f"), Entry(HOME, LIST_FIELD, b"l"))
    assert cas(db, version(0, 7), *entries) == 1
    assert (db.hget(FEATURES_KEY, "features"), db.hget(HOME, "list")) == (b"newer", b"l")


def test_a_higher_epoch_beats_every_number_of_a_lower_one(db: Any) -> None:
    cas(db, version(1, 2**63), Entry(HOME, LIST_FIELD, b"old job"))
    assert cas(db, version(2, 0), Entry(HOME, LIST_FIELD, b"new job")) == 1


def test_whatever_the_order_the_highest_version_stays(db: Any) -> None:
    """Clever against naive: random orders and repeats of random versions, against `max`."""
    draw = random.Random(7)
    for _ in range(20):
        db.flushall()
        numbers = [(draw.choice([0, 1, 2, 255, 2**40, 2**64 - 1]), draw.randrange(2**64)) for _ in range(12)]
        for epoch, number in draw.sample(numbers * 2, 24):
            cas(db, version(epoch, number), Entry(HOME, LIST_FIELD, f"{epoch}/{number}".encode()))
        assert db.hget(HOME, "list").decode() == "{}/{}".format(*max(numbers))


def test_a_version_that_would_sort_wrongly_is_refused() -> None:
    for epoch, number in ((-1, 0), (0, -1), (2**64, 0), (0, 2**64)):
        with pytest.raises(ValueError, match="64 bits"):
            version(epoch, number)


def test_bodies_are_kept_byte_for_byte(db: Any) -> None:
    body = bytes(range(256)) * 40
    cas(db, version(0, 1), Entry(HOME, LIST_FIELD, body))
    assert db.hget(HOME, "list") == body


# --- the readers -----------------------------------------------------------------------------------------------------------


def test_a_reader_waits_for_its_own_write(db: Any, url: str) -> None:
    write(db, 1)
    with RankedFeed(url, "test-") as feed:
        feed.get("al{ice}")
        writer = threading.Timer(0.03, write, (db, 2))
        writer.start()
        answer = feed.get("al{ice}", at_least="e2", wait_ms=2_000)
        writer.join()
        assert (answer.met, answer.fallback, answer.items[0]) == (True, None, "item-2-0")
        assert 20 < answer.waited_ms < 1_000
        assert feed.get("al{ice}", at_least=(0, 3), wait_ms=20).fallback == "stale"
        assert feed.counters == {"reads": 3, "met": 2, "stale": 1}


def test_the_async_reader_answers_alike(db: Any, url: str) -> None:
    write(db, 1)
    db.hset(popular_redis_key(NS, "home"), "items", b'["p1","p2"]')
    questions: list[dict[str, Any]] = [
        {"user": "al{ice}"},
        {"user": "al{ice}", "k": 3, "at_least": (0, 1)},
        {"user": "al{ice}", "at_least": "e9", "wait_ms": 8},
        {"user": "nobody", "k": 1},
        {"user": None, "session_id": "s1", "at_least": (0, 1)},
    ]

    async def ask() -> list[Any]:
        async with AsyncRankedFeed(url, "test-") as feed:
            return [await feed.get(**question) for question in questions] + [feed.counters]

    with RankedFeed(url, "test-") as feed:
        *answers, counters = [*(feed.get(**question) for question in questions), feed.counters]

    def comparable(answer: Any) -> Any:
        return msgspec.structs.replace(answer, waited_ms=0.0)

    *async_answers, async_counters = asyncio.run(ask())
    assert [comparable(answer) for answer in async_answers] == [comparable(answer) for answer in answers]
    assert async_counters == counters
    assert [answer.fallback for answer in answers] == [None, None, "stale", "no_list", "no_list"]


def test_a_redis_that_hangs_costs_the_time_limit_and_no_more(db: Any, url: str, server: tuple[int, int]) -> None:
    """Contract: a stopped process (it accepts connections and never answers) is a counted fallback within the limit."""
    write(db, 1)
    db.hset(popular_redis_key(NS, "home"), "items", b'["p1"]')

    async def ask(feed: AsyncRankedFeed) -> Any:
        return await feed.get("al{ice}", at_least="e1", wait_ms=50)

    async def both() -> tuple[Any, Any]:
        async with AsyncRankedFeed(url, "test-") as feed:
            warm = await ask(feed)
            os.kill(server[1], signal.SIGSTOP)
            try:
                return warm, await ask(feed)
            finally:
                os.kill(server[1], signal.SIGCONT)

    with RankedFeed(url, "test-") as feed:
        assert feed.get("al{ice}").items[0] == "item-1-0"
        os.kill(server[1], signal.SIGSTOP)
        try:
            answer = feed.get("al{ice}", at_least="e1", wait_ms=50)
        finally:
            os.kill(server[1], signal.SIGCONT)
        assert (answer.items, answer.met, answer.fallback) == (["p1"], False, "redis_timeout")
        assert 40 < answer.waited_ms < 400
        assert feed.get("al{ice}", at_least="e1", wait_ms=50).met
    warm, cold = asyncio.run(both())
    assert warm.met
    assert (cold.items, cold.fallback) == (["p1"], "redis_timeout")


def test_many_threads_share_few_connections(db: Any, url: str) -> None:
    write(db, 1)
    with RankedFeed(f"{url}?client_name=reader", "test-", max_connections=2, timeout_ms=2_000) as feed:
        threads = [threading.Thread(target=lambda: [feed.get("al{ice}") for _ in range(25)]) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert feed.counters == {"reads": 200, "met": 200}
        assert sum(client["name"] == "reader" for client in db.client_list()) <= 2


# --- the rebuild -----------------------------------------------------------------------------------------------------------


class Kept(NamedTuple):
    value: bytes | None
    key: bytes | None = None  # lists and features name their owner in the value


class CompactedTopics:
    """Stands in for client.scan.Scanner."""

    cut_short: tuple[str, ...] = ()

    def __init__(self, lists: list[bytes | None], user_features: list[bytes | None]) -> None:
        self._records = {topics.RANKED_FEED_LATEST: lists, topics.FEATURES: user_features}

    def everything(self, name: str) -> Iterator[Kept]:
        return (Kept(value) for value in self._records.get(name, []))


def test_a_rebuild_brings_back_what_the_job_wrote(db: Any, nodes: Nodes) -> None:
    now_ms = 1_800_000_000_000
    hour_ms = 3_600_000
    scanner: Any = CompactedTopics(
        [
            ranked(3, created_ms=now_ms - hour_ms),
            ranked(4, surface="cart", created_ms=now_ms - 8 * 24 * hour_ms),
            None,
            b"x",
        ],
        [features(3, updated_ms=now_ms - 2 * hour_ms)],
    )
    done = rebuild(scanner, nodes, NS, now_ms)
    assert (done.lists, done.features, done.expired, done.removed, done.unreadable, done.kept) == (1, 1, 1, 1, 1, 0)
    assert decode_list(db.hget(HOME, "list")).list_no == 3
    assert db.hget(HOME, "version").decode() == version(0, 3)
    assert LIST_TTL_MS - hour_ms - 10_000 < db.pttl(HOME) <= LIST_TTL_MS - hour_ms
    assert FEATURES_TTL_MS - 2 * hour_ms - 10_000 < db.pttl(FEATURES_KEY) <= FEATURES_TTL_MS - 2 * hour_ms
    assert not db.exists(CART)


def test_a_rebuild_leaves_what_is_newer_and_may_run_twice(db: Any, nodes: Nodes) -> None:
    write(db, 9)
    now_ms = 1_800_000_000_000
    scanner: Any = CompactedTopics([ranked(3, created_ms=now_ms)] * 450, [features(9, updated_ms=now_ms)])
    assert rebuild(scanner, nodes, NS, now_ms).kept == 451
    assert db.hget(HOME, "version").decode() == version(0, 9)
