"""Bundles for replay: loaded once each, whichever version a decision record names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from models.bundle import Bundle
from models.store import SHIPPED, LoadedBundle
from models.vocabulary import Describe
from schemas.decision import ROWS, Decision
from schemas.policy import Policy
from schemas.user_state import decode
from udfs.logic.consent import consent_of
from udfs.logic.replay import Replayed, replay, replay_draft, with_policy
from udfs.logic.slate import Slate, World

_CACHE_BYTES = 64 << 20


class Bundles:
    """`folder` as the job's --bundles; `describe` tells the groups of items that a bundle does not know, as they are now."""

    def __init__(self, folder: str = "", describe: Describe | None = None) -> None:
        self._folder = Path(folder) if folder else SHIPPED
        self._describe = describe
        self._loaded: dict[str, LoadedBundle] = {}

    def of(self, decision: Decision) -> LoadedBundle:
        """Raises BundleError."""
        found = self._loaded.get(decision.bundle)
        if found is None:
            bundle = Bundle.load(self._folder / decision.bundle)
            found = self._loaded[decision.bundle] = LoadedBundle(bundle, _CACHE_BYTES, self._describe)
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

    def task_scores(self, decision: Decision) -> dict[str, list[float]]:
        """For each task the score of every candidate by that task alone, without the popularity prior; NaN where none was scored.
        Nothing where popularity alone ranked. Raises BundleError.
        """
        if not consent_of(decode(decision.state)).personalise:
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
