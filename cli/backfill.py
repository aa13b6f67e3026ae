"""riffle backfill: features and training rows of a stretch of the past, from raw events, by the functions that the jobs call.

read (files or topics) ─ sorted by append time ─ udfs.logic.past, step by step ─ parquet
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import msgspec
import pyarrow as pa
import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from cli.connecting import connections, err, fail, out, plainly
from cli.importing import mapping
from client.backfill_files import BackfillFolder, Checkpoint, Input, Job, ReadInput, Row
from client.errors import InvalidArgument
from client.log_files import EVENTS, ITEMS, LISTS, files_of, read_records
from client.scan import Limits, Scanner, headers_of
from client.training_files import SCHEMA, Stored, flat
from schemas import headers, topics
from schemas.features import FeatureError, Registry, registry
from schemas.ranking import decode_list
from udfs.logic import past
from udfs.logic.attribution import Rules
from udfs.logic.past import Dump, Made, Past
from udfs.logic.records import ALIAS, REROUTE

TOPIC = "topic"  # instead of a path: the project's own topic
_TOPICS = {EVENTS: topics.EVENTS, LISTS: topics.RANKED_FEED, ITEMS: topics.ITEMS}
_FILE_STEPS = 50_000  # steps whose results are one file of each table
_CHECKPOINT_S = 15.0
_BATCH = 5_000
_READ_LIMIT_S = 24 * 3600.0

_INSTANT = pa.timestamp("ms", tz="UTC")
_KEYED = [("level", pa.string()), ("name", pa.string())]
_REFUSED = pa.schema(
    [("appended", _INSTANT), ("what", pa.string()), ("partition", pa.int32()), ("offset", pa.int64()),
     ("reason", pa.string()), ("detail", pa.string())]
)  # fmt: skip
_UNMATCHED = pa.schema(
    [("made", _INSTANT), ("reason", pa.string()), ("key", pa.string()), ("event_id", pa.string()),
     ("kind", pa.string()), ("item_id", pa.string()), ("ts", _INSTANT), ("list_id", pa.string())]
)  # fmt: skip


class Report(msgspec.Struct):
    """What a backfill read and made: report.json beside the tables."""

    inputs: list[ReadInput]
    steps: int
    users: int
    counted: dict[str, int]

    @property
    def damaged(self) -> list[ReadInput]:
        return [one for one in self.inputs if one.damage is not None]


class Span(NamedTuple):
    """What is made of: from (inclusive) to (exclusive), in ms since 1970."""

    from_ms: int
    to_ms: int


def backfill(
    events: Annotated[str, typer.Option(help="Raw events: a file, a folder, or `topic` for the topic `events`.")],
    start: Annotated[str, typer.Option("--from", help="First moment, such as 2026-11-01 or 2026-11-01T12:00 (UTC).")],
    end: Annotated[str, typer.Option("--to", help="The moment after the last: nothing of it or later is read.")],
    folder: Annotated[Path, typer.Option("--out", help="A new folder, or that of a backfill to go on with.")],
    lists: Annotated[str | None, typer.Option(help="Ranked lists, likewise: without them no training rows.")] = None,
    items: Annotated[str | None, typer.Option(help="The catalogue, likewise: groups of items.")] = None,
    columns: Annotated[
        list[str] | None, typer.Option("--column", help="Which column is what, such as user=customer; may be repeated.")
    ] = None,
    click_s: Annotated[int, typer.Option(help="Windows as the job has them.", min=1)] = 30 * 60,
    dwell_s: Annotated[int, typer.Option(min=1)] = 30 * 60,
    cart_s: Annotated[int, typer.Option(min=1)] = 24 * 3600,
    purchase_s: Annotated[int, typer.Option(min=1)] = 7 * 86_400,
    return_s: Annotated[int, typer.Option(min=1)] = 7 * 86_400,
) -> None:
    """Make features and training rows of the past, as the jobs would have made them then: nothing later is in them.

    Events before --from are read as well: sessions and the 28-day counters begin with them. Killed, it goes on where it was.

    Examples:

        riffle backfill --events events.csv --from 2026-11-01 --to 2026-11-08 --out past

        riffle backfill --events topic --lists topic --items topic --from 2026-11-21 --to 2026-11-22 --out past
    """
    windows = (click_s * 1000, dwell_s * 1000, cart_s * 1000, purchase_s * 1000, return_s * 1000)
    rules = Rules(**dict(zip(("click_ms", "dwell_ms", "cart_ms", "purchase_ms", "return_ms"), windows)))
    with plainly():
        span = Span(_moment(start, "--from"), _moment(end, "--to"))
        if span.to_ms <= span.from_ms:
            raise InvalidArgument(f"--to {end} is not after --from {start}: give a later time.")
        try:
            features = registry()
        except FeatureError as error:
            raise InvalidArgument(str(error)) from error
        sources = _sources({EVENTS: events, LISTS: lists, ITEMS: items}, mapping(columns or []), span)
        asked = [source.input for source in sources]
        job = Job(asked, *span, str(rules), features.published())
        kept = BackfillFolder(folder)
        bars = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with kept.writing(job), Progress(*bars, console=err, disable=not err.is_terminal) as progress:
            read = _read(kept, sources, progress)
            if all(one.damage is not None for one in read):
                raise InvalidArgument("; ".join(str(one.damage) for one in read))
            report = _make(kept, Past(features, rules), features, span, read, progress)
            kept.finish(msgspec.json.format(msgspec.json.encode(report)))
    _print(report, folder)


# ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class Source(NamedTuple):
    """One input, and how to read it: batches of rows, with what is skipped noted in its ReadInput."""

    input: Input
    batches: Callable[[ReadInput], Iterator[list[Row]]]


def _sources(asked: dict[str, str | None], columns: dict[str, str], span: Span) -> list[Source]:
    found = []
    for holds, where in asked.items():
        if where == TOPIC:
            found.append(Source(Input(f"topic {_TOPICS[holds]}", 0, 0), _topic_reader(holds, span)))
        elif where is not None:
            for path in files_of(Path(where)):
                about = path.stat()
                place = Input(f"{holds} {path}", about.st_size, about.st_mtime_ns)
                found.append(Source(place, _file_reader(path, holds, columns, span)))
    return found


def _file_reader(
    path: Path, holds: str, columns: dict[str, str], span: Span
) -> Callable[[ReadInput], Iterator[list[Row]]]:
    def batches(said: ReadInput) -> Iterator[list[Row]]:
        skipped = Counter[str]()
        try:
            for found in read_records(path, holds, columns if holds == EVENTS else None):
                skipped.update(found.skipped)
                yield [row for one in found.records for row in _rows(holds, *one, span)]
        except InvalidArgument as error:
            said.damage = str(error)
        said.skipped = dict(skipped)

    return batches


def _topic_reader(holds: str, span: Span) -> Callable[[ReadInput], Iterator[list[Row]]]:
    def batches(said: ReadInput) -> Iterator[list[Row]]:
        again = 0
        batch: list[Row] = []
        with Scanner(connections(), Limits(records=2**62, seconds=_READ_LIMIT_S)) as scanner:
            for record in scanner.everything(_TOPICS[holds]):
                if len(batch) >= _BATCH:
                    yield batch
                    batch = []
                found = headers_of(record)
                if found.get(headers.VIA) in (REROUTE, ALIAS):
                    again += 1  # sent by the job from one user to another, as it will be here
                    continue
                first = found.get(headers.APPEND_MS, "")
                append_ms = int(first) if found.get(headers.VIA) and first.isdecimal() else record.timestamp
                key = record.key.decode(errors="replace") if record.key is not None else None
                batch += _rows(holds, append_ms, key, record.value, record.partition, record.offset, span)
            if scanner.cut_short:
                raise InvalidArgument(f"The topic {_TOPICS[holds]} was not read to its end: run it again.")
        yield batch
        said.skipped = {"put back by the job": again} if again else {}

    return batches


def _rows(
    holds: str, append_ms: int, key: str | None, value: bytes | None, partition: int, offset: int, span: Span
) -> Iterator[Row]:
    """A record as steps; nothing for what was not there yet at --to."""
    if append_ms >= span.to_ms:
        return
    kind = {EVENTS: past.EVENT, LISTS: past.LIST, ITEMS: past.ITEM}[holds]
    yield Row(append_ms, kind, partition, offset, key, value)
    if holds == LISTS:
        try:
            yield Row(decode_list(value or b"").created_ms, past.SERVED, partition, offset, key, value)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return  # refused when its turn to be joined comes


def _read(kept: BackfillFolder, sources: list[Source], progress: Progress) -> list[ReadInput]:
    """Keep every input that is not kept yet, and what was found in it."""
    task = progress.add_task("reading", total=len(sources))
    read = []
    for number, source in enumerate(sources):
        said = kept.read_before(number)
        if said is None:
            said = ReadInput(source.input.name)
            kept.spill(number, said, _counted(source.batches(said), said))
        read.append(said)
        progress.advance(task)
    return read


def _counted(batches: Iterator[list[Row]], said: ReadInput) -> Iterator[list[Row]]:
    for batch in batches:
        said.rows += len(batch)
        yield batch


# ── making ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _make(
    kept: BackfillFolder, engine: Past, features: Registry, span: Span, read: list[ReadInput], progress: Progress
) -> Report:
    counted = Counter[str]()
    taken = files = 0
    before = kept.checkpoint()
    if before is not None:
        taken, files, counted = before.taken, before.files, Counter(before.counted)
        engine.restore(msgspec.msgpack.decode(before.state, type=Dump))
    tables = Tables(kept, features, engine, span)
    task = progress.add_task("steps", total=kept.total(), completed=taken)
    made, kept_s = Made(), time.monotonic()

    def end_file() -> None:
        nonlocal made, files, kept_s
        tables.write(files, made)
        counted.update(made.counted)
        made, files = Made(), files + 1
        if time.monotonic() - kept_s >= _CHECKPOINT_S:
            state = msgspec.msgpack.encode(engine.dump())
            kept.keep(Checkpoint(taken, files, dict(counted), state))
            kept_s = time.monotonic()

    for row in kept.rows(skip=taken):
        engine.take(past.Step(*row), made)
        taken += 1
        if taken % _BATCH == 0:
            progress.update(task, completed=taken)
        if taken % _FILE_STEPS == 0:
            end_file()
    engine.finish(span.to_ms, made)
    end_file()
    progress.update(task, completed=taken)
    return Report(read, taken, engine.users, dict(sorted(counted.items())))


class Tables:
    """What is made, as files of the tables, as far as it lies between --from and --to."""

    def __init__(self, kept: BackfillFolder, features: Registry, engine: Past, span: Span) -> None:
        self._kept, self._span = kept, span
        self._columns = [one.id for one in features.item_columns()]
        self._served = engine.feature_ids
        counts = [(name, pa.uint32()) for name in self._columns]
        groups = [("subcategory", pa.string()), ("category", pa.string())]
        self._item_schema = pa.schema([("as_of", _INSTANT), *_KEYED, *counts, *groups])
        values = [(name, pa.float32()) for name in self._served]
        self._served_schema = pa.schema(
            [("list_id", pa.string()), ("item_id", pa.string()), ("as_of", _INSTANT), *values]
        )

    def write(self, number: int, made: Made) -> None:
        from_ms, to_ms = self._span
        nowhere = {"topic_partition": None, "topic_offset": None}
        tables: dict[str, tuple[list[dict[str, Any]], pa.Schema]] = {
            "training-rows": (
                [
                    flat(Stored(0, 0, at_ms, None), row) | nowhere
                    for at_ms, row in made.rows
                    if from_ms <= row.shown_ms < to_ms
                ],
                SCHEMA,
            ),
            "list-features": (
                [
                    {"list_id": one.list_id, "item_id": item_id, "as_of": one.created_ms, **dict(zip(self._served, values))}
                    for one in made.served
                    if from_ms <= one.created_ms < to_ms
                    for item_id, values in zip(one.item_ids, one.values)
                ],
                self._served_schema,
            ),
            "item-features": (
                [
                    {"as_of": one.as_of_ms, "level": one.key.level, "name": one.key.name,
                     **dict(zip(self._columns, one.counts)), "subcategory": one.subcategory, "category": one.category}
                    for one in made.item_rows
                    if from_ms < one.as_of_ms
                ],
                self._item_schema,
            ),
            "unmatched": (
                [
                    {"made": at_ms, "reason": one.reason, "key": one.key, "event_id": one.event_id, "kind": one.kind,
                     "item_id": one.item_id, "ts": one.ts_ms, "list_id": one.list_id}
                    for at_ms, one in made.unmatched
                    if from_ms <= one.ts_ms < to_ms
                ],
                _UNMATCHED,
            ),
            "refused": (
                [
                    {"appended": one.at_ms, "what": one.kind, "partition": one.partition, "offset": one.offset,
                     "reason": one.reason, "detail": one.detail}
                    for one in made.refused
                ],
                _REFUSED,
            ),
        }  # fmt: skip
        for name, (rows, schema) in tables.items():
            self._kept.write(name, number, rows, schema)


def _moment(text: str, option: str) -> int:
    try:
        at = datetime.fromisoformat(text)
    except ValueError as error:
        raise InvalidArgument(f"{option} {text}: write it as 2026-11-01 or 2026-11-01T12:00.") from error
    return int((at if at.tzinfo else at.replace(tzinfo=timezone.utc)).timestamp() * 1000)


def _print(report: Report, folder: Path) -> None:
    for one in report.inputs:
        for reason, times in sorted(one.skipped.items()):
            err.print(f"{one.name}: {times} rows left out: {reason}", markup=False, highlight=False, soft_wrap=True)
    refused = {
        name.removeprefix("refused_"): times for name, times in report.counted.items() if name.startswith("refused_")
    }
    for reason, times in refused.items():
        err.print(f"{times} records refused: {reason} (the table refused)", markup=False, highlight=False)
    out.print(
        f"{report.steps} steps, {report.users} users and sessions; {report.counted.get('rows', 0)} training rows, "
        f"{report.counted.get('revisions', 0)} revisions of them. Tables and report.json are in {folder}.",
        highlight=False,
        soft_wrap=True,
    )
    if report.damaged:
        fail("Not read to the end: " + "; ".join(str(one.damage) for one in report.damaged))
