"""Baselines as bundles: made, loaded and served like any other."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from models.assemble import manifest
from models.baselines.bundle import KINDS, files_of, sessions_of
from models.bundle import Bundle, write_bundle
from models.evaluation.session_files import Sessions
from models.samples import NOW_MS, sample_states
from models.scorer import encode_state_history, open_scorer
from models.store import LoadedBundle
from schemas.user_state import UserState
from tests.fakes import NOW, event
from udfs.logic.sessions import Position, apply_event

TINY = Bundle.load(Path(__file__).parents[1] / "fixtures/bundles/tiny-1")
FIRST = TINY.vocabulary.first_item
NEURAL = ("gru4rec", "sasrec")


def place(item_id: str) -> int:
    return TINY.vocabulary.row(item_id) - FIRST


def sessions() -> Sessions:
    """Who takes pasta-1 takes bread-1, eight times; all others go their own ways."""
    rng = np.random.Generator(np.random.PCG64(1))
    parts = [[place("pasta-1"), place("bread-1")] for _ in range(8)] + [
        rng.integers(0, 24, 3).tolist() for _ in range(12)
    ]
    starts = np.cumsum([0, *map(len, parts)])
    return Sessions(np.concatenate(parts), np.arange(starts[-1], dtype=float), starts, 24)


def made(kind: str, folder: Path) -> Bundle:
    write_bundle(folder / kind, manifest(kind, kind, surfaces=["home"]), files_of(kind, TINY, sessions()))
    return Bundle.load(folder / kind)


def visitor(*item_ids: str) -> UserState:
    state = UserState()
    for n, item_id in enumerate(item_ids):
        apply_event(state, event("click", item_id, ts_ms=NOW + n, event_id=f"e{n}"), Position(3, n, NOW + n))
    return state


def order(bundle: Bundle, state: UserState) -> list[str]:
    scorer = open_scorer(bundle)
    rows = np.arange(FIRST, TINY.vocabulary.size, dtype=np.int32)
    scores = scorer.score(state, encode_state_history(scorer, state, NOW), rows, NOW, "home")
    return [TINY.vocabulary.ids[row] for row in rows[np.argsort(-scores, kind="stable")]]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_ranks_any_user(kind: str, tmp_path: Path) -> None:
    """Contract: finite scores for edges and random users, behind the contract of a loaded bundle; popularity for who is new."""
    if kind in NEURAL:
        pytest.importorskip("torch", reason="needs the extra `train`")
    bundle = made(kind, tmp_path)
    loaded = LoadedBundle(bundle, 2**20, None)
    assert (loaded.name, loaded.has_light) == (kind, False)
    scorer = open_scorer(bundle)
    for state in sample_states(TINY.vocabulary, 12):
        found = loaded.retrieve(state, 20, NOW_MS, lambda _stage: None)
        scores = scorer.score(state, encode_state_history(scorer, state, NOW_MS), found.rows, NOW_MS, "home")
        assert scores.shape == found.rows.shape
        assert np.isfinite(scores).all()
    by_popularity = TINY.popularity[[TINY.vocabulary.row(one) for one in order(bundle, UserState())]]
    assert (np.diff(by_popularity) <= 0).all()


def test_the_last_interacted_comes_first(tmp_path: Path) -> None:
    state = visitor("road-1", "bread-3", "road-1", "pasta-2")
    assert order(made("last_interacted", tmp_path), state)[:3] == ["pasta-2", "road-1", "bread-3"]


def test_sessions_like_this_one_say_what_comes_next(tmp_path: Path) -> None:
    assert "bread-1" in order(made("v_sknn", tmp_path), visitor("pasta-1"))[:2]


def test_visits_become_sessions_of_acts_on_known_items() -> None:
    def log(start_ms: int, *events: Any) -> SimpleNamespace:
        return SimpleNamespace(start_ms=start_ms, events=list(events))

    later = log(NOW + 9_000, event("click", "road-1", ts_ms=NOW + 9_000))
    first = log(
        NOW,
        event("impression", "road-2", ts_ms=NOW),
        event("click", "pasta-1", ts_ms=NOW + 1),
        event("click", "unheard-of", ts_ms=NOW + 2),
    )
    found = sessions_of([later, log(NOW + 5, event("impression", "road-3", ts_ms=NOW)), first], TINY.vocabulary)
    assert found.items.tolist() == [place("pasta-1"), place("road-1")]
    assert found.starts.tolist() == [0, 1, 2]


@pytest.mark.parametrize("kind", NEURAL)
def test_the_graph_says_what_the_model_says(kind: str, tmp_path: Path) -> None:
    """Contract: torch and onnxruntime differ by no more than the rounding of the item vectors to float16."""
    pytest.importorskip("torch", reason="needs the extra `train`")
    from models.baselines.contract import unwatched
    from models.baselines.gru4rec import GRU4Rec
    from models.baselines.sasrec import SASRec
    from models.evaluation.session_files import Prefixes

    model = GRU4Rec() if kind == "gru4rec" else SASRec()
    model.fit(sessions(), unwatched)
    asked = np.array([place(one) for one in ("pasta-1", "road-2", "bread-4")])
    own = Sessions(asked, np.arange(3.0), np.array([0, 3]), 24)
    wanted = model.score(Prefixes(own, np.array([0]), np.array([3]), np.array([0])))[0]
    rows = np.arange(FIRST, TINY.vocabulary.size, dtype=np.int32)
    scorer, state = open_scorer(made(kind, tmp_path)), visitor("pasta-1", "road-2", "bread-4")
    found = scorer.score(state, encode_state_history(scorer, state, NOW), rows, NOW, "home")
    np.testing.assert_allclose(found, wanted, atol=2e-2)
