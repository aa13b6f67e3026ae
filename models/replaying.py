"""Bundles for replay: loaded once each, whichever version a decision record names."""

from __future__ import annotations

from pathlib import Path

from models.bundle import Bundle
from models.store import SHIPPED, LoadedBundle
from models.vocabulary import Describe
from schemas.decision import Decision
from schemas.policy import Policy
from udfs.logic.replay import Replayed, replay, with_policy
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

    def with_policy(self, decision: Decision, world: World) -> Slate:
        """Raises BundleError, CannotReplay."""
        bundle = self.of(decision)
        return with_policy(decision, bundle, world, bundle.history_encoder(decision.key, decision.now_ms, None))
