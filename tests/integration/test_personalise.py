"""The job on a MiniCluster: the same `build` as in production, on collected input, without Kafka and without Redis."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from models.bundle import LATEST
from schemas import topics
from tests.integration import mini_cluster
from tests.integration.mini_cluster_result import result_of

_ROOT = Path(__file__).resolve().parents[2]
_TINY = _ROOT / "tests" / "fixtures" / "bundles"


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    bundles = tmp_path_factory.mktemp("bundles")
    tiny = next(path for path in _TINY.iterdir() if path.is_dir())
    (bundles / tiny.name).symlink_to(tiny)
    (bundles / LATEST).write_text(tiny.name)
    return result_of(mini_cluster, str(bundles))


def _records(result: dict[str, Any], topic: str) -> list[tuple[str, str]]:
    return [(key, value) for name, key, value in result["records"] if name == topic]


def test_ranking_follows_state_in_the_same_slot(result: dict[str, Any]) -> None:
    nodes = {node["type"]: node for node in result["plan"]["nodes"]}
    ranking = nodes["rank-candidates"]
    (before,) = ranking["predecessors"]
    assert before["id"] == nodes["update-user-state"]["id"]
    assert before["ship_strategy"] == "FORWARD"
    assert ranking["parallelism"] == nodes["update-user-state"]["parallelism"]


def test_state_is_keyed_on_the_jvm(result: dict[str, Any]) -> None:
    """Contract: no Python operator stands between the source and the keyed operator."""
    nodes = {node["id"]: node for node in result["plan"]["nodes"]}
    state = next(node for node in nodes.values() if node["type"] == "update-user-state")
    hashed = next(one for one in state["predecessors"] if one["ship_strategy"] == "HASH")
    assert nodes[hashed["id"]]["type"] == "TableToDataStream"


def test_only_what_waits_for_its_checkpoint_waits_for_company(result: dict[str, Any]) -> None:
    """Contract: `interactions` leave the state operator together; lists and dead letters by the cluster's own setting."""
    clusters_own_ms = 100  # Flink's default: the MiniCluster does not read flink-conf/config.yaml
    assert result["waits_ms"] == {"": [clusters_own_ms], "records": [clusters_own_ms], "exact": [50]}


def test_an_event_is_applied_once_and_numbered(result: dict[str, Any]) -> None:
    ((key, value),) = _records(result, topics.INTERACTIONS)
    assert key == "u:alice"
    assert json.loads(value)["event_no"] == 1


def test_a_list_comes_out_although_kafka_and_redis_are_away(result: dict[str, Any]) -> None:
    ((key, value),) = _records(result, topics.RANKED_FEED)
    ranked = json.loads(value)
    assert key == "u:alice|home"
    assert ranked["degraded"] == ["items", "redis"]
    assert ranked["receipt"]["freshness"]["last_event_id"] == "e1"
    assert ranked["items"]


def test_what_is_no_event_goes_to_the_dead_letters_byte_for_byte(result: dict[str, Any]) -> None:
    assert _records(result, topics.EVENTS_DLQ) == [("p:events:0", "nonsense")]


def test_a_record_under_another_key_is_put_back_under_its_own(result: dict[str, Any]) -> None:
    ((key, value),) = _records(result, topics.EVENTS)
    assert key == "u:carol"
    assert json.loads(value)["event_id"] == "e2"
