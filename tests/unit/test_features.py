"""The registry of features: the committed files agree, and what is wrong is refused with what to do about it."""

from __future__ import annotations

import re
import textwrap

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.featurise import (
    COUNTERS,
    FEATURE_VERSIONS,
    GROUPS,
    HISTORY_GROUP,
    ITEM_COUNTERS,
    RECENT_GROUP,
    SESSION_GROUP,
    TASTE,
)
from schemas.features import DEFINITIONS, LOCK, FeatureError, load, parse, read_lock, recorded_lock, registry
from schemas.features_page import PAGE, page
from schemas.features_row import ALL, LEVELS, ItemRow, RowError, RowKey, row_codec
from schemas.interaction import Interaction
from tests.fakes import MINUTE, NOW, event
from udfs.logic.item_counts import ItemCounts

TEXT, LOCKED = DEFINITIONS.read_text(), LOCK.read_text()
ONE = """
[[feature]]
name = "clicks_1h"
version = 1
entity = "item"
type = "u32"
shape = []
made_by = "item-aggregates"
sources = ["click"]
window = "1h"
ttl = "1h"
default = 0
owner = "ranking"
description = "Clicks in the last hour."
"""
SMALL = "item_row = 1\n" + ONE


def refusal(definitions: str, lock: str | None = None) -> str:
    with pytest.raises(FeatureError) as refused:
        parse(definitions) if lock is None else load(definitions, lock)
    return str(refused.value)


def test_the_committed_files_agree() -> None:
    """Contract: lock and page are what `python -m schemas.features_page` writes."""
    assert recorded_lock(registry(), LOCKED) == LOCKED
    assert page(registry()) == PAGE.read_text()


def test_models_read_the_versions_that_are_defined() -> None:
    """A bundle names versions of groups of features (models.featurise): the registry has the same."""
    of_items = [one for one in registry().of("user_item") if one.name not in TASTE]
    assert {one.version for one in of_items} == {FEATURE_VERSIONS["counters"]}
    assert {one.version for one in registry().of("context")} == {FEATURE_VERSIONS["calendar"]}
    assert {one.version for one in registry().of("user")} == {FEATURE_VERSIONS["tokens"]}
    assert len(of_items) == COUNTERS
    assert [registry().get(name).version for name in TASTE] == [FEATURE_VERSIONS["taste"]]
    recent = [registry().get(name) for name in RECENT_GROUP]
    assert {one.version for one in recent} == {FEATURE_VERSIONS["recent_groups"]}
    groups = [one for one in registry().of("user_group") if one not in recent]
    assert {one.version for one in groups} == {FEATURE_VERSIONS["groups"]}
    assert [one.name for one in groups] == [*SESSION_GROUP, *HISTORY_GROUP, "price_gap"]
    assert len(groups) == GROUPS
    for name in ITEM_COUNTERS:  # ratios, which are 1 where nothing is known: their logarithm is 0
        assert (registry().get(name).version, registry().get(name).default) == (FEATURE_VERSIONS["item_counters"], 1.0)


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(FeatureError, match="no feature click_2h: did you mean clicks_2h"):
        registry().get("click_2h")
    with pytest.raises(FeatureError, match="riffle features list"):
        registry().get("zzz")
    with pytest.raises(FeatureError, match="no version 9, only 1"):
        registry().get("clicks_2h", 9)


def test_a_type_that_code_does_not_expect_is_refused() -> None:
    registry().require({"clicks_2h": "u32", "ctr_28d": "f32"}, "the ranker")
    with pytest.raises(FeatureError, match="the ranker uses clicks_2h as f32, but clicks_2h@1 is u32"):
        registry().require({"clicks_2h": "f32"}, "the ranker")


def test_a_name_cannot_be_defined_twice() -> None:
    assert "clicks_1h@1 is defined twice" in refusal(SMALL + ONE)


def test_two_versions_live_side_by_side() -> None:
    both = parse(SMALL + ONE.replace("version = 1", "version = 2"))
    assert both.get("clicks_1h").version == 2
    assert both.get("clicks_1h", 1).version == 1
    assert [one.id for one in both.item_columns()] == ["clicks_1h@1", "clicks_1h@2"]


def test_a_changed_definition_needs_a_new_version() -> None:
    lock = recorded_lock(parse(SMALL), "")
    assert "definition of clicks_1h@1 changed" in refusal(SMALL.replace('["click"]', '["click", "view"]'), lock)
    with pytest.raises(FeatureError, match="add the new one as version 2"):
        recorded_lock(parse(SMALL.replace("default = 0", "default = 1")), lock)


def test_owner_and_description_may_change() -> None:
    lock = recorded_lock(parse(SMALL), "")
    load(SMALL.replace('"ranking"', '"growth"').replace("Clicks in", "All clicks in"), lock)


def test_what_is_not_recorded_is_refused() -> None:
    assert "clicks_1h@1 is not in features.lock: record it with `python -m" in refusal(SMALL, "")


def test_changed_columns_of_the_row_need_a_new_row_version() -> None:
    lock = recorded_lock(parse(SMALL), "")
    more = SMALL + ONE.replace("clicks_1h", "clicks_30m")
    with pytest.raises(FeatureError, match="set item_row = 2"):
        recorded_lock(parse(more), lock)
    stepped = more.replace("item_row = 1", "item_row = 2")
    assert set(read_lock(lock)) < set(read_lock(recorded_lock(parse(stepped), lock)))


def test_a_retired_version_cannot_come_back_as_something_else() -> None:
    lock = recorded_lock(parse(SMALL), "")
    without = recorded_lock(parse("item_row = 2\nfeature = []"), lock)
    assert "clicks_1h@1" in read_lock(without)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (("default = 0", "default = 0.5"), "has the type u32, but the default 0.5"),
        (("default = 0", "default = -1"), "the default -1"),
        (('"u32"', '"u64"'), "feature clicks_1h, field type"),
        (('"u32"', '"f32"'), "the default 0"),
        (("shape = []", "shape = [2]"), "single u32"),
        (('window = "1h"', 'window = "1 hour"'), "the window '1 hour'"),
        (('ttl = "1h"', 'ttl = "long"'), 'give a time such as "28d", or "ever"'),
        (('["click"]', '["clicked"]'), "names the source clicked"),
        (('owner = "ranking"', ""), "missing required field `owner`"),
        (("[[feature]]", "[[feature"), "is not TOML"),
        (('"clicks_1h"', '"Clicks"'), "field name"),
    ],
)
def test_a_wrong_definition_is_refused_with_its_name_and_place(change: tuple[str, str], sentence: str) -> None:
    assert sentence in refusal(SMALL.replace(*change))


def test_a_damaged_lock_is_named_by_line() -> None:
    assert "features.lock, line 1" in refusal(SMALL, "clicks_1h@1 zz")


# ── rows ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

CODEC = row_codec()
NAMES = st.one_of(st.none(), st.text(min_size=1, max_size=32).filter(lambda text: len(text.encode()) < 128))
ROWS = st.builds(
    ItemRow,
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**53),
    st.tuples(*[st.integers(0, 2**32 - 1)] * len(CODEC.columns)),
    NAMES,
    NAMES,
)


@given(ROWS)
def test_a_row_comes_back_as_it_was(row: ItemRow) -> None:
    assert CODEC.decode(CODEC.encode(row)) == row


@given(ROWS, st.data())
def test_a_row_that_was_cut_off_is_refused(row: ItemRow, data: st.DataObject) -> None:
    raw = CODEC.encode(row)
    with pytest.raises(RowError):
        CODEC.decode(raw[: data.draw(st.integers(0, len(raw) - 1))])


def test_a_row_of_another_version_is_refused() -> None:
    with pytest.raises(RowError, match=f"version 99; this release reads version {CODEC.version}"):
        CODEC.decode(b"\x63" + bytes(200))


def test_a_count_stops_at_what_fits() -> None:
    row = ItemRow(1, 1, 0, (2**40,) * len(CODEC.columns))
    assert set(CODEC.decode(CODEC.encode(row)).counts) == {2**32 - 1}


@pytest.mark.parametrize("level", LEVELS)
def test_a_record_key_names_version_level_and_name(level: str) -> None:
    key = RowKey(level, "a|b")
    assert CODEC.record_key(key) == f"v{CODEC.version}|{level}|a|b".encode()
    assert CODEC.row_key(CODEC.record_key(key)) == key
    assert CODEC.row_key(b"v99" + CODEC.record_key(key)[2:]) is None


@pytest.mark.parametrize("raw", [None, b"", b"item|x", b"v1|nothing|x", b"v1|item", b"\xff|item|x", b"1|item|x"])
def test_what_is_no_record_key_is_refused(raw: bytes | None) -> None:
    with pytest.raises(RowError):
        CODEC.row_key(raw)


def test_everything_is_one_row() -> None:
    assert CODEC.row_key(CODEC.record_key(ALL)) == ALL


def test_a_feature_is_added_as_the_page_says() -> None:
    """Contract: the five minutes of docs/features.md: its block, the row's version stepped, recorded; and it counts."""
    page = (DEFINITIONS.parents[1] / "docs" / "features.md").read_text()
    block = textwrap.dedent(re.search(r"```toml\n(.*?)```", page, re.S)[1])  # type: ignore[index]
    block = block.replace("clicks_1h", "clicks_1h_anew")  # who follows the page has it by now
    before = DEFINITIONS.read_text()
    changed = before.replace(f"item_row = {registry().item_row}", f"item_row = {registry().item_row + 1}") + block
    with pytest.raises(FeatureError, match="record it with"):
        load(changed, LOCK.read_text())
    loaded = load(changed, recorded_lock(parse(changed), LOCK.read_text()))
    counts, place = ItemCounts(loaded), [one.name for one in loaded.item_columns()].index("clicks_1h_anew")
    for number, ago_ms in enumerate((10 * MINUTE, 50 * MINUTE, 70 * MINUTE)):
        made = event("click", "a", event_id=f"e{number}", ts_ms=NOW - ago_ms)
        counts.take(Interaction("u:alice", number, 1, made, NOW - ago_ms, 0, number, NOW))
    counts.advance(NOW)
    assert counts.counts_as_of(RowKey("item", "a"), NOW)[place] == 2
