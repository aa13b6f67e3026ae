"""riffle send: events from JSON lines to Kafka."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from cli.connecting import connections, err, out, plainly
from client.dead_letters import printable
from client.errors import InvalidArgument, InvalidEvent
from client.events import Events, Token

_SHOWN = 20


class Refusal(msgspec.Struct, frozen=True):
    line: int
    reason: str
    detail: str


class Report(msgspec.Struct):
    """What became of the lines. `failed` were sent but not acknowledged; positions are (partition, offset) by event
    id."""

    sent: int = 0
    failed: int = 0
    rejected: list[Refusal] = []
    positions: dict[str, tuple[int, int]] = {}


def send(
    source: Annotated[
        str, typer.Argument(metavar="[FILE]", help="A file of JSON lines, or - for standard input.")
    ] = "-",
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait for each acknowledgement and print partition:offset.")
    ] = False,
    limit_s: Annotated[float, typer.Option(help="How long an event may take to be acknowledged.", min=0.1)] = 10.0,
    json: Annotated[bool, typer.Option("--json", help="Print the report as one JSON object.")] = False,
) -> None:
    """Send events, one JSON object per line, after checking each as the engine would.

    Lines that the engine would reject are not sent: they are listed with the reason, and the exit code is 1.

    Example:

        echo '{"event_id":"e1","session_id":"s1","user_id":"alice","event_type":"click","item_id":"shoe-7",
        "ts_ms":1767225600000,"schema_version":2}' | riffle send --wait
    """
    with (
        plainly(),
        _lines(source) as lines,
        Events(connections(), timeout_ms=int(limit_s * 1000), linger_ms=5) as events,
    ):
        report = send_lines(lines, events, wait=wait, limit_s=limit_s)
    if json:
        out.print_json(msgspec.json.encode(report).decode())
    else:
        _print(report)
    if report.rejected or report.failed:
        raise typer.Exit(1)


def send_lines(lines: Iterable[bytes], events: Any, *, wait: bool, limit_s: float) -> Report:
    """Send every valid line; `events` is a client.events.Events. Blank lines are skipped."""
    report = Report()
    tokens: list[Token] = []
    for number, line in enumerate(lines, start=1):
        raw = line.strip()
        if not raw:
            continue
        if events.pending >= 10_000:
            events.flush(limit_s)  # a file is faster than a broker: let it catch up
        try:
            token = events.send(raw)
        except InvalidEvent as error:
            report.rejected.append(Refusal(number, error.reason, error.detail))
            continue
        if wait:
            tokens.append(token)
    events.flush(limit_s)
    report.positions = {token.event_id: token.position(limit_s) for token in tokens}
    report.sent, report.failed = events.counters["sent"], events.counters["failed"]
    return report


def _print(report: Report) -> None:
    for event_id, (partition, offset) in report.positions.items():
        out.print(f"{printable(event_id.encode())} {partition}:{offset}", markup=False, highlight=False)
    out.print(f"{report.sent} sent, {len(report.rejected)} rejected, {report.failed} not acknowledged.")
    for refusal in report.rejected[:_SHOWN]:
        text = printable(f"line {refusal.line}: {refusal.reason}: {refusal.detail}".encode())
        err.print(text, markup=False, highlight=False, soft_wrap=True)
    if len(report.rejected) > _SHOWN:
        err.print(f"and {len(report.rejected) - _SHOWN} more; --json lists all.")


@contextmanager
def _lines(source: str) -> Iterator[Iterable[bytes]]:
    if source == "-":
        yield sys.stdin.buffer
        return
    with ExitStack() as stack:
        try:
            file = stack.enter_context(Path(source).open("rb"))
        except OSError as error:
            raise InvalidArgument(f"{source} cannot be read: {error.strerror}.") from error
        yield file
