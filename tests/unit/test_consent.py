"""Consent: what is forgotten, what is not learnt from, and what lists are made of without it."""

from __future__ import annotations

from typing import Any

import pytest

from schemas import topics
from schemas.event import Consent
from schemas.experiments import Definition, Holdout
from schemas.identity import Claim
from schemas.interaction import decode_interaction
from schemas.items import Item
from schemas.policy import NeedsConsent, Policy
from schemas.user_state import UserState, decode, encode
from tests.fakes import MINUTE, NOW, FakeBundle, event, raw, record
from udfs.logic.consent import consent_of
from udfs.logic.experiments import Assignment, stamp
from udfs.logic.identity import claim, merge
from udfs.logic.records import Outcome, Rules, Stamp, handle
from udfs.logic.sessions import Position, SessionSettings, apply_event
from udfs.logic.slate import Slate, World, rank

NO, YES = {"personalise": False}, {"personalise": True}
BOTH, NOTHING = Consent(), Consent(personalise=False, train=False)


def after(*said: dict[str, Any] | None, step_ms: int = MINUTE, user_id: str | None = "alice") -> UserState:
    """A user who has clicked once a minute, each time saying this."""
    state = UserState()
    for n, consent in enumerate(said):
        props = {} if consent is None else {"consent": consent}
        one = event("click", f"i{n}", ts_ms=NOW + n * step_ms, props=props, user_id=user_id)
        apply_event(state, one, Position(3, n, one.ts_ms))
    return decode(encode(state))


@pytest.mark.parametrize(
    ("said", "allowed"),
    [
        ([None], BOTH),
        ([NO, None], Consent(personalise=False)),
        ([NO, YES], BOTH),
        ([{"personalise": False, "train": False}, None, None], NOTHING),
        ([{"train": False}, NO], Consent(personalise=False)),
    ],
)
def test_what_was_last_said_holds(said: list[Any], allowed: Consent) -> None:
    assert consent_of(after(*said)) == allowed


def test_an_older_event_does_not_undo_what_was_said_after_it() -> None:
    assert not consent_of(after(NO, YES, step_ms=-MINUTE)).personalise


def test_taking_it_back_forgets_every_action_at_once() -> None:
    """Contract: nothing made of the state afterwards can be personal; numbers and duplicates are still known."""
    state = UserState()
    for n, one in enumerate([event("impression", "i1"), event("search"), event("click", "i2")]):
        apply_event(state, one, Position(3, n, NOW))
    encodings = state.history_no
    apply_event(state, (no := event("click", "i3", props={"consent": NO})), Position(3, 3, NOW))
    assert (state.ids, len(state.session_slots), len(state.history_slots), len(state.seen)) == ([], 0, 0, 0)
    assert state.history_no > encodings, "a cached encoding of what was forgotten must not be found again"
    assert (state.event_no, len(state.hashes), state.tail.last_event_id) == (4, 4, no.event_id)
    assert b"i2" not in encode(state)


def test_without_it_nothing_is_remembered_and_with_it_again_what_follows_is() -> None:
    assert after(NO, None, None).session().item_ids == []
    assert after(NO, None, YES, None).session().item_ids == ["i2", "i3"]


def sent(state: UserState, **props: Any) -> Outcome:
    value = raw("impression", props={"surface": "home", **props})
    return handle(state, "u:alice", record(value), NOW, Stamp(7, None), Rules())


def test_an_interaction_says_what_its_user_does_not_allow() -> None:
    outcome = sent(after({"personalise": False, "train": False}))
    (one,) = [decode_interaction(out.value or b"") for out in outcome.outputs if out.topic == topics.INTERACTIONS]
    assert one.notes == ["no_personalisation", "no_training"]
    assert not one.may_train
    assert dict(outcome.counted) == {"events_applied": 1, "events_no_personalisation": 1, "events_no_training": 1}


def test_every_list_of_the_user_is_made_anew_when_it_changes() -> None:
    """Contract: also for an event that ranks nothing by itself, and on surfaces that the user has left."""
    state = after(None)
    state.tail.surfaces.clear()
    apply_event(state, event("click", ts_ms=NOW - 120 * MINUTE, props={"surface": "cart"}), Position(3, 8, NOW))
    outcome = sent(state, consent=NO)
    assert outcome.task is not None
    assert sorted(outcome.task.surfaces) == ["cart", "home"]
    again = sent(decode(outcome.store or b""), consent=NO)
    assert again.task is None or again.task.surfaces == []


def test_a_session_brings_its_consent_and_nothing_comes_in_against_it() -> None:
    anonymous = after(None, None, NO, user_id=None)
    handed = claim(anonymous, Claim("s:s1", "u:alice", NOW), NOW)
    assert handed is not None
    user = after(None)
    assert merge(user, handed, SessionSettings())
    assert (user.ids, consent_of(user).personalise) == ([], False)
    willing = claim(after(None, user_id=None), Claim("s:s1", "u:alice", NOW), NOW)
    refusing = after(NO)
    assert willing is not None
    assert merge(refusing, willing, SessionSettings())
    assert refusing.ids == []


@pytest.mark.parametrize("said", [NO, {"train": False}])
def test_who_does_not_allow_both_is_in_no_experiment(said: dict[str, bool]) -> None:
    everybody = Assignment(Definition(version="v", salt="s", holdout=Holdout(share=1.0)))
    assert stamp(everybody, after(None), "u:alice", ["home"], NOW)
    assert stamp(everybody, after(said), "u:alice", ["home"], NOW) == {}


def made(state: UserState, policy: Policy, catalogue: list[Item]) -> Slate:
    world = World(catalogue={item.item_id: item for item in catalogue}, policy=policy)
    bundle = FakeBundle(items=5)
    return rank(state, bundle, world, lambda _s: None, surface="", k=3, limit=9, now_ms=NOW, stop=None)


def test_without_it_popularity_ranks_by_the_policys_rules() -> None:
    rule = Policy(version="x", rules=(NeedsConsent(categories=["health"]),))
    catalogue = [Item(item_id="item-1", sponsored=True), Item(item_id="item-3", category="health")]
    refused = made(after(NO), rule, catalogue)
    assert [(item.item_id, item.score) for item in refused.items] == [("item-2", 98), ("item-4", 96), ("item-5", 95)]
    assert (refused.cold_start, refused.counts["removed_consent"]) == ("no_consent", 2)
    allowed = made(after(YES), rule, catalogue)
    assert ([item.item_id for item in allowed.items], allowed.cold_start) == (["item-5", "item-4", "item-3"], None)
