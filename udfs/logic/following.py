"""Following: the category, or subcategory, that the last items a user showed interest in agree on.

    actions of the session, newest first ─ interest in so many different items, all of one group? ─ that group
                                           └ any other action ends the run: nothing is followed

Interest is a click, a view from 10 s (or of unknown length), a cart or a like. A search says that something else is wanted, a
short view that the item was not it, a purchase that it is found, a removal that it is not wanted: all of them end the run.
Different items, since a click, a view and a cart of one item say something of that item, and little of its category.
"""

from __future__ import annotations

from collections.abc import Mapping

from schemas.items import Item
from schemas.policy import Following
from schemas.user_state import ACTIONS, UserState, dwell_bucket

LONG_VIEW_MS = 10_000  # an upper end of schemas.user_state.DWELL_BUCKETS_MS: state knows no finer times

_OF_INTEREST = frozenset(ACTIONS[name] for name in ("click", "add_to_cart", "like"))
_VIEW = ACTIONS["view"]
_LONG = dwell_bucket(LONG_VIEW_MS)


def followed(slot: Following, state: UserState, catalogue: Mapping[str, Item]) -> str | None:
    """The group that the slot follows now; None where the last actions agree on none, or the catalogue knows none of theirs."""
    group: str | None = None
    items: set[int] = set()
    for item, action in zip(reversed(state.session_slots), reversed(state.session_actions)):
        known = catalogue.get(state.ids[item].decode())
        named = None if known is None else known.category if slot.by == "category" else known.subcategory
        if named is None or group not in (None, named) or not _shows_interest(action):
            return None
        group = named
        items.add(item)
        if len(items) == slot.items:
            return group
    return None


def _shows_interest(action: int) -> bool:
    kind, dwell = action & 15, action >> 4
    return kind in _OF_INTEREST or (kind == _VIEW and (not dwell or dwell >= _LONG))
