"""Parity of sampled users: what is worked out from a plain list agrees with the state, and does not where one of them is wrong."""

from __future__ import annotations

import random

import pytest

from schemas.interaction import Interaction
from schemas.user_state import UserState
from tests.fakes import HOUR, MINUTE, NOW, event
from udfs.logic import sampled_parity, sessions
from udfs.logic.sampled_parity import LOG_CAP, Log, decode_log, differences, encode_log, follow, samples
from udfs.logic.sessions import DEFAULTS, Applied, Position, apply_event

KINDS = (
    "click",
    "view",
    "add_to_cart",
    "remove_from_cart",
    "purchase",
    "search",
    "follow",
    "like",
    "impression",
    "login",
)


def lived(seed: int, count: int = LOG_CAP) -> tuple[Log, UserState]:
    """Events of one user: gaps of all lengths, some late, some out of order, some as of an earlier session."""
    chance, state, log, now = random.Random(seed), UserState(), None, NOW
    for _ in range(count):
        now += chance.choice((1_000, 1_000, 20_000, 5 * MINUTE, 31 * MINUTE, 3 * HOUR))
        item = f"item-{chance.randrange(30)}"
        kind = chance.choice(KINDS)
        late_ms = chance.choice((0, 0, 0, 2_000, 10 * MINUTE, 45 * MINUTE, 5 * HOUR))
        props = {"order_id": "o", "items": [{"item_id": item}, {"item_id": "item-1"}]} if kind == "purchase" else {}
        one = event(kind, item, ts_ms=now - late_ms, props=props)
        done = apply_event(state, one, Position(0, 0, now))
        assert isinstance(done, Applied)
        log = follow(log, Interaction("u:a", state.event_no, 1, one, done.ts_ms, 0, 0, now))
        assert log is not None
        assert differences(log, state, DEFAULTS.gap_ms) == []
        log = decode_log(encode_log(log))
    assert log is not None
    return log, state


@pytest.mark.parametrize("seed", range(12))
def test_the_state_is_what_the_list_says_after_every_event(seed: int) -> None:
    """Contract: two ways to the same session and the same counters, with late events and events of closed sessions."""
    lived(seed)


def test_a_wrong_session_and_wrong_counts_are_found() -> None:
    log, state = lived(3, 40)
    state.count(0, 1)
    assert differences(log, state, DEFAULTS.gap_ms) == ["counts"]
    state.session_ts[-1] += 1
    assert differences(log, state, DEFAULTS.gap_ms) == ["session", "counts"]


def test_a_changed_line_of_the_sessions_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Contract: the two ways share no code that could be wrong in both."""
    monkeypatch.setattr(
        sessions, "bisect_right", lambda held, _: len(held)
    )  # events stand where they arrive, not by time
    with pytest.raises(AssertionError, match="session"):
        lived(1)


def numbered(event_no: int) -> Interaction:
    return Interaction("u:a", event_no, 1, event("click", "boot"), NOW, 0, 0, NOW)


def test_a_user_is_followed_from_the_first_event_without_gaps() -> None:
    assert follow(None, numbered(2)) is None
    first = follow(None, numbered(1))
    assert first is not None and first.event_no == 1
    assert follow(first, numbered(3)) is None
    assert follow(first, numbered(1)) == first  # erased, and begun anew


def test_a_user_is_followed_for_a_limited_time() -> None:
    full = Log(LOG_CAP, [(NOW, "click", ["boot"])] * LOG_CAP)
    assert follow(full, numbered(LOG_CAP + 1)) is None


def test_the_sample_is_of_users_and_always_the_same() -> None:
    users = [f"u:user-{number}" for number in range(20_000)]
    assert 40 < sum(map(samples, users)) < 120
    assert not any(samples("s" + user[1:]) for user in users)
    assert sampled_parity.SAMPLE == 256
