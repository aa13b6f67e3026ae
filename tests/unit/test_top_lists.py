"""Top lists against a list of everything that happened, their bounds where there is no room, and the encoding of their state."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from udfs.logic.item_aggregates import SLICE_MS, UnknownStateVersion
from udfs.logic.top_lists import (
    LIMITS,
    MIN_WEIGHT,
    Limits,
    ListState,
    apply,
    decode,
    encode,
    fade,
    listed,
    next_fade,
    to_tell,
    window_end_ms,
)

START = 5_890_000  # a slice of 2025
DAY = 288
FIXTURE = Path(__file__).parents[1] / "fixtures" / "top_list_state_v1.bin"
ROOMY, NARROW = Limits(1_000, 1_000, DAY * SLICE_MS), Limits(4, 3, DAY * SLICE_MS)
HAPPENED = st.lists(st.tuples(st.integers(0, 2 * DAY), st.sampled_from("abcdefghij")), min_size=1, max_size=60)


def naive(happened: list[tuple[int, str]], now: int) -> dict[str, float]:
    """The sum over everything that ever happened, a session weighing half after a day."""
    weights: Counter[str] = Counter()
    for slice_no, name in happened:
        weights[name] += 0.5 ** ((now - slice_no) / DAY)  # type: ignore[assignment]
    return dict(weights)


def counted(happened: list[tuple[int, str]], limits: Limits) -> ListState:
    """One at a time, its state stored and read in between, as the operator does."""
    state = ListState()
    for slice_no, name in happened:
        apply(state, limits, START + slice_no, {name: 1})
        state = decode(encode(state))
    return state


@settings(max_examples=150)
@given(HAPPENED, st.randoms(use_true_random=False))
def test_with_room_for_all_weights_are_those_of_everything_that_happened_in_any_order(happened, random) -> None:  # type: ignore[no-untyped-def]
    shuffled = random.sample(happened, len(happened))
    newest = max(slice_no for slice_no, _ in happened)
    wanted = naive(happened, newest)
    for order in (happened, shuffled):
        state = counted(order, ROOMY)
        found = {name: weight for name, (weight, _) in state.held.items()}
        assert found == pytest.approx(wanted, rel=1e-5)
        assert state.total == pytest.approx(sum(wanted.values()), rel=1e-5)
        assert dict(listed(state, ROOMY)) == pytest.approx(
            {name: weight for name, weight in wanted.items() if weight >= MIN_WEIGHT}, rel=1e-3
        )


@settings(max_examples=150)
@given(HAPPENED)
def test_without_room_the_truth_lies_between_what_is_certain_and_what_is_held(happened) -> None:  # type: ignore[no-untyped-def]
    state, wanted = counted(happened, NARROW), naive(happened, max(slice_no for slice_no, _ in happened))
    assert len(state.held) <= NARROW.kept
    for name, truth in wanted.items():
        weight, unsure = state.held.get(name, (state.floor, state.floor))
        assert weight - unsure - 1e-4 <= truth <= weight + 1e-4
    assert all(weight <= wanted[name] + 1e-3 for name, weight in listed(state, NARROW))


def test_a_name_that_is_chosen_often_is_found_among_many_that_are_not() -> None:
    state, limits = ListState(), Limits(20, 10, 7 * DAY * SLICE_MS)
    for number in range(3_000):
        apply(state, limits, START + number // 100, {"often" if number % 10 == 0 else f"once-{number}": 1})
    (first, weight), *_ = listed(state, limits)
    assert first == "often"
    assert weight == pytest.approx(300, rel=0.6)


def test_sums_of_a_bundle_are_as_good_as_one_by_one() -> None:
    together, single = ListState(), ListState()
    apply(together, ROOMY, START, {"a": 3, "b": 2})
    for name in "aabab":
        apply(single, ROOMY, START, {name: 1})
    assert together.held == single.held


def test_equal_weights_are_ordered_by_name() -> None:
    state = ListState()
    apply(state, ROOMY, START, {"b": 2, "c": 3, "a": 2})
    assert [name for name, _ in listed(state, ROOMY)] == ["c", "a", "b"]


def test_only_another_order_or_another_size_is_told() -> None:
    state = ListState()
    assert not to_tell(state, []), "nothing was told, and nothing is"
    apply(state, ROOMY, START, {"a": 4, "b": 3})
    assert to_tell(state, ["a", "b"])
    assert not to_tell(state, ["a", "b"])
    assert to_tell(state, ["b", "a"])
    apply(state, ROOMY, START, {"b": 7})
    assert to_tell(state, ["b", "a"]), "the total has doubled"
    assert to_tell(state, []), "nothing is left of it"
    assert not to_tell(state, [])


def test_time_takes_out_the_last_name_and_then_the_state() -> None:
    """Contract: two timers after the last session nothing is left."""
    state, limits = ListState(), LIMITS["device"]
    apply(state, limits, START, {"a": 6, "b": 3})
    until = next_fade(state, limits)
    assert until == START + 2 * DAY + 1, "6 has become 1.5 after two half-lives"
    fade(state, limits, until - 2)
    assert listed(state, limits)
    fade(state, limits, until)
    assert listed(state, limits) == []
    assert not state.is_empty()
    until = next_fade(state, limits)
    assert until is not None
    fade(state, limits, until)
    assert state.is_empty()
    assert next_fade(state, limits) is None


def test_a_slice_from_before_is_no_step_back() -> None:
    state = ListState()
    apply(state, ROOMY, START + DAY, {"a": 2})
    apply(state, ROOMY, START, {"b": 4})
    assert window_end_ms(state) == (START + DAY + 1) * SLICE_MS
    assert state.held == {"a": (2.0, 0.0), "b": (2.0, 0.0)}


def fixture_state() -> ListState:
    state, limits = ListState(), Limits(3, 2, 7 * DAY * SLICE_MS)
    apply(state, limits, START, {"boot-1": 8, "łódź-7": 4, "lamp-9": 2, "gone": 1})
    apply(state, limits, START + 3, {"new": 3})
    to_tell(state, [name for name, _ in listed(state, limits)])
    state.timer, state.list_no = START + 900, 1_767_268_800_123
    return state


def test_state_written_by_version_1_is_read() -> None:
    """Contract: these bytes were written by the first release; every release reads them."""
    raw = FIXTURE.read_bytes()
    assert encode(decode(raw)) == encode(fixture_state()) == raw


def test_a_state_of_the_future_is_refused_and_a_cut_one_too() -> None:
    with pytest.raises(UnknownStateVersion, match="version 99"):
        decode(b"\x63" + FIXTURE.read_bytes()[1:])
    with pytest.raises(ValueError, match="damaged"):
        decode(FIXTURE.read_bytes() + b"\x00")


def test_the_room_of_a_key_is_bounded() -> None:
    """Contract: docs/features.md states these bytes, for ids of 12 bytes."""
    sizes = {}
    for kind in ("item", "device"):
        state = ListState()
        for number in range(2_000):
            apply(state, LIMITS[kind], START + number, {f"item-{number % 700:07d}": 1})
        sizes[kind] = len(encode(state))
    assert sizes == {"item": 1_447, "device": 5_671}
