"""Importing: somebody's own log, as a table, becomes events in order of time.

    csv, csv.gz, parquet ─ columns named or guessed ─ row by row ─ event v2, checked ─ shifted: the log ends when its replay does

Two shapes are read: one row per action (user, item, event, ts, and perhaps a session), and the RecSys Challenge 2019 (trivago),
whose clickouts name the list that was shown. A page view without a dwell time is a click. What has no counterpart is counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import date, datetime, timezone
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
# A name that holds one of these is taken where no name above is there.
_PARTS = {
    "user": ("user", "visitor", "customer", "client", "member", "account", "shopper"),
    "item": ("item", "product", "article", "sku", "goods", "content", "track", "movie", "hotel"),
    "session": ("session", "visit"),
}
# What else the rows may say of their items.
ITEM_COLUMNS = {
    "title": ("title", "name", "item_name", "product_name"),
    "category": ("category", "category_code", "item_category", "product_category", "categoryid", "category_id"),
    "subcategory": ("subcategory", "sub_category"),
    "seller": ("seller", "seller_id", "brand"),
    "price": ("price", "item_price", "unit_price"),
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


class Guess(NamedTuple):
    """Which column of the file is taken for what, why, and what stands in it."""

    ours: str
    theirs: str
    why: str
    example: str


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
    if _is_trivago(table):
        return _collect(table, _trivago)
    found = _columns(table, columns or {}, path)
    return _collect(table.select(list(found.values())).rename_columns(list(found)), _action)


def guess_columns(path: Path, columns: dict[str, str] | None = None) -> list[Guess]:
    """Which column is what: as given, by its name, or by what stands in it. Raises InvalidArgument for one that cannot be told."""
    table = _table(path)
    if _is_trivago(table):
        return [Guess("all of it", "RecSys Challenge 2019", "action_type, reference, impressions", "trivago")]
    found = _columns(table, columns or {}, path)
    given = columns or {}

    def why(ours: str, theirs: str) -> str:
        if given.get(ours) == theirs:
            return "given"
        known = theirs.lower() in (*SYNONYMS.get(ours, ()), *_PARTS.get(ours, ())) or ours in _PARTS
        return "its name" if known else "its values"

    guesses = [Guess(ours, theirs, why(ours, theirs), _example(table, theirs)) for ours, theirs in found.items()]
    described = _item_columns(table, set(found.values()))
    return guesses + [Guess(ours, theirs, "its name", _example(table, theirs)) for ours, theirs in described.items()]


def read_items(path: Path, columns: dict[str, str] | None = None) -> list[dict[str, Any]]:
    """What the log says of each item that occurs in it: its id, and the last title, category … and price beside it."""
    table = _table(path)
    if _is_trivago(table):
        return _trivago_items(table)
    taken = _columns(table, columns or {}, path)
    described = _item_columns(table, set(taken.values()))
    found: dict[str, dict[str, Any]] = {}
    for row in table.select([taken["item"], *described.values()]).to_pylist():
        item = row[taken["item"]]
        if item is None:
            continue
        known = found.setdefault(str(item), {"item_id": str(item)})
        known |= {ours: row[theirs] for ours, theirs in described.items() if row[theirs] is not None}
    return list(found.values())


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


def _is_trivago(table: pa.Table) -> bool:
    return {"action_type", "reference", "impressions"} <= set(table.column_names)


def _trivago_items(table: pa.Table) -> list[dict[str, Any]]:
    """Every hotel that was shown or touched; the price is the last one beside it."""
    found: dict[str, dict[str, Any]] = {}
    for row in table.select(["action_type", "reference", "impressions", "prices"]).to_pylist():
        shown = str(row["impressions"]).split("|") if row["impressions"] else []
        prices = str(row["prices"]).split("|") if row["prices"] else []
        for place, item in enumerate(shown):
            known = found.setdefault(item, {"item_id": item})
            if place < len(prices) and prices[place].isdecimal():
                known["price"] = float(prices[place])
        if str(row["action_type"]).endswith(" item") or str(row["action_type"]).startswith("interaction item"):
            item = str(row["reference"])
            found.setdefault(item, {"item_id": item})
    return list(found.values())


def _columns(table: pa.Table, given: dict[str, str], path: Path) -> dict[str, str]:
    """What we call it -> what the file calls it: as given, by a whole name, by a part of one, by what stands in it."""
    names = table.column_names
    for ours, theirs in given.items():
        if ours not in SYNONYMS or theirs not in names:
            raise InvalidArgument(
                f"--column {ours}={theirs}: on the left one of {', '.join(SYNONYMS)}, on the right one of {', '.join(names)}."
            )
    lower = {name.lower(): name for name in names}
    found = {ours: lower[one] for ours, all_ in SYNONYMS.items() for one in reversed(all_) if one in lower} | given
    for ours, parts in _PARTS.items():
        left = [name for name in names if name not in found.values() and any(part in name.lower() for part in parts)]
        if ours not in found and left:
            found[ours] = left[0]
    for ours, holds in (("event", _holds_kinds), ("ts", _holds_times)):
        left = [name for name in names if name not in found.values() and holds(_sample(table, name))]
        if ours not in found and left:
            found[ours] = left[0]
    missing = [ours for ours in NEEDED if ours not in found]
    if missing:
        raise InvalidArgument(
            f"{path} has no column for {', '.join(missing)}: name it with --column {missing[0]}=<one of {', '.join(names)}>."
        )
    return found


def _item_columns(table: pa.Table, taken: set[str]) -> dict[str, str]:
    lower = {name.lower(): name for name in table.column_names if name not in taken}
    return {ours: lower[one] for ours, all_ in ITEM_COLUMNS.items() for one in reversed(all_) if one in lower}


def _sample(table: pa.Table, name: str) -> list[Any]:
    return [value for value in table.column(name).slice(0, 1_000).to_pylist() if value is not None]


def _example(table: pa.Table, name: str) -> str:
    return ", ".join(dict.fromkeys(str(value)[:24] for value in _sample(table, name)[:3]))


def _holds_kinds(values: Sequence[Any]) -> bool:
    known = [str(value).lower() in KINDS for value in values]
    return bool(known) and sum(known) * 2 >= len(known)


def _holds_times(values: Sequence[Any]) -> bool:
    """Since 2001, in seconds or ms; or dates."""
    times = [_ms(value) for value in values]
    return bool(times) and all(at_ms is not None and at_ms > 1_000_000_000_000 for at_ms in times)


def _table(path: Path) -> pa.Table:
    try:
        if path.suffix == ".parquet":
            return pq.read_table(path)
        return pc.read_csv(path)
    except FileNotFoundError as error:
        raise InvalidArgument(f"{path} is not there: check the path.") from error
    except (OSError, pa.ArrowInvalid) as error:
        why = str(error).splitlines()[0].rstrip(".")
        raise InvalidArgument(f"{path} is neither CSV nor parquet, or damaged ({why}): write it again.") from error


def _ms(value: Any) -> int | None:
    """Seconds, ms, a date, or one as ISO 8601 writes it (UTC where it does not say); None for what is no time."""
    if isinstance(value, str) and not value.isdecimal():
        try:
            value = datetime.fromisoformat(value.removesuffix(" UTC"))
        except ValueError:
            return None
    if isinstance(value, date):
        at = value if isinstance(value, datetime) else datetime(value.year, value.month, value.day)
        return int((at if at.tzinfo else at.replace(tzinfo=timezone.utc)).timestamp() * 1000)
    try:
        number = int(value)
    except (TypeError, ValueError):
        return None
    return number * 1000 if 0 < number < _SECONDS_BELOW else number
