"""Sliding counters against a list of everything that happened, and the encoding of their state."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.features import FeatureError, parse, registry
from tests.unit.test_features import SMALL
from udfs.logic.item_aggregates import (
    ACTIONS,
    DAY_SLICES,
    DAYS,
    SLICE_MS,
    SLICES,
    AggregateState,
    Column,
    UnknownStateVersion,
    advance,
    apply,
    columns_of,
    decode,
    encode,
    next_change,
    row_counts,
    window_end_ms,
)

COLUMNS = columns_of(registry())
START = 5_890_000  # a slice of 2025, 112 slices into its day
FIXTURE = Path(__file__).parents[1] / "fixtures" / "aggregate_state_v1.bin"
COUNTS = st.lists(st.integers(0, 5), min_size=len(ACTIONS), max_size=len(ACTIONS))
# A delta at a slice (near the newest, or days away), or time that passes without one.
STEPS = st.lists(
    st.tuples(st.one_of(st.integers(-30, 60), st.integers(-40 * DAY_SLICES, 40 * DAY_SLICES)), st.none() | COUNTS),
    max_size=25,
)


def naive(happened: list[tuple[int, list[int]]], end: int) -> list[int]:
    """Each column of the registry by its definition: window and sources, over everything that ever happened."""
    found = []
    for one in registry().item_columns():
        assert one.window_ms is not None
        if one.window.endswith("d"):
            inside = [
                counts
                for slice_no, counts in happened
                if 0 <= end // DAY_SLICES - slice_no // DAY_SLICES < one.window_ms // 86_400_000
            ]
        else:
            inside = [counts for slice_no, counts in happened if 0 <= end - slice_no < one.window_ms // SLICE_MS]
        found.append(sum(counts[ACTIONS.index(source)] for counts in inside for source in one.sources))
    return found


@settings(max_examples=200)
@given(STEPS)
def test_counters_are_what_a_list_of_everything_says(steps: list[tuple[int, list[int] | None]]) -> None:
    """Contract: in whatever order deltas come, and through the encoding at every step."""
    state, happened, newest = AggregateState(), list[tuple[int, list[int]]](), 0
    for offset, counts in steps:
        slice_no = START + offset
        newest = max(newest, slice_no)
        row_counts(state, COLUMNS)  # as the operator does: what is remembered of it must not outlive a change
        if counts is None:
            advance(state, slice_no)
        else:
            apply(state, slice_no, counts)
            happened.append((slice_no, counts))
        assert list(row_counts(state, COLUMNS)) == naive(happened, newest)
        state = decode(encode(state))
        assert list(row_counts(state, COLUMNS)) == naive(happened, newest)
        assert len(state.slices) <= SLICES and len(state.days) <= DAYS


@settings(max_examples=200)
@given(STEPS)
def test_counters_change_with_time_exactly_where_foretold(steps: list[tuple[int, list[int] | None]]) -> None:
    """Contract: until `next_change` the counters stay, so that one timer is enough; after the last nothing is left."""
    state, clicks, carts = AggregateState(), ACTIONS.index("click"), ACTIONS.index("add_to_cart")
    # Shorter windows than the state holds, as the page on features adds them.
    columns = (*COLUMNS, Column(False, 12, (clicks,)), Column(True, 7, (clicks, carts)), Column(True, 1, (carts,)))
    for offset, counts in steps:
        if counts is not None:
            apply(state, START + offset, counts)
    while (change := next_change(state, columns)) is not None:
        before = row_counts(state, columns)
        advance(state, change - 1)
        assert row_counts(state, columns) == before
        advance(state, change)
        assert row_counts(state, columns) != before
    assert state.is_empty()
    assert not any(row_counts(state, columns))


def counts_of(**given_counts: int) -> list[int]:
    return [given_counts.get(action, 0) for action in ACTIONS]


def column(name: str, state: AggregateState) -> int:
    return dict(zip([one.name for one in registry().item_columns()], row_counts(state, COLUMNS)))[name]


def test_a_late_slice_corrects_both_windows_while_it_lies_in_them() -> None:
    state = AggregateState()
    apply(state, START, counts_of(click=1))
    apply(state, START - SLICES + 1, counts_of(click=10))
    apply(state, START - SLICES, counts_of(click=100))
    assert column("clicks_2h", state) == 11
    assert column("clicks_28d", state) == 111
    assert window_end_ms(state) == (START + 1) * SLICE_MS


def test_an_item_of_the_catalogue_is_not_forgotten_with_its_counts() -> None:
    state = AggregateState()
    state.known, state.subcategory, state.category = True, "boots", "shoes"
    assert not state.is_empty()
    again = decode(encode(state))
    assert (again.known, again.subcategory, again.category) == (True, "boots", "shoes")


def test_the_size_of_state() -> None:
    """An item with clicks and impressions in a quarter of its slices takes 330 bytes; a full one under 2.3 KB."""
    quiet, full = AggregateState(), AggregateState()
    for back in range(28):
        if back % 4 == 0:
            apply(quiet, START - back * DAY_SLICES, counts_of(impression=40, click=2))
            apply(quiet, START - back, counts_of(impression=40, click=2))
        apply(full, START - back * DAY_SLICES, [1] * len(ACTIONS))
        apply(full, START - back, [1] * len(ACTIONS))
    assert len(encode(quiet)) <= 330
    assert len(encode(full)) <= 2_300


def fixture_state() -> AggregateState:
    state = AggregateState()
    for offset in (-300, -23, -5, 0):
        apply(state, START + offset, counts_of(impression=70_000, click=2, hide=1))
    apply(state, START - 3, counts_of(purchase=1))
    state.row_no, state.timer, state.known = 1_767_225_600_000, START + 1, True
    state.subcategory, state.category = "trail-running", "shoes"
    return state


def test_state_of_version_1_is_readable() -> None:
    """Contract: the committed bytes are what releases wrote; if this fails, state on disk cannot be read any more."""
    assert encode(decode(FIXTURE.read_bytes())) == encode(fixture_state()) == FIXTURE.read_bytes()


def test_state_of_another_version_is_refused() -> None:
    with pytest.raises(UnknownStateVersion, match="version 9; this release reads version 1"):
        decode(b"\x09" + FIXTURE.read_bytes()[1:])


def test_damaged_state_is_refused() -> None:
    with pytest.raises(ValueError, match="damaged"):
        decode(FIXTURE.read_bytes() + b"x")


@pytest.mark.parametrize(("window", "length"), [("5m", 1), ("1h", 12), ("2h", 24), ("1d", 1), ("28d", 28)])
def test_a_column_counts_its_window(window: str, length: int) -> None:
    (found,) = columns_of(parse(SMALL.replace('window = "1h"', f'window = "{window}"')))
    assert (found.length, found.in_days) == (length, window.endswith("d"))


@pytest.mark.parametrize("window", ["7m", "3h", "29d", "25h"])
def test_a_window_that_slices_cannot_hold_is_refused(window: str) -> None:
    with pytest.raises(FeatureError, match=f"window {window}, which item-aggregates cannot count: give a multiple"):
        columns_of(parse(SMALL.replace('window = "1h"', f'window = "{window}"')))


@pytest.mark.parametrize("sources", ['["search"]', "[]"])
def test_an_action_that_is_not_counted_is_refused(sources: str) -> None:
    with pytest.raises(FeatureError, match="item-aggregates counts impression, click"):
        columns_of(parse(SMALL.replace('["click"]', sources)))
