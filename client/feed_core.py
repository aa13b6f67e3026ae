"""The decisions of a feed read, without I/O: a generator that says what to do next and ends with the answer.

    features + list ─► demand covered? ── no ─► pause, features again … until covered, refused, or the wait is over
                             │ yes                                                     │
                             └──────────► list ◄─────────────────────────────────────── stale

`RankedFeed` and `AsyncRankedFeed` (client/feed.py) drive it: they carry out each step, send its result back, or throw
`ReadFailed`. So both decide alike, and tests need neither Redis nor a clock.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from typing import NamedTuple

import msgspec

from client.coverage import Coverage, Demand, judge
from schemas.keys import features_redis_key, list_redis_key, popular_redis_key
from schemas.ranking import Freshness, RankedList, Receipt, decode_list
from schemas.redis_layout import FEATURES_FIELD, LIST_FIELD, POPULAR_FIELD

# Why an answer is not the user's list with the demand met. Besides these: the reason why a demanded event was not
# applied (`late`, `duplicate`, `moved`, or a code of schemas.event.Reason).
STALE = "stale"  # not covered in time: the newest list is returned
NO_LIST = "no_list"  # the user has none: the popular list of the surface
UNREADABLE = "unreadable"  # what Redis holds is not ours, or of a newer release: the popular list
REDIS_TIMEOUT = "redis_timeout"  # no answer in time: the last popular list this reader has seen, else nothing
REDIS_UNAVAILABLE = "redis_unavailable"  # likewise

POPULAR_MAX_AGE_S = 60.0
_FIRST_PAUSE_S = 0.001
_LONGEST_PAUSE_S = 0.005
_GROWTH = 1.5


class FeedAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A feed read's outcome.

    `met`: what was read covers the demand (true without a demand, once Redis answered). `freshness` is what the user's
    state had seen: at least what `receipt.freshness`, the list's own, says. `fallback`: why `items` are not that, None
    where they are.
    """

    items: list[str]
    met: bool
    waited_ms: float
    receipt: Receipt | None = None
    list: RankedList | None = None
    fallback: str | None = None
    freshness: Freshness | None = None


class Read(NamedTuple):
    """Step: HGET each (key, field), in this order and one round trip; the result is the list of values. Keys share a
    slot.
    """

    fields: tuple[tuple[str, str], ...]


class Pause(NamedTuple):
    """Step: let this much time pass."""

    seconds: float


Step = Read | Pause
Result = list[bytes | None] | None  # of a Read, of a Pause
Steps = Generator[Step, Result, FeedAnswer]


class ReadFailed(Exception):
    """Thrown into the generator by its driver; `reason` is REDIS_TIMEOUT or REDIS_UNAVAILABLE."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Wish(NamedTuple):
    """A validated request for a feed."""

    key: str
    surface: str
    k: int
    demand: Demand | None
    wait_s: float


class _Fresh(msgspec.Struct):
    """The part of SessionFeatures that a reader compares: decoding skips the rest."""

    freshness: Freshness
    pending: list[str] = []


_decode_fresh = msgspec.json.Decoder(_Fresh).decode
_decode_popular = msgspec.json.Decoder(list[str]).decode


def _judge(wish: Wish, fresh: _Fresh | None) -> Coverage | str:
    """Whether the list of the wished surface, as it is now, meets the demand."""
    if wish.demand is None:
        return Coverage.COVERED
    if fresh is None:
        return Coverage.NOT_YET
    verdict = judge(wish.demand, fresh.freshness)
    # The state has seen the event, but this surface's ranking still waits for its throttle.
    return Coverage.NOT_YET if verdict is Coverage.COVERED and wish.surface in fresh.pending else verdict


class FeedCore:
    """One per reader: the counters by fallback reason, and the last popular list of each surface.

    `namespace` is Connections.redis_namespace; `clock` is monotonic, in seconds.
    """

    def __init__(self, namespace: str, clock: Callable[[], float]) -> None:
        self._namespace = namespace
        self._clock = clock
        self._popular: dict[str, tuple[float, list[str]]] = {}  # surface -> (when read, item ids)
        self._lock = threading.Lock()
        self.counters: dict[str, int] = {"reads": 0, "met": 0}

    def answer(self, wish: Wish) -> Steps:
        """The steps of one read. Always ends with an answer: whatever a step throws becomes a fallback."""
        begun_s = self._clock()
        answer: FeedAnswer
        try:
            answer = yield from self._user_list(wish, begun_s)
            if self._popular_is_due(wish.surface, answer.list is None):
                yield from self._read_popular(wish.surface)
            if answer.list is None:
                answer = msgspec.structs.replace(answer, items=self._last_popular(wish))
        except ReadFailed as failure:
            answer = FeedAnswer(items=self._last_popular(wish), met=False, waited_ms=0.0, fallback=failure.reason)
        answer = msgspec.structs.replace(answer, waited_ms=(self._clock() - begun_s) * 1000)
        self._count(answer)
        return answer

    def _user_list(self, wish: Wish, begun_s: float) -> Generator[Step, Result, FeedAnswer]:
        features = (features_redis_key(self._namespace, wish.key), FEATURES_FIELD)
        ranked = (list_redis_key(self._namespace, wish.key, wish.surface), LIST_FIELD)
        fresh: _Fresh | None = None
        raw_list: bytes | None = None
        polled = False
        try:
            try:
                # Features before list: one script writes both, so this list is at least as new as these features.
                raw_features, raw_list = yield from _read(features, ranked)
                fresh = _decode_fresh(raw_features) if raw_features else None
                verdict = _judge(wish, fresh)
            except ReadFailed as failure:
                self._unless_waiting(failure, wish)
                verdict, polled = Coverage.NOT_YET, True
            pause_s = _FIRST_PAUSE_S
            while verdict is Coverage.NOT_YET:
                left_s = begun_s + wish.wait_s - self._clock()
                if left_s <= 0:
                    break
                yield Pause(min(pause_s, left_s))
                pause_s, polled = min(pause_s * _GROWTH, _LONGEST_PAUSE_S), True
                try:
                    (raw_features,) = yield from _read(features)
                except ReadFailed as failure:
                    self._unless_waiting(failure, wish)
                    continue
                fresh = _decode_fresh(raw_features) if raw_features else None
                verdict = _judge(wish, fresh)
            if polled:
                (raw_list,) = yield from _read(ranked)
            ranked_list = decode_list(raw_list) if raw_list else None
        except (msgspec.DecodeError, UnicodeDecodeError):
            return FeedAnswer(items=[], met=wish.demand is None, waited_ms=0.0, fallback=UNREADABLE)
        if isinstance(verdict, str):
            fallback: str | None = verdict
        elif ranked_list is None:
            fallback = NO_LIST
        else:
            fallback = None if verdict is Coverage.COVERED else STALE
        return FeedAnswer(
            items=[item.item_id for item in ranked_list.items[: wish.k]] if ranked_list else [],
            met=verdict is Coverage.COVERED,
            waited_ms=0.0,
            receipt=ranked_list.receipt if ranked_list else None,
            list=ranked_list,
            fallback=fallback,
            freshness=fresh.freshness if fresh else None,
        )

    def _unless_waiting(self, failure: ReadFailed, wish: Wish) -> None:
        """One read that timed out does not end a wait that is longer: Redis may answer the next."""
        if failure.reason != REDIS_TIMEOUT or not wish.wait_s:
            raise failure

    def _popular_is_due(self, surface: str, needed: bool) -> bool:
        known = self._popular.get(surface)
        return known is None or self._clock() - known[0] > POPULAR_MAX_AGE_S or (needed and not known[1])

    def _read_popular(self, surface: str) -> Generator[Step, Result, None]:
        """Remember the popular list, for now and for when Redis is away. Its failure costs no list already read."""
        known = self._popular.get(surface)
        try:
            (raw,) = yield from _read((popular_redis_key(self._namespace, surface), POPULAR_FIELD))
            items = _decode_popular(raw) if raw else []
        except (ReadFailed, msgspec.DecodeError, UnicodeDecodeError):
            items = known[1] if known else []
        self._popular[surface] = (self._clock(), items)

    def _last_popular(self, wish: Wish) -> list[str]:
        known = self._popular.get(wish.surface)
        return known[1][: wish.k] if known else []

    def _count(self, answer: FeedAnswer) -> None:
        with self._lock:
            self.counters["reads"] += 1
            if answer.met:
                self.counters["met"] += 1
            if answer.fallback is not None:
                self.counters[answer.fallback] = self.counters.get(answer.fallback, 0) + 1


def _read(*fields: tuple[str, str]) -> Generator[Step, Result, list[bytes | None]]:
    values = yield Read(fields)
    assert values is not None, "the driver must answer a Read"
    return values
