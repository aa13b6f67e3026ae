"""Totals of a user in arms: what counts for which, and what does not."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest

from schemas.experiment_metrics import UnitMetrics, unit_key
from schemas.experiment_state import VERSION, Cell, ExperimentState, decode, encode
from schemas.experiments import INTERLEAVED
from schemas.interaction import NO_TRAINING, Interaction
from schemas.policy import LAST_PLACE
from schemas.ranking import Draft, Freshness, RankedItem, RankedList, Receipt, Team
from schemas.user_state import UnknownStateVersion
from tests.fakes import DAY, HOUR, MINUTE, NOW, event
from udfs.logic.experiment_log import DRAFTS_CAP, KEPT_DAYS, Taken, take_interaction, take_list

TODAY = NOW // DAY


def ranked(
    arms: dict[str, str], surface: str = "home", list_no: int = 1, at_ms: int = NOW, unit: str | None = None
) -> RankedList:
    freshness = Freshness(event_no=4, last_event_id=None, last_event_ts_ms=None, recent=[], offsets={})
    receipt = Receipt(freshness, "b1", "r1", "p1", {}, arms, {"total": 3.5}, {}, unit=unit)
    return RankedList("L", "u:alice", surface, 7, list_no, at_ms, [], receipt, "click")


DUEL = {"duel": INTERLEAVED}
TEAMS = [Team("control", "b1", "r1", "p1"), Team("new", "b2", "r2", "p1")]


def drafted(list_id: str = "L1", at_ms: int = NOW, teams: str = "nccnn") -> RankedList:
    """Items i0, i1, …, each picked by the control (c) or by the new ranker (n)."""
    plain = ranked(DUEL, at_ms=at_ms)
    names = {"c": "control", "n": "new"}
    items = [RankedItem(f"i{place}", 1.0, "popular", team=names[team]) for place, team in enumerate(teams)]
    receipt = msgspec.structs.replace(plain.receipt, draft=Draft("duel", TEAMS))
    return msgspec.structs.replace(plain, list_id=list_id, items=items, receipt=receipt)


def clicked(item: str, list_id: str | None = "L1", ts_ms: int = NOW + MINUTE) -> Interaction:
    return happened("click", ts_ms, arms=DUEL, item=item, **({"list_id": list_id} if list_id else {}))


NEW = {"ranker": "new"}


def happened(
    kind: str, ts_ms: int = NOW, surface: str | None = "home", arms: dict[str, str] = NEW, **props: Any
) -> Interaction:
    props = {"surface": surface, **props} if surface else props
    fields = {} if kind == "purchase" else {"item": props.pop("item", "i1")}
    one = event(kind, ts_ms=ts_ms, props=props, **fields)
    return Interaction("u:alice", 1, 7, one, ts_ms, 0, 0, ts_ms, arms=arms)


class User:
    def __init__(self) -> None:
        self.state = ExperimentState()
        self.totals: dict[bytes, UnitMetrics] = {}

    def take(self, one: RankedList | Interaction) -> Taken:
        self.state = decode(encode(self.state))  # as between two records
        taken = take_list(self.state, one) if isinstance(one, RankedList) else take_interaction(self.state, one)
        self.totals |= {unit_key(total, one.key): total for total in taken.units}
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


def test_a_visitor_and_the_account_they_open_are_one_unit() -> None:
    """Contract: the keys keep records of their own, so that neither overwrites the other; a report adds them up."""
    anonymous, account = User(), User()
    before = msgspec.structs.replace(happened("click"), key="s:s1")
    after = msgspec.structs.replace(happened("click"), unit="s:s1")
    anonymous.take(before)
    account.take(after)
    account.take(ranked(NEW, unit="s:s1"))
    found = anonymous.totals | account.totals
    assert [(one.unit, one.clicks) for one in found.values()] == [("s:s1", 1), ("s:s1", 1)]
    assert [name.rpartition(b"|")[2] for name in found] == [b"s:s1", b"u:alice"]


def test_an_outcome_where_an_experiment_has_ended_counts_for_nothing_and_is_noticed(alice: User) -> None:
    ended = alice.take(happened("purchase", NOW + HOUR, arms={}, **ORDER))
    assert ended.outside and ended.units == [] and not alice.take(happened("purchase", NOW + HOUR, **ORDER)).outside
    assert not alice.take(happened("impression", NOW + HOUR, arms={})).outside
    assert not alice.take(happened("click", NOW + HOUR, surface="cart", arms={})).outside
    assert not alice.take(happened("click", NOW + KEPT_DAYS * DAY, arms={})).outside


# ── drafted lists ────────────────────────────────────────────────────────────────────────────────────────────────────


def won(user: User) -> dict[str, tuple[int, int, int]]:
    """(lists, clicks, wins) of each team."""
    return {
        arm: (sum(one.lists for one in found), sum(one.clicks for one in found), sum(one.wins for one in found))
        for arm in ("control", "new")
        if (found := user.of("duel", arm=arm))
    }


def test_a_click_counts_for_who_picked_the_item_and_the_list_for_who_has_more() -> None:
    user = User()
    user.take(drafted())
    assert won(user) == {"control": (1, 0, 0), "new": (1, 0, 0)}
    steps = [
        ("i1", {"control": (1, 1, 1), "new": (1, 0, 0)}),
        ("i0", {"control": (1, 1, 0), "new": (1, 1, 0)}),  # a tie is nobody's
        ("i0", {"control": (1, 1, 0), "new": (1, 1, 0)}),  # an item counts once
        ("i3", {"control": (1, 1, 0), "new": (1, 2, 1)}),
        ("gone", {"control": (1, 1, 0), "new": (1, 2, 1)}),
    ]
    for item, wanted in steps:
        user.take(clicked(item))
        assert won(user) == wanted
    assert [(one.lists, one.clicks) for one in user.of("duel", arm=INTERLEAVED)] == [(1, 5)]


def test_a_list_that_comes_twice_is_drafted_once() -> None:
    user = User()
    for one in (drafted(), clicked("i1"), drafted()):
        user.take(one)
    assert won(user) == {"control": (1, 1, 1), "new": (1, 0, 0)}


@pytest.mark.parametrize("seed", range(10))
def test_the_lists_of_a_duel_may_come_before_or_after_their_clicks(seed: int) -> None:
    """Contract: whatever the order of the two topics; each click against the naive count."""
    rng = random.Random(seed)
    lists = [drafted(f"L{n}", NOW + n * MINUTE, "".join(rng.choices("cn", k=6))) for n in range(12)]
    clicks = [clicked(f"i{rng.randrange(6)}", f"L{rng.randrange(12)}", NOW + n * MINUTE) for n in range(40)]
    left: list[list[Any]] = [list(lists), list(clicks)]
    user = User()
    while any(left):
        user.take(rng.choice([one for one in left if one]).pop(0))
    points = dict.fromkeys(("control", "new"), 0)
    wins = dict(points)
    for one in lists:
        seen = {made.event.item_id for made in clicks if made.event.props.list_id == one.list_id}  # type: ignore[union-attr]
        of_list = [item.team for item in one.items if item.item_id in seen]
        for arm in points:
            points[arm] += of_list.count(arm)
            wins[arm] += of_list.count(arm) > len(of_list) / 2
    assert won(user) == {arm: (12, points[arm], wins[arm]) for arm in points}


def test_a_click_that_names_no_list_is_credited_to_nobody_and_noticed() -> None:
    user = User()
    user.take(drafted())
    assert user.take(clicked("i1", None)).without_list and not user.take(clicked("i1")).without_list
    assert won(user)["control"] == (1, 1, 1)
    assert not user.take(happened("click")).without_list


def test_drafted_lists_are_kept_for_a_day_and_so_many_at_most() -> None:
    user = User()
    for number in range(DRAFTS_CAP + 8):
        user.take(drafted(f"L{number}", NOW + number * MINUTE))
    assert [one.list_id for one in user.state.drafts] == [f"L{n}" for n in range(8, DRAFTS_CAP + 8)]
    assert len(encode(user.state)) < 8_000
    user.take(clicked("i1", "L3"))  # forgotten: it waits for its list, and is forgotten itself
    assert won(user)["control"] == (DRAFTS_CAP + 8, 0, 0)
    user.take(drafted("next", NOW + 2 * DAY))
    assert [one.list_id for one in user.state.drafts] == ["next"]
    assert user.take(clicked("i1", "L9", NOW)).units  # as a click of the unit; the list is too old
    assert won(user)["control"] == (DRAFTS_CAP + 9, 0, 0)


def test_a_list_whose_teams_make_no_sense_is_not_drafted() -> None:
    """Contract: anybody may write to a topic; the job goes on."""
    strange = drafted()
    nobodys = msgspec.structs.replace(strange, items=[msgspec.structs.replace(strange.items[0], team="x")])
    teamless = msgspec.structs.replace(strange, items=[RankedItem("i0", 1.0, "popular")])
    alone = msgspec.structs.replace(strange.receipt, draft=Draft("duel", TEAMS[:1]))
    user = User()
    for one in (nobodys, teamless, msgspec.structs.replace(strange, receipt=alone)):
        user.take(one)
    assert won(user) == {} and user.state.drafts == []


def test_a_flood_of_clicks_on_one_list_is_cut() -> None:
    user = User()
    for number in range(LAST_PLACE + 20):
        user.take(clicked(f"other-{number}"))
    assert len(user.state.drafts[0].clicked) == 4 * LAST_PLACE


def test_what_a_bot_clicks_is_marked_and_in_no_arms_total() -> None:
    user = User()
    user.take(drafted())
    bot = msgspec.structs.replace(clicked("i1"), notes=["flood"])
    assert user.take(bot).deltas == []
    assert all(one.bot for one in user.of("duel", arm="control"))


# ── state ────────────────────────────────────────────────────────────────────────────────────────────────────────────

NOW_THEN = 1_767_225_600_000
STATE_BEFORE_DRAFTS = bytes.fromhex(
    "9c018080919da672616e6b6572a36e6577cd4fe6a4686f6d65a66d6f62696c6504030201cb401e0000000000000102cb402280"
    "0000000000cf0000019b76daa800cf0000019b76daa80081a672616e6b6572cf0000019b76daa800a66d6f62696c65c2c20506"
)


def test_state_that_was_written_before_lists_were_drafted_is_read() -> None:
    """Contract: bytes of an older release; they never change."""
    state = decode(STATE_BEFORE_DRAFTS)
    counts = {"exposures": 4, "clicks": 3, "carts": 2, "purchases": 1, "revenue": 7.5, "sessions": 1, "lists": 2}
    assert state.cells == [Cell("ranker", "new", 20454, "home", "mobile", **counts, latency_ms=9.25, wins=0)]
    assert (state.counted, state.segment, state.timer_ms, state.touched_ms) == ({"ranker": NOW_THEN}, "mobile", 5, 6)
    assert state.drafts == []


def test_an_unknown_state_is_refused() -> None:
    with pytest.raises(UnknownStateVersion, match=f"version {VERSION + 1}"):
        decode(encode(ExperimentState(version=VERSION + 1)))
