"""The running engine as tests see it: a stack, the personalise job, and what went in and came out."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from cli.cluster import publish_items, submit_personalise
from client.events import Events
from client.feed import RankedFeed
from client.requests import RankRequester
from demo.world import load
from local.stack import Ports, Stack
from schemas.connections import Connections
from schemas.topics import TOPICS

T = TypeVar("T")


class Engine:
    """`submit` and the like act on one job of the stack; `where` is not the stack's own where given."""

    def __init__(self, stack: Stack, where: Connections | None = None) -> None:
        self.stack, self.where = stack, where or stack.connections()
        self.job_id = ""
        self._good = 0

    def submit(self, savepoint: str | None = None) -> None:
        self.job_id = submit_personalise(self.stack, savepoint=savepoint, where=self.where)
        self.stack.wait_running(self.job_id)

    def warm_up(self) -> None:
        """Until ten lists in a row are the ranker's own: a cold worker may take longer than its time limit allows."""
        with self.events() as events, self.feed() as feed:
            for item in load().items[:200]:
                token = events.send(raw(event("warm-up", item_id=item.item_id)))
                answer = feed.get("warm-up", at_least=token.event_id, wait_ms=10_000)
                self._good = self._good + 1 if answer.list and answer.list.fallback is None else 0
                if self._good >= 10:
                    return
        raise AssertionError("the job does not get warm: its lists are fallbacks")

    @contextmanager
    def events(self) -> Iterator[Events]:
        with Events(self.where) as events:
            yield events

    @contextmanager
    def feed(self) -> Iterator[RankedFeed]:
        # Patient: a busy machine must not look like a Redis that is away.
        with RankedFeed(self.where, timeout_ms=2_000) as feed:
            yield feed

    @contextmanager
    def requester(self) -> Iterator[RankRequester]:
        with RankRequester(self.where) as requester:
            yield requester

    def cancel(self) -> str:
        """Cancel the job; the checkpoint that it leaves."""
        rest = self.stack.flink.rest
        found = wait_for(
            lambda: rest.get(f"/jobs/{self.job_id}/checkpoints")["latest"]["completed"], 60, "a completed checkpoint"
        )
        self.stack.cancel(self.job_id)
        newest = rest.get(f"/jobs/{self.job_id}/checkpoints")["latest"]["completed"] or found
        return str(newest["external_path"])

    def savepoint(self) -> str:
        """Take a savepoint of the running job; where it is."""
        rest = self.stack.flink.rest
        trigger = rest.post(f"/jobs/{self.job_id}/savepoints", {})["request-id"]

        def place() -> str | None:
            answer = rest.get(f"/jobs/{self.job_id}/savepoints/{trigger}")
            return answer["operation"]["location"] if answer["status"]["id"] == "COMPLETED" else None

        return wait_for(place, 60, "a savepoint")

    @property
    def restarts(self) -> int:
        return self.stack.flink.rest.restarts(self.job_id)


@contextmanager
def personalising(run_dir: Path, task_managers: int = 1) -> Iterator[Engine]:
    """A stack of its own with the demo shop's items and a warm personalise job."""
    stack = Stack(run_dir, Ports.free(), task_managers=task_managers, say=lambda _: None)
    try:
        stack.start()
        stack.create_topics(TOPICS)
        running = Engine(stack)
        publish_items(running.where, load().items)
        running.submit()
        running.warm_up()
        yield running
    finally:
        stack.stop()


class Reader:
    """What is appended to some topics from its creation on, by topic. Committed records only."""

    def __init__(self, where: Connections, *names: str) -> None:
        self._where = where
        self._consumer = KafkaConsumer(
            **where.kafka_python(), group_id=None, enable_auto_commit=False, isolation_level="read_committed"
        )
        partitions = [
            TopicPartition(where.topic(name), number)
            for name in names
            for number in sorted(self._consumer.partitions_for_topic(where.topic(name)) or ())
        ]
        self._consumer.assign(partitions)
        self._consumer.seek_to_end()
        for partition in partitions:
            self._consumer.position(partition)
        self.records: dict[str, list[Any]] = {name: [] for name in names}

    def until(self, done: Callable[[dict[str, list[Any]]], bool], limit_s: float) -> dict[str, list[Any]]:
        """Read until the condition holds; an AssertionError after `limit_s`."""
        deadline = time.monotonic() + limit_s
        while not done(self.records):
            assert time.monotonic() < deadline, {name: len(found) for name, found in self.records.items()}
            for partition, found in self._consumer.poll(timeout_ms=200).items():
                self.records[partition.topic.removeprefix(self._where.namespace)] += found
        return self.records

    def close(self) -> None:
        self._consumer.close(autocommit=False)

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def wait_for(found: Callable[[], T | None], limit_s: float, what: str) -> T:
    """The first answer that is neither None nor False."""
    deadline = time.monotonic() + limit_s
    while True:
        answer = found()
        if answer is not None and answer is not False:
            return answer
        assert time.monotonic() < deadline, f"{what}: not within {limit_s} s"
        time.sleep(0.05)


def produce(
    where: Connections,
    topic: str,
    records: list[tuple[bytes | None, bytes | None]],
    headers: dict[str, bytes] | None = None,
) -> list[tuple[int, int]]:
    """Raw records, compressed, so that one may hold more than its topic's limit; where each was stored."""
    producer = KafkaProducer(
        **where.kafka_python(), acks="all", linger_ms=0, compression_type="gzip", max_request_size=2**25
    )
    try:
        sent = [
            producer.send(where.topic(topic), key=key, value=value, headers=list((headers or {}).items()))
            for key, value in records
        ]
        producer.flush(timeout=10)
        return [(one.get().partition, one.get().offset) for one in sent]
    finally:
        producer.close(timeout=10)


def new_user(name: str) -> str:
    return f"{name}-{uuid.uuid4().hex[:8]}"


def event(user: str | None, event_type: str = "click", item_id: str | None = None, **more: Any) -> dict[str, Any]:
    """A valid event that happens now."""
    body = {
        "event_id": uuid.uuid4().hex,
        "session_id": f"session-of-{user}",
        "ts_ms": int(time.time() * 1000),
        "schema_version": 2,
        "event_type": event_type,
        "user_id": user,
        "item_id": item_id,
        "props": {"surface": "home"},
    }
    return {name: value for name, value in (body | more).items() if value is not None}


def raw(body: dict[str, Any]) -> bytes:
    return msgspec.json.encode(body)
