"""Assignment: which arms a unit is in, by salted hashes: sticky without any memory, the same in every language.

    n = first 4 bytes of SHA-256 of the UTF-8 text, as a big-endian number          bucket = n · 10,000 // 2^32
    <salt>|holdout|<unit>             below the holdout's share: in the holdout, and in nothing else
    <salt>|layer:<layer>|<unit>       which experiment of the layer: the one whose part it falls into
    <salt>|experiment:<name>|<unit>   which arm: weights one after the other, in the order of the file
                                      (of an interleaved one both: its lists are drafted)

Salt and names hold no bar, so no two texts are the same. tests/fixtures/assignment_vectors.json holds what must come out.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

from schemas.event import Consent
from schemas.experiments import (
    BUCKETS,
    CROSSED,
    HOLDOUT,
    INTERLEAVED,
    Arm,
    Audience,
    Definition,
    Experiment,
    bucket_edge,
)
from schemas.keys import is_anonymous, user_key
from schemas.ranking import DEFAULT_SURFACE, Challenger, Stamped
from schemas.user_state import UserState
from udfs.logic.consent import consent_of


class _Timed(NamedTuple):
    experiment: Experiment
    start_ms: int
    end_ms: int
    first: int  # buckets of the layer
    last: int
    layer_text: str
    arm_text: str
    edges: list[tuple[int, Arm]]  # upper ends of the arms' buckets


class Visitor(NamedTuple):
    """What audiences ask of a user: as the events last said, and how many actions of earlier sessions are remembered."""

    device: str | None = None
    geo: str | None = None
    channel: str | None = None
    actions: int = 0


UNKNOWN = Visitor()


class Assignment:
    """A definition, prepared for being asked once per ranking."""

    def __init__(self, definition: Definition) -> None:
        self.version = definition.version
        self._holdout = definition.holdout
        self._holdout_text = f"{definition.salt}|{HOLDOUT}|"
        self._experiments = []
        for layer, one in definition.experiments():
            total, edges = 0.0, []
            for arm in one.arms:
                total += arm.weight
                edges.append((bucket_edge(total), arm))
            self._experiments.append(
                _Timed(
                    one,
                    int(one.start.timestamp() * 1000),
                    int(one.end.timestamp() * 1000),
                    bucket_edge(one.part[0]),
                    bucket_edge(one.part[1]),
                    f"{definition.salt}|layer:{layer.name}|",
                    f"{definition.salt}|experiment:{one.name}|",
                    edges,
                )
            )

    def of(
        self, unit: str, session: str, surface: str, now_ms: int, crossed_ms: int = 0, visitor: Visitor = UNKNOWN
    ) -> Stamped | None:
        """`unit` is the first-seen id, `session` names one session of it. None where nothing touches the ranking."""
        holdout = self._holdout
        if holdout is not None and bucket(self._holdout_text + unit) < bucket_edge(holdout.share):
            return Stamped({HOLDOUT: HOLDOUT}, holdout.bundle, holdout.policy)
        arms: dict[str, str] = {}
        bundle: str | None = None
        policy: str | None = None
        interleaved: Experiment | None = None
        for one in self._experiments:
            experiment = one.experiment
            if not one.start_ms <= now_ms < one.end_ms:
                continue
            if experiment.surfaces and surface not in experiment.surfaces:
                continue
            if experiment.only is not None and not meant(experiment.only, visitor):
                continue
            who = unit if experiment.unit == "user" else session
            if not one.first <= bucket(one.layer_text + who) < one.last:
                continue
            if experiment.kind == "interleaved":
                interleaved, arm = experiment, experiment.arms[0]
                arms[experiment.name] = INTERLEAVED
            else:
                at = bucket(one.arm_text + who)
                arm = next(arm for edge, arm in one.edges if at < edge)
                arms[experiment.name] = arm.name
            bundle, policy = arm.bundle or bundle, arm.policy or policy
            if one.start_ms <= crossed_ms:
                arms[CROSSED] = CROSSED
        if not arms:
            return None
        challenger = _challenger(interleaved, bundle, policy) if interleaved is not None else None
        return Stamped(arms, bundle, policy, challenger)


def meant(audience: Audience, visitor: Visitor) -> bool:
    """Whether the visitor is in it. Who does not say, is not."""
    for wanted, said in (
        (audience.device, visitor.device),
        (audience.geo, visitor.geo),
        (audience.channel, visitor.channel),
    ):
        if wanted and said not in wanted:
            return False
    below = audience.actions_below
    return audience.actions_from <= visitor.actions and (below is None or visitor.actions < below)


def _challenger(of: Experiment, bundle: str | None, policy: str | None) -> Challenger:
    """What it leaves out is as `bundle` and `policy` have it, unless that is the control's own choice."""
    control, arm = of.arms
    return Challenger(
        of.name,
        control.name,
        arm.name,
        arm.bundle or (None if control.bundle is not None else bundle),
        arm.policy or (None if control.policy is not None else policy),
    )


def bucket(text: str) -> int:
    """0 to 9,999."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") * BUCKETS >> 32


def name_unit(state: UserState, key: str, session_id: str) -> None:
    """Before a user's first event is applied: the unit is the session that it comes from, so that a login keeps what the
    session had. Whoever is known already stays what they were."""
    if not state.event_no and state.tail.unit is None and not is_anonymous(key):
        state.tail.unit = (user_key(None, session_id), 0)


def merge_units(state: UserState, key: str, other: UserState, other_key: str, now_ms: int) -> bool:
    """`other`, an anonymous session, is merged into the user's state: True where it had another unit, and so crosses over."""
    theirs, their_crossing_ms = other.tail.unit or (other_key, 0)
    if not state.event_no and state.tail.unit is None:
        state.tail.unit = (theirs, their_crossing_ms)
        return False
    ours, crossed_ms = state.tail.unit or (key, 0)
    crossed = ours != theirs
    latest_ms = max(crossed_ms, their_crossing_ms, now_ms if crossed else 0)
    state.tail.unit = (ours, latest_ms) if latest_ms or ours != key else None
    return crossed


def arms_of(assignment: Assignment, state: UserState, key: str, surface: str | None, ts_ms: int) -> dict[str, str]:
    """The arms that an event of this time counts for: by the same hashes as lists, so that neither has to wait for the other."""
    surfaces = [surface] if surface is not None else list(state.tail.surfaces) or [DEFAULT_SURFACE]
    found: dict[str, str] = {}
    for stamped in stamp(assignment, state, key, surfaces, ts_ms).values():
        found |= stamped.arms
    return found


def unit_of(state: UserState, key: str) -> str | None:
    """By which the user is assigned, where that is not the key."""
    unit = (state.tail.unit or (key, 0))[0]
    return unit if unit != key else None


def stamp(assignment: Assignment, state: UserState, key: str, surfaces: list[str], now_ms: int) -> dict[str, Stamped]:
    """What experiments decide of each surface's ranking. Who does not allow both, personal lists and learning, is in none."""
    if consent_of(state) != Consent():
        return {}
    unit, crossed_ms = state.tail.unit or (key, 0)
    session = f"{unit}|{state.session_start_ms}"
    device, geo, channel = state.tail.where or (None, None, None)
    visitor = Visitor(device, geo, channel, len(state.history_slots))
    found = ((surface, assignment.of(unit, session, surface, now_ms, crossed_ms, visitor)) for surface in surfaces)
    return {surface: stamped for surface, stamped in found if stamped is not None}
