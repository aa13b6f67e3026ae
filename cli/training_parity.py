"""riffle parity: training rows, session features and counters that the jobs wrote, against the same built again in this process."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Annotated, TypeVar

import msgspec
import typer
from rich.table import Table
from rich.text import Text

from cli.connecting import connections, err, fail, out, plainly
from client.dead_letters import printable
from client.errors import InvalidArgument
from client.scan import Limits, Scanner
from schemas import topics
from schemas.connections import Connections
from schemas.decision import DecisionError, decode_decision
from schemas.features import registry
from schemas.features_row import ItemRow, RowError, RowKey, row_codec
from schemas.identity import Merge, decode_identity
from schemas.interaction import Interaction, decode_interaction
from schemas.ranking import SessionFeatures, decode_features, decode_list
from schemas.training import TrainingRow, decode_row
from udfs.logic.attribution import Rules
from udfs.logic.backfill import Logged, training_rows
from udfs.logic.parity import Report, compare, compare_counts, compare_sessions

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
    """Compare training rows, session features and counters with the same built again from `interactions` and `ranked-feed`.

    Of training rows, only outcomes whose window has closed are compared; of users, those whose events are all on the topic.
    The report names the field, the user, and the first event at which the two part.

    Example:

        riffle parity --hours 6
    """
    windows = (click_s * 1000, dwell_s * 1000, cart_s * 1000, purchase_s * 1000, return_s * 1000)
    rules = Rules(**dict(zip(("click_ms", "dwell_ms", "cart_ms", "purchase_ms", "return_ms"), windows)))
    as_of_ms = int(time.time() * 1000) - settle_s * 1000
    from_ms = as_of_ms - int(hours * _HOUR_MS)
    with plainly():
        where = connections()
        reports = {
            "training rows": check(where, from_ms, as_of_ms, rules, limit_s),
            "session features": check_sessions(where, from_ms, as_of_ms, limit_s),
            "item counters": check_counts(where, as_of_ms, limit_s),
        }
    if json:
        out.print_json(msgspec.json.encode(reports).decode())
    else:
        for title, report in reports.items():
            _print(title, report)
    worst = min(report.share for report in reports.values())
    if worst < at_least:
        fail(f"{worst:.4%} of the values are equal, and {at_least:.4%} are wanted.")


def check(where: Connections, from_ms: int, as_of_ms: int, rules: Rules, limit_s: float) -> Report:
    """The report on exposures from `from_ms` on. Raises InvalidArgument where the time limit ends the reading."""
    # With all that there is: what happened by `as_of_ms` may have been appended a moment later.
    rebuilt = training_rows(_log(where, from_ms - rules.list_ms, limit_s), rules)
    written: dict[str, TrainingRow] = {}
    for _, row in _read(where, topics.TRAINING_ROWS, from_ms, limit_s, decode_row):
        if row.row_id not in written or row.revision > written[row.row_id].revision:
            written[row.row_id] = row
    return compare(_since(written, from_ms), _since(rebuilt, from_ms), as_of_ms, rules)


def check_sessions(where: Connections, from_ms: int, as_of_ms: int, limit_s: float) -> Report:
    """The report on the newest features of users, written from `from_ms` to `as_of_ms`."""
    newest: dict[str, SessionFeatures] = {}
    for append_ms, one in _read(where, topics.FEATURES, from_ms, limit_s, decode_features):
        if append_ms <= as_of_ms:
            newest[one.key] = one
    merged = {
        one.key for _, one in _read(where, topics.IDENTITY, 0, limit_s, decode_identity) if isinstance(one, Merge)
    }
    interactions = (one for _, one in _read(where, topics.INTERACTIONS, 0, limit_s, decode_interaction))
    return compare_sessions(newest.values(), interactions, merged)


def check_counts(where: Connections, as_of_ms: int, limit_s: float) -> Report:
    """The report on the newest rows of items and contexts; nothing to compare where item-aggregates has never run."""
    written = _item_rows(where, limit_s)
    if not written:
        return Report()

    def interactions() -> Iterator[Interaction]:
        return (one for _, one in _read(where, topics.INTERACTIONS, 0, limit_s, decode_interaction))

    return compare_counts(written, interactions, registry(), as_of_ms)


def _item_rows(where: Connections, limit_s: float) -> dict[RowKey, ItemRow]:
    """The newest row of each key, of this release's version."""
    codec = row_codec()
    rows: dict[RowKey, ItemRow | None] = {}
    with Scanner(where, Limits(records=_RECORDS, seconds=limit_s)) as scanner:
        for record in scanner.everything(topics.ITEM_FEATURES):
            try:
                key = codec.row_key(record.key)
                if key is not None:
                    rows[key] = None if record.value is None else codec.decode(record.value)
            except RowError:
                continue  # of a newer release, or somebody else's
        if scanner.cut_short:
            raise InvalidArgument(f"{topics.ITEM_FEATURES} was not read to its end: choose a longer --limit-s.")
    return {key: row for key, row in rows.items() if row is not None}


def _log(where: Connections, from_ms: int, limit_s: float) -> Iterator[Logged]:
    for append_ms, ranked in _read(where, topics.RANKED_FEED, from_ms, limit_s, decode_list):
        yield Logged(append_ms, ranked)
    for append_ms, decision in _read(where, topics.RANKINGS_LOG, from_ms, limit_s, decode_decision):
        yield Logged(append_ms, decision)
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
            except (msgspec.DecodeError, UnicodeDecodeError, DecisionError):
                continue
        if scanner.cut_short:
            raise InvalidArgument(f"{name} was not read to its end: choose fewer --hours or a longer --limit-s.")


def _since(rows: dict[str, TrainingRow], from_ms: int) -> dict[str, TrainingRow]:
    return {name: row for name, row in rows.items() if row.shown_ms >= from_ms}


def _print(title: str, report: Report) -> None:
    table = Table("field", "compared", "equal", "worst error", "parts first at", title=title)
    for name, field in report.fields.items():
        first = field.first
        said = ""
        if first is not None:
            item = f", {first.item_id}" if first.item_id else ""
            said = f"{first.key}{item}, event {first.event_id}: {first.written!r} written, {first.rebuilt!r} rebuilt"
        worst = f"{field.worst:.3g}" if field.worst else ""
        table.add_row(name, str(field.compared), str(field.equal), worst, Text(printable(said.encode(), 300)))
    out.print(table)
    out.print(
        f"{report.rows} on both sides, {len(report.missing)} missing, {len(report.unexpected)} unexpected, "
        f"{report.skipped} users skipped."
    )
    for what, events in (("Missing", report.missing), ("Unexpected", report.unexpected)):
        if events:
            err.print(f"{what}, by impression: {', '.join(events[:10])}", markup=False, highlight=False, soft_wrap=True)
