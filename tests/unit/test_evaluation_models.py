"""The models of `riffle evaluate` on small made-up data: each learns what it is there for, and looks at nothing later."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from models.baselines.contract import Lists, NextItem, unwatched
from models.baselines.knn import VSKNN, ItemKNN, NeighbourSettings
from models.baselines.orders import AsDisplayed, LastInteracted
from models.baselines.popularity import LastInteracted as LastInSession
from models.baselines.popularity import Popularity
from models.baselines.tuning import TunedVSKNN
from models.evaluation.clickout_features import NAMES, features, popularity
from models.evaluation.clickout_files import ACTIONS, CLICKOUT, Actions, Clickout, Clickouts
from models.evaluation.outcomes import on_sessions
from models.evaluation.ranks import ranks_in_lists, ranks_in_rows
from models.evaluation.session_files import Prefixes, Sessions, Split, prefixes

IMAGE, CLICK = ACTIONS.index("interaction item image"), ACTIONS.index(CLICKOUT)


def sessions(rows: list[list[int]], n_items: int) -> Sessions:
    starts = np.cumsum([0, *map(len, rows)])
    items = np.array([item for row in rows for item in row])
    return Sessions(items, np.arange(len(items), dtype=float) * 60 + 1, starts, n_items)


def cycles(count: int, seed: int, n_items: int = 12) -> Sessions:
    """After item i comes i + 1, from a random start: what a sequence model must find."""
    rng = np.random.default_rng(seed)
    return sessions(
        [[int((at + step) % n_items) for step in range(4)] for at in rng.integers(0, n_items, count)], n_items
    )


def accuracy(model: NextItem, asked: Prefixes) -> float:
    return float((ranks_in_rows(model.score(asked), asked.targets) == 1).mean())


def test_popularity_and_the_last_item() -> None:
    training = sessions([[0, 1], [1, 2], [1, 2]], 4)
    asked = prefixes(sessions([[2, 0, 3]], 4))
    for model, order in ((Popularity(), [1, 2, 0, 3]), (LastInSession(), [0, 2, 1, 3])):
        model.fit(training, unwatched)
        assert np.argsort(-model.score(asked)[1], kind="stable").tolist() == order


def test_vsknn_is_the_naive_one() -> None:
    """Against the formula in loops, on seeded random sessions."""
    rng = np.random.default_rng(3)
    training = sessions([rng.integers(0, 15, rng.integers(1, 7)).tolist() for _ in range(60)], 15)
    settings = NeighbourSettings(neighbours=1000, last=0.7, seen=1.3)
    model = VSKNN(settings)
    model.fit(training, unwatched)
    rows = [training.items[a:b].tolist() for a, b in pairwise(training.starts)]
    for _ in range(10):
        prefix = rng.integers(0, 15, 4)
        now = float(training.times[-1]) + 100
        found = model.found(prefix, now)
        np.testing.assert_allclose(found.scores, naive(rows, training, prefix.tolist(), now, settings)[found.items])


def naive(
    rows: list[list[int]], training: Sessions, prefix: list[int], now: float, with_: NeighbourSettings
) -> np.ndarray:
    back = {item: prefix[::-1].index(item) for item in prefix}
    scores = np.zeros(training.n_items)
    for number, row in enumerate(rows):
        shared = set(row) & set(prefix)
        if not shared:
            continue
        alike = sum(np.exp(-back[item] / with_.position_decay) for item in shared) / len(set(row)) ** with_.length_power
        age_days = (now - training.times[training.starts[number]]) / 86_400
        newest = min(shared, key=lambda item: back[item])
        weight = alike * np.exp(-age_days / with_.age_decay_days - back[newest] / with_.match_decay)
        anchor = len(row) - 1 - row[::-1].index(newest)
        for place, item in enumerate(row):
            away = place - anchor
            scores[item] += weight * np.exp(-abs(away) / with_.distance_decay) * (1 if away >= 0 else with_.before)
    for item in range(training.n_items):
        held = sum(item in row for row in rows)
        scores[item] *= max(np.log((1 + len(rows)) / (1 + held)), 1e-3) ** with_.idf_power
        scores[item] *= with_.last if item == prefix[-1] else with_.seen if item in prefix else 1
    return scores


def test_neighbours_follow_what_came_next() -> None:
    training, asked = cycles(60, 0), prefixes(cycles(10, 1))
    for model in (ItemKNN(), TunedVSKNN()):
        model.fit(training, unwatched)
        assert accuracy(model, asked) == 1.0, model


def test_an_item_without_neighbours_falls_back_on_popularity() -> None:
    training = sessions([[0, 1], [1, 2], [3]], 4)
    asked = prefixes(sessions([[3, 0]], 4))
    for model in (VSKNN(), ItemKNN()):
        model.fit(training, unwatched)
        assert np.isfinite(model.score(asked)).all()


@pytest.mark.parametrize("name", ["gru4rec", "sasrec", "dual_sequence"])
def test_sequence_models_find_what_comes_next(name: str) -> None:
    pytest.importorskip("torch", reason="needs the extra `train`")
    from models.baselines.gru4rec import GRU4Rec
    from models.baselines.sasrec import SASRec
    from models.baselines.sequence import SequenceSettings
    from models.dual.next_item import DualSequence
    from models.dual.ranker import DualSettings

    small = SequenceSettings(dim=16, dropout=0.0, item_dropout=0.0, epochs=8, learning_rate=0.02, batch=16)
    model: NextItem = {
        "gru4rec": lambda: GRU4Rec(small),
        "sasrec": lambda: SASRec(small),
        "dual_sequence": lambda: DualSequence(DualSettings(dim=8, bins=4, members=2, epochs=3, batch=16)),
    }[name]()
    training, asked = cycles(100, 0), prefixes(cycles(10, 1))
    model.fit(training, unwatched)
    scores = model.score(asked)
    assert scores.shape == (len(asked), training.n_items)
    assert accuracy(model, asked) > 0.9
    # Contract: a prefix's scores do not depend on what it is asked together with.
    np.testing.assert_allclose(model.score(asked.part(slice(3, 4)))[0], scores[3], atol=1e-3)


def test_own_items_weigh_what_training_says() -> None:
    """Contract: nothing where nobody comes back; else the softmax among N items gives them the share that came back."""
    pytest.importorskip("torch", reason="needs the extra `train`")
    from models.baselines.sequence import own_weight

    assert own_weight(sessions([[0, 1], [1, 2]], 3)) == 0.0
    assert own_weight(sessions([[0, 0], [1, 2], [3, 4, 3]], 50)) == pytest.approx(np.log(50 * 2 / 2))


def test_a_model_is_not_shown_what_comes_later() -> None:
    """Contract: the scores of a prefix stay when everything after it changes."""
    training = cycles(60, 0)
    one, other = prefixes(sessions([[0, 1, 5, 6]], 12)), prefixes(sessions([[0, 1, 9, 2]], 12))
    for model in (VSKNN(), ItemKNN(), LastInSession()):
        model.fit(training, unwatched)
        np.testing.assert_array_equal(model.score(one)[:2], model.score(other)[:2])


def test_the_comparison_counts_every_prefix() -> None:
    training, test = cycles(60, 0), cycles(10, 1)
    found = on_sessions(Split(training, test, [], 0), {"item_knn": lambda _seed: ItemKNN()}, 2, lambda _what: unwatched)
    one = found.outcomes["item_knn"]
    assert len(one.cases["hr@20"]) == 30 and one.by_seed["mrr@20"] == [1.0, 1.0]
    assert sum(found.segments[name].sum() for name in ("first event of a session", "later in a session")) == 30


# ── displayed lists ──────────────────────────────────────────────────────────────────────────────────────────────────


def visits(count: int, seed: int) -> Clickouts:
    """A list of eight; one is looked at before, and is the one that is clicked."""
    rng = np.random.default_rng(seed)
    made, rows = [], []
    for number in range(count):
        items = rng.permutation(40)[:8]
        chosen = int(rng.integers(0, 8))
        looked = np.array([items[chosen], -1, items[chosen]])
        made.append(Actions(np.array([IMAGE, 9, CLICK]), looked, np.array([0.0, 20.0, 30.0]) + number, ["", "", ""]))
        prices = rng.uniform(20, 200, 8)
        rows.append(Clickout(number, 2, items, prices, chosen, True, frozenset(), "mobile", "DE", f"u{number}"))
    return Clickouts(made, rows, 0)


def lists(clickouts: Clickouts) -> Lists:
    return Lists(clickouts, features(clickouts, popularity(clickouts), own=True))


def test_features_use_nothing_from_the_clickout_on() -> None:
    """Contract: neither which item was clicked nor what the session did later reaches its features, popularity included."""
    one = visits(3, 0)
    row, actions = one.rows[0], one.sessions[0]
    kinds, items, times = (np.append(column, column[-1:]) for column in actions[:3])
    items[2:] = 39
    later = [Actions(kinds, items, times, [*actions.sorts, ""]), *one.sessions[1:]]
    other = Clickouts(later, [row._replace(clicked=(row.clicked + 1) % 8), *one.rows[1:]], 0)
    wanted = features(one, popularity(one), own=True)[:8]
    np.testing.assert_array_equal(features(other, popularity(other), own=True)[:8], wanted)


def test_features_of_a_list_with_gaps_are_numbers_or_unknown() -> None:
    one = visits(2, 0)
    bare = [row._replace(prices=np.full(8, np.nan), at=0, device="watch") for row in one.rows]
    x = features(Clickouts(one.sessions, bare, 0), popularity(one), own=False)
    assert x.shape == (16, len(NAMES))
    assert not np.isinf(x).any()


@pytest.mark.parametrize("name", ["last_interacted", "lightgbm", "dual_sequence"])
def test_rerankers_find_the_item_that_was_looked_at(name: str) -> None:
    if name == "lightgbm":
        pytest.importorskip("lightgbm", reason="needs the extra `train`")
        from models.baselines.trees import LambdaMART, TreeSettings

        model = LambdaMART(TreeSettings(trees=10))
    elif name == "dual_sequence":
        pytest.importorskip("torch", reason="needs the extra `train`")
        from models.dual.ranker import DualSettings
        from models.dual.rerank import DualSequence

        model = DualSequence(DualSettings(dim=8, bins=4, members=2, epochs=10, batch=16))
    else:
        model = LastInteracted()
    training, test = visits(100, 0), visits(20, 1)
    model.fit(lists(training), unwatched)
    scores = model.score(lists(test))
    assert (ranks_in_lists(scores, test.starts, test.clicked) == 1).mean() > 0.9


def test_a_number_that_most_items_have_leaves_bins_for_the_others() -> None:
    """Contract: one touch and ten are told apart, though nine items of ten have none."""
    pytest.importorskip("torch", reason="needs the extra `train`")
    from models.dual.ranker import binning

    touches = np.repeat([0.0, *range(1, 51)], [4500, *[10] * 50])[:, None].astype(np.float32)
    found = binning(touches, bins=8)
    assert len(found.edges[0]) <= 8
    asked = np.array([0.0, 1.0, 10.0, 30.0, 50.0], np.float32)[:, None]
    assert len(np.unique(found.bins(asked, of=8))) == 5
    assert (np.diff(found.numbers(asked)[:, 0]) > 0.2).all()


def test_a_teacher_has_not_seen_the_click_that_it_speaks_of() -> None:
    """Contract: where clicks follow nothing, the teacher knows no more of them than chance does."""
    pytest.importorskip("torch", reason="needs the extra `train`")
    pytest.importorskip("lightgbm", reason="needs the extra `train`")
    from models.baselines.trees import LambdaMART
    from models.dual.rerank import taught

    shown, rng = visits(160, 0), np.random.default_rng(1)
    guessed = [row._replace(clicked=int(rng.integers(0, 8))) for row in shown.rows]
    asked = lists(shown)._replace(clickouts=Clickouts(shown.sessions, guessed, 0))
    chances = taught(asked, 0, unwatched)
    assert chances is not None
    np.testing.assert_allclose(chances.reshape(-1, 8).sum(axis=1), 1, rtol=1e-5)
    starts, clicked = asked.clickouts.starts, asked.clickouts.clicked
    assert (ranks_in_lists(chances, starts, clicked) == 1).mean() < 0.25
    seen = LambdaMART()
    seen.fit(asked, unwatched)
    assert (ranks_in_lists(seen.score(asked), starts, clicked) == 1).mean() > 0.5
    assert taught(lists(visits(3, 0)), 0, unwatched) is None


def test_a_ranker_learns_what_it_is_taught() -> None:
    """Contract: with the teacher's word alone, its choice, here the last place, is learnt and not the click."""
    pytest.importorskip("torch", reason="needs the extra `train`")
    from models.dual.ranker import DualRanker, DualSettings
    from models.dual.rerank import examples

    asked = lists(visits(100, 0))
    teacher = np.zeros(len(asked.x), np.float32)
    teacher[asked.clickouts.starts[1:] - 1] = 1
    ranker = DualRanker(DualSettings(dim=8, bins=4, members=2, epochs=10, batch=16, taught=1.0))
    ranker.fit(examples(asked), unwatched, teacher)
    chosen = ranker.score(examples(asked)).reshape(-1, 8).argmax(axis=1)
    assert (chosen == 7).mean() > 0.9


def test_as_displayed_keeps_the_order() -> None:
    test = visits(2, 0)
    assert np.argsort(-AsDisplayed().score(lists(test))[:8]).tolist() == list(range(8))
