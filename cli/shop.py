"""riffle run: the whole thing on one machine, with a demo shop on top, live in the terminal."""

from __future__ import annotations

import signal
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.live import Live
from rich.progress import Progress

from cli.cluster import publish, publish_items, submit_personalise
from cli.connecting import err, fail
from cli.shop_view import plain_line, shop_view
from cli.watch import Watch
from client.decisions import published_policies
from client.errors import KafkaUnavailable
from client.events import Events, Token
from client.feed import RankedFeed
from client.feed_core import NO_LIST, REDIS_TIMEOUT, REDIS_UNAVAILABLE, STALE, FeedAnswer
from client.scan import Limits, Scanner
from demo.traffic import Given, LiveTraffic
from demo.world import policy
from local.errors import LocalError
from local.stack import DEFAULT_RUN_DIR, Ports, Stack
from schemas import topics
from schemas.connections import Connections
from schemas.control import PublishPolicy, control_record
from schemas.event import Event
from schemas.keys import USER_PREFIX, user_key
from udfs.logic.when_to_rank import DEFAULT_POLICY, wants_ranking

WAIT_MS = 100  # how long the shop waits for a list that has seen the shopper's last act
_KNOWN_SHOPPERS = 120
_VISITS_BEFORE = 8
_CATCH_UP_LIMIT_S = 45
_SCAN_S = 20.0
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

    def __init__(self, events: Events, feed: RankedFeed, watch: Watch, rate: float, seed: int) -> None:
        self.events, self.feed, self.watch = events, feed, watch
        self._last: dict[str, Token] = {}
        self.reads = ReadYourWrites()
        self.traffic = LiveTraffic(self.send, self._get_list, events_per_s=rate, seed=seed)

    def send(self, event: Event) -> None:
        token = self.events.send(msgspec.json.encode(event))
        if wants_ranking(event, DEFAULT_POLICY):
            self.watch.sent(event.event_id)
        self._last[user_key(event.user_id, event.session_id)] = token

    def last_acts(self) -> list[Token]:
        """The last event of each shopper whose list has not been asked for since."""
        return list(self._last.values())

    def _get_list(self, key: str, surface: str, k: int) -> Given:
        user, session = _named(key)
        last = self._last.pop(key, None)
        if last is None:
            return _given(self.feed.get(user, surface, k, session_id=session))
        answer = self.feed.get(user, surface, k, session_id=session, at_least=last.event_id, wait_ms=WAIT_MS)
        self.reads.asked += 1
        if answer.met:
            self.reads.met += 1
        else:
            self.reads.fallback += 1
        return _given(answer)


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


def _given(answer: FeedAnswer) -> Given:
    return Given(answer.items, answer.list.list_id if answer.list is not None else None)


def _named(key: str) -> tuple[str | None, str | None]:
    """User and session that a key names: one of them."""
    return (key[2:], None) if key.startswith(USER_PREFIX) else (None, key[2:])


def _interrupt(_signal: int, _frame: Any) -> None:
    raise KeyboardInterrupt


def _open_and_run(stack: Stack, seconds: int, rate: float, seed: int) -> None:
    with ExitStack() as closing:
        shop = _open(stack, closing, rate, seed)
        watch = shop.watch
        watch.settle(limit_s=10.0)
        watch.begin()
        shop.reads = ReadYourWrites()
        err.print(f"The shop is open: {rate:g} events/s. Ctrl-C closes it.")
        try:
            _serve(shop, watch, seconds)
        except KeyboardInterrupt:
            err.print("Closing.")
        shop.events.flush()
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


def _open(stack: Stack, closing: ExitStack, rate: float, seed: int) -> Shop:
    """Start the stack, submit the job where none runs, and meanwhile tell Kafka what the shoppers did before; then wait
    until the job knows it."""
    shops: list[Shop] = []
    jobs: list[str] = []

    def submit() -> None:
        running = [stack.job_status(job) for job in stack.jobs.rest.jobs()] if stack.flink.slots() else []
        jobs.extend(job.job_id for job in running if job.name == "personalise")
        if not jobs:
            err.print("Submitting the personalise job with `flink run`.")
            jobs.append(submit_personalise(stack))

    def prepare() -> None:
        stack.wait_broker()
        stack.create_topics(topics.TOPICS)
        where = stack.connections()
        events, watch, feed = Events(where), Watch(where), RankedFeed(where)
        for one in (events, watch, feed):
            closing.enter_context(one)
        shops.append(Shop(events, feed, watch, rate, seed))
        publish_items(where, shops[0].traffic.world.items)
        _publish_policy(where)
        _tell_the_past(shops[0])

    stack.start(beside=[submit, prepare])
    stack.wait_running(jobs[0])
    err.print(f"The job runs: {stack.flink.rest.url}")
    _catch_up(shops[0])
    return shops[0]


def _publish_policy(where: Connections) -> None:
    """The shop's slate policy, once: where it is known already, another one may have been put in force since."""
    own = policy()
    with Scanner(where, Limits(seconds=_SCAN_S)) as scanner:
        known = published_policies(scanner)
    if own.version not in known:
        publish(where, topics.CONTROL, [control_record(PublishPolicy(own))])


def _tell_the_past(shop: Shop) -> None:
    """What the shoppers did in the last hours, as fast as Kafka takes it: to the job it is old, and only caught up on."""
    past = list(shop.traffic.past(int(time.time() * 1000), shoppers=_KNOWN_SHOPPERS, visits=_VISITS_BEFORE))
    with Progress(console=err, transient=True) as progress:
        for event in progress.track(past, description="Sending what the shoppers did before"):
            shop.send(event)


def _catch_up(shop: Shop) -> None:
    """Wait until each shopper's last act is in their list."""
    deadline = time.monotonic() + _CATCH_UP_LIMIT_S
    with err.status("Waiting until the job has read what the shoppers did before"):
        for token in shop.last_acts():
            user, session = _named(token.key)
            while True:
                answer = shop.feed.get(user, session_id=session, at_least=token.event_id, wait_ms=500)
                if answer.met or answer.fallback not in _NOT_YET:
                    break
                if time.monotonic() > deadline:
                    err.print("The job is still reading what the shoppers did before: the first figures will be slow.")
                    return


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
