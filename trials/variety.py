"""Variety: traffic, policies and experiments that make a running engine produce lists of every kind, for replays.

    surfaces, each with a policy of its own: best by score · Thompson with MMR · UCB with DPP · LinUCB with caps · arms of groups …
    users who are known, anonymous, or allow no personal lists; items that the bundle does not know; experiments on `home`
    steady: some events a second; a burst: clicks of many users at one instant, for which the ranker comes too late

All of it but the times follows from the seed.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta, timezone
from typing import Any

from client.events import Events
from schemas.experiments import Arm, Definition, Experiment, Holdout, Layer
from schemas.items import Item
from schemas.policy import (
    Beliefs,
    Bought,
    Cap,
    Dpp,
    Explore,
    Following,
    Mmr,
    OutOfStock,
    Pinned,
    Policy,
    Seen,
    Stability,
)

HOME = "home"
LATER = 40  # items that come after the bundle
_BUNDLE = "demo-popularity"
_STABLE = Stability(top=6, moves=2)
POLICIES = (
    Policy(
        version="variety-thompson",
        surface="thompson",
        diversity=Mmr(relevance=0.7),
        slots=[Explore(places=[2, 5, 9], policy="thompson", floor=0.05)],
        beliefs=Beliefs(segment="device"),
        stability=_STABLE,
    ),
    Policy(
        version="variety-ucb",
        surface="ucb",
        rules=(Seen(times=4), OutOfStock(), Bought(days=9)),
        diversity=Dpp(relevance=3.0),
        slots=[Explore(places=[1, 4], policy="ucb", floor=0.2)],
    ),
    Policy(
        version="variety-linucb",
        surface="linucb",
        rules=(OutOfStock(), Cap(by="subcategory", most=3, within=20), Cap(by="category", most=12)),
        diversity=Mmr(relevance=0.6, by="subcategory"),
        slots=[Explore(places=[3, 6], policy="linucb", bonus=0.1, floor=0.1)],
        beliefs=Beliefs(),
    ),
    Policy(
        version="variety-arms",
        surface="arms",
        slots=[
            Explore(places=[2, 8], policy="thompson", arms="category", floor=0.1),
            Explore(places=[5], policy="ucb", arms="subcategory", floor=0.2),
        ],
        beliefs=Beliefs(segment="device"),
    ),
    Policy(
        version="variety-mixed",
        surface="mixed",
        weights={"click": 1.0},
        slots=[
            Following(places=[1]),
            Explore(places=[2], policy="softmax", temperature=2.0),
            Explore(places=[4], policy="epsilon_greedy", epsilon=0.3),
            Pinned(place=7, item="later-0"),
        ],
        stability=_STABLE,
    ),
)
ARM_POLICY = Policy(
    version="variety-arm", surface="arm", slots=[Explore(places=[1], policy="thompson", floor=0.1)], beliefs=Beliefs()
)
SURFACES = (HOME, HOME, *(policy.surface for policy in POLICIES))


def definition() -> Definition:
    """Half of `home` by another bundle, half of it by another policy, independently; and a holdout."""
    begun = datetime.now(timezone.utc) - timedelta(hours=1)

    def layer(name: str, **new: str) -> Layer:
        arms = (Arm(name="control", weight=0.5), Arm(name="new", weight=0.5, **new))
        experiment = Experiment(
            name=name, arms=arms, start=begun, end=begun + timedelta(days=1), surfaces=(HOME,), part=(0.0, 1.0)
        )
        return Layer(name=f"layer-{name}", experiments=(experiment,))

    return Definition(
        version="variety-1",
        salt="variety",
        layers=(layer("bundle", bundle=_BUNDLE), layer("policy", policy=ARM_POLICY.version)),
        holdout=Holdout(share=0.05, bundle=_BUNDLE),
    )


def later_items(known: Sequence[Item], moved: int = 0) -> list[Item]:
    """Items that the bundle does not know, of the groups of some that it does; `moved` puts them into other groups."""
    return [
        Item(
            item_id=f"later-{number}",
            category=known[(number + moved) * 97 % len(known)].category,
            subcategory=known[(number + moved) * 97 % len(known)].subcategory,
            sponsored=number % 5 == 0,
        )
        for number in range(LATER)
    ]


class Variety:
    """One event after the other. `label` keeps the users of one run apart from those of another."""

    def __init__(self, seed: int, label: str, items: Sequence[str], users: int = 240) -> None:
        self._chance, self._label, self._items, self._users = random.Random(seed), label, items, users
        self.sent = 0

    def one(self, events: Events) -> None:
        """Send the next event."""
        draw = self._chance.random()
        kind = "click" if draw < 0.6 else "impression" if draw < 0.9 else "add_to_cart"
        self._send(events, kind, self._chance.randrange(self._users))

    def burst(self, events: Events, count: int) -> None:
        """Clicks of so many users, as fast as they can be sent."""
        for user in self._chance.sample(range(self._users), min(count, self._users)):
            self._send(events, "click", user)

    def _send(self, events: Events, kind: str, user: int) -> None:
        chance = self._chance
        surface = SURFACES[user % len(SURFACES)] if chance.random() < 0.6 else chance.choice(SURFACES)
        item_id = f"later-{chance.randrange(LATER)}" if chance.random() < 0.15 else chance.choice(self._items)
        props: dict[str, Any] = {
            "surface": surface,
            "context": {"device": ("mobile", "desktop")[user % 2], "channel": "app" if user % 3 else "web"},
        }
        if user % 17 == 0:
            props["consent"] = {"personalise": False}
        name = f"{self._label}-{user}"
        events.track(
            kind, user_id=None if user % 11 == 0 else name, session_id=f"s-{name}", item_id=item_id, props=props
        )
        self.sent += 1


def drive(
    variety: Variety, events: Events, made: Callable[[], int], until: int, rate: float, wait: Callable[[float], None]
) -> None:
    """Send at `rate` a second, with a burst now and then, until `made` says that so many lists are there."""
    while made() < until:
        for _ in range(round(5 * rate)):
            variety.one(events)
            wait(1 / rate)
        variety.burst(events, 80)
        wait(2.0)
