"""Beliefs: sums that do not depend on order, LinUCB against the paper's own loop, what a worker makes of the topic."""

from __future__ import annotations

import random
from itertools import product
from typing import Any

import msgspec
import numpy as np
import pytest

from schemas.beliefs import CONTEXT, EVERYBODY, Belief, D, belief_key, decode_belief, encode_belief
from schemas.connections import Connections
from schemas.user_state import UnknownStateVersion, UserState
from tests.fakes import NOW, event
from udfs.beliefs_replica import GROUPED_BY, BeliefsReplica
from udfs.logic.beliefs import HOUR_MS, Moment, Shared, context_of, linucb, moment, segments_of, take
from udfs.logic.sessions import Position, apply_event

HOUR, WEEK_MS = NOW // HOUR_MS, 168 * HOUR_MS


def at(hours: int = 0, device: str | None = "mobile", geo: str | None = "de", **fields: Any) -> Moment:
    return Moment(HOUR + hours, device, geo, **({"channel": None, "is_new": False} | fields))


def believed(*outcomes: tuple[Moment, int, int], half_life_ms: int = WEEK_MS) -> Belief:
    belief = Belief()
    for when, shown, clicked in outcomes:
        take(belief, when, shown, clicked, half_life_ms)
        belief = decode_belief(encode_belief(belief))
    return belief


# ── sums ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("seed", range(20))
def test_against_the_oracle_in_any_order(seed: int) -> None:
    """Contract: every sum is Σ 0.5^(age / half-life), whichever outcome came when."""
    rng = random.Random(seed)
    outcomes = [
        (
            at(rng.randrange(400), rng.choice(["mobile", "desktop", None]), rng.choice(["de", "fr", None])),
            rng.randrange(5),
            rng.randrange(3),
        )
        for _ in range(30)
    ]
    newest = max(when.hour for when, _, _ in outcomes)
    weights = [0.5 ** ((newest - when.hour) / 168) for when, _, _ in outcomes]
    belief = believed(*outcomes)
    for segment in (EVERYBODY, "device:mobile", "geo:fr"):
        of = [
            (weight, shown, clicked)
            for weight, (when, shown, clicked) in zip(weights, outcomes)
            if segment in (EVERYBODY, *segments_of(when).values())
        ]
        wanted = (sum(w * clicked for w, _, clicked in of), sum(w * shown for w, shown, _ in of))
        assert belief.counts.get(segment, (0.0, 0.0)) == pytest.approx(wanted)
    squares = sum(
        w * shown * np.outer(context_of(when), context_of(when)) for w, (when, shown, _) in zip(weights, outcomes)
    )
    rewards = sum(w * clicked * context_of(when) for w, (when, _, clicked) in zip(weights, outcomes))
    np.testing.assert_allclose(np.frombuffer(belief.squares).reshape(D, D), squares, atol=1e-9)
    np.testing.assert_allclose(np.frombuffer(belief.rewards), rewards, atol=1e-9)


def test_a_click_that_comes_late_turns_its_miss_into_a_hit() -> None:
    assert believed((at(), 1, 0), (at(), 0, 1)).counts[EVERYBODY] == (1.0, 1.0)


def test_segments_are_few() -> None:
    """Contract: whoever makes up countries does not fill the state."""
    belief = believed((at(), 9, 0), *[(at(geo=f"g{n}"), 1, 0) for n in range(200)])
    assert len(belief.counts) == 64
    assert belief.counts[EVERYBODY][1] == 209
    assert "device:mobile" in belief.counts


def test_what_cannot_be_read_is_refused() -> None:
    good = believed((at(), 1, 0))
    with pytest.raises(UnknownStateVersion, match="version 9"):
        decode_belief(encode_belief(msgspec.structs.replace(good, version=9)))
    with pytest.raises(msgspec.DecodeError, match="damaged"):
        decode_belief(encode_belief(msgspec.structs.replace(good, squares=b"1234")))


def test_the_context_is_as_it_is_named() -> None:
    """NOW is midnight of a Thursday."""
    found = dict(zip(CONTEXT, context_of(at(2 * 24 + 6, channel="app", is_new=True)).tolist()))
    assert found == pytest.approx(
        {"always": 1, "mobile": 1, "app": 1, "hour_sin": 1, "hour_cos": 0, "weekend": 1, "new_user": 1}
    )
    assert context_of(at(24, device="desktop")).tolist() == pytest.approx([1, 0, 0, 0, 1, 0, 0])


def test_where_a_user_is_was_said_by_the_newest_event() -> None:
    state = UserState()
    for n, (device, ago) in enumerate([("mobile", 5), ("desktop", 0), ("tv", 9)]):
        props = {"context": {"device": device, "geo": "de"}}
        apply_event(state, event("click", ts_ms=NOW - ago, props=props), Position(3, n, NOW))
    assert moment(state, None, NOW) == Moment(HOUR, "desktop", "de", None, True)
    state.event_no = 6
    assert moment(state, event("click", props={"context": {"channel": "app"}}).props.context, NOW) == Moment(
        HOUR, None, None, "app", False
    )
    apply_event(state, event("click", props={"consent": {"personalise": False}}), Position(3, 9, NOW))
    assert moment(state, None, NOW).device is None


# ── LinUCB ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def played(seed: int, steps: int = 300, arms: int = 5, d: int = 4) -> list[tuple[int, Any, int]]:
    rng = np.random.default_rng(seed)
    return [(int(rng.integers(arms)), rng.normal(size=d), int(rng.random() < 0.4)) for _ in range(steps)]


@pytest.mark.parametrize("seed", range(5))
def test_disjoint_is_the_papers_algorithm_1(seed: int) -> None:
    """By Sherman and Morrison's rank-one updates, one outcome after the other."""
    inverses, rewards = np.stack([np.eye(4)] * 5), np.zeros((5, 4))
    squares = np.zeros((5, 4, 4))
    for arm, x, r in played(seed):
        reached = inverses[arm] @ x
        inverses[arm] -= np.outer(reached, reached) / (1 + x @ reached)
        squares[arm] += np.outer(x, x)
        rewards[arm] += r * x
    x = np.random.default_rng(99).normal(size=4)
    wanted = [(x @ inverse @ b, np.sqrt(x @ inverse @ x)) for inverse, b in zip(inverses, rewards)]
    np.testing.assert_allclose(linucb(x, np.linalg.inv(np.eye(4) + squares), rewards, None), wanted, atol=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_hybrid_is_the_papers_algorithm_2(seed: int) -> None:
    """Its loop as it is printed, with the arm's features for those that are shared; ours from sums, in another order."""
    d, k = 4, 4
    a0, b0 = np.eye(k), np.zeros(k)
    a, b_cross, b = np.stack([np.eye(d)] * 5), np.zeros((5, d, k)), np.zeros((5, d))
    for arm, x, r in played(seed):
        inverse = np.linalg.inv(a[arm])
        a0 += b_cross[arm].T @ inverse @ b_cross[arm]
        b0 += b_cross[arm].T @ inverse @ b[arm]
        a[arm] += np.outer(x, x)
        b_cross[arm] += np.outer(x, x)
        b[arm] += r * x
        inverse = np.linalg.inv(a[arm])
        a0 += np.outer(x, x) - b_cross[arm].T @ inverse @ b_cross[arm]
        b0 += r * x - b_cross[arm].T @ inverse @ b[arm]
    x = np.random.default_rng(99).normal(size=4)
    beta, inverse0 = np.linalg.solve(a0, b0), np.linalg.inv(a0)
    wanted = []
    for arm in range(5):
        inverse = np.linalg.inv(a[arm])
        theta = inverse @ (b[arm] - b_cross[arm] @ beta)
        s = x @ inverse0 @ x - 2 * x @ inverse0 @ b_cross[arm].T @ inverse @ x + x @ inverse @ x
        s += x @ inverse @ b_cross[arm] @ inverse0 @ b_cross[arm].T @ inverse @ x
        wanted.append((x @ beta + x @ theta, np.sqrt(s)))
    shared, eye, nothing = Shared(4), np.eye(4), np.zeros(4)
    inverses = np.linalg.inv(a)
    for arm in reversed(range(5)):
        shared.replace((eye, nothing), (inverses[arm] * 0.5, b[arm] * 2))  # and then what it came to be
        shared.replace((inverses[arm] * 0.5, b[arm] * 2), (inverses[arm], b[arm]))
    np.testing.assert_allclose(linucb(x, inverses, b, shared), wanted, atol=1e-9)


# ── the copy in a worker ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def copy() -> BeliefsReplica:
    return BeliefsReplica(Connections(), {"a": ("boots", "shoes"), "b": ("boots", "shoes"), "c": (None, "shoes")}.get)


def say(copy: BeliefsReplica, item: str, belief: Belief | None, surface: str = "home") -> None:
    copy._apply_all([(belief_key(surface, item).encode(), None if belief is None else encode_belief(belief))])


def test_counts_are_of_the_surface_and_the_segment(copy: BeliefsReplica) -> None:
    say(copy, "a|b", believed((at(), 10, 2), (at(device="desktop"), 30, 3)))
    say(copy, "a|b", believed((at(), 100, 50)), "cart")
    items = ["a|b", "unknown"]
    assert copy.exposures("home", None, at(), items).tolist() == [[5, 35], [0, 0]]
    assert copy.exposures("home", "device", at(), items).tolist() == [[2, 8], [0, 0]]
    assert copy.exposures("home", "device", at(device=None), items)[0].tolist() == [5, 35], "unknown: as everybody"
    assert copy.exposures("home", "geo", at(geo="fr"), items).tolist() == [[0, 0], [0, 0]]


def test_counts_fade_while_nothing_happens(copy: BeliefsReplica) -> None:
    say(copy, "a", believed((at(), 10, 2)))
    assert copy.exposures("home", None, at(168), ["a"]).tolist() == [[1, 4]]
    assert copy.exposures("home", None, at(-5), ["a"]).tolist() == [[2, 8]], "a clock that lags makes nothing larger"


@pytest.mark.parametrize("shared", [True, False])
def test_linucb_speaks_for_the_newest_belief_of_each_item(copy: BeliefsReplica, shared: bool) -> None:
    for n in range(1_500):  # the table grows
        say(copy, f"i{n}", believed((at(), 1, 0)))
    good = [(at(h), 4, 4) for h in range(9)]
    say(copy, "a", believed((at(), 50, 0)))
    say(copy, "a", believed(*good))
    say(copy, "gone", believed(*good))
    say(copy, "gone", None)
    fresh = BeliefsReplica(Connections(), lambda _item_id: None)
    for n in range(1_500):
        say(fresh, f"i{n}", believed((at(), 1, 0)))
    say(fresh, "a", believed(*good))
    items = ["a", "gone", "i3", "never"]
    found = copy.linear("home", shared, at(), items)
    np.testing.assert_allclose(found, fresh.linear("home", shared, at(), items), atol=1e-9)
    assert len(copy) == len(fresh) == 1_501
    assert found[0, 0] > found[2, 0]
    assert found[0, 1] < found[2, 1] < found[3, 1]
    np.testing.assert_allclose(found[1], found[3])
    assert copy.linear("elsewhere", shared, at(), ["a"])[0, 0] == 0


@pytest.mark.parametrize("seed", range(10))
def test_a_group_is_believed_what_its_items_are_together(seed: int) -> None:
    """Contract: whatever came, moved, was forgotten or learnt with another half-life on the way, a group's counts are the sum of
    those of the items that are in it now."""
    rng = random.Random(seed)
    items = [f"i{n}" for n in range(8)]
    catalogue: dict[str, tuple[str | None, str | None]] = {}
    copy = BeliefsReplica(Connections(), catalogue.get)
    for step in range(120):
        item, surface = rng.choice(items), rng.choice(["home", "cart"])
        if rng.random() < 0.3:
            catalogue[item] = (rng.choice(["boots", "hats", None]), rng.choice(["shoes", None]))
            copy.items_changed([item])
        elif rng.random() < 0.1:
            say(copy, item, None, surface)
        else:
            when = at(rng.randrange(300), rng.choice(["mobile", "desktop"]))
            half_life_ms = WEEK_MS if step < 80 else 2 * WEEK_MS
            say(copy, item, believed((when, rng.randrange(1, 9), 1), half_life_ms=half_life_ms), surface)
    for surface, segment, (number, by) in product(["home", "cart"], [None, "device"], enumerate(GROUPED_BY)):
        for group in ("boots", "hats", "shoes"):
            members = [item for item in items if catalogue.get(item, (None, None))[number] == group]
            wanted = copy.exposures(surface, segment, at(310), members).sum(axis=0)
            found = copy.of_groups(surface, segment, at(310), by, [group, None, "no such"])
            np.testing.assert_allclose(found, [wanted, [0, 0], [0, 0]], atol=1e-6)


def test_what_is_no_belief_is_skipped_and_counted(copy: BeliefsReplica) -> None:
    copy._apply_all([(b"home|a", b"\xff"), (b"\xff", b""), (None, encode_belief(Belief(version=2)))])
    assert (copy.rejected, len(copy)) == (3, 0)


# ── drift ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def regret_after_change(half_life_h: int, seed: int) -> float:
    """Thompson sampling, one exposure an hour; after 1,500 the best arm is the worst. Regret of the last 1,500 of 3,000."""
    rng = np.random.default_rng(seed)
    means = np.array([0.6, 0.45, 0.3, 0.15])
    arms, regret = [Belief() for _ in means], 0.0
    for hour in range(3_000):
        if hour == 1_500:
            means = means[::-1]
        left = [0.5 ** ((hour * HOUR_MS - one.at_ms) / (half_life_h * HOUR_MS)) for one in arms]
        clicks, shows = np.array([one.counts.get(EVERYBODY, (0.0, 0.0)) for one in arms]).T * left
        arm = int(np.argmax(rng.beta(1 + clicks, 1 + shows - clicks)))
        take(arms[arm], Moment(hour, None, None, None, False), 1, int(rng.random() < means[arm]), half_life_h * HOUR_MS)
        regret += means.max() - means[arm] if hour >= 1_500 else 0.0
    return regret


def test_discounted_thompson_recovers_after_an_abrupt_change() -> None:
    """Regret of the 1,500 steps after it, which is 675 for the arm that was best before."""
    forgetting = [regret_after_change(100, seed) for seed in range(4)]
    remembering = [regret_after_change(10_000_000, seed) for seed in range(4)]
    assert max(forgetting) < 135
    assert max(forgetting) < min(remembering)
