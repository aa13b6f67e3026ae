"""Event, version 2: what a shop tells us about a user, and how a raw record becomes one.

`parse_event` is the boundary: bytes in, a validated `Event` or a `Rejected` with a reason code out. Version 1 events are
upgraded on read; a newer version than ours is rejected, not guessed at. JSON Schema: docs/schemas/event.json.
"""

from __future__ import annotations

from enum import Enum
from typing import Annotated, Any, Literal, Union, get_args

import msgspec
from msgspec import Meta

SCHEMA_VERSION = 2
MAX_EVENT_BYTES = 64 * 1024
_DETAIL_CHARS = 400

# Control characters are refused: ids travel in Redis keys and logs, and state separates them by NUL. The look-ahead is for
# Python, whose `$` also matches before a final newline.
_PRINTABLE = r"^[^\x00-\x1f\x7f]+$(?!\n)"
EventId = Annotated[str, Meta(min_length=1, max_length=128, pattern=_PRINTABLE)]
Id = Annotated[str, Meta(min_length=1, max_length=64, pattern=_PRINTABLE)]
Name = Annotated[str, Meta(min_length=1, max_length=32, pattern=r"^[A-Za-z0-9_.-]+$(?!\n)")]
Text = Annotated[str, Meta(min_length=1, max_length=256, pattern=_PRINTABLE)]
TimestampMs = Annotated[int, Meta(ge=1, le=2**53)]
Position = Annotated[int, Meta(ge=0, le=100_000)]
DwellMs = Annotated[int, Meta(ge=0, le=86_400_000)]
Price = Annotated[float, Meta(ge=0, le=1e9)]


class Consent(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What the user allows, from this event on. Absent: as last said; where no event ever said it, both."""

    personalise: bool = True
    train: bool = True


Device = Literal["desktop", "mobile", "tablet", "tv", "other"]
Channel = Literal["web", "app"]


class Context(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Where the user is. `geo` is coarse (a country or region code), never a position."""

    device: Device | None = None
    geo: Name | None = None
    channel: Channel | None = None
    app_version: Name | None = None
    campaign: Text | None = None


class Props(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What every event may say besides its envelope."""

    surface: Name | None = None
    position: Position | None = None
    list_id: Id | None = None
    source_impression_id: EventId | None = None
    query_id: Id | None = None
    consent: Consent | None = None
    context: Context | None = None


class DwellProps(Props, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    dwell_ms: DwellMs | None = None


class ViewProps(Props, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """A view is sent at its end: its dwell is what it says."""

    dwell_ms: DwellMs


class ScrollProps(Props, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    depth_pct: Annotated[float, Meta(ge=0, le=100)]


class CartProps(Props, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    price: Price | None = None
    quantity: Annotated[int, Meta(ge=1, le=10_000)] | None = None


class OrderLine(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    item_id: Id
    quantity: Annotated[int, Meta(ge=1, le=10_000)] = 1
    price: Price | None = None


class OrderProps(Props, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    order_id: Id
    items: Annotated[list[OrderLine], Meta(min_length=1, max_length=100)]


class SearchProps(Props, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    query: Text


class FollowProps(Props, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """`target` is what is followed: a category, subcategory, seller or creator."""

    target: Id


class _Event(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, tag_field="event_type", kw_only=True
):
    event_id: EventId
    session_id: Id
    ts_ms: TimestampMs
    schema_version: Literal[2]
    user_id: Id | None = None

    @property
    def event_type(self) -> str:
        return str(self.__struct_config__.tag)


class _ItemEvent(_Event, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    item_id: Id


class Impression(_ItemEvent, frozen=True, tag="impression", kw_only=True):
    props: Props = Props()


class Click(_ItemEvent, frozen=True, tag="click", kw_only=True):
    props: DwellProps = DwellProps()


class View(_ItemEvent, frozen=True, tag="view", kw_only=True):
    props: ViewProps


class Scroll(_Event, frozen=True, tag="scroll", kw_only=True):
    props: ScrollProps
    item_id: Id | None = None


class AddToCart(_ItemEvent, frozen=True, tag="add_to_cart", kw_only=True):
    props: CartProps = CartProps()


class RemoveFromCart(_ItemEvent, frozen=True, tag="remove_from_cart", kw_only=True):
    props: CartProps = CartProps()


class Purchase(_Event, frozen=True, tag="purchase", kw_only=True):
    props: OrderProps
    item_id: Id | None = None


class Return(_Event, frozen=True, tag="return", kw_only=True):
    props: OrderProps
    item_id: Id | None = None


class Search(_Event, frozen=True, tag="search", kw_only=True):
    props: SearchProps
    item_id: Id | None = None


class Follow(_Event, frozen=True, tag="follow", kw_only=True):
    props: FollowProps
    item_id: Id | None = None


class Like(_ItemEvent, frozen=True, tag="like", kw_only=True):
    props: Props = Props()


class Hide(_ItemEvent, frozen=True, tag="hide", kw_only=True):
    props: Props = Props()


class Login(_Event, frozen=True, tag="login", kw_only=True):
    props: Props = Props()
    item_id: Id | None = None


class Logout(_Event, frozen=True, tag="logout", kw_only=True):
    props: Props = Props()
    item_id: Id | None = None


Event = Union[
    Impression,
    Click,
    View,
    Scroll,
    AddToCart,
    RemoveFromCart,
    Purchase,
    Return,
    Search,
    Follow,
    Like,
    Hide,
    Login,
    Logout,
]
EVENT_TYPES: tuple[str, ...] = tuple(str(cls.__struct_config__.tag) for cls in get_args(Event))


class Reason(str, Enum):
    """Why a record was refused. The value is the code on `events-dlq` and in the counters."""

    EMPTY = "empty"
    TOO_LARGE = "too_large"
    NOT_UTF8 = "not_utf8"
    NOT_JSON = "not_json"
    TOO_DEEP = "too_deep"
    NOT_AN_OBJECT = "not_an_object"
    UNKNOWN_VERSION = "unknown_version"
    UNKNOWN_TYPE = "unknown_type"
    UNKNOWN_FIELD = "unknown_field"
    MISSING_FIELD = "missing_field"
    WRONG_TYPE = "wrong_type"
    OUT_OF_RANGE = "out_of_range"


class Rejected(msgspec.Struct, frozen=True):
    """A refusal: the code, and one sentence that names the field and what was wrong with it.

    `event_id` is what could still be read, so that a sender who waits for the event can be told.
    """

    reason: Reason
    detail: str
    event_id: str | None = None


_decoder = msgspec.json.Decoder(Event)


def parse_event(raw: bytes | None) -> Event | Rejected:
    """Decode and validate one record. Never raises on bad input."""
    if not raw:
        return Rejected(Reason.EMPTY, "the record has no value: send a JSON object")
    if len(raw) > MAX_EVENT_BYTES:
        return Rejected(Reason.TOO_LARGE, f"the record has {len(raw)} bytes; the limit is {MAX_EVENT_BYTES}")
    try:
        event: Event = _decoder.decode(raw)
        return event
    except (msgspec.ValidationError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return _explain(raw, error)


def _explain(raw: bytes, error: Exception) -> Event | Rejected:
    """The slow path: find the reason code, upgrading version 1 on the way."""
    try:
        body: Any = msgspec.json.decode(raw)
    except UnicodeDecodeError:
        return Rejected(Reason.NOT_UTF8, "the record is not valid UTF-8")
    except RecursionError:
        return Rejected(Reason.TOO_DEEP, "the record is nested too deeply")
    except msgspec.DecodeError as decode_error:
        try:
            raw.decode("utf-8")
        except UnicodeDecodeError:
            return Rejected(Reason.NOT_UTF8, "the record is not valid UTF-8")
        return Rejected(Reason.NOT_JSON, f"the record is not JSON: {decode_error}")
    if not isinstance(body, dict):
        return Rejected(Reason.NOT_AN_OBJECT, f"the record is a JSON {_json_type(body)}, not an object")
    event_id = body.get("event_id") if isinstance(body.get("event_id"), str) else None
    version = body.get("schema_version")
    if version == 1 and type(version) is int:
        return _upgrade_v1(body, event_id)
    if type(version) is int and version != SCHEMA_VERSION:
        return Rejected(
            Reason.UNKNOWN_VERSION, f"schema_version {version} is unknown here; this engine reads 1 and 2", event_id
        )
    event_type = body.get("event_type")
    if isinstance(event_type, str) and event_type not in EVENT_TYPES:
        return Rejected(
            Reason.UNKNOWN_TYPE, f"event_type {event_type[:40]!r} is unknown; known: {', '.join(EVENT_TYPES)}", event_id
        )
    return Rejected(reason_of(error), detail_of(error), event_id)


def detail_of(error: Exception) -> str:
    """What was wrong, cut short: the message may quote a field name as long as the record, and it travels in a header."""
    message = str(error)
    return message if len(message) <= _DETAIL_CHARS else message[:_DETAIL_CHARS] + "…"


def reason_of(error: Exception) -> Reason:
    """The reason code of an error that msgspec raised."""
    message = str(error)
    if isinstance(error, RecursionError):
        return Reason.TOO_DEEP
    if isinstance(error, UnicodeDecodeError):
        return Reason.NOT_UTF8
    if not isinstance(error, msgspec.ValidationError):
        return Reason.NOT_JSON
    # By how it begins: further on stand the sender's own words.
    if message.startswith("Object missing required field"):
        return Reason.MISSING_FIELD
    if message.startswith("Object contains unknown field"):
        return Reason.UNKNOWN_FIELD
    if message.startswith(("Expected `", "Invalid value")) and not any(
        sign in message for sign in (">=", "<=", "length", "matching")
    ):
        return Reason.WRONG_TYPE
    return Reason.OUT_OF_RANGE


def _json_type(value: Any) -> str:
    names = {list: "array", str: "string", bool: "boolean", int: "number", float: "number", type(None): "null"}
    return names.get(type(value), type(value).__name__)


_V1_TYPES = ("impression", "click", "scroll", "add_to_cart", "purchase")


def _upgrade_v1(body: dict[str, Any], event_id: str | None) -> Event | Rejected:
    """Version 1 has the same envelope, five types, and props as a map of strings."""
    event_type = body.get("event_type")
    if isinstance(event_type, str) and event_type not in _V1_TYPES:
        return Rejected(
            Reason.UNKNOWN_TYPE,
            f"event_type {event_type[:40]!r} is unknown in version 1; known: {', '.join(_V1_TYPES)}",
            event_id,
        )
    upgraded = dict(body, schema_version=SCHEMA_VERSION)
    try:
        if isinstance(body.get("props"), dict):
            upgraded["props"] = _typed_props(event_type, body["props"])
        # strict=False reads "800" as 800, which is how version 1 wrote its numbers.
        event: Event = msgspec.convert(upgraded, Event, strict=False)
        return event
    except (msgspec.ValidationError, msgspec.DecodeError) as error:
        return Rejected(reason_of(error), f"version 1: {detail_of(error)}", event_id)


def _typed_props(event_type: Any, props: dict[str, Any]) -> dict[str, Any]:
    typed = dict(props)
    typed.pop("price_bucket", None)  # version 1 sent a bucket of its own; version 2 has the price
    if event_type == "purchase" and isinstance(typed.get("items"), str):
        typed["items"] = [{"item_id": item} for item in typed["items"].split(",")]
    return typed
