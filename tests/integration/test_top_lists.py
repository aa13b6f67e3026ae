"""The job top-lists on a MiniCluster: the same `build` as in production, without Kafka and without Redis."""

from __future__ import annotations

from typing import Any

import pytest

from schemas.top_lists import TopList, decode_top_list
from tests.integration import mini_cluster_top_lists
from tests.integration.mini_cluster_result import result_of


@pytest.fixture(scope="module")
def result() -> dict[str, Any]:
    return result_of(mini_cluster_top_lists)


def history(result: dict[str, Any], key: str) -> list[TopList | None]:
    return [None if value is None else decode_top_list(value) for name, value in result["records"] if name == key]


@pytest.mark.parametrize(
    ("key", "items", "total"),
    [
        ("item|sock-1", ["boot-1"], 2),
        ("item|boot-1", ['łódź, "a"=1', "sock-1"], 5),
        ('item|łódź, "a"=1', ["boot-1"], 2),
        ("device|mobile", ["sock-1"], 3),
        ("geo|de", ["sock-1"], 3),
        ("hour|12", ["boot-1", "sock-1"], 5),
        ("all|", ["boot-1", "sock-1"], 5),
    ],
)
def test_every_key_lists_what_was_chosen_by_more_than_one(
    result: dict[str, Any], key: str, items: list[str], total: int
) -> None:
    """Contract: once a session; what is late, flagged or not allowed counts nowhere, and neither does a second choice. What was
    chosen once is counted, not listed. How an hour's slices fall into bundles decides when a list is told, not what it says."""
    told = [one for one in history(result, key) if one is not None]
    assert items in [one.items for one in told]
    assert max(one.total for one in told) == pytest.approx(total, abs=1)


def test_nobody_else_has_a_list(result: dict[str, Any]) -> None:
    assert {key for key, _ in result["records"]} == {
        "item|sock-1", "item|boot-1", 'item|łódź, "a"=1', "device|mobile", "geo|de", "hour|12", "all|"
    }  # fmt: skip


def test_time_takes_every_list_out(result: dict[str, Any]) -> None:
    """Contract: watermarks reach the timers; a list of which nothing is left is a record without a value."""
    for key in {key for key, _ in result["records"]}:
        assert history(result, key)[-1] is None


def test_no_python_stands_before_the_keyed_operator(result: dict[str, Any]) -> None:
    nodes = {node["id"]: node for node in result["plan"]["nodes"]}
    operator = next(node for node in nodes.values() if node["type"] == "update-top-lists")
    (before,) = operator["predecessors"]
    assert before["ship_strategy"] == "HASH"
    assert nodes[before["id"]]["type"] == "TableToDataStream"
