"""Rules: which candidates a policy removes before anything is scored, and the first rule that did.

Each rule answers for all candidates at once; what it removes is counted under its name, and named in the decision record.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from schemas.items import Item
from schemas.policy import AgeLimit, Blocked, Bought, Hidden, NeedsConsent, OutOfStock, Policy, PriceBand, Rule, Seen
from schemas.user_state import ACTIONS, UserState
from udfs.logic.consent import consent_of

QUOTA = "quota"
_ACTED = frozenset(ACTIONS[name] for name in ("click", "view", "add_to_cart", "purchase"))
_BOUGHT = frozenset([ACTIONS["purchase"]])
_HIDDEN = frozenset([ACTIONS["hide"]])
_DAY_MS = 86_400_000


@dataclass(frozen=True, eq=False)
class Question:
    """What rules look at. `seen_hashes` None: the candidates are the caller's, whom `seen` and `bought` spare."""

    state: UserState
    item_ids: list[str]
    seen_hashes: npt.NDArray[np.uint32] | None
    unavailable: Container[str]
    catalogue: Mapping[str, Item]
    now_ms: int

    @cached_property
    def known(self) -> list[tuple[int, Item]]:
        """What the catalogue knows of the candidates, by place."""
        found = map(self.catalogue.get, self.item_ids)
        return [(place, item) for place, item in enumerate(found) if item is not None]


def removed(policy: Policy, sources: list[str], question: Question) -> dict[int, str]:
    """Places to leave out, and why: quotas first, then the policy's rules in order."""
    found: dict[int, str] = {}
    if policy.quotas:
        left = dict(policy.quotas)
        for place, source in enumerate(sources):
            if source in left:
                left[source] -= 1
                if left[source] < 0:
                    found[place] = QUOTA
    return taken_out(policy, question) | found


def taken_out(policy: Policy, question: Question) -> dict[int, str]:
    """Places that the policy's rules remove, and which rule was the first to."""
    found: dict[int, str] = {}
    for rule in policy.rules:
        name = str(rule.__struct_config__.tag)
        for place in _removes(rule, question):
            found.setdefault(place, name)
    return found


def hidden(state: UserState) -> set[str]:
    """Items that the user does not want to see, as far back as the history goes."""
    return _acted_on(state, _HIDDEN, with_history=True)


def _removes(rule: Rule, question: Question) -> list[int]:
    ids, state = question.item_ids, question.state
    if isinstance(rule, OutOfStock):
        return _places(ids, question.unavailable)
    if isinstance(rule, Hidden):
        unwanted = hidden(state)
        return _places(ids, unwanted) if unwanted else []
    if isinstance(rule, Seen):
        return _seen_often(rule, question)
    if isinstance(rule, Bought):
        if question.seen_hashes is None:
            return []
        bought = _bought_since(state, rule.days, question.now_ms)
        return _places(ids, bought) if bought else []
    if isinstance(rule, Blocked):
        items, sellers = set(rule.items), set(rule.sellers)
        found = _places(ids, items)
        return found + [n for n, item in question.known if item.seller in sellers] if sellers else found
    if isinstance(rule, PriceBand):
        most = float("inf") if rule.most is None else rule.most
        least = rule.least
        return [n for n, item in question.known if item.price is not None and not least <= item.price <= most]
    if isinstance(rule, AgeLimit):
        return [n for n, item in question.known if item.min_age is not None and item.min_age > rule.up_to]
    if isinstance(rule, NeedsConsent) and not consent_of(state).personalise:
        categories = set(rule.categories)
        return [n for n, item in question.known if item.category in categories or (rule.sponsored and item.sponsored)]
    return []  # caps wait for the places: udfs.logic.slots


def _places(item_ids: list[str], unwanted: Container[str]) -> list[int]:
    return [place for place, item_id in enumerate(item_ids) if item_id in unwanted]


def _seen_often(rule: Seen, question: Question) -> list[int]:
    """Seen so often and never acted on: an item that was clicked may be wanted again, and the ranker knows it."""
    state = question.state
    if question.seen_hashes is None or len(state.seen) < rule.times:
        return []
    hashes, times = np.unique(np.frombuffer(state.seen, np.uint32), return_counts=True)
    often = hashes[times >= rule.times]
    if not len(often):
        return []
    acted = _acted_on(state, _ACTED, with_history=True)
    places = np.nonzero(np.isin(question.seen_hashes, often))[0].tolist()
    return [place for place in places if question.item_ids[place] not in acted]


def _bought_since(state: UserState, days: int | None, now_ms: int) -> set[str]:
    if days is None:
        return _acted_on(state, _BOUGHT, with_history=False)
    since_ms = now_ms - days * _DAY_MS
    start_ms = state.session_start_ms
    slots = {
        slot
        for slot, code, ts in zip(state.session_slots, state.session_actions, state.session_ts)
        if code & 15 in _BOUGHT and start_ms + ts >= since_ms
    } | {
        slot
        for slot, code, ts_s in zip(state.history_slots, state.history_actions, state.history_ts)
        if code & 15 in _BOUGHT and ts_s * 1000 >= since_ms
    }
    return {state.ids[slot].decode() for slot in slots}


def _acted_on(state: UserState, kinds: frozenset[int], *, with_history: bool) -> set[str]:
    ids = state.ids
    slots = {slot for slot, code in zip(state.session_slots, state.session_actions) if code & 15 in kinds}
    if with_history:
        slots |= {slot for slot, code in zip(state.history_slots, state.history_actions) if code & 15 in kinds}
    return {ids[slot].decode() for slot in slots}
