"""The account against an engine in memory: it balances for one that is right, and finds every way of being wrong."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import msgspec
import pytest

from schemas import topics
from schemas.interaction import decode_interaction
from schemas.ranking import RankedList, Receipt, SessionFeatures
from schemas.record import Record
from schemas.user_state import UserState, decode
from tests.fakes import NOW
from trials.account import Account, Written, take
from trials.traffic import Traffic
from udfs.logic.records import Rules, Stamp, handle
from udfs.logic.sessions import freshness

ITEMS = [f"i{number}" for number in range(50)]
STEP_MS = 40


class Engine:
    """UpdateUserState's logic over a dict of states; identity records arrive later, as after a checkpoint."""

    def __init__(self, identity_ms: int = 0) -> None:
        self._identity_ms = identity_ms
        self._committed: deque[tuple[int, bytes, bytes]] = deque()  # when, key, value
        self.blobs: dict[str, bytes] = {}
        self.found, self.redis = Written(), dict[str, str | None]()
        self._offset = 0

    def take(self, key: bytes, value: bytes, now_ms: int) -> None:
        self._commit(now_ms)
        self._handle(topics.EVENTS, key, value, now_ms)

    def _commit(self, now_ms: int) -> None:
        while self._committed and self._committed[0][0] <= now_ms:
            self._handle(topics.IDENTITY, *self._committed.popleft()[1:], now_ms)

    def _handle(self, topic: str, key: bytes, value: bytes, now_ms: int) -> None:
        waiting: deque[tuple[str, bytes, bytes, dict[str, bytes]]] = deque([(topic, key, value, {})])
        while waiting:
            topic, key, value, headers = waiting.popleft()
            self._offset += 1
            text = {name: said.decode() for name, said in headers.items()}
            record = Record(
                topic, key.decode(), value, 0, self._offset, now_ms,
                text.get("riffle-via"), text.get("riffle-partition"), text.get("riffle-offset"), text.get("riffle-append-ms"),
            )  # fmt: skip
            blob = self.blobs.get(key.decode())
            outcome = handle(decode(blob) if blob else None, key.decode(), record, now_ms, Stamp(1, None), Rules())
            if outcome.store is not None:
                self.blobs[key.decode()] = outcome.store
            for out in outcome.outputs:
                if out.topic == topics.EVENTS:
                    waiting.append((out.topic, out.key, out.value or b"", out.headers))
                elif out.topic == topics.IDENTITY:
                    self._committed.append((now_ms + self._identity_ms, out.key, out.value or b""))
                elif out.topic == topics.INTERACTIONS:
                    one = decode_interaction(out.value)
                    self.found.interactions.setdefault(one.key, []).append(one)
                elif out.topic == topics.EVENTS_LATE:
                    self.found.late.add(out.value or b"")
                elif out.topic == topics.EVENTS_DLQ:
                    self.found.dead.add(out.value or b"")

    def close(self, now_ms: int) -> None:
        while self._committed:
            now_ms += self._identity_ms
            self._commit(now_ms)
        for key, blob in self.blobs.items():
            state = decode(blob)
            self.found.features[key] = _features(key, state)
            self.found.lists[key] = _list(key, state)
            self.redis[key] = state.tail.last_event_id


def _features(key: str, state: UserState) -> SessionFeatures:
    session = state.session()
    return SessionFeatures(key, 1, state.list_no, 0, None, session.item_ids, [], [], 0, [], freshness(state))


def _list(key: str, state: UserState) -> RankedList:
    receipt = Receipt(freshness(state), "b", "r", "1", {}, {}, {}, {})
    return RankedList("id", key, "home", 1, state.list_no, 0, [], receipt, "click")


def played(seed: int = 7, identity_ms: int = 0, records: int = 1_500) -> tuple[Traffic, Engine]:
    traffic, engine = Traffic(seed, "t", ITEMS), Engine(identity_ms)
    for number in range(records):
        now_ms = NOW + number * STEP_MS
        sent = traffic.next(now_ms)
        engine.take(sent.key, sent.value, now_ms)
    engine.close(NOW + records * STEP_MS)
    return traffic, engine


@pytest.mark.parametrize("identity_ms", [0, 5_000, 20_000])
@pytest.mark.parametrize("seed", range(3))
def test_the_account_of_an_engine_that_is_right_balances(seed: int, identity_ms: int) -> None:
    """Contract: however long a merge is on its way, nothing is lost or applied twice."""
    traffic, engine = played(seed, identity_ms)
    account = take(traffic.people, engine.found, engine.redis)
    assert account.balanced, account
    assert account.sent == 1_500
    assert min(account.applied, account.duplicate, account.late, account.rejected, account.merges) > 0


def test_the_same_seed_is_the_same_traffic() -> None:
    one, other = (Traffic(3, "t", ITEMS) for _ in range(2))
    assert [one.next(NOW + n) for n in range(500)] == [other.next(NOW + n) for n in range(500)]
    assert [Traffic(4, "t", ITEMS).next(NOW) for _ in range(2)] != [one.next(NOW) for _ in range(2)]


def _lose(engine: Engine) -> None:
    engine.found.interactions["u:t-1"].pop()


def _repeat(engine: Engine) -> None:
    applied = engine.found.interactions["u:t-1"]
    applied.append(msgspec.structs.replace(applied[-1], event_no=applied[-1].event_no + 1))


def _number_twice(engine: Engine) -> None:
    applied = engine.found.interactions["u:t-1"]
    applied[-1] = msgspec.structs.replace(applied[-1], event_no=1)


def _lose_the_late(engine: Engine) -> None:
    engine.found.late.clear()


def _lose_the_dead(engine: Engine) -> None:
    engine.found.dead.clear()


def _count_once_too_often(engine: Engine) -> None:
    features = engine.found.features["u:t-1"]
    engine.found.features["u:t-1"] = msgspec.structs.replace(features, list_no=features.list_no + 1)


def _merge_nothing(engine: Engine) -> None:
    features = engine.found.features["u:t-0"]
    engine.found.features["u:t-0"] = msgspec.structs.replace(features, session_items=features.session_items[4:])


def _forget_the_list(engine: Engine) -> None:
    del engine.found.lists["u:t-1"]


def _forget_redis(engine: Engine) -> None:
    engine.redis["u:t-1"] = "t-1-0"


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (_lose, "applied another number of times"),
        (_repeat, "applied another number of times"),
        (_number_twice, "events are numbered"),
        (_lose_the_late, "events-late"),
        (_lose_the_dead, "events-dlq"),
        (_count_once_too_often, ""),
        (_merge_nothing, "the state holds"),
        (_forget_the_list, "in Kafka names None"),
        (_forget_redis, "in Redis names t-1-0"),
    ],
)
def test_the_account_finds_what_is_wrong(spoil: Callable[[Engine], None], said: str) -> None:
    traffic, engine = played()
    spoil(engine)
    account = take(traffic.people, engine.found, engine.redis)
    assert not account.balanced
    assert said in " ".join(account.differences)


def test_an_account_tells_the_first_differences_only() -> None:
    traffic, engine = played()
    assert len(take(traffic.people, Written(), engine.redis).differences) == 20


def test_an_account_of_nothing_balances() -> None:
    assert Account().balanced
