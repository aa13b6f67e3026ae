"""The feed's decisions, driven step by step with a fake clock and a fake Redis made of a dict."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from client import feed_core
from client.coverage import demand_of
from client.errors import InvalidArgument
from client.feed import RankedFeed
from client.feed_core import REDIS_TIMEOUT, REDIS_UNAVAILABLE, FeedAnswer, FeedCore, Pause, Read, ReadFailed, Wish
from schemas.keys import features_redis_key, id_hash, list_redis_key, popular_redis_key
from schemas.ranking import Freshness, RankedItem, RankedList, Receipt, SessionFeatures

NS = "riffle:"
FEATURES = (features_redis_key(NS, "u:alice"), "features")
LIST = (list_redis_key(NS, "u:alice", "home"), "list")
POPULAR = (popular_redis_key(NS, "home"), "items")


def fresh(*event_ids: str, **more: object) -> Freshness:
    return Freshness(
        event_no=len(event_ids),
        last_event_id=event_ids[-1] if event_ids else None,
        last_event_ts_ms=1,
        recent=[f"{id_hash(event_id):016x}" for event_id in event_ids],
        offsets={0: len(event_ids) - 1},
        **more,  # type: ignore[arg-type]
    )


def features(*event_ids: str, **more: object) -> bytes:
    found = SessionFeatures("u:alice", 0, 1, 1, None, [], [], [], 0, ["home"], fresh(*event_ids, **more))
    return msgspec.json.encode(found)


def ranked(*item_ids: str, seen: tuple[str, ...] = ()) -> bytes:
    receipt = Receipt(fresh(*seen), "b1", "test", "p1", {}, {}, {}, {})
    items = [RankedItem(item_id, 1.0, "test") for item_id in item_ids]
    return msgspec.json.encode(RankedList("l1", "u:alice", "home", 0, 1, 1, items, receipt, "click"))


class World:
    """A Redis as a dict, a clock that moves with pauses, and things that happen at their time."""

    def __init__(self, stored: dict[tuple[str, str], bytes]) -> None:
        self.stored = stored
        self.now_s = 100.0
        self.events: list[tuple[float, Callable[[], None]]] = []
        self.failing: str | None = None
        self.reads: list[tuple[tuple[str, str], ...]] = []
        self.core = FeedCore(NS, lambda: self.now_s)

    def later(self, after_s: float, change: Callable[[], None]) -> None:
        self.events.append((self.now_s + after_s, change))

    def get(self, at_least: str | tuple[int, int] | None = None, wait_ms: int = 0, k: int = 50) -> FeedAnswer:
        steps = self.core.answer(Wish("u:alice", "home", k, demand_of(at_least), wait_ms / 1000))
        try:
            step = next(steps)
            while True:
                if isinstance(step, Pause):
                    assert 0 < step.seconds <= 0.005
                    self.now_s += step.seconds
                    for at_s, change in self.events:
                        if at_s <= self.now_s:
                            change()
                    step = steps.send(None)
                elif self.failing:
                    step = steps.throw(ReadFailed(self.failing))
                else:
                    step = steps.send(self._answer(step))
        except StopIteration as end:
            answer: FeedAnswer = end.value
            return answer

    def _answer(self, step: Read) -> list[bytes | None]:
        self.reads.append(step.fields)
        return [self.stored.get(field) for field in step.fields]


def test_without_a_demand_one_round_trip_gives_the_list() -> None:
    world = World({FEATURES: features("e1"), LIST: ranked("a", "b", "c"), POPULAR: b'["p"]'})
    world.get()  # the first read of a surface also remembers its popular list
    world.reads.clear()
    answer = world.get(k=2)
    assert (answer.items, answer.met, answer.fallback, answer.waited_ms) == (["a", "b"], True, None, 0)
    assert answer.receipt is not None
    assert world.reads == [(FEATURES, LIST)]


def test_a_demand_that_is_met_already_does_not_wait() -> None:
    world = World({FEATURES: features("e1", "e2"), LIST: ranked("a")})
    for at_least in ("e1", (0, 1)):
        answer = world.get(at_least=at_least, wait_ms=100)
        assert (answer.met, answer.fallback, answer.waited_ms) == (True, None, 0)


def test_a_wait_outlives_a_redis_that_does_not_answer_for_a_moment() -> None:
    world = World({FEATURES: features("e1"), LIST: ranked("new"), POPULAR: b'["p"]'})
    world.failing = REDIS_TIMEOUT
    world.later(0.03, lambda: setattr(world, "failing", None))
    answer = world.get(at_least="e1", wait_ms=100)
    assert (answer.items, answer.met, answer.fallback) == (["new"], True, None)


@pytest.mark.parametrize(("failing", "wait_ms"), [(REDIS_TIMEOUT, 100), (REDIS_TIMEOUT, 0), (REDIS_UNAVAILABLE, 100)])
def test_a_redis_that_never_answers_is_named(failing: str, wait_ms: int) -> None:
    world = World({FEATURES: features("e1"), LIST: ranked("new")})
    world.failing = failing
    answer = world.get(at_least="e1", wait_ms=wait_ms)
    assert (answer.items, answer.met, answer.fallback) == ([], False, failing)


def test_waiting_ends_when_the_event_is_covered_and_reads_the_list_after_that() -> None:
    """Contract: the returned list is at least as new as the features that covered the demand."""
    world = World({FEATURES: features("e1"), LIST: ranked("old")})
    world.later(0.012, lambda: world.stored.update({FEATURES: features("e1", "e2"), LIST: ranked("new")}))
    answer = world.get(at_least="e2", wait_ms=100)
    assert (answer.items, answer.met, answer.fallback) == (["new"], True, None)
    assert 12 <= answer.waited_ms <= 18
    assert answer.freshness is not None
    assert answer.freshness.event_no == 2
    assert all(read in ((FEATURES,), (LIST,), (FEATURES, LIST), (POPULAR,)) for read in world.reads)


def test_a_user_who_was_never_seen_is_waited_for() -> None:
    world = World({POPULAR: b'["p"]'})
    world.later(0.02, lambda: world.stored.update({FEATURES: features("e1"), LIST: ranked("first")}))
    assert world.get(at_least="e1", wait_ms=100).items == ["first"]


def test_a_demand_not_met_in_time_gives_the_newest_list_as_stale() -> None:
    world = World({FEATURES: features("e1"), LIST: ranked("old")})
    world.later(0.03, lambda: world.stored.update({LIST: ranked("newer")}))
    answer = world.get(at_least=(0, 7), wait_ms=50)
    assert (answer.items, answer.met, answer.fallback) == (["newer"], False, feed_core.STALE)
    assert answer.waited_ms == pytest.approx(50)
    assert world.core.counters["stale"] == 1


@pytest.mark.parametrize("reason", ["late", "duplicate", "missing_field"])
@pytest.mark.parametrize("at_least", ["bad", (3, 9)])
def test_a_refused_event_is_answered_at_once_with_the_reason(reason: str, at_least: str | tuple[int, int]) -> None:
    trace = [{"reason": reason, "partition": 3, "offset": 9, "event": f"{id_hash('bad'):016x}"}]
    world = World({FEATURES: features("e1", not_applied=trace), LIST: ranked("a")})
    answer = world.get(at_least=at_least, wait_ms=1_000)
    assert (answer.items, answer.met, answer.fallback, answer.waited_ms) == (["a"], False, reason, 0)
    assert world.core.counters[reason] == 1


def test_a_user_without_a_list_gets_the_popular_one() -> None:
    answer = World({POPULAR: b'["p1","p2","p3"]'}).get(k=2)
    assert (answer.items, answer.fallback, answer.list) == (["p1", "p2"], feed_core.NO_LIST, None)


def test_a_covered_event_that_called_for_no_list_is_met_with_the_popular_one() -> None:
    answer = World({FEATURES: features("e1"), POPULAR: b'["p1"]'}).get(at_least="e1")
    assert (answer.items, answer.met, answer.fallback) == (["p1"], True, feed_core.NO_LIST)


@pytest.mark.parametrize("reason", [feed_core.REDIS_TIMEOUT, feed_core.REDIS_UNAVAILABLE])
def test_without_redis_the_last_popular_list_serves(reason: str) -> None:
    """Contract: a reader that ever read a surface has something to show on it when Redis is away."""
    world = World({FEATURES: features("e1"), LIST: ranked("a"), POPULAR: b'["p1"]'})
    world.failing = reason
    assert (world.get().items, world.get().fallback) == ([], reason)
    world.failing = None
    assert world.get().items == ["a"]
    world.failing = reason
    answer = world.get(at_least="e1", wait_ms=100)
    assert (answer.items, answer.met, answer.fallback) == (["p1"], False, reason)
    assert world.core.counters == {"reads": 4, "met": 1, reason: 3}


def test_a_failure_while_waiting_is_a_fallback_too() -> None:
    world = World({FEATURES: features("e1"), LIST: ranked("a"), POPULAR: b'["p1"]'})
    world.get()
    world.later(0.01, lambda: setattr(world, "failing", feed_core.REDIS_UNAVAILABLE))
    answer = world.get(at_least="e9", wait_ms=1_000)
    assert (answer.items, answer.fallback) == (["p1"], feed_core.REDIS_UNAVAILABLE)
    assert answer.waited_ms < 20


@pytest.mark.parametrize("broken", [b"{", b'{"version":3}', b"\xff\xfe", b"[]"])
@pytest.mark.parametrize("where", [FEATURES, LIST, POPULAR])
def test_what_cannot_be_read_never_raises(broken: bytes, where: tuple[str, str]) -> None:
    stored = {FEATURES: features("e1"), LIST: ranked("a"), POPULAR: b'["p1"]'}
    stored[where] = broken
    answer = World(stored).get(at_least="e1")
    if where == POPULAR:
        assert answer.items == ["a"]
    else:
        assert (answer.items, answer.fallback) == (["p1"], feed_core.UNREADABLE)


def test_the_popular_list_is_read_again_after_a_minute() -> None:
    world = World({FEATURES: features("e1"), LIST: ranked("a"), POPULAR: b'["p1"]'})
    world.get()
    world.now_s += feed_core.POPULAR_MAX_AGE_S + 1
    world.reads.clear()
    world.get()
    assert world.reads == [(FEATURES, LIST), (POPULAR,)]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"user": None}, "user"),
        ({"user": ""}, "user"),
        ({"user": "a\nb"}, "user"),
        ({"user": None, "session_id": "x" * 65}, "session_id"),
        ({"user": "a", "surface": "no spaces"}, "surface"),
        ({"user": "a", "k": 0}, "k must"),
        ({"user": "a", "k": 501}, "k must"),
        ({"user": "a", "wait_ms": -1}, "wait_ms"),
        ({"user": "a", "wait_ms": float("nan")}, "wait_ms"),
        ({"user": "a", "at_least": (1, -1)}, "at_least"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, object], named: str) -> None:
    with RankedFeed("redis://127.0.0.1:1/0") as feed, pytest.raises(InvalidArgument, match=named):
        feed.get(**arguments)  # type: ignore[arg-type]


def test_nobody_listening_is_a_fallback_not_an_error() -> None:
    with RankedFeed("redis://127.0.0.1:1/0") as feed:
        answer = feed.get("alice", at_least="e1", wait_ms=100)
    assert (answer.items, answer.met, answer.fallback) == ([], False, feed_core.REDIS_UNAVAILABLE)
    assert feed.counters == {"reads": 1, "met": 0, feed_core.REDIS_UNAVAILABLE: 1}
