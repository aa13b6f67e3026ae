"""The dual-sequence ranker as a NextItem model: candidates from neighbours, then both stacks over the session.

    prefix ─ its own items, V-SKNN, item-kNN ─ candidates ─ features ─ DualRanker ─ scores
             newest events → session stack, older ones → history stack

It is fitted on the newest sessions, with candidates and features counted from the older ones, as it will be asked about
sessions that the counts have not seen. Then the counts are made anew from everything. Items that are no candidates
stand below all that are, in the order of V-SKNN.
"""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import numpy as np

from models.baselines.contract import Floats, Tick, until, unwatched
from models.baselines.knn import VSKNN, Found, ItemKNN
from models.baselines.tuning import tuned
from models.dual.ranker import DualRanker, DualSettings, Examples
from models.evaluation.session_files import Doubles, Ints, InvalidFile, Prefixes, Sessions, held_out, prefixes

_NEWEST, _OLDER = 10, 30  # events that the session and the history stack read
_FROM_SESSIONS, _FROM_ITEMS, _OWN = 60, 20, 20  # candidates of each source; sources overlap
_TUNING = 0.3  # share of the time by which V-SKNN's settings are chosen
_FITTED_ON, _AT_MOST = 0.3, 12_000  # share of sessions, and of prefixes, that the ranker is fitted on
FEATURES = (
    "vsknn", "vsknn_rank", "vsknn_share", "itemknn", "itemknn_rank", "after_last", "popularity",
    "times_in_session", "places_back", "is_last", "is_second", "same_as_last_times",
    "session_length", "different_items", "repeats", "last_gap", "seen_share", "found",
)  # fmt: skip


class DualSequence:
    """NextItem. `fit` raises InvalidFile where the sessions are too few."""

    logits: ClassVar[bool] = True
    effort: ClassVar[float] = 2

    def __init__(
        self, settings: DualSettings = DualSettings(dim=32, bins=16, members=4, epochs=8), seed: int = 0
    ) -> None:
        self._ranker = DualRanker(settings, seed)
        self._seed = seed

    def fit(self, training: Sessions, tick: Tick) -> None:
        early, late = held_out(training, _FITTED_ON)
        self._neighbours = tuned(early, late, until(_TUNING, tick))
        self._count(early)
        asked = prefixes(late)
        if len(asked) > _AT_MOST:
            chosen = np.random.default_rng(self._seed).permutation(len(asked))[:_AT_MOST]
            asked = asked.part(np.sort(chosen))
        candidates = [self._candidates(asked, row) for row in range(len(asked))]
        reachable = np.array([row for row, one in enumerate(candidates) if asked.targets[row] in one.items])
        if not len(reachable):
            raise InvalidFile(
                "Neighbours find what came next in none of the newest training sessions, so there is nothing to fit "
                "dual_sequence on: give more sessions, or leave it out of --models."
            )
        self._ranker.fit(examples(asked.part(reachable), [candidates[row] for row in reachable]), tick)
        self._count(training)

    def score(self, asked: Prefixes) -> Floats:
        candidates = [self._candidates(asked, row) for row in range(len(asked))]
        ranked = self._ranker.score(examples(asked, candidates))
        scores = self._sessions.score(asked)
        at = 0
        for row, one in enumerate(candidates):
            scores[row, one.items] = 1e3 + ranked[at : at + len(one.items)]
            at += len(one.items)
        return scores

    def _count(self, training: Sessions) -> None:
        self._sessions, self._items = VSKNN(self._neighbours), ItemKNN()
        for model in (self._sessions, self._items):
            model.fit(training, unwatched)

    def _candidates(self, asked: Prefixes, row: int) -> Candidates:
        prefix = asked.items(row)
        by_session = self._sessions.found(prefix, asked.now(row))
        by_item, after_last = self._items.found(prefix), self._items.found(prefix[-1:])
        own = np.array(list(dict.fromkeys(prefix[::-1].tolist()))[:_OWN])
        items = np.array(list(dict.fromkeys([*own, *_top(by_session, _FROM_SESSIONS), *_top(by_item, _FROM_ITEMS)])))
        return Candidates(items, self._features(asked, row, items, by_session, by_item, after_last))

    def _features(
        self, asked: Prefixes, row: int, items: Ints, by_session: Found, by_item: Found, after_last: Found
    ) -> Doubles:
        """(C, F) in the order of FEATURES."""
        prefix, count = asked.items(row), len(items)
        session, item, after = (_looked_up(found, items) for found in (by_session, by_item, after_last))
        times = (prefix[None, :] == items[:, None]).sum(axis=1)
        back = np.where(times > 0, np.argmax(prefix[None, ::-1] == items[:, None], axis=1), np.nan)
        different = len(np.unique(prefix))
        gap = asked.now(row) - asked.sessions.times[asked.ends[row] - 2] if len(prefix) > 1 else np.nan
        same_as_last = (prefix == prefix[-1]).sum()
        per_list = (
            len(prefix),
            different,
            len(prefix) - different,
            np.log1p(max(0.0, gap)),
            different / len(prefix),
            len(by_session.items),
        )
        return np.column_stack((
            np.log(session + 1e-9), _ranks(session), session / max(1e-9, session.sum()), np.log(item + 1e-9), _ranks(item),
            np.log(after + 1e-9), np.log(self._sessions.popularity[items] + 1e-9),
            times, back, back == 0, back == 1, np.where(items == prefix[-1], same_as_last, np.nan),
            np.tile(per_list, (count, 1)),
        ))  # fmt: skip


class Candidates(NamedTuple):
    items: Ints  # (C,) each once
    x: Doubles  # (C, F)


def examples(asked: Prefixes, candidates: list[Candidates]) -> Examples:
    """Tokens are the prefix's events; where the target is no candidate, `right` is 0 and must not be used."""
    shape = (len(asked), 2, _OLDER)
    places, kinds = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    elapsed, lengths = np.zeros(shape, np.float32), np.zeros((len(asked), 2), np.int64)
    right = np.zeros(len(asked), np.int64)
    for row, one in enumerate(candidates):
        where = {item: place for place, item in enumerate(one.items.tolist())}
        right[row] = where.get(int(asked.targets[row]), 0)
        begin, end = int(asked.begins[row]), int(asked.ends[row])
        newest = max(begin, end - _NEWEST)
        for which, (first, last) in enumerate(((newest, end), (max(begin, newest - _OLDER), newest))):
            count = last - first
            lengths[row, which] = count
            places[row, which, :count] = [where.get(item, -1) + 2 for item in asked.sessions.items[first:last].tolist()]
            minutes = np.maximum(asked.now(row) - asked.sessions.times[first:last], 0) / 60
            elapsed[row, which, :count] = np.log1p(minutes)
            # Which place from the end: order counts where the file has no times.
            kinds[row, which, :count] = np.minimum(end - 1 - np.arange(first, last), _OLDER + _NEWEST)
    starts = np.concatenate(([0], np.cumsum([len(one.items) for one in candidates])))
    x = np.concatenate([one.x for one in candidates]) if candidates else np.zeros((0, len(FEATURES)))
    return Examples(starts, x.astype(np.float32), right, places, kinds, elapsed, lengths)


def _top(found: Found, count: int) -> list[int]:
    best = np.argsort(-found.scores, kind="stable")[:count]
    return found.items[best][found.scores[best] > 0].tolist()


def _looked_up(found: Found, items: Ints) -> Doubles:
    if not len(found.items):
        return np.zeros(len(items))
    at = np.minimum(np.searchsorted(found.items, items), len(found.items) - 1)
    return np.where(found.items[at] == items, found.scores[at], 0.0)


def _ranks(scores: Doubles) -> Doubles:
    """1 / rank among the candidates; 0 without a score."""
    ranks = np.empty(len(scores))
    ranks[np.argsort(-scores, kind="stable")] = np.arange(1, len(scores) + 1)
    return np.where(scores > 0, 1 / ranks, 0.0)
