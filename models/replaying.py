"""Bundles for replay: loaded once each, whichever version a decision record names; and the verdict on lists made again.

record ─ its bundle, knowing of later items what the record says ─ udfs/logic/replay.py ─ Outcome ─ Summary
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec
import numpy as np

from models.bundle import Bundle, BundleError
from models.runtime import runtime
from models.store import SHIPPED, LoadedBundle
from schemas.decision import FALLBACK, ROWS, Decision, Described
from schemas.policy import Policy
from schemas.user_state import decode
from udfs.logic.consent import consent_of
from udfs.logic.replay import CLOSE, CannotReplay, Replayed, replay, replay_draft, with_policy
from udfs.logic.slate import PRE_RANKER, Slate, World

IDENTICAL, CLOSE_BY, DIFFERENT = "identical", "close", "different"
_NO_CACHE = 0  # after a start from an older savepoint, one number may stand for two histories of a user


class Outcome(msgspec.Struct, frozen=True):
    """`verdict`: identical; close, where only scores differ, by CLOSE at most, on another runtime; or different."""

    list_id: str
    verdict: str
    differences: list[str]
    largest_gap: float
    bundle: str
    policy: str
    recorded_on: str
    replayed_on: str


class Summary(msgspec.Struct):
    """Of many lists. `listed` are those that are not identical, newest first; `not_replayed` counts by reason. The
    other dictionaries count the lists that were made again, so that one sees what was tried."""

    lists: int = 0
    identical: int = 0
    close: int = 0
    different: int = 0
    largest_gap: float = 0.0
    not_replayed: dict[str, int] = {}
    listed: list[Outcome] = []
    policies: dict[str, int] = {}
    bundles: dict[str, int] = {}
    arms: dict[str, int] = {}
    fallbacks: dict[str, int] = {}
    slots: dict[str, int] = {}
    epochs: dict[str, int] = {}  # by state_epoch: it rises with each start of the job
    later_items: int = 0  # lists of users who acted on items that the bundle does not know
    replayed_on: str = ""

    @property
    def scored(self) -> int:
        """Of those made again: by the ranker, the pre-ranker or popularity, and no bare fallbacks."""
        return self.lists - sum(self.not_replayed.values()) - self.slots.get(FALLBACK, 0)

    def add(self, decision: Decision, outcome: Outcome) -> None:
        self.lists += 1
        setattr(self, outcome.verdict, getattr(self, outcome.verdict) + 1)
        if outcome.verdict != IDENTICAL:
            self.listed.append(outcome)
        self.largest_gap = max(self.largest_gap, outcome.largest_gap)
        self.replayed_on = outcome.replayed_on
        _count(self.policies, decision.policy)
        _count(self.bundles, decision.bundle)
        _count(self.epochs, str(decision.state_epoch))
        _count(self.fallbacks, decision.fallback or "none")
        for layer, arm in decision.arms.items():
            _count(self.arms, f"{layer}: {arm}")
        for slot in decision.places.slot_names:
            _count(self.slots, slot)
        self.later_items += bool(decision.described)

    def leave_out(self, reason: str) -> None:
        self.lists += 1
        _count(self.not_replayed, reason)


class Bundles:
    """`folder` as the job's --bundles."""

    def __init__(self, folder: str = "") -> None:
        self._folder = Path(folder) if folder else SHIPPED
        self._described: Described = {}
        self._loaded: dict[str, LoadedBundle] = {}
        self._refused: dict[str, BundleError] = {}

    def of(self, decision: Decision) -> LoadedBundle:
        """The record's bundle, to which items that came after it are what the record says. Raises BundleError."""
        self._described = decision.described
        if (refused := self._refused.get(decision.bundle)) is not None:
            raise refused
        found = self._loaded.get(decision.bundle)
        if found is None:
            try:
                bundle = Bundle.load(self._folder / decision.bundle)
            except BundleError as error:
                self._refused[decision.bundle] = error
                raise
            found = LoadedBundle(bundle, _NO_CACHE, lambda item_id: self._described.get(item_id))
            self._loaded[decision.bundle] = found
        return found

    def replay(self, decision: Decision, policy: Policy) -> Replayed:
        """Raises BundleError, CannotReplay."""
        bundle = self.of(decision)
        return replay(decision, bundle, policy, bundle.history_encoder(decision.key, decision.now_ms, None))

    def replay_any(self, decision: Decision, policies: Mapping[str, Policy]) -> Replayed:
        """Of a list that one ranker made, or that was drafted of two; `policies` by version, all that the record names. Raises
        BundleError, CannotReplay."""
        if decision.draft is None:
            return self.replay(decision, policies[decision.policy])
        alone = [self.replay(one, policies[one.policy]) for one in decision.rankings()]
        return replay_draft(decision, alone)

    def judged(self, decision: Decision, policies: Mapping[str, Policy]) -> Outcome:
        """Replayed, by its policies among the published ones. Raises CannotReplay, DecisionError."""
        named = {one.policy for one in (decision, *decision.rankings())}
        for version in sorted(named - policies.keys()):
            raise CannotReplay(
                f"Policy {version} of list {decision.list_id} is not on the topic control: publish its file again.",
                f"policy {version} not published",
            )
        try:
            made = self.replay_any(decision, policies)
        except BundleError as error:
            raise CannotReplay(str(error), f"bundle {decision.bundle} cannot be loaded") from error
        here = runtime()
        close = made.same_items and made.gap <= CLOSE and here != decision.runtime
        verdict = IDENTICAL if made.identical else CLOSE_BY if close else DIFFERENT
        return Outcome(
            decision.list_id,
            verdict,
            made.differences,
            made.gap,
            decision.bundle,
            decision.policy,
            decision.runtime,
            here,
        )

    def task_scores(self, decision: Decision) -> dict[str, list[float]]:
        """For each task the score of every candidate by that task alone, without the popularity prior; NaN where none was scored.
        Nothing where popularity alone ranked, or the pre-ranker, which has no tasks. Raises BundleError.
        """
        if not consent_of(decode(decision.state)).personalise or decision.ranker == PRE_RANKER:
            return {}
        bundle = self.of(decision)
        return {task: self._by(decision, bundle, {task: 1.0}) for task in bundle.tasks}

    def _by(self, decision: Decision, bundle: LoadedBundle, weights: dict[str, float]) -> list[float]:
        state = decode(decision.state)
        scored = ~np.isnan(decision.candidates.score_column())
        rows = np.frombuffer(decision.inputs[ROWS], "<i4").astype(np.int32)[scored]
        history = bundle.history_encoder(decision.key, decision.now_ms, None)(state)
        features = decision.candidates.feature_rows()[scored]
        alone, nothing = (
            bundle.score(state, history, rows, decision.now_ms, decision.surface, None, by, features)
            for by in (weights, {"": 1.0})
        )
        found = np.full(len(scored), np.nan)
        found[scored] = alone - nothing
        listed: list[float] = found.tolist()
        return listed

    def with_policy(self, decision: Decision, world: World) -> Slate:
        """Raises BundleError, CannotReplay."""
        bundle = self.of(decision)
        return with_policy(decision, bundle, world, bundle.history_encoder(decision.key, decision.now_ms, None))


def _count(counts: dict[str, int], name: str) -> None:
    counts[name] = counts.get(name, 0) + 1
