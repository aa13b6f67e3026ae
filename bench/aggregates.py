"""Counters of items: Riffle's job against the same windows in PyFlink's Python windows, in turns; its cost at few and many items.

Both read the same topic `interactions` (Zipf-distributed items) from its start, parse on the JVM, keep state in RocksDB, run their
Python in thread mode, and write to `item-features`. Interactions carry no duplicates: personalise has taken them out for both.
Measured is from the commit that covers the warm-up to the last one before the end: at both the same is on its way, at most what is
summed over two seconds. Checkpoints come every second. CPU is that of the JobManager, the TaskManager with the Python in it, and
its Python workers.
"""

from __future__ import annotations

import shutil
import time
from contextlib import suppress
from typing import NamedTuple

import msgspec
import numpy as np
from kafka import KafkaAdminClient
from kafka.errors import KafkaError

from bench.machine import ROOT, about
from bench.results import Aggregates, Counted, Items
from bench.stack import err, own_stack, wait_for
from bench.state import flink_cpu_s, producer
from cli.cluster import stage_app
from local.errors import LocalError
from local.stack import Stack
from schemas import topics
from schemas.connections import Connections

CONTENDERS = ("riffle", "windows")
_KINDS = ("impression", "click", "view", "add_to_cart", "purchase")
_SHARES = (0.7, 0.2, 0.06, 0.03, 0.01)
_FIRST_MS = 1_767_225_600_000
_LINES = 200  # of an order that fills
_SPAN_MS = 6 * 3_600_000  # event times of a round: windows end within it
_CHECKPOINTS = {"execution.checkpointing.interval": "1 s", "execution.checkpointing.min-pause": "500 ms"}
_START_LIMIT_S = 180


class Load(msgspec.Struct, frozen=True):
    """`warm_up` of the events are not measured; `filled` of the items are counted before; `round_s` cuts off a longer round."""

    events: int
    warm_up: int
    items: int
    filled: int
    round_s: float


class _Mark(NamedTuple):
    """A commit: how many records it covers, when, and the CPU time used by then."""

    covered: int
    at_s: float
    cpu_s: float


FULL = Load(events=150_000, warm_up=20_000, items=1_000, filled=0, round_s=60)
QUICK = Load(events=100_000, warm_up=20_000, items=1_000, filled=0, round_s=30)
MANY, MANY_FILLED, QUICK_MANY = 1_000_000, 200_000, 20_000


def run(quick: bool, repeat: int) -> Aggregates:
    """Riffle against PyFlink's windows."""
    load = QUICK if quick else FULL
    rounds: dict[str, list[Counted]] = {name: [] for name in CONTENDERS}
    with own_stack(flink_settings=_CHECKPOINTS) as stack:
        _prepare(stack, "few-", load)
        for number in range(repeat):
            for name in CONTENDERS:
                rounds[name].append(_round(stack, name, "few-", f"{name}-{number}", load))
    return Aggregates(about(quick, repeat, events=load.events, items=load.items, zipf=1.1), rounds)


def run_items(quick: bool, repeat: int) -> Items:
    """Riffle at few and at many items."""
    few = QUICK if quick else FULL
    items, filled = (QUICK_MANY, QUICK_MANY) if quick else (MANY, MANY_FILLED)
    loads = {"few-": few, "many-": msgspec.structs.replace(few, items=items, filled=filled)}
    runs = []
    with own_stack(flink_settings=_CHECKPOINTS) as stack:
        for namespace, load in loads.items():
            _prepare(stack, namespace, load)
        for number in range(repeat):
            rounds = [_round(stack, "riffle", name, f"{name}{number}", load) for name, load in loads.items()]
            runs.append(rounds)
    return Items(about(quick, repeat, events=few.events, counted_before=filled, zipf=1.1), runs)


def _prepare(stack: Stack, namespace: str, load: Load) -> None:
    wanted = (topics.INTERACTIONS, topics.ITEMS, topics.ITEM_FEATURES)
    stack.create_topics([spec for spec in topics.TOPICS if spec.name in wanted], namespace)
    produce(stack.connections(namespace), load.events, load.items, load.filled)


def produce(where: Connections, count: int, items: int, filled: int, seed: int = 1) -> None:
    """Orders that name each of the first `filled` items once, then `count` actions on items that Zipf draws, over six hours."""
    chance = np.random.Generator(np.random.PCG64(seed))
    weights = 1.0 / np.arange(1, items + 1) ** 1.1
    chosen = chance.choice(items, count, p=weights / weights.sum())
    kinds = chance.choice(len(_KINDS), count, p=_SHARES)
    times = np.sort(chance.integers(0, _SPAN_MS, count))
    with producer(where) as sender:
        for number in range(_orders(filled)):
            lines = range(number * _LINES, min(filled, (number + 1) * _LINES))
            value = _interaction(number, [_item(line) for line in lines], "purchase", _FIRST_MS)
            sender.send(where.topic(topics.INTERACTIONS), key=b"u:%d" % (number % 5_000), value=value)
        for number, (item, kind, after_ms) in enumerate(zip(chosen.tolist(), kinds.tolist(), times.tolist())):
            value = _interaction(number, [_item(item)], _KINDS[kind], _FIRST_MS + after_ms)
            sender.send(where.topic(topics.INTERACTIONS), key=b"u:%d" % (number % 5_000), value=value)


def _orders(filled: int) -> int:
    """Records that fill: an order counts once a line, and so a few thousand of them name a million items."""
    return -(-filled // _LINES)


def _item(number: int) -> str:
    return f"item-{number:08d}"


def _interaction(number: int, items: list[str], kind: str, ts_ms: int) -> bytes:
    props = (
        {"order_id": "o", "items": [{"item_id": item} for item in items]} if kind == "purchase" else {"surface": "home"}
    )
    event = {"event_type": kind, "event_id": f"e-{number}", "session_id": "s", "ts_ms": ts_ms, "schema_version": 2}
    body = event | {"props": props} | ({} if kind == "purchase" else {"item_id": items[0]})
    return msgspec.json.encode(
        {"key": f"u:{number % 5_000}", "event_no": 1, "state_epoch": 1, "event": body, "ts_ms": ts_ms,
         "partition": 0, "offset": number, "append_ms": ts_ms}
    )  # fmt: skip


def _round(stack: Stack, mode: str, namespace: str, group: str, load: Load) -> Counted:
    """One contender's turn."""
    where = stack.connections(namespace)
    job_id = _submit(stack, mode, where, group)
    begin = _orders(load.filled) + load.warm_up
    end = begin - load.warm_up + load.events
    marks: list[_Mark] = []
    admin = KafkaAdminClient(**where.kafka_python())
    try:
        stack.wait_running(job_id)
        limit_s = _START_LIMIT_S + load.filled / 1_000
        wait_for(lambda: _committed(admin, where, group) >= begin, limit_s, f"{mode}'s warm-up")
        deadline = time.monotonic() + load.round_s
        while time.monotonic() < deadline and (covered := _committed(admin, where, group)) < end:
            if not marks or covered > marks[-1].covered:
                marks.append(_Mark(covered, time.monotonic(), flink_cpu_s(stack)))
            time.sleep(0.05)
        state = stack.flink.rest.get(f"/jobs/{job_id}/checkpoints")["latest"]["completed"]["state_size"]
    finally:
        admin.close()
        stack.cancel(job_id)
    if len(marks) < 2:
        raise LocalError(f"{mode} committed only once between its warm-up and the end: take more events.")
    first, last = marks[0], marks[-1]
    events, seconds = last.covered - first.covered, last.at_s - first.at_s
    cpu_us = (last.cpu_s - first.cpu_s) / events * 1e6
    err.print(f"{group}: {events} events, {cpu_us:.0f} µs/event, {events / seconds:.0f} events/s, state {state}")
    return Counted(load.items, events, round(seconds, 1), round(cpu_us, 1), state)


def _submit(stack: Stack, mode: str, where: Connections, group: str) -> str:
    app = stage_app(stack.run_dir / "app")
    (app / "bench").mkdir()
    shutil.copy(ROOT / "bench" / "__init__.py", app / "bench")
    args = ["--mode", mode, "--brokers", where.brokers, "--redis-url", where.redis_url, "--group", group]
    return stack.submit(ROOT / "bench" / "aggregates_job.py", [*args, "--namespace", where.namespace], [app], None)


def _committed(admin: KafkaAdminClient, where: Connections, group: str) -> int:
    """Records of `interactions` that the group's last checkpoint covers."""
    with suppress(KafkaError):  # no such group yet
        offsets = admin.list_group_offsets({where.group(group): None})[where.group(group)]
        topic = where.topic(topics.INTERACTIONS)
        return sum(max(0, one.offset) for at, one in offsets.items() if at.topic == topic)
    return 0
