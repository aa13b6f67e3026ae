"""A backfill's folder: sorted runs of what was read, tables of what was made, and how far it has come.

    inputs ─ read, sorted by time ─ .work/runs/<input>/<n>.parquet ─ merged ─ steps ─ .work/made/<table>/<n>.parquet ─ <table>/
                                    one folder an input, at once              checkpoint: steps taken, state

A backfill that was killed goes on at its last checkpoint: what was made after it is made again. Tables are put in place, and
`.work` goes, when all is done.
"""

from __future__ import annotations

import fcntl
import heapq
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from client.errors import InvalidArgument

_RUN = 200_000  # rows sorted in memory at a time
_GROUP = 5_000  # rows of a run in memory while it is merged
_RUN_SCHEMA = pa.schema(
    [
        ("at_ms", pa.int64()),
        ("kind", pa.string()),
        ("partition", pa.int32()),
        ("offset", pa.int64()),
        ("key", pa.string()),
        ("value", pa.binary()),
    ]
)


class Row(NamedTuple):
    """A step of the log as it is kept: rows are taken in order of their first four fields."""

    at_ms: int
    kind: str
    partition: int
    offset: int
    key: str | None
    value: bytes | None


class Input(msgspec.Struct, frozen=True):
    """What was asked to be read; another one is another backfill."""

    name: str
    size: int
    changed_ns: int


class Job(msgspec.Struct, frozen=True):
    """What makes a backfill the same one."""

    inputs: list[Input]
    from_ms: int
    to_ms: int
    rules: str
    features: dict[str, str]


class ReadInput(msgspec.Struct):
    """What an input held. `damage` says why it could not be read to its end."""

    name: str
    rows: int = 0
    skipped: dict[str, int] = {}
    damage: str | None = None


class Checkpoint(msgspec.Struct):
    """`taken` steps are done and in the tables' files below `files`; `state` is the maker's own."""

    taken: int
    files: int
    counted: dict[str, int]
    state: bytes


class BackfillFolder:
    """One writer at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._work = folder / ".work"

    @contextmanager
    def writing(self, job: Job) -> Iterator[None]:
        """Hold the folder for this backfill. Raises InvalidArgument where it belongs to another one, or is done."""
        job_file = self._work / "job.json"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if not self._work.exists() and any(self.folder.iterdir()):
                raise InvalidArgument(f"{self.folder} is not empty: choose a new folder with --out.")
            self._work.mkdir(exist_ok=True)
            lock = (self._work / "lock").open("w")
        except OSError as error:
            raise InvalidArgument(f"{self.folder} cannot be written ({error.strerror}): choose another.") from error
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise InvalidArgument(f"Another backfill writes to {self.folder}: wait for it.") from error
            wanted = msgspec.json.encode(job)
            if job_file.exists() and job_file.read_bytes() != wanted:
                raise InvalidArgument(
                    f"{self.folder} holds an unfinished backfill of other input, time, windows or features: "
                    "remove the folder, or choose another with --out."
                )
            _replace(job_file, wanted)
            yield

    # ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def read_before(self, number: int) -> ReadInput | None:
        """What an earlier run has read of an input; None where it has to be read."""
        done = self._work / "runs" / str(number) / "read.json"
        return msgspec.json.decode(done.read_bytes(), type=ReadInput) if done.exists() else None

    def spill(self, number: int, said: ReadInput, batches: Iterable[Sequence[Row]]) -> None:
        """Keep an input's rows, sorted in runs. `said` is kept with them, as it is at the end of `batches`."""
        place, fresh = self._work / "runs" / str(number), self._work / "runs" / f"{number}.new"
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        held: list[Row] = []
        written = 0
        for batch in batches:
            held += batch
            if len(held) >= _RUN:
                _write_run(fresh / f"{written}.parquet", held)
                held, written = [], written + 1
        if held:
            _write_run(fresh / f"{written}.parquet", held)
        (fresh / "read.json").write_bytes(msgspec.json.encode(said))
        fresh.rename(place)

    def rows(self, skip: int) -> Iterator[Row]:
        """All rows of all inputs in order, without the first `skip`."""
        runs = sorted((self._work / "runs").glob("*/*.parquet"))
        return islice(heapq.merge(*map(_read_run, runs), key=lambda row: row[:4]), skip, None)

    def total(self) -> int:
        return sum(pq.read_metadata(run).num_rows for run in (self._work / "runs").glob("*/*.parquet"))

    # ── making ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def checkpoint(self) -> Checkpoint | None:
        """The last one; what was made after it is removed."""
        path = self._work / "checkpoint"
        found = msgspec.msgpack.decode(path.read_bytes(), type=Checkpoint) if path.exists() else None
        for file in (self._work / "made").glob("*/*.parquet"):
            if int(file.stem) >= (found.files if found is not None else 0):
                file.unlink()
        return found

    def keep(self, checkpoint: Checkpoint) -> None:
        _replace(self._work / "checkpoint", msgspec.msgpack.encode(checkpoint))

    def write(self, table: str, number: int, rows: list[dict[str, Any]], schema: pa.Schema) -> None:
        """A file of a table; nothing for no rows."""
        if not rows:
            return
        path = self._work / "made" / table / f"{number:06d}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), path, compression="zstd")

    def finish(self, report: bytes) -> None:
        """Put the tables in place. After this the folder is done."""
        for table in sorted((self._work / "made").glob("*")):
            shutil.rmtree(self.folder / table.name, ignore_errors=True)  # of a run that was killed right here
            table.rename(self.folder / table.name)
        _replace(self.folder / "report.json", report)
        shutil.rmtree(self._work)


def _write_run(path: Path, rows: list[Row]) -> None:
    rows.sort(key=lambda row: row[:4])
    columns = dict(zip(_RUN_SCHEMA.names, map(list, zip(*rows))))
    pq.write_table(pa.table(columns, schema=_RUN_SCHEMA), path, row_group_size=_GROUP, compression="zstd")


def _read_run(path: Path) -> Iterator[Row]:
    for batch in pq.ParquetFile(path).iter_batches(_GROUP):
        yield from map(Row._make, zip(*(column.to_pylist() for column in batch.columns)))


def _replace(path: Path, content: bytes) -> None:
    fresh = path.with_name(path.name + ".new")
    with fresh.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
