"""Traffic: a shop's visits to training examples, through the very code that serves.

    visits ─ events ─ udfs.logic.sessions / identity ─ UserState ─ models.featurise ─┬─ histories (one per session)
          └─ exposures: a shown list and its outcomes, with the state at that time ──┴─ examples

A shop is any module with `visits(shoppers, days=…, seed=…)`: logs with `events` and `exposures`, both in order of time.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from models.counts import Acts, acts_of
from models.featurise import Tokens, calendar, counters, history_anchor_ms, tokens
from models.vocabulary import PADDING, Vocabulary, build_vocabulary
from schemas.identity import Merge
from schemas.items import Item
from schemas.keys import user_key
from schemas.user_state import UserState, encode
from udfs.logic.identity import merge
from udfs.logic.sessions import DEFAULTS, Position, apply_event

Array = npt.NDArray[Any]
LIST_SIZE = 10


@dataclass
class Ragged:
    """Sequences of different lengths in flat columns; sequence i is [starts[i], starts[i + 1])."""

    rows: Array
    actions: Array
    log_hours: Array
    starts: Array

    def lengths(self) -> Array:
        return np.diff(self.starts)


@dataclass
class Examples:
    """Shown lists. E lists, P places; `history` is the number of the list's history in `histories`. And all acts of everybody,
    which the item counters are counted from."""

    histories: Ragged
    sessions: Ragged  # one a list
    history: Array  # (E,)
    shopper: Array  # (E,)
    visit: Array  # (E,)
    items: Array  # (E, P) rows, PADDING where the list is shorter
    clicked: Array  # (E, P) bool
    carted: Array  # (E, P) bool
    bought: Array  # (E, P) bool
    counters: Array  # (E, P, COUNTERS) log(1 + n)
    calendar: Array  # (E, 3)
    ts_ms: Array  # (E,)
    acts: Acts

    def __len__(self) -> int:
        return len(self.history)


def shop_items(shop: str) -> tuple[Item, ...]:
    items: tuple[Item, ...] = importlib.import_module(f"{shop}.world").load().items
    return items


def collect(shop: str, shoppers: range, days: int, seed: int) -> Examples:
    """Play these shoppers' visits and turn every shown list into an example. A worker's whole task."""
    vocabulary = build_vocabulary(shop_items(shop))
    visits = importlib.import_module(f"{shop}.offline").visits
    return examples(visits(shoppers, days=days, seed=seed), vocabulary)


def examples(logs: Iterable[Any], vocabulary: Vocabulary) -> Examples:
    packer = _Packer(vocabulary)
    states: dict[int, UserState] = {}
    for number, log in enumerate(logs):
        packer.add_visit(number, log, states.setdefault(log.shopper.number, UserState()))
    return packer.packed()


def moments(log: Any, known: UserState) -> Iterator[tuple[Any, UserState]]:
    """A visit's events applied in order of time; at each exposure, it and the state as it is then. `known` is the shopper's
    state from earlier visits: the visit begins without it, and joins it at login."""
    # An exposure comes before the events it caused.
    records = [(shown.ts_ms, 0, place, shown) for place, shown in enumerate(log.exposures)]
    records += [(event.ts_ms, 1, place, event) for place, event in enumerate(log.events)]
    state, is_known = UserState(), False
    for offset, (ts_ms, is_event, _, record) in enumerate(sorted(records, key=lambda one: one[:3]), start=1):
        if record.user_id is not None and not is_known:
            if state.event_no:
                key = user_key(None, record.session_id)
                merge(
                    known,
                    Merge(user_key(record.user_id, record.session_id), key, state.event_no, encode(state)),
                    DEFAULTS,
                )
            state, is_known = known, True
        if is_event:
            apply_event(state, record, Position(0, log.start_ms + offset, ts_ms))
        else:
            yield record, state


class _Packer:
    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._histories: list[Tokens] = []
        self._sessions: list[Tokens] = []
        self._lists: list[tuple[int, int, int]] = []
        self._columns: list[tuple[Array, ...]] = []
        self._acts: list[Acts] = []

    def add_visit(self, number: int, log: Any, known: UserState) -> None:
        self._acts.append(acts_of(log.events, self._vocabulary))
        history_key: tuple[Any, ...] = ()
        for shown, state in moments(log, known):
            anchor_ms = history_anchor_ms(state, shown.ts_ms)
            if (id(state), state.history_no, anchor_ms) != history_key:
                history_key = (id(state), state.history_no, anchor_ms)
                self._histories.append(tokens(state.history(), anchor_ms, self._vocabulary))
            self._add_list(number, shown, state)

    def _add_list(self, visit: int, shown: Any, state: UserState) -> None:
        count = min(len(shown.items), LIST_SIZE)
        rows = np.full(LIST_SIZE, PADDING, dtype=np.int32)
        rows[:count] = self._vocabulary.rows(shown.items[:count])
        outcomes = np.zeros((3, LIST_SIZE), dtype=bool)
        outcomes[:, :count] = shown.clicked[:count], shown.carted[:count], shown.bought[:count]
        self._sessions.append(tokens(state.session(), shown.ts_ms, self._vocabulary))
        self._lists.append((len(self._histories) - 1, shown.shopper, visit))
        self._columns.append(
            (
                rows,
                *outcomes,
                counters(state, rows, self._vocabulary, shown.ts_ms),
                np.array(calendar(shown.ts_ms), np.int16),
                np.int64(shown.ts_ms),
            )
        )

    def packed(self) -> Examples:
        history, shopper, visit = np.array(self._lists, dtype=np.int32).reshape(-1, 3).T
        columns = [np.stack(column) for column in zip(*self._columns)]
        acts = _joined_acts(self._acts)
        return Examples(_ragged(self._histories), _ragged(self._sessions), history, shopper, visit, *columns, acts)


def _ragged(sequences: list[Tokens]) -> Ragged:
    starts = np.concatenate(([0], np.cumsum([one.length for one in sequences])))
    real = [one for one in sequences if one.length]
    if not real:
        return Ragged(np.zeros(0, np.int32), np.zeros(0, np.uint8), np.zeros(0, np.float32), starts)
    return Ragged(
        np.concatenate([one.rows for one in real]),
        np.concatenate([one.actions for one in real]).astype(np.uint8),
        np.concatenate([one.log_hours for one in real]),
        starts,
    )


def joined(parts: list[Examples]) -> Examples:
    """Examples of several workers as one."""
    histories = np.cumsum([0] + [len(part.histories.lengths()) for part in parts])
    visits = np.cumsum([0] + [int(part.visit.max(initial=-1)) + 1 for part in parts])
    for part, first_history, first_visit in zip(parts, histories, visits):
        part.history = part.history + first_history
        part.visit = part.visit + first_visit
    columns: dict[str, Any] = {}
    for field in fields(Examples):
        values = [getattr(part, field.name) for part in parts]
        join = {"Ragged": _joined_ragged, "Acts": _joined_acts}.get(str(field.type), np.concatenate)
        columns[field.name] = join(values)
    return Examples(**columns)


def _joined_acts(parts: list[Acts]) -> Acts:
    return Acts(*(np.concatenate(columns) for columns in zip(*parts)))


def _joined_ragged(parts: list[Ragged]) -> Ragged:
    lengths = np.concatenate([part.lengths() for part in parts])
    return Ragged(
        np.concatenate([part.rows for part in parts]),
        np.concatenate([part.actions for part in parts]),
        np.concatenate([part.log_hours for part in parts]),
        np.concatenate(([0], np.cumsum(lengths))),
    )
