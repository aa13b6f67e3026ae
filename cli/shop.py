"""riffle run: the whole thing on one machine, with a demo shop on top, live in the terminal."""

from __future__ import annotations

import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.live import Live
from rich.progress import Progress

from cli.cluster import publish_items, submit_personalise
from cli.connecting import err, fail
from cli.shop_view import plain_line, shop_view
from cli.watch import Watch
from client.errors import KafkaUnavailable
from client.events import Events, Token
from client.feed import RankedFeed
from client.feed_core import NO_LIST, REDIS_TIMEOUT, REDIS_UNAVAILABLE, STALE
from demo.traffic import LiveTraffic
from local.errors import LocalError
from local.stack import DEFAULT_RUN_DIR, Ports, Stack
from schemas import topics
from schemas.connections import Connections
from schemas.event import Event
from schemas.keys import USER_PREFIX, user_key

WAIT_MS = 100  # how long the shop waits for a list that has seen the shopper's last act
_KNOWN_SHOPPERS = 200
_VISITS_BEFORE = 4
_CATCH_UP_LIMIT_S = 45
_NOT_YET = frozenset({STALE, NO_LIST, REDIS_TIMEOUT, REDIS_UNAVAILABLE})
_SHOW_EVERY_S = 0.5
_LINE_EVERY_S = 5.0


class ReadYourWrites(msgspec.Struct):
    """Reads that demanded the shopper's last act: `met` in time, or answered by a named `fallback`."""

    asked: int = 0
    met: int = 0
    fallback: int = 0


class Shop:
    """The demo shop as a service would be built: it sends events and reads lists through the client, nothing else."""

    def __init__(
        self, where: Connections, events: Events, feed: RankedFeed, watch: Watch, rate: float, seed: int
    ) -> None:
        self._events, self._feed, self._watch = events, feed, watch
        self._last: dict[str, Token] = {}
        self.reads = ReadYourWrites()
        self.traffic = LiveTraffic(self.send, self._get_list, events_per_s=rate, seed=seed)

    def send(self, event: Event) -> None:
        token = self._events.send(msgspec.json.encode(event))
        self._watch.sent(event.event_id)
        self._last[user_key(event.user_id, event.session_id)] = token

    def last_acts(self) -> list[Token]:
        """The last event of each shopper whose list has not been asked for since."""
        return list(self._last.values())

    def _get_list(self, key: str, surface: str, k: int) -> list[str]:
        user, session = _named(key)
        last = self._last.pop(key, None)
        if last is None:
            return self._feed.get(user, surface, k, session_id=session).items
        answer = self._feed.get(user, surface, k, session_id=session, at_least=last.event_id, wait_ms=WAIT_MS)
        self.reads.asked += 1
        if answer.met:
            self.reads.met += 1
        else:
            self.reads.fallback += 1
        return answer.items


def run(
    seconds: Annotated[int, typer.Option(help="End after so many seconds of shop; 0: at Ctrl-C.", min=0)] = 0,
    rate: Annotated[float, typer.Option(help="Events a second that the shoppers send.", min=1)] = 50.0,
    seed: Annotated[int, typer.Option(help="Other seeds are other shoppers.")] = 1,
    run_dir: Annotated[Path, typer.Option(help="Where data, logs and process ids are kept.")] = DEFAULT_RUN_DIR,
    free_ports: Annotated[bool, typer.Option(help="Take ports that nobody uses, instead of the usual ones.")] = False,
    keep: Annotated[bool, typer.Option(help="Leave Kafka, Redis, Flink and the job up at the end.")] = False,
) -> None:
    """Start Kafka, Redis and Flink, submit the personalise job, and open a demo shop that uses it.

    Simulated shoppers click; their lists come from Redis. The last line printed is a JSON summary.

    Example:

        riffle run --seconds 60
    """
    signal.signal(signal.SIGTERM, _interrupt)
    stack = Stack(run_dir, Ports.free() if free_ports else None, say=err.print)
    was_up = stack.status().processes > 0
    try:
        _open_and_run(stack, seconds, rate, seed)
    except (LocalError, KafkaUnavailable) as error:
        fail(str(error))
    except KeyboardInterrupt:
        err.print("Interrupted.")
    finally:
        if not (keep or was_up):
            with suppress(LocalError):
                stack.stop()


def _named(key: str) -> tuple[str | None, str | None]:
    """User and session that a key names: one of them."""
    return (key[2:], None) if key.startswith(USER_PREFIX) else (None, key[2:])


def _interrupt(_signal: int, _frame: Any) -> None:
    raise KeyboardInterrupt


def _open_and_run(stack: Stack, seconds: int, rate: float, seed: int) -> None:
    stack.start()
    stack.create_topics(topics.TOPICS)
    where = stack.connections()
    with ExitStack() as closing:
        events = closing.enter_context(Events(where))
        watch = closing.enter_context(Watch(where))
        feed = closing.enter_context(RankedFeed(where))
        shop = Shop(where, events, feed, watch, rate, seed)
        _begin(stack, shop, feed)
        watch.settle(limit_s=10.0)
        watch.begin()
        shop.reads = ReadYourWrites()
        err.print(f"The shop is open: {rate:g} events/s. Ctrl-C closes it.")
        try:
            _serve(shop, watch, seconds)
        except KeyboardInterrupt:
            err.print("Closing.")
        events.flush()
        watch.settle(limit_s=2.0)
        typer.echo(msgspec.json.encode(summary(shop, watch)).decode())


def summary(shop: Shop, watch: Watch) -> dict[str, object]:
    """The last line of `riffle run`."""
    return {
        "events": shop.traffic.counts.events,
        "lists": watch.lists,
        "dead_letters": watch.dead_letters,
        "latency_ms": {"p50": watch.latency_ms(50), "p99": watch.latency_ms(99)},
        "ctr": {name: round(value, 5) for name, value in shop.traffic.ctr().items()},
        "read_your_writes": msgspec.structs.asdict(shop.reads),
    }


def _begin(stack: Stack, shop: Shop, feed: RankedFeed) -> None:
    """Submit the job where none runs; meanwhile tell it what the shoppers did before, and wait until it knows."""
    jobs = [stack.job_status(job) for job in stack.jobs.rest.jobs()]
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="submit") as pool:
        job = next((job.job_id for job in jobs if job.name == "personalise"), None)
        submitting = None if job else pool.submit(submit_personalise, stack)
        if submitting:
            err.print("Submitting the personalise job with `flink run`.")
        publish_items(stack.connections(), shop.traffic.world.items)
        last = _tell_the_past(shop)
        job = job or (submitting.result() if submitting else "")
    stack.wait_running(job)
    err.print(f"The job runs: {stack.flink.rest.url}")
    deadline = time.monotonic() + _CATCH_UP_LIMIT_S
    with err.status("Waiting until the job has read what the shoppers did before"):
        for token in last:
            user, session = _named(token.key)
            while True:
                answer = feed.get(user, session_id=session, at_least=token.event_id, wait_ms=500)
                if answer.met or answer.fallback not in _NOT_YET:
                    break
                if time.monotonic() > deadline:
                    err.print("The job is still reading what the shoppers did before: the first figures will be slow.")
                    return


def _tell_the_past(shop: Shop) -> list[Token]:
    """What the shoppers did in the last hours, as fast as Kafka takes it: to the job it is old, and only caught up on.
    The last event of each shopper."""
    past = list(shop.traffic.past(int(time.time() * 1000), shoppers=_KNOWN_SHOPPERS, visits=_VISITS_BEFORE))
    with Progress(console=err, transient=True) as progress:
        for event in progress.track(past, description="Sending what the shoppers did before"):
            shop.send(event)
    return shop.last_acts()


def _serve(shop: Shop, watch: Watch, seconds: int) -> None:
    terminal = sys.stdout.isatty()
    every_s = _SHOW_EVERY_S if terminal else _LINE_EVERY_S
    begun = shown = time.monotonic()
    with Live(console=err, refresh_per_second=4, transient=False) if terminal else ExitStack() as live:

        def show(_event: Event) -> None:
            nonlocal shown
            now = time.monotonic()
            if now - shown < every_s:
                return
            shown = now
            if isinstance(live, Live):
                live.update(shop_view(shop, watch, now - begun))
            else:
                typer.echo(plain_line(shop, watch, now - begun))

        shop.traffic.run(seconds or None, on_slot=show)
