"""Own log: somebody's events, and the lists that were shown to them where those are known, as visits to learn from.

    events ─ by user ─ visits (30 minutes' gap) ─┬─ acts on items that are new to the visit: what comes next
    training rows ─ by list ─ places, outcomes ──┴─ lists as they were shown: all tasks
                                                 └─ models/traffic.py: examples

The newest visits are kept apart. `judged` asks the finished bundle for the lists that it would have served in them, beside what
can be had without training.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from models.bundle import Bundle
from models.from_log import VISIT_MS, WEIGHTS, Act
from models.store import LoadedBundle
from models.traffic import LIST_SIZE, moments
from schemas.event import Event
from schemas.keys import USER_PREFIX, user_key
from schemas.user_state import UserState

CANDIDATES = 200
K = 20
_CACHE_BYTES = 2**24
_NO_SESSION = "unknown"  # of a list that was shown to somebody who did nothing
# Of a training row, what is learnt from (client/training_files.py writes them).
COLUMNS = (
    "row_id",
    "revision",
    "key",
    "item_id",
    "shown",
    "list_id",
    "rank",
    "propensity",
    "click",
    "cart",
    "purchase",
)


class InvalidRows(ValueError):
    """Training rows that cannot be learnt from; the message names folder, column and remedy."""


class User(NamedTuple):
    key: str
    number: int


class Shown(NamedTuple):
    """A list as it was shown, and what came of it: columns are parallel, by place from 0."""

    ts_ms: int
    user_id: str | None
    session_id: str
    shopper: int
    items: tuple[str, ...]
    clicked: tuple[bool, ...]
    carted: tuple[bool, ...]
    bought: tuple[bool, ...]


class Visit(NamedTuple):
    """What models/traffic.py asks of a visit. Events and exposures are each in order of time."""

    shopper: User
    start_ms: int
    events: list[Event]
    exposures: list[Shown]


class ShownList(NamedTuple):
    """One list of the training rows."""

    ts_ms: int
    items: tuple[str, ...]
    clicked: tuple[bool, ...]
    carted: tuple[bool, ...]
    bought: tuple[bool, ...]
    propensity: tuple[float | None, ...] = ()  # of each place, given those above it; None where it is unknown


def visits_of(events: Iterable[Event], lists: Mapping[str, Sequence[ShownList]] | None = None) -> list[Visit]:
    """All visits, in order of their start. `lists` by key; without them each act on an item is a list of that item alone."""
    by_key: dict[str, list[Event]] = {}
    for event in events:
        by_key.setdefault(user_key(event.user_id, event.session_id), []).append(event)
    found: list[Visit] = []
    for number, (key, own) in enumerate(sorted(by_key.items())):
        found += _visits(User(key, number), own, [] if lists is None else lists.get(key, []), lists is None)
    return sorted(found, key=lambda visit: (visit.start_ms, visit.shopper.number))


def _visits(user: User, events: list[Event], lists: Sequence[ShownList], alone: bool) -> Iterator[Visit]:
    """A list comes before the events of its millisecond: they may be what came of it."""
    records: list[tuple[int, int, Any]] = [(one.ts_ms, 0, one) for one in lists]
    records += [(event.ts_ms, 1, event) for event in events]
    records.sort(key=lambda one: one[:2])
    cuts = [at for at, (one, other) in enumerate(pairwise(records), 1) if other[0] - one[0] > VISIT_MS]
    user_id = user.key.removeprefix(USER_PREFIX) if user.key.startswith(USER_PREFIX) else None
    for begin, end in pairwise([0, *cuts, len(records)]):
        part = records[begin:end]
        own: list[Event] = [record for _, is_event, record in part if is_event]
        session = own[0].session_id if own else _NO_SESSION
        if alone:
            shown = list(_firsts(own, user_id, session, user.number))
        else:
            shown = [
                Shown(
                    one.ts_ms,
                    user_id,
                    session,
                    user.number,
                    *(column[:LIST_SIZE] for column in (one.items, one.clicked, one.carted, one.bought)),
                )
                for _, is_event, one in part
                if not is_event
            ]
        yield Visit(user, part[0][0], own, shown)


def _firsts(events: list[Event], user_id: str | None, session: str, number: int) -> Iterator[Shown]:
    """The first act on each item of a visit: what somebody wanted next. More of the same is no news."""
    acted: set[str] = set()
    for event in events:
        for item in items_of(event) if event.event_type in WEIGHTS else ():
            if item not in acted:
                acted.add(item)
                kind = event.event_type
                outcomes = (True,), (kind == "add_to_cart",), (kind == "purchase",)
                yield Shown(event.ts_ms, user_id, session, number, (item,), *outcomes)


def items_of(event: Any) -> list[str]:
    """The items that an event is about."""
    if event.item_id is not None:
        return [event.item_id]
    return [line.item_id for line in getattr(event.props, "items", [])]


def acts_in(visits: Iterable[Visit]) -> list[Act]:
    """For models/from_log.py."""
    return [
        Act(visit.shopper.key, event.ts_ms, event.event_type, item)
        for visit in visits
        for event in visit.events
        if event.event_type in WEIGHTS
        for item in items_of(event)
    ]


def lists_of_rows(folder: Path) -> dict[str, list[ShownList]]:
    """Lists by key, of training rows in parquet: of each row the last revision; an outcome that is still open counts as none.

    Raises InvalidRows.
    """
    try:
        table = pq.read_table(folder)
    except (OSError, pa.ArrowInvalid) as error:
        raise InvalidRows(
            f"{folder} holds no training rows in parquet ({error}): name the folder `rows` of `riffle training-rows export`, "
            "or `training-rows` of `riffle backfill`."
        ) from error
    missing = [name for name in COLUMNS if name not in table.column_names]
    if missing:
        raise InvalidRows(
            f"{folder} lacks the column {missing[0]} (found: {', '.join(table.column_names[:12])}): give what "
            "`riffle training-rows export` or `riffle backfill` has written."
        )
    newest: dict[str, dict[str, Any]] = {}
    for row in table.select(COLUMNS).to_pylist():
        known = newest.get(row["row_id"])
        if known is None or row["revision"] > known["revision"]:
            newest[row["row_id"]] = row
    places: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in newest.values():
        places.setdefault((row["key"], row["list_id"]), []).append(row)
    found: dict[str, list[ShownList]] = {}
    for (key, _), of in places.items():
        of.sort(key=lambda row: row["rank"])
        outcomes = [tuple(bool(row[kind]) for row in of) for kind in ("click", "cart", "purchase")]
        shown_ms = min(_ms(row["shown"]) for row in of)
        chances = tuple(row["propensity"] for row in of)
        found.setdefault(key, []).append(ShownList(shown_ms, tuple(row["item_id"] for row in of), *outcomes, chances))
    return found


def _ms(at: datetime.datetime) -> int:
    return int(at.timestamp() * 1000)


def newest_apart(visits: list[Visit], share: float) -> tuple[list[Visit], list[Visit]]:
    """The visits to learn from, and the newest `share` of them."""
    begin = len(visits) - int(share * len(visits))
    return visits[:begin], visits[begin:]


class Judged(NamedTuple):
    """How often what came next was among the first K of the list that would have been served, and its mean 1 / place there."""

    hit_rate: float
    mrr: float
    cases: int
    retrieved: float  # how often it was among the candidates at all


def judged(
    paths: Mapping[str, Path], before: list[Visit], test: list[Visit], at_most: int = 2_000
) -> dict[str, Judged]:
    """Each bundle on the same cases: the first `at_most` acts of the newest visits on items that are new to the visit.

    What the visit has acted on is not shown again. An item that nobody had seen is a case like any other.
    """
    loaded = {name: LoadedBundle(Bundle.load(path), _CACHE_BYTES, None) for name, path in paths.items()}
    ranks: dict[str, list[int]] = {name: [] for name in paths}
    retrieved = dict.fromkeys(paths, 0)
    states: dict[int, UserState] = {}
    for visit in before:
        for _ in moments(visit._replace(exposures=[]), states.setdefault(visit.shopper.number, UserState())):
            pass
    cases = 0
    for visit in test:
        acted: set[str] = set()
        asked = visit._replace(exposures=list(_firsts(visit.events, *_who(visit))) if cases < at_most else [])
        for shown, state in moments(asked, states.setdefault(visit.shopper.number, UserState())):
            cases += 1
            for name, bundle in loaded.items():
                found = bundle.retrieve(state, CANDIDATES, shown.ts_ms, lambda _stage: None)
                encoding = bundle.history_encoder(visit.shopper.key, shown.ts_ms, None)(state)
                scores = np.array(bundle.score(state, encoding, found.rows, shown.ts_ms, "home", None))
                scores[[item in acted for item in found.item_ids]] = -np.inf
                place = found.item_ids.index(shown.items[0]) if shown.items[0] in found.item_ids else -1
                retrieved[name] += place >= 0
                ranks[name].append(1 + int((scores > scores[place]).sum()) if place >= 0 else CANDIDATES + 1)
            acted.add(shown.items[0])
    return {
        name: Judged(
            float(np.mean([rank <= K for rank in own])),
            float(np.mean([1 / rank if rank <= K else 0.0 for rank in own])),
            cases,
            retrieved[name] / cases,
        )
        for name, own in ranks.items()
        if cases
    }


def _who(visit: Visit) -> tuple[str | None, str, int]:
    key = visit.shopper.key
    user_id = key.removeprefix(USER_PREFIX) if key.startswith(USER_PREFIX) else None
    return user_id, visit.events[0].session_id if visit.events else _NO_SESSION, visit.shopper.number
