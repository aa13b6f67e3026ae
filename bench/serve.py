"""How fast and how fresh: `python -m bench.serve` against a running job (`riffle up && riffle submit`).

An open loop of clicks, each of which triggers a list; latency counts from the *scheduled* send time to the first list that has
seen the click. A second process reads after every click, demanding the very event just sent. Prints a report, and as its last
line one JSON object.

    scheduled ─ send ─ appended ─ state, waiting ─ ranked: candidates, encode, score, select, rest ─ publish ─ appended ─ read
"""

from __future__ import annotations

import random
import time
from collections import Counter
from typing import Annotated, Any, NamedTuple

import msgspec
import typer
from kafka import KafkaConsumer, TopicPartition
from rich.console import Console
from rich.progress import track

from bench.results import Percentiles, Reads
from cli.connecting import connections
from client.events import Events
from demo.world import load
from schemas import topics
from schemas.connections import Connections
from schemas.keys import id_hash
from trials.open_loop import Apart, read_own_writes

_WARM_UP_S = 30.0
_SETTLE_S = 3.0
_STAGES = ("recall", "pre_rank", "candidates", "encode", "score", "select")
_READ_LIMIT_S = 60.0
USERS = 2_000


class Answer(NamedTuple):
    """The first list that had seen an event. Times in ms since 1970, of one machine's clock."""

    received_ms: float
    appended_ms: int
    created_ms: int
    stage_ms: dict[str, float]
    fallback: str | None  # why it is not the ranker's own, where it is not


class Served(NamedTuple):
    """What was sent (event id -> when it was due and when Kafka appended it, in ms), and what answered it."""

    scheduled_ms: dict[str, float]
    appended_ms: dict[str, int]
    answers: dict[str, Answer]
    reads: Reads | None

    def latencies_ms(self) -> list[float]:
        """Of the answered, in the order in which they were due."""
        due = self.scheduled_ms
        return [self.answers[one].received_ms - due[one] for one in due if one in self.answers]

    def fallbacks(self) -> dict[str, int]:
        return dict(Counter(answer.fallback for answer in self.answers.values() if answer.fallback))

    def parts_ms(self) -> dict[str, list[float]]:
        """The latency cut into an event's way; the parts of one event sum up to its latency."""
        parts: dict[str, list[float]] = {
            name: [] for name in ("send", "state and waiting", *_STAGES, "rest of ranking", "Redis and publish", "read")
        }
        for event_id, answer in self.answers.items():
            appended, stages = self.appended_ms[event_id], answer.stage_ms
            total = stages.get("total", 0.0)
            parts["send"].append(appended - self.scheduled_ms[event_id])
            parts["state and waiting"].append(answer.created_ms - total - appended)
            for stage in _STAGES:
                parts[stage].append(stages.get(stage, 0.0))
            parts["rest of ranking"].append(total - sum(stages.get(stage, 0.0) for stage in _STAGES))
            parts["Redis and publish"].append(answer.appended_ms - answer.created_ms)
            parts["read"].append(answer.received_ms - answer.appended_ms)
        return parts


def main(
    rate: Annotated[float, typer.Option(help="Events a second.")] = 50.0,
    events: Annotated[int, typer.Option(help="How many are measured, after 30 s of warm-up.")] = 10_000,
    users: Annotated[int, typer.Option(help="How many users they are spread over.")] = USERS,
    wait_ms: Annotated[int, typer.Option(help="How long a read may wait for the event it demands.")] = 100,
) -> None:
    """Measure event → list, and reads that demand their own write."""
    served = serve(connections(), rate, events, users, warm_up_s=_WARM_UP_S, wait_ms=wait_ms)
    ranked = [answer.created_ms - served.scheduled_ms[event_id] for event_id, answer in served.answers.items()]
    report = {
        "rate": rate,
        "events": events,
        "users": users,
        "answered": len(served.answers),
        "fallbacks": served.fallbacks(),
        "event_to_list_on_kafka_ms": Percentiles.of(served.latencies_ms()),
        "event_to_ranked_ms": Percentiles.of(ranked),
        "parts_ms": {name: Percentiles.of(values) for name, values in served.parts_ms().items()},
        "read_your_writes": served.reads,
    }
    Console().print_json(msgspec.json.encode(report).decode())
    typer.echo(msgspec.json.encode(report).decode())


def serve(
    where: Connections,
    rate: float,
    events: int,
    users: int = USERS,
    *,
    warm_up_s: float = 0.0,
    wait_ms: int | None = None,
) -> Served:
    """Send at `rate` and collect what the job makes of it. With `wait_ms`, a process reads after each event."""
    warm_up = int(warm_up_s * rate)
    world, chance = [item.item_id for item in load().items], random.Random(1)
    scheduled_ms: dict[str, float] = {}
    # Watching and reading are processes of their own: the sender keeps its schedule whatever they do.
    watcher = Apart(_watch, where)
    reader = None if wait_ms is None else Apart(read_own_writes, where, wait_ms)
    watcher.wait_ready()
    sent = _Tail(where, topics.EVENTS)
    with Events(where, linger_ms=0) as sender:
        begun = time.time() + 0.5
        for number in track(range(warm_up + events), f"{rate:g}/s", console=Console(stderr=True), transient=True):
            at = begun + number / rate
            time.sleep(max(0.0, at - time.time()))
            user, item_id = f"bench-{chance.randrange(users)}", chance.choice(world)
            token = sender.track("click", user_id=user, session_id=user, item_id=item_id, props={"surface": "home"})
            if number >= warm_up:
                scheduled_ms[token.event_id] = at * 1000
                if reader is not None:
                    reader.tell((user, token.event_id))
    time.sleep(_SETTLE_S)
    found = None if reader is None else _reads(rate, *reader.result())
    answers = _answers(watcher.result(), scheduled_ms)
    for apart in (watcher, reader):
        if apart is not None:
            apart.end()
    appended = {_event_id(record.value): record.timestamp for record in sent.all()}
    return Served(scheduled_ms, appended, answers, found)


def _reads(rate: float, waits_ms: list[float], met: int, fallbacks: dict[str, int]) -> Reads:
    return Reads(rate, len(waits_ms), met, fallbacks, Percentiles.of(waits_ms))


class _Tail:
    """What is appended to a topic from now on."""

    def __init__(self, where: Connections, topic: str) -> None:
        self.consumer = KafkaConsumer(**where.kafka_python(), group_id=None, enable_auto_commit=False)
        name = where.topic(topic)
        self._partitions = [
            TopicPartition(name, number) for number in sorted(self.consumer.partitions_for_topic(name) or ())
        ]
        self.consumer.assign(self._partitions)
        self.consumer.seek_to_end()
        for partition in self._partitions:
            self.consumer.position(partition)

    def all(self) -> list[Any]:
        """What has come until now; closes the consumer."""
        ends = self.consumer.end_offsets(self._partitions)
        found: list[Any] = []
        deadline = time.monotonic() + _READ_LIMIT_S
        while any(self.consumer.position(one) < ends[one] for one in self._partitions):
            if time.monotonic() > deadline:
                raise TimeoutError(f"the topic could not be read back within {_READ_LIMIT_S:.0f} s")
            for records in self.consumer.poll(timeout_ms=200).values():
                found += records
        self.consumer.close(autocommit=False)
        return found


def _watch(where: Connections, told: Any, answers: Any) -> None:
    """Lists on `ranked-feed`, with when they were seen here, until told None."""
    tail = _Tail(where, topics.RANKED_FEED)
    answers.send("ready")
    seen: list[tuple[float, int, bytes]] = []
    while told.empty():
        for records in tail.consumer.poll(timeout_ms=100).values():
            now_ms = time.time() * 1000
            seen += [(now_ms, record.timestamp, record.value) for record in records]
    tail.consumer.close(autocommit=False)
    answers.send(seen)


class _Freshness(msgspec.Struct):
    recent: list[str]


class _Receipt(msgspec.Struct):
    freshness: _Freshness
    stage_ms: dict[str, float]


class _List(msgspec.Struct):
    """What is looked at of a list."""

    created_ms: int
    receipt: _Receipt
    fallback: str | None = None


class _Event(msgspec.Struct):
    event_id: str


_decode_list = msgspec.json.Decoder(_List).decode
_decode_event = msgspec.json.Decoder(_Event).decode


def _event_id(body: bytes) -> str:
    return _decode_event(body).event_id


def _answers(seen: list[tuple[float, int, bytes]], scheduled_ms: dict[str, float]) -> dict[str, Answer]:
    """The first list that has seen each event: an event whose own ranking was superseded counts until the one that came."""
    waiting = {f"{id_hash(event_id):016x}": event_id for event_id in scheduled_ms}
    found: dict[str, Answer] = {}
    for received_ms, appended_ms, body in seen:
        ranked = _decode_list(body)
        for event_hash in ranked.receipt.freshness.recent:
            event_id = waiting.pop(event_hash, None)
            if event_id is not None:
                stages = ranked.receipt.stage_ms
                found[event_id] = Answer(received_ms, appended_ms, ranked.created_ms, stages, ranked.fallback)
    return found


if __name__ == "__main__":
    typer.run(main)
