"""riffle replay-log: somebody's own log, played into Kafka with the gaps that it had."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress

from cli.connecting import connections, err, out, plainly
from client.errors import InvalidArgument
from client.importing import Log, read_log, records
from client.replay import Replayer
from schemas.record import TopicRecord

_BATCH = 500
_DUE_MS = 200  # what is due within this time is sent together


def replay_log(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="csv, csv.gz or parquet.")],
    speed: Annotated[str, typer.Option(help="How many times as fast as it happened, such as 60x.")] = "60x",
    columns: Annotated[
        list[str] | None, typer.Option("--column", help="Which column is what, such as user=customer; may be repeated.")
    ] = None,
    count: Annotated[int | None, typer.Option("-n", help="Only the first so many events.", min=1)] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what the file holds.")] = False,
) -> None:
    """Play a log into `events`: user, item, event and time per row, or a RecSys Challenge 2019 file.

    The gaps between events stay what they were; the last event happens when the replay ends.

    Example:

        riffle replay-log events.csv --speed 60x --column user=customer
    """
    with plainly():
        log = read_log(file, mapping(columns or []))
        if count is not None:
            log = Log(log.events[:count], log.skipped)
        factor = _factor(speed)
        out.print(
            f"{len(log.events)} events over {log.span_ms / 3_600_000:.1f} h, "
            f"{log.span_ms / factor / 1000:.0f} s at this speed.",
            highlight=False,
        )
        for reason, times in sorted(log.skipped.items()):
            err.print(f"{times} rows left out: {reason}", markup=False, highlight=False)
        if dry_run:
            return
        with Replayer(connections()) as replayer, Progress(console=err, disable=not err.is_terminal) as progress:
            task = progress.add_task("events", total=len(log.events))
            for batch in due(records(log, factor, int(time.time() * 1000))):
                progress.advance(task, replayer.put_back(batch))


def due(paced: Iterable[tuple[int, TopicRecord]]) -> Iterator[list[TopicRecord]]:
    """Batches of records, each handed out when its first record is due."""
    begun, waiting = time.monotonic(), iter(paced)
    held = list(islice(waiting, 1))
    while held:
        first_ms = held[0][0]
        batch: list[TopicRecord] = []
        while held and held[0][0] <= first_ms + _DUE_MS and len(batch) < _BATCH:
            batch.append(held.pop()[1])
            held = list(islice(waiting, 1))
        time.sleep(max(0.0, begun + first_ms / 1000 - time.monotonic()))
        yield batch


def mapping(columns: list[str]) -> dict[str, str]:
    pairs = [one.partition("=") for one in columns]
    for ours, equals, theirs in pairs:
        if not (ours and equals and theirs):
            raise InvalidArgument(f"--column {ours}{equals}{theirs}: write it as user=customer.")
    return {ours: theirs for ours, _, theirs in pairs}


def _factor(speed: str) -> float:
    try:
        factor = float(speed.removesuffix("x"))
    except ValueError:
        factor = 0.0
    if not 0 < factor < 1e9:
        raise InvalidArgument(f"--speed {speed}: write a number above 0, such as 60x.")
    return factor
