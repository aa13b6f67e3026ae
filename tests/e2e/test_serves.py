"""Events in, lists out: on a real Kafka, Flink and Redis."""

from __future__ import annotations

import time
import uuid
from typing import Any

import msgspec

from cli.cluster import publish
from client.requests import RankRequester
from demo.world import load
from models.bundle import latest, read_manifest
from models.store import SHIPPED
from schemas import topics
from schemas.control import ActivateBundle
from schemas.interaction import decode_interaction
from schemas.ranking import RankedList, decode_list
from tests.e2e.engine import Engine, Reader, event, new_user, produce, raw, wait_for

ITEMS = [item.item_id for item in load().items]


def test_a_click_becomes_a_list_in_redis_and_on_kafka(engine: Engine) -> None:
    user = new_user("clicker")
    names = (topics.RANKED_FEED, topics.RANKED_FEED_LATEST, topics.FEATURES, topics.INTERACTIONS)
    with Reader(engine.where, *names) as reader, engine.events() as events, engine.feed() as feed:
        token = events.send(raw(event(user, item_id=ITEMS[7])))
        answer = feed.get(user, k=20, at_least=token.event_id, wait_ms=10_000)

        def mine(records: dict[str, list[Any]]) -> dict[str, list[Any]]:
            """Other tests' records may become visible now: exactly-once output comes with a checkpoint."""
            return {name: [one for one in records[name] if token.event_id.encode() in one.value] for name in names}

        found = mine(reader.until(lambda records: all(mine(records).values()), limit_s=30))
    assert (answer.met, answer.fallback) == (True, None)
    assert len(set(answer.items)) == 20
    assert answer.receipt is not None
    assert answer.receipt.freshness.last_event_id == token.event_id
    on_kafka = decode_list(found[topics.RANKED_FEED][0].value)
    assert (on_kafka.key, on_kafka.surface, on_kafka.trigger) == (f"u:{user}", "home", "click")
    assert [item.item_id for item in on_kafka.items[:20]] == answer.items
    interaction = decode_interaction(found[topics.INTERACTIONS][0].value)
    assert (interaction.event_no, interaction.event.event_id) == (1, token.event_id)


def test_who_waits_for_a_rejected_or_repeated_event_is_told_at_once(engine: Engine) -> None:
    user = new_user("waiting")
    with engine.events() as events, engine.feed() as feed:
        first = event(user, item_id=ITEMS[5])
        token = events.send(raw(first))
        assert feed.get(user, at_least=token.event_id, wait_ms=10_000).met
        again = produce(engine.where, topics.EVENTS, [(f"u:{user}".encode(), raw(first))])[0]
        refused = produce(engine.where, topics.EVENTS, [(f"u:{user}".encode(), b"nonsense")])[0]
        reasons = [feed.get(user, at_least=place, wait_ms=10_000).fallback for place in (again, refused)]
    assert reasons == ["duplicate", "not_json"]


def test_what_was_done_before_the_login_counts_after_it(engine: Engine) -> None:
    user, session = new_user("member"), uuid.uuid4().hex
    with engine.events() as events, engine.feed() as feed:
        for item_id in ITEMS[:3]:
            last = events.send(raw(event(None, item_id=item_id, session_id=session)))
        assert feed.get(None, session_id=session, at_least=last.event_id, wait_ms=10_000).met
        events.send(raw(event(user, "login", session_id=session)))
        merged = wait_for(
            lambda: (
                (answer := feed.get(user)).freshness is not None
                and len(answer.freshness.recent) == 4
                and answer.freshness
            ),
            limit_s=30,
            what="the anonymous actions under the user's key",
        )
    assert merged.event_no == 1


def test_a_request_ranks_the_callers_candidates_and_events_rerank_them(engine: Engine) -> None:
    user, candidates = new_user("asker"), ITEMS[100:110]
    with RankRequester(engine.where) as requester, engine.events() as events, engine.feed() as feed:
        asked = requester.rank_feed(user, candidates, k=5, surface="cart", session_id="s", timeout_ms=10_000)
        token = events.send(raw(event(user, item_id=candidates[0], props={"surface": "cart"})))
        later = feed.get(user, "cart", k=10, at_least=token.event_id, wait_ms=10_000)
    assert len(asked.items) == 5
    assert {item.item_id for item in asked.items} <= set(candidates)
    assert sorted(later.items) == sorted(candidates)


def test_an_item_out_of_stock_leaves_the_lists(engine: Engine) -> None:
    user = new_user("stock")
    with engine.events() as events, engine.feed() as feed:
        token = events.send(raw(event(user, item_id=ITEMS[50])))
        gone = feed.get(user, at_least=token.event_id, wait_ms=10_000).items[0]
        item = next(item for item in load().items if item.item_id == gone)
        produce(
            engine.where, topics.ITEMS, [(gone.encode(), msgspec.json.encode(msgspec.structs.replace(item, stock=0)))]
        )

        def left() -> bool:
            token = events.send(raw(event(user, "search", props={"surface": "home", "query": "shoes"})))
            return gone not in feed.get(user, at_least=token.event_id, wait_ms=5_000).items

        wait_for(left, limit_s=10, what="an item out of stock left the list")
        produce(engine.where, topics.ITEMS, [(gone.encode(), msgspec.json.encode(item))])


def test_ten_rankings_of_one_user_reach_kafka_in_order(engine: Engine) -> None:
    user = new_user("busy")
    with Reader(engine.where, topics.RANKED_FEED) as reader, engine.events() as events, engine.feed() as feed:
        for item_id in ITEMS[200:210]:
            last = events.send(raw(event(user, item_id=item_id)))
            time.sleep(0.03)  # more than the throttle of 20 ms: each of them is ranked
        assert feed.get(user, at_least=last.event_id, wait_ms=10_000).met

        def mine() -> list[int]:
            lists = [decode_list(record.value) for record in reader.records[topics.RANKED_FEED]]
            return [one.list_no for one in lists if one.key == f"u:{user}"]

        reader.until(lambda _: len(mine()) > 0 and mine()[-1] >= 10, limit_s=20)
    assert mine() == sorted(set(mine()))


def test_a_bundle_is_swapped_under_load_without_a_list_lost_or_mixed(engine: Engine) -> None:
    versions = sorted(path.name for path in SHIPPED.iterdir() if path.is_dir())
    first, second = latest(SHIPPED), next(version for version in versions if version != latest(SHIPPED))
    user, sent = new_user("swap"), []
    rankers = {version: read_manifest(SHIPPED / version).ranker for version in (first, second)}
    with Reader(engine.where, topics.RANKED_FEED) as reader, engine.events() as events:

        def click() -> None:
            sent.append(events.send(raw(event(user, item_id=ITEMS[len(sent) % 500]))).event_id)
            time.sleep(0.03)

        def mine() -> list[RankedList]:
            lists = [decode_list(record.value) for record in reader.records[topics.RANKED_FEED]]
            return [one for one in lists if one.key == f"u:{user}"]

        for _ in range(20):
            click()
        for version in (second, "no-such-bundle", first):
            publish(engine.where, topics.CONTROL, [(b"bundle", msgspec.json.encode(ActivateBundle(version)))])
            for _ in range(100):
                click()
        reader.until(lambda _: bool(mine()) and mine()[-1].receipt.freshness.last_event_id == sent[-1], limit_s=30)
    lists = mine()
    assert [one.receipt.bundle for one in lists if one.receipt.bundle == second], "the second bundle has ranked"
    assert lists[-1].receipt.bundle == first
    assert all(one.receipt.ranker == rankers[one.receipt.bundle] for one in lists)
    # Each click was 30 ms after the one before, more than the throttle: each has its list, or a newer list covers it.
    assert lists[-1].receipt.freshness.event_no == len(sent)
    assert [one.list_no for one in lists] == sorted({one.list_no for one in lists})
    assert engine.restarts == 0
