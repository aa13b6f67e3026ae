"""Whatever is written to the topics: kept with its reason and its bytes, or served and counted; nothing stops.

tests/bad_input.py has the kinds that a parser refuses; here they travel through Kafka and Flink, with those that only exist
there: keys, headers, sizes, times, and the other topics.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from typing import Any

import pytest

from demo.world import load
from schemas import headers, topics
from schemas.event import MAX_EVENT_BYTES, Reason
from schemas.identity import Claim, Merge, encode_identity
from schemas.interaction import decode_interaction
from schemas.ranking import MAX_REQUEST_BYTES
from tests.bad_input import BAD
from tests.e2e.engine import Engine, Reader, event, new_user, produce, raw

ITEMS = [item.item_id for item in load().items[:10]]
DAY_MS = 86_400_000
HUGE = b'{"event_id":"huge","pad":"' + b"x" * 3_000_000 + b'"}'  # compressed it fits on `events`, and nowhere else

REFUSED: dict[str, tuple[str, bytes | None, str]] = {
    **{name: (topics.EVENTS, value, reason.value) for name, (value, reason) in BAD.items()},
    "no JSON in a request": (topics.RANK_REQUESTS, b"{broken", Reason.NOT_JSON.value),
    "a request without request_id": (topics.RANK_REQUESTS, b'{"k":5}', Reason.MISSING_FIELD.value),
    "a request for k = 0": (
        topics.RANK_REQUESTS,
        b'{"request_id":"r","session_id":"s","ts_ms":1,"schema_version":2,"k":0}',
        Reason.OUT_OF_RANGE.value,
    ),
    "an empty request": (topics.RANK_REQUESTS, None, Reason.NOT_JSON.value),
    "a request beyond the limit": (topics.RANK_REQUESTS, b" " * (MAX_REQUEST_BYTES + 1), Reason.TOO_LARGE.value),
    "no JSON in an identity record": (topics.IDENTITY, b"\x00\x01", Reason.NOT_JSON.value),
    "a claim under another key": (
        topics.IDENTITY,
        encode_identity(Claim("s:somebody", "u:thief", 1)),
        Reason.OUT_OF_RANGE.value,
    ),
    "a merge of state that cannot be read": (
        topics.IDENTITY,
        encode_identity(Merge("u:{user}", "s:a", 0, b"\xff" * 50)).replace(b"{user}", b"%USER%"),
        Reason.OUT_OF_RANGE.value,
    ),
}

# A valid event of the user, changed; the note that its interaction must carry, None where none is due.
SERVED: dict[str, tuple[dict[str, Any], str | None]] = {
    "a time in the year 2100": ({"ts_ms": 4_102_444_800_000}, "clamped"),
    "the largest time there is": ({"ts_ms": 2**53}, "clamped"),
    "an unknown item": ({"item_id": "no-such-item"}, None),
    "an item of four-byte letters": ({"item_id": "👟" * 64}, None),
    "an item of braces and bars": ({"item_id": "{u:x}|%7B"}, None),
    "an event_id of 128 letters": ({"event_id": "e" * 100 + "%UNIQUE%"}, None),
    "version 1": ({"schema_version": 1}, None),
}

WRONG_KEYS: dict[str, bytes | None] = {
    "no key": None,
    "an empty key": b"",
    "a key without its prefix": b"alice",
    "another user's key": b"u:somebody-else",
    "invalid UTF-8 in the key": b"\xff\xfe",
    "a prefix and nothing else": b"s:",
    "null bytes in the key": b"u:\0\0\0",
    "a key of 100,000 letters": b"u:" + b"k" * 100_000,
}

WRONG_HEADERS: dict[str, dict[str, bytes]] = {
    "an offset that is no number": {headers.VIA: b"replay", headers.OFFSET: b"ten", headers.PARTITION: b"0"},
    "an offset of 5,000 digits": {headers.VIA: b"replay", headers.OFFSET: b"9" * 5_000, headers.PARTITION: b"0"},
    "invalid UTF-8 in a header": {headers.VIA: b"\xff\xff"},
    "an unknown via": {headers.VIA: b"magic", headers.APPEND_MS: b"1"},
    "a header of 500 KB": {headers.VIA: b"x" * 500_000},
}


def test_the_table_is_long_enough() -> None:
    assert len(REFUSED) + len(SERVED) + len(WRONG_KEYS) + len(WRONG_HEADERS) > 100


def test_what_is_refused_is_kept_byte_for_byte_and_what_is_good_around_it_is_served(engine: Engine) -> None:
    user = new_user("careful")
    key = f"u:{user}".encode()
    with Reader(engine.where, topics.EVENTS_DLQ) as reader, engine.events() as events, engine.feed() as feed:
        expected: dict[tuple[str, int, int], tuple[bytes | None, str, str]] = {}
        good = []
        for number, (topic, cases) in enumerate(_batches()):
            values = [value and value.replace(b"%USER%", user.encode()) for _, value, _ in cases]
            places = produce(engine.where, topic, [(key, value) for value in values])
            for place, value, (name, _, reason) in zip(places, values, cases):
                expected[(topic, *place)] = (value, reason, name)
            good.append(events.send(raw(event(user, item_id=ITEMS[number % len(ITEMS)]))).event_id)
        answer = feed.get(user, at_least=good[-1], wait_ms=20_000)

        def letters() -> dict[tuple[str, int, int], Any]:
            return {_origin(letter): letter for letter in reader.records[topics.EVENTS_DLQ]}

        reader.until(lambda _: expected.keys() <= letters().keys(), limit_s=60)
    found = {
        where: (letters()[where].value, _reason(letters()[where]), name) for where, (_, _, name) in expected.items()
    }
    assert found == expected
    assert {letters()[where].key for where in expected} == {key}
    assert answer.met and answer.receipt is not None
    assert answer.receipt.freshness.event_no == len(good)
    assert engine.restarts == 0


def test_of_what_cannot_be_kept_whole_length_hash_and_place_are(engine: Engine) -> None:
    user = new_user("huge")
    with Reader(engine.where, topics.EVENTS_DLQ) as reader, engine.events() as events, engine.feed() as feed:
        places = {
            (topic, *produce(engine.where, topic, [(f"u:{user}".encode(), HUGE)])[0])
            for topic in (topics.EVENTS, topics.RANK_REQUESTS)
        }
        token = events.send(raw(event(user, item_id=ITEMS[3])))
        assert feed.get(user, at_least=token.event_id, wait_ms=20_000).met
        reader.until(lambda found: places <= {_origin(letter) for letter in found[topics.EVENTS_DLQ]}, limit_s=60)
    for letter in (letter for letter in reader.records[topics.EVENTS_DLQ] if _origin(letter) in places):
        said = dict(letter.headers)
        assert (letter.value, _reason(letter)) == (None, Reason.TOO_LARGE.value)
        assert said[headers.LENGTH] == str(len(HUGE)).encode()
        assert said[headers.SHA256] == hashlib.sha256(HUGE).hexdigest().encode()
    assert engine.restarts == 0


def test_what_is_odd_and_valid_is_served(engine: Engine) -> None:
    bodies = {}
    for name, (changes, _) in SERVED.items():
        user = new_user("odd")
        found = event(user, item_id=ITEMS[1]) | changes
        bodies[name] = found | {"event_id": found["event_id"].replace("%UNIQUE%", user)}
    values = {name: raw(body) for name, body in bodies.items()}
    twice = event(new_user("twice"), item_id=ITEMS[1])
    bodies["a JSON key given twice"], padded = twice, event(new_user("padded"), item_id=ITEMS[1])
    values["a JSON key given twice"] = raw(twice)[:-1] + b',"item_id":"' + ITEMS[2].encode() + b'"}'
    bodies["as large as allowed"] = padded
    values["as large as allowed"] = raw(padded) + b" " * (MAX_EVENT_BYTES - len(raw(padded)))
    with Reader(engine.where, topics.INTERACTIONS) as reader, engine.feed() as feed:
        for name, value in values.items():
            produce(engine.where, topics.EVENTS, [(f"u:{bodies[name]['user_id']}".encode(), value)])
        missed = [
            name
            for name, body in bodies.items()
            if not feed.get(body["user_id"], at_least=body["event_id"], wait_ms=20_000).met
        ]
        wanted = {body["event_id"] for body in bodies.values()}

        def seen() -> dict[str, Any]:
            applied = map(decode_interaction, (one.value for one in reader.records[topics.INTERACTIONS]))
            return {one.event.event_id: one for one in applied}

        reader.until(lambda _: wanted <= seen().keys(), limit_s=30)
    assert not missed
    notes = {name: [n for n in seen()[bodies[name]["event_id"]].notes if n == "clamped"] for name in SERVED}
    assert notes == {name: [note] if note else [] for name, (_, note) in SERVED.items()}
    assert seen()[twice["event_id"]].event.item_id == ITEMS[2]
    assert engine.restarts == 0


@pytest.mark.parametrize("name", [*WRONG_KEYS, *WRONG_HEADERS])
def test_a_record_under_a_wrong_key_or_header_is_served_all_the_same(engine: Engine, name: str) -> None:
    user = new_user("lost")
    body = event(user, item_id=ITEMS[1])
    key = WRONG_KEYS.get(name, f"u:{user}".encode())
    with engine.feed() as feed:
        stored = produce(engine.where, topics.EVENTS, [(key, raw(body))], WRONG_HEADERS.get(name))[0]
        answer = feed.get(user, at_least=stored, wait_ms=10_000)
    assert answer.met and answer.receipt is not None
    assert answer.receipt.freshness.last_event_id == body["event_id"]


def test_a_record_too_old_is_kept_byte_for_byte_on_the_topic_of_the_late(engine: Engine) -> None:
    user = new_user("late")
    now_ms = int(time.time() * 1000)
    bodies = [event(user, item_id=ITEMS[1], ts_ms=ts_ms) for ts_ms in (1, now_ms - DAY_MS - 60_000)]
    with Reader(engine.where, topics.EVENTS_LATE) as reader, engine.feed() as feed:
        places = produce(engine.where, topics.EVENTS, [(f"u:{user}".encode(), raw(body)) for body in bodies])
        told = [feed.get(user, at_least=place, wait_ms=10_000).fallback for place in places]
        wanted = {(topics.EVENTS, *place): raw(body) for place, body in zip(places, bodies)}

        def mine() -> dict[tuple[str, int, int], bytes]:
            return {_origin(one): one.value for one in reader.records[topics.EVENTS_LATE] if _origin(one) in wanted}

        reader.until(lambda _: mine() == wanted, limit_s=30)
    assert told == ["late", "late"]


def test_garbage_on_the_topics_of_operators_changes_nothing(engine: Engine) -> None:
    user = new_user("steady")
    for topic in (topics.CONTROL, topics.ITEMS):
        produce(engine.where, topic, [(b"junk", b"{broken"), (b"junk", b"\xff\xfe"), (b"junk", b"[]"), (b"junk", None)])
    with engine.events() as events, engine.feed() as feed:
        token = events.send(raw(event(user, item_id=ITEMS[3])))
        answer = feed.get(user, at_least=token.event_id, wait_ms=10_000)
    assert answer.met and answer.list is not None
    assert answer.list.fallback is None
    assert engine.restarts == 0


def _batches() -> Iterator[tuple[str, list[tuple[str, bytes | None, str]]]]:
    """The refused by topic, ten at a time."""
    for topic in (topics.EVENTS, topics.RANK_REQUESTS, topics.IDENTITY):
        cases = [(name, value, reason) for name, (where, value, reason) in REFUSED.items() if where == topic]
        for start in range(0, len(cases), 10):
            yield topic, cases[start : start + 10]


def _origin(letter: Any) -> tuple[str, int, int]:
    said = dict(letter.headers)
    return said[headers.TOPIC].decode(), int(said[headers.PARTITION]), int(said[headers.OFFSET])


def _reason(letter: Any) -> str:
    return str(dict(letter.headers)[headers.REASON].decode())
