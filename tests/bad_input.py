"""Bad input: one table for the parser's tests and for the running engine. name -> (bytes, the reason it must get)."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from schemas.event import MAX_EVENT_BYTES, Reason
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
