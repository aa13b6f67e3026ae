"""riffle parity: training rows that the job wrote, against rows built again from the log in this process."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Annotated, Any, TypeVar

import msgspec
import typer
from rich.table import Table

from cli.connecting import connections, err, fail, out, plainly
from client.errors import InvalidArgument
from client.scan import Limits, Scanner
from schemas import topics
from schemas.connections import Connections
from schemas.interaction import decode_interaction
from schemas.ranking import decode_list
from schemas.training import TrainingRow, decode_row
from udfs.logic.attribution import Rules
from udfs.logic.backfill import Logged, training_rows
from udfs.logic.parity import Report, compare

T = TypeVar("T")
_HOUR_MS = 3_600_000
_RECORDS = 50_000_000


def parity(
    hours: Annotated[float, typer.Option(help="Exposures of the last so many hours.", min=0.01)] = 24.0,
    at_least: Annotated[float, typer.Option(help="Share of equal values below which the exit code is 1.")] = 1.0,
    settle_s: Annotated[
        int, typer.Option(help="Leave out what happened in the last so many seconds: it may be on its way.", min=0)
    ] = 60,
    click_s: Annotated[int, typer.Option(help="Windows as the job has them.", min=1)] = 30 * 60,
    dwell_s: Annotated[int, typer.Option(min=1)] = 30 * 60,
    cart_s: Annotated[int, typer.Option(min=1)] = 24 * 3600,
    purchase_s: Annotated[int, typer.Option(min=1)] = 7 * 86_400,
    return_s: Annotated[int, typer.Option(min=1)] = 7 * 86_400,
    limit_s: Annotated[float, typer.Option(help="How long to read Kafka.", min=1)] = 600.0,
    json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Compare training rows with rows built again from `interactions` and `ranked-feed`, field by field.

    Only outcomes whose window has closed are compared. The report names the field, the user, and the first exposure at which
    the two part.

    Example:

        riffle parity --hours 6
    """
    windows = (click_s * 1000, dwell_s * 1000, cart_s * 1000, purchase_s * 1000, return_s * 1000)
    rules = Rules(**dict(zip(("click_ms", "dwell_ms", "cart_ms", "purchase_ms", "return_ms"), windows)))
    as_of_ms = int(time.time() * 1000) - settle_s * 1000
    with plainly():
        report = check(connections(), as_of_ms - int(hours * _HOUR_MS), as_of_ms, rules, limit_s)
    if json:
        out.print_json(msgspec.json.encode(report).decode())
    else:
        _print(report)
    if report.share < at_least:
        fail(f"{report.share:.4%} of the values are equal, and {at_least:.4%} are wanted.")


def check(where: Connections, from_ms: int, as_of_ms: int, rules: Rules, limit_s: float) -> Report:
    """The report on exposures from `from_ms` on. Raises InvalidArgument where the time limit ends the reading."""
    # With all that there is: what happened by `as_of_ms` may have been appended a moment later.
    rebuilt = training_rows(_log(where, from_ms - rules.list_ms, limit_s), rules)
    written: dict[str, TrainingRow] = {}
    for _, row in _read(where, topics.TRAINING_ROWS, from_ms, limit_s, decode_row):
        if row.row_id not in written or row.revision > written[row.row_id].revision:
            written[row.row_id] = row
    return compare(_since(written, from_ms), _since(rebuilt, from_ms), as_of_ms, rules)


def _log(where: Connections, from_ms: int, limit_s: float) -> Iterator[Logged]:
    for append_ms, ranked in _read(where, topics.RANKED_FEED, from_ms, limit_s, decode_list):
        yield Logged(append_ms, ranked)
    for append_ms, interaction in _read(where, topics.INTERACTIONS, from_ms, limit_s, decode_interaction):
        yield Logged(append_ms, interaction)


def _read(
    where: Connections, name: str, from_ms: int, limit_s: float, decode: Callable[[bytes], T]
) -> Iterator[tuple[int, T]]:
    """(append time, record) of what can be read; the job puts the rest aside as well."""
    with Scanner(where, Limits(records=_RECORDS, seconds=limit_s)) as scanner:
        for record in scanner.since(name, max(from_ms, 0)):
            try:
                yield record.timestamp, decode(record.value or b"")
            except (msgspec.DecodeError, UnicodeDecodeError):
                continue
        if scanner.cut_short:
            raise InvalidArgument(f"{name} was not read to its end: choose fewer --hours or a longer --limit-s.")


def _since(rows: dict[str, TrainingRow], from_ms: int) -> dict[str, TrainingRow]:
    return {name: row for name, row in rows.items() if row.shown_ms >= from_ms}


def _print(report: Report) -> None:
    table = Table("field", "compared", "equal", "worst error", "parts first at")
    for name, field in report.fields.items():
        first: Any = field.first
        where = "" if first is None else f"{first.key}, {first.item_id}, impression {first.event_id}: "
        said = "" if first is None else f"{where}{first.written!r} written, {first.rebuilt!r} rebuilt"
        table.add_row(name, str(field.compared), str(field.equal), f"{field.worst:.3g}" if field.worst else "", said)
    out.print(table)
    out.print(f"{report.rows} rows on both sides, {len(report.missing)} missing, {len(report.unexpected)} unexpected.")
    _name("Missing", report.missing)
    _name("Unexpected", report.unexpected)


def _name(what: str, events: Iterable[str]) -> None:
    shown = list(events)[:10]
    if shown:
        err.print(f"{what}, by impression: {', '.join(shown)}", markup=False, highlight=False, soft_wrap=True)
