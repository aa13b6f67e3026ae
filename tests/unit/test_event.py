"""What enters: the table of bad input (tests/bad_input.py), version 1, and laws on random bytes."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.event import EVENT_TYPES, MAX_EVENT_BYTES, Event, Purchase, Reason, Rejected, View, parse_event
from tests.bad_input import BAD, dumped, props, spliced
from tests.fakes import body, raw


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
