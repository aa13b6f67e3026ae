"""Session files: CSV with session_id, item_id and, where known, ts; one row an event.

    csv ─ columns checked ─ sorted by ts within each session ─ ids to codes ─ Sessions, in order of their start

Training decides which items there are: an item of the test file that training has never seen cannot be ranked by
anyone, so its events are left out and counted. A user's log without sessions becomes two such files by `cut`.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pac
import pyarrow.csv as pc
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Doubles = NDArray[np.float64]

_MILLISECONDS_FROM = 1e11  # a larger time is in milliseconds: as seconds it would be after the year 5000
DAY_S = 86_400.0


class InvalidFile(ValueError):
    """A file that cannot be evaluated; the message names file, column, value and remedy."""


class Sessions(NamedTuple):
    """S sessions of E events: session s owns `items[starts[s]:starts[s + 1]]`, oldest first; sessions by their first time.

    `times` are seconds; zeros where the file has no ts, and then sessions stand in the order of the file.
    """

    items: Ints  # (E,) codes 0 … n_items - 1
    times: Doubles  # (E,)
    starts: Ints  # (S + 1,)
    n_items: int

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def lengths(self) -> Ints:
        return np.diff(self.starts)

    @property
    def timed(self) -> bool:
        return bool(self.times.any())

    def chosen(self, sessions: Ints) -> Sessions:
        """Those sessions alone, in that order; items keep their codes."""
        lengths = self.lengths[sessions]
        starts = np.concatenate(([0], np.cumsum(lengths)))
        rows = np.repeat(self.starts[sessions] - starts[:-1], lengths) + np.arange(starts[-1])
        return Sessions(self.items[rows], self.times[rows], starts, self.n_items)

    def only(self, items: NDArray[np.bool_]) -> Sessions:
        """The events on those items alone; sessions may become empty."""
        kept = items[self.items]
        ends = np.concatenate(([0], np.cumsum(kept)))[self.starts]
        return Sessions(self.items[kept], self.times[kept], ends, self.n_items)


class Split(NamedTuple):
    training: Sessions
    test: Sessions
    item_ids: list[str]
    unknown_events: int  # of the test file, on items that training has not seen


class Prefixes(NamedTuple):
    """What a next-item model is asked: prefix p is `sessions.items[begins[p]:ends[p]]`; what came is `targets[p]`."""

    sessions: Sessions
    begins: Ints
    ends: Ints
    targets: Ints

    def __len__(self) -> int:
        return len(self.ends)

    def items(self, at: int) -> Ints:
        return self.sessions.items[self.begins[at] : self.ends[at]]

    def now(self, at: int) -> float:
        """When the prefix's last event was, in seconds."""
        return float(self.sessions.times[self.ends[at] - 1])

    def part(self, rows: Ints | slice) -> Prefixes:
        return Prefixes(self.sessions, self.begins[rows], self.ends[rows], self.targets[rows])


def prefixes(sessions: Sessions) -> Prefixes:
    """Every prefix of every session, with the item that came next."""
    begins = np.repeat(sessions.starts[:-1], sessions.lengths)
    ends = np.arange(len(sessions.items))
    later = ends > begins
    return Prefixes(sessions, begins[later], ends[later], sessions.items[later])


def held_out(sessions: Sessions, share: float = 0.1) -> tuple[Sessions, Sessions]:
    """The newest share of sessions apart, for choosing settings; their events on items the others lack are left out.

    Raises InvalidFile where that leaves nothing to predict.
    """
    begin = max(1, int(len(sessions) * (1 - share)))
    early = sessions.chosen(np.arange(begin))
    late = sessions.chosen(np.arange(begin, len(sessions)))
    late = late.only(np.bincount(early.items, minlength=early.n_items) > 0)
    if not len(prefixes(late)) or not len(prefixes(early)):
        raise InvalidFile(
            f"The newest {share:.0%} of the {len(sessions)} training sessions, which settings are chosen on, hold no two "
            "events on items of the others: give more sessions, or choose --models popularity,last_interacted,item_knn."
        )
    return early, late


def read(training: Path, test: Path) -> Split:
    """Raises InvalidFile."""
    first, second = _columns(training), _columns(test)
    if first.ts is None or second.ts is None:
        first, second = first._replace(ts=None), second._replace(ts=None)
    ids, codes = np.unique(first.items, return_inverse=True)
    at = np.minimum(np.searchsorted(ids, second.items), len(ids) - 1)
    known = ids[at] == second.items
    test_sessions = _sessions(
        second.sessions[known], at[known], None if second.ts is None else second.ts[known], len(ids)
    )
    split = Split(
        _sessions(first.sessions, codes, first.ts, len(ids)), test_sessions, ids.tolist(), int((~known).sum())
    )
    if not len(prefixes(split.test)):
        raise InvalidFile(
            f"{test}: no session has two events on items of {training}, so there is nothing to predict: "
            "are both files of the same shop, with the same item ids?"
        )
    if not len(prefixes(split.training)):
        raise InvalidFile(f"{training}: no session has two events: is session_id the right column?")
    return split


class _Columns(NamedTuple):
    sessions: NDArray[np.str_]
    items: NDArray[np.str_]
    ts: Doubles | None


def _columns(path: Path) -> _Columns:
    strings = {"session_id": pa.string(), "item_id": pa.string()}
    # An empty id must be seen as missing, not as the item "".
    convert = pc.ConvertOptions(column_types=strings, strings_can_be_null=True)
    try:
        table = pc.read_csv(path, convert_options=convert)
    except OSError as error:
        raise InvalidFile(f"{path}: cannot be read ({error}): check the path.") from None
    except pa.ArrowInvalid as error:
        raise InvalidFile(f"{path}: is no CSV file with a header line ({error}).") from None
    for name in strings:
        if name not in table.column_names:
            raise InvalidFile(
                f"{path}: column {name} is missing (found: {', '.join(table.column_names[:12])}): rename the one that "
                "holds it; the files need session_id, item_id and, if known, ts."
            )
        if table[name].null_count:
            row = pac.index(pac.is_null(table[name]), True).as_py() + 2
            raise InvalidFile(f"{path}: {name} is empty in line {row}: fill it in or leave the line out.")
    if not table.num_rows:
        raise InvalidFile(f"{path}: holds no events: give a file with at least one session of two.")
    ts = _seconds(path, table["ts"]) if "ts" in table.column_names else None
    return _Columns(*(table[name].to_numpy().astype(np.str_) for name in strings), ts)


def _seconds(path: Path, column: pa.ChunkedArray) -> Doubles:
    if pa.types.is_timestamp(column.type):
        column = pac.divide(pac.cast(pac.cast(column, pa.timestamp("ms")), pa.int64()), 1000.0)
    elif not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
        raise InvalidFile(
            f"{path}: ts holds {str(column[0])[:40]!r}, which is no time: write seconds or milliseconds since 1970, or "
            "2026-01-31 13:00:00; or leave the column out, and the order of the lines counts."
        )
    if column.null_count:
        row = pac.index(pac.is_null(column), True).as_py() + 2
        raise InvalidFile(f"{path}: ts is empty in line {row}: fill it in, or leave the whole column out.")
    seconds = column.to_numpy().astype(np.float64)
    if not np.isfinite(seconds).all():
        row = int(np.flatnonzero(~np.isfinite(seconds))[0]) + 2
        raise InvalidFile(
            f"{path}: ts is {seconds[row - 2]} in line {row}: write a finite time, or leave the column out."
        )
    return seconds / 1000 if len(seconds) and np.median(seconds) > _MILLISECONDS_FROM else seconds


def _sessions(session_ids: NDArray[np.str_], items: Ints, ts: Doubles | None, n_items: int) -> Sessions:
    if not len(items):
        return Sessions(np.zeros(0, np.int64), np.zeros(0), np.zeros(1, np.int64), n_items)
    times = np.zeros(len(items)) if ts is None else ts
    rows = np.arange(len(items))
    _, first_row, code = np.unique(session_ids, return_index=True, return_inverse=True)
    began = np.full(len(first_row), np.inf)
    np.minimum.at(began, code, times)
    place = np.empty(len(first_row), np.int64)
    place[np.lexsort((first_row, began))] = np.arange(len(first_row))  # by first time, then by place in the file
    order = np.lexsort((rows, times, place[code]))
    starts = np.concatenate(([0], np.cumsum(np.bincount(place[code]))))
    return Sessions(items[order].astype(np.int64), times[order], starts, n_items)


class Event(NamedTuple):
    user: str
    item: str
    ts_ms: int


def cut(events: Iterable[Event], gap_minutes: float, test_days: float) -> tuple[list[str], list[str]]:
    """CSV lines of training and test: a user's events with gaps up to `gap_minutes` are a session.

    Sessions that begin within the last `test_days` before the last event are the test. Raises InvalidFile.
    """
    ordered = sorted(events, key=lambda one: (one.user, one.ts_ms))
    sessions: list[list[Event]] = []
    for one in ordered:
        last = sessions[-1][-1] if sessions else None
        if last is None or last.user != one.user or one.ts_ms - last.ts_ms > gap_minutes * 60_000:
            sessions.append([])
        sessions[-1].append(one)
    sessions.sort(key=lambda session: session[0].ts_ms)
    until_ms = max((one.ts_ms for one in ordered), default=0) - test_days * DAY_S * 1000
    parts: tuple[list[str], list[str]] = (["session_id,item_id,ts"], ["session_id,item_id,ts"])
    for number, session in enumerate(sessions):
        lines = parts[session[0].ts_ms >= until_ms]
        lines.extend(f"{number},{_quoted(one.item)},{one.ts_ms}" for one in session)
    if min(map(len, parts)) < 2:
        raise InvalidFile(
            f"The log's {len(sessions)} sessions leave {len(parts[0]) - 1} events to train on and {len(parts[1]) - 1} to "
            f"test: the last {test_days:g} days are the test, so choose --days within the log's span."
        )
    return parts


def _quoted(value: str) -> str:
    return '"' + value.replace('"', '""') + '"' if any(sign in value for sign in ',"\n\r') else value
