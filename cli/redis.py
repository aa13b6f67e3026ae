"""riffle redis: what Redis holds, made anew."""

from __future__ import annotations

import time
from typing import Annotated

import msgspec
import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from cli.connecting import connections, err, fail, out, plainly, redis_nodes
from client.rebuild import rebuild as rebuild_redis
from client.scan import Limits, Scanner

app = typer.Typer(help="Redis: the copy of lists and features that services read.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Redis: the copy of lists and features that services read."""


@app.command()
def rebuild(
    limit_s: Annotated[float, typer.Option(help="How long it may take.", min=1)] = 3_600.0,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Write every user's newest lists and features, and every item's counters, to Redis, from the compacted topics.

    For after Redis was lost or emptied. Safe beside a running job: what Redis holds newer stays.

    Example:

        riffle redis rebuild
    """
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=err,
        transient=True,
    )
    tasks: dict[str, TaskID] = {}

    def say(topic: str, done: int, total: int) -> None:
        if topic not in tasks:
            tasks[topic] = bar.add_task(topic, total=total)
        bar.update(tasks[topic], completed=done, total=total)

    with plainly():
        where = connections()
        nodes = redis_nodes(where)
        with bar, Scanner(where, Limits(records=2**62, seconds=limit_s), say) as scanner:
            rebuilt = rebuild_redis(scanner, nodes, where.redis_namespace, int(time.time() * 1000))
            unfinished = scanner.cut_short
        nodes.close()
    if json:
        out.print_json(msgspec.json.encode(rebuilt).decode())
    else:
        out.print(
            f"{rebuilt.lists} lists, {rebuilt.features} users' features, {rebuilt.item_rows} rows of counters and "
            f"{rebuilt.top_lists} top lists written; "
            f"{rebuilt.kept} were there already, {rebuilt.expired} too old, {rebuilt.unreadable} unreadable."
        )
    if unfinished:
        fail(
            f"The time limit ended it before the end of {', '.join(unfinished)}: run it again with a longer --limit-s."
        )
