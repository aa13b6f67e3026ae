"""The world is hard enough to mean something, on shoppers nobody trains on. Evaluated on lists of a good ranker."""

from __future__ import annotations

import pytest

from demo.accounting import CtrAccount
from demo.evaluate import ORACLES, evaluate_oracle


@pytest.fixture(scope="module")
def account() -> CtrAccount:
    return evaluate_oracle(ORACLES["observer"], visits=120, seed=11, days=6)


def test_popularity_reaches_35_to_55_percent_of_the_optimum(account: CtrAccount) -> None:
    assert 0.38 < account.shares()["popularity"].of_optimum < 0.52


def test_ignoring_the_visit_costs_a_fifth(account: CtrAccount) -> None:
    """Contract: the best ranking that knows the lasting tastes perfectly, but not the visit, reaches at most 80 %."""
    share = account.shares()["tastes_only"]
    assert share.of_optimum > 0.6
    assert share.of_optimum + share.of_optimum_se < 0.8


def test_the_visit_can_be_read_from_what_the_shopper_does(account: CtrAccount) -> None:
    """The ideal observer passes 85 % of the optimum after two signs; it beats every ranking that ignores the visit."""
    assert account.after_signs(2) > 0.85
    assert account.shares()["ranked"].of_optimum > account.shares()["tastes_only"].of_optimum + 0.08


def test_popularity_is_as_weak_when_its_own_lists_are_shown() -> None:
    assert (
        0.35 < evaluate_oracle(ORACLES["popularity"], visits=60, seed=12, days=6).shares()["ranked"].of_optimum < 0.52
    )
