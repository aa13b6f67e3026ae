"""The evaluation measures what the job serves: the shipped bundle's scores, filled by the shop's slate policy."""

from __future__ import annotations

from pathlib import Path

import pytest

from demo.changes import followed
from demo.world import load, policy
from models.bundle import Bundle
from models.evaluate import BundleRanking, main
from models.store import SHIPPED
from schemas.policy import DEFAULT, Policy

NEWEST = SHIPPED / (SHIPPED / "LATEST").read_text().strip()


def leads(filled_by: Policy) -> float:
    ranking = BundleRanking(Bundle.load(NEWEST), load().items, filled_by)
    return followed(ranking, visits=40, seed=5, first_shopper=700_000)[-1]


def test_a_new_intent_leads_within_three_events_in_nine_of_ten_visits() -> None:
    """Contract: by the shop's policy; by score alone it comes later."""
    assert leads(DEFAULT) < 0.9 <= leads(policy())


def test_a_policy_of_another_surface_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "cart.toml"
    file.write_text('version = "cart-1"\nsurface = "cart"\n')
    with pytest.raises(SystemExit):
        main([str(NEWEST), "--policy", str(file)])
    assert "surface is cart, and the shop's lists are of home" in capsys.readouterr().err


def test_a_policy_that_is_not_there_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([str(NEWEST), "--policy", str(tmp_path / "none.toml")])
    assert "none.toml" in capsys.readouterr().err


def test_two_policies_are_charged_on_the_same_moments(capsys: pytest.CaptureFixture[str]) -> None:
    main([str(NEWEST), "--visits", "3", "--beside", "1"])
    last = capsys.readouterr().out.splitlines()[-1]
    assert '"policy": "shop-1"' in last and '"beside": "1"' in last and '"ctr_over_beside": 0.0' in last
