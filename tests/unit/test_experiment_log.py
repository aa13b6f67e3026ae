"""Totals of a user in arms: what counts for which, and what does not."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest

from schemas.experiment_metrics import UnitMetrics, unit_key
from schemas.experiment_state import VERSION, ExperimentState, decode, encode
from schemas.interaction import NO_TRAINING, Interaction
from schemas.ranking import Freshness, RankedList, Receipt
from schemas.user_state import UnknownStateVersion
from tests.fakes import DAY, HOUR, MINUTE, NOW, event
from udfs.logic.experiment_log import KEPT_DAYS, Taken, take_interaction, take_list

TODAY = NOW // DAY


def ranked(arms: dict[str, str], surface: str = "home", list_no: int = 1, at_ms: int = NOW) -> RankedList:
    freshness = Freshness(event_no=4, last_event_id=None, last_event_ts_ms=None, recent=[], offsets={})
    receipt = Receipt(freshness, "b1", "r1", "p1", {}, arms, {"total": 3.5}, {})
    return RankedList("L", "u:alice", surface, 7, list_no, at_ms, [], receipt, "click")


NEW = {"ranker": "new"}


def happened(
    kind: str, ts_ms: int = NOW, surface: str | None = "home", arms: dict[str, str] = NEW, **props: Any
) -> Interaction:
    props = {"surface": surface, **props} if surface else props
    fields = {} if kind == "purchase" else {"item": "i1"}
    one = event(kind, ts_ms=ts_ms, props=props, **fields)
    return Interaction("u:alice", 1, 7, one, ts_ms, 0, 0, ts_ms, arms=arms)


class User:
    def __init__(self) -> None:
        self.state = ExperimentState()
        self.totals: dict[bytes, UnitMetrics] = {}

    def take(self, one: RankedList | Interaction) -> Taken:
        self.state = decode(encode(self.state))  # as between two records
        taken = take_list(self.state, one) if isinstance(one, RankedList) else take_interaction(self.state, one)
        self.totals |= {unit_key(total): total for total in taken.units}
        return taken

    def of(self, experiment: str = "ranker", **fields: Any) -> list[UnitMetrics]:
        return [
            one
            for one in self.totals.values()
            if one.experiment == experiment and all(getattr(one, name) == value for name, value in fields.items())
        ]


@pytest.fixture
def alice() -> User:
    user = User()
    user.take(ranked({"ranker": "new"}))
    return user


ORDER = {"order_id": "o", "items": [{"item_id": "a", "quantity": 2, "price": 3.0}, {"item_id": "b", "price": 1.5}]}


def test_everything_counts_for_the_arm_of_the_surface(alice: User) -> None:
    for kind in ("impression", "impression", "click", "add_to_cart"):
        alice.take(happened(kind))
    alice.take(happened("purchase", **ORDER))
    (total,) = alice.of()
    assert msgspec.to_builtins(total) == {
        "experiment": "ranker", "arm": "new", "unit": "u:alice", "day": TODAY, "surface": "home", "exposures": 2, "clicks": 1,
        "carts": 1, "purchases": 1, "revenue": 7.5, "sessions": 1, "lists": 1, "latency_ms": 3.5,
    }  # fmt: skip


def test_what_a_user_does_not_let_us_learn_from_counts_for_nothing(alice: User) -> None:
    noted = msgspec.structs.replace(happened("click"), notes=[NO_TRAINING])
    assert alice.take(noted) == alice.take(happened("click", consent={"train": False})) == Taken([])


def test_surfaces_have_arms_of_their_own(alice: User) -> None:
    alice.take(happened("click", surface="cart", arms={"cart-order": "b"}))
    assert [one.clicks for one in alice.of("cart-order")] == [1] and [one.clicks for one in alice.of()] == [0]
    alice.take(happened("purchase", surface=None, arms=NEW | {"cart-order": "b"}, **ORDER))
    assert [one.purchases for name in ("ranker", "cart-order") for one in alice.of(name, surface="")] == [1, 1]


def test_what_happens_outside_every_experiment_counts_for_nothing(alice: User) -> None:
    assert alice.take(happened("click", arms={})).units == []


@pytest.mark.parametrize("seed", range(10))
def test_it_does_not_matter_which_topic_is_read_first(seed: int) -> None:
    """Contract: each topic keeps its order, and whatever comes between, the totals are the same: the arm changes on the way."""
    rng = random.Random(seed)
    lists = [ranked({"ranker": "old" if n < 10 else "new"}, list_no=n, at_ms=NOW + n * MINUTE) for n in range(20)]
    events = [
        happened(
            rng.choice(["impression", "click", "add_to_cart"]),
            NOW + n * MINUTE,
            arms={"ranker": "old" if n < 10 else "new"},
        )
        for n in range(20)
    ]
    feed_first, mixed, left = User(), User(), [list(lists), list(events)]
    for one in [*lists, *events]:
        feed_first.take(one)
    while any(left):
        mixed.take(rng.choice([one for one in left if one]).pop(0))
    assert mixed.totals == feed_first.totals
    assert {one.lists for one in mixed.totals.values()} == {10}


def test_sessions_end_with_a_gap(alice: User) -> None:
    for minute in (0, 10, 20, 51, 60):
        alice.take(happened("click", NOW + minute * MINUTE))
    assert [one.sessions for one in alice.of()] == [2]


def test_days_and_devices_are_kept_apart(alice: User) -> None:
    alice.take(happened("click"))
    alice.take(happened("click", NOW + DAY, context={"device": "mobile"}))
    assert [(one.day, one.segment, one.clicks) for one in alice.of()] == [(TODAY, "", 1), (TODAY + 1, "mobile", 1)]


def test_a_late_event_changes_its_day_while_that_is_kept(alice: User) -> None:
    alice.take(happened("click"))
    alice.take(happened("click", NOW + DAY))
    alice.take(happened("click", NOW + HOUR))
    assert [one.clicks for one in alice.of(day=TODAY)] == [2]
    alice.take(happened("click", NOW + KEPT_DAYS * DAY))
    late = alice.take(happened("click"))
    assert late.late and late.units == []


def test_bots_and_crossovers_are_marked(alice: User) -> None:
    bot = msgspec.structs.replace(happened("click"), notes=["flood"])
    alice.take(bot)
    assert alice.of()[0].bot
    alice.take(ranked({"ranker": "new", "crossed": "crossed"}, list_no=2))
    assert alice.of()[0].crossed and not alice.of("crossed")


def test_an_unknown_state_is_refused() -> None:
    with pytest.raises(UnknownStateVersion, match=f"version {VERSION + 1}"):
        decode(encode(ExperimentState(version=VERSION + 1)))
