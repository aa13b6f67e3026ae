"""Importing: somebody's own log, as a table, becomes events in order of time.

    csv, csv.gz, parquet ─ columns named ─ row by row ─ event v2, checked ─ shifted so that the log ends when its replay does

Two shapes are read: one row per action (user, item, event, ts, and perhaps a session), and the RecSys Challenge 2019 (trivago),
whose clickouts name the list that was shown. A page view without a dwell time is a click. What has no counterpart is counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq

from client.errors import InvalidArgument
from schemas import headers, topics
from schemas.event import Rejected, parse_event
from schemas.keys import user_key
from schemas.record import TopicRecord

NEEDED = ("user", "item", "event", "ts")
# What the columns are called elsewhere; lower case.
SYNONYMS = {
    "user": ("user", "user_id", "userid", "visitorid", "visitor_id", "customer_id"),
    "item": ("item", "item_id", "itemid", "product_id", "productid", "sku"),
    "event": ("event", "event_type", "action", "action_type", "type", "behavior"),
    "ts": ("ts", "timestamp", "time", "ts_ms", "event_time"),
    "session": ("sid", "session", "session_id", "sessionid"),
}
KINDS = {
    "view": "click",
    "click": "click",
    "pageview": "click",
    "cart": "add_to_cart",
    "addtocart": "add_to_cart",
    "add_to_cart": "add_to_cart",
    "remove_from_cart": "remove_from_cart",
    "buy": "purchase",
    "purchase": "purchase",
    "transaction": "purchase",
    "like": "like",
}
_SECONDS_BELOW = 100_000_000_000  # a smaller time is in seconds: as milliseconds it would be before 1973
# An imported record was on no partition of ours. This one no topic has, so it satisfies no reader's demand for a position.
_NO_PARTITION = 2**31 - 1


class Imported(NamedTuple):
    """An event of the log: when it happened there, whose it is, and the event without a time of its own yet."""

    ts_ms: int
    row: int
    body: dict[str, Any]


class Log(msgspec.Struct):
    """`skipped` counts rows that are no event here, by reason."""

    events: list[Imported]
    skipped: dict[str, int]

    @property
    def span_ms(self) -> int:
        return self.events[-1].ts_ms - self.events[0].ts_ms if self.events else 0


def read_log(path: Path, columns: dict[str, str] | None = None) -> Log:
    """The whole file, in order of time. `columns` says which column is which of SYNONYMS, where the names do not tell.

    Raises InvalidArgument naming the file or the column.
    """
    table = _table(path)
    if {"action_type", "reference", "impressions"} <= set(table.column_names):
        return _collect(table, _trivago)
    found = _columns(table.column_names, columns or {}, path)
    return _collect(table.select(list(found.values())).rename_columns(list(found)), _action)


def records(log: Log, speed: float, now_ms: int) -> Iterator[tuple[int, TopicRecord]]:
    """(ms after the start, record) for a replay that begins at `now_ms`, `speed` times as fast as it was.

    All times are shifted by one amount, so gaps stay what they were and the log's last event happens when the replay ends. Each
    record carries its time as its append time, so that it is neither late nor from the future.
    """
    if not log.events:
        return
    first_ms, last_ms = log.events[0].ts_ms, log.events[-1].ts_ms
    shift_ms = now_ms + int((last_ms - first_ms) / speed) - last_ms
    for at_ms, row, body in log.events:
        ts_ms = at_ms + shift_ms
        place = {headers.PARTITION: _NO_PARTITION, headers.OFFSET: row, headers.APPEND_MS: ts_ms}
        yield (
            int((at_ms - first_ms) / speed),
            TopicRecord(
                topics.EVENTS,
                user_key(body.get("user_id"), body["session_id"]).encode(),
                msgspec.json.encode({**body, "ts_ms": ts_ms}),
                {headers.VIA: b"replay", **{name: str(value).encode() for name, value in place.items()}},
            ),
        )


def _collect(table: pa.Table, events_of: Callable[[int, dict[str, Any]], list[dict[str, Any]] | str]) -> Log:
    """`events_of` turns a row into events, or says why it is none."""
    made: list[Imported] = []
    skipped: Counter[str] = Counter()
    for row, values in enumerate(table.to_pylist()):
        found = events_of(row, values)
        if isinstance(found, str):
            skipped[found] += 1
            continue
        for body in found:
            checked = parse_event(msgspec.json.encode(body))
            if isinstance(checked, Rejected):
                skipped[checked.reason.value] += 1
            else:
                made.append(Imported(body["ts_ms"], row, body))
    made.sort(key=lambda one: (one.ts_ms, one.row))
    return Log(made, dict(skipped))


def _action(row: int, values: dict[str, Any]) -> list[dict[str, Any]] | str:
    kind = KINDS.get(str(values["event"]).lower())
    if kind is None:
        return f"event {str(values['event'])[:40]!r} has no counterpart"
    ts_ms = _ms(values["ts"])
    if ts_ms is None or values["user"] is None or values["item"] is None:
        return "user, item or time is missing"
    user, item = str(values["user"]), str(values["item"])
    session = values.get("session")
    body = _body(row, 0, kind, user, user if session is None else f"{user}-{session}", ts_ms)
    if kind == "purchase":
        return [body | {"props": {"order_id": f"order-{row}", "items": [{"item_id": item}]}}]
    return [body | {"item_id": item}]


def _trivago(row: int, values: dict[str, Any]) -> list[dict[str, Any]] | str:
    """A clickout is a click after impressions of the list that it names; touching an item is a click, too."""
    action, reference, ts_ms = str(values["action_type"]), values["reference"], _ms(values["timestamp"])
    if ts_ms is None or reference is None:
        return "time or reference is missing"
    user, session = str(values["user_id"]), str(values["session_id"])
    if action.startswith("search for") and action != "search for item":
        return [_body(row, 0, "search", user, session, ts_ms) | {"props": {"query": str(reference)[:256]}}]
    if not action.endswith(" item") and not action.startswith("interaction item"):
        return f"action {action[:40]!r} has no counterpart"
    shown = str(values["impressions"]).split("|") if values["impressions"] else []
    events = [
        _body(row, place + 1, "impression", user, session, ts_ms) | {"item_id": item, "props": {"position": place}}
        for place, item in enumerate(shown)
    ]
    click = _body(row, 0, "click", user, session, ts_ms) | {"item_id": str(reference)}
    if reference in shown:
        click["props"] = {"position": shown.index(reference)}
    return [*events, click]


def _body(row: int, number: int, kind: str, user: str, session: str, ts_ms: int) -> dict[str, Any]:
    """The id names the row, so that a replay that is repeated within a day applies nothing twice."""
    return {
        "event_id": f"import-{row}-{number}",
        "event_type": kind,
        "user_id": user,
        "session_id": session,
        "ts_ms": ts_ms,
        "schema_version": 2,
    }


def _columns(names: list[str], given: dict[str, str], path: Path) -> dict[str, str]:
    """What we call it -> what the file calls it."""
    for ours, theirs in given.items():
        if ours not in SYNONYMS or theirs not in names:
            raise InvalidArgument(
                f"--column {ours}={theirs}: on the left one of {', '.join(SYNONYMS)}, on the right one of {', '.join(names)}."
            )
    lower = {name.lower(): name for name in names}
    found = {ours: lower[one] for ours, all_ in SYNONYMS.items() for one in reversed(all_) if one in lower} | given
    missing = [ours for ours in NEEDED if ours not in found]
    if missing:
        raise InvalidArgument(
            f"{path} has no column for {', '.join(missing)}: name it with --column {missing[0]}=<one of {', '.join(names)}>."
        )
    return found


def _table(path: Path) -> pa.Table:
    try:
        if path.suffix == ".parquet":
            return pq.read_table(path)
        return pc.read_csv(path)
    except OSError as error:
        raise InvalidArgument(f"{path} cannot be read: {error}.") from error
    except pa.ArrowInvalid as error:
        raise InvalidArgument(f"{path} is neither CSV nor parquet, or damaged: {error}.") from error


def _ms(value: Any) -> int | None:
    try:
        number = int(value)
    except (TypeError, ValueError):
        return None
    return number * 1000 if 0 < number < _SECONDS_BELOW else number
