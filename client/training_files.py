"""Training rows, and features as served, as parquet files: each record of their topics in exactly one, whatever fails.

    topic ── offsets a to b of a partition ── .new/*.parquet ── _commits/<partition>-<a>-<b>.json ── rows/date=…/hour=…/*.parquet
                                              1. written         2. decided (one rename)             3. put in place

A crash before 2 leaves nothing, a crash after 2 is finished by the next run. The commits are the record of what has been exported:
the next run takes what they do not name. `date` and `hour` (UTC) are of the append time, so an hour that is over does not change;
`_SUCCESS` stands in it from then on.
"""

from __future__ import annotations

import fcntl
import hashlib
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from client.errors import InvalidArgument
from schemas import topics
from schemas.decision import decode_decision
from schemas.training import KINDS, TrainingRow, decode_row

CHUNK = 20_000  # offsets of a commit
# An hour is over when no transaction that began in it can still be open: the broker ends them after 15 minutes.
_SETTLED_MS = 15 * 60_000

_INSTANT = pa.timestamp("ms", tz="UTC")
SCHEMA = pa.schema(
    [
        ("row_id", pa.string()),
        ("revision", pa.int32()),
        ("key", pa.string()),
        ("event_id", pa.string()),
        ("event_no", pa.int64()),
        ("item_id", pa.string()),
        ("surface", pa.string()),
        ("shown", _INSTANT),
        ("position", pa.int32()),
        ("list_id", pa.string()),
        ("list_created", _INSTANT),
        ("state_epoch", pa.int64()),
        ("list_no", pa.int64()),
        ("seen_event_no", pa.int64()),
        ("rank", pa.int32()),
        ("score", pa.float64()),
        ("source", pa.string()),
        ("bundle", pa.string()),
        ("ranker", pa.string()),
        ("policy", pa.string()),
        ("trigger", pa.string()),
        ("items_offsets", pa.map_(pa.int32(), pa.int64())),
        ("arms", pa.map_(pa.string(), pa.string())),
        ("fallback", pa.string()),
        ("cold_start", pa.string()),
        ("slot", pa.string()),
        ("propensity", pa.float64()),
        ("item_features_offsets", pa.map_(pa.int32(), pa.int64())),
        *((kind, pa.bool_()) for kind in KINDS),
        *((f"{kind}_delay_ms", pa.int64()) for kind in KINDS),
        ("dwell_ms", pa.int64()),
        ("appended", _INSTANT),
        ("topic_partition", pa.int32()),
        ("topic_offset", pa.int64()),
    ]
)


# A place of a list: what stood there, how probable that was, and the features that its score was made of.
SERVED_SCHEMA = pa.schema(
    [
        ("list_id", pa.string()),
        ("item_id", pa.string()),
        ("rank", pa.int32()),
        ("slot", pa.string()),
        ("propensity", pa.float64()),
        ("score", pa.float32()),
        ("feature_ids", pa.list_(pa.string())),
        ("features", pa.list_(pa.float32())),
        ("bundle", pa.string()),
        ("policy", pa.string()),
        ("made", _INSTANT),
        ("topic_partition", pa.int32()),
        ("topic_offset", pa.int64()),
    ]
)


class Stored(NamedTuple):
    """A record as it stands on the topic."""

    partition: int
    offset: int
    append_ms: int
    value: bytes | None


class Table(NamedTuple):
    """What a topic's records are as rows. `rows_of` raises msgspec.DecodeError or ValueError for what is no such record."""

    topic: str
    schema: pa.Schema
    rows_of: Callable[[Stored], list[dict[str, Any]]]


class Source(Protocol):
    """The topic. `read` yields all records of the stretch, or raises."""

    def extent(self) -> dict[int, tuple[int, int]]: ...

    def read(self, partition: int, start: int, end: int) -> Iterable[Stored]: ...


class File(msgspec.Struct, frozen=True):
    path: str  # under the folder
    bytes: int
    sha256: str
    rows: int


class Commit(msgspec.Struct, frozen=True):
    """Offsets from `start` up to, not including, `end`. `unreadable` are offsets of records that are no rows."""

    partition: int
    start: int
    end: int
    files: list[File]
    unreadable: list[int] = []

    @property
    def name(self) -> str:
        return f"{self.partition}-{self.start}-{self.end}"


class Exported(msgspec.Struct):
    """What a run did. `lost` are stretches that the topic no longer had when their turn came: (partition, start, end)."""

    rows: int = 0
    files: int = 0
    unreadable: int = 0
    lost: list[tuple[int, int, int]] = []


class Damage(msgspec.Struct, frozen=True):
    """A file that is not what was written: `missing`, or `changed` where its bytes differ (a truncated one, for example)."""

    path: str
    what: str
    commit: Commit


class TrainingFiles:
    """A folder of exported rows. One writer at a time; readers need no lock."""

    def __init__(self, folder: Path, table: Table) -> None:
        self.folder, self.table = folder, table
        self._new, self._commits = folder / ".new", folder / "_commits"

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the folder, and finish what an earlier writer had decided. Raises InvalidArgument where another one writes."""
        try:
            for place in (self._new, self._commits):
                place.mkdir(parents=True, exist_ok=True)
            lock = (self.folder / "_lock").open("w")
        except OSError as error:
            raise InvalidArgument(
                f"{self.folder} cannot be written ({error.strerror}): choose another folder."
            ) from error
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise InvalidArgument(f"Another export writes to {self.folder}: wait for it.") from error
            self._recover()
            yield

    def commits(self) -> list[Commit]:
        """In order of partition and offset. Raises InvalidArgument where one cannot be read."""
        found = []
        for path in self._commits.glob("*.json"):
            try:
                found.append(msgspec.json.decode(path.read_bytes(), type=Commit))
            except msgspec.DecodeError as error:
                raise InvalidArgument(
                    f"{path} is no commit ({error}): restore it, or export to a new folder."
                ) from error
        return sorted(found, key=lambda commit: (commit.partition, commit.start))

    def write(self, partition: int, start: int, end: int, records: Iterable[Stored]) -> Commit:
        """Export a stretch that no commit names yet."""
        by_hour: dict[str, list[dict[str, Any]]] = {}
        unreadable = []
        for record in records:
            try:
                found = self.table.rows_of(record)
            except (msgspec.DecodeError, ValueError):
                unreadable.append(record.offset)
                continue
            by_hour.setdefault(_hour(record.append_ms), []).extend(found)
        files = []
        for hour, rows in sorted(by_hour.items()):
            path = f"rows/{hour}/{partition}-{start}-{end}.parquet"
            fresh = self._fresh(path)
            pq.write_table(pa.Table.from_pylist(rows, schema=self.table.schema), fresh, compression="zstd")
            files.append(File(path, *_digest(fresh), len(rows)))
        commit = Commit(partition, start, end, files, unreadable)
        pending = self._new / f"{commit.name}.json"
        pending.write_bytes(msgspec.json.encode(commit))
        _sync(pending)
        pending.rename(self._commits / pending.name)
        _sync(self._commits)
        self._put_in_place(commit)
        return commit

    def damaged(self) -> list[Damage]:
        """Every file that differs from its commit."""
        found = []
        for commit in self.commits():
            for file in commit.files:
                path = self.folder / file.path
                if not path.is_file():
                    found.append(Damage(file.path, "missing", commit))
                elif _digest(path) != (file.bytes, file.sha256):
                    found.append(Damage(file.path, "changed", commit))
        return found

    def set_aside(self, commit: Commit) -> None:
        """Move a commit and its files to `_damaged`: the next export takes its stretch again."""
        aside = self.folder / "_damaged"
        for file in commit.files:
            if (self.folder / file.path).is_file():
                (aside / file.path).parent.mkdir(parents=True, exist_ok=True)
                (self.folder / file.path).replace(aside / file.path)
        aside.mkdir(exist_ok=True)
        (self._commits / f"{commit.name}.json").replace(aside / f"{commit.name}.json")

    def mark_hours(self, before_ms: int) -> None:
        """`_SUCCESS` in every hour that ended before the time."""
        for hour in (self.folder / "rows").glob("date=*/hour=*"):
            ended_ms = _hour_ms(hour) + 3_600_000
            if ended_ms <= before_ms:
                (hour / "_SUCCESS").touch()

    def _recover(self) -> None:
        for commit in self.commits():
            self._put_in_place(commit)
        for path in self._new.iterdir():
            path.unlink()  # decided by no commit

    def _put_in_place(self, commit: Commit) -> None:
        for file in commit.files:
            fresh, place = self._fresh(file.path), self.folder / file.path
            if fresh.exists():
                place.parent.mkdir(parents=True, exist_ok=True)
                fresh.rename(place)

    def _fresh(self, path: str) -> Path:
        return self._new / path.replace("/", "!")


def export(
    source: Source, files: TrainingFiles, say: Callable[[int, int], None], now_ms: int | None = None
) -> Exported:
    """Take what is on the topic and in no commit yet. `say` hears offsets done and in all. Safe to repeat at any time."""
    begun_ms = int(time.time() * 1000) if now_ms is None else now_ms
    done = Exported()
    with files.writing():
        commits = files.commits()
        chunks = []
        for partition, (first, end) in sorted(source.extent().items()):
            of_partition = [commit for commit in commits if commit.partition == partition]
            for gap_start, gap_end in _gaps(of_partition, first, end):
                if gap_start < first:
                    done.lost.append((partition, gap_start, min(first, gap_end)))
                chunks += [
                    (partition, start, min(start + CHUNK, gap_end))
                    for start in range(max(gap_start, first), gap_end, CHUNK)
                ]
        total, handled = sum(end - start for _, start, end in chunks), 0
        for partition, start, end in chunks:
            commit = files.write(partition, start, end, source.read(partition, start, end))
            done.rows += sum(file.rows for file in commit.files)
            done.files += len(commit.files)
            done.unreadable += len(commit.unreadable)
            handled += end - start
            say(handled, total)
        files.mark_hours(begun_ms - _SETTLED_MS)
    return done


def _gaps(commits: list[Commit], first: int, end: int) -> list[tuple[int, int]]:
    """What no commit names, from the first commit (or offset) to the end."""
    gaps, at = [], min([first, *(commit.start for commit in commits)]) if commits else first
    for commit in commits:
        if at < commit.start:
            gaps.append((at, commit.start))
        at = max(at, commit.end)
    if at < end:
        gaps.append((at, end))
    return gaps


def flat(record: Stored, row: TrainingRow) -> dict[str, Any]:
    """A row as SCHEMA has it."""
    served = msgspec.structs.asdict(row.served)
    flat = {
        **msgspec.structs.asdict(row),
        **served,
        "shown": row.shown_ms,
        "list_created": row.served.created_ms,
        "items_offsets": list(row.served.items_offsets.items()),
        "item_features_offsets": list(row.served.item_features_offsets.items()),
        "arms": list(row.served.arms.items()),
        "appended": record.append_ms,
        "topic_partition": record.partition,
        "topic_offset": record.offset,
    }
    for kind in KINDS:
        flat[kind], flat[f"{kind}_delay_ms"] = row.label(kind), row.delay_ms.get(kind)
    return {name: flat[name] for name in SCHEMA.names}


def _rows_of(record: Stored) -> list[dict[str, Any]]:
    return [flat(record, decode_row(record.value or b""))]


def _places_of(record: Stored) -> list[dict[str, Any]]:
    """The places of one list, from its decision record."""
    decision = decode_decision(record.value or b"")
    candidates, places = decision.candidates, decision.places
    ids, scores, features = candidates.item_ids(), candidates.score_column(), candidates.feature_rows()
    propensities = [None if math.isnan(one) else one for one in places.propensity_column().tolist()]
    return [
        {
            "list_id": decision.list_id,
            "item_id": ids[at],
            "rank": rank,
            "slot": places.slot(rank),
            "propensity": propensities[rank],
            "score": float(scores[at]),
            "feature_ids": candidates.feature_ids,
            "features": features[at],
            "bundle": decision.bundle,
            "policy": decision.policy,
            "made": decision.now_ms,
            "topic_partition": record.partition,
            "topic_offset": record.offset,
        }
        for rank, at in enumerate(places.candidate_column().tolist())
    ]


ROWS = Table(topics.TRAINING_ROWS, SCHEMA, _rows_of)
SERVED = Table(topics.RANKINGS_LOG, SERVED_SCHEMA, _places_of)


def _hour(append_ms: int) -> str:
    return datetime.fromtimestamp(append_ms / 1000, tz=timezone.utc).strftime("date=%Y-%m-%d/hour=%H")


def _hour_ms(folder: Path) -> int:
    named = f"{folder.parent.name} {folder.name}+0000"
    return int(datetime.strptime(named, "date=%Y-%m-%d hour=%H%z").timestamp() * 1000)


def _digest(path: Path) -> tuple[int, str]:
    """Size and SHA-256 of a file, which is on the disk after this."""
    content = path.read_bytes()
    _sync(path)
    return len(content), hashlib.sha256(content).hexdigest()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
