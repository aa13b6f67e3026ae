"""The evaluator charges what was shown, and shows a ranker only what it may know."""

from __future__ import annotations

import pytest

from demo.accounting import CtrAccount, list_ctr
from demo.evaluate import Situation, evaluate, evaluate_beside, main, table
from demo.tastes import Memory, meet
from demo.truth import Moment, expected_ctr, optimum, popular
from demo.world import load

NOW_MS = 1_768_938_120_000


def popularity_rank(_situation: Situation) -> list[str]:
    return [load().ids[item] for item in popular().tolist()]


def test_a_popularity_ranker_is_the_popularity_row() -> None:
    shares = evaluate(popularity_rank, visits=8, days=5).shares()
    assert shares["ranked"].ctr == pytest.approx(shares["popularity"].ctr)
    assert shares["optimum"].of_optimum == 1.0
    assert shares["optimum"].of_optimum_se == 0.0


def test_a_ranker_sees_its_own_events_in_order_and_no_future() -> None:
    situations: list[Situation] = []

    def rank(situation: Situation) -> list[str]:
        situations.append(situation)
        times = [event.ts_ms for event in situation.events]
        assert times == sorted(times)
        assert all(ts_ms <= situation.now_ms for ts_ms in times)
        if situation.user_id is None:
            assert all(event.session_id == situation.session_id for event in situation.events)
        return popularity_rank(situation)

    evaluate(rank, visits=12, days=14)
    assert any(situation.user_id is None for situation in situations)
    assert any(len({event.session_id for event in situation.events}) > 3 for situation in situations)
    assert {situation.key[:2] for situation in situations} == {"u:", "s:"}


def test_same_arguments_same_account() -> None:
    assert evaluate(popularity_rank, visits=4, days=5).ctr() == evaluate(popularity_rank, visits=4, days=5).ctr()


def test_list_ctr_is_the_fast_path_and_punishes_repeats_and_strangers() -> None:
    world, shopper = load(), meet(load(), 2)
    now = Moment(NOW_MS, 3, frozenset(), Memory())
    best = optimum(world, shopper, now)
    ids = [world.ids[item] for item in best.tolist()]
    full = expected_ctr(world, shopper, now, best)
    assert list_ctr(world, shopper, now, ids) == pytest.approx(full)
    assert list_ctr(world, shopper, now, [*ids, "beyond-the-tenth"]) == pytest.approx(full)
    first = list_ctr(world, shopper, now, ids[:1])
    assert list_ctr(world, shopper, now, ids[:1] * 10) == pytest.approx(first)
    assert first < list_ctr(world, shopper, now, ["no-such-item", *ids[1:]]) < full
    assert list_ctr(world, shopper, now, []) == 0.0


def test_an_empty_account_is_zeros() -> None:
    assert CtrAccount(load()).ctr() == {"ranked": 0.0, "popularity": 0.0, "optimum": 0.0}


def test_command_line_prints_the_table_and_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--visits", "5"])
    printed = capsys.readouterr().out
    assert "tastes_only" in printed
    assert "of optimum" in printed
    assert table(evaluate(popularity_rank, visits=3, days=2)).count("\n") == 4
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "knows the intent" in capsys.readouterr().out


def test_what_others_would_have_shown_is_charged_on_the_same_moments() -> None:
    """Contract: only the first's lists are shown, so the moments are the first's."""

    def nothing(_situation: Situation) -> list[str]:
        return []

    popular_first, none = evaluate_beside([popularity_rank, nothing], visits=8, days=5)
    assert popular_first.ctr() == evaluate(popularity_rank, visits=8, days=5).ctr()
    assert (none.moments, none.ctr()["ranked"]) == (popular_first.moments, 0.0)
    more, more_se = popular_first.over(none)
    assert more == pytest.approx(popular_first.ctr()["ranked"])
    assert more_se == pytest.approx(popular_first.shares()["ranked"].ctr_se)
    assert popular_first.over(popular_first) == (0.0, 0.0)


def test_accounts_of_other_moments_are_not_compared() -> None:
    with pytest.raises(ValueError, match="different moments"):
        evaluate(popularity_rank, visits=2, days=5).over(evaluate(popularity_rank, visits=3, days=5))
