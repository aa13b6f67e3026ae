"""Counters of items: Riffle's job against the same windows in PyFlink's Python windows, in turns; its cost at few and many items.

Both read the same topic `interactions` (Zipf-distributed items) from its start, parse on the JVM, keep state in RocksDB, run their
Python in thread mode, and write to `item-features`. Interactions carry no duplicates: personalise has taken them out for both.
Measured is from the first committed offset to the last, by what the consumer group has committed: what a checkpoint covers. CPU
is that of the JobManager and the TaskManager with the Python in it.
"""

from __future__ import annotations

import shutil
import time
from contextlib import suppress

import msgspec
import numpy as np
from kafka import KafkaAdminClient
from kafka.errors import KafkaError

from bench.machine import ROOT, about
from bench.results import Aggregates, Counted
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
_SPAN_MS = 6 * 3_600_000  # event times of a round: windows end within it
_START_LIMIT_S = 180


class Load(msgspec.Struct, frozen=True):
    """`round_s` cuts off a round that takes longer."""

    events: int
    few: int
    many: int
    round_s: float


FULL = Load(events=300_000, few=1_000, many=1_000_000, round_s=90)
QUICK = Load(events=40_000, few=1_000, many=20_000, round_s=60)


def run(quick: bool, repeat: int) -> Aggregates:
    load = QUICK if quick else FULL
    rounds: dict[str, list[Counted]] = {name: [] for name in CONTENDERS}
    sizes: list[list[Counted]] = []
    with own_stack() as stack:
        for namespace, items, filled in (("few-", load.few, 0), ("many-", load.many, load.many)):
            stack.create_topics(topics.TOPICS, namespace)
            produce(stack.connections(namespace), load.events, items, filled)
        for number in range(repeat):
            for name in CONTENDERS:
                rounds[name].append(_round(stack, name, "few-", f"{name}-{number}", load, load.few, 0))
            sizes.append([_round(stack, "riffle", "many-", f"many-{number}", load, load.many, load.many)])
    described = about(quick, repeat, events=load.events, items=load.few, many_items=load.many, zipf=1.1)
    return Aggregates(described, rounds, sizes)


def produce(where: Connections, count: int, items: int, filled: int, seed: int = 1) -> None:
    """One impression of each of the first `filled` items, then `count` actions on items that Zipf draws, over six hours."""
    chance = np.random.Generator(np.random.PCG64(seed))
    weights = 1.0 / np.arange(1, items + 1) ** 1.1
    drawn = chance.choice(items, count, p=weights / weights.sum())
    chosen = np.concatenate((np.arange(filled), drawn))
    kinds = np.concatenate((np.zeros(filled, int), chance.choice(len(_KINDS), count, p=_SHARES)))
    times = np.concatenate((np.zeros(filled, int), np.sort(chance.integers(0, _SPAN_MS, count))))
    with producer(where) as sender:
        for number, (item, kind, after_ms) in enumerate(zip(chosen.tolist(), kinds.tolist(), times.tolist())):
            value = _interaction(number, f"item-{item:08d}", _KINDS[kind], _FIRST_MS + after_ms)
            sender.send(where.topic(topics.INTERACTIONS), key=b"u:%d" % (number % 5_000), value=value)


def _interaction(number: int, item: str, kind: str, ts_ms: int) -> bytes:
    props = {"order_id": "o", "items": [{"item_id": item}]} if kind == "purchase" else {"surface": "home"}
    event = {"event_type": kind, "event_id": f"e-{number}", "session_id": "s", "ts_ms": ts_ms, "schema_version": 2}
    body = event | {"props": props} | ({} if kind == "purchase" else {"item_id": item})
    return msgspec.json.encode(
        {"key": f"u:{number % 5_000}", "event_no": 1, "state_epoch": 1, "event": body, "ts_ms": ts_ms,
         "partition": 0, "offset": number, "append_ms": ts_ms}
    )  # fmt: skip


def _round(stack: Stack, mode: str, namespace: str, group: str, load: Load, items: int, filled: int) -> Counted:
    """One contender's turn; the first `filled` events are only read."""
    where = stack.connections(namespace)
    job_id = _submit(stack, mode, where, group)
    try:
        stack.wait_running(job_id)
        wait_for(lambda: _committed(where, group) > filled, _START_LIMIT_S + filled / 1_000, "the first commit")
        before, used, begun = _committed(where, group), flink_cpu_s(stack), time.monotonic()
        total, deadline = filled + load.events, begun + load.round_s
        seen, seen_cpu, seen_s = before, used, begun
        while seen < total and time.monotonic() < deadline:
            time.sleep(0.2)
            now = _committed(where, group)
            if now > seen:  # what a commit covers was worked for by now
                seen, seen_cpu, seen_s = now, flink_cpu_s(stack), time.monotonic()
        if seen == before:
            raise LocalError(f"{mode} committed nothing in {load.round_s:.0f} s after its first: take more events.")
        state = stack.flink.rest.get(f"/jobs/{job_id}/checkpoints")["latest"]["completed"]["state_size"]
    finally:
        stack.cancel(job_id)
    events = seen - before
    found = Counted(items, events, round(seen_s - begun, 1), round((seen_cpu - used) / events * 1e6, 1), state)
    err.print(f"{group}: {found.cpu_us:.0f} µs/event, {found.events / found.seconds:.0f} events/s")
    return found


def _submit(stack: Stack, mode: str, where: Connections, group: str) -> str:
    app = stage_app(stack.run_dir / "app")
    (app / "bench").mkdir()
    shutil.copy(ROOT / "bench" / "__init__.py", app / "bench")
    args = ["--mode", mode, "--brokers", where.brokers, "--redis-url", where.redis_url, "--group", group]
    return stack.submit(ROOT / "bench" / "aggregates_job.py", [*args, "--namespace", where.namespace], [app], None)


def _committed(where: Connections, group: str) -> int:
    """Records of `interactions` that the group's last checkpoint covers."""
    admin = KafkaAdminClient(**where.kafka_python())
    try:
        with suppress(KafkaError):  # no such group yet
            offsets = admin.list_group_offsets({where.group(group): None})[where.group(group)]
            topic = where.topic(topics.INTERACTIONS)
            return sum(max(0, one.offset) for at, one in offsets.items() if at.topic == topic)
        return 0
    finally:
        admin.close()
