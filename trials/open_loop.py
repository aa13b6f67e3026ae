"""Open loop: clicks at a fixed rate, each of which triggers a list; latency counts from when a click was *due*.

A sender that waits for the engine hides its worst moments; this one does not wait. Watching and reading are processes of their
own, so that the sender keeps its schedule whatever they do.

    due ─ sent ─► events ─► the engine ─► ranked-feed ─ seen here: event_to_list_on_kafka_ms
                                     └──► Redis ─ a read that demands this very event: read_your_writes
"""

from __future__ import annotations

import multiprocessing
import random
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec
import numpy as np

from client.events import Events
from client.feed import RankedFeed
from client.kafka import consumer, partitions_of
from schemas import topics
from schemas.connections import Connections

_SETTLE_S = 3.0
_ANSWER_LIMIT_S = 60.0
_STAGES = ("recall", "pre_rank", "candidates", "encode", "score", "select", "total")

Percentiles = dict[str, float]


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What is sent. `rate` in events a second; what falls into the first `warm_up_s` is not measured."""

    rate: float
    users: int
    seconds: float
    warm_up_s: float = 0.0
    label: str = "load"
    seed: int = 1


class Reads(msgspec.Struct, kw_only=True):
    """Reads that demanded the event just sent, one for each event. `wait_ms` is how long they waited."""

    asked: int = 0
    met: int = 0
    fallbacks: dict[str, int] = {}
    wait_ms: Percentiles = {}


class Latency(msgspec.Struct, kw_only=True):
    """What was measured, in ms. An event has no list of its own where a newer one made it superfluous."""

    events: int
    lists: int
    behind_ms: float  # the sender's own worst delay: what it could not keep of its schedule
    event_to_list_on_kafka_ms: Percentiles
    event_to_ranked_ms: Percentiles
    stages_ms: dict[str, Percentiles]
    read_your_writes: Reads


def measure(
    where: Connections,
    plan: Plan,
    items: Sequence[str],
    *,
    wait_ms: int = 100,
    track: Callable[[Iterable[int]], Iterable[int]] = lambda numbers: numbers,
) -> Latency:
    """Send the plan and measure. `wait_ms` is how long a read may wait; `track` shows progress."""
    scheduled: dict[str, float] = {}
    chance, behind_s = random.Random(plan.seed), 0.0
    reader, watcher = Apart(read_own_writes, where, wait_ms), Apart(_watch, where)
    try:
        watcher.wait_ready()
        with Events(where, linger_ms=0) as sender:
            begun = time.time() + 0.5
            for number in track(range(int((plan.warm_up_s + plan.seconds) * plan.rate))):
                at = begun + number / plan.rate
                time.sleep(max(0.0, at - time.time()))
                user = f"{plan.label}-{chance.randrange(plan.users)}"
                token = sender.track(
                    "click", user_id=user, session_id=user, item_id=chance.choice(items), props={"surface": "home"}
                )
                if number >= plan.warm_up_s * plan.rate:
                    behind_s = max(behind_s, time.time() - at)
                    scheduled[token.event_id] = at
                    reader.tell((user, token.event_id))
        time.sleep(_SETTLE_S)
        reads, seen = reader.result(), watcher.result()
    finally:
        reader.end()
        watcher.end()
    mine = [(one, scheduled[one[1]]) for one in seen if one[1] in scheduled]
    return Latency(
        events=len(scheduled),
        lists=len(mine),
        behind_ms=round(behind_s * 1000, 2),
        event_to_list_on_kafka_ms=percentiles([(one[0] - at) * 1000 for one, at in mine]),
        event_to_ranked_ms=percentiles([one[2] - at * 1000 for one, at in mine]),
        stages_ms={stage: percentiles([one[3].get(stage, 0.0) for one, _ in mine]) for stage in _STAGES},
        read_your_writes=Reads(asked=len(reads[0]), met=reads[1], fallbacks=reads[2], wait_ms=percentiles(reads[0])),
    )


def percentiles(values: Sequence[float]) -> Percentiles:
    if not values:
        return {}
    return {f"p{percent}": round(float(np.percentile(values, percent)), 2) for percent in (50, 90, 99, 99.9)}


class Apart:
    """A function in a process of its own: told things, then asked for its result."""

    def __init__(self, function: Callable[..., None], where: Connections, *arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._told: Any = context.Queue()
        self._answers, answers = context.Pipe(duplex=False)
        self._process = context.Process(target=function, args=(where, self._told, answers, *arguments), daemon=True)
        self._process.start()
        answers.close()  # so that a process that fails is noticed instead of waited for

    def wait_ready(self) -> None:
        self._answer()

    def tell(self, what: Any) -> None:
        self._told.put(what)

    def result(self) -> Any:
        self._told.put(None)
        return self._answer()

    def end(self) -> None:
        self._process.terminate()
        self._process.join(timeout=10)
        self._answers.close()
        self._told.cancel_join_thread()
        self._told.close()

    def _answer(self) -> Any:
        if not self._answers.poll(_ANSWER_LIMIT_S):
            raise TimeoutError(f"a measuring process does not answer within {_ANSWER_LIMIT_S} s")
        return self._answers.recv()


def _watch(where: Connections, told: Any, answers: Any) -> None:
    """Lists on `ranked-feed`, with when they were seen here, until told None."""
    kafka = consumer(where)
    partitions = partitions_of(where, kafka, where.topic(topics.RANKED_FEED))
    kafka.assign(partitions)
    kafka.seek_to_end()
    for partition in partitions:
        kafka.position(partition)
    answers.send("ready")
    seen: list[tuple[float, bytes]] = []
    while told.empty():
        for records in kafka.poll(timeout_ms=100).values():
            now = time.time()
            seen += [(now, record.value) for record in records]
    found = []
    for at, body in seen:
        ranked = msgspec.json.decode(body)
        receipt = ranked["receipt"]
        found.append((at, receipt["freshness"]["last_event_id"], ranked["created_ms"], receipt["stage_ms"]))
    answers.send(found)


def read_own_writes(where: Connections, told: Any, answers: Any, wait_ms: int) -> None:
    """The reading service, in a process of its own: one read for every event, demanding it.

    Told (user, event id); answers with how long the reads waited in ms, how many were met, and why the others were not.
    """
    waits: list[float] = []
    fallbacks: dict[str, int] = {}
    met = 0
    with RankedFeed(where) as feed:
        while (one := told.get()) is not None:
            user, event_id = one
            answer = feed.get(user, k=10, at_least=event_id, wait_ms=wait_ms)
            waits.append(answer.waited_ms)
            met += answer.met
            if not answer.met:
                fallbacks[str(answer.fallback)] = fallbacks.get(str(answer.fallback), 0) + 1
    answers.send((waits, met, fallbacks))
