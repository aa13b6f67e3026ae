"""Beliefs in each ranking worker, from the compacted topic `beliefs`: Beta counts by segment, and LinUCB's matrices.

Counts are discounted further to the hour in which they are asked for: an item that is shown no more becomes uncertain again. The
matrices stay as they were said. What no belief is known of has zeros: the policy's prior alone speaks.

A subcategory's or category's counts are the sums of its items', by the catalogue as it is: kept as beliefs and items change.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from schemas import topics
from schemas.beliefs import EVERYBODY, Belief, D, belief_key, decode_belief
from schemas.connections import Connections
from schemas.user_state import UnknownStateVersion
from udfs.logic.beliefs import HOUR_MS, Moment, Shared, Together, context_of, counts_at, linucb, segments_of
from udfs.replica import KeyValue, Replica

log = logging.getLogger(__name__)

Array = npt.NDArray[np.float64]
_NOTHING = 0  # the table's first row: A⁻¹ = I, b = 0
GROUPED_BY = ("subcategory", "category")  # as groups_of answers

Groups = tuple[str | None, str | None]  # of an item, by GROUPED_BY
_NO_GROUPS: Groups = (None, None)


class BeliefsReplica(Replica):
    """`groups_of` asks the catalogue; whoever changes it says so by `items_changed`."""

    def __init__(self, connections: Connections, groups_of: Callable[[str], Groups | None]) -> None:
        super().__init__(connections, topics.BELIEFS)
        self._groups_of = groups_of
        self._lock = threading.Lock()  # asked by ranking threads while the follower changes it
        self._places: dict[str, int] = {}  # by key
        self._free: list[int] = []
        self._beliefs: list[Belief] = [Belief()]  # their matrices are in the tables
        self._inverses = np.eye(D)[None]  # (rows, D, D)
        self._rewards = np.zeros((1, D))
        self._shared: dict[str, Shared] = {}  # by surface
        self._groups: dict[int, Groups] = {}  # by place: where its belief counts
        self._together: dict[tuple[str, str, str], Together] = {}  # by surface, GROUPED_BY, name

    def __len__(self) -> int:
        return len(self._places)

    def exposures(
        self, surface: str, segment: str | None, at: Moment, item_ids: Sequence[str]
    ) -> npt.NDArray[np.float64]:
        """(n, 2) clicks and misses of each item on the surface: of the moment's `segment` (a kind), where that is known, else of
        everybody."""
        name, now_ms = segments_of(at).get(segment or "", EVERYBODY), at.hour * HOUR_MS
        found = np.zeros((len(item_ids), 2))
        with self._lock:
            for number, item_id in enumerate(item_ids):
                place = self._places.get(belief_key(surface, item_id))
                if place is not None:
                    found[number] = counts_at(self._beliefs[place], name, now_ms)
        return found

    def of_groups(
        self, surface: str, segment: str | None, at: Moment, by: str, names: Sequence[str | None]
    ) -> npt.NDArray[np.float64]:
        """(n, 2) the same of groups on the surface, by one of GROUPED_BY; zeros for no group."""
        name, now_ms = segments_of(at).get(segment or "", EVERYBODY), at.hour * HOUR_MS
        with self._lock:
            each = {
                group: together.counts_at(name, now_ms)
                for group in set(names)
                if group is not None and (together := self._together.get((surface, by, group))) is not None
            }
        return np.array([each.get(group or "", (0.0, 0.0)) for group in names])

    def items_changed(self, item_ids: Iterable[str]) -> None:
        """The catalogue may have these in other groups now."""
        for item_id in item_ids:
            groups = self._groups_of(item_id) or _NO_GROUPS
            with self._lock:
                for surface in self._shared:
                    place = self._places.get(belief_key(surface, item_id))
                    if place is not None:
                        self._count_in(surface, place, groups)

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
                    place = self._places.pop(key)
                    del self._groups[place]
                    self._free.append(place)

    def _put(self, key: str, belief: Belief, inverse: Array, rewards: Array) -> None:
        place = self._places.get(key)
        if place is None:
            if not self._free:
                self._grow()
            place = self._places[key] = self._free.pop()
        surface, _, item_id = key.partition("|")
        shared = self._shared.setdefault(surface, Shared())
        shared.replace((self._inverses[place], self._rewards[place]), (inverse, rewards))
        belief.squares = belief.rewards = b""
        self._count_in(surface, place, _NO_GROUPS)  # what it was counts no more
        self._beliefs[place], self._inverses[place], self._rewards[place] = belief, inverse, rewards
        self._count_in(surface, place, self._groups_of(item_id) or _NO_GROUPS)

    def _count_in(self, surface: str, place: int, groups: Groups) -> None:
        """Let the belief at the place count in these groups, and no more in those before."""
        for by, before, now in zip(GROUPED_BY, self._groups.get(place, _NO_GROUPS), groups):
            if before == now:
                continue
            for group, sign in ((before, -1), (now, 1)):
                if group is not None:
                    self._together.setdefault((surface, by, group), Together()).add(self._beliefs[place], sign)
        self._groups[place] = groups

    def _grow(self) -> None:
        size = len(self._beliefs)
        more = max(1_024, size)
        self._beliefs += [self._beliefs[_NOTHING]] * more
        self._inverses = np.concatenate((self._inverses, np.broadcast_to(np.eye(D), (more, D, D))))
        self._rewards = np.concatenate((self._rewards, np.zeros((more, D))))
        self._free += range(size + more - 1, size - 1, -1)
