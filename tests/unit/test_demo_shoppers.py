"""Visits: valid events in order, clicks by the true probabilities, the same visit for the same seed."""

from __future__ import annotations

from collections import Counter
from copy import deepcopy

import msgspec
import numpy as np
import pytest

from demo.accounting import expected_log
from demo.catalogue import SUBCATEGORY_NO
from demo.offline import VisitLog, in_time_order, visits
from demo.policies import mixed
from demo.shoppers import IMPRESSIONS_SENT, Visit, queries
from demo.tastes import Memory, meet
from demo.truth import popular
from demo.world import generator, load
from schemas.event import AddToCart, Click, Follow, Impression, Login, Purchase, Search, View, parse_event

NOW_MS = 1_768_938_120_000


@pytest.fixture(scope="module")
def logs() -> list[VisitLog]:
    return list(visits(range(60), days=14, seed=5))


def test_same_arguments_same_visits() -> None:
    assert list(in_time_order(visits(range(4), days=5))) == list(in_time_order(visits(range(4), days=5)))
    other = [event for log in visits(range(4), days=5, seed=2) for event in log.events]
    assert other != [event for log in visits(range(4), days=5) for event in log.events]


def test_every_event_passes_the_boundary(logs: list[VisitLog]) -> None:
    for log in logs:
        for event in log.events:
            assert parse_event(msgspec.json.encode(event)) == event


def test_event_ids_are_32_hex_digits_and_unique(logs: list[VisitLog]) -> None:
    ids = [event.event_id for log in logs for event in log.events]
    assert len(set(ids)) == len(ids)
    assert all(len(event_id) == 32 and int(event_id, 16) >= 0 for event_id in ids)


def test_events_of_a_visit_are_in_order_and_keep_sessions_apart(logs: list[VisitLog]) -> None:
    last: dict[int, int] = {}
    for log in logs:
        times = [event.ts_ms for event in log.events]
        assert times == sorted(times)
        assert log.start_ms - last.get(log.shopper.number, 0) > 20 * 60_000
        last[log.shopper.number] = max(times)


def test_the_merged_stream_is_in_order_and_complete(logs: list[VisitLog]) -> None:
    records = list(in_time_order(iter(logs)))
    assert [record.ts_ms for record in records] == sorted(record.ts_ms for record in records)
    assert sum(record.event is not None for record in records) == sum(len(log.events) for log in logs)
    shown: set[str] = set()
    for record in records:
        assert (record.event is None) != (record.exposure is None)
        if record.exposure is not None:
            shown.add(record.exposure.list_id)
        elif isinstance(record.event, (Impression, Click)) and record.event.props.list_id:
            assert record.event.props.list_id in shown


def test_clicks_come_at_the_true_probabilities(logs: list[VisitLog]) -> None:
    """Calibration, overall and by position: observed minus expected within four standard errors."""
    clicked = np.array(
        [shown.clicked for log in logs for shown in log.exposures if len(shown.items) == 10], dtype=float
    )
    expected = np.array([shown.probability for log in logs for shown in log.exposures if len(shown.items) == 10])
    spread = np.sqrt((expected * (1 - expected)).sum(axis=0))
    assert np.all(np.abs((clicked - expected).sum(axis=0)) < 4 * spread)
    assert expected[:, 0].mean() > 1.5 * expected[:, 9].mean()  # position bias


def test_a_click_has_its_impression_and_its_view(logs: list[VisitLog]) -> None:
    for log in logs:
        impressions = {event.event_id for event in log.events if isinstance(event, Impression)}
        clicks = [event for event in log.events if isinstance(event, Click)]
        assert [event.item_id for event in log.events if isinstance(event, View)] == [event.item_id for event in clicks]
        for click in clicks:
            landing = click.props.context is not None and click.props.context.campaign is not None
            assert landing or click.props.source_impression_id in impressions
        exposed = sorted(
            item for shown in log.exposures for item, hit in zip(shown.items, shown.clicked, strict=True) if hit
        )
        assert exposed == sorted(click.item_id for click in clicks if click.props.list_id)


def test_dwell_is_longer_for_what_is_relevant(logs: list[VisitLog]) -> None:
    dwell: dict[bool, list[int]] = {True: [], False: []}
    for log in logs:
        by_item = {event.item_id: event.props.dwell_ms for event in log.events if isinstance(event, View)}
        for shown in log.exposures:
            for place, (item, hit) in enumerate(zip(shown.items, shown.clicked, strict=True)):
                if hit:
                    relevant = shown.probability[place] * (1 + place) ** 0.45
                    dwell[relevant > 0.2].append(by_item[item])
    assert np.median(dwell[True]) > 1.5 * np.median(dwell[False])


def test_half_of_the_visits_begin_with_a_sign(logs: list[VisitLog]) -> None:
    begins = [isinstance(log.events[0], (Search, Click)) for log in logs]
    assert 0.4 < np.mean(begins) < 0.65


def test_searches_say_what_is_wanted(logs: list[VisitLog]) -> None:
    known = {query for subcategory in range(40) for query in queries(subcategory)}
    searched = {event.props.query for log in logs for event in log.events if isinstance(event, Search)}
    assert len(known) == 120
    assert searched <= known


def test_sold_out_and_free_items_are_never_bought(logs: list[VisitLog]) -> None:
    world = load()
    for log in logs:
        for event in log.events:
            if isinstance(event, AddToCart):
                assert (world.items[world.index[event.item_id]].stock or 0) > 0
            if isinstance(event, Purchase):
                assert event.user_id is not None
                assert all((world.items[world.index[line.item_id]].stock or 0) > 0 for line in event.props.items)


def test_consumables_are_bought_again() -> None:
    """Over a month: what is bought twice is mostly what is used up."""
    world = load()
    loyal = [number for number in range(300) if meet(world, number).tastes[SUBCATEGORY_NO["coffee"]] > 0.3][:12]
    bought = Counter(
        (log.shopper.number, line.item_id)
        for log in visits(loyal)
        for event in log.events
        if isinstance(event, Purchase)
        for line in event.props.items
    )
    again = [item for (_, item), times in bought.items() if times > 1]
    consumable = [bool(world.cycle_ms[world.subcategory[world.index[item]]]) for item in again]
    assert len(again) > 5
    assert np.mean(consumable) > 0.8


def test_some_visits_start_anonymous_and_log_in(logs: list[VisitLog]) -> None:
    kinds = Counter(
        (log.events[0].user_id is None, any(isinstance(event, Login) for event in log.events)) for log in logs
    )
    assert kinds[(True, True)]
    assert kinds[(True, False)]
    assert not kinds[(False, True)]
    for log in logs:
        known = [event.user_id is not None for event in log.events]
        assert known == sorted(known)  # once logged in, logged in


def test_follows_name_a_subcategory(logs: list[VisitLog]) -> None:
    """What a follow does to later intents: tests/unit/test_demo_world.py."""
    followed = [event for log in logs for event in log.events if isinstance(event, Follow)]
    assert followed
    assert all(event.props.target in SUBCATEGORY_NO for event in followed)


def test_unknown_and_missing_items_are_never_clicked() -> None:
    """A ranked list may hold an item that the world has never heard of, or nothing at all."""
    world, rng = load(), generator(4)
    visit = Visit.start(world, meet(world, 1), Memory(), NOW_MS, rng)
    strange = ["no-such-item", *(world.ids[item] for item in popular(3).tolist())]
    reaction = visit.shown("list-1", strange, NOW_MS, rng)
    assert reaction.exposure.probability[0] == 0.0
    assert not reaction.exposure.clicked[0]
    assert len(reaction.exposure.items) == 4
    assert visit.shown("list-2", [], NOW_MS, rng).exposure.items == ()


def test_a_policy_never_repeats_an_item_and_fills_the_list() -> None:
    world, rng, policy = load(), generator(4), mixed()
    visit = Visit.start(world, meet(world, 1), Memory(), NOW_MS, rng)
    sizes = []
    for _ in range(50):
        items = policy(visit, NOW_MS, rng).tolist()
        assert len(set(items)) == len(items)
        sizes.append(len(items))
    assert np.mean(sizes) > 9.8


def test_what_a_list_is_expected_to_report_is_what_visits_report() -> None:
    """Contract: of one moment, over 1,000 lots; sold out and unknown places included."""
    world, rng = load(), generator(5, 6)
    visit = Visit.start(world, meet(world, 40), Memory(), 1_768_938_120_000, rng)
    shown = [*(world.ids[item] for item in popular(8).tolist()), "unheard-of", world.ids[700]]
    clicks, impressions = expected_log(world, visit.shopper, visit.moment(visit.ready_ms), shown, IMPRESSIONS_SENT)
    rounds, reported = 1_000, Counter[str]()
    for number in range(rounds):
        again = deepcopy(visit, {id(world): world, id(visit.shopper): visit.shopper})
        events = again.shown("list", shown, visit.ready_ms, generator(5, 7, number)).events
        reported.update(event.event_type for event in events)
    assert len(clicks) == 10 and clicks[8] == 0
    assert reported["impression"] / rounds == pytest.approx(impressions, rel=0.05)
    assert reported["click"] / rounds == pytest.approx(clicks.sum(), rel=0.2)
