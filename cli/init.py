"""riffle init: from a log of one's own to a running feed.

log ─ columns guessed, shown ─┬─ items ───────── topic `items`
                              ├─ counted ─────── a bundle: covisitation and popularity
                              └─ events, with their gaps, ending now ─ topic `events` ─ job ─ lists in Redis
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from cli.cluster import publish_items, submit_personalise
from cli.connecting import connections, err, fail, out, plainly
from cli.importing import mapping
from client.errors import InvalidArgument
from client.feed import RankedFeed
from client.importing import Imported, Log, guess_columns, read_items, read_log, records
from client.replay import Replayer
from local.errors import LocalError
from local.stack import DEFAULT_RUN_DIR, Ports, Stack
from models.bundle import Bundle, BundleError, latest
from models.from_log import Act, bundle_from_log
from models.store import SHIPPED
from schemas import topics
from schemas.connections import Connections
from schemas.items import Item

_FITS = 0.8  # share of the log's actions on items that the shipped bundle knows, from which it is used
_BATCH = 500
_LAST_USERS = 20
_CATCH_UP_LIMIT_S = 480.0
_SHOWN = 10


class Summary(msgspec.Struct):
    """The last line of `riffle init`."""

    events: int
    skipped: int
    users: int
    items: int
    bundle: str
    caught_up: int  # of the last users, how many have a list that has seen their last event
    asked: int
    seconds: float


def init(
    log_file: Annotated[Path, typer.Option("--from", metavar="FILE", help="Your log: csv, csv.gz or parquet.")],
    columns: Annotated[
        list[str] | None, typer.Option("--column", help="Which column is what, such as user=customer; may be repeated.")
    ] = None,
    run_dir: Annotated[Path, typer.Option(help="Where data, logs and process ids are kept.")] = DEFAULT_RUN_DIR,
    free_ports: Annotated[bool, typer.Option(help="Take ports that nobody uses, instead of the usual ones.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what the file holds.")] = False,
) -> None:
    """Turn a log of your own into a running feed: items, events with their gaps, and a bundle counted from the log.

    Starts Kafka, Redis, Flink and the job on this machine. Where RIFFLE_BROKERS names a Kafka, the log is played there, and the
    command to submit the job with the new bundle is said.

    Example:

        riffle init --from events.csv --column user=customer
    """
    begun_s = time.monotonic()
    with plainly():
        chosen = mapping(columns or [])
        _show_columns(log_file, chosen)
        log, items, skipped = read(log_file, chosen)
        users = {one.body["user_id"] for one in log.events}
        out.print(
            f"{len(log.events)} events of {len(users)} users on {len(items)} items over {log.span_ms / 86_400_000:.1f} days.",
            highlight=False,
        )
        for reason, times in sorted(skipped.items()):
            err.print(f"{times} rows left out: {reason}", markup=False, highlight=False)
        if dry_run:
            return
        try:
            bundles, version = make_bundle(run_dir, log, items, log_file.name)
            where = _start(run_dir, free_ports, bundles, version)
            publish_items(where, items)
        except LocalError as error:
            fail(str(error))
        _play(where, log)
        caught_up, asked = _catch_up(where, log)
        _show_list(where, log.events[-1])
    summary = Summary(
        len(log.events), sum(skipped.values()), len(users), len(items), version, caught_up, asked,
        round(time.monotonic() - begun_s, 1),
    )  # fmt: skip
    typer.echo(msgspec.json.encode(summary).decode())


def read(path: Path, columns: dict[str, str]) -> tuple[Log, list[Item], dict[str, int]]:
    """Events, the items that occur in them, and the rows left out by reason. Raises InvalidArgument."""
    log = read_log(path, columns)
    if not log.events:
        why = "; ".join(f"{times} rows: {reason}" for reason, times in log.skipped.items()) or "it has no rows"
        raise InvalidArgument(f"{path} holds no event ({why}): name its columns with --column.")
    skipped, items = dict(log.skipped), []
    acted = {item for one in log.events for item in _items_of(one.body)}
    for described in read_items(path, columns):
        if described["item_id"] not in acted:
            continue
        try:
            items.append(msgspec.convert(_as_text(described), Item))
        except (ValueError, msgspec.ValidationError) as error:
            reason = f"what it says of its item is left out: {error}"
            skipped[reason] = skipped.get(reason, 0) + 1
            items.append(Item(item_id=described["item_id"]))
    return log, items, skipped


def make_bundle(run_dir: Path, log: Log, items: list[Item], source: str) -> tuple[Path | None, str]:
    """The folder of bundles and the version to rank with: the shipped one where it knows the items, else one counted now."""
    acts = [
        Act(one.body["user_id"], one.ts_ms, one.body["event_type"], item)
        for one in log.events
        for item in _items_of(one.body)
    ]
    try:
        shipped = Bundle.load(SHIPPED / latest(SHIPPED))
        known = set(shipped.vocabulary.ids)
        if sum(act.item_id in known for act in acts) >= _FITS * len(acts):
            return None, shipped.version
    except BundleError as error:
        raise InvalidArgument(f"The shipped bundle cannot be read: {error}.") from error
    folder = (run_dir / "bundles").resolve()
    number = 1 + sum(1 for _ in folder.glob("from-log-*"))
    version = f"from-log-{number}"
    bundle_from_log(folder, version, items, acts, source)
    err.print(f"Counted a bundle from the log: {folder / version}", soft_wrap=True)
    return folder, version


def _start(run_dir: Path, free_ports: bool, bundles: Path | None, version: str) -> Connections:
    """The stack with the job on it; or only where to play the log, where the environment names a Kafka."""
    if "RIFFLE_BROKERS" in os.environ or "RIFFLE_BROKERS_FILE" in os.environ:
        where = connections()
        folder = f" --bundles {bundles}" if bundles else ""
        err.print(
            f"Playing into {where.brokers}. Its job has to rank with {version}: submit jobs/personalise.py "
            f"with{folder} --bundle {version}.",
            soft_wrap=True,
        )
        return where
    stack = Stack(run_dir, Ports.free() if free_ports else None, say=err.print)
    stack.start()
    stack.create_topics(topics.TOPICS)
    if any(stack.job_status(job).name == "personalise" for job in stack.jobs.rest.jobs()):
        raise LocalError(
            f"A personalise job runs on the stack in {run_dir} already: end it with `riffle down`, or choose another --run-dir."
        )
    stack.wait_running(submit_personalise(stack, bundles=bundles, bundle=version))
    return stack.connections()


def _play(where: Connections, log: Log) -> None:
    """As fast as Kafka takes them: the gaps stay what they were, the last event happens now."""
    with Replayer(where) as replayer, Progress(console=err, disable=not err.is_terminal) as progress:
        task = progress.add_task("events", total=len(log.events))
        played = (record for _, record in records(log, 1e9, int(time.time() * 1000)))
        while batch := list(islice(played, _BATCH)):
            progress.advance(task, replayer.put_back(batch))


def _catch_up(where: Connections, log: Log) -> tuple[int, int]:
    """How many of the last users have a list that has seen their last event, and of how many."""
    last: dict[str, Imported] = {}
    for one in reversed(log.events):
        if len(last) == _LAST_USERS:
            break
        last.setdefault(one.body["user_id"], one)
    deadline = time.monotonic() + _CATCH_UP_LIMIT_S
    met = 0
    with RankedFeed(where, timeout_ms=500) as feed, err.status("Waiting until the job has read the log"):
        for user, one in last.items():
            while time.monotonic() < deadline:
                if feed.get(user, at_least=one.body["event_id"], wait_ms=500).met:
                    met += 1
                    break
    return met, len(last)


def _show_columns(path: Path, columns: dict[str, str]) -> None:
    table = Table("what", "column", "by", "for example")
    for guess in guess_columns(path, columns):
        table.add_row(*map(Text, guess))
    out.print(table)


def _show_list(where: Connections, one: Imported) -> None:
    user = one.body["user_id"]
    with RankedFeed(where, timeout_ms=500) as feed:
        answer = feed.get(user, k=_SHOWN)
    out.print(f"The list of {user}: {', '.join(answer.items) or answer.fallback}", markup=False, highlight=False)
    err.print(f"Show it again with `riffle feed {user}`; `riffle down` stops what was started.", markup=False)


def _items_of(body: dict[str, Any]) -> Iterable[str]:
    if "item_id" in body:
        return [body["item_id"]]
    return [line["item_id"] for line in body.get("props", {}).get("items", [])]


def _as_text(described: dict[str, Any]) -> dict[str, Any]:
    return {name: float(value) if name == "price" else str(value) for name, value in described.items()}
