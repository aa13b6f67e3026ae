"""What breaks, and what must not: runs last, because it breaks the stack that the other tests share."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from demo.world import load
from schemas import topics
from schemas.interaction import decode_interaction
from schemas.ranking import decode_list
from tests.e2e.engine import Engine, Reader, event, raw, wait_for

ITEMS = [item.item_id for item in load().items]
USERS = 20
RATE = 40.0


class Load:
    """Numbered clicks of a few users at a steady rate, until stopped. `sent` holds event ids by user, in order."""

    def __init__(self, engine: Engine) -> None:
        self.users = [f"load-{uuid.uuid4().hex[:8]}" for _ in range(USERS)]
        self.sent: dict[str, list[str]] = {user: [] for user in self.users}
        self._engine, self._stopped = engine, threading.Event()

    @contextmanager
    def running(self) -> Iterator[Load]:
        thread = threading.Thread(target=self._send, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._stopped.set()
            thread.join(timeout=30)

    def _send(self) -> None:
        with self._engine.events() as events:
            number, begun = 0, time.monotonic()
            while not self._stopped.wait(max(0.0, begun + number / RATE - time.monotonic())):
                user = self.users[number % USERS]
                token = events.send(raw(event(user, item_id=ITEMS[number % len(ITEMS)])))
                self.sent[user].append(token.event_id)
                number += 1
            events.flush()

    def served(self, engine: Engine) -> bool:
        """Whether every user's list in Redis has seen the last event of that user."""
        with engine.feed() as feed:
            return all(
                (receipt := feed.get(user).receipt) is not None and receipt.freshness.last_event_id == sent[-1]
                for user, sent in self.sent.items()
            )


def _assert_nothing_is_missing(load_: Load, reader: Reader, limit_s: float) -> None:
    """Every event is on `interactions` exactly once, numbered without gaps, in the order in which it was sent."""

    def numbered() -> dict[str, list[tuple[int, str]]]:
        found: dict[str, list[tuple[int, str]]] = {user: [] for user in load_.users}
        for record in reader.records[topics.INTERACTIONS]:
            interaction = decode_interaction(record.value)
            if interaction.key[2:] in found:
                found[interaction.key[2:]].append((interaction.event_no, interaction.event.event_id))
        return found

    total = sum(len(sent) for sent in load_.sent.values())
    reader.until(lambda _: sum(len(one) for one in numbered().values()) >= total, limit_s)
    assert numbered() == {user: list(enumerate(sent, start=1)) for user, sent in load_.sent.items()}


def test_a_killed_task_manager_loses_and_repeats_nothing(engine: Engine) -> None:
    with Reader(engine.where, topics.INTERACTIONS) as reader:
        with Load(engine).running() as load_:
            wait_for(lambda: min(len(sent) for sent in load_.sent.values()) > 8, 60, "a running load")
            engine.kill_task_manager()
            engine.stack.add_task_manager()
            wait_for(lambda: engine.stack.job_status(engine.job_id).running, 60, "the job runs again")
            time.sleep(3)  # load on the recovered job, so that it is seen to go on and not only to catch up
        wait_for(lambda: load_.served(engine), 60, "every user's list has seen their last event")
        _assert_nothing_is_missing(load_, reader, limit_s=60)


def test_redis_away_for_20_seconds_stops_nothing(engine: Engine) -> None:
    restarts = engine.restarts
    with Reader(engine.where, topics.RANKED_FEED) as reader:
        with Load(engine).running() as load_:
            wait_for(lambda: min(len(sent) for sent in load_.sent.values()) > 3, 60, "a running load")
            engine.kill_redis()
            time.sleep(20)
            engine.stack.redis.start()
            back_at = time.monotonic()
            wait_for(lambda: _recent_lists_fresh(engine, load_), 15, "lists in Redis again")
            assert time.monotonic() - back_at < 10
        wait_for(lambda: load_.served(engine), 30, "every user's list has seen their last event")
        last = {sent[-1] for sent in load_.sent.values()}

        def lists() -> list[str | None]:
            return [
                decode_list(one.value).receipt.freshness.last_event_id for one in reader.records[topics.RANKED_FEED]
            ]

        reader.until(lambda _: last <= set(lists()), 30)
    degraded = [one for one in reader.records[topics.RANKED_FEED] if b'"degraded":["redis"]' in one.value]
    assert degraded, "lists went on to Kafka, flagged"
    assert engine.restarts == restarts


def _recent_lists_fresh(engine: Engine, load_: Load) -> bool:
    with engine.feed() as feed:
        return all(feed.get(user).receipt is not None for user in load_.users)


def test_stop_with_savepoint_and_restart_keeps_every_user(engine: Engine) -> None:
    with Reader(engine.where, topics.INTERACTIONS) as reader, Load(engine).running() as load_:
        wait_for(lambda: min(len(sent) for sent in load_.sent.values()) > 5, 60, "a running load")
        savepoint = engine.stack.stop_with_savepoint(engine.job_id)
        engine.submit(savepoint)
        wait_for(lambda: min(len(sent) for sent in load_.sent.values()) > 10, 60, "load after the restart")
        load_._stopped.set()
        wait_for(lambda: load_.served(engine), 60, "every user's list has seen their last event")
        _assert_nothing_is_missing(load_, reader, limit_s=60)
