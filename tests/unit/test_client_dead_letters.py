"""Dead letters and traces, on records made by hand."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.dead_letters import find_letter, letters, printable, read_letter, repaired
from client.errors import InvalidArgument, InvalidEvent
from client.trace import LISTS, trace
from schemas import headers, topics
from schemas.event import Login
from schemas.interaction import Interaction, encode_interaction
from schemas.keys import id_hash
from schemas.ranking import Freshness, NotApplied, RankedList, Receipt, encode_json


class Kept(NamedTuple):
    """A record as kafka-python gives it."""

    value: bytes | None
    key: bytes | None = b"u:alice"
    partition: int = 0
    offset: int = 0
    timestamp: int = 1_000
    headers: tuple[tuple[str, bytes], ...] = ()


class FakeScanner:
    """Topics as lists of records in the order of their arrival."""

    def __init__(self, **by_topic: list[Kept]) -> None:
        self._by_topic = {name.replace("_", "-"): records for name, records in by_topic.items()}
        self.cut_short: list[str] = []

    def newest_first(self, name: str) -> Iterator[Kept]:
        return reversed(self._by_topic.get(name, []))

    def since(self, name: str, append_ms: int) -> Iterator[Kept]:
        return (record for record in self._by_topic.get(name, []) if record.timestamp >= append_ms)

    def one(self, name: str, partition: int, offset: int) -> Kept | None:
        kept = self._by_topic.get(name, [])
        return next((record for record in kept if (record.partition, record.offset) == (partition, offset)), None)


def event(event_id: str = "e1", **change: Any) -> bytes:
    body = {"event_id": event_id, "session_id": "s1", "user_id": "alice", "event_type": "login", "ts_ms": 5}
    return json.dumps(body | {"schema_version": 2} | change).encode()


def letter(value: bytes, reason: str = "missing_field", topic: str = topics.EVENTS, **place: Any) -> Kept:
    found = {
        headers.REASON: reason,
        headers.DETAIL: "the field is missing",
        headers.TOPIC: topic,
        headers.PARTITION: "3",
        headers.OFFSET: "17",
        headers.APPEND_MS: "900",
    }
    return Kept(value, headers=tuple((name, text.encode()) for name, text in found.items()), **place)


# --- dead letters ----------------------------------------------------------------------------------------------------------


def test_a_repaired_letter_keeps_the_place_and_time_of_the_original() -> None:
    """Contract: a replay is judged by when the original was appended, and its sender's position stays the token."""
    record = repaired(read_letter(letter(b"{}")), b" " + event(user_id="bob") + b"\n")
    assert (record.topic, record.key, record.value) == (topics.EVENTS, b"u:bob", event(user_id="bob"))
    assert record.headers == {
        headers.VIA: b"replay",
        headers.PARTITION: b"3",
        headers.OFFSET: b"17",
        headers.APPEND_MS: b"900",
    }


def test_without_a_fix_the_original_is_put_back_if_it_is_valid_by_now() -> None:
    assert repaired(read_letter(letter(event()))).value == event()
    with pytest.raises(InvalidEvent, match="would be rejected again"):
        repaired(read_letter(letter(b"{}")))


def test_only_events_are_replayed() -> None:
    with pytest.raises(InvalidArgument, match="rank-requests"):
        repaired(read_letter(letter(event(), topic=topics.RANK_REQUESTS)))


def test_foreign_or_missing_headers_leave_gaps_and_nothing_raises() -> None:
    found = read_letter(Kept(None, key=None, headers=((headers.OFFSET, b"\xff"), (headers.PARTITION, "٣".encode()))))
    assert (found.reason, found.origin_offset, found.origin_partition, found.value, found.key) == (
        "unknown",
        None,
        None,
        b"",
        "",
    )


def test_letters_are_filtered_and_found_by_name() -> None:
    scanner: Any = FakeScanner(
        events_dlq=[letter(b"one", "empty", offset=1), letter(b"two", offset=2), letter(b"three", offset=3)]
    )
    assert [found.value for found in letters(scanner)] == [b"three", b"two", b"one"]
    assert [found.value for found in letters(scanner, "empty")] == [b"one"]
    assert [found.value for found in letters(scanner, "missing_field", b"w")] == [b"two"]
    found = find_letter(scanner, "0:2")
    assert found is not None
    assert (found.name, found.value) == ("0:2", b"two")
    assert find_letter(scanner, "5:2") is None
    for wrong in ("", "2", "a:b", "-1:2", "1:2:3"):
        with pytest.raises(InvalidArgument, match="names no dead letter"):
            find_letter(scanner, wrong)


@given(st.binary(max_size=200))
def test_printed_bytes_cannot_harm_a_terminal(raw: bytes) -> None:
    assert all(char.isprintable() for char in printable(raw))


def test_printed_bytes_are_cut_with_their_length() -> None:
    assert printable(b"\x1b[31mred\x00") == "\\x1b[31mred\\x00"
    assert printable("größe".encode()) == "größe"
    assert printable(b"x" * 30, 10) == "xxxxxxxxxx… (30 bytes)"


# --- trace -----------------------------------------------------------------------------------------------------------------

LOGIN = Login(event_id="e1", session_id="s1", user_id="alice", ts_ms=5, schema_version=2)


def applied(number: int = 7, append_ms: int = 1_000) -> Kept:
    return Kept(
        encode_interaction(Interaction("u:alice", number, 0, LOGIN, 5, 3, 17, append_ms)), timestamp=append_ms + 20
    )


def ranked(event_no: int, *, recent: tuple[str, ...] = (), key: str = "u:alice", at_ms: int = 1_010) -> Kept:
    fresh = Freshness(event_no, None, None, [f"{id_hash(event_id):016x}" for event_id in recent], {})
    receipt = Receipt(fresh, "b", "r", "p", {}, {}, {}, {})
    body = encode_json(RankedList(f"l{event_no}", key, "home", 0, event_no, at_ms, [], receipt, "click"))
    return Kept(body, key=f"{key}|home".encode(), timestamp=at_ms)


def look(freshness: Freshness | None = None, event_id: str = "e1", **by_topic: list[Kept]) -> Any:
    scanner: Any = FakeScanner(**by_topic)
    return trace(event_id, scanner, lambda _: freshness)


def test_an_applied_event_is_followed_to_the_lists_that_have_seen_it() -> None:
    found = look(
        events=[Kept(event("e0")), Kept(event(), partition=3, offset=17), Kept(event("e11"))],
        interactions=[applied()],
        ranked_feed=[
            ranked(6),
            ranked(7, recent=("e1",)),
            ranked(9),
            ranked(9, key="u:alice|x"),
            ranked(9, key="u:bob"),
        ],
    )
    assert [(one.partition, one.offset) for one in found.sightings] == [(3, 17)]
    assert [seen.list_no for seen in found.lists] == [7, 9]
    assert found.conclusion == "It was applied as event 7 of u:alice, and 2 lists have seen it."
    assert msgspec.json.encode(found)


def test_many_lists_are_not_counted_to_the_end() -> None:
    found = look(events=[Kept(event())], interactions=[applied()], ranked_feed=[ranked(8)] * 50)
    assert len(found.lists) == LISTS
    assert "at least 10 lists" in found.conclusion


def test_a_rejected_event_stopped_at_validation_though_it_is_not_json() -> None:
    found = look(events=[Kept(b'{"event_id":"e1"')], events_dlq=[letter(b'{"event_id":"e1"', "not_json")])
    assert found.conclusion == "It stopped at validation: not_json, the field is missing."


def test_a_late_event_is_on_events_late() -> None:
    found = look(events=[Kept(event())], events_late=[letter(event(), "late")])
    assert "too late" in found.conclusion


@pytest.mark.parametrize(
    ("freshness", "says"),
    [
        (None, "waits on events at 3:17"),
        (Freshness(1, "e0", 1, [], {3: 16}), "waits on events at 3:17"),
        (Freshness(1, "e0", 1, [], {3: 17}), "after the next checkpoint"),
        (Freshness(1, "e0", 1, [], {3: 17}, [NotApplied("duplicate", 3, 17)]), "changed nothing: duplicate"),
    ],
)
def test_an_event_that_left_no_trace_yet_is_judged_by_its_users_freshness(
    freshness: Freshness | None, says: str
) -> None:
    found = look(freshness, events=[Kept(event(), partition=3, offset=17)])
    assert says in found.conclusion


def test_a_replayed_event_is_followed_to_its_first_place() -> None:
    found = look(
        events=[
            Kept(event(), partition=3, offset=17),
            Kept(event(), partition=3, offset=40, headers=((headers.VIA, b"replay"),)),
        ],
        interactions=[applied()],
    )
    assert [(one.offset, one.via) for one in found.sightings] == [(40, "replay"), (17, None)]


@pytest.mark.parametrize("event_id", ['quote"and\\slash', "größe-日本", "e1"])
def test_an_id_is_found_however_json_spells_it(event_id: str) -> None:
    for value in (event(event_id), msgspec.json.encode(json.loads(event(event_id)))):
        assert len(look(event_id=event_id, events=[Kept(value), Kept(event("other"))]).sightings) == 1


def test_an_unknown_event_is_on_no_topic() -> None:
    assert look(events=[Kept(event("e2"))]).conclusion.startswith("It is on no topic")
