"""What one event does to a user: the stream's algorithm against a naive oracle, and the laws it must keep."""

from __future__ import annotations

import random
from collections import Counter, deque
from typing import Any, NamedTuple

import pytest

from schemas.event import Event, Impression
from schemas.keys import id_hash
from schemas.user_state import (
    COUNTED,
    HASHES_MAX,
    HASHES_MIN,
    HISTORY_CAP,
    NOT_APPLIED_CAP,
    RECENT,
    SEEN_CAP,
    SESSION_CAP,
    UserState,
    action_name,
    decode,
    encode,
    seen_hash,
)
from tests.fakes import DAY, HOUR, MINUTE, NOW, SECOND, event
from udfs.logic.sessions import (
    DUPLICATE,
    LATE,
    MAX_SESSION_MS,
    Applied,
    Dropped,
    Position,
    SessionSettings,
    apply_event,
    freshness,
    tokens_of,
    touch_surface,
)

SETTINGS = SessionSettings()


class Arrival(NamedTuple):
    event: Event
    at: Position


class Told(NamedTuple):
    """A user's sequences, as ids and type names, in order."""

    session: list[tuple[int, str, str]]
    history: list[tuple[int, str, str]]


def told(state: UserState) -> Told:
    session, history = state.session(), state.history()
    return Told(
        [(ts_ms, item, action_name(code)) for item, code, ts_ms in zip(*session)],
        [(ts_ms, item, action_name(code)) for item, code, ts_ms in zip(*history)],
    )


def feed(state: UserState, kind: str = "click", ts_ms: int = NOW, item: str = "i1", **fields: Any) -> Applied | Dropped:
    """Apply one event that was appended at its own time, unless `append_ms` says otherwise."""
    append_ms, offset = fields.pop("append_ms", ts_ms), fields.pop("offset", state.list_no + 1)
    return apply_event(state, event(kind, item, ts_ms=ts_ms, **fields), Position(3, offset, append_ms), SETTINGS)


# ── the oracle ───────────────────────────────────────────────────────────────────────────────────────────────────────


def naive(arrivals: list[Arrival]) -> tuple[Told, Counter[tuple[str, str]], int]:
    """Drop copies and latecomers, sort by time, split at gaps; the last part is the session, the rest is the history."""
    kept: list[tuple[int, Event]] = []
    known: set[str] = set()
    for one, at in arrivals:
        ts_ms = min(one.ts_ms, at.append_ms + SETTINGS.future_tolerance_ms)
        if one.event_id not in known and at.append_ms - ts_ms <= SETTINGS.lateness_ms:
            known.add(one.event_id)
            kept.append((ts_ms, one))
    kept.sort(key=lambda found: found[0])
    parts: list[list[tuple[int, str, str]]] = [[]]
    for place, (ts_ms, one) in enumerate(kept):
        if place and ts_ms - kept[place - 1][0] > SETTINGS.gap_ms:
            parts.append([])
        parts[-1] += [(ts_ms, item, one.event_type) for item, _ in tokens_of(one)]
    history = [action for part in parts[:-1] for action in part]
    counts = Counter((item, kind) for part in parts for _, item, kind in part if kind in COUNTED)
    return Told(parts[-1][-SESSION_CAP:], history[-HISTORY_CAP:]), counts, len(kept)


def stream(seed: int) -> list[Arrival]:
    """Visits with gaps between them; their events arrive out of order, some hours later, some twice, some days too late."""
    rng = random.Random(seed)
    sent: list[tuple[int, Event]] = []
    ts_ms = NOW
    for _ in range(rng.randint(1, 12)):
        ts_ms += rng.randrange(2 * HOUR, 30 * HOUR, SECOND)
        for _ in range(rng.randint(1, 40)):
            ts_ms += rng.randrange(0, 3 * MINUTE, SECOND)
            kinds = [
                "click",
                "view",
                "impression",
                "add_to_cart",
                "like",
                "hide",
                "search",
                "follow",
                "scroll",
                "purchase",
                "login",
            ]
            kind = rng.choice(kinds)
            props = {}
            if kind == "purchase":
                props = {"items": [{"item_id": f"i{rng.randrange(20)}"} for _ in range(rng.randint(1, 3))]}
            made = event(kind, f"i{rng.randrange(20)}", ts_ms=ts_ms, props=props)
            delay_ms = rng.choice([0] * 6 + [rng.randrange(10 * MINUTE)] * 3 + [rng.randrange(20 * HOUR)])
            sent.append((ts_ms + delay_ms, made))
            if rng.random() < 0.1:
                sent.append((ts_ms + delay_ms + rng.randrange(10 * HOUR), made))
            if rng.random() < 0.05:
                sent.append((ts_ms + 25 * HOUR + rng.randrange(DAY), event(kind, "too-late", ts_ms=ts_ms, props=props)))
            if rng.random() < 0.05:
                sent.append((ts_ms, event("click", "early", ts_ms=ts_ms + rng.randrange(10 * DAY))))
    sent.sort(key=lambda one: one[0])
    return [Arrival(made, Position(3, offset, append_ms)) for offset, (append_ms, made) in enumerate(sent)]


@pytest.mark.parametrize("seed", range(25))
def test_against_the_oracle(seed: int) -> None:
    arrivals, state = stream(seed), UserState()
    for one, at in arrivals:
        state = decode(encode(state))
        apply_event(state, one, at, SETTINGS)
    expected, counts, applied = naive(arrivals)
    assert told(state) == expected
    assert state.event_no == applied
    for item in {name for name, _ in counts}:
        assert state.counts(item) == tuple(counts[item, kind] for kind in COUNTED)


@pytest.mark.parametrize("seed", range(25, 30))
def test_applying_an_event_twice_is_applying_it_once(seed: int) -> None:
    once, twice = UserState(), UserState()
    for one, at in stream(seed)[:80]:
        apply_event(once, one, at, SETTINGS)
        applied = apply_event(twice, one, at, SETTINGS)
        again = apply_event(twice, one, at, SETTINGS)
        assert isinstance(again, Dropped)
        assert again == applied or again.reason == DUPLICATE
    once.tail.not_applied = twice.tail.not_applied = []
    once.list_no = twice.list_no
    assert encode(once) == encode(twice)


@pytest.mark.parametrize("seed", range(30, 35))
def test_event_no_counts_without_gaps_and_list_no_counts_everything(seed: int) -> None:
    state, numbers = UserState(), []
    for handled, (one, at) in enumerate(stream(seed), 1):
        if isinstance(apply_event(state, one, at, SETTINGS), Applied):
            numbers.append(state.event_no)
        assert state.list_no == handled
    assert numbers == list(range(1, len(numbers) + 1))


@pytest.mark.parametrize("seed", range(35, 40))
def test_history_no_changes_with_the_history_and_only_then(seed: int) -> None:
    """Contract: encodings of the history are cached under this number."""
    state = UserState()
    for one, at in stream(seed):
        before, number = told(state).history, state.history_no
        apply_event(state, one, at, SETTINGS)
        assert (told(state).history != before) == (state.history_no != number)


def test_history_no_stays_when_an_event_older_than_a_full_history_comes() -> None:
    state = UserState()
    for n in range(HISTORY_CAP + 1):
        feed(state, ts_ms=NOW + n * 31 * MINUTE, item=f"i{n}")
    number = state.history_no
    late_ms = NOW + HISTORY_CAP * 31 * MINUTE
    feed(state, ts_ms=NOW - HOUR, append_ms=late_ms)  # too late for its time …
    assert isinstance(feed(state, ts_ms=late_ms - 23 * HOUR, append_ms=late_ms), Applied)  # … but this one is kept
    assert state.history_no == number + 1
    state.history_ts[:] = type(state.history_ts)("I", [late_ms // 1000] * HISTORY_CAP)
    feed(state, ts_ms=late_ms - 22 * HOUR, append_ms=late_ms)
    assert state.history_no == number + 1


# ── sessions ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_session_closes_lazily() -> None:
    """Contract: nothing happens at the end of a session; the next event shows that it is over."""
    state = UserState()
    feed(state, ts_ms=NOW)
    assert told(decode(encode(state))).history == []
    feed(state, ts_ms=NOW + 31 * MINUTE, item="i2")
    assert told(state) == Told([(NOW + 31 * MINUTE, "i2", "click")], [(NOW, "i1", "click")])


@pytest.mark.parametrize(("pause_ms", "closed"), [(30 * MINUTE, False), (30 * MINUTE + 1, True)])
def test_the_gap_is_30_minutes(pause_ms: int, closed: bool) -> None:
    state = UserState()
    feed(state, ts_ms=NOW)
    feed(state, ts_ms=NOW + pause_ms)
    assert bool(state.history_slots) is closed


def test_a_session_spans_devices() -> None:
    state = UserState()
    feed(state, ts_ms=NOW, session_id="phone")
    feed(state, ts_ms=NOW + MINUTE, session_id="laptop")
    assert len(state.session_slots) == 2


@pytest.mark.parametrize("kind", ["impression", "scroll", "login", "logout"])
def test_events_without_tokens_extend_the_session(kind: str) -> None:
    state = UserState()
    feed(state, ts_ms=NOW)
    feed(state, kind, ts_ms=NOW + 25 * MINUTE)
    feed(state, ts_ms=NOW + 50 * MINUTE, item="i2")
    assert [item for _, item, _ in told(state).session] == ["i1", "i2"]


def test_an_event_without_tokens_closes_what_is_over() -> None:
    state = UserState()
    feed(state, ts_ms=NOW)
    feed(state, "impression", ts_ms=NOW + HOUR)
    assert told(state) == Told([], [(NOW, "i1", "click")])


def test_the_session_keeps_its_newest_50() -> None:
    state = UserState()
    for n in range(SESSION_CAP + 7):
        feed(state, ts_ms=NOW + n * SECOND, item=f"i{n}")
    assert [item for _, item, _ in told(state).session] == [f"i{n}" for n in range(7, SESSION_CAP + 7)]
    assert told(state).history == []
    assert state.counts("i0") == (0, 1, 0, 0)


def test_the_history_keeps_its_newest_200() -> None:
    state = UserState()
    for n in range(HISTORY_CAP + 8):
        feed(state, ts_ms=NOW + n * HOUR, item=f"i{n}")
    assert [item for _, item, _ in told(state).history] == [f"i{n}" for n in range(7, HISTORY_CAP + 7)]


def test_a_late_event_of_a_closed_session_takes_its_place_in_the_history() -> None:
    state = UserState()
    feed(state, ts_ms=NOW, item="first")
    feed(state, ts_ms=NOW + 10 * MINUTE, item="third")
    feed(state, ts_ms=NOW + 5 * HOUR, item="now")
    applied = feed(state, ts_ms=NOW + 5 * MINUTE, item="second", append_ms=NOW + 5 * HOUR)
    assert isinstance(applied, Applied)
    assert applied.notes == ["out_of_order", "closed_session"]
    assert [item for _, item, _ in told(state).history] == ["first", "second", "third"]
    assert [item for _, item, _ in told(state).session] == ["now"]


def test_an_event_before_the_first_of_its_session_still_belongs_to_it() -> None:
    state = UserState()
    feed(state, ts_ms=NOW, item="i2")
    feed(state, ts_ms=NOW - 20 * MINUTE, append_ms=NOW, item="i1")
    feed(state, ts_ms=NOW - 40 * MINUTE, append_ms=NOW, item="i0")
    assert [item for _, item, _ in told(decode(encode(state))).session] == ["i0", "i1", "i2"]


def test_a_session_that_never_pauses_ends_when_its_column_is_full() -> None:
    state = UserState()
    feed(state, ts_ms=NOW)
    state.tail.session_last_ms = NOW + MAX_SESSION_MS
    feed(state, ts_ms=NOW + MAX_SESSION_MS + 1, item="i2")
    assert [item for _, item, _ in told(decode(encode(state))).session] == ["i2"]


# ── time ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("age_ms", "late"), [(DAY, False), (DAY + 1, True)])
def test_an_event_is_late_after_24_hours(age_ms: int, late: bool) -> None:
    state = UserState()
    applied = feed(state, ts_ms=NOW - age_ms, append_ms=NOW)
    assert (applied == Dropped(LATE)) is late
    assert state.event_no == (0 if late else 1)


@pytest.mark.parametrize(
    ("ahead_ms", "ts_ms"), [(MINUTE, NOW + MINUTE), (MINUTE + 1, NOW + MINUTE), (2**52, NOW + MINUTE)]
)
def test_a_clock_that_runs_ahead_is_clamped(ahead_ms: int, ts_ms: int) -> None:
    state = UserState()
    applied = feed(state, ts_ms=NOW + ahead_ms, append_ms=NOW)
    assert isinstance(applied, Applied)
    assert (applied.ts_ms, "clamped" in applied.notes) == (ts_ms, ahead_ms > MINUTE)
    assert told(state).session[0][0] == ts_ms


# ── duplicates ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_duplicate_is_known_by_its_id_alone() -> None:
    state = UserState()
    feed(state, event_id="e1", item="i1")
    assert feed(state, "view", event_id="e1", item="i2", ts_ms=NOW + HOUR) == Dropped(DUPLICATE)
    assert [item for _, item, _ in told(state).session] == ["i1"]


@pytest.mark.parametrize("every_ms", [SECOND, 10 * MINUTE, 2 * HOUR, 3 * DAY])
def test_what_is_remembered_covers_lateness_and_64(every_ms: int) -> None:
    """Contract: at least the last 64 ids and all within lateness, up to 512."""
    state, sent = UserState(), list[tuple[int, int]]()
    for n in range(700):
        ts_ms = NOW + n * every_ms
        feed(state, "scroll", ts_ms=ts_ms, event_id=f"d{n}")
        sent.append((ts_ms, id_hash(f"d{n}")))
        if n % 50 == 0 or n > 690:
            within = [known for at_ms, known in sent if at_ms >= ts_ms - DAY]
            expected = max(len(within), min(HASHES_MIN, len(sent)))
            assert len(state.hashes) >= min(expected, HASHES_MAX)
            assert list(state.hashes) == [known for _, known in sent[-len(state.hashes) :]]
            assert sum(count for _, count in state.tail.hash_hours) == len(state.hashes) <= HASHES_MAX


def test_old_ids_are_forgotten_down_to_64() -> None:
    state = UserState()
    for n in range(300):
        feed(state, "scroll", ts_ms=NOW + n * HOUR)
    assert HASHES_MIN <= len(state.hashes) <= HASHES_MIN + 1


def test_ids_given_up_too_early_are_counted() -> None:
    """Contract: overflow of the memory is told, one for each id that could still have come twice."""
    state, dropped = UserState(), 0
    for n in range(HASHES_MAX + 40):
        applied = feed(state, "scroll", ts_ms=NOW + n)
        assert isinstance(applied, Applied)
        dropped += applied.hashes_dropped
    assert dropped == 40


def test_ids_past_lateness_are_given_up_without_being_counted() -> None:
    state = UserState()
    for n in range(HASHES_MIN):
        feed(state, "scroll", ts_ms=NOW + n)
    for n in range(HASHES_MAX):
        applied = feed(state, "scroll", ts_ms=NOW + 3 * DAY + n)
        assert isinstance(applied, Applied)
        assert applied.hashes_dropped == 0


# ── what an event leaves ─────────────────────────────────────────────────────────────────────────────────────────────


def test_a_purchase_of_several_lines_is_several_tokens() -> None:
    state = UserState()
    feed(state, "purchase", props={"items": [{"item_id": "a"}, {"item_id": "b", "quantity": 3}, {"item_id": "a"}]})
    assert [item for _, item, _ in told(state).session] == ["a", "b", "a"]
    assert (state.counts("a"), state.counts("b")) == ((0, 0, 0, 2), (0, 0, 0, 1))


def test_impressions_are_no_tokens_but_seen() -> None:
    state = UserState()
    shown = deque[int](maxlen=SEEN_CAP)
    for n in range(SEEN_CAP + 20):
        feed(state, "impression", item=f"i{n % 90}", ts_ms=NOW + n)
        shown.append(seen_hash(f"i{n % 90}"))
    assert (told(state).session, list(state.seen)) == ([], list(shown))
    assert state.ids == []


@pytest.mark.parametrize(
    ("kind", "fields", "token"),
    [
        ("search", {"props": {"query": "  Trail SHOES "}}, "\x01trail shoes"),
        ("search", {"props": {"query": "ß" * 60}}, "\x01" + "s" * 48),
        ("search", {"props": {"query": " "}}, "\x01"),
        ("follow", {"props": {"target": "running"}}, "\x02running"),
        ("like", {"item": "i9"}, "i9"),
        ("hide", {"item": "i9"}, "i9"),
        ("remove_from_cart", {"item": "i9"}, "i9"),
        ("return", {"props": {"items": [{"item_id": "i9"}]}}, "i9"),
    ],
)
def test_tokens(kind: str, fields: dict[str, Any], token: str) -> None:
    state = UserState()
    feed(state, kind, **fields)
    assert told(decode(encode(state))).session == [(NOW, token, kind)]


def test_dwell_goes_into_the_token() -> None:
    state = UserState()
    feed(state, "view", props={"dwell_ms": 12_000})
    assert state.session_actions[0] >> 4 == 4


def test_surfaces_keep_the_newest_eight() -> None:
    state = UserState()
    for n in range(10):
        feed(state, "scroll", ts_ms=NOW + n, props={"surface": f"s{n}"})
    feed(state, "scroll", ts_ms=NOW, props={"surface": "s9"}, append_ms=NOW + 20)
    assert {name: surface.seen_ms for name, surface in state.tail.surfaces.items()} == {
        f"s{n}": NOW + n for n in range(2, 10)
    }


def test_a_surface_that_makes_room_takes_its_candidates_along() -> None:
    state = UserState()
    for n in range(9):
        touch_surface(state, f"s{n}", NOW + n)
        state.tail.candidates[f"s{n}"] = ["i1"]
    assert set(state.tail.candidates) == set(state.tail.surfaces) == {f"s{n}" for n in range(1, 9)}


@pytest.mark.parametrize(
    ("handed_in_ms", "kept"),
    [(NOW + 10 * MINUTE, False), (NOW + 35 * MINUTE, True)],
)
def test_a_callers_candidates_end_with_the_session(handed_in_ms: int, kept: bool) -> None:
    """Contract: candidates handed in for the visit that an event now opens are kept; those of the visit before are not."""
    state = UserState()
    feed(state, ts_ms=NOW)
    touch_surface(state, "home", handed_in_ms)
    state.tail.candidates["home"] = ["i1"]
    feed(state, ts_ms=NOW + 50 * MINUTE)
    assert ("home" in state.tail.candidates) is kept


def test_a_callers_candidates_outlive_the_events_of_a_session() -> None:
    state = UserState()
    feed(state, ts_ms=NOW)
    touch_surface(state, "home", NOW)
    state.tail.candidates["home"] = ["i1"]
    for n in range(1, 4):
        feed(state, ts_ms=NOW + n * 25 * MINUTE)
    assert state.tail.candidates == {"home": ["i1"]}


def test_a_users_first_event_of_a_session_id_is_told_once() -> None:
    state = UserState()
    found = [feed(state, session_id=name) for name in ("s1", "s1", "s2", "s1")]
    assert [one.new_session_id for one in found if isinstance(one, Applied)] == [True, False, True, False]


def test_an_anonymous_event_has_no_session_to_claim() -> None:
    applied = feed(UserState(), user_id=None)
    assert isinstance(applied, Applied)
    assert not applied.new_session_id


def test_eight_session_ids_are_known() -> None:
    state = UserState()
    for n in range(20):
        feed(state, session_id=f"s{n}", ts_ms=NOW + n * SECOND)
    assert set(state.tail.sessions) == {id_hash(f"s{n}") for n in range(12, 20)}


# ── freshness ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_freshness_names_the_last_16_events_and_the_highest_offsets() -> None:
    state = UserState()
    for n in range(20):
        feed(state, event_id=f"e{n}", ts_ms=NOW + n, offset=n)
    apply_event(state, event(event_id="other"), Position(5, 7, NOW), SETTINGS)
    apply_event(state, event(event_id="older"), Position(5, 2, NOW), SETTINGS)
    found = freshness(state)
    assert found.recent == [f"{id_hash(name):016x}" for name in [*(f"e{n}" for n in range(6, 20)), "other", "older"]]
    assert len(found.recent) == RECENT
    assert found.offsets == {3: 19, 5: 7}
    assert (found.event_no, found.last_event_id) == (22, "older")


def test_freshness_names_what_was_not_applied() -> None:
    state = UserState()
    feed(state, event_id="twice", offset=1)
    feed(state, event_id="twice", offset=2)
    feed(state, event_id="old", ts_ms=NOW - 2 * DAY, append_ms=NOW, offset=3)
    assert [(one.reason, one.partition, one.offset, one.event) for one in freshness(state).not_applied] == [
        (DUPLICATE, 3, 2, f"{id_hash('twice'):016x}"),
        (LATE, 3, 3, f"{id_hash('old'):016x}"),
    ]


def test_traces_of_what_was_not_applied_are_few() -> None:
    state = UserState()
    for offset in range(10):
        feed(state, event_id="same", offset=offset)
    assert [trace[2] for trace in state.tail.not_applied] == list(range(10 - NOT_APPLIED_CAP, 10))


def test_offsets_of_forged_partitions_do_not_pile_up() -> None:
    state = UserState()
    for partition in range(1_000):
        apply_event(state, event(), Position(partition, 1, NOW), SETTINGS)
    assert len(state.tail.offsets) <= 16
    assert state.tail.offsets[999] == 1


def test_every_impression_type_is_covered() -> None:
    """The oracle skips what has no tokens by asking the code itself; this says which types those are."""
    assert tokens_of(event("impression")) == tokens_of(event("scroll")) == tokens_of(event("login")) == []
    assert isinstance(event("impression"), Impression)
