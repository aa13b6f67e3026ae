"""Consent: what a user allows, as their events last said it.

    event with `consent` ─ newer than what was said before? ─ remembered ─┬─ personalise taken back: actions forgotten
                                                                          └─ notes on every interaction from now on

An event that says nothing changes nothing; who never said anything allows both. While lists may not be personal, no action is
remembered, so that nothing made of the state can be.
"""

from __future__ import annotations

from schemas.event import Consent
from schemas.interaction import NO_PERSONALISATION, NO_TRAINING
from schemas.user_state import UserState


def consent_of(state: UserState) -> Consent:
    said = state.tail.consent
    return Consent() if said is None else Consent(personalise=said[1], train=said[2])


def hear(state: UserState, said: Consent | None, ts_ms: int) -> bool:
    """Take in what an event of that time says. True where lists may be personal from now on, or may not be any more."""
    before = state.tail.consent
    if said is None or (before is not None and ts_ms < before[0]):
        return False
    was = consent_of(state).personalise
    state.tail.consent = (ts_ms, said.personalise, said.train)
    if was and not said.personalise:
        state.forget_actions()
    return said.personalise != was


def notes_of(consent: Consent) -> list[str]:
    """What an interaction says of it."""
    return [NO_PERSONALISATION] * (not consent.personalise) + [NO_TRAINING] * (not consent.train)
