"""Together: beside which items a session came to another. What co-visitation and popularity in context are counted from.

    session  A  B  A  C        C is new in it: beside A and B        a second look at A counts nothing

A session counts once an item and once a pair, however often it comes back, so that one visitor's habits weigh no more than
another's choice. What was hidden, taken out of the cart or sent back is no neighbour; queries and follows are no items.
"""

from __future__ import annotations

from schemas.event import Event
from schemas.user_state import ACTIONS, QUERY_MARK, TARGET_MARK, UserState

# Actions that say that an item is of interest. Orders are not among them: what they buy was looked at before.
CHOSEN = ("click", "view", "add_to_cart", "like")
BESIDE_CAP = 5

_CODES = frozenset(ACTIONS[name] for name in CHOSEN)
_MARKS = (QUERY_MARK.encode(), TARGET_MARK.encode())


def beside(state: UserState, event: Event) -> list[str] | None:
    """The last distinct items that the open session chose before this one, newest first; None unless this is the first time that
    it chose the item. `state` has the event applied to its open session."""
    if event.event_type not in CHOSEN or event.item_id is None:
        return None
    own = event.item_id.encode()
    times = 0
    others: list[bytes] = []
    for slot, code in zip(reversed(state.session_slots), reversed(state.session_actions)):
        if code & 15 not in _CODES:
            continue
        item_id = state.ids[slot]
        if item_id == own:
            times += 1
            if times > 1:
                return None
        elif len(others) < BESIDE_CAP and item_id not in others and not item_id.startswith(_MARKS):
            others.append(item_id)
    return [item_id.decode() for item_id in others] if times else None
