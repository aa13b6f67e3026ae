"""Bundles in a worker: loaded by version, swapped while requests run, history encodings cached.

A request holds its bundle for as long as it runs, so no list mixes two. A version not loaded yet is loaded in the background
while the bundle before goes on; one that cannot be loaded leaves it in place.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from models.bundle import Bundle, latest
from models.featurise import ITEM_COUNTERS, Floats, history_anchor_ms
from models.item_features import ItemFeatureTable, Refresher, Source, logarithms
from models.recall import Recall
from models.scorer import HistoryEncoding, encode_state_history, open_scorer
from models.vocabulary import Describe, Rows
from schemas.decision import Described
from schemas.event import Click
from schemas.features import registry
from schemas.items import Item
from schemas.ranking import RankedItem
from schemas.top_lists import TopList
from schemas.user_state import UserState, seen_hash
from udfs.logic.beliefs import Moment
from udfs.logic.sessions import Position, apply_event
from udfs.logic.slate import Retrieved

log = logging.getLogger(__name__)

SHIPPED = Path(__file__).parent / "bundles"
_POPULAR = 200
_RETRY_S = 30.0  # a folder that was not complete when it was named may be so later
_WARM_UP_ROUNDS = 10
_WARM_UP_CANDIDATES = 200
_WARM_UP_AGO_MS = 2 * 3_600_000
_KEPT = 3  # bundles in memory: what runs, what ran before, what is coming


# Of an encoding: user key, history_no, anchor, and what was said of items that the bundle does not know.
Name = tuple[str, int, int, frozenset[tuple[str, tuple[str | None, str | None]]]]


class HistoryCache:
    """Least recently used encodings, up to `limit_bytes`. Of one bundle: encodings of another are of no use."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit, self._used = limit_bytes, 0
        self._encodings: OrderedDict[Name, HistoryEncoding] = OrderedDict()
        self.hits = self.misses = 0

    def get(self, key: Name) -> HistoryEncoding | None:
        found = self._encodings.get(key)
        if found is None:
            self.misses += 1
            return None
        self.hits += 1
        self._encodings.move_to_end(key)
        return found

    def put(self, key: Name, encoding: HistoryEncoding) -> None:
        replaced = self._encodings.pop(key, None)
        self._used += encoding.nbytes - (replaced.nbytes if replaced is not None else 0)
        self._encodings[key] = encoding
        while self._used > self._limit:
            self._used -= self._encodings.popitem(last=False)[1].nbytes


class LoadedBundle:
    """A bundle ready to rank: udfs.logic.slate.Ranker."""

    def __init__(
        self, bundle: Bundle, cache_bytes: int, describe: Describe | None, source: Source | None = None
    ) -> None:
        self.version, self.name = bundle.version, bundle.ranker
        self._vocabulary, self._describe = bundle.vocabulary, describe
        self._popularity = bundle.popularity
        self._scorer = open_scorer(bundle, describe=describe)
        self.tasks = bundle.manifest.tasks
        self._vectors = bundle.embedding
        self.feature_ids = [registry().get(name).id for name in ITEM_COUNTERS]
        self.item_features = ItemFeatureTable(bundle.vocabulary, source)
        self.item_features.refresh(int(time.time() * 1000))
        self.cache = HistoryCache(cache_bytes)
        self.item_ids = bundle.vocabulary.ids
        self.seen_hashes = np.array([seen_hash(item_id) for item_id in self.item_ids], np.uint32)
        self.recall = Recall(bundle, describe, self.item_ids, self.seen_hashes)
        self.has_light = self.recall.has_light
        self.popular = [
            RankedItem(self.item_ids[row], round(float(self._popularity[row]), 6), "popular")
            for row in bundle.popular[:_POPULAR].tolist()
        ]
        self._warm_up()

    def rows(self, item_ids: list[str]) -> Rows:
        return self._vocabulary.rows(item_ids, self._describe)

    def level(self, row: int) -> str:
        return self._vocabulary.level(row)

    def described(self, state: UserState) -> Described:
        return self._said(state, [*state.history_slots, *state.session_slots])

    def _said(self, state: UserState, slots: Iterable[int]) -> Described:
        """What the catalogue says of the items in these places that have no row."""
        if self._describe is None:
            return {}
        ids = state.ids
        unknown = self._vocabulary.unknown([ids[slot].decode() for slot in set(slots)])
        return {one: groups for one in unknown if (groups := self._describe(one)) is not None}

    def vectors(self, rows: Rows) -> npt.NDArray[np.float32]:
        """(n, D) items in the bundle's space, for diversity."""
        return self._vectors.take(rows, axis=0)

    def popularity(self, rows: Rows) -> Floats:
        scores: Floats = self._popularity.take(rows)
        return scores

    def retrieve(
        self, state: UserState, limit: int, now_ms: int, done: Callable[[str], None], at: Moment | None = None
    ) -> Retrieved:
        return self.recall.retrieve(state, limit, now_ms, done, at)

    def light(self, state: UserState, rows: Rows, now_ms: int) -> Floats:
        return self.recall.light(state, rows, now_ms)

    def history_encoder(self, key: str, now_ms: int, stop: Any) -> Callable[[UserState], HistoryEncoding]:
        """Encodes a user's history, once per session: as long as neither history nor anchor change, nor what the catalogue says of
        its items that the bundle does not know."""

        def encode(state: UserState) -> HistoryEncoding:
            anchor_ms = history_anchor_ms(state, now_ms)
            name = (key, state.history_no, anchor_ms, frozenset(self._said(state, state.history_slots).items()))
            found = self.cache.get(name)
            if found is None:
                found = self._scorer.encode_history(state.history(), anchor_ms, stop)
                self.cache.put(name, found)
            return found

        return encode

    def features(self, rows: Rows) -> Floats:
        """(C, feature_ids) of the registry, as of the last refresh."""
        return self.item_features.take(rows)

    def score(
        self,
        state: UserState,
        history: HistoryEncoding,
        rows: Rows,
        now_ms: int,
        surface: str,
        stop: Any,
        weights: Mapping[str, float] | None = None,
        features: Floats | None = None,
    ) -> Any:
        """(C,) by `features` as they were served; without them, by those of now."""
        if features is None:
            features = self.features(rows)
        return self._scorer.score(
            state, history, rows, now_ms, surface, stop, weights=weights, item_counters=logarithms(features)
        )

    def session_vector(self, state: UserState, now_ms: int) -> list[float]:
        """The session as one vector of the bundle's space, for other services; empty without a session."""
        vector: list[float] = (
            self._scorer.session_vector(state, now_ms).round(4).tolist() if state.session_slots else []
        )
        return vector

    @property
    def non_finite(self) -> int:
        """Scores that were not a number, since the bundle was loaded."""
        return self._scorer.non_finite

    def popular_first(self, item_ids: list[str]) -> list[RankedItem]:
        """The caller's candidates by popularity: what is left when the ranker fails."""
        scores = self._popularity[self.rows(item_ids)].tolist()
        order = sorted(range(len(item_ids)), key=lambda place: -scores[place])
        return [RankedItem(item_ids[place], round(scores[place], 6), "caller") for place in order]

    def _warm_up(self) -> None:
        """Rank made-up users with short and long sequences until memory is allocated and code is loaded: every bundle is as warm
        when it serves its first list, whether a worker starts with it or swaps to it."""
        now_ms = int(time.time() * 1000)
        for actions in (0, 2, 10, 50) * _WARM_UP_ROUNDS:
            state = UserState()
            for number, item_id in enumerate(self.item_ids[-actions:] if actions else []):
                at_ms = now_ms - (_WARM_UP_AGO_MS if number < actions // 2 else 0)  # half of it in an earlier session
                event_id = f"warm-up-{number}"
                click = Click(event_id=event_id, session_id="s", ts_ms=at_ms, schema_version=2, item_id=item_id)
                apply_event(state, click, Position(0, number, at_ms))
            found = self.retrieve(state, _WARM_UP_CANDIDATES, now_ms, lambda _stage: None)
            encoding = encode_state_history(self._scorer, state, now_ms)
            self.score(state, encoding, found.rows, now_ms, "", None)
            self.session_vector(state, now_ms)
        self.item_features.forget_counts()


class BundleStore:
    """`folder` holds a folder for each version, and LATEST. Raises BundleError where its default cannot be loaded."""

    def __init__(
        self,
        folder: str,
        cache_mb: int,
        describe: Describe | None = None,
        source: Source | None = None,
        catalogue: Mapping[str, Item] | None = None,
        lists: Mapping[str, TopList] | None = None,
    ) -> None:
        self._folder = Path(folder) if folder else SHIPPED
        self._cache_bytes, self._describe, self._source = cache_mb * 2**20, describe, source
        self._catalogue: Mapping[str, Item] = {} if catalogue is None else catalogue
        self._lists: Mapping[str, TopList] = {} if lists is None else lists
        self._lock = threading.Lock()
        self._loaded: OrderedDict[str, LoadedBundle] = OrderedDict()
        self._loading: set[str] = set()
        self._refused_at: dict[str, float] = {}
        self.current = self._load(latest(self._folder))
        self._loaded[self.current.version] = self.current
        self._default = self.current
        self._refresher = Refresher(lambda: [one.item_features for one in self._kept()])
        self._refresher.start()

    def close(self) -> None:
        self._refresher.stop()

    def items_changed(self, item_ids: Iterable[str]) -> None:
        """What the shop has added, changed or taken away since: the catalogue holds it as it is now."""
        ids = list(item_ids)
        for one in self._kept():
            self._tell(one, ids)

    def lists_changed(self, keys: Iterable[str]) -> None:
        """Top lists of the stream that are others now."""
        told = list(keys)
        for one in self._kept():
            one.recall.lists_changed(told, self._lists)

    def _tell(self, bundle: LoadedBundle, item_ids: list[str]) -> None:
        # Looked up one by one while the bundle takes them, so that of two threads that tell of an item both tell the newest.
        bundle.recall.changed((item_id, self._catalogue.get(item_id)) for item_id in item_ids)

    def items_not_in_bundle(self) -> int:
        """Items that are found as candidates though the bundle does not know them, or not where they are now."""
        return len(self.current.recall.newcomers) if self.current.has_light else 0

    def item_features_served(self) -> tuple[int, dict[str, int]]:
        """Candidates that features were taken for, and for each feature how often it was missing, since the start."""
        kept = [one.item_features for one in self._kept()]
        nulls = sum((one.nulls for one in kept), np.zeros(len(ITEM_COUNTERS), np.int64))
        return sum(one.taken for one in kept), dict(zip(ITEM_COUNTERS, nulls.tolist()))

    def _kept(self) -> list[LoadedBundle]:
        with self._lock:
            return list(self._loaded.values())

    def get(self, version: str | None) -> tuple[LoadedBundle, bool]:
        """The bundle of this version (None: the default), and whether it is that one. Never waits for a load."""
        if version is None:
            return self._default, True  # not the current one: with experiments, that is whichever was asked for last
        if version == self.current.version:
            return self.current, True
        with self._lock:
            found = self._loaded.get(version)
            if found is not None:
                self.current = found
                return found, True
            refused_s = time.monotonic() - self._refused_at.get(version, -_RETRY_S)
            if version not in self._loading and refused_s >= _RETRY_S:
                self._loading.add(version)
                threading.Thread(target=self._load_ahead, args=(version,), name="bundle-load", daemon=True).start()
        return self.current, False

    def _load_ahead(self, version: str) -> None:
        try:
            bundle = self._load(version)
        except Exception as error:  # whatever is wrong with it, ranking goes on with the bundle before
            log.error("bundle %s was refused, ranking goes on with %s: %s", version, self.current.version, error)
            with self._lock:
                self._refused_at[version] = time.monotonic()
                self._loading.discard(version)
            return
        with self._lock:
            self._loaded[version] = bundle
            self._loading.discard(version)
            while len(self._loaded) > _KEPT:
                oldest = next(name for name in self._loaded if name not in (version, self.current.version))
                del self._loaded[oldest]
        # Now that it hears of changes: what came before it was loaded.
        self._tell(bundle, list(self._catalogue))
        bundle.recall.lists_changed(list(self._lists), self._lists)

    def _load(self, version: str) -> LoadedBundle:
        bundle = Bundle.load(self._folder / version)
        return LoadedBundle(bundle, self._cache_bytes, self._describe, self._source)
