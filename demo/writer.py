"""Events of one visit, as the shop's page would send them: event v2 structs with ids, session, user and context."""

from __future__ import annotations

from typing import Literal, TypedDict

import numpy as np

from schemas.event import (
    AddToCart,
    CartProps,
    Click,
    Context,
    DwellProps,
    Event,
    Follow,
    FollowProps,
    Hide,
    Impression,
    Like,
    Login,
    OrderLine,
    OrderProps,
    Props,
    Purchase,
    RemoveFromCart,
    Scroll,
    ScrollProps,
    Search,
    SearchProps,
    View,
    ViewProps,
)

SURFACE = "home"
_GEOS = ("DE", "FR", "US", "GB", "JP", "BR")


class Envelope(TypedDict):
    """What every event carries."""

    event_id: str
    session_id: str
    ts_ms: int
    schema_version: Literal[2]
    user_id: str | None


class Writer:
    """Writes the events of one visit. `user_id` is None while the shopper is anonymous. `salt`, below 2^48, sets the ids of a visit
    apart from those of the same visit played another time."""

    def __init__(self, user_id: str | None, rng: np.random.Generator, salt: int = 0) -> None:
        high, low = rng.integers(0, 1 << 48, 2).tolist()
        high ^= salt
        self._prefix, self._written = f"{high:012x}{low:012x}", 0
        self.session_id = f"session-{high:012x}"
        self.user_id = user_id
        mobile = rng.random() < 0.65
        self.context = Context(
            device="mobile" if mobile else "desktop",
            geo=_GEOS[int(rng.integers(len(_GEOS)))],
            channel="app" if mobile and rng.random() < 0.6 else "web",
        )
        self._plain = Props(surface=SURFACE, context=self.context)

    def new_id(self) -> str:
        """32 hex digits: 96 random bits of the visit, and a count."""
        self._written += 1
        return f"{self._prefix}{self._written:08x}"

    def impression(self, ts_ms: int, item_id: str, position: int, list_id: str) -> Event:
        props = Props(surface=SURFACE, position=position, list_id=list_id, context=self.context)
        return Impression(**self._envelope(ts_ms), item_id=item_id, props=props)

    def click(self, ts_ms: int, item_id: str, position: int | None, list_id: str | None, seen_as: str | None) -> Event:
        """`seen_as` is the event_id of the impression that was clicked."""
        props = DwellProps(
            surface=SURFACE, position=position, list_id=list_id, source_impression_id=seen_as, context=self.context
        )
        return Click(**self._envelope(ts_ms), item_id=item_id, props=props)

    def landing(self, ts_ms: int, item_id: str) -> Event:
        """A click that comes from outside: a newsletter's link."""
        context = Context(self.context.device, self.context.geo, self.context.channel, campaign="newsletter")
        return Click(**self._envelope(ts_ms), item_id=item_id, props=DwellProps(surface=SURFACE, context=context))

    def view(self, ts_ms: int, item_id: str, dwell_ms: int, list_id: str | None) -> Event:
        """Sent at the view's end."""
        props = ViewProps(surface=SURFACE, dwell_ms=dwell_ms, list_id=list_id, context=self.context)
        return View(**self._envelope(ts_ms), item_id=item_id, props=props)

    def scroll(self, ts_ms: int, depth_pct: float) -> Event:
        return Scroll(
            **self._envelope(ts_ms), props=ScrollProps(surface=SURFACE, depth_pct=depth_pct, context=self.context)
        )

    def add_to_cart(self, ts_ms: int, item_id: str, price: float | None, list_id: str | None) -> Event:
        props = CartProps(surface=SURFACE, price=price, quantity=1, list_id=list_id, context=self.context)
        return AddToCart(**self._envelope(ts_ms), item_id=item_id, props=props)

    def remove_from_cart(self, ts_ms: int, item_id: str) -> Event:
        return RemoveFromCart(
            **self._envelope(ts_ms), item_id=item_id, props=CartProps(surface=SURFACE, context=self.context)
        )

    def purchase(self, ts_ms: int, lines: list[tuple[str, float | None]]) -> Event:
        bought = [OrderLine(item_id, 1, price) for item_id, price in lines]
        order_id = f"order-{self._prefix[12:]}-{self._written}"
        props = OrderProps(surface=SURFACE, order_id=order_id, items=bought, context=self.context)
        return Purchase(**self._envelope(ts_ms), props=props)

    def search(self, ts_ms: int, query: str) -> Event:
        return Search(**self._envelope(ts_ms), props=SearchProps(surface=SURFACE, query=query, context=self.context))

    def follow(self, ts_ms: int, target: str) -> Event:
        return Follow(**self._envelope(ts_ms), props=FollowProps(surface=SURFACE, target=target, context=self.context))

    def like(self, ts_ms: int, item_id: str) -> Event:
        return Like(**self._envelope(ts_ms), item_id=item_id, props=self._plain)

    def hide(self, ts_ms: int, item_id: str) -> Event:
        return Hide(**self._envelope(ts_ms), item_id=item_id, props=self._plain)

    def login(self, ts_ms: int) -> Event:
        return Login(**self._envelope(ts_ms), props=self._plain)

    def _envelope(self, ts_ms: int) -> Envelope:
        return {
            "event_id": self.new_id(),
            "session_id": self.session_id,
            "ts_ms": ts_ms,
            "schema_version": 2,
            "user_id": self.user_id,
        }
