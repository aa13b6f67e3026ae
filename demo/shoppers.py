"""A visit as a seeded state machine: it takes the list it is shown and returns what the shopper does. No clock, no I/O.

    start ─ opening: search, landing click, or nothing ─ shown(list) ─ acts ─ shown(list) ─ acts ─ … ─ done

The live shop (demo/traffic.py) and offline traffic (demo/offline.py) run the same visits.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from demo.catalogue import SUBCATEGORIES
from demo.observer import DWELL_BASE_MS, DWELL_SLOPE_MS, DWELL_SPREAD, Observer
from demo.tastes import Memory, Shopper, draw, intent_probabilities
from demo.truth import Moment, relevance, top
from demo.world import LIST_SIZE, NATURE, TOP_EXAMINATION, World
from demo.writer import Writer
from schemas.event import Event

IMPRESSIONS_SENT = 3  # of a list's examined places; a clicked place is always sent
MAX_LISTS = 12
_ANONYMOUS, _LOGIN = 0.2, 0.3  # share of visits that start anonymous; chance to log in after a list
_SEARCH_FIRST, _LANDING_FIRST = 0.3, 0.22  # so about half of the visits begin with a sign of their intent
_LEAVE_CLICKED, _LEAVE_UNMOVED, _SEARCH_UNMOVED = 0.14, 0.26, 0.3


class Exposure(NamedTuple):
    """One list as it was shown, and what came of it. Columns are parallel, by position from 0."""

    ts_ms: int
    list_id: str
    user_id: str | None
    session_id: str
    shopper: int
    list_no: int  # within the visit, from 0
    items: tuple[str, ...]
    examined: tuple[bool, ...]
    clicked: tuple[bool, ...]
    carted: tuple[bool, ...]
    bought: tuple[bool, ...]
    probability: tuple[float, ...]  # true P(click), position bias included


class Reaction(NamedTuple):
    """`events` in order of time, the first at the time of showing or later."""

    exposure: Exposure
    events: list[Event]


def queries(subcategory: int) -> tuple[str, ...]:
    """What shoppers type when they want this: a small vocabulary, so that a query can be a sequence token."""
    name = SUBCATEGORIES[subcategory].replace("-", " ")
    return (name, f"best {name}", f"new {name}")


class Visit:
    """One visit. `ready_ms` is when the shopper looks at the next list; after `done` there is none."""

    def __init__(
        self, world: World, shopper: Shopper, memory: Memory, now_ms: int, rng: np.random.Generator, salt: int = 0
    ) -> None:
        self.world, self.shopper, self.memory = world, shopper, memory
        self.started_ms = now_ms
        self.intent = draw(intent_probabilities(world, shopper, memory, now_ms), rng)
        self.clicked: frozenset[int] = frozenset()
        self.cart: list[int] = []
        self.lists = 0
        self.done = False
        self.observer = Observer(world, shopper, memory, now_ms)
        self.writer = Writer(None if rng.random() < _ANONYMOUS else shopper.user_id, rng, salt)
        self._events: list[Event] = []
        self._clock_ms = now_ms
        self._open(rng)
        self.opening = self._take()
        self.ready_ms = self._clock_ms + int(500 + 1500 * rng.random())

    @classmethod
    def start(
        cls, world: World, shopper: Shopper, memory: Memory, now_ms: int, rng: np.random.Generator, salt: int = 0
    ) -> Visit:
        """`opening` holds the first events. The memory is the shopper's own and changes with what is bought and followed. `salt` as
        of a Writer."""
        return cls(world, shopper, memory, now_ms, rng, salt)

    @property
    def user_id(self) -> str | None:
        return self.writer.user_id

    @property
    def session_id(self) -> str:
        return self.writer.session_id

    def moment(self, now_ms: int) -> Moment:
        """The truth about now, for accounting."""
        return Moment(now_ms, self.intent, self.clicked, self.memory)

    def shown(self, list_id: str, item_ids: list[str], now_ms: int, rng: np.random.Generator) -> Reaction:
        """The shopper looks at the top 10 of the list and acts. Ids the world does not know are never clicked."""
        shown, index = item_ids[:LIST_SIZE], self.world.index
        places = [place for place, item_id in enumerate(shown) if item_id in index]
        items = np.array([index[shown[place]] for place in places], dtype=np.int64)
        relevant = relevance(self.world, self.shopper, self.moment(now_ms), items)
        examination = TOP_EXAMINATION[places]
        examined = rng.random(len(items)) < examination
        clicked = examined & (rng.random(len(items)) < relevant)
        self._clock_ms = now_ms
        user_id, truth = self.writer.user_id, [0.0] * len(shown)
        looked, hit = [False] * len(shown), [False] * len(shown)
        for at, place in enumerate(places):
            truth[place] = float(relevant[at] * examination[at])
            looked[place], hit[place] = bool(examined[at]), bool(clicked[at])
        impressions = self._impressions(list_id, shown, looked, hit, rng)
        carted, bought = [False] * len(shown), [False] * len(shown)
        self.observer.reacted(items, np.flatnonzero(clicked))
        for at in np.flatnonzero(clicked):
            place = places[at]
            self._clock_ms += int(600 + 2400 * rng.random())
            self._write_click(int(items[at]), place, list_id, impressions.get(place))
            carted[place], bought[place] = self._engage(int(items[at]), float(relevant[at]), list_id, rng)
        self._between_lists(bool(clicked.any()), rng)
        exposure = Exposure(
            now_ms, list_id, user_id, self.session_id, self.shopper.number, self.lists, tuple(shown),
            tuple(looked), tuple(hit), tuple(carted), tuple(bought), tuple(truth),
        )  # fmt: skip
        self.lists += 1
        self.done = self.done or self.lists >= MAX_LISTS
        return Reaction(exposure, self._take())

    def _open(self, rng: np.random.Generator) -> None:
        chance = rng.random()
        if chance < _SEARCH_FIRST:
            self._search(rng)
        elif chance < _SEARCH_FIRST + _LANDING_FIRST:
            appeal = np.where(self.world.subcategory == self.intent, self.shopper.appeal, 0.0)
            item = int(top(appeal, 20)[rng.integers(20)])
            self.observer.searched(self.intent)
            self._events.append(self.writer.landing(self._clock_ms, self.world.ids[item]))
            self.clicked |= {item}
            self._engage(item, float(self.shopper.appeal[item]), None, rng)

    def _impressions(
        self, list_id: str, shown: list[str], looked: list[bool], hit: list[bool], rng: np.random.Generator
    ) -> dict[int, str]:
        """Impressions of the first examined places and of every clicked one; place -> event_id."""
        sent: dict[int, str] = {}
        deepest = 0
        for place, item_id in enumerate(shown):
            if not looked[place]:
                continue
            deepest = place
            if len(sent) < IMPRESSIONS_SENT or hit[place]:
                self._clock_ms += int(100 + 300 * rng.random())
                self._events.append(self.writer.impression(self._clock_ms, item_id, place, list_id))
                sent[place] = self._events[-1].event_id
        if deepest >= 7 and rng.random() < 0.3:
            self._clock_ms += 400
            self._events.append(self.writer.scroll(self._clock_ms, 10.0 * (deepest + 1)))
        return sent

    def _write_click(self, item: int, place: int, list_id: str, seen_as: str | None) -> None:
        self._events.append(self.writer.click(self._clock_ms, self.world.ids[item], place, list_id, seen_as))
        self.clicked |= {item}

    def _engage(self, item: int, relevant: float, list_id: str | None, rng: np.random.Generator) -> tuple[bool, bool]:
        """The view after a click, then perhaps cart, purchase, like, hide, follow: likelier the more relevant the item is."""
        world, write, item_id = self.world, self.writer, self.world.ids[item]
        median_ms = DWELL_BASE_MS + DWELL_SLOPE_MS * relevant
        dwell_ms = max(300, min(600_000, int(median_ms * np.exp(DWELL_SPREAD * rng.standard_normal()))))
        self.observer.viewed(item, dwell_ms)
        self._clock_ms += dwell_ms
        self._events.append(write.view(self._clock_ms, item_id, dwell_ms, list_id))
        carted = bought = False
        if world.free[item]:
            if rng.random() < 0.6 * relevant:
                self._events.append(write.like(self._later(rng), item_id))
        elif (
            world.in_stock[item] and item not in self.cart and rng.random() < min(0.8, self._keenness(item) * relevant)
        ):
            carted = True
            self.cart.append(item)
            self._events.append(write.add_to_cart(self._later(rng), item_id, world.items[item].price, list_id))
            if rng.random() < 0.25 + relevant:
                self._log_in(rng)  # nobody pays anonymously
                bought = True
                self._buy(rng)
            elif rng.random() < 0.1:
                self.cart.remove(item)
                self._events.append(write.remove_from_cart(self._later(rng), item_id))
        if relevant < 0.1 and dwell_ms < 3_000 and rng.random() < 0.1:
            self._events.append(write.hide(self._later(rng), item_id))
        subcategory = int(world.subcategory[item])
        if subcategory == self.intent and subcategory not in self.memory.follows and rng.random() < 0.03:
            self.memory.follows.add(subcategory)
            self._events.append(write.follow(self._later(rng), SUBCATEGORIES[subcategory]))
        return carted, bought

    def _keenness(self, item: int) -> float:
        """What is used up is bought with less thought."""
        return 2.5 if self.world.cycle_ms[self.world.subcategory[item]] else 1.4

    def _buy(self, rng: np.random.Generator) -> None:
        lines = [(self.world.ids[item], self.world.items[item].price) for item in self.cart]
        self._events.append(self.writer.purchase(self._later(rng), lines))
        self.memory.bought_ms.update(dict.fromkeys(self.cart, self._clock_ms))
        self.cart = []

    def _between_lists(self, moved: bool, rng: np.random.Generator) -> None:
        """Leave, change one's mind, log in, search when nothing was of interest; else look again."""
        self.done = rng.random() < (_LEAVE_CLICKED if moved else _LEAVE_UNMOVED)
        changed = rng.random() < NATURE.intent_change
        if changed:
            self.intent = draw(intent_probabilities(self.world, self.shopper, self.memory, self._clock_ms), rng)
        if rng.random() < _LOGIN:
            self._log_in(rng)
        if not self.done and not moved and rng.random() < _SEARCH_UNMOVED:
            self._search(rng)
        self.ready_ms = self._clock_ms + int(1500 + 4000 * rng.random())

    def _search(self, rng: np.random.Generator) -> None:
        query = queries(self.intent)[int(rng.integers(3))]
        self._events.append(self.writer.search(self._later(rng), query))
        self.observer.searched(self.intent)

    def _log_in(self, rng: np.random.Generator) -> None:
        if self.writer.user_id is None:
            self.writer.user_id = self.shopper.user_id
            self._events.append(self.writer.login(self._later(rng)))

    def _later(self, rng: np.random.Generator) -> int:
        self._clock_ms += int(700 + 2500 * rng.random())
        return self._clock_ms

    def _take(self) -> list[Event]:
        events, self._events = self._events, []
        return events
