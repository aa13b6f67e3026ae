"""What enters: a table of bad input with the reason each must get, version 1, and laws on random bytes."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.event import EVENT_TYPES, MAX_EVENT_BYTES, Event, Purchase, Reason, Rejected, View, parse_event
from tests.fakes import NOW, body, raw


def dumped(**changes: Any) -> bytes:
    """A valid click with fields changed; None removes one. Written by json, which also writes what JSON forbids."""
    return json.dumps(body(**changes)).encode()


def spliced(fragment: bytes) -> bytes:
    """A valid click with more text before its last brace."""
    return raw()[:-1] + b"," + fragment + b"}"


def nested(depth: int) -> bytes:
    return b'{"a":' * depth + b"1" + b"}" * depth


def props(kind: str, **found: Any) -> bytes:
    return msgspec.json.encode(body(kind) | {"props": found})


BAD: dict[str, tuple[bytes | None, Reason]] = {
    # no record at all
    "no value": (None, Reason.EMPTY),
    "empty value": (b"", Reason.EMPTY),
    "too large": (dumped(item="x" * MAX_EVENT_BYTES), Reason.TOO_LARGE),
    "too large and no JSON": (b"x" * (MAX_EVENT_BYTES + 1), Reason.TOO_LARGE),
    # bytes that are no JSON
    "white space": (b" \n ", Reason.NOT_JSON),
    "plain text": (b"hello", Reason.NOT_JSON),
    "cut off": (raw()[:-5], Reason.NOT_JSON),
    "text after the object": (raw() + b"x", Reason.NOT_JSON),
    "two objects": (raw() + raw(), Reason.NOT_JSON),
    "single quotes": (raw().replace(b'"', b"'"), Reason.NOT_JSON),
    "trailing comma": (raw()[:-1] + b",}", Reason.NOT_JSON),
    "byte order mark": (b"\xef\xbb\xbf" + raw(), Reason.NOT_JSON),
    "UTF-16": (raw().decode().encode("utf-16"), Reason.NOT_UTF8),
    "NaN": (dumped(ts_ms=float("nan")), Reason.NOT_JSON),
    "Infinity": (dumped(ts_ms=float("inf")), Reason.NOT_JSON),
    "-Infinity": (dumped(ts_ms=float("-inf")), Reason.NOT_JSON),
    "number beyond floats": (raw().replace(str(NOW).encode(), b"1e400"), Reason.NOT_JSON),
    "number of 5,000 digits": (raw().replace(str(NOW).encode(), b"9" * 5_000), Reason.NOT_JSON),
    "raw NUL in a string": (raw(item="a~b").replace(b"~", b"\0"), Reason.NOT_JSON),
    "lone surrogate": (raw(item="a~b").replace(b"~", b"\\ud800"), Reason.NOT_JSON),
    "invalid UTF-8 in a string": (raw(item="a~b").replace(b"~", b"\xff"), Reason.NOT_UTF8),
    "surrogate as bytes": (raw(item="a~b").replace(b"~", b"\xed\xa0\x80"), Reason.NOT_UTF8),
    "nothing but invalid UTF-8": (b"\xff\xfe\xfd", Reason.NOT_UTF8),
    "30,000 brackets": (b"[" * 30_000, Reason.TOO_DEEP),
    "deep object": (nested(9_000), Reason.TOO_DEEP),
    "deep object in an unknown field": (spliced(b'"extra":' + nested(9_000)), Reason.TOO_DEEP),
    "deep object in the props": (raw().replace(b'"props":{}', b'"props":' + nested(9_000)), Reason.TOO_DEEP),
    # JSON, but no object
    "null": (b"null", Reason.NOT_AN_OBJECT),
    "array": (b"[" + raw() + b"]", Reason.NOT_AN_OBJECT),
    "string": (b'"click"', Reason.NOT_AN_OBJECT),
    "number": (b"17", Reason.NOT_AN_OBJECT),
    "boolean": (b"true", Reason.NOT_AN_OBJECT),
    # versions and types
    "version of the future": (dumped(schema_version=3), Reason.UNKNOWN_VERSION),
    "version 0": (dumped(schema_version=0), Reason.UNKNOWN_VERSION),
    "version as string": (dumped(schema_version="2"), Reason.WRONG_TYPE),
    "version as float": (dumped(schema_version=2.0), Reason.WRONG_TYPE),
    "version as boolean": (dumped(schema_version=True), Reason.WRONG_TYPE),
    "unknown type": (raw().replace(b'"click"', b'"poke"'), Reason.UNKNOWN_TYPE),
    "type in capitals": (raw().replace(b'"click"', b'"Click"'), Reason.UNKNOWN_TYPE),
    "type of 60,000 letters": (raw().replace(b'"click"', b'"' + b"a" * 60_000 + b'"'), Reason.UNKNOWN_TYPE),
    "type as number": (raw().replace(b'"click"', b"7"), Reason.WRONG_TYPE),
    "type named twice, differently": (spliced(b'"event_type":"view"'), Reason.WRONG_TYPE),
    # fields
    "no event_id": (dumped(event_id=None), Reason.MISSING_FIELD),
    "no session_id": (dumped(session_id=None), Reason.MISSING_FIELD),
    "no ts_ms": (dumped(ts_ms=None), Reason.MISSING_FIELD),
    "no event_type": (dumped(event_type=None), Reason.MISSING_FIELD),
    "no schema_version": (dumped(schema_version=None), Reason.MISSING_FIELD),
    "no item_id": (dumped(item=None), Reason.MISSING_FIELD),
    "empty object": (b"{}", Reason.MISSING_FIELD),
    "unknown field": (dumped(colour="red"), Reason.UNKNOWN_FIELD),
    "unknown field with a misleading name": (spliced(b'"missing required field":1'), Reason.UNKNOWN_FIELD),
    "unknown prop": (dumped(props={"colour": "red"}), Reason.UNKNOWN_FIELD),
    "item_id null": (spliced(b'"item_id":null'), Reason.WRONG_TYPE),
    "item_id as number": (dumped(item=7), Reason.WRONG_TYPE),
    "item_id as array": (dumped(item=["i1"]), Reason.WRONG_TYPE),
    "event_id as number": (dumped(event_id=7), Reason.WRONG_TYPE),
    "empty event_id": (dumped(event_id=""), Reason.OUT_OF_RANGE),
    "empty user_id": (dumped(user_id=""), Reason.OUT_OF_RANGE),
    "long event_id": (dumped(event_id="x" * 129), Reason.OUT_OF_RANGE),
    "long item_id": (dumped(item="x" * 65), Reason.OUT_OF_RANGE),
    "string of 60,000 letters": (dumped(user_id="x" * 60_000), Reason.OUT_OF_RANGE),
    "escaped NUL in an id": (dumped(item="a\0b"), Reason.OUT_OF_RANGE),
    "newline in an id": (dumped(item="a\nb"), Reason.OUT_OF_RANGE),
    "newline at the end of an id": (dumped(item="a\n"), Reason.OUT_OF_RANGE),
    "newline at the end of a name": (dumped(props={"surface": "home\n"}), Reason.OUT_OF_RANGE),
    "delete character in an id": (dumped(user_id="a\x7f"), Reason.OUT_OF_RANGE),
    "time as string": (dumped(ts_ms=str(NOW)), Reason.WRONG_TYPE),
    "time as float": (dumped(ts_ms=float(NOW)), Reason.WRONG_TYPE),
    "time as fraction": (dumped(ts_ms=1.5), Reason.WRONG_TYPE),
    "time as boolean": (dumped(ts_ms=True), Reason.WRONG_TYPE),
    "time as date": (dumped(ts_ms="2026-01-01T00:00:00Z"), Reason.WRONG_TYPE),
    "time zero": (dumped(ts_ms=0), Reason.OUT_OF_RANGE),
    "time negative": (dumped(ts_ms=-1), Reason.OUT_OF_RANGE),
    "time in the year 287396": (dumped(ts_ms=2**53 + 1), Reason.OUT_OF_RANGE),
    "time of 40 digits": (dumped(ts_ms=int("9" * 40)), Reason.OUT_OF_RANGE),
    "props as array": (raw().replace(b'"props":{}', b'"props":[]'), Reason.WRONG_TYPE),
    "props null": (raw().replace(b'"props":{}', b'"props":null'), Reason.WRONG_TYPE),
    "view without dwell": (props("view"), Reason.MISSING_FIELD),
    "dwell negative": (props("view", dwell_ms=-1), Reason.OUT_OF_RANGE),
    "dwell over a day": (props("view", dwell_ms=86_400_001), Reason.OUT_OF_RANGE),
    "scroll beyond the page": (props("scroll", depth_pct=101), Reason.OUT_OF_RANGE),
    "position negative": (props("impression", position=-1), Reason.OUT_OF_RANGE),
    "surface with a space": (props("impression", surface="home page"), Reason.OUT_OF_RANGE),
    "order without lines": (props("purchase", order_id="o", items=[]), Reason.OUT_OF_RANGE),
    "order of 101 lines": (props("purchase", order_id="o", items=[{"item_id": "i"}] * 101), Reason.OUT_OF_RANGE),
    "order line without item": (props("purchase", order_id="o", items=[{"quantity": 1}]), Reason.MISSING_FIELD),
    "order line of nothing": (
        props("purchase", order_id="o", items=[{"item_id": "i", "quantity": 0}]),
        Reason.OUT_OF_RANGE,
    ),
    "price negative": (props("add_to_cart", price=-0.5), Reason.OUT_OF_RANGE),
    "unknown device": (props("click", context={"device": "fridge"}), Reason.OUT_OF_RANGE),
    "consent as string": (props("click", consent={"train": "yes"}), Reason.WRONG_TYPE),
    "search without query": (props("search"), Reason.MISSING_FIELD),
    "follow without target": (props("follow"), Reason.MISSING_FIELD),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_gets_its_reason(name: str) -> None:
    value, reason = BAD[name]
    parsed = parse_event(value)
    assert isinstance(parsed, Rejected), parsed
    assert parsed.reason is reason, parsed.detail


@pytest.mark.parametrize("name", BAD)
def test_a_detail_is_one_short_sentence(name: str) -> None:
    """Contract: the detail travels in a Kafka header and in a log line, whatever the sender has written."""
    parsed = parse_event(BAD[name][0])
    assert isinstance(parsed, Rejected)
    assert 0 < len(parsed.detail) <= 500


@pytest.mark.parametrize(
    ("value", "field"),
    [
        (dumped(ts_ms="soon"), "$.ts_ms"),
        (dumped(event_id=None), "`event_id`"),
        (dumped(colour="red"), "`colour`"),
        (dumped(props={"position": -1}), "$.props.position"),
        (props("purchase", order_id="o", items=[{"item_id": "i"}, {"item_id": ""}]), "$.props.items[1].item_id"),
    ],
)
def test_the_detail_names_the_field(value: bytes, field: str) -> None:
    parsed = parse_event(value)
    assert isinstance(parsed, Rejected) and field in parsed.detail


def test_an_unknown_field_of_60_000_letters_is_named_by_its_beginning() -> None:
    parsed = parse_event(spliced(b'"' + b"z" * 60_000 + b'":1'))
    assert isinstance(parsed, Rejected)
    assert "`zzz" in parsed.detail and len(parsed.detail) <= 500


@pytest.mark.parametrize("name", ["time negative", "unknown type", "version of the future", "unknown prop"])
def test_a_refusal_keeps_the_event_id(name: str) -> None:
    """Contract: whoever waits for the event can be told by its id."""
    value, _ = BAD[name]
    parsed = parse_event(value)
    assert isinstance(parsed, Rejected) and parsed.event_id == json.loads(value or b"")["event_id"]


def test_a_key_given_twice_is_served_with_its_last_value() -> None:
    parsed = parse_event(spliced(b'"item_id":"i2"'))
    assert not isinstance(parsed, Rejected) and parsed.item_id == "i2"


@pytest.mark.parametrize("text", ["héllo", "鞋-7", "a b", "👟", "x" * 64])
def test_ids_may_hold_any_printable_text(text: str) -> None:
    parsed = parse_event(raw(item=text))
    assert not isinstance(parsed, Rejected) and parsed.item_id == text


def test_the_largest_allowed_record_is_read() -> None:
    parsed = parse_event(raw() + b" " * (MAX_EVENT_BYTES - len(raw())))
    assert not isinstance(parsed, Rejected)


@pytest.mark.parametrize("kind", EVENT_TYPES)
def test_every_type_round_trips(kind: str) -> None:
    parsed = parse_event(raw(kind))
    assert not isinstance(parsed, Rejected), parsed
    assert parsed.event_type == kind
    assert parse_event(msgspec.json.encode(parsed)) == parsed


# ── version 1 ────────────────────────────────────────────────────────────────────────────────────────────────────────


def v1(kind: str = "click", **fields: Any) -> bytes:
    return msgspec.json.encode(body(kind) | {"schema_version": 1} | fields)


def test_version_1_reads_numbers_that_were_strings() -> None:
    parsed = parse_event(v1(props={"dwell_ms": "800", "position": "4", "surface": "home"}))
    assert not isinstance(parsed, Rejected), parsed
    assert (parsed.schema_version, parsed.props.dwell_ms, parsed.props.position) == (2, 800, 4)


def test_version_1_drops_the_price_bucket() -> None:
    assert not isinstance(parse_event(v1(props={"price_bucket": "high"})), Rejected)


def test_version_1_purchases_list_their_items_in_one_string() -> None:
    parsed = parse_event(v1("purchase", props={"order_id": "o1", "items": "i1,i2"}))
    assert isinstance(parsed, Purchase)
    assert [line.item_id for line in parsed.props.items] == ["i1", "i2"]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (v1("view", props={"dwell_ms": "800"}), Reason.UNKNOWN_TYPE),
        (v1(props={"dwell_ms": "long"}), Reason.WRONG_TYPE),
        (v1(props={"colour": "red"}), Reason.UNKNOWN_FIELD),
        (v1("purchase", props={"order_id": "o1", "items": "i1,,i2"}), Reason.OUT_OF_RANGE),
        (v1("purchase", props={"items": "i1"}), Reason.MISSING_FIELD),
        (v1(props={"position": "-1"}), Reason.OUT_OF_RANGE),
        (v1(item_id="a\n"), Reason.OUT_OF_RANGE),
        (v1(event_type=["click"]), Reason.WRONG_TYPE),
    ],
)
def test_version_1_is_held_to_version_2s_limits(value: bytes, reason: Reason) -> None:
    parsed = parse_event(value)
    assert isinstance(parsed, Rejected) and parsed.reason is reason, parsed


# ── laws ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


@given(st.binary(max_size=300))
def test_random_bytes_never_raise(value: bytes) -> None:
    parse_event(value)


_VALID = [raw(kind) for kind in EVENT_TYPES] + [
    v1(props={"dwell_ms": "8"}),
    v1("purchase", props={"order_id": "o", "items": "a,b"}),
]


@given(st.sampled_from(_VALID), st.lists(st.tuples(st.integers(0, 400), st.binary(max_size=3)), min_size=1, max_size=4))
def test_mutated_events_never_raise(value: bytes, edits: list[tuple[int, bytes]]) -> None:
    """Contract: bytes overwritten anywhere lead to an event or a refusal; an event that is read can be written and read."""
    for place, patch in edits:
        at = place % len(value)
        value = value[:at] + patch + value[at + 1 :]
    parsed = parse_event(value)
    if not isinstance(parsed, Rejected):
        assert parse_event(msgspec.json.encode(parsed)) == parsed


_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(st.sampled_from(EVENT_TYPES), st.sampled_from([*body(), "item_id"]), _json, st.sampled_from([1, 2]))
def test_any_value_in_any_field_never_raises(kind: str, field: str, value: Any, schema_version: int) -> None:
    parse_event(json.dumps(body(kind) | {"schema_version": schema_version} | {field: value}).encode())


_ids = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters=[chr(n) for n in range(32)] + ["\x7f"]),
    min_size=1,
    max_size=64,
)


@given(
    kind=st.sampled_from(EVENT_TYPES),
    item=_ids,
    event_id=_ids,
    session_id=_ids,
    user_id=st.none() | _ids,
    ts_ms=st.integers(1, 2**53),
    surface=st.none() | st.from_regex(r"[A-Za-z0-9_.-]{1,32}", fullmatch=True),
    position=st.none() | st.integers(0, 100_000),
)
def test_every_valid_event_round_trips(
    kind: str,
    item: str,
    event_id: str,
    session_id: str,
    user_id: str | None,
    ts_ms: int,
    surface: str | None,
    position: int | None,
) -> None:
    extra = {name: value for name, value in (("surface", surface), ("position", position)) if value is not None}
    parsed = parse_event(
        raw(kind, item, event_id=event_id, session_id=session_id, user_id=user_id, ts_ms=ts_ms, props=extra)
    )
    assert not isinstance(parsed, Rejected), parsed
    assert (parsed.event_id, parsed.session_id, parsed.user_id, parsed.ts_ms) == (event_id, session_id, user_id, ts_ms)
    assert parse_event(msgspec.json.encode(parsed)) == parsed


def test_the_slow_path_is_not_taken_by_good_events(monkeypatch: pytest.MonkeyPatch) -> None:
    """Contract: one decode per good event; finding a reason is for bad ones."""

    def refuse(*_: Any) -> Event:
        raise AssertionError("a good event was explained")

    monkeypatch.setattr("schemas.event._explain", refuse)
    assert isinstance(parse_event(raw("view")), View)
