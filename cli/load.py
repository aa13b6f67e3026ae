"""riffle load: clicks at a fixed rate, and how long their lists take."""

from __future__ import annotations

import uuid
from typing import Annotated

import msgspec
import typer
from rich.progress import track
from rich.table import Table

from cli.connecting import connections, err, out, plainly
from demo.world import load as demo_world
from trials.open_loop import Percentiles, Plan, measure


def load(
    rate: Annotated[float, typer.Option(help="Events a second.", min=0.1)] = 50.0,
    users: Annotated[int, typer.Option(help="How many users they are spread over.", min=1)] = 2_000,
    seconds: Annotated[float, typer.Option(help="How long is measured.", min=1)] = 60.0,
    warm_up: Annotated[float, typer.Option(help="Seconds of the same load before that.", min=0)] = 5.0,
    wait_ms: Annotated[int, typer.Option(help="How long a read may wait for the event it demands.", min=0)] = 100,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Send clicks in an open loop to the running job, and measure until their lists are there.

    Latency counts from when a click was due, not from when it was sent: a slow engine cannot slow the load down. The users are
    made up (`load-…`), and the items are the demo catalogue's: not for a cluster that serves real users.

    Example:

        riffle load --rate 200 --users 5000 --seconds 30
    """
    items = [item.item_id for item in demo_world().items]
    plan = Plan(rate=rate, users=users, seconds=seconds, warm_up_s=warm_up, label=f"load-{uuid.uuid4().hex[:8]}")
    with plainly():
        latency = measure(
            connections(),
            plan,
            items,
            wait_ms=wait_ms,
            track=lambda numbers: track(numbers, "Sending", console=err, transient=True),
        )
    if json:
        typer.echo(msgspec.json.encode(latency).decode())
        return
    table = Table("ms", "p50", "p90", "p99", "p99.9")
    rows: dict[str, Percentiles] = {
        "due → list on Kafka": latency.event_to_list_on_kafka_ms,
        "due → ranked": latency.event_to_ranked_ms,
        "read that demands the event": latency.read_your_writes.wait_ms,
        **{f"ranking: {stage}": figures for stage, figures in latency.stages_ms.items()},
    }
    for name, figures in rows.items():
        table.add_row(name, *(f"{figures[at]:.1f}" if at in figures else "–" for at in ("p50", "p90", "p99", "p99.9")))
    out.print(table)
    reads = latency.read_your_writes
    out.print(
        f"{latency.events} events, {latency.lists} lists; {reads.met} of {reads.asked} reads met "
        f"within {wait_ms} ms; the sender was at most {latency.behind_ms:.0f} ms behind its schedule."
    )
