"""Beliefs in each ranking worker, from the compacted topic `beliefs`: Beta counts by segment, and LinUCB's matrices.

Counts are discounted further to the hour in which they are asked for: an item that is shown no more becomes uncertain again. The
matrices stay as they were said. What no belief is known of has zeros: the policy's prior alone speaks.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from schemas import topics
from schemas.beliefs import EVERYBODY, Belief, D, belief_key, decode_belief
from schemas.connections import Connections
from schemas.user_state import UnknownStateVersion
from udfs.logic.beliefs import HOUR_MS, Moment, Shared, context_of, linucb, segments_of
from udfs.replica import KeyValue, Replica

log = logging.getLogger(__name__)

Array = npt.NDArray[np.float64]
_NOTHING = 0  # the table's first row: A⁻¹ = I, b = 0


class BeliefsReplica(Replica):
    def __init__(self, connections: Connections) -> None:
        super().__init__(connections, topics.BELIEFS)
        self._lock = threading.Lock()  # asked by ranking threads while the follower changes it
        self._places: dict[str, int] = {}  # by key
        self._free: list[int] = []
        self._beliefs: list[Belief] = [Belief()]  # their matrices are in the tables
        self._inverses = np.eye(D)[None]  # (rows, D, D)
        self._rewards = np.zeros((1, D))
        self._shared: dict[str, Shared] = {}  # by surface

    def __len__(self) -> int:
        return len(self._places)

    def exposures(
        self, surface: str, segment: str | None, at: Moment, item_ids: Sequence[str]
    ) -> npt.NDArray[np.float64]:
        """(n, 2) clicks and misses of each item on the surface: of the moment's `segment` (a kind), where that is known, else of
        everybody."""
        name = segments_of(at).get(segment or "", EVERYBODY)
        now_ms = at.hour * HOUR_MS
        found = np.zeros((len(item_ids), 2))
        with self._lock:
            for number, item_id in enumerate(item_ids):
                place = self._places.get(belief_key(surface, item_id))
                if place is None:
                    continue
                belief = self._beliefs[place]
                clicks, shows = belief.counts.get(name, (0.0, 0.0))
                left = 0.5 ** (max(0, now_ms - belief.at_ms) / belief.half_life_ms)
                found[number] = clicks * left, max(0.0, shows - clicks) * left
        return found

    def linear(self, surface: str, shared: bool, at: Moment, item_ids: Sequence[str]) -> npt.NDArray[np.float64]:
        """(n, 2) mean and width by LinUCB: udfs.logic.beliefs.linucb."""
        with self._lock:
            rows = [self._places.get(belief_key(surface, item_id), _NOTHING) for item_id in item_ids]
            everything = self._shared.get(surface) or Shared()
            return linucb(context_of(at), self._inverses[rows], self._rewards[rows], everything if shared else None)

    def _apply_all(self, records: list[KeyValue]) -> None:
        newest: dict[str, Belief | None] = {}
        for raw_key, value in records:
            try:
                key = (raw_key or b"").decode()
                newest[key] = None if value is None else decode_belief(value)
            except (msgspec.DecodeError, UnicodeDecodeError, UnknownStateVersion) as error:
                self.rejected += 1
                log.warning("beliefs replica: a record was skipped: %s", error)
        said = {key: belief for key, belief in newest.items() if belief is not None}
        if said:
            squares = np.stack([np.frombuffer(one.squares).reshape(D, D) for one in said.values()])
            inverses = np.linalg.inv(np.eye(D) + squares)  # (m, D, D)
        with self._lock:
            for number, (key, belief) in enumerate(said.items()):
                self._put(key, belief, inverses[number], np.frombuffer(belief.rewards))
            for key in newest.keys() - said.keys():
                if key in self._places:
                    self._put(key, Belief(), np.eye(D), np.zeros(D))
                    self._free.append(self._places.pop(key))

    def _put(self, key: str, belief: Belief, inverse: Array, rewards: Array) -> None:
        place = self._places.get(key)
        if place is None:
            if not self._free:
                self._grow()
            place = self._places[key] = self._free.pop()
        shared = self._shared.setdefault(key.partition("|")[0], Shared())
        shared.replace((self._inverses[place], self._rewards[place]), (inverse, rewards))
        belief.squares = belief.rewards = b""
        self._beliefs[place], self._inverses[place], self._rewards[place] = belief, inverse, rewards

    def _grow(self) -> None:
        size = len(self._beliefs)
        more = max(1_024, size)
        self._beliefs += [self._beliefs[_NOTHING]] * more
        self._inverses = np.concatenate((self._inverses, np.broadcast_to(np.eye(D), (more, D, D))))
        self._rewards = np.concatenate((self._rewards, np.zeros((more, D))))
        self._free += range(size + more - 1, size - 1, -1)
