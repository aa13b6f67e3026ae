"""Item: what the shop says about one thing it sells. On the compacted topic `items`, keyed by item_id.

A record without a value (a tombstone) removes the item: it leaves every list.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from schemas.event import Id, Name, Price, Text


class Item(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`stock` counts pieces; None means it is not tracked and the item counts as available."""

    item_id: Id
    title: Text | None = None
    category: Name | None = None
    subcategory: Name | None = None
    seller: Id | None = None
    price: Price | None = None
    stock: Annotated[int, Meta(ge=0)] | None = None
    sponsored: bool = False  # paid for: policies may cap it, or give it places of its own
    min_age: Annotated[int, Meta(ge=0, le=99)] | None = None
    vector: Annotated[list[float], Meta(max_length=1024)] | None = None


decode_item = msgspec.json.Decoder(Item).decode
