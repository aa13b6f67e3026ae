"""The job beliefs on a MiniCluster: the same `build` as in production, without Kafka."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from schemas.beliefs import D, decode_belief
from tests.integration import mini_cluster_beliefs
from tests.integration.mini_cluster_beliefs import HALF_LIFE_MS, HOUR, NOON
from tests.integration.mini_cluster_result import result_of
from udfs.logic.beliefs import Moment, context_of


@pytest.fixture(scope="module")
def result() -> dict[str, Any]:
    return result_of(mini_cluster_beliefs)


def test_outcomes_become_the_newest_record_of_their_surface_and_item(result: dict[str, Any]) -> None:
    """Contract: the SQL names the columns as the operator takes them; what is left out is in no record. The end of the input is the
    end of time, and takes everything back."""
    records = [(bytes.fromhex(key).decode(), value) for key, value in result["records"]]
    newest = {key: decode_belief(bytes.fromhex(value)) for key, value in records if value is not None}
    assert [value for _, value in records[-3:]] == [None] * 3
    assert set(newest) == {"home|boot|1", "cart|lamp", "home|lamp"}
    boot = newest["home|boot|1"]
    assert (boot.at_ms, boot.half_life_ms) == (NOON, HALF_LIFE_MS)
    assert boot.counts == {"": (1.0, 2.5), "device:mobile": (1.0, 2.0), "geo:de": (1.0, 2.0)}
    app = context_of(Moment(NOON // HOUR, "mobile", "de", "app", False))
    old = context_of(Moment(NOON // HOUR - 10, None, None, None, True))
    squares = np.frombuffer(boot.squares).reshape(D, D)
    np.testing.assert_allclose(squares, 2 * np.outer(app, app) + 0.5 * np.outer(old, old), atol=1e-9)
    np.testing.assert_allclose(np.frombuffer(boot.rewards), app, atol=1e-9)
    assert newest["cart|lamp"].counts == {"": (1.0, 0.0)}
    assert newest["home|lamp"].counts == {"": (0.0, 1.0)}


def test_the_plan_names_the_operator(result: dict[str, Any]) -> None:
    assert any("update-beliefs" in node["type"] for node in result["plan"]["nodes"])
