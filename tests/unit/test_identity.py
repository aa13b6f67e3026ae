"""Joining an anonymous session to its user: once, completely, and not against the user's will."""

from __future__ import annotations

import random

import pytest

from schemas.event import Event
from schemas.identity import Claim, Merge, Release, decode_identity, encode_identity
from schemas.keys import id_hash
from schemas.user_state import HASHES_MAX, HISTORY_CAP, IDS_CAP, SEEN_CAP, SESSION_CAP, UserState, decode, encode
from tests.fakes import DAY, HOUR, MINUTE, NOW, SECOND, event
from udfs.logic import identity
from udfs.logic.identity import ALIAS_MS, alias_of, claim, merge, new_claim, release
from udfs.logic.sessions import MAX_SESSION_MS, Position, SessionSettings, apply_event

SETTINGS = SessionSettings()
CLAIM = Claim("s:s1", "u:alice", NOW)


def state_of(*events: Event) -> UserState:
    state = UserState()
    for one in events:
        apply_event(state, one, Position(3, state.list_no, one.ts_ms), SETTINGS)
    return state


def at(minute: float, item: str = "i1", kind: str = "click", user_id: str | None = None, **props: object) -> Event:
    return event(
        kind,
        item,
        ts_ms=NOW + int(minute * MINUTE),
        user_id=user_id,
        event_id=f"{user_id}-{kind}-{item}-{minute}",
        props=props,
    )


def handed_over(anonymous: UserState, when: Claim = CLAIM) -> Merge:
    found = claim(anonymous, when, NOW)
    assert found is not None
    return found


def merged(user: UserState, anonymous: UserState) -> UserState:
    assert merge(user, handed_over(anonymous), SETTINGS)
    return decode(encode(user))


def items(state: UserState) -> tuple[list[str], list[str]]:
    """Session, history."""
    return state.session().item_ids, state.history().item_ids


# ── merging ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_within_the_gap_both_are_one_session_in_order_of_time() -> None:
    user = merged(
        state_of(at(5, "b", user_id="alice"), at(20, "d", user_id="alice")), state_of(at(0, "a"), at(10, "c"))
    )
    assert items(user) == (["a", "b", "c", "d"], [])
    assert list(user.session().ts_ms) == [NOW + minute * MINUTE for minute in (0, 5, 10, 20)]


def test_beyond_the_gap_the_older_one_is_history() -> None:
    user = merged(state_of(at(60, "b", user_id="alice")), state_of(at(0, "a")))
    assert items(user) == (["b"], ["a"])


def test_an_anonymous_visit_that_is_newer_becomes_the_session() -> None:
    user = merged(state_of(at(0, "a", user_id="alice")), state_of(at(60, "b")))
    assert items(user) == (["b"], ["a"])
    assert (user.session_start_ms, user.tail.session_last_ms) == (NOW + HOUR, NOW + HOUR)


def test_impressions_keep_the_two_together() -> None:
    user = merged(state_of(at(50, "b", user_id="alice")), state_of(at(0, "a"), at(25, "x", "impression")))
    assert items(user) == (["a", "b"], [])


def test_histories_interleave() -> None:
    user = merged(
        state_of(at(0, "a", user_id="alice"), at(120, "c", user_id="alice"), at(300, "z", user_id="alice")),
        state_of(at(60, "b"), at(180, "d"), at(240, "e")),
    )
    assert items(user) == (["z"], ["a", "b", "c", "d", "e"])


def test_a_new_user_takes_the_session_as_it_is() -> None:
    user = merged(UserState(), state_of(at(0, "a"), at(1, "b")))
    assert items(user) == (["a", "b"], [])


def test_merging_the_same_again_changes_nothing() -> None:
    """Contract: idempotent: the record may arrive as often as it likes."""
    user = state_of(at(1, "b", user_id="alice"))
    record = handed_over(state_of(at(0, "a", "view", dwell_ms=6_000)))
    assert merge(user, record, SETTINGS)
    once = encode(user)
    for _ in range(3):
        assert not merge(user, record, SETTINGS)
    user.list_no -= 3
    assert encode(user) == once


def test_two_epochs_of_one_session_are_two_merges() -> None:
    anonymous = state_of(at(0, "a"))
    first = handed_over(anonymous)
    release(anonymous, Release("s:s1", "u:alice", NOW))
    apply_event(anonymous, at(1, "b"), Position(3, 9, NOW), SETTINGS)
    second = handed_over(anonymous, Claim("s:s1", "u:alice", NOW + 2 * MINUTE))
    user = UserState()
    assert merge(user, first, SETTINGS)
    assert merge(user, second, SETTINGS)
    assert items(user) == (["a", "b"], [])


def test_the_order_of_two_merges_does_not_matter() -> None:
    """Contract: sequences, counters and seen items are the same whichever anonymous session comes first."""
    rng = random.Random(11)
    for _ in range(20):
        events = [
            [at(rng.randrange(400), f"i{rng.randrange(30)}") for _ in range(rng.randint(1, 20))] for _ in range(2)
        ]
        both = [
            Merge("u:alice", f"s:s{n}", 0, encode(state_of(*sorted(found, key=lambda one: one.ts_ms))))
            for n, found in enumerate(events)
        ]
        users = []
        for order in (both, both[::-1]):
            user = UserState()
            for record in order:
                merge(user, record, SETTINGS)
            users.append(user)
        one, other = users
        assert sorted(zip(*one.session())) == sorted(zip(*other.session()))
        assert sorted(zip(*one.history())) == sorted(zip(*other.history()))
        assert dict(one.counted()) == dict(other.counted())


def test_counters_are_summed_beyond_a_nibble() -> None:
    user = state_of(*[at(n / 10, "a", user_id="alice") for n in range(12)])
    anonymous = state_of(*[at(n / 10, "a") for n in range(11)], at(2, "b"))
    user = merged(user, anonymous)
    assert (user.counts("a"), user.counts("b")) == ((0, 23, 0, 0), (0, 1, 0, 0))


def test_full_states_merge_into_full_caps() -> None:
    """Contract: the dictionary never grows beyond 256, sequences keep their newest, every blob stays readable."""
    rng = random.Random(5)

    def full(prefix: str, start_ms: int) -> UserState:
        found = [
            event("click", f"{prefix}{n}", ts_ms=start_ms + n * 31 * MINUTE, event_id=f"{prefix}{n}")
            for n in range(210)
        ]
        end_ms = found[-1].ts_ms + 31 * MINUTE
        found += [
            event("click", f"{prefix}s{n}", ts_ms=end_ms + n * SECOND, event_id=f"{prefix}s{n}") for n in range(60)
        ]
        found += [
            event("impression", f"{prefix}{n}", ts_ms=end_ms + MINUTE, event_id=f"{prefix}x{n}") for n in range(300)
        ]
        return state_of(*found)

    user = full("u", NOW)
    for n in range(4):
        record = Merge("u:alice", f"s:s{n}", 0, encode(full(f"a{n}-", NOW + rng.randrange(10 * MINUTE))))
        assert merge(user, record, SETTINGS)
        user = decode(encode(user))
        assert len(user.ids) == len(set(user.ids)) <= IDS_CAP
        assert (len(user.session_slots), len(user.history_slots)) == (SESSION_CAP, HISTORY_CAP)
        assert len(user.seen) == SEEN_CAP
        assert sum(count for _, count in user.tail.hash_hours) == len(user.hashes) <= HASHES_MAX
        assert list(user.session_ts) == sorted(user.session_ts)
        assert list(user.history_ts) == sorted(user.history_ts)


def test_surfaces_stay_few_after_many_merges() -> None:
    user = state_of(at(0, "a", user_id="alice", surface="home"))
    for n in range(5):
        events = [at(k, f"i{n}{k}", surface=f"s{n}-{k}") for k in range(8)]
        merge(user, Merge("u:alice", f"s:s{n}", 0, encode(state_of(*events))), SETTINGS)
    assert len(user.tail.surfaces) <= 8


def test_an_event_that_came_both_ways_is_a_duplicate_after_the_merge() -> None:
    one = at(0, "a")
    user = merged(state_of(at(1, "b", user_id="alice")), state_of(one))
    apply_event(user, one, Position(3, 99, NOW), SETTINGS)
    assert items(user)[0] == ["a", "b"]
    assert user.tail.not_applied[-1][0] == "duplicate"


def test_the_users_own_events_stay_the_newest_that_a_reader_may_ask_for() -> None:
    mine = at(1, "b", user_id="alice")
    user = merged(state_of(mine), state_of(at(0, "a")))
    assert user.hashes[-1] == id_hash(mine.event_id)
    assert user.event_no == 1


def test_the_newer_of_two_last_events_is_the_last() -> None:
    newer = at(10, "a")
    user = merged(state_of(at(1, "b", user_id="alice")), state_of(newer))
    assert (user.tail.last_event_id, user.tail.last_event_ts_ms) == (newer.event_id, newer.ts_ms)


def test_seen_items_come_along() -> None:
    user = merged(state_of(at(1, "b", "impression", user_id="alice")), state_of(at(0, "a", "impression")))
    assert (user.shown("a"), user.shown("b")) == (1, 1)


def test_two_endless_sessions_fit_their_column() -> None:
    user, anonymous = state_of(at(0, "b", user_id="alice")), state_of(at(0, "a"))
    user.tail.session_last_ms = NOW + MAX_SESSION_MS
    user.session_ts[0] = MAX_SESSION_MS
    anonymous.session_start_ms -= MAX_SESSION_MS
    anonymous.tail.session_last_ms = NOW
    assert merged(user, anonymous).tail.session_last_ms == NOW + MAX_SESSION_MS


@pytest.mark.parametrize(
    "blob", [b"", b"\x07", b"\x01", encode(state_of(at(0)))[:40], encode(state_of(at(0), at(1, "i2")))[:-4]]
)
def test_a_state_that_cannot_be_read_leaves_the_user_alone(blob: bytes) -> None:
    """Contract: a record on `identity` from another release, or a damaged one, must not stop the job."""
    user = state_of(at(1, "b", user_id="alice"))
    before = encode(user)
    with pytest.raises(ValueError):
        merge(user, Merge("u:alice", "s:s1", 0, blob), SETTINGS)
    assert encode(user) == before


# ── claims and releases ──────────────────────────────────────────────────────────────────────────────────────────────


def test_a_claim_hands_the_state_over_and_forgets_it() -> None:
    anonymous = state_of(at(0, "a"), at(1, "b", "impression"))
    record = handed_over(anonymous)
    assert (record.key, record.anonymous_key, record.anonymous_epoch) == ("u:alice", "s:s1", 0)
    assert items(decode(record.state)) == (["a"], [])
    assert (items(anonymous), len(anonymous.seen), anonymous.ids) == (([], []), 0, [])


def test_numbers_and_ids_stay_behind() -> None:
    """Contract: what is written about the anonymous key later is still newer, and its copies are still known."""
    anonymous = state_of(at(0, "a"))
    numbers = (anonymous.event_no, anonymous.list_no)
    handed_over(anonymous)
    assert (anonymous.event_no, anonymous.list_no) == (numbers[0], numbers[1] + 1)
    assert len(anonymous.hashes) == 1


def test_a_claim_of_nothing_leaves_an_alias_only() -> None:
    anonymous = UserState()
    assert claim(anonymous, CLAIM, NOW) is None
    assert alias_of(anonymous, NOW) == "u:alice"
    assert anonymous.tail.anonymous_epoch == 0


def test_a_second_claim_hands_nothing_over_twice() -> None:
    anonymous = state_of(at(0, "a"))
    handed_over(anonymous)
    assert claim(anonymous, CLAIM, NOW) is None


@pytest.mark.parametrize(("after_ms", "alias"), [(ALIAS_MS - 1, "u:alice"), (ALIAS_MS, None)])
def test_an_alias_lasts_30_days(after_ms: int, alias: str | None) -> None:
    assert ALIAS_MS == 30 * DAY
    anonymous = UserState()
    claim(anonymous, CLAIM, NOW)
    assert alias_of(anonymous, NOW + after_ms) == alias


def test_a_release_ends_the_alias() -> None:
    anonymous = UserState()
    claim(anonymous, CLAIM, NOW)
    release(anonymous, Release("s:s1", "u:alice", NOW + 1))
    assert alias_of(anonymous, NOW + 2) is None


def test_a_release_by_somebody_else_does_not() -> None:
    anonymous = UserState()
    claim(anonymous, CLAIM, NOW)
    release(anonymous, Release("s:s1", "u:bob", NOW + 1))
    assert alias_of(anonymous, NOW + 2) == "u:alice"


def test_an_event_from_before_the_logout_does_not_claim_again() -> None:
    """Contract: after a logout the device may be somebody else's; a straggler must not give it back."""
    anonymous = UserState()
    claim(anonymous, CLAIM, NOW)
    release(anonymous, Release("s:s1", "u:alice", NOW + 10))
    apply_event(anonymous, at(1, "stranger"), Position(3, 1, NOW), SETTINGS)
    assert claim(anonymous, Claim("s:s1", "u:alice", NOW + 5), NOW + 20) is None
    assert alias_of(anonymous, NOW + 20) is None
    assert items(anonymous) == (["stranger"], [])


def test_a_new_login_after_the_logout_claims_a_new_epoch() -> None:
    anonymous = state_of(at(0, "a"))
    handed_over(anonymous)
    release(anonymous, Release("s:s1", "u:alice", NOW + 10))
    apply_event(anonymous, at(1, "b"), Position(3, 1, NOW), SETTINGS)
    record = claim(anonymous, Claim("s:s1", "u:alice", NOW + 11), NOW + 20)
    assert record is not None
    assert record.anonymous_epoch == 1
    assert items(decode(record.state)) == (["b"], [])


def test_a_second_user_takes_the_session_over() -> None:
    """Contract: what came before the first login is the first user's; the alias is the second's from now on."""
    anonymous = state_of(at(0, "a"))
    first = handed_over(anonymous)
    assert claim(anonymous, Claim("s:s1", "u:bob", NOW + 1), NOW + 1) is None
    assert alias_of(anonymous, NOW + 2) == "u:bob"
    assert first.key == "u:alice"


def test_a_claim_is_addressed_to_the_anonymous_key() -> None:
    assert new_claim("alice", "s1", NOW) == CLAIM


@pytest.mark.parametrize("record", [CLAIM, Merge("u:alice", "s:s1", 2, b"\x00\xff"), Release("s:s1", "u:alice", 1)])
def test_identity_records_round_trip(record: Claim | Merge | Release) -> None:
    assert decode_identity(encode_identity(record)) == record


def test_merged_sessions_are_remembered_up_to_a_cap() -> None:
    user = UserState()
    for n in range(identity._MERGED_CAP + 5):
        merge(user, Merge("u:alice", f"s:s{n}", 0, encode(state_of(at(n, f"i{n}")))), SETTINGS)
    assert len(user.tail.merged) == identity._MERGED_CAP
