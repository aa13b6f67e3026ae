"""Training rows from end to end, with a kill in the middle: row for row what the oracle computes from the log. Runs last, for the
same reason as test_survives.py."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from typer.testing import CliRunner

from cli.cluster import submit_training_log
from cli.main import app
from cli.training import TopicRows
from cli.training_parity import check, check_sessions
from client.scan import Scanner
from client.training_files import ROWS, Stored, TrainingFiles, export, flat
from demo.world import load
from schemas import topics
from schemas.decision import EXPLOIT, FALLBACK
from schemas.event import Rejected, parse_event
from schemas.interaction import Interaction, decode_interaction
from schemas.ranking import decode_list
from schemas.training import KINDS, TrainingRow, decode_row, decode_unmatched
from tests.e2e.engine import Engine, event, raw, wait_for
from tests.unit.test_attribution import oracle, told
from udfs.logic.attribution import Rules

# Seconds where production has minutes and days: every window closes within the test.
RULES = Rules(click_ms=4_000, dwell_ms=4_000, cart_ms=8_000, purchase_ms=12_000, return_ms=12_000)
ARGS = ["--click-s", "4", "--dwell-s", "4", "--cart-s", "8", "--purchase-s", "12", "--return-s", "12"]
USERS, RATE, SETTLE_S = 12, 25.0, 14.0
ITEMS = [item.item_id for item in load().items[:50]]


class Shoppers:
    """Users who are shown their newest list and act on it, at a steady rate, until stopped; every tenth event is sent twice."""

    def __init__(self, engine: Engine) -> None:
        self.users = [f"trained-{uuid.uuid4().hex[:8]}" for _ in range(USERS)]
        self.sent = 0
        self.sent_ids: list[tuple[int, str]] = []
        self._engine, self._stopped, self._rng = engine, threading.Event(), random.Random(5)

    @contextmanager
    def running(self) -> Iterator[Shoppers]:
        thread = threading.Thread(target=self._send, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._stopped.set()
            thread.join(timeout=30)

    def _send(self) -> None:
        begun = time.monotonic()
        with self._engine.events() as events, self._engine.feed() as feed:
            while not self._stopped.wait(max(0.0, begun + self.sent / RATE - time.monotonic())):
                user = self._rng.choice(self.users)
                shown = feed.get(user).list
                item = shown.items[self._rng.randrange(5)].item_id if shown else self._rng.choice(ITEMS)
                body = self._body(user, item, shown.list_id if shown else None)
                assert not isinstance(parse_event(raw(body)), Rejected)
                for _ in range(1 + (self.sent % 10 == 0)):
                    events.send(raw(body))
                self.sent += 1
                self.sent_ids.append((body["ts_ms"], body["event_id"]))
            events.flush()

    def _body(self, user: str, item: str, list_id: str | None) -> dict[str, Any]:
        kind = self._rng.choice(["impression"] * 4 + ["click", "view", "add_to_cart", "purchase"])
        props: dict[str, object] = {"surface": "home"}
        if list_id is not None and (kind == "impression" or self._rng.random() < 0.5):
            props["list_id"] = list_id
        if kind == "impression" and self._rng.random() < 0.05:
            props["list_id"] = "nobody-made-it"
        if kind == "view":
            props["dwell_ms"] = self._rng.randrange(10_000)
        if kind == "purchase":
            props |= {"order_id": uuid.uuid4().hex, "items": [{"item_id": item}, {"item_id": self._rng.choice(ITEMS)}]}
        return event(user, kind, None if kind == "purchase" else item, props=props)


def test_rows_are_the_oracles_after_a_kill(engine: Engine, tmp_path: Path) -> None:
    engine.stack.add_task_manager()
    job_id = submit_training_log(engine.stack, ARGS, where=engine.where)
    engine.stack.wait_running(job_id)
    begun_ms = int(time.time() * 1000)
    with Shoppers(engine).running() as shoppers:
        wait_for(lambda: shoppers.sent > 150, 60, "shoppers")
        for pid in engine.stack.pids()["taskmanager"]:
            os.kill(pid, signal.SIGKILL)
        engine.stack.add_task_manager()
        engine.stack.add_task_manager()
        wait_for(lambda: engine.stack.job_status(job_id).running, 120, "the training log runs again")
        wait_for(lambda: shoppers.sent > 500, 60, "shoppers after the kill")
        stopped_ms = int(time.time() * 1000)
        # They go on, so that the clock of the log does: what happened until now settles.
        sent = {event_id for ts_ms, event_id in shoppers.sent_ids if ts_ms <= stopped_ms}
        # The jobs may still be catching up on what came while they were away.
        wait_for(lambda: sent <= _applied(engine, begun_ms), 120, "every event on interactions")
        appended_ms = int(time.time() * 1000)
        wait_for(lambda: time.time() * 1000 > appended_ms + 1000 * SETTLE_S, 60, "their windows closed")
        topic = wait_for(lambda: _once_closed(engine, begun_ms, stopped_ms), 90, "every window of the rows closed")

    events = _interactions(engine, begun_ms, set(shoppers.users))
    lists = {one.list_id: one for one in (decode_list(r.value) for r in _all(engine, topics.RANKED_FEED, begun_ms))}
    latest = _latest(topic)
    compared = 0
    for user in shoppers.users:
        made = {one.list_id: one.created_ms for one in lists.values() if one.key == f"u:{user}"}
        mine = [one for one in latest.values() if one.key == f"u:{user}" and one.shown_ms <= stopped_ms]
        wanted = oracle(events[f"u:{user}"], made, RULES, 1 << 62)
        assert told(mine) == {one.event_id: wanted[one.event_id] for one in mine}
        shown = {
            one.event.event_id
            for one in events[f"u:{user}"]
            if one.event.event_type == "impression" and one.ts_ms <= stopped_ms
        }
        assert {one.event_id for one in mine} == shown & wanted.keys()
        compared += len(mine)
    assert compared > 100
    assert any(one.label("click") for one in latest.values())
    # The decision record of each list has come, too.
    assert {one.served.slot for one in latest.values()} <= {EXPLOIT, FALLBACK}
    assert all(lists[one.served.list_id].items[one.served.rank].item_id == one.item_id for one in latest.values())
    reasons = {decode_unmatched(one.value).reason for one in _all(engine, topics.TRAINING_UNMATCHED, begun_ms)}
    assert "unknown_list" in reasons

    _assert_files_hold_the_topic(engine, topic, tmp_path)
    # The job itself and a process that shares its functions but nothing else agree as well.
    report = check(engine.where, begun_ms, stopped_ms, RULES, 60)
    assert (report.share, report.missing, report.unexpected) == (1.0, [], [])
    assert report.rows > 100
    _assert_a_backfill_makes_the_same(engine, latest, begun_ms, stopped_ms, tmp_path)
    sessions = check_sessions(engine.where, begun_ms, int(time.time() * 1000), 60)
    assert (sessions.share, sessions.rows >= USERS) == (1.0, True), sessions
    engine.stack.cancel(job_id)


def _assert_files_hold_the_topic(engine: Engine, topic: list[Any], tmp_path: Path) -> None:
    files = TrainingFiles(tmp_path / "rows", ROWS)
    export(TopicRows(engine.where, topics.TRAINING_ROWS), files, lambda _done, _total: None)
    table = pq.ParquetDataset(files.folder / "rows").read(["topic_partition", "topic_offset"])
    places = list(zip(*(column.to_pylist() for column in table.columns)))
    assert len(places) == len(set(places))
    assert {(one.partition, one.offset) for one in topic} <= set(places)
    assert files.damaged() == []


def _assert_a_backfill_makes_the_same(
    engine: Engine, latest: dict[str, TrainingRow], begun_ms: int, stopped_ms: int, tmp_path: Path
) -> None:
    """From raw events and lists, in a process that has never heard of the jobs: the same exposures, outcomes and event numbers."""
    span = [
        datetime.fromtimestamp(at_ms / 1000, tz=timezone.utc).isoformat() for at_ms in (begun_ms, time.time() * 1000)
    ]
    out = tmp_path / "past"
    asked = [
        "backfill",
        "--events",
        "topic",
        "--lists",
        "topic",
        "--items",
        "topic",
        "--from",
        span[0],
        "--to",
        span[1],
    ]
    where = {"RIFFLE_BROKERS": engine.where.brokers, "RIFFLE_NAMESPACE": engine.where.namespace}
    done = CliRunner().invoke(app, [*asked, *ARGS, "--out", str(out)], env=where)
    assert done.exit_code == 0, done.output
    made: dict[str, dict[str, Any]] = {}
    for row in pq.ParquetDataset(out / "training-rows").read().to_pylist():
        if row["row_id"] not in made or row["revision"] > made[row["row_id"]]["revision"]:
            made[row["row_id"]] = row
    fields = ("event_no", "item_id", "list_id", "rank", *KINDS, *(f"{kind}_delay_ms" for kind in KINDS), "dwell_ms")
    job = {name: flat(Stored(0, 0, 0, None), row) for name, row in latest.items() if row.shown_ms <= stopped_ms}
    assert {name: [row[field] for field in fields] for name, row in job.items()} == {
        name: [made[name][field] for field in fields] for name in job
    }
    assert pq.ParquetDataset(out / "list-features").read().num_rows > 0


def _all(engine: Engine, name: str, from_ms: int) -> list[Any]:
    with Scanner(engine.where) as scanner:
        return list(scanner.since(name, from_ms))


def _interactions(engine: Engine, from_ms: int, users: set[str]) -> dict[str, list[Interaction]]:
    found: dict[str, list[Interaction]] = {f"u:{user}": [] for user in users}
    for record in _all(engine, topics.INTERACTIONS, from_ms):
        one = decode_interaction(record.value)
        if one.key in found:
            found[one.key].append(one)
    return found


def _applied(engine: Engine, from_ms: int) -> set[str]:
    return {decode_interaction(one.value).event.event_id for one in _all(engine, topics.INTERACTIONS, from_ms)}


def _latest(topic: list[Any]) -> dict[str, TrainingRow]:
    latest: dict[str, TrainingRow] = {}
    for record in topic:
        row = decode_row(record.value)
        known = latest.get(row.row_id)
        assert known is None or row.revision == known.revision + 1, "revisions count up, without gaps or repetition"
        latest[row.row_id] = row
    return latest


def _once_closed(engine: Engine, from_ms: int, until_ms: int) -> list[Any] | None:
    """The records of `training-rows`, once all windows of what was shown by `until_ms` are closed."""
    topic = _all(engine, topics.TRAINING_ROWS, from_ms)
    rows = [row for row in _latest(topic).values() if row.shown_ms <= until_ms]
    return topic if rows and all(len(row.closed) == len(KINDS) for row in rows) else None
