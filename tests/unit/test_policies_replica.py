"""Policies in a ranking worker: which is in force, and what is not taken up. How it follows its topic: test_replica.py."""

from __future__ import annotations

import pytest

from schemas.connections import Connections
from schemas.control import ActivateBundle, PublishPolicy, control_record, decode_control
from schemas.policy import DEFAULT, Policy, Seen, Stability
from udfs.policies_replica import PoliciesReplica

HOME = Policy(version="home-2", surface="home", rules=())


@pytest.fixture
def copy() -> PoliciesReplica:
    return PoliciesReplica(Connections())


def publish(copy: PoliciesReplica, *policies: Policy) -> None:
    copy._apply_all([control_record(PublishPolicy(policy)) for policy in policies])


def test_without_any_the_default_is_in_force(copy: PoliciesReplica) -> None:
    assert copy.of("home") is DEFAULT


def test_a_surfaces_own_policy_wins_over_that_of_every_surface(copy: PoliciesReplica) -> None:
    everywhere = Policy(version="all-1", rules=(Seen(times=3),))
    publish(copy, HOME, everywhere)
    assert (copy.of("home"), copy.of("cart"), copy.taken_up, len(copy)) == (HOME, everywhere, 2, 3)


def test_the_last_published_is_in_force_an_older_one_again_too(copy: PoliciesReplica) -> None:
    newer = Policy(version="home-3", surface="home")
    publish(copy, HOME, newer)
    assert copy.of("home") == newer
    publish(copy, HOME)
    assert copy.of("home") == HOME


def test_a_version_keeps_its_meaning(copy: PoliciesReplica) -> None:
    publish(copy, HOME, Policy(version="home-2", surface="home"))
    assert (copy.of("home"), copy.rejected) == (HOME, 1)


def test_what_is_wrong_changes_nothing_and_is_counted(copy: PoliciesReplica) -> None:
    publish(copy, HOME, Policy(version="home-3", surface="home", stability=Stability(top=2, moves=2)))
    copy._apply_all([(b"policy|x", b'{"type": "publish_policy"}'), (None, None), (b"k", b"\xff")])
    assert (copy.of("home"), copy.rejected, copy.taken_up) == (HOME, 4, 1)


def test_other_records_are_not_ours(copy: PoliciesReplica) -> None:
    copy._apply_all([control_record(ActivateBundle("b2"))])
    assert (copy.rejected, copy.taken_up) == (0, 0)


def test_every_version_has_a_key_of_its_own_and_bundles_share_one() -> None:
    """Contract: compaction keeps all policies, for replay, and the newest activation."""
    assert control_record(ActivateBundle("b2"))[0] == control_record(ActivateBundle("b3"))[0] == b"bundle"
    key, value = control_record(PublishPolicy(HOME))
    assert (key, decode_control(value)) == (b"policy|home-2", PublishPolicy(HOME))
