"""The sender, the requester and the tools against a real broker and a real Redis; a small fake engine answers."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
import pytest
import redis
from kafka import KafkaConsumer, KafkaProducer
from typer import Typer
from typer.testing import CliRunner

from cli import dead_letters, feed, send, trace
from cli import redis as redis_commands
from client.dead_letters import letters, repaired
from client.errors import InvalidEvent, KafkaUnavailable, RankError, RankTimeout
from client.events import Events
from client.requests import RankRequester
from client.scan import Limits, Scanner
from local import jars, processes
from local.broker import Broker
from local.java import find_java_home
from local.redis_server import RedisServer
from local.topics import create_topics
from schemas import headers, topics
from schemas.connections import Connections
from schemas.event import Rejected, parse_event
from schemas.interaction import Interaction, encode_interaction
from schemas.keys import id_hash, list_redis_key
from schemas.ranking import (
    Contribution,
    Freshness,
    RankedItem,
    RankedList,
    RankResponse,
    Receipt,
    SessionFeatures,
    decode_request,
    encode_json,
)
from schemas.redis_layout import CAS_SCRIPT, FEATURES_FIELD, LIST_FIELD, Entry, cas_arguments, version

# kafka-python drops its sockets unclosed where it cannot bootstrap.
pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.usefixtures("kafka_leftovers"),
]

EVENT = {
    "session_id": "s1",
    "user_id": "alice",
    "event_type": "click",
    "item_id": "shoe-7",
    "ts_ms": 1_767_225_600_000,
    "schema_version": 2,
}


@pytest.fixture(scope="module")
def where(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Connections]:
    run_dir = tmp_path_factory.mktemp("stack")
    kafka, controller, redis_port = processes.free_ports(3)
    broker, store = Broker(run_dir, kafka, controller), RedisServer(run_dir, redis_port)
    try:
        store.start()
        broker.start(find_java_home(), jars.fetch(jars.listed("broker"), say=lambda _: None))
        connections = Connections(brokers=broker.bootstrap, redis_url=store.url, namespace="t-")
        create_topics(topics.TOPICS, connections, replication=1)
        yield connections
    finally:
        processes.end(lambda: processes.of(run_dir), patience_s=6)


@pytest.fixture(scope="module")
def engine(where: Connections) -> Iterator[FakeEngine]:
    made = FakeEngine(where)
    yield made
    made.close()


@pytest.fixture
def run(where: Connections, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run `riffle …` as a user would: connections from the environment."""
    for name in ("brokers", "redis_url", "namespace"):
        monkeypatch.setenv(f"RIFFLE_{name.upper()}", getattr(where, name))
    app = Typer()
    for command in (send.send, feed.feed, feed.explain, trace.trace):
        app.command()(command)
    app.add_typer(dead_letters.app, name="dead-letters")
    app.add_typer(redis_commands.app, name="redis")
    return lambda *words, stdin=None: CliRunner().invoke(app, list(words), input=stdin)


class FakeEngine:
    """Numbers events, writes one list after each as the job does, answers requests; `reject` sends to the dead letters."""

    def __init__(self, where: Connections) -> None:
        self._where = where
        self._redis: Any = redis.Redis.from_url(where.redis_url)
        self._producer = KafkaProducer(**where.kafka_python())
        self._consumer = KafkaConsumer(
            where.topic(topics.EVENTS),
            where.topic(topics.RANK_REQUESTS),
            **where.kafka_python(),
            auto_offset_reset="earliest",
        )
        self._numbers: dict[str, list[str]] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join(5)
        self._consumer.close()
        self._producer.close(timeout=2)
        self._redis.close()

    def _run(self) -> None:
        while not self._stop.is_set():
            for records in self._consumer.poll(timeout_ms=100).values():
                for record in records:
                    if record.topic.endswith(topics.EVENTS):
                        self._event(record)
                    else:
                        self._request(record)

    def _event(self, record: Any) -> None:
        event = parse_event(record.value)
        if isinstance(event, Rejected):
            found = {headers.REASON: event.reason.value, headers.DETAIL: event.detail, headers.TOPIC: topics.EVENTS}
            place = {
                headers.PARTITION: record.partition,
                headers.OFFSET: record.offset,
                headers.APPEND_MS: record.timestamp,
            }
            pairs = [(name, str(value).encode()) for name, value in (found | place).items()]
            self._put(topics.EVENTS_DLQ, record.key, record.value, pairs)
            return
        key = record.key.decode()
        seen = self._numbers.setdefault(key, [])
        seen.append(event.event_id)
        number = len(seen)
        interaction = Interaction(key, number, 0, event, event.ts_ms, record.partition, record.offset, record.timestamp)
        self._put(topics.INTERACTIONS, record.key, encode_interaction(interaction))
        recent = [f"{id_hash(event_id):016x}" for event_id in seen[-16:]]
        fresh = Freshness(number, event.event_id, event.ts_ms, recent, {record.partition: record.offset})
        now_ms = int(time.time() * 1000)
        ranked = self._list(key, number, fresh, ["a", "b", "c"], "click")
        found_features = SessionFeatures(key, 0, number, now_ms, None, [], [], [], 0, ["home"], fresh)
        self._put(topics.RANKED_FEED, f"{key}|home".encode(), encode_json(ranked))
        self._put(topics.RANKED_FEED_LATEST, f"{key}|home".encode(), encode_json(ranked))
        self._put(topics.FEATURES, record.key, encode_json(found_features))
        if key == "u:lost":
            return
        keys, argv = cas_arguments(
            version(0, number),
            60_000,
            [
                Entry(f"{self._where.redis_namespace}features:{{{key}}}", FEATURES_FIELD, encode_json(found_features)),
                Entry(list_redis_key(self._where.redis_namespace, key, "home"), LIST_FIELD, encode_json(ranked)),
            ],
        )
        self._redis.eval(CAS_SCRIPT, len(keys), *keys, *argv)

    def _request(self, record: Any) -> None:
        request = decode_request(record.value)
        if request.user_id == "silent":
            return
        key = record.key.decode()
        response = RankResponse(request.request_id, error="surface: not served here")
        if request.surface != "nowhere":
            fresh = Freshness(0, None, None, [], {})
            why = [Contribution("view", "shoe-7", request.ts_ms, 0.25)] if request.explain else None
            ranked = self._list(key, 1, fresh, (request.candidates or ["own"])[: request.k], "request", why)
            response = RankResponse(request.request_id, list=ranked)
        self._put(topics.RANK_RESPONSES, request.request_id.encode(), encode_json(response))

    def _list(
        self,
        key: str,
        number: int,
        fresh: Freshness,
        items: list[str],
        trigger: str,
        why: list[Contribution] | None = None,
    ) -> RankedList:
        receipt = Receipt(fresh, "b1", "fake", "p1", {}, {}, {"total": 1.0}, {})
        ranked = [RankedItem(item_id, 1.0 / place, "test", why) for place, item_id in enumerate(items, start=1)]
        return RankedList(f"l{number}", key, "home", 0, number, int(time.time() * 1000), ranked, receipt, trigger)

    def _put(self, topic: str, key: bytes, value: bytes, pairs: list[tuple[str, bytes]] | None = None) -> None:
        self._producer.send(self._where.topic(topic), key=key, value=value, headers=pairs or [])


def raw(event_id: str, **change: Any) -> str:
    return json.dumps(EVENT | {"event_id": event_id} | change)


# --- sender and requester --------------------------------------------------------------------------------------------------


def test_a_token_names_the_place_of_its_event(where: Connections) -> None:
    with Events(where) as events:
        tokens = [events.track("click", user_id="tess", session_id="s1", item_id=f"i{n}") for n in range(50)]
        places = [token.position() for token in tokens]
        assert len({partition for partition, _ in places}) == 1
        offsets = [offset for _, offset in places]
        assert offsets == list(range(offsets[0], offsets[0] + 50))
        events.flush()
        assert events.counters == {"tracked": 50, "sent": 50, "failed": 0, "refused": 0}
    with Scanner(where, Limits(seconds=20)) as scanner:
        record = scanner.one(topics.EVENTS, *places[7])
        assert record is not None
        assert (record.key, parse_event(record.value).event_id) == (b"u:tess", tokens[7].event_id)


def test_a_missing_topic_or_broker_is_one_sentence(where: Connections) -> None:
    with pytest.raises(KafkaUnavailable, match="has no topic other-events"):
        Events(msgspec.structs.replace(where, namespace="other-"))
    (port,) = processes.free_ports(1)
    with pytest.raises(KafkaUnavailable, match="does not answer"):
        Events(Connections(brokers=f"127.0.0.1:{port}"))


@pytest.mark.usefixtures("engine")
def test_requests_are_answered_each_with_its_own_list(where: Connections) -> None:
    with RankRequester(where) as requester:
        ranked = requester.rank_feed("mara", ["x", "y", "z"], k=2, timeout_ms=10_000)
        assert [item.item_id for item in ranked.items] == ["x", "y"]
        with ThreadPoolExecutor(8) as pool:
            asked = [pool.submit(requester.rank_feed, f"u{n}", [f"c{n}"], timeout_ms=10_000) for n in range(40)]
            assert [future.result().items[0].item_id for future in asked] == [f"c{n}" for n in range(40)]
        with pytest.raises(RankError, match="not served here"):
            requester.rank_feed("mara", surface="nowhere", timeout_ms=10_000)
        begun_s = time.monotonic()
        with pytest.raises(RankTimeout, match="within 150 ms"):
            requester.rank_feed("silent", timeout_ms=150)
        assert time.monotonic() - begun_s < 2
        assert requester.counters | {"reader_errors": 0} == {
            "asked": 43,
            "answered": 41,
            "refused": 1,
            "timed_out": 1,
            "reader_errors": 0,
        }


# --- the command line ------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("engine")
def test_send_then_feed_then_trace(run: Any) -> None:
    lines = "\n".join([raw("t1"), "", "{not json", raw("t2"), raw("t3", item_id="")])
    sent = run("send", "--json", "--wait", stdin=lines)
    assert sent.exit_code == 1, sent.output
    report = json.loads(sent.stdout)
    assert (report["sent"], report["failed"], sorted(report["positions"])) == (2, 0, ["t1", "t2"])
    assert [(one["line"], one["reason"]) for one in report["rejected"]] == [(3, "not_json"), (5, "out_of_range")]

    shown = run("feed", "alice", "--at-least", "t2", "--wait-ms", "20000", "--json")
    assert shown.exit_code == 0, shown.output
    answer = json.loads(shown.stdout)
    assert (answer["items"], answer["met"]) == (["a", "b", "c"], True)
    assert "after click" in run("feed", "alice").stdout

    traced = run("trace", "t2", "--json")
    assert traced.exit_code == 0, traced.output
    found = json.loads(traced.stdout)
    partition, offset = report["positions"]["t2"]
    assert [(one["partition"], one["offset"]) for one in found["sightings"]] == [(partition, offset)]
    assert (found["interaction"]["event_no"], found["lists"][0]["list_no"]) == (2, 2)
    assert "applied as event 2 of u:alice" in run("trace", "t2").stdout

    nowhere = run("trace", "never-sent")
    assert (nowhere.exit_code, "It is on no topic" in nowhere.stdout) == (1, True)


@pytest.mark.usefixtures("engine")
def test_explain_shows_what_moved_each_item(run: Any, where: Connections) -> None:
    with Events(where) as events:
        events.track("click", user_id="eve", session_id="s1", item_id="a", event_id="x1").position()
    assert run("feed", "eve", "--at-least", "x1", "--wait-ms", "20000").exit_code == 0
    explained = run("explain", "eve", "--limit-ms", "10000")
    assert explained.exit_code == 0, explained.output
    assert "+0.2500  view shoe-7" in explained.stdout


@pytest.mark.usefixtures("engine")
def test_a_dead_letter_is_listed_shown_repaired_and_traced(run: Any, where: Connections) -> None:
    value = raw("d1", user_id="dora").replace('"item_id": "shoe-7", ', "")
    producer = KafkaProducer(**where.kafka_python())
    producer.send(where.topic(topics.EVENTS), key=b"u:dora", value=value.encode()).get(timeout=10)
    producer.close()
    letter = wait_for(lambda: json.loads(run("dead-letters", "list", "--contains", '"d1"', "--json").stdout))[0]
    assert (letter["reason"], letter["value_text"]) == ("missing_field", value)
    assert "missing_field" in run("dead-letters", "show", letter["letter"]).stdout
    assert run("dead-letters", "show", letter["letter"], "--raw").stdout == value
    assert "stopped at validation: missing_field" in run("trace", "d1").stdout

    again = run("dead-letters", "replay", letter["letter"])
    assert (again.exit_code, "0 put back" in again.stdout, "item_id" in again.stderr) == (1, True, True)
    done = run("dead-letters", "replay", letter["letter"], "--fix", "-", stdin=raw("d1", user_id="dora"))
    assert done.exit_code == 0, done.output
    shown = run("feed", "dora", "--at-least", "d1", "--wait-ms", "20000", "--json")
    assert json.loads(shown.stdout)["met"] is True
    found = json.loads(run("trace", "d1", "--json").stdout)
    assert found["sightings"][0]["via"] == "replay"
    assert found["interaction"]["event_no"] == 1
    assert run("dead-letters", "show", "0:999999").exit_code == 1
    assert run("dead-letters", "show", "nonsense").exit_code == 1


@pytest.mark.usefixtures("engine")
def test_rebuild_fills_an_empty_redis(run: Any, where: Connections) -> None:
    with Events(where) as events:
        events.track("click", user_id="lost", session_id="s1", item_id="a", event_id="r1").position()
    wait_for(lambda: json.loads(run("trace", "r1", "--json").stdout)["lists"])
    assert json.loads(run("feed", "lost", "--json").stdout)["fallback"] == "no_list"
    rebuilt = run("redis", "rebuild", "--json")
    assert rebuilt.exit_code == 0, rebuilt.output
    assert json.loads(rebuilt.stdout)["lists"] >= 1
    assert json.loads(run("feed", "lost", "--at-least", "r1", "--json").stdout)["met"] is True


def test_a_scan_steps_back_window_by_window_and_keeps_its_limits(
    where: Connections, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("client.scan.WINDOW", 7)
    with Events(where) as events:
        sent = {events.track("click", user_id=f"w{n % 5}", session_id="s", item_id="a").event_id for n in range(60)}
    with Scanner(where, Limits(seconds=20)) as scanner:
        records = list(scanner.newest_first(topics.EVENTS))
        assert scanner.cut_short == []
    places = [(record.partition, record.offset) for record in records]
    assert len(set(places)) == len(places)
    assert sent <= {
        found.event_id for found in (parse_event(record.value) for record in records) if hasattr(found, "event_id")
    }
    with Scanner(where, Limits(records=10, seconds=20)) as scanner:
        assert len(list(scanner.newest_first(topics.EVENTS))) < len(records)
        assert scanner.cut_short == [topics.EVENTS]


@pytest.mark.usefixtures("engine")
def test_what_would_be_rejected_again_is_not_put_back(where: Connections) -> None:
    producer = KafkaProducer(**where.kafka_python())
    producer.send(where.topic(topics.EVENTS), key=b"u:x", value=b"\xff\x00broken").get(timeout=10)
    producer.close()

    def broken() -> list[Any]:
        with Scanner(where, Limits(seconds=20)) as scanner:
            return [one for one in letters(scanner, "not_utf8") if one.value == b"\xff\x00broken"]

    (letter,) = wait_for(broken)
    with pytest.raises(InvalidEvent, match="not_utf8"):
        repaired(letter)


def wait_for(condition: Any, limit_s: float = 20) -> Any:
    end_s = time.monotonic() + limit_s
    while not (found := condition()):
        assert time.monotonic() < end_s, "the condition never came true"
        time.sleep(0.1)
    return found
