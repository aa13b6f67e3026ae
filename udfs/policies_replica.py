"""Slate policies in each ranking worker, from the `control` topic: the newest of each surface is in force, older ones are kept.

A worker follows the topic itself, as it follows the catalogue: a policy is taken up within a second and names itself on every
receipt. What cannot be read, or says something else under a version that is known, changes nothing and is counted.
"""

from __future__ import annotations

import logging

import msgspec

from schemas import topics
from schemas.connections import Connections
from schemas.control import PublishPolicy, decode_control
from schemas.policy import ANY_SURFACE, DEFAULT, Policy, PolicyError, check_policy
from udfs.replica import KeyValue, Replica

log = logging.getLogger(__name__)


class PoliciesReplica(Replica):
    def __init__(self, connections: Connections) -> None:
        super().__init__(connections, topics.CONTROL)
        self._known: dict[str, Policy] = {DEFAULT.version: DEFAULT}
        self._in_force: dict[str, Policy] = {}
        self.taken_up = 0
        self.missed = 0  # times an experiment's arm named a policy that was never published

    def __len__(self) -> int:
        return len(self._known)

    def of(self, surface: str, version: str | None = None) -> Policy:
        """The policy of this version; None, or where it is not known, the one in force: the surface's own, else that of every
        surface, else the default."""
        if version is not None:
            if (found := self._known.get(version)) is not None:
                return found
            self.missed += 1
        in_force = self._in_force
        return in_force.get(surface) or in_force.get(ANY_SURFACE) or DEFAULT

    def _apply_all(self, records: list[KeyValue]) -> None:
        for _key, value in records:
            try:
                record = decode_control(value or b"")
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                self._refuse(f"a record was skipped: {error}")
                continue
            if isinstance(record, PublishPolicy):
                self._take_up(record.policy, record.in_force)

    def _take_up(self, policy: Policy, in_force: bool) -> None:
        try:
            check_policy(policy)
        except PolicyError as error:
            self._refuse(f"policy {policy.version} was refused: {error}")
            return
        if self._known.setdefault(policy.version, policy) != policy:
            self._refuse(f"policy {policy.version} is known with other content: publish a new version")
            return
        if in_force:
            self._in_force[policy.surface] = policy
        self.taken_up += 1

    def _refuse(self, why: str) -> None:
        self.rejected += 1
        log.warning("policies replica: %s", why)
