"""The blob of a user: exact, small, readable for ever."""

from __future__ import annotations

import json
import random
from array import array
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.keys import id_hash
from schemas.user_state import (
    ACTIONS,
    COUNTED,
    DWELL_BUCKETS_MS,
    HISTORY_CAP,
    IDS_CAP,
    NOT_APPLIED_CAP,
    SEEN_CAP,
    SESSION_CAP,
    VERSION,
    Surface,
    Tail,
    UnknownStateVersion,
    UserState,
    action_code,
    action_name,
    decode,
    dwell_bucket,
    encode,
    seen_hash,
)
from tests.fakes import HOUR, MINUTE, NOW

FIXTURES = Path(__file__).parent.parent / "fixtures"


def told(state: UserState) -> dict[str, Any]:
    """Everything a state holds, by name, as JSON would have it."""
    found = {name: getattr(state, name) for name in UserState.__slots__}
    found["ids"] = [identifier.decode() for identifier in state.ids]
    found["tail"] = msgspec.to_builtins(state.tail)
    for name, value in found.items():
        if isinstance(value, array | bytearray):
            found[name] = list(value)
    return json.loads(json.dumps(found))  # type: ignore[no-any-return]


def long_id(number: int) -> str:
    return f"{number:016d}"


def act(state: UserState, item: str, kind: str, ts_ms: int, *, history: bool = False) -> None:
    slot = state.slot_of(item)
    if kind in COUNTED:
        state.count(slot, COUNTED.index(kind))
    if history:
        state.history_slots.append(slot)
        state.history_actions.append(action_code(kind, None))
        state.history_ts.append(ts_ms // 1000)
    else:
        state.session_slots.append(slot)
        state.session_actions.append(action_code(kind, 7_000))
        state.session_ts.append(ts_ms - state.session_start_ms)


def busy_tail() -> Tail:
    """A tail with all of its usual parts filled."""
    return Tail(
        last_event_id="7f9c2ba4-e88f-4a1f-9c5b-0b2c1e7ad1f3",
        last_event_ts_ms=NOW,
        session_last_ms=NOW,
        offsets=dict.fromkeys(range(2), 123456789),
        surfaces={f"surface-{n}": Surface(NOW, NOW) for n in range(8)},
        sessions={id_hash(f"s{n}"): NOW // 1000 for n in range(8)},
        not_applied=[("duplicate", 3, 123_456_789, f"{id_hash('e'):016x}")] * NOT_APPLIED_CAP,
        hash_hours=[(NOW // HOUR - 1, 32), (NOW // HOUR, 32)],
        emitted_ms=NOW,
        idle_timer_h=NOW // HOUR + 2160,
    )


def full_state() -> UserState:
    """250 distinct ids of 16 bytes, every counter, 64 hashes, 128 items seen, a busy tail."""
    state = UserState()
    state.event_no = state.list_no = 100_000
    state.session_start_ms, state.updated_ms, state.history_no = NOW, NOW, 900
    kinds = list(ACTIONS)
    for n in range(HISTORY_CAP):
        act(state, long_id(n), kinds[n % len(kinds)], NOW - HOUR * (HISTORY_CAP - n), history=True)
    for n in range(SESSION_CAP):
        act(state, long_id(HISTORY_CAP + n), kinds[n % len(kinds)], NOW + n * 1000)
    for slot in range(len(state.ids)):
        for kind in range(len(COUNTED)):
            state.count(slot, kind, 2)
    state.hashes.extend(id_hash(f"e{n}") for n in range(64))
    state.seen.extend(seen_hash(f"i{n}") for n in range(SEEN_CAP))
    state.tail = busy_tail()
    return state


def typical_state() -> UserState:
    """30 actions over 20 distinct ids of 16 bytes, 30 hashes, one device, two surfaces."""
    state = UserState()
    state.event_no, state.list_no, state.history_no, state.updated_ms = 30, 34, 18, NOW
    state.session_start_ms = NOW - 5 * MINUTE
    for n in range(18):
        act(state, long_id(n % 12), "click", NOW - 48 * HOUR + n * MINUTE, history=True)
    for n in range(12):
        act(state, long_id(8 + n), "view", NOW - 5 * MINUTE + n * 1000)
    state.hashes.extend(id_hash(f"e{n}") for n in range(30))
    state.tail = Tail(
        last_event_id="7f9c2ba4-e88f-4a1f-9c5b-0b2c1e7ad1f3",
        last_event_ts_ms=NOW,
        session_last_ms=NOW,
        offsets={3: 123_456_789},
        surfaces={"home": Surface(NOW, NOW), "item": Surface(NOW, NOW)},
        sessions={id_hash("s1"): NOW // 1000, id_hash("s2"): NOW // 1000},
        hash_hours=[(NOW // HOUR - 48, 18), (NOW // HOUR, 12)],
        emitted_ms=NOW,
        idle_timer_h=NOW // HOUR + 2160,
    )
    return state


# ── round trips ──────────────────────────────────────────────────────────────────────────────────────────────────────

_small = st.integers(0, 2**31 - 1)
_surfaces = st.dictionaries(st.text(min_size=1, max_size=8), st.builds(Surface, _small, _small), max_size=8)
_tails = st.builds(
    Tail,
    last_event_id=st.none() | st.text(max_size=20),
    last_event_ts_ms=st.none() | st.integers(0, 2**53),
    session_last_ms=st.integers(0, 2**53),
    offsets=st.dictionaries(_small, st.integers(0, 2**62), max_size=4),
    surfaces=_surfaces,
    sessions=st.dictionaries(st.integers(0, 2**64 - 1), _small, max_size=4),
    merged=st.lists(st.integers(0, 2**64 - 1), max_size=4),
    not_applied=st.lists(st.tuples(st.text(max_size=8), _small, _small, st.none() | st.text(max_size=16)), max_size=4),
    hash_hours=st.lists(st.tuples(_small, _small), max_size=4),
    counter_overflow=st.dictionaries(st.integers(0, 1023), _small, max_size=4),
    alias=st.none() | st.text(max_size=8),
    pending=st.lists(st.text(max_size=8), max_size=3),
    candidates=st.dictionaries(st.text(max_size=8), st.lists(st.text(max_size=8), max_size=3), max_size=3),
    released_ms=st.integers(0, 2**53),
    waiting_since_ms=st.integers(0, 2**53),
)


@st.composite
def states(draw: st.DrawFn) -> UserState:
    state = UserState()
    for name in ("event_no", "list_no", "history_no"):
        setattr(state, name, draw(st.integers(0, 2**32 - 1)))
    state.updated_ms, state.session_start_ms = draw(st.integers(0, 2**53)), draw(st.integers(0, 2**53))
    ids = draw(
        st.lists(
            st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1),
            unique=True,
            max_size=12,
        )
    )
    state.ids = [identifier.encode() for identifier in ids]
    state.nibbles = bytearray(draw(st.binary(min_size=2 * len(ids), max_size=2 * len(ids))))
    if ids:
        slots = st.integers(0, len(ids) - 1)
        for slot, code, ts in draw(
            st.lists(st.tuples(slots, st.integers(0, 255), st.integers(-(2**31), 2**31 - 1)), max_size=SESSION_CAP)
        ):
            state.session_slots.append(slot)
            state.session_actions.append(code)
            state.session_ts.append(ts)
        for slot, code, ts in draw(
            st.lists(st.tuples(slots, st.integers(0, 255), st.integers(0, 2**32 - 1)), max_size=20)
        ):
            state.history_slots.append(slot)
            state.history_actions.append(code)
            state.history_ts.append(ts)
    state.hashes.extend(draw(st.lists(st.integers(0, 2**64 - 1), max_size=20)))
    state.seen.extend(draw(st.lists(st.integers(0, 2**32 - 1), max_size=20)))
    state.tail = draw(_tails)
    return state


@settings(max_examples=60)
@given(states())
def test_a_state_round_trips(state: UserState) -> None:
    assert told(decode(encode(state))) == told(state)


def test_an_empty_state_round_trips() -> None:
    assert told(decode(encode(UserState()))) == told(UserState())


def test_states_do_not_share_what_they_hold() -> None:
    """Contract: defaults are copied; one user's offsets must not show up at another's."""
    one = UserState()
    one.tail.offsets[3] = 1
    one.tail.surfaces["home"] = Surface(1)
    assert told(UserState())["tail"] == msgspec.to_builtins(Tail())


def test_candidates_beyond_64_kb_fit() -> None:
    """Contract: callers may hand in 100 ids of 64 letters on each of eight surfaces; storing the user must not fail."""
    state = UserState()
    state.tail.candidates = {f"surface-{n}": ["鞋" * 60 + f"{m:04d}" for m in range(100)] for n in range(8)}
    assert decode(encode(state)).tail.candidates == state.tail.candidates


# ── sizes ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_full_user_fits_in_8_kb() -> None:
    state = full_state()
    assert len(set(state.ids)) == 250
    assert len(encode(state)) <= 8192


def test_a_typical_user_fits_in_1_1_kb() -> None:
    state = typical_state()
    state.tail.unit = ("s:0190a5de-7c1e-7b6a-9c3e-3f1f6f0b6c11", 0)  # first seen in a session, as most users are
    assert (len(state.session_slots) + len(state.history_slots), len(state.ids)) == (30, 20)
    assert len(encode(state)) <= 1126


# ── versions ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_version_1_bytes_are_read_for_ever() -> None:
    """Contract: the committed bytes were written by release 0.1. Never change them; a new version gets files of its own."""
    found = told(decode((FIXTURES / "user_state_v1.bin").read_bytes()))
    expected = json.loads((FIXTURES / "user_state_v1.json").read_text())
    # Fields that a later release adds to the tail must read as their defaults.
    expected["tail"] += json.loads(json.dumps(msgspec.to_builtins(Tail())))[len(expected["tail"]) :]
    assert found == expected


def test_version_1_has_a_fixture() -> None:
    """Contract: who raises VERSION commits bytes of the old one and of the new one."""
    assert (FIXTURES / f"user_state_v{VERSION}.bin").read_bytes()[0] == VERSION


@pytest.mark.parametrize("version", [0, 2, 255])
def test_another_version_is_refused_in_a_plain_sentence(version: int) -> None:
    blob = bytes([version]) + encode(UserState())[1:]
    with pytest.raises(UnknownStateVersion, match=f"user state has version {version}; this release reads version 1"):
        decode(blob)


# ── counters ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(1, 40)), max_size=40))
def test_counters_are_exact_beyond_a_nibble(raises: list[tuple[int, int, int]]) -> None:
    state, expected = UserState(), Counter[tuple[int, int]]()
    for item, kind, times in raises:
        state.count(state.slot_of(f"i{item}"), kind, times)
        expected[item, kind] += times
    state = decode(encode(state))
    for item in range(4):
        assert state.counts(f"i{item}") == tuple(expected[item, kind] for kind in range(4))


def test_counted_names_only_items_with_counts() -> None:
    state = UserState()
    state.slot_of("bare")
    state.count(state.slot_of("bought"), COUNTED.index("purchase"))
    assert list(state.counted()) == [("bought", (0, 0, 0, 1))]


def test_an_unknown_item_counts_nothing() -> None:
    assert UserState().counts("never-seen") == (0, 0, 0, 0)


# ── the dictionary ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_full_dictionary_gives_up_only_what_no_sequence_names() -> None:
    """Oracle: lists of ids and a dict of counts, on 3,000 random actions over 400 items."""
    rng = random.Random(7)
    state = UserState()
    session: list[str] = []
    history: list[str] = []
    counts: Counter[str] = Counter()
    for _ in range(3_000):
        item = f"item-{rng.randrange(400)}"
        known = {identifier.decode() for identifier in state.ids}
        slot = state.slot_of(item)
        if item not in known:
            counts[item] = 0  # its counters begin anew, also where they had been given up
        state.count(slot, 1, 7)
        counts[item] += 7
        kept, slots, cap = (
            (session, state.session_slots, SESSION_CAP)
            if rng.random() < 0.3
            else (history, state.history_slots, HISTORY_CAP)
        )
        kept.append(item)
        slots.append(slot)
        if len(kept) > cap:
            del kept[0], slots[0]
        assert len(state.ids) <= IDS_CAP
        assert [state.ids[place].decode() for place in state.session_slots] == session
        assert [state.ids[place].decode() for place in state.history_slots] == history
    for item in set(session + history):
        assert state.counts(item)[1] == counts[item]


def test_a_reused_place_starts_at_zero_even_beyond_a_nibble() -> None:
    state = UserState()
    state.count(state.slot_of("old"), 0, 100)
    for n in range(IDS_CAP):
        state.slot_of(f"new-{n}")
    assert state.counts("old") == (0, 0, 0, 0)
    assert all(state.counts(f"new-{n}") == (0, 0, 0, 0) for n in range(IDS_CAP))


# ── codes ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_action_codes_are_what_bundles_were_trained_with() -> None:
    assert list(ACTIONS.values()) == list(range(1, 11))
    assert action_name(action_code("purchase", 5_000)) == "purchase"


@pytest.mark.parametrize(
    ("dwell_ms", "bucket"),
    [(None, 0), (0, 1), (1_999, 1), (2_000, 2), (12_000, 4), (179_999, 6), (180_000, 7), (86_400_000, 7)],
)
def test_dwell_buckets(dwell_ms: int | None, bucket: int) -> None:
    assert len(DWELL_BUCKETS_MS) == 6
    assert dwell_bucket(dwell_ms) == bucket


def test_shown_counts_the_impressions_kept() -> None:
    state = UserState()
    state.seen.extend([seen_hash("a"), seen_hash("b"), seen_hash("a")])
    assert (state.shown("a"), state.shown("b"), state.shown("c")) == (2, 1, 0)
