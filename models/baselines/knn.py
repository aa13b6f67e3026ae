"""Nearest neighbours: which items went with those of this session, counted.

    prefix ─ past sessions that share items ─ the most alike ─ their items, weighted ─ scores        V-SKNN
    prefix ─ each of its items ─ what stood near it in past sessions, cosine ─ scores                item-kNN

V-SKNN after Ludewig and Jannach (2018), with the three decays of STAN (Garg and others, 2019): how far back the shared
item is, how old the neighbour, how far from the shared item in it. On top, factors for what the session already
touched: shops differ most in how often people come back to an item.
"""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import numpy as np

from models.baselines.contract import Floats, Tick
from models.evaluation.session_files import DAY_S, Doubles, Ints, Prefixes, Sessions

_WINDOW = 10  # places that item-kNN looks to either side


class NeighbourSettings(NamedTuple):
    neighbours: int = 500
    recent: int = 5000  # the newest sessions that share an item, of which the neighbours are chosen
    position_decay: float = 2.0  # places: an item n places back weighs e^(-n / this)
    match_decay: float = 2.0  # places: the same, for how far back the newest shared item is
    distance_decay: float = 1.0  # places between the item and the shared one in the neighbour
    before: float = 0.4  # weight of items that stand before the shared one, against those after it
    age_decay_days: float = 200.0
    length_power: float = 0.25  # of the neighbour's number of items, that its likeness is divided by
    idf_power: float = 0.25  # of log(sessions / sessions with the item)
    seen: float = 1.0  # factor of items of the session
    last: float = 16.0  # factor of its last item


class Found(NamedTuple):
    """Scored items of one prefix, each once."""

    items: Ints
    scores: Doubles


class VSKNN:
    """Asks all training sessions; items that none of them has stand below, by popularity."""

    logits: ClassVar[bool] = False
    effort: ClassVar[float] = 0

    def __init__(self, settings: NeighbourSettings = NeighbourSettings()) -> None:
        self.settings = settings

    def fit(self, training: Sessions, tick: Tick) -> None:
        self._sessions = training
        self.popularity = popularity(training)
        self._of_event = np.repeat(np.arange(len(training)), training.lengths)
        self._place = np.arange(len(training.items)) - training.starts[self._of_event]
        order = np.argsort(training.items, kind="stable")
        self._by_item = order  # events of an item, in order of their session
        self._item_starts = np.searchsorted(training.items[order], np.arange(training.n_items + 1))
        keys = np.unique(training.items * len(training) + self._of_event)  # item and session, each pair once
        in_sessions = np.bincount(keys // len(training), minlength=training.n_items)
        self._idf = np.log((1 + len(training)) / (1 + in_sessions)).clip(min=1e-3)
        self._own_items = np.bincount(keys % len(training), minlength=len(training))  # different items of each session
        self._began = training.times[training.starts[:-1]] if len(training) else np.zeros(0)
        tick(1, 1)

    def score(self, asked: Prefixes) -> Floats:
        return spread(self.popularity, [self.found(asked.items(row), asked.now(row)) for row in range(len(asked))])

    def found(self, prefix: Ints, now: float) -> Found:
        """The items of the prefix's neighbours; `now` in seconds, when the prefix's last event was."""
        settings = self.settings
        items, back = _last_places(prefix)
        events, shared = self._events(items)
        if not len(events):
            return Found(events, np.zeros(0))
        sessions = self._of_event[events]
        # An item that a session holds twice counts once in their likeness.
        first = np.ones(len(events), bool)
        first[1:] = (sessions[1:] != sessions[:-1]) | (shared[1:] != shared[:-1])
        candidates, at = np.unique(sessions, return_inverse=True)
        likeness = np.bincount(at, np.where(first, np.exp(-back[shared] / settings.position_decay), 0.0))
        likeness /= self._own_items[candidates] ** settings.length_power
        if self._sessions.timed:
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
        scores = np.bincount(at, each, minlength=len(found)) * self._idf[found] ** settings.idf_power
        scores *= np.where(found == last, settings.last, np.where(np.isin(found, own), settings.seen, 1.0))
        return Found(found, scores)

    def _events(self, items: Ints) -> tuple[Ints, Ints]:
        """Training events on those items, and which of the items each is on; the newest, where an item has very many."""
        parts, shared = [], []
        for number, item in enumerate(items):
            events = self._by_item[self._item_starts[item] : self._item_starts[item + 1]]
            parts.append(events[-self.settings.recent :])
            shared.append(np.full(len(parts[-1]), number))
        return np.concatenate(parts), np.concatenate(shared)


class ItemKNN:
    """What stood near each of the prefix's items, by the cosine of sessions in common; nearer and later weigh more."""

    logits: ClassVar[bool] = False
    effort: ClassVar[float] = 0

    def __init__(self, settings: NeighbourSettings = NeighbourSettings()) -> None:
        self.settings = settings

    def fit(self, training: Sessions, tick: Tick) -> None:
        settings, n = self.settings, training.n_items
        self.popularity = popularity(training)
        session = np.repeat(np.arange(len(training)), training.lengths)
        keys, weights = [np.zeros(0, np.int64)], [np.zeros(0)]
        for away in range(1, _WINDOW + 1):
            first, second = training.items[:-away], training.items[away:]
            together = (session[:-away] == session[away:]) & (first != second)
            near = np.exp(-(away - 1) / settings.distance_decay / 2)
            for a, b, weight in ((first, second, near), (second, first, near * settings.before)):
                keys.append(a[together] * n + b[together])
                weights.append(np.full(int(together.sum()), weight))
        pairs, at = np.unique(np.concatenate(keys), return_inverse=True)
        self._others = pairs % n
        sizes = np.sqrt(np.maximum(1, np.bincount(training.items, minlength=n)))
        self._weights = np.bincount(at, np.concatenate(weights), minlength=len(pairs))
        self._weights /= sizes[pairs // n] * sizes[self._others]
        self._starts = np.searchsorted(pairs, np.arange(n + 1) * n)
        tick(1, 1)

    def score(self, asked: Prefixes) -> Floats:
        return spread(self.popularity, [self.found(asked.items(row)) for row in range(len(asked))])

    def found(self, prefix: Ints) -> Found:
        items, back = _last_places(prefix)
        parts = [slice(self._starts[item], self._starts[item + 1]) for item in items]
        decays = np.exp(-back / self.settings.position_decay)
        others = np.concatenate([self._others[part] for part in parts])
        weights = np.concatenate([self._weights[part] * decay for part, decay in zip(parts, decays)])
        found, at = np.unique(others, return_inverse=True)
        return Found(found, np.bincount(at, weights, minlength=len(found)))


def popularity(training: Sessions) -> Doubles:
    """Shares of all events, so that their order decides where nothing else does."""
    return np.bincount(training.items, minlength=training.n_items) / max(1, len(training.items))


def spread(below: Doubles, found: list[Found]) -> Floats:
    """(P, N): what was found, each row scaled into 1 … 2, above all that was not."""
    scores = np.tile(below.astype(np.float32), (len(found), 1))
    for row, one in enumerate(found):
        if len(one.items) and one.scores.max() > 0:
            scores[row, one.items] = np.where(
                one.scores > 0, 1.0 + one.scores / one.scores.max(), scores[row, one.items]
            )
    return scores


def _last_places(prefix: Ints) -> tuple[Ints, Ints]:
    """Different items of a prefix, and how many places back each was last: 0 is the last event."""
    items, back = np.unique(prefix[::-1], return_index=True)
    return items, back
