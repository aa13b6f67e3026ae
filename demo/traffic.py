"""Live traffic in wall time, as an open loop: slot i is at start + i / rate, whether or not the engine keeps up.

    slot ─ a shopper whose next act is due? ─ no: a new shopper comes ─┐
             └─ yes: asks for a list where one is wanted (get_list) ───┴─ one event (send)

One event a slot. What a list is worth is accounted by true probabilities when it is shown.
"""

from __future__ import annotations

import heapq
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec
import numpy as np

from demo.accounting import CtrAccount
from demo.offline import play
from demo.policies import mixed
from demo.shoppers import Visit
from demo.story import Follower, Story
from demo.tastes import FIRST_UNSEEN, Memory, meet
from demo.truth import popular
from demo.world import HOUR_MS, LIST_SIZE, generator, load
from demo.writer import SURFACE
from schemas.event import Event, Impression, Scroll
from schemas.keys import user_key


class Given(NamedTuple):
    """A list that the engine gave: item ids, best first, and its id, where it has one."""

    item_ids: Sequence[str]
    list_id: str | None = None


Send = Callable[[Event], object]
# (user key as in schemas.keys.user_key: "u:<user>" or "s:<session>", surface, k)
GetList = Callable[[str, str, int], Given]


@dataclass
class Counts:
    events: int = 0
    lists: int = 0
    clicks: int = 0
    visits: int = 0
    empty_lists: int = 0  # get_list had nothing: the shop showed what is popular


@dataclass
class _Turn:
    """A visit under way, and its acts still to be sent: (due, event)."""

    visit: Visit
    rng: np.random.Generator
    acts: deque[tuple[int, Event]] = field(default_factory=deque)


class LiveTraffic:
    """Shoppers nobody trained on, one visit each. `pace` plays think times and dwell that many times faster than life;
    `dwell_ms` in the events stays as in life."""

    def __init__(
        self, send: Send, get_list: GetList, *, events_per_s: float = 50.0, seed: int = 1, first_shopper: int = FIRST_UNSEEN,
        pace: float = 4.0,
    ) -> None:  # fmt: skip
        if events_per_s <= 0 or pace <= 0:
            raise ValueError("events_per_s and pace must be above zero")
        self._send, self._get_list = send, get_list
        self._events_per_s, self._seed, self._pace = events_per_s, seed, pace
        self._first = self._next = first_shopper
        self._memories: dict[int, Memory] = {}
        self._waiting: list[tuple[int, int, _Turn]] = []  # (due, tie-break, turn)
        self._ties = 0
        self.world = load()
        self.account = CtrAccount(self.world)
        self.counts = Counts()
        self._follower = Follower(self.world)

    @property
    def story(self) -> Story | None:
        """The newest story of a followed shopper; None until one has acted between two lists."""
        return self._follower.story

    def ctr(self) -> dict[str, float]:
        """{ranked, popularity, optimum}: mean expected CTR of the shown lists, and of the others at the same moments."""
        return self.account.ctr()

    def past(self, now_ms: int, shoppers: int = 200, visits: int = 3, within_ms: int = 20 * HOUR_MS) -> Iterator[Event]:
        """What the first shoppers did before the shop opened, in order of time: send it first, and they are known.
        All of it is older than an hour and younger than `within_ms`; impressions and scrolls are left out, and visits that began
        without a login, whose merges would come all at once with the first checkpoint."""
        events: list[Event] = []
        policy = mixed()
        for number in range(self._first, self._first + shoppers):
            shopper, memory = meet(self.world, number), self._memories.setdefault(number, Memory())
            rng = generator(self._seed, 7, number)
            # One visit in each part of the time, an hour at its end kept free: visits stay sessions of their own.
            part_ms = (within_ms - HOUR_MS) // visits
            for part in range(visits):
                at = now_ms - within_ms + part * part_ms + int(rng.random() * max(1, part_ms - HOUR_MS))
                visit = play(self.world, shopper, memory, at, rng, policy)[0]
                events += visit if all(event.user_id for event in visit) else []
        events.sort(key=lambda event: event.ts_ms)
        return (event for event in events if not isinstance(event, (Impression, Scroll)))

    def step(self, now_ms: int) -> Event:
        """One slot: exactly one event is sent, stamped now."""
        while True:
            turn = (
                heapq.heappop(self._waiting)[2]
                if self._waiting and self._waiting[0][0] <= now_ms
                else self._arrive(now_ms)
            )
            if not turn.acts:
                self._look(turn, now_ms)
            if turn.acts:
                event = msgspec.structs.replace(turn.acts.popleft()[1], ts_ms=now_ms)
                self._send(event)
                self._follower.did(event)
                self.counts.events += 1
                self._wait(turn, now_ms)
                return event
            self._wait(turn, now_ms)

    def run(
        self,
        seconds: float | None = None,
        *,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
        on_slot: Callable[[Event], None] | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        """Until `seconds` have passed or `stop()` says so. Slots that were missed are made up for at once."""
        start, slot = clock(), 0
        while not stop():
            due = start + slot / self._events_per_s
            if seconds is not None and due >= start + seconds:
                return
            if (early := due - clock()) > 0:
                sleep(early)
            event = self.step(int(clock() * 1000))
            slot += 1
            if on_slot is not None:
                on_slot(event)

    def close(self, now_ms: int) -> None:
        """What shoppers are about to do, they do at once: so all that was accounted for has happened."""
        for _, _, turn in sorted(self._waiting):
            for _, event in turn.acts:
                self._send(msgspec.structs.replace(event, ts_ms=now_ms))
                self.counts.events += 1
            turn.acts.clear()

    def _arrive(self, now_ms: int) -> _Turn:
        number, self._next = self._next, self._next + 1
        rng = generator(self._seed, 8, number)
        memory = self._memories.setdefault(number, Memory())
        # The same seed plays the same visits again: to an engine that has seen an earlier run they are new ones.
        visit = Visit.start(self.world, meet(self.world, number), memory, now_ms, rng, salt=now_ms)
        self.counts.visits += 1
        self._follower.begins(visit.session_id)
        return _Turn(visit, rng, self._due(visit.opening, now_ms))

    def _look(self, turn: _Turn, now_ms: int) -> None:
        """The shopper wants a list: ask for it, account for it, let them react."""
        visit = turn.visit
        key = user_key(visit.user_id, visit.session_id)
        given, list_id = self._get_list(key, SURFACE, LIST_SIZE)
        item_ids = list(given)[:LIST_SIZE]
        if not item_ids:
            self.counts.empty_lists += 1
            item_ids = [self.world.ids[item] for item in popular().tolist()]
        self.account.add(visit.session_id, visit.shopper, visit.moment(now_ms), item_ids)
        self._follower.saw(visit.session_id, visit.user_id or visit.session_id, item_ids)
        reaction = visit.shown(list_id or visit.writer.new_id(), item_ids, now_ms, turn.rng)
        self.counts.lists += 1
        self.counts.clicks += sum(reaction.exposure.clicked)
        turn.acts = self._due(reaction.events, now_ms)

    def _due(self, events: list[Event], now_ms: int) -> deque[tuple[int, Event]]:
        return deque((self._paced(event.ts_ms, now_ms), event) for event in events)

    def _paced(self, ts_ms: int, now_ms: int) -> int:
        return now_ms + int((ts_ms - now_ms) / self._pace)

    def _wait(self, turn: _Turn, now_ms: int) -> None:
        """Queue the visit for its next act or its next look; a visit that is over leaves."""
        if turn.acts:
            due = turn.acts[0][0]
        elif not turn.visit.done:
            # At least this long after the last act, so that the engine has had the time a person's glance takes.
            due = max(now_ms + int(1000 / self._pace), self._paced(turn.visit.ready_ms, now_ms))
        else:
            self._follower.ends(turn.visit.session_id)
            self._memories.pop(turn.visit.shopper.number, None)  # each comes once
            return
        self._ties += 1
        heapq.heappush(self._waiting, (due, self._ties, turn))
