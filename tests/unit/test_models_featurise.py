"""Featurise and vocabulary: what the graphs are fed, against plain reckoning."""

from __future__ import annotations

import math
from array import array

import numpy as np
import pytest

from models.featurise import (
    COUNTERS,
    HISTORY_GROUP,
    HOUR_MS,
    RECENT_GROUP,
    SESSION_GROUP,
    Flags,
    Ints,
    Tastes,
    as_batch,
    calendar,
    counters,
    history_anchor_ms,
    history_sides,
    numbers,
    price_gap,
    session_sides,
    tokens,
)
from models.samples import NOW_MS, sample_states
from models.vocabulary import GLOBAL, Rows, Vocabulary, build_vocabulary, decode_vocabulary, encode_vocabulary
from schemas.items import Item
from schemas.user_state import QUERY_MARK, TARGET_MARK, Sequence, UserState, action_name


def vocabulary() -> Vocabulary:
    return build_vocabulary(
        Item(item_id=f"{sub}-{number}", title=f"{adjective} {noun}", category=category, subcategory=sub, price=10.0)
        for category, sub, noun in (
            ("sports", "running-shoes", "trainers"),
            ("videos", "running", "marathon diary"),
            ("videos", "cooking", "pasta night"),
        )
        for number, adjective in enumerate(("Easy", "Grand"))
    )


def test_rows_are_padding_global_groups_items() -> None:
    found = vocabulary()
    assert found.ids[:4] == ["<padding>", "<global>", "sports", "videos"]
    assert found.ids[4:7] == ["running-shoes", "running", "cooking"]
    assert [found.row(item_id) for item_id in found.data.items] == list(range(7, 13))
    assert found.category_row[found.row("running-0")] == found.ids.index("videos")
    assert found.subcategory_row[found.row("running-0")] == found.ids.index("running")


@pytest.mark.parametrize(
    ("token", "names"),
    [
        (QUERY_MARK + "Best running shoes!", "running-shoes"),
        (QUERY_MARK + "new running", "running"),
        (QUERY_MARK + "pasta", "cooking"),
        (QUERY_MARK + "qwertz", "<global>"),
        (QUERY_MARK + "", "<global>"),
        (TARGET_MARK + "running", "running"),
        (TARGET_MARK + "videos", "videos"),
        (TARGET_MARK + "some-seller", "<global>"),
        ("no-such-item", "<global>"),
    ],
)
def test_what_is_no_known_item_goes_down_the_chain(token: str, names: str) -> None:
    found = vocabulary()
    assert found.ids[found.row(token)] == names


def test_an_unknown_item_takes_the_group_the_shop_describes() -> None:
    found = vocabulary()
    described = {
        "a": ("cooking", "videos"),
        "b": ("unheard-of", "videos"),
        "c": ("unheard-of", None),
        "d": (None, None),
    }
    rows = found.rows(["a", "b", "c", "d", "e", "running-0"], described.get)
    assert [found.ids[row] for row in rows] == ["cooking", "videos", "<global>", "<global>", "<global>", "running-0"]
    assert [found.level(row) for row in rows] == ["subcategory", "category", "global", "global", "global", "item"]


def test_vocabulary_survives_storage() -> None:
    found = vocabulary()
    again = decode_vocabulary(encode_vocabulary(found))
    assert again.data == found.data
    assert again.ids == found.ids


def test_an_empty_sequence_is_one_padding_token_of_length_0() -> None:
    found = tokens(Sequence([], b"", array("q")), NOW_MS, vocabulary())
    assert found.length == 0
    assert found.rows.tolist() == [0]


def test_elapsed_hours_are_against_the_anchor_and_never_negative() -> None:
    sequence = Sequence(
        ["running-0", "gone", "cooking-1"], bytes([2, 0x41, 3]), array("q", [NOW_MS - HOUR_MS, NOW_MS, NOW_MS + 5])
    )
    found = tokens(sequence, NOW_MS, vocabulary())
    assert found.actions.tolist() == [2, 0x41, 3]
    assert found.rows[1] == GLOBAL
    np.testing.assert_allclose(found.log_hours, [np.log(2), 0, 0], rtol=1e-6)


def naive_counters(state: UserState, item_id: str) -> list[float]:
    """Contract: log(1 + n) of UserState.counts and of the session's actions, log(1 + hours) since the last purchase."""
    counts = state.counts(item_id)
    session, history = state.session(), state.history()
    acted = session.item_ids.count(item_id)
    if not acted and not any(counts):
        return [0.0] * COUNTERS
    bought = [
        ts_ms
        for sequence in (history, session)
        for name, action, ts_ms in zip(*sequence)
        if name == item_id and action_name(action) == "purchase"
    ]
    hours = (max(0, NOW_MS - bought[-1]) / HOUR_MS if bought else 90 * 24) if counts[3] or bought else 0
    return [math.log1p(number) for number in (*counts, acted, hours)]


def test_counters_agree_with_the_state() -> None:
    """Beyond the nibble too; unknown items and groups have none."""
    found = vocabulary()
    rows = np.array([*range(1, found.size), found.size - 1], dtype=np.int32)
    for state in sample_states(found, 50):
        got = counters(state, rows, found, NOW_MS)
        for row, values in zip(rows, got):
            wanted = naive_counters(state, found.ids[row]) if found.is_item(int(row)) else [0.0] * COUNTERS
            np.testing.assert_allclose(values, wanted, rtol=1e-5)


def test_counters_of_nobody_and_of_nothing() -> None:
    found = vocabulary()
    assert counters(UserState(), np.array([8], np.int32), found, NOW_MS).tolist() == [[0] * COUNTERS]
    assert counters(UserState(), np.zeros(0, np.int32), found, NOW_MS).shape == (0, COUNTERS)


def naive_groups(rows: Rows, actions: Ints, real: Flags, found: Vocabulary, group: int) -> list[float]:
    """Contract: SESSION_GROUP, then HISTORY_GROUP, of one group and one sequence, token by token."""
    tokens_of = [
        (int(row), int(code) & 15, int(code) >> 4) for row, code, is_real in zip(rows, actions, real) if is_real
    ]
    groups = [int(found.group_row[row]) for row, _, _ in tokens_of]
    here = [token for token, of in zip(tokens_of, groups) if of == group]
    names = [(action_name(kind), dwell) for _, kind, dwell in here]
    searched = [of for (_, kind, _), of in zip(tokens_of, groups) if action_name(kind) == "search"]
    n_named = sum(name in ("search", "follow") for name, _ in names)
    since = next((place for place, of in enumerate(reversed(groups)) if of == group), None)
    session = [
        math.log1p(sum(name == "click" for name, _ in names)),
        math.log1p(sum(name == "view" and dwell >= 4 for name, dwell in names)),
        math.log1p(sum(name == "view" and dwell in (1, 2) for name, dwell in names)),
        math.log1p(n_named),
        math.log1p(sum(name in ("add_to_cart", "purchase", "like") for name, _ in names)),
        len(here) / max(1, len(tokens_of)),
        0.0 if since is None else 1 / (1 + since),
        float(bool(searched) and searched[-1] == group),
    ]
    return [*session, math.log1p(len(here)), len(here) / max(1, len(tokens_of)), math.log1p(n_named)]


def test_groups_agree_with_a_walk_over_the_tokens() -> None:
    """In batches with padding and with gaps, as training has them, and alone, as serving does."""
    found, rng = vocabulary(), np.random.Generator(np.random.PCG64(5))
    level = np.zeros(found.size, np.float32)
    rows = rng.integers(1, found.size, (20, 12)).astype(np.int32)
    actions = rng.integers(1, 11, (20, 12)) | rng.integers(0, 8, (20, 12)) << 4
    real = rng.random((20, 12)) < rng.random((20, 1))
    now, before = session_sides(rows, actions, real, found, level), history_sides(rows, actions, real, found, level)
    session = len(SESSION_GROUP)
    assert now.groups.shape[2] == session + len(RECENT_GROUP)
    assert before.groups.shape[2] == len(HISTORY_GROUP)
    for number in range(20):
        for group in range(2, found.first_item):
            got = [*now.groups[number, group, :session], *before.groups[number, group]]
            np.testing.assert_allclose(
                got, naive_groups(rows[number], actions[number], real[number], found, group), rtol=1e-5
            )
    assert not now.groups[:, :2].any()  # padding, and what is not known at all
    state = list(sample_states(found, 12))[-1]
    alone = tokens(state.session(), NOW_MS, found)
    groups = session_sides(*as_batch(alone), found, level).groups[0]
    assert groups[2:, 5].sum() + (found.group_row[alone.rows] < 2).mean() == pytest.approx(1)


def test_the_last_three_tell_that_the_mind_has_changed() -> None:
    """Shares of a group and of its category in the last three real tokens; gaps are passed over."""
    found = vocabulary()
    shoes, running, cooking = (found.row(f"{sub}-0") for sub in ("running-shoes", "running", "cooking"))
    rows = np.array([[shoes, shoes, running, cooking, shoes, cooking], [shoes, running, 0, 0, 0, 0]], np.int32)
    real = np.array([[1, 1, 1, 1, 0, 1], [1, 1, 0, 0, 0, 0]], bool)
    level = np.zeros(found.size, np.float32)
    groups = session_sides(rows, np.ones((2, 6), np.int64), real, found, level).groups[..., len(SESSION_GROUP) :]
    of = {name: found.ids.index(name) for name in ("running-shoes", "running", "cooking", "videos", "sports")}
    shares = {"running-shoes": (0, 0), "running": (1 / 3, 1), "cooking": (2 / 3, 1), "videos": (0, 1), "sports": (0, 0)}
    for name, wanted in shares.items():
        np.testing.assert_allclose(groups[0, of[name]], wanted, atol=1e-6, err_msg=name)
    np.testing.assert_allclose(groups[1, of["running-shoes"]], (0.5, 0.5))  # a session of two


def test_a_taste_is_a_ridge_regression_on_what_was_acted_on() -> None:
    """Contract: history and session add up to the regression on all their tokens; groups and padding say nothing."""
    found, rng = vocabulary(), np.random.Generator(np.random.PCG64(8))
    factors = rng.standard_normal((found.size, 3)).astype(np.float32)
    factors[: found.first_item] = 0
    tastes = Tastes(
        factors, rng.random(found.size, np.float32), rng.random(128, np.float32), rng.random(128, np.float32)
    )
    state, level = list(sample_states(found, 12))[-1], np.zeros(found.size, np.float32)
    session, history = tokens(state.session(), NOW_MS, found), tokens(state.history(), NOW_MS, found)
    rows = np.arange(1, found.size, dtype=np.int32)
    before = history_sides(*as_batch(history), found, level, tastes)
    got = numbers(state, session, before, rows, found, level, NOW_MS, None, tastes)[:, -1]
    gram, pulls = np.eye(3), np.zeros(3)
    for row, action in [*zip(session.rows, session.actions), *zip(history.rows, history.actions)]:
        gram += tastes.weight[action] * np.outer(factors[row], factors[row])
        pulls += (tastes.pull[action] - tastes.weight[action] * tastes.quality[row]) * factors[row]
    np.testing.assert_allclose(got, factors[rows] @ np.linalg.solve(gram, pulls), rtol=1e-3, atol=1e-5)
    assert not numbers(state, session, None, rows, found, level, NOW_MS)[:, -1].any()  # a bundle without tastes
    nobody = numbers(
        UserState(), tokens(UserState().session(), NOW_MS, found), None, rows, found, level, NOW_MS, None, tastes
    )
    assert not nobody[:, -1].any()


def test_the_price_gap_is_to_the_mean_of_what_was_acted_on() -> None:
    found = vocabulary()
    level = np.linspace(-1, 1, found.size).astype(np.float32)
    rows, codes = np.array([[7, 8, 12, 4]], np.int32), np.array([[1, 2, 3, 7]])  # the search is no price
    sides = session_sides(rows, codes, np.ones((1, 4), bool), found, level)
    mean = level[[7, 8, 12]].mean()
    np.testing.assert_allclose(
        price_gap(sides.prices, level[None, 7:9])[0], np.abs(level[7:9] - mean) * 3 / 6, rtol=1e-5
    )
    assert not price_gap(np.zeros((1, 2), np.float32), level[None, 7:9]).any()


def test_calendar() -> None:
    assert calendar(1_768_938_120_000) == (19, 1, 2)  # Tuesday 2026-01-20, 19:42 UTC
    assert calendar(0) == (0, 3, 0)  # Thursday 1970-01-01


def test_the_anchor_stays_put_for_a_session() -> None:
    state = UserState()
    assert history_anchor_ms(state, 5 * HOUR_MS + 17) == 5 * HOUR_MS
    state.session_start_ms, state.tail.session_last_ms = 1234, 1234
    assert history_anchor_ms(state, 5 * HOUR_MS) == history_anchor_ms(state, 6 * HOUR_MS) == 1234
