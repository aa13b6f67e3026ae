"""Log files: records of a topic, or somebody's own actions, in csv, csv.gz or parquet, batch by batch.

    value, append_ms (key, partition, offset)   records as they stood on a topic
    user, item, event, ts …                     actions, read as `riffle replay-log` reads them; each was appended when it happened
    item_id (title, category, …)                a catalogue, known from the beginning

What cannot be read is named with its place and counted; the rest is read all the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq

from client.errors import InvalidArgument
from client.importing import read_log
from schemas.event import Rejected, parse_event
from schemas.items import Item
from schemas.keys import user_key

EVENTS, LISTS, ITEMS = "events", "lists", "items"  # what a file may hold
SUFFIXES = (".csv", ".csv.gz", ".parquet")
BATCH = 50_000
_RECORD = ("value", "append_ms")
_ITEM_FIELDS = tuple(field.name for field in msgspec.structs.fields(Item))


class LogRecord(NamedTuple):
    """A record, wherever it came from. `partition` and `offset` are its place; of a file, 0 and the row."""

    append_ms: int
    key: str | None
    value: bytes | None
    partition: int
    offset: int


class Found(NamedTuple):
    """Rows of one batch that are records, and how many are none, by reason with the first row's number."""

    records: list[LogRecord]
    skipped: Counter[str]


def files_of(path: Path) -> list[Path]:
    """The file, or the folder's files in order of name. Raises InvalidArgument."""
    if path.is_dir():
        found = sorted(one for one in path.rglob("*") if one.is_file() and one.name.endswith(SUFFIXES))
        if not found:
            raise InvalidArgument(f"{path} holds no {', '.join(SUFFIXES)} file: name another folder.")
        return found
    if not path.is_file():
        raise InvalidArgument(f"{path} does not exist: name a file or a folder.")
    return [path]


def read_records(path: Path, holds: str, columns: dict[str, str] | None = None) -> Iterator[Found]:
    """The file's records, batch by batch. Raises InvalidArgument naming the file, and the column where it is one."""
    names = _names(path)
    if set(_RECORD) <= set(names):
        yield from _raw(path, names, holds)
    elif holds == EVENTS:
        yield _actions(path, columns or {})
    elif holds == ITEMS and "item_id" in names:
        yield from _catalogue(path, names)
    else:
        needed = "value, append_ms, or item_id" if holds == ITEMS else "value, append_ms"
        raise InvalidArgument(f"{path} holds no {holds}: it has the columns {', '.join(names)}, and needs {needed}.")


def _actions(path: Path, columns: dict[str, str]) -> Found:
    log = read_log(path, columns)
    made = []
    for ts_ms, row, body in log.events:
        value = msgspec.json.encode(body | {"ts_ms": ts_ms})
        made.append(LogRecord(ts_ms, user_key(body.get("user_id"), body["session_id"]), value, 0, row))
    return Found(made, Counter(log.skipped))


def _raw(path: Path, names: list[str], holds: str) -> Iterator[Found]:
    kept = [name for name in ("key", "value", "append_ms", "partition", "offset") if name in names]
    for first, batch in _batches(path, kept):
        made, skipped = list[LogRecord](), Counter[str]()
        for row, one in enumerate(batch.to_pylist(), start=first):
            append_ms, value = one["append_ms"], _bytes(one["value"])
            if not isinstance(append_ms, int) or append_ms < 0:
                skipped["append_ms is no time in ms"] += 1
                continue
            key = _text(one.get("key"))
            if key is None and holds == EVENTS:
                key = _key_of(value)
            place = one.get("partition"), one.get("offset")
            partition, offset = place if isinstance(place[0], int) and isinstance(place[1], int) else (0, row)
            made.append(LogRecord(append_ms, key, value, partition, offset))
        yield Found(made, skipped)


def _catalogue(path: Path, names: list[str]) -> Iterator[Found]:
    kept = [name for name in _ITEM_FIELDS if name in names]
    for first, batch in _batches(path, kept):
        made, skipped = list[LogRecord](), Counter[str]()
        for row, one in enumerate(batch.to_pylist(), start=first):
            given = {name: str(value) if name in _TEXTS else value for name, value in one.items() if value is not None}
            try:
                item = msgspec.convert(given, Item)
            except msgspec.ValidationError as error:
                skipped[f"not an item: {error}"] += 1
                continue
            made.append(LogRecord(0, item.item_id, msgspec.json.encode(item), 0, row))
        yield Found(made, skipped)


_TEXTS = ("item_id", "title", "category", "subcategory", "seller")


def _names(path: Path) -> list[str]:
    try:
        if path.suffix == ".parquet":
            return list(pq.read_schema(path).names)
        with pc.open_csv(path) as reader:
            return list(reader.schema.names)
    except (OSError, pa.ArrowInvalid) as error:
        raise _damaged(path, error) from error


def _batches(path: Path, kept: Sequence[str]) -> Iterator[tuple[int, pa.RecordBatch]]:
    """(number of the batch's first row, batch). Text stays text, whatever it looks like."""
    row = 0
    try:
        if path.suffix == ".parquet":
            found: Any = pq.ParquetFile(path).iter_batches(BATCH, columns=list(kept))
        else:
            types = {name: pa.string() for name in (*_TEXTS, "key", "value")}
            found = pc.open_csv(
                path,
                parse_options=pc.ParseOptions(newlines_in_values=True),
                convert_options=pc.ConvertOptions(include_columns=list(kept), column_types=types),
            )
        for batch in found:
            yield row, batch
            row += batch.num_rows
    except (OSError, pa.ArrowInvalid) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> InvalidArgument:
    first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return InvalidArgument(f"{path} is neither csv nor parquet, or damaged: {first[:200]}")


def _key_of(value: bytes | None) -> str | None:
    """The key that an event travels under; None for what is no event, which is refused under any."""
    event = parse_event(value)
    return None if isinstance(event, Rejected) else user_key(event.user_id, event.session_id)


def _bytes(value: Any) -> bytes | None:
    return value.encode() if isinstance(value, str) else value


def _text(value: Any) -> str | None:
    return value.decode(errors="replace") if isinstance(value, bytes) else value
