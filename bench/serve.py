"""How fast and how fresh: `python -m bench.serve` against a running job (`riffle up && riffle submit`).

An open loop of clicks, each of which triggers a list; latency counts from the *scheduled* send time. A second process reads
after every click, demanding the very event just sent. Prints a report, and as its last line one JSON object.
"""

from __future__ import annotations

import multiprocessing
import random
import time
from typing import Annotated, Any

import msgspec
import numpy as np
import typer
from kafka import KafkaConsumer, TopicPartition
from rich.console import Console
from rich.progress import track

from cli.connecting import connections
from client.events import Events
from client.feed import RankedFeed
from demo.world import load
from schemas import topics
from schemas.connections import Connections

_WARM_UP_S = 30.0
_SETTLE_S = 3.0
_STAGES = ("candidates", "encode", "score", "select", "total")


def main(
    rate: Annotated[float, typer.Option(help="Events a second.")] = 50.0,
    events: Annotated[int, typer.Option(help="How many are measured, after 30 s of warm-up.")] = 10_000,
    users: Annotated[int, typer.Option(help="How many users they are spread over.")] = 2_000,
    wait_ms: Annotated[int, typer.Option(help="How long a read may wait for the event it demands.")] = 100,
) -> None:
    """Measure event → list, and reads that demand their own write."""
    where, err = connections(), Console(stderr=True)
    warm_up = int(_WARM_UP_S * rate)
    world, chance = [item.item_id for item in load().items], random.Random(1)
    scheduled: dict[str, float] = {}
    # Watching and reading are processes of their own: the sender keeps its schedule whatever they do.
    reader, watcher = _Process(_read_own_writes, where, wait_ms), _Process(_watch, where)
    watcher.wait_ready()
    with Events(where, linger_ms=0) as sender:
        begun = time.time() + 0.5
        for number in track(range(warm_up + events), "Sending", console=err, transient=True):
            at = begun + number / rate
            time.sleep(max(0.0, at - time.time()))
            user, item_id = f"bench-{chance.randrange(users)}", chance.choice(world)
            token = sender.track("click", user_id=user, session_id=user, item_id=item_id, props={"surface": "home"})
            if number >= warm_up:
                scheduled[token.event_id] = at
                reader.tell((user, token.event_id))
    time.sleep(_SETTLE_S)
    reads, seen = reader.result(), watcher.result()
    report = {"rate": rate, "events": events, "users": users, **_report(seen, scheduled), "read_your_writes": reads}
    Console().print_json(msgspec.json.encode(report).decode())
    typer.echo(msgspec.json.encode(report).decode())


class _Process:
    """A function in a process of its own: told things, then asked for its result."""

    def __init__(self, function: Any, where: Connections, *arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._told: Any = context.Queue()
        self._answers, answers = context.Pipe(duplex=False)
        self._process = context.Process(target=function, args=(where, self._told, answers, *arguments), daemon=True)
        self._process.start()

    def wait_ready(self) -> None:
        self._answers.recv()

    def tell(self, what: Any) -> None:
        self._told.put(what)

    def result(self) -> Any:
        self._told.put(None)
        answer = self._answers.recv()
        self._process.join(timeout=10)
        return answer


def _watch(where: Connections, told: Any, answers: Any) -> None:
    """Lists on `ranked-feed`, with when they were seen here, until told None."""
    consumer = KafkaConsumer(**where.kafka_python(), group_id=None, enable_auto_commit=False)
    name = where.topic(topics.RANKED_FEED)
    partitions = [TopicPartition(name, number) for number in sorted(consumer.partitions_for_topic(name) or ())]
    consumer.assign(partitions)
    consumer.seek_to_end()
    for partition in partitions:
        consumer.position(partition)
    answers.send("ready")
    seen: list[tuple[float, bytes]] = []
    while told.empty():
        for records in consumer.poll(timeout_ms=100).values():
            now = time.time()
            seen += [(now, record.value) for record in records]
    found = []
    for at, body in seen:
        ranked = msgspec.json.decode(body)
        receipt = ranked["receipt"]
        found.append((at, receipt["freshness"]["last_event_id"], ranked["created_ms"], receipt["stage_ms"]))
    answers.send(found)


def _report(seen: list[Any], scheduled: dict[str, float]) -> dict[str, Any]:
    mine = [(one, scheduled[one[1]]) for one in seen if one[1] in scheduled]
    stages = {stage: _percentiles([one[3].get(stage, 0.0) for one, _ in mine]) for stage in _STAGES}
    return {
        "lists": len(mine),
        "event_to_list_on_kafka_ms": _percentiles([(one[0] - at) * 1000 for one, at in mine]),
        "event_to_ranked_ms": _percentiles([one[2] - at * 1000 for one, at in mine]),
        "stages_ms": stages,
    }


def _percentiles(values: list[float]) -> dict[str, float]:
    if not values:
        return {}
    return {f"p{percent}": round(float(np.percentile(values, percent)), 2) for percent in (50, 90, 99, 99.9)}


def _read_own_writes(where: Connections, told: Any, answers: Any, wait_ms: int) -> None:
    """The reading service, in a process of its own: one read for every event, demanding it."""
    waits, fallbacks, met = [], {}, 0  # type: ignore[var-annotated]
    with RankedFeed(where) as feed:
        while (one := told.get()) is not None:
            user, event_id = one
            answer = feed.get(user, k=10, at_least=event_id, wait_ms=wait_ms)
            waits.append(answer.waited_ms)
            met += answer.met
            if not answer.met:
                fallbacks[str(answer.fallback)] = fallbacks.get(str(answer.fallback), 0) + 1
    answers.send({"asked": len(waits), "met": met, "fallbacks": fallbacks, "wait_ms": _percentiles(waits)})


if __name__ == "__main__":
    typer.run(main)
