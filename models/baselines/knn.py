"""Nearest neighbours: which items went with those of this session, counted.

    prefix ─ past sessions that share items ─ the most alike ─ their items, weighted ─ scores        V-SKNN
    prefix ─ each of its items ─ what stood near it in past sessions, cosine ─ scores                item-kNN

V-SKNN after Ludewig and Jannach (2018), with the three decays of STAN (Garg and others, 2019): how far back the shared
item is, how old the neighbour, how far from the shared item in it. On top, factors for what the session already
touched: shops differ most in how often people come back to an item.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from models.baselines.contract import Floats, Tick
from models.evaluation.session_files import DAY_S, Doubles, Ints, Prefixes, Sessions


class NeighbourSettings(NamedTuple):
    neighbours: int = 500
    recent: int = 5000  # the newest sessions that share an item, of which the neighbours are chosen
    position_decay: float = 2.0  # places: an item n places back weighs e^(-n / this)
    match_decay: float = 2.0  # places: the same, for how far back the newest shared item is
    distance_decay: float = 2.0  # places between the item and the shared one in the neighbour
    before: float = 0.7  # weight of items that stand before the shared one, against those after it
    age_decay_days: float = 60.0
    length_power: float = 0.5  # of the neighbour's number of items, that its likeness is divided by
    idf_power: float = 0.5  # of log(sessions / sessions with the item)
    seen: float = 1.0  # factor of items of the session
    last: float = 0.5  # factor of its last item


class Found(NamedTuple):
    """Scored items of one prefix, each once."""

    items: Ints
    scores: Doubles


class VSKNN:
    """Asks sessions that began before the prefix was made, and never the prefix's own."""

    def __init__(self, settings: NeighbourSettings = NeighbourSettings()) -> None:
        self.settings = settings

    def fit(self, training: Sessions, tick: Tick) -> None:
        self._sessions = training
        self._of_event = np.repeat(np.arange(len(training)), training.lengths)
        self._place = np.arange(len(training.items)) - training.starts[self._of_event]
        order = np.argsort(training.items, kind="stable")
        self._by_item = order  # events of an item, in order of their session
        self._item_starts = np.searchsorted(training.items[order], np.arange(training.n_items + 1))
        pairs = np.unique(np.stack((training.items, self._of_event)), axis=1)
        in_sessions = np.bincount(pairs[0], minlength=training.n_items)
        idf = np.log((1 + len(training)) / (1 + in_sessions)).clip(min=1e-3)
        self._idf = idf**self.settings.idf_power
        self._own_items = np.bincount(pairs[1], minlength=len(training))  # different items of each session
        self._began = training.times[training.starts[:-1]] if len(training) else np.zeros(0)
        self._age_matters = training.timed and math.isfinite(self.settings.age_decay_days)
        tick(1, 1)

    def score(self, asked: Prefixes) -> Floats:
        scores = np.zeros((len(asked), self._sessions.n_items), np.float32)
        for row in range(len(asked)):
            found = self.found(asked.items(row), asked.sessions.times[asked.ends[row] - 1], len(self._sessions))
            scores[row, found.items] = found.scores
        return scores

    def found(self, prefix: Ints, now: float, before: int) -> Found:
        """Scores by the sessions with numbers below `before`; `now` in seconds, when the prefix's last event was."""
        settings = self.settings
        items, back = _last_places(prefix)
        events, shared = self._events(items, before)
        if not len(events):
            return Found(events, np.zeros(0))
        sessions = self._of_event[events]
        # An item that a session holds twice counts once in their likeness.
        first = np.ones(len(events), bool)
        first[1:] = (sessions[1:] != sessions[:-1]) | (shared[1:] != shared[:-1])
        candidates, at = np.unique(sessions, return_inverse=True)
        likeness = np.bincount(at, np.where(first, np.exp(-back[shared] / settings.position_decay), 0.0))
        likeness /= self._own_items[candidates] ** settings.length_power
        if self._age_matters:
            age_days = np.maximum(now - self._began[candidates], 0.0) / DAY_S
            likeness *= np.exp(-age_days / settings.age_decay_days)
        likeness[: max(0, len(candidates) - settings.recent)] = 0.0  # numbers are in order of time
        if len(candidates) > settings.neighbours:
            likeness[np.argpartition(-likeness, settings.neighbours)[settings.neighbours :]] = 0.0
        newest = np.full(len(candidates), len(prefix))  # places back of the newest shared item
        np.minimum.at(newest, at, back[shared])
        anchor = np.zeros(len(candidates), np.int64)  # its last place in the neighbour
        is_newest = back[shared] == newest[at]
        np.maximum.at(anchor, at[is_newest], self._place[events[is_newest]])
        weight = likeness * np.exp(-newest / settings.match_decay)
        return self._collect(candidates[weight > 0], weight[weight > 0], anchor[weight > 0], items, int(prefix[-1]))

    def _collect(self, sessions: Ints, weight: Doubles, anchor: Ints, own: Ints, last: int) -> Found:
        settings, training = self.settings, self._sessions
        lengths = training.lengths[sessions]
        begins = np.cumsum(lengths) - lengths
        place = np.arange(lengths.sum()) - np.repeat(begins, lengths)
        events = np.repeat(training.starts[sessions], lengths) + place
        away = place - np.repeat(anchor, lengths)
        near = np.exp(-np.abs(away) / settings.distance_decay)
        each = np.repeat(weight, lengths) * np.where(away >= 0, near, settings.before * near)
        found, at = np.unique(training.items[events], return_inverse=True)
        scores = np.bincount(at, each, minlength=len(found)) * self._idf[found]
        scores *= np.where(found == last, settings.last, np.where(np.isin(found, own), settings.seen, 1.0))
        return Found(found, scores)

    def _events(self, items: Ints, before: int) -> tuple[Ints, Ints]:
        """Training events on those items in sessions below `before`; and which of the items each is on."""
        parts, shared = [], []
        for number, item in enumerate(items):
            events = self._by_item[self._item_starts[item] : self._item_starts[item + 1]]
            events = events[: np.searchsorted(self._of_event[events], before)]
            parts.append(events[-4 * self.settings.recent :])
            shared.append(np.full(len(parts[-1]), number))
        return np.concatenate(parts), np.concatenate(shared)


def _last_places(prefix: Ints) -> tuple[Ints, Ints]:
    """Different items of a prefix, and how many places back each was last: 0 is the last event."""
    items, back = np.unique(prefix[::-1], return_index=True)
    return items, back
