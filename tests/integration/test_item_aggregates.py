"""The job item-aggregates on a MiniCluster: the same `build` as in production, without Kafka and without Redis."""

from __future__ import annotations

from typing import Any

import pytest

from schemas.features_row import ItemRow, row_codec
from tests.integration import mini_cluster_aggregates
from tests.integration.mini_cluster_aggregates import HOUR, NOON
from tests.integration.mini_cluster_result import result_of
from udfs.logic.item_aggregates import SLICE_MS

CODEC = row_codec()


@pytest.fixture(scope="module")
def result() -> dict[str, Any]:
    return result_of(mini_cluster_aggregates)


def history(result: dict[str, Any], key: str) -> list[ItemRow | None]:
    found = [value for name, value in result["records"] if bytes.fromhex(name) == f"v{CODEC.version}|{key}".encode()]
    return [None if value is None else CODEC.decode(bytes.fromhex(value)) for value in found]


def counts(row: ItemRow | None) -> dict[str, int]:
    """The counters above zero."""
    assert row is not None
    return {name: count for name, count in zip(CODEC.columns, row.counts) if count}


def busiest(result: dict[str, Any], key: str) -> dict[str, int]:
    """The row with the most counted: that of noon, when all had come and nothing had left. How many came before it depends on how
    the interactions fell into bundles."""
    return max((counts(row) for row in history(result, key) if row is not None), key=lambda one: sum(one.values()))


def both(**given: int) -> dict[str, int]:
    return {f"{name}_{window}": count for window in ("2h", "28d") for name, count in given.items()}


@pytest.mark.parametrize(
    ("key", "counted"),
    [
        ("item|boot-1", both(impressions=1, clicks=2, purchases=1)),
        ("item|boot-2", both(purchases=1)),
        ("item|lamp-9", both(clicks=1, views=1)),
        ("subcategory|boots", both(impressions=1, clicks=2, purchases=1)),
        ("category|shoes", both(impressions=1, clicks=2, purchases=2)),
        ("surface|home", both(impressions=1, clicks=1)),
        ("device|mobile", both(impressions=1)),
        ("geo|de", both(impressions=1)),
        ("hour|11", both(clicks=1)),
        ("hour|12", both(impressions=1, clicks=2, views=1, purchases=2)),
    ],
)
def test_every_key_counts_what_happened(result: dict[str, Any], key: str, counted: dict[str, int]) -> None:
    """Contract: an order counts once a line; what is late, flagged, no action or no interaction counts nowhere."""
    assert busiest(result, key) == counted


@pytest.mark.parametrize("key", ["item|boot-1", "subcategory|boots", "surface|home"])
def test_time_empties_the_two_hours_and_then_the_28_days(result: dict[str, Any], key: str) -> None:
    """Contract: watermarks reach items and groups; what time takes out is emitted by a timer. The input ends, and with it time."""
    *_, last, gone = history(result, key)
    assert gone is None
    assert last is not None
    assert not any(count for name, count in counts(last).items() if name.endswith("_2h"))
    assert counts(last)["clicks_28d"] == busiest(result, key)["clicks_28d"]
    assert last.window_end_ms == NOON + 2 * HOUR + SLICE_MS


def test_an_items_row_names_its_groups(result: dict[str, Any]) -> None:
    row = history(result, "item|boot-1")[-2]
    assert row is not None
    assert (row.subcategory, row.category) == ("boots", "shoes")


def test_rows_of_a_key_are_numbered_upwards(result: dict[str, Any]) -> None:
    numbers = [row.row_no for row in history(result, "item|boot-1") if row is not None]
    assert len(numbers) > 1
    assert numbers == sorted(set(numbers))


def test_no_python_stands_before_the_keyed_operators(result: dict[str, Any]) -> None:
    nodes = {node["id"]: node for node in result["plan"]["nodes"]}
    for name in ("aggregate-items", "aggregate-groups"):
        operator = next(node for node in nodes.values() if node["type"] == name)
        (before,) = operator["predecessors"]
        assert before["ship_strategy"] == "HASH"
        assert nodes[before["id"]]["type"] == "TableToDataStream"
