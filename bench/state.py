"""State path: Kafka → one user's session in RocksDB → Kafka, on three engines, in turns on one machine.

    riffle     jobs/streams.py and udfs/update_user_state.py, in thread mode, without ranking
    quix       Quix Streams, in an environment of its own
    process    PyFlink's process mode: the same source, keys and sinks as riffle, the operator as PyFlink runs it by default

All three call the same functions (bench/session.py) on the same bytes, read the same topic, keep state in RocksDB and write in
transactions of 5 s; both Flink jobs write checkpoints of that interval, Quix Streams its changelog topic. Each round reads the
topic from its start; what is measured begins with the first commit after the warm-up and ends with the last. Every record
written is compared with what the functions make of the topic in plain Python.

CPU is that of all processes of a contender: JobManager, TaskManager and its Python workers; or the process of Quix Streams. Kafka's
is given beside it. Riffle also keeps timers that forget idle users, and hands on tasks that the others drop.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from bench.machine import ROOT, about, cpu_by_role, cpu_s
from bench.results import Round, State
from bench.session import OUT, step
from bench.stack import err, own_stack, wait_for
from cli.cluster import stage_app
from local.errors import LocalError
from local.stack import Stack
from schemas import topics
from schemas.connections import Connections
from schemas.record import Record

CONTENDERS = ("riffle", "quix", "process")
USERS = 2_000
_QUIX = ROOT / "bench" / "quix"
_FLINK_ROLES = ("jobmanager", "taskmanager", "python-worker")
_START_LIMIT_S = 120
_COMMIT_LIMIT_S = 30

Written = tuple[str, bytes, bytes]  # topic, key, value


class Load(msgspec.Struct, frozen=True):
    """How many events; the rounds are cut off after these times, which only process mode reaches."""

    events: int
    warm_up: int
    warm_up_s: float
    round_s: float


FULL = Load(events=150_000, warm_up=50_000, warm_up_s=40, round_s=60)
QUICK = Load(events=60_000, warm_up=4_000, warm_up_s=15, round_s=15)


def run(quick: bool, repeat: int) -> State:
    load = QUICK if quick else FULL
    python = _quix_environment()
    rounds: dict[str, list[Round]] = {name: [] for name in CONTENDERS}
    with own_stack() as stack:
        stack.create_topics(topics.TOPICS)
        produce(stack.connections(), load.events, USERS)
        wanted = expected(stack.connections())
        for number in range(repeat):
            for name in CONTENDERS:
                bench = _Bench(stack, load, wanted, f"{name}-{number}-")
                with _started(bench, name, python) as cpu:
                    found = bench.measure(cpu)
                rounds[name].append(found)
                err.print(f"round {number + 1}: {name}: {found.cpu_us:.0f} µs/event, {found.events_per_s:.0f} events/s")
    described = about(
        quick,
        repeat,
        events=load.events,
        warm_up=load.warm_up,
        users=USERS,
        commit_interval_s=5,
        quixstreams=_version(python),
    )
    return State(described, rounds)


# ── events ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def produce(where: Connections, count: int, users: int, seed: int = 1) -> None:
    """Events of all kinds that carry load: 60 % clicks, 30 % views, 6 % impressions, 2 % cart, 1 % duplicates, 1 % broken."""
    chance = random.Random(seed)
    last: tuple[bytes, bytes] | None = None
    with producer(where) as sender:
        for number in range(count):
            user, draw = f"user-{chance.randrange(users)}", chance.random()
            if draw < 0.01 and last is not None:
                key, value = last
            elif draw < 0.02:
                key, value = f"u:{user}".encode(), b'{"event_id": "broken"}'
            else:
                last = key, value = f"u:{user}".encode(), _event(user, number, draw, chance)
            sender.send(where.topic(topics.EVENTS), key=key, value=value)


def _event(user: str, number: int, draw: float, chance: random.Random) -> bytes:
    kind, props = "click", {}
    if draw < 0.04:
        kind = "add_to_cart"
    elif draw < 0.10:
        kind, props = "impression", {"position": chance.randrange(50), "list_id": f"list-{number}"}
    elif draw < 0.40:
        kind, props = "view", {"dwell_ms": chance.randrange(500, 60_000)}
    return msgspec.json.encode(
        {
            "event_id": f"{chance.getrandbits(64):016x}{number:08x}",
            "session_id": f"session-{user}",
            "user_id": user,
            "event_type": kind,
            "item_id": f"item-{chance.randrange(5_000):08d}",
            "ts_ms": int(time.time() * 1000),
            "schema_version": 2,
            "props": {"surface": "home", **props},
        }
    )


@contextmanager
def producer(where: Connections) -> Iterator[Any]:
    """A sender made for many records; all are acknowledged when the block ends."""
    sender = KafkaProducer(**where.kafka_python(), linger_ms=20, batch_size=1 << 18, acks="all")
    try:
        yield sender
        sender.flush(timeout=120)
    finally:
        sender.close(timeout=30)


def expected(where: Connections) -> Counter[Written]:
    """What the functions make of the topic, without any engine."""
    states: dict[str, bytes] = {}
    written: Counter[Written] = Counter()
    for record in _read(where, [topics.EVENTS]):
        key = record.key.decode()
        found = Record(topics.EVENTS, key, record.value, record.partition, record.offset, record.timestamp)
        store, outputs = step(states.get(key), key, found, record.timestamp)
        if store is not None:
            states[key] = store
        written.update((one.topic, one.key, one.value or b"") for one in outputs)
    return written


# ── one round ────────────────────────────────────────────────────────────────────────────────────────────────────────


class _Bench:
    """One contender's turn. `cpu` answers the CPU seconds of all its processes so far."""

    def __init__(self, stack: Stack, load: Load, wanted: Counter[Written], namespace: str) -> None:
        self.stack, self.load, self.wanted, self.namespace = stack, load, wanted, namespace
        self.where = stack.connections(namespace)
        self._all = sum(count for (topic, _, _), count in wanted.items() if topic == topics.INTERACTIONS)
        stack.create_topics([spec for spec in topics.TOPICS if spec.name in OUT], namespace)
        self._written_by, self._committed_by = (
            KafkaConsumer(**self.where.kafka_python(), group_id=None, enable_auto_commit=False, isolation_level=level)
            for level in ("read_uncommitted", "read_committed")
        )
        name = self.where.topic(topics.INTERACTIONS)
        self._partitions = [
            TopicPartition(name, number) for number in sorted(self._written_by.partitions_for_topic(name) or ())
        ]

    def measure(self, cpu: Callable[[], float]) -> Round:
        """From commit to commit: Quix Streams writes its state when it commits, and that must not fall outside."""
        load = self.load
        wait_for(lambda: self._written() > 0, _START_LIMIT_S, "the first record")
        self._until(load.warm_up, load.warm_up_s)
        self._await_commit()
        before, begun = self._snapshot(cpu), time.monotonic()
        self._until(self._all, load.round_s)
        seconds = time.monotonic() - begun
        self._await_commit()
        after = self._snapshot(cpu)
        finished = self._written() >= self._all
        records = self._committed(finished)
        events = sum(
            before[0][at] <= record.offset < after[0][at]
            for record in records
            if (at := TopicPartition(record.topic, record.partition)) in before[0]
        )
        if not events:
            raise LocalError(f"{self.namespace} had nothing committed in its round: look at the logs of the stack.")
        if not finished:  # what was cut off is counted by offsets: nobody has committed it
            events = sum(after[0].values()) - sum(before[0].values())
        got = Counter((one.topic.removeprefix(self.namespace), one.key or b"", one.value or b"") for one in records)
        different = (got - self.wanted).total() + ((self.wanted - got).total() if finished else 0)
        for consumer in (self._written_by, self._committed_by):
            consumer.close(autocommit=False)
        return Round(
            events=events,
            seconds=round(seconds, 2),
            cpu_us=round((after[1] - before[1]) / events * 1e6, 1),
            broker_us=round((after[2] - before[2]) / events * 1e6, 1),
            compared=got.total(),
            different=different,
        )

    def _until(self, count: int, limit_s: float) -> None:
        deadline = time.monotonic() + limit_s
        while self._written() < count and time.monotonic() < deadline:
            time.sleep(0.02)

    def _await_commit(self) -> None:
        """Until something more is committed, or everything is."""
        before = self._committed_so_far()
        wait_for(
            lambda: (now := self._committed_so_far()) > before or now >= self._written(),
            _COMMIT_LIMIT_S,
            "a commit",
            every_s=0.02,
        )

    def _committed_so_far(self) -> int:
        return sum(self._committed_by.end_offsets(self._partitions).values())

    def _written(self) -> int:
        return sum(self._written_by.end_offsets(self._partitions).values())

    def _snapshot(self, cpu: Callable[[], float]) -> tuple[dict[TopicPartition, int], float, float]:
        broker = cpu_by_role(self.stack.run_dir).get("broker", 0.0)
        return dict(self._written_by.end_offsets(self._partitions)), cpu(), broker

    def _committed(self, finished: bool) -> list[Any]:
        """All that is committed; of a contender that has finished, once that is everything."""
        deadline = time.monotonic() + _COMMIT_LIMIT_S
        while True:
            records = _read(self.where, OUT)
            if not finished or len(records) >= self.wanted.total() or time.monotonic() > deadline:
                return records
            time.sleep(1)


def _read(where: Connections, names: Any) -> list[Any]:
    """What is committed on the topics, partition by partition in order."""
    consumer = KafkaConsumer(
        **where.kafka_python(), group_id=None, enable_auto_commit=False, isolation_level="read_committed"
    )
    try:
        wanted = [where.topic(name) for name in names]
        partitions = [
            TopicPartition(name, number)
            for name in wanted
            for number in sorted(consumer.partitions_for_topic(name) or ())
        ]
        consumer.assign(partitions)
        consumer.seek_to_beginning()
        found: list[Any] = []
        idle = 0
        while (
            idle < 3
        ):  # transaction markers take offsets and are never handed out: the end is where nothing comes any more
            polled = consumer.poll(timeout_ms=300)
            idle = 0 if polled else idle + 1
            for records in polled.values():
                found += records
        return found
    finally:
        consumer.close(autocommit=False)


# ── contenders ───────────────────────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def _started(bench: _Bench, name: str, python: Path) -> Iterator[Callable[[], float]]:
    """The contender at work; yields how much CPU it has used so far."""
    if name == "quix":
        process = _start_quix(bench, python)
        try:
            yield lambda: cpu_s(process.pid)
        finally:
            process.terminate()
            process.wait(timeout=60)
        return
    stack = bench.stack
    stack.start()  # process mode may have taken the TaskManager with it
    job_id = submit_state_job(stack, "thread" if name == "riffle" else "process", bench.namespace)
    try:
        stack.wait_running(job_id)
        yield lambda: flink_cpu_s(stack)
    finally:
        stack.cancel(job_id)


def flink_cpu_s(stack: Stack) -> float:
    used = cpu_by_role(stack.run_dir)
    return sum(used.get(role, 0.0) for role in _FLINK_ROLES)


def submit_state_job(stack: Stack, mode: str, namespace: str, savepoint: str | None = None) -> str:
    app = stage_app(stack.run_dir / "app")
    (app / "bench").mkdir()
    for name in ("__init__.py", "session.py", "filling.py"):
        shutil.copy(ROOT / "bench" / name, app / "bench")
    args = ["--mode", mode, "--brokers", stack.connections().brokers, "--out-namespace", namespace]
    return stack.submit(ROOT / "bench" / "state_job.py", args, [app], savepoint)


def _start_quix(bench: _Bench, python: Path) -> subprocess.Popen[bytes]:
    folder = bench.stack.run_dir / "quix"
    shutil.rmtree(folder, ignore_errors=True)
    log = bench.stack.run_dir / "logs" / f"{bench.namespace}.log"
    with log.open("wb") as output:
        return subprocess.Popen(
            [str(python), str(_QUIX / "job.py"), bench.stack.connections().brokers, bench.namespace, str(folder)],
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )


def _quix_environment() -> Path:
    """The Python of Quix Streams' locked environment, made where it is missing."""
    uv = shutil.which("uv") or str(ROOT / ".riffle" / "tools" / "bin" / "uv")
    command = [uv, "sync", "--frozen", "--quiet", "--project", str(_QUIX)]
    done = subprocess.run(command, env=_without_venv(), capture_output=True, text=True, timeout=600, check=False)
    if done.returncode != 0:
        raise LocalError(f"The environment of Quix Streams cannot be made: {done.stderr.strip()[-300:]}")
    return _QUIX / ".venv" / "bin" / "python"


def _without_venv() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "UV_PROJECT_ENVIRONMENT")}


def _version(python: Path) -> str:
    command = [str(python), "-c", "from importlib.metadata import version; print(version('quixstreams'))"]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.strip()
