"""riffle trace: where one event is, or where it stopped and why."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Annotated

import msgspec
import typer
from rich.text import Text

from cli.connecting import connections, err, out, plainly
from client.dead_letters import printable
from client.feed import RankedFeed
from client.scan import Limits, Scanner
from client.trace import Trace
from client.trace import trace as trace_event
from schemas.event import EventId
from schemas.ranking import Freshness


def trace(
    event_id: Annotated[str, typer.Argument(metavar="EVENT_ID", help="The id of the event.")],
    limit_s: Annotated[float, typer.Option(help="How long to search.", min=1)] = 30.0,
    records: Annotated[int, typer.Option(help="How many records to read at most.", min=1)] = 1_000_000,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Follow one event: its place on `events`, its number, the lists that have seen it; or where it stopped and why.

    Topics are read backwards from their newest records, within the limits; exit code 1 says that it is on no topic.

    Example:

        riffle trace 5f0c2d6e9b2f4b0e8a6f
    """
    with plainly():
        try:
            msgspec.convert(event_id, EventId)
        except msgspec.ValidationError as error:
            raise typer.BadParameter(str(error)) from error
        where = connections()
        with err.status("searching") as status:

            def say(topic: str, done: int, total: int) -> None:
                status.update(f"{topic}: {done:,} of {total:,}")

            with Scanner(where, Limits(records=records, seconds=limit_s), say) as scanner, RankedFeed(where) as feed:

                def freshness_of(key: str) -> Freshness | None:
                    kind, _, name = key.partition(":")
                    if kind not in ("u", "s") or not name:
                        return None
                    return feed.get(name if kind == "u" else None, session_id=name if kind == "s" else None).freshness

                found = trace_event(event_id, scanner, freshness_of)
    if json:
        out.print_json(msgspec.json.encode(found).decode())
    else:
        out.print(trace_view(found), soft_wrap=True)
    if not (found.sightings or found.interaction or found.dead or found.late):
        raise typer.Exit(1)


def trace_view(found: Trace) -> Text:
    """One line per place, in the order of an event's life, and the conclusion."""
    lines = [f"event {printable(found.event_id.encode())}"]
    for sighting in found.sightings:
        via = f", put back by {sighting.via}" if sighting.via else ""
        key = printable(sighting.key.encode())
        lines.append(
            f"  {sighting.topic:<13} {sighting.partition}:{sighting.offset}  {_when(sighting.append_ms)}  {key}{via}"
        )
    if found.interaction is not None:
        part = found.interaction
        notes = f" ({', '.join(part.notes)})" if part.notes else ""
        lines.append(
            f"  interactions  number {part.event_no} of {printable(part.key.encode())}, epoch {part.state_epoch}{notes}"
        )
    lines += [
        f"  ranked-feed   list {seen.list_no} on {seen.surface}  {_when(seen.created_ms)}  "
        f"after {seen.trigger}  {seen.list_id}"
        for seen in found.lists
    ]
    for letter, topic in ((found.dead, "events-dlq"), (found.late, "events-late")):
        if letter is not None:
            detail = printable(letter.detail.encode())
            lines.append(f"  {topic:<13} {letter.name}  {_when(letter.append_ms)}  {letter.reason} {detail}")
    if found.cut_short:
        lines.append(f"  not read to the end: {', '.join(found.cut_short)}; raise --limit-s or --records")
    return Text("\n".join([*lines, printable(found.conclusion.encode())]))


def _when(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, tz=timezone.utc).isoformat(timespec="milliseconds")
