"""Events to feed in, and hand-written stand-ins for what Flink hands to an operator. No JVM, no pyflink."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np

from models.store import HistoryCache
from schemas import topics
from schemas.event import Event, Rejected, parse_event
from schemas.ranking import RankedItem
from schemas.record import Record
from schemas.user_state import UserState, seen_hash
from udfs.logic.beliefs import Moment
from udfs.logic.slate import Retrieved

NOW = 1_767_225_600_000  # 2026-01-01T00:00:00Z
SECOND, MINUTE, HOUR, DAY = 1_000, 60_000, 3_600_000, 86_400_000

_DEFAULT_PROPS: dict[str, dict[str, Any]] = {
    "view": {"dwell_ms": 6_000},
    "scroll": {"depth_pct": 40},
    "purchase": {"order_id": "o1", "items": [{"item_id": "i1"}]},
    "return": {"order_id": "o1", "items": [{"item_id": "i1"}]},
    "search": {"query": "trail shoes"},
    "follow": {"target": "running"},
}
_WITHOUT_ITEM = {"purchase", "return", "search", "follow", "login", "logout", "scroll"}
_made = 0


def body(kind: str = "click", item: str | None = "i1", **fields: Any) -> dict[str, Any]:
    """A valid event as a dict, with a fresh event_id. `props` are added to those that the type needs; None removes a field."""
    global _made
    _made += 1
    found: dict[str, Any] = {
        "event_id": f"e-{_made}",
        "session_id": "s1",
        "user_id": "alice",
        "event_type": kind,
        "ts_ms": NOW,
        "schema_version": 2,
        "props": _DEFAULT_PROPS.get(kind, {}) | fields.pop("props", {}),
    }
    if kind not in _WITHOUT_ITEM:
        found["item_id"] = item
    found |= fields
    return {name: value for name, value in found.items() if value is not None}


def raw(kind: str = "click", item: str | None = "i1", **fields: Any) -> bytes:
    return msgspec.json.encode(body(kind, item, **fields))


def event(kind: str = "click", item: str | None = "i1", **fields: Any) -> Event:
    parsed = parse_event(raw(kind, item, **fields))
    assert not isinstance(parsed, Rejected), parsed
    return parsed


_offset = 0


def record(value: bytes | None, key: str | None = "u:alice", topic: str = topics.EVENTS, **fields: Any) -> Record:
    """A record at the next offset of partition 3, appended at NOW unless said otherwise."""
    global _offset
    _offset += 1
    return Record(
        **({"topic": topic, "key": key, "value": value, "partition": 3, "offset": _offset, "append_ms": NOW} | fields)
    )


class FakeValueState:
    """A ValueState that counts its uses."""

    def __init__(self) -> None:
        self.stored: Any = None
        self.reads = self.writes = 0

    def value(self) -> Any:
        self.reads += 1
        return self.stored

    def update(self, value: Any) -> None:
        self.writes += 1
        self.stored = value

    def clear(self) -> None:
        self.stored = None


class FakeMapState:
    """A MapState of one key."""

    def __init__(self) -> None:
        self.entries: dict[str, Any] = {}

    def get(self, key: str) -> Any:
        return self.entries.get(key)

    def put(self, key: str, value: Any) -> None:
        self.entries[key] = value

    def remove(self, key: str) -> None:
        self.entries.pop(key, None)


class FakeBroadcastState:
    def __init__(self) -> None:
        self.entries: dict[str, str] = {}

    def get(self, key: str) -> str | None:
        return self.entries.get(key)

    def put(self, key: str, value: str) -> None:
        self.entries[key] = value


class FakeTimerService:
    def __init__(self) -> None:
        self.timers: set[int] = set()
        self.watermark = -(1 << 63)  # as before the first one
        self.event_timers: set[int] = set()

    def register_processing_time_timer(self, at_ms: int) -> None:
        self.timers.add(at_ms)

    def register_event_time_timer(self, at_ms: int) -> None:
        self.timers.add(at_ms)
        self.event_timers.add(at_ms)

    def current_watermark(self) -> int:
        return self.watermark


class FakeContext:
    """Context of an element, a timer or a broadcast element, of one key."""

    def __init__(self, key: str) -> None:
        self.key = key
        self.timers = FakeTimerService()
        self.broadcast = FakeBroadcastState()

    def get_current_key(self) -> str:
        return self.key

    def timer_service(self) -> FakeTimerService:
        return self.timers

    def get_broadcast_state(self, descriptor: Any) -> FakeBroadcastState:
        return self.broadcast


class FakeCounter:
    def __init__(self) -> None:
        self.count = 0

    def inc(self, times: int = 1) -> None:
        self.count += times


class FakeMetricGroup:
    def __init__(self) -> None:
        self.counters: dict[str, FakeCounter] = {}
        self.gauges: dict[str, Any] = {}
        self.groups: dict[tuple[str, str], FakeMetricGroup] = {}

    def add_group(self, name: str, extra: str) -> FakeMetricGroup:
        return self.groups.setdefault((name, extra), FakeMetricGroup())

    def counter(self, name: str) -> FakeCounter:
        return self.counters.setdefault(name, FakeCounter())

    def gauge(self, name: str, read: Any) -> None:
        self.gauges[name] = read

    def counts(self) -> dict[str, int]:
        """What has been counted, in whichever way it is exported; zeros are left out."""
        counted = {name: counter.count for name, counter in self.counters.items()}
        return {
            name: count
            for name, count in (counted | {name: read() for name, read in self.gauges.items()}).items()
            if count
        }


class FakeRuntimeContext:
    def __init__(self) -> None:
        self.state = FakeValueState()
        self._first = ""
        self.others: dict[str, FakeValueState] = {}
        self.map_state = FakeMapState()
        self.metrics = FakeMetricGroup()

    def get_state(self, descriptor: Any) -> FakeValueState:
        """`state` is the first that is asked for; `others` are by name."""
        self._first = self._first or descriptor.name
        return (
            self.state if descriptor.name == self._first else self.others.setdefault(descriptor.name, FakeValueState())
        )

    def get_map_state(self, descriptor: Any) -> FakeMapState:
        return self.map_state

    def get_metrics_group(self) -> FakeMetricGroup:
        return self.metrics


class FakeClock:
    """A clock that stands still until it is moved."""

    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now

    def perf_counter_ns(self) -> int:
        return int(self.now * 1e9)


def wait_until(condition: Callable[[], bool], limit_s: float = 5.0) -> None:
    """Wait for a condition, with a limit."""
    give_up = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < give_up, "the condition did not come true in time"
        time.sleep(0.002)


class FakeRunOptions:
    """In the place of onnxruntime.RunOptions."""

    def __init__(self) -> None:
        self.terminate = False


class FakeBundle:
    """A ranker that likes higher item numbers: item-9 before item-8. What it does while scoring is up to the test."""

    def __init__(self, version: str = "b1", items: int = 20) -> None:
        self.version, self.name = version, "fake"
        self.item_ids = ["<any>", *(f"item-{n}" for n in range(1, items + 1))]
        self.seen_hashes = np.array([seen_hash(item_id) for item_id in self.item_ids], np.uint32)
        self.popular = [RankedItem(item_id, 0.5, "popular") for item_id in self.item_ids[1:6]]
        self.during_score: Callable[[UserState, Any], None] = lambda _state, _stop: None
        self.scored: list[UserState] = []
        self.non_finite = 0
        self.cache = HistoryCache(0)
        self.item_features = SimpleNamespace(offsets={2: 7})
        self.feature_ids = ["lift_2h@1"]
        self.has_light = False
        self.asked_at: Moment | None = None

    def session_vector(self, state: UserState, now_ms: int) -> list[float]:
        return []

    def rows(self, item_ids: list[str]) -> Any:
        known = {item_id: row for row, item_id in enumerate(self.item_ids)}
        return np.array([known.get(item_id, 0) for item_id in item_ids], np.int32)

    def level(self, row: int) -> str:
        return "item" if row > 0 else "global"

    def described(self, state: UserState) -> dict[str, tuple[str | None, str | None]]:
        return {}

    def features(self, rows: Any) -> Any:
        return np.array([[len(self.item_ids[row])] for row in rows], np.float32).reshape(len(rows), 1)

    def vectors(self, rows: Any) -> Any:
        return np.stack((np.cos(rows), np.sin(rows)), axis=1).astype(np.float32)

    def popularity(self, rows: Any) -> Any:
        return (100 - rows).astype(np.float32)

    def retrieve(
        self, state: UserState, limit: int, now_ms: int, done: Callable[[str], None], at: Moment | None = None
    ) -> Retrieved:
        self.asked_at = at
        rows = np.arange(1, min(limit + 1, len(self.item_ids)), dtype=np.int32)
        done("recall")
        ids = [self.item_ids[row] for row in rows]
        return Retrieved(ids, ["popular"] * len(rows), rows, self.seen_hashes[rows])

    def light(self, state: UserState, rows: Any, now_ms: int) -> Any:
        return -rows.astype(np.float32)

    def history_encoder(self, key: str, now_ms: int, stop: Any) -> Callable[[UserState], Any]:
        return lambda state: len(state.history_slots)

    def score(
        self,
        state: UserState,
        history: Any,
        rows: Any,
        now_ms: int,
        surface: str,
        stop: Any,
        weights: Any = None,
        features: Any = None,
    ) -> Any:
        self.scored.append(state)
        self.during_score(state, stop)
        return (rows + 0.01 * len(state.session_slots)).astype(np.float32)

    def popular_first(self, item_ids: list[str]) -> list[RankedItem]:
        return [RankedItem(item_id, 0.5, "caller") for item_id in item_ids]


class FakeBundleStore:
    """Bundles by version; another version is stood in for by the first."""

    def __init__(self, *bundles: FakeBundle) -> None:
        self.bundles = {bundle.version: bundle for bundle in bundles}
        self.current = self.default = bundles[0]
        self.closed = False

    def close(self) -> None:
        self.closed = True

    def items_changed(self, item_ids: list[str]) -> None:
        self.changed = item_ids

    def lists_changed(self, keys: list[str]) -> None:
        self.lists_told = keys

    def items_not_in_bundle(self) -> int:
        return 2

    def item_features_served(self) -> tuple[int, dict[str, int]]:
        return 4, {"lift_2h": 3, "lift_28d": 0, "subcategory_trend": 0}

    def get(self, version: str | None) -> tuple[FakeBundle, bool]:
        found = self.default if version is None else self.bundles.get(version)
        return (found, True) if found is not None else (self.default, False)
