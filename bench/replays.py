"""Replays: lists of every kind, made by the real jobs before and after a stop with savepoint, and made again by `riffle replay`.

    trials/variety.py ─ events ─► personalise, beliefs, item-aggregates ─► rankings-log ─┐
                                    └ stop with savepoint, start again                   └─ riffle replay --hours 24 --json

What a record takes is read off the broker's own files.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping

import msgspec

from bench.machine import ROOT, about
from bench.results import Replays
from bench.stack import err, own_stack, wait_for
from cli.cluster import publish, publish_items, submit_beliefs, submit_item_aggregates, submit_personalise
from client.events import Events
from client.scan import Limits, Scanner
from demo.world import load
from local.stack import Stack
from models.replaying import Summary
from schemas import topics
from schemas.connections import Connections
from schemas.control import PublishExperiments, PublishPolicy, control_record
from trials.variety import ARM_POLICY, POLICIES, Variety, definition, drive, later_items

_RATE = 20.0  # events a second; whoever clicks has a new list on each surface they were on
_LIMIT_S = 900.0  # of a half of the lists
_REPLAY_LIMIT_S = 1_800
_THREADS = "OPENBLAS_NUM_THREADS"  # of numpy's matrix products: another number than the worker's must change nothing


def run(quick: bool, repeat: int) -> Replays:  # noqa: ARG001 one run makes all the lists
    lists = 1_000 if quick else 10_000
    with own_stack(task_managers=3) as stack:
        begun = time.monotonic()
        made(stack, lists)
        made_s = time.monotonic() - begun
        where = stack.connections()
        stored = _stored_bytes(stack, topics.RANKINGS_LOG)
        with Scanner(where, Limits(seconds=60)) as scanner:
            records = sum(end - start for start, end in scanner.extent(topics.RANKINGS_LOG).values())
            sizes = [len(record.value or b"") for record in scanner.newest_first(topics.RANKINGS_LOG)]
        begun = time.monotonic()
        found = replayed(where)
        replay_s = time.monotonic() - begun
        one_thread = replayed(where, {_THREADS: "1"})
    return Replays(
        about(quick, 1, events_per_s=_RATE),
        found,
        one_thread.identical,
        records,
        round(sum(sizes) / len(sizes)),
        round(stored / records),
        round(made_s, 1),
        round(replay_s, 1),
    )


def made(stack: Stack, lists: int) -> None:
    """So many lists on `rankings-log`; half of them, or more, by a job that was started from the savepoint of the other."""
    where, world = stack.connections(), load()
    stack.create_topics(topics.TOPICS)
    publish_items(where, [*world.items, *later_items(world.items)])
    publish(where, topics.CONTROL, [control_record(PublishPolicy(policy)) for policy in (*POLICIES, ARM_POLICY)])
    publish(where, topics.CONTROL, [control_record(PublishExperiments(definition()))])
    job_id = submit_personalise(stack)
    for other in (submit_beliefs(stack), submit_item_aggregates(stack), job_id):
        stack.wait_running(other)
    variety = Variety(1, f"replay-{uuid.uuid4().hex[:6]}", [item.item_id for item in world.items])
    with Events(where) as events:
        _drive(variety, events, where, lists // 2)
        savepoint = stack.stop_with_savepoint(job_id)
        # The catalogue goes on: what came after the bundle is in other groups now.
        publish_items(where, later_items(world.items, moved=3))
        stack.wait_running(submit_personalise(stack, savepoint=savepoint))
        _drive(variety, events, where, lists)


def replayed(where: Connections, environ: Mapping[str, str] | None = None) -> Summary:
    """What `riffle replay` says of all lists, in a process of its own."""
    command = [sys.executable, "-m", "cli.main", "replay", "--hours", "24", "--json", "--limit-s", str(_REPLAY_LIMIT_S)]
    reached = {"RIFFLE_BROKERS": where.brokers, "RIFFLE_REDIS_URL": where.redis_url}
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, **reached, **(environ or {})},
        capture_output=True,
        text=True,
        timeout=_REPLAY_LIMIT_S,
        check=False,
    )
    if not done.stdout:
        raise RuntimeError(f"riffle replay said nothing: {done.stderr.strip()[-300:]}")
    return msgspec.convert(json.loads(done.stdout), Summary)


def _drive(variety: Variety, events: Events, where: Connections, until: int) -> None:
    before, begun = _lists(where), time.monotonic()

    def so_far() -> int:
        found = _lists(where)
        err.print(f"{found} lists")
        if time.monotonic() - begun > _LIMIT_S:
            raise TimeoutError(f"{found - before} of {until - before} lists were made within {_LIMIT_S:.0f} s")
        return found

    drive(variety, events, so_far, until, _RATE, time.sleep)
    events.flush()
    counts: list[int] = []

    def settled() -> bool:
        counts.append(_lists(where))
        return len(counts) > 1 and counts[-1] == counts[-2]

    wait_for(settled, 60, "the last lists", every_s=2.0)


def _lists(where: Connections) -> int:
    with Scanner(where) as scanner:
        return sum(end for _, end in scanner.extent(topics.RANKINGS_LOG).values())


def _stored_bytes(stack: Stack, topic: str) -> int:
    """Of the segments on the broker's disk, compressed as they are kept."""
    return sum(segment.stat().st_size for segment in stack.run_dir.rglob(f"{topic}-*/*.log"))
