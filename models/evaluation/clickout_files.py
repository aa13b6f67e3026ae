"""Clickout files: parquet as of the RecSys Challenge 2019, one row an action, a clickout with the list it was made on.

    parquet ─ columns checked ─ sessions by (user, session), in order of step ─ Actions and the Clickouts among them
                                                                  to train on ─ and the touches of the lists' other items

A clickout's label is its reference. What a ranker may use of the session are the actions before the clickout's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from models.evaluation.session_files import DAY_S, Doubles, InvalidFile

Ints = NDArray[np.int64]

CLICKOUT = "clickout item"
# What can be done to an item; any other action on an item is `other`.
ACTIONS = (
    "other", CLICKOUT, "interaction item image", "interaction item info", "interaction item rating",
    "interaction item deals", "search for item", "search for destination", "search for poi", "filter selection",
    "change of sort order",
)  # fmt: skip
_LOOKS, _ASKS = range(2, 6), range(6, len(ACTIONS))  # at one item of the list; for another list
COLUMNS = ("user_id", "session_id", "timestamp", "step", "action_type", "reference", "impressions", "prices")
OPTIONAL = ("platform", "city", "device", "current_filters")


class Actions(NamedTuple):
    """One session's actions, oldest first."""

    kinds: Ints  # index in ACTIONS
    items: Ints  # item number, −1 where the action was on none
    times: Doubles  # seconds
    sorts: list[str]  # the reference of a change of sort order, else ""


class Clickout(NamedTuple):
    """A list as it was displayed, and which place was clicked."""

    session: int  # in Clickouts.sessions
    at: int  # the clickout's own place among the session's actions; what is before it may be used
    items: Ints  # (n,) item numbers, n >= 2
    prices: Doubles  # (n,) NaN where none is given
    clicked: int  # place in the list
    last: bool  # the session's last clickout
    filters: frozenset[str]
    device: str
    platform: str
    user: str
    touch: bool = False  # no clickout: `clicked` is the item of the list that was touched next, for training alone


@dataclass(frozen=True)
class Clickouts:
    """`rows` are in order of session start, then time. Item numbers are the ids where those are numbers."""

    sessions: list[Actions]
    rows: list[Clickout]
    left_out: int  # clickouts on lists of fewer than two items, or whose item is not in the list

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def starts(self) -> Ints:
        """(C + 1,) where each list begins when all are put one after the other."""
        return np.concatenate(([0], np.cumsum([len(one.items) for one in self.rows])))

    @property
    def clicked(self) -> Ints:
        return np.array([one.clicked for one in self.rows])

    @property
    def session_numbers(self) -> Ints:
        return np.array([one.session for one in self.rows])

    @property
    def times(self) -> Doubles:
        return np.array([self.sessions[one.session].times[one.at] for one in self.rows])

    def part(self, rows: Sequence[int] | Ints) -> Clickouts:
        return Clickouts(self.sessions, [self.rows[row] for row in rows], 0)


def read(training: Path, test: Path) -> tuple[Clickouts, Clickouts]:
    """Of one file given twice, the sessions that start on its last day (UTC) are the test. Raises InvalidFile."""
    if training.resolve() == test.resolve():
        sessions = _sessions(training)
        last_day = max(rows[0]["timestamp"] // DAY_S for rows in sessions)
        parts = [[rows for rows in sessions if (rows[0]["timestamp"] // DAY_S == last_day) == late] for late in (0, 1)]
        if not parts[0]:
            raise InvalidFile(f"{training}: all sessions start on one day: give a second file as --test.")
    else:
        parts = [_sessions(training), _sessions(test)]
        both = {_key(rows[0]) for rows in parts[0]} & {_key(rows[0]) for rows in parts[1]}
        if both:
            raise InvalidFile(
                f"{test}: {len(both)} sessions are in {training} as well, such as session_id {min(both)[1]!r}: "
                "a session that was trained on tests nothing, so leave it out of one of the two."
            )
    found = _clickouts(parts[0]), _clickouts(parts[1])
    for path, clickouts in zip((training, test), found):
        if not len(clickouts):
            raise InvalidFile(
                f"{path}: no row with action_type {CLICKOUT!r} has a list of two or more items that holds its "
                "reference: impressions must be item ids joined by |."
            )
    return found


def _key(row: dict[str, object]) -> tuple[str, str]:
    return str(row["user_id"]), str(row["session_id"])


def _sessions(path: Path) -> list[list[dict]]:
    """Rows by session, sessions by their first time, rows by step."""
    try:
        schema = pq.read_schema(path)
        missing = [name for name in COLUMNS if name not in schema.names]
        if missing:
            raise InvalidFile(
                f"{path}: column {missing[0]} is missing (found: {', '.join(schema.names[:16])}): the file must have "
                f"{', '.join(COLUMNS)}."
            )
        table = pq.read_table(path, columns=[name for name in (*COLUMNS, *OPTIONAL) if name in schema.names])
    except FileNotFoundError:
        raise InvalidFile(f"{path}: is not there: check the path.") from None
    except (OSError, pa.ArrowInvalid) as error:
        why = str(error).splitlines()[0].rstrip(".")
        raise InvalidFile(f"{path}: is no parquet file, or damaged ({why}): write it again.") from None
    for name in ("timestamp", "step"):
        if not pa.types.is_integer(table.schema.field(name).type):
            raise InvalidFile(
                f"{path}: column {name} is {table.schema.field(name).type}: it must be a whole number"
                f"{' of seconds since 1970' if name == 'timestamp' else ''}."
            )
    for name in COLUMNS[:5]:
        if table[name].null_count:
            row = table[name].to_pylist().index(None)
            raise InvalidFile(f"{path}: {name} is empty in row {row}: fill it in or leave the row out.")
    if not table.num_rows:
        raise InvalidFile(f"{path}: holds no rows: give a file with at least one session.")
    sessions: dict[tuple[str, str], list[dict]] = {}
    for row in table.to_pylist():
        sessions.setdefault(_key(row), []).append(row)
    for rows in sessions.values():
        rows.sort(key=lambda row: (row["step"], row["timestamp"]))
    return sorted(sessions.values(), key=lambda rows: (rows[0]["timestamp"], _key(rows[0])))


def _clickouts(sessions: list[list[dict]]) -> Clickouts:
    made: list[Actions] = []
    found: list[Clickout] = []
    left_out = 0
    for number, rows in enumerate(sessions):
        kinds = np.array([ACTIONS.index(row["action_type"]) if row["action_type"] in ACTIONS else 0 for row in rows])
        items = np.array([_item(row["reference"]) for row in rows])
        sorts = [str(row["reference"] or "") if row["action_type"] == ACTIONS[-1] else "" for row in rows]
        made.append(Actions(kinds, items, np.array([float(row["timestamp"]) for row in rows]), sorts))
        places = [at for at, row in enumerate(rows) if row["action_type"] == CLICKOUT]
        for at in places:
            row = rows[at]
            ids = [_item(one) for one in (row["impressions"] or "").split("|")]
            # An item that is displayed twice would be two right answers, or one wrong: its first place counts.
            shown = np.array(list(dict.fromkeys(ids)))
            if len(shown) < 2 or items[at] not in shown:
                left_out += 1
                continue
            first = np.array([ids.index(one) for one in shown])
            clicked = int(np.flatnonzero(shown == items[at])[0])
            filters = frozenset((row.get("current_filters") or "").split("|")) - {""}
            context = [str(row.get(name) or "") for name in ("device", "platform")]
            prices = _prices(row["prices"], len(ids))[first]
            found.append(
                Clickout(number, at, shown, prices, clicked, at == places[-1], filters, *context, str(row["user_id"]))
            )
    return Clickouts(made, found, left_out)


def with_touches(clickouts: Clickouts) -> Clickouts:
    """The clickouts, and as further cases to train on each turn to another item of a list that was on display.

    A list is taken to be on display from the last action that asks for another one to the next such action. In what order
    a visitor looks at the items of a list says what the next one will be, and there are more such looks than clickouts.
    """
    rows: list[Clickout] = []
    of_session: dict[int, list[Clickout]] = {}
    for one in clickouts.rows:
        of_session.setdefault(one.session, []).append(one)
    for session, own in of_session.items():
        rows.extend(sorted([*own, *_touches(clickouts.sessions[session], own)], key=lambda one: one.at))
    return Clickouts(clickouts.sessions, rows, clickouts.left_out)


def _touches(actions: Actions, clickouts: list[Clickout]) -> list[Clickout]:
    found = []
    list_number = np.cumsum(np.isin(actions.kinds, _ASKS))  # counts up with each action that asks for another list
    last_item = -1
    for at, (kind, item) in enumerate(zip(actions.kinds.tolist(), actions.items.tolist())):
        if item < 0:
            continue
        shown = [one for one in clickouts if one.at != at and list_number[one.at] == list_number[at]]
        after = [one for one in shown if one.at > at]
        of_list = after[0] if after else shown[-1] if shown else None
        if kind in _LOOKS and item != last_item and of_list is not None and item in of_list.items:
            place = int(np.flatnonzero(of_list.items == item)[0])
            found.append(of_list._replace(at=at, clicked=place, last=False, touch=True))
        last_item = item
    return found


def _item(reference: str | None) -> int:
    """The number of an item id; −1 for what is none, such as a city."""
    return int(reference) if reference and reference.isdecimal() and len(reference) < 18 else -1


def _prices(text: str | None, count: int) -> Doubles:
    """NaN for each that is missing or no number; a list of the wrong length says nothing of any item."""
    parts = (text or "").split("|")
    if len(parts) != count:
        return np.full(count, np.nan)
    return np.array([float(part) if part.replace(".", "", 1).isdecimal() else np.nan for part in parts])
