"""The copy of item features: what records do to it, and what candidates are given. How it follows its topic: test_replica.py."""

from __future__ import annotations

import numpy as np
import pytest

from schemas.connections import Connections
from schemas.features import registry
from schemas.features_row import ALL, ItemRow, RowKey, row_codec
from tests.fakes import DAY, HOUR, MINUTE, NOW
from udfs.item_features_replica import Groups, ItemFeaturesReplica
from udfs.logic.item_rates import RATES, rates, window_share

CODEC = row_codec()
BOOT, LAMP = RowKey("item", "boot-1"), RowKey("item", "lamp-9")


def row(end_ms: int = NOW, subcategory: str | None = None, category: str | None = None, **counts: int) -> bytes:
    columns = tuple(counts.get(name, 0) for name in CODEC.columns)
    return CODEC.encode(ItemRow(1, 1, end_ms, columns, subcategory, category))


def groups_of(item_id: str) -> Groups:
    return ("boots", "shoes") if item_id == "new-boot" else None


@pytest.fixture
def copy() -> ItemFeaturesReplica:
    return ItemFeaturesReplica(Connections(), registry(), groups_of)


def apply(copy: ItemFeaturesReplica, rows: dict[RowKey, bytes | None]) -> None:
    copy._apply_all([(CODEC.record_key(key), value) for key, value in rows.items()])


NAMES = [one.name for one in registry().of("item") if one.made_by != "items"]


def fetch(copy: ItemFeaturesReplica, item_id: str, now_ms: int = NOW) -> dict[str, float]:
    (values,) = copy.fetch([item_id], now_ms, NAMES).values.tolist()
    return dict(zip(NAMES, values))


def missing(copy: ItemFeaturesReplica, item_id: str, now_ms: int = NOW) -> set[str]:
    (flags,) = copy.fetch([item_id], now_ms, NAMES).missing.tolist()
    return {name for name, flag in zip(NAMES, flags) if flag}


def test_a_candidate_has_the_counters_of_its_row(copy: ItemFeaturesReplica) -> None:
    apply(copy, {BOOT: row(clicks_2h=3, views_28d=9), LAMP: row(clicks_2h=1)})
    assert (fetch(copy, "boot-1")["clicks_2h"], fetch(copy, "boot-1")["views_28d"]) == (3, 9)
    assert copy.fetch(["lamp-9", "boot-1"], NOW, ["views_2h", "clicks_2h"]).values[:, 1].tolist() == [1, 3]
    assert "clicks_2h" not in missing(copy, "boot-1")


def test_the_newest_record_of_a_batch_counts(copy: ItemFeaturesReplica) -> None:
    key = CODEC.record_key(BOOT)
    copy._apply_all([(key, row(clicks_2h=1)), (key, None), (key, row(clicks_2h=2))])
    assert fetch(copy, "boot-1")["clicks_2h"] == 2


def test_rates_are_those_that_the_rows_give(copy: ItemFeaturesReplica) -> None:
    """Contract: the same as udfs.logic.item_rates says of the rows one by one."""
    counts = {
        ALL: {"clicks_28d": 500, "impressions_28d": 9_000, "clicks_2h": 20, "impressions_2h": 300, "purchases_28d": 40},
        RowKey("category", "shoes"): {"clicks_28d": 90, "impressions_28d": 900},
        RowKey("subcategory", "boots"): {"clicks_28d": 30, "impressions_28d": 100, "purchases_28d": 3},
        BOOT: {"clicks_28d": 9, "impressions_28d": 20, "clicks_2h": 5, "purchases_28d": 1},
    }
    apply(copy, {key: row(**given) for key, given in counts.items() if key != BOOT})
    apply(copy, {RowKey("hour", "23"): row(clicks_28d=75), RowKey("hour", "05"): row(clicks_28d=25)})
    apply(copy, {BOOT: row(subcategory="boots", category="shoes", **counts[BOOT])})
    by_hour = [{23: 75, 5: 25}.get(hour, 0) for hour in range(24)]
    wanted = rates([dict.fromkeys(CODEC.columns, 0) | one for one in counts.values()], window_share(by_hour, NOW))
    found = fetch(copy, "boot-1")
    assert {name: found[name] for name in wanted} == pytest.approx(wanted)


def test_a_new_item_has_the_rates_of_the_groups_that_the_catalogue_says(copy: ItemFeaturesReplica) -> None:
    apply(copy, {ALL: row(clicks_28d=10, impressions_28d=1000)})
    apply(copy, {RowKey("subcategory", "boots"): row(clicks_28d=500, impressions_28d=1000)})
    assert fetch(copy, "new-boot")["ctr_28d"] == pytest.approx((500 + 50 * 0.01) / 1050)
    assert fetch(copy, "unknown")["ctr_28d"] == pytest.approx(0.01)


def test_the_caller_may_say_the_groups(copy: ItemFeaturesReplica) -> None:
    apply(copy, {ALL: row(clicks_28d=10, impressions_28d=1000)})
    apply(copy, {RowKey("subcategory", "boots"): row(clicks_28d=500, impressions_28d=1000)})
    found = copy.fetch(["x", "new-boot"], NOW, ["ctr_28d"], [("boots", "shoes"), (None, None)]).values
    assert found[:, 0].tolist() == pytest.approx([(500 + 50 * 0.01) / 1050, 0.01])


def test_what_is_missing_is_the_default_and_marked(copy: ItemFeaturesReplica) -> None:
    apply(copy, {BOOT: row(clicks_2h=3)})
    assert fetch(copy, "nobody") == {name: float(registry().get(name).default) for name in NAMES}
    assert missing(copy, "nobody") == set(NAMES)  # rates as well: without a row of everything there are none
    assert missing(copy, "boot-1") == set(RATES)
    apply(copy, {ALL: row(clicks_2h=3, impressions_2h=9)})
    assert missing(copy, "boot-1") == set()


def test_what_is_too_old_is_the_default_and_marked(copy: ItemFeaturesReplica) -> None:
    """Contract: by the registry's time to live, against the newest row of all: what does not change is not sent again."""
    apply(copy, {BOOT: row(NOW - 20 * DAY, clicks_2h=3, clicks_28d=8), ALL: row(NOW, clicks_2h=9, clicks_28d=9)})
    assert fetch(copy, "boot-1", NOW + 2 * HOUR)["clicks_2h"] == 3
    later = fetch(copy, "boot-1", NOW + 2 * HOUR + 1)
    assert (later["clicks_2h"], later["trend"], later["clicks_28d"]) == (0, 1.0, 8)
    assert "trend" in missing(copy, "boot-1", NOW + 2 * HOUR + 1)
    assert "clicks_28d" not in missing(copy, "boot-1", NOW + 2 * HOUR + 1)
    assert fetch(copy, "boot-1", NOW + 28 * DAY + 1)["clicks_28d"] == 0


def test_age_is_that_of_the_newest_row(copy: ItemFeaturesReplica) -> None:
    assert copy.age_ms(NOW) == -1
    apply(copy, {BOOT: row(NOW), LAMP: row(NOW - HOUR)})
    assert copy.age_ms(NOW + MINUTE) == MINUTE
    assert copy.age_ms(NOW - MINUTE) == 0


def test_a_tombstone_removes_a_row_and_its_place_is_used_again(copy: ItemFeaturesReplica) -> None:
    apply(copy, {BOOT: row(clicks_2h=3, subcategory="boots")})
    apply(copy, {BOOT: None})
    assert (len(copy), fetch(copy, "boot-1")["clicks_2h"]) == (0, 0)
    apply(copy, {LAMP: row(clicks_28d=1)})
    assert (fetch(copy, "lamp-9")["clicks_2h"], fetch(copy, "lamp-9")["clicks_28d"]) == (0, 1)
    apply(copy, {RowKey("item", "never"): None})


def test_a_group_that_lost_its_row_keeps_its_place(copy: ItemFeaturesReplica) -> None:
    group = RowKey("category", "shoes")
    apply(copy, {ALL: row(clicks_28d=1, impressions_28d=2), group: row(clicks_28d=9, impressions_28d=9)})
    apply(copy, {BOOT: row(category="shoes"), group: None})
    apply(copy, {LAMP: row(clicks_28d=100, impressions_28d=100)})
    assert fetch(copy, "boot-1")["ctr_28d"] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("key", "value"),
    [(b"junk", row()), (None, row()), (CODEC.record_key(BOOT), b"junk"), (CODEC.record_key(BOOT), row()[:-1])],
)
def test_a_broken_record_is_counted_and_changes_nothing(
    copy: ItemFeaturesReplica, key: bytes | None, value: bytes
) -> None:
    apply(copy, {BOOT: row(clicks_2h=3)})
    copy._apply_all([(key, value)])
    assert (copy.rejected, fetch(copy, "boot-1")["clicks_2h"]) == (1, 3)


def test_rows_of_another_version_are_passed_over(copy: ItemFeaturesReplica) -> None:
    copy._apply_all([(f"v{CODEC.version + 1}|item|boot-1".encode(), b"whatever")])
    assert (copy.rejected, len(copy)) == (0, 0)


def test_many_items(copy: ItemFeaturesReplica) -> None:
    """The table grows, and each item keeps its own."""
    rng = np.random.default_rng(7)
    clicks = {f"i{number}": int(rng.integers(0, 99)) for number in range(5_000)}
    apply(copy, {RowKey("item", name): row(clicks_2h=count, category=name[:2]) for name, count in clicks.items()})
    assert copy.fetch(list(clicks), NOW, ["clicks_2h"]).values[:, 0].tolist() == list(clicks.values())
    assert len(copy) == 5_000


def test_exposures_are_clicks_and_misses_of_28_days(copy: ItemFeaturesReplica) -> None:
    """Contract: exploration believes what was counted; what has no row was never shown, and misses are never negative."""
    apply(copy, {BOOT: row(clicks_28d=3, impressions_28d=50), LAMP: row(clicks_28d=3, impressions_28d=1)})
    assert copy.exposures(["lamp-9", "unheard-of", "boot-1"]).tolist() == [[3, 0], [0, 0], [3, 47]]
