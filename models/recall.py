"""Recall: the first two stages of the cascade, from a user's state to the candidates that the ranker is asked about.

    the bundle's tables ─┐
    the stream's lists ──┤
    nearest vectors ─────┴─ RECALLED ─ light scores ─ the best `limit` less newcomers ─┐
    newcomers, nearest first ──────────────────────────────────────────────────────────┴─ candidates

A bundle without towers has the first line alone, and as many candidates as are asked for. New users are found the popular
items: the sources that are theirs alone grow with each interaction, until the KNOWN_FROM-th (SPEC R12).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np

from models.bundle import Bundle
from models.featurise import Floats
from models.nearest import open_nearest, top
from models.newcomers import Newcomers
from models.retrieval import NEW, SOURCES, Codes, Retriever
from models.towers import Towers
from models.vocabulary import Describe, Rows
from schemas.items import Item
from schemas.top_lists import TopList
from schemas.user_state import UserState
from udfs.logic.beliefs import Moment
from udfs.logic.slate import KNOWN_FROM, Retrieved, interactions

RECALLED = 1_000
_POPULAR_SHARE = 0.05  # at least, of what is recalled
_NEW_SHARE = 0.05  # of the candidates, where there are newcomers
_NO_ROWS = np.zeros(0, np.int32)


class Recall:
    """Candidates of one bundle. `items` and `seen_hashes` are the bundle's ids and their hashes, by row."""

    def __init__(self, bundle: Bundle, describe: Describe | None, item_ids: list[str], seen_hashes: Rows) -> None:
        self._retriever = Retriever(bundle)
        self._item_ids, self._seen_hashes = item_ids, seen_hashes
        self._towers = Towers(bundle, describe) if bundle.towers else None
        if self._towers is not None:
            self._nearest = open_nearest(bundle, self._towers.vectors)
            self.newcomers = Newcomers(bundle, self._towers.vectors)

    @property
    def has_light(self) -> bool:
        """Whether there is a pre-ranker."""
        return self._towers is not None

    def changed(self, items: Iterable[tuple[str, Item | None]]) -> None:
        """Items as the shop has them now."""
        if self._towers is not None:
            self.newcomers.update(items)

    def lists_changed(self, keys: Iterable[str], lists: Mapping[str, TopList]) -> None:
        """Top lists as the stream has them now."""
        self._retriever.lists.update(keys, lists)

    def retrieve(
        self, state: UserState, limit: int, now_ms: int, done: Callable[[str], None], at: Moment | None = None
    ) -> Retrieved:
        """At most `limit` candidates; `done` is told of each stage when it ends. `at` is where the user is, if that may count."""
        here = self._retriever.lists.popular(at.device, at.geo, at.hour) if at is not None else _NO_ROWS
        if self._towers is None:
            rows, codes = self._retriever.retrieve(state, limit, here=here)
            done("recall")
            return self._as_candidates(rows, codes, 0)
        user = self._towers.user(state, self._towers.past(state, now_ms), now_ms)
        own_share = min(1 - _POPULAR_SHARE, interactions(state) / KNOWN_FROM)
        nearest = self._nearest.search(user.recall, int(RECALLED * own_share))
        rows, codes = self._retriever.retrieve(state, RECALLED, nearest, here)
        new = self.newcomers.search(user.recall, int(limit * _NEW_SHARE))
        done("recall")
        room = max(0, limit - len(new.rows))
        best = np.sort(top(self._towers.light(user, rows), room))  # in the order in which they were found
        found = self._as_candidates(rows[best], codes[best], len(rows) - len(best))
        fresh = [place for place, row in enumerate(new.rows.tolist()) if row not in found.rows] if len(new.rows) else []
        if fresh:
            found.item_ids += [new.item_ids[place] for place in fresh]
            found.sources += [SOURCES[NEW]] * len(fresh)
            found.rows = np.concatenate((found.rows, new.rows[fresh]))
            found.seen_hashes = np.concatenate((found.seen_hashes, new.hashes[fresh]))
        done("pre_rank")
        return found

    def light(self, state: UserState, rows: Rows, now_ms: int) -> Floats:
        """(C,) the pre-ranker's scores."""
        assert self._towers is not None  # has_light says so
        return self._towers.light(self._towers.user(state, self._towers.past(state, now_ms), now_ms), rows)

    def _as_candidates(self, rows: Rows, codes: Codes, passed_over: int) -> Retrieved:
        ids = self._item_ids
        return Retrieved(
            [ids[row] for row in rows.tolist()],
            [SOURCES[code] for code in codes.tolist()],
            rows,
            self._seen_hashes[rows],
            passed_over,
        )
