"""Live traffic on a fake clock: the rate asked for, honest accounting, a story for the terminal."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from demo.tastes import FIRST_UNSEEN
from demo.traffic import Given, LiveTraffic
from demo.truth import popular
from demo.world import HOUR_MS, load
from schemas.event import Click, Event, Impression, Scroll, View, parse_event

START_MS = 1_768_938_120_000


class FakeClock:
    def __init__(self) -> None:
        self.now_s = START_MS / 1000

    def __call__(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


def popular_list(_key: str, _surface: str, k: int) -> Given:
    return Given([load().ids[item] for item in popular(k).tolist()])


def played(
    seconds: float, get_list: Callable[[str, str, int], Given] = popular_list, rate: float = 50.0
) -> tuple[LiveTraffic, list[Event]]:
    clock, sent = FakeClock(), list[Event]()
    traffic = LiveTraffic(sent.append, get_list, events_per_s=rate)
    traffic.run(seconds, clock=clock, sleep=clock.sleep)
    return traffic, sent


@pytest.mark.parametrize("rate", [5.0, 50.0, 200.0])
def test_sends_the_rate_that_was_asked_for(rate: float) -> None:
    traffic, sent = played(10, rate=rate)
    assert len(sent) == 10 * rate == traffic.counts.events
    times = [event.ts_ms for event in sent]
    assert times == sorted(times)
    assert times[0] == START_MS
    assert times[-1] <= START_MS + 10_000


def test_another_run_of_the_same_seed_sends_new_events() -> None:
    """Contract: an engine that has seen the first run takes none of the second for a duplicate; shoppers do the same in both."""
    first, second = list[Event](), list[Event]()
    for sent, later_s in ((first, 0.0), (second, 60.0)):
        clock = FakeClock()
        clock.sleep(later_s)
        LiveTraffic(sent.append, popular_list).run(5, clock=clock, sleep=clock.sleep)
    assert not {event.event_id for event in first} & {event.event_id for event in second}
    assert not {event.session_id for event in first} & {event.session_id for event in second}
    assert [event.event_type for event in first] == [event.event_type for event in second]


def test_is_an_open_loop() -> None:
    """A send that takes two seconds shifts no slot: what was missed is made up for at once."""
    clock, sent = FakeClock(), list[int]()

    def send(event: Event) -> None:
        sent.append(event.ts_ms - START_MS)
        if len(sent) == 10:
            clock.sleep(2.0)

    LiveTraffic(send, popular_list).run(5, clock=clock, sleep=clock.sleep)
    assert len(sent) == 250
    assert sum(2_000 <= at <= 2_200 for at in sent) >= 100


def test_events_are_valid_unseen_and_a_realistic_mix() -> None:
    traffic, sent = played(60)
    assert all(parse_event(msgspec.json.encode(event)) == event for event in sent)
    assert len({event.event_id for event in sent}) == len(sent)
    assert all(event.user_id is None or event.user_id >= f"shopper-{FIRST_UNSEEN}" for event in sent)
    assert 0.3 < sum(isinstance(event, Impression) for event in sent) / len(sent) < 0.75
    assert traffic.counts.lists > 300
    assert traffic.counts.clicks > 100


def test_accounts_for_every_list_shown() -> None:
    traffic, _ = played(20)
    ctr = traffic.ctr()
    assert traffic.account.moments == traffic.counts.lists
    assert ctr["ranked"] == pytest.approx(ctr["popularity"])
    assert 0.3 < ctr["popularity"] / ctr["optimum"] < 0.6


def test_asks_for_lists_by_user_key() -> None:
    asked: list[tuple[str, str, int]] = []

    def get_list(key: str, surface: str, k: int) -> Given:
        asked.append((key, surface, k))
        return popular_list(key, surface, k)

    played(20, get_list)
    assert {key[:2] for key, _, _ in asked} == {"u:", "s:"}
    assert {(surface, k) for _, surface, k in asked} == {("home", 10)}


def test_without_a_list_the_shop_shows_what_is_popular_and_counts_it() -> None:
    traffic, _ = played(10, lambda _key, _surface, _k: Given([]))
    assert traffic.counts.empty_lists == traffic.counts.lists > 0
    assert traffic.ctr()["ranked"] == pytest.approx(traffic.ctr()["popularity"])


def test_what_is_shown_is_reported_under_the_lists_own_id() -> None:
    """Contract: so the engine can tell what a click came from."""
    _, sent = played(20, lambda *asked: popular_list(*asked)._replace(list_id="the-list"))
    shown = [event.props.list_id for event in sent if isinstance(event, Impression)]
    assert len(shown) > 100 and set(shown) == {"the-list"}
    assert {event.props.list_id for event in sent if isinstance(event, Click)} == {"the-list", None}  # None: landings


def test_at_closing_all_that_was_accounted_for_happens() -> None:
    sent: list[Event] = []
    clock = FakeClock()
    traffic = LiveTraffic(sent.append, popular_list)
    traffic.run(10, clock=clock, sleep=clock.sleep)
    before = sum(isinstance(event, Click) for event in sent)
    traffic.close(START_MS + 10_000)
    clicks = [event for event in sent if isinstance(event, Click) and event.props.list_id is not None]
    assert len(clicks) == traffic.counts.clicks and len(sent) == traffic.counts.events
    assert sum(isinstance(event, Click) for event in sent) > before


def test_tells_a_story_with_lists_before_and_after() -> None:
    turn = iter(range(10_000))

    def get_list(_key: str, _surface: str, k: int) -> Given:
        first = next(turn)
        return Given([load().ids[item] for item in popular(100)[first % 50 : first % 50 + k].tolist()])

    story = played(40, get_list)[0].story
    assert story is not None
    assert story.acts
    assert len(story.before) == len(story.after) == 10
    assert story.before != story.after
    assert any(act.startswith(("clicked", "searched", "stayed")) for act in story.acts)


def test_the_past_is_hours_old_in_order_and_of_the_shoppers_who_come() -> None:
    traffic = LiveTraffic(lambda _event: None, popular_list)
    past = list(traffic.past(START_MS, shoppers=10, visits=3))
    times = [event.ts_ms for event in past]
    assert times == sorted(times)
    assert times[0] >= START_MS - 20 * HOUR_MS
    assert times[-1] < START_MS - HOUR_MS
    assert any(isinstance(event, View) for event in past)
    assert not any(isinstance(event, (Impression, Scroll)) for event in past)
    sent = {event.user_id for event in (traffic.step(START_MS) for _ in range(10)) if event.user_id}
    assert sent <= {f"shopper-{FIRST_UNSEEN + number:06d}" for number in range(10)}


def test_refuses_a_rate_that_is_none() -> None:
    with pytest.raises(ValueError, match="above zero"):
        LiveTraffic(lambda _event: None, popular_list, events_per_s=0)
