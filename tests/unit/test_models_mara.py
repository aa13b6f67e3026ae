"""Mara's worked example (source 3) with the shipped bundle: 12 seconds of a marathon put the trail video on top."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

import models
from demo import mara
from demo.world import HOUR_MS
from models.bundle import Bundle, latest
from models.scorer import Scorer, encode_state_history, open_scorer
from schemas.event import Event
from schemas.user_state import UserState
from udfs.logic.sessions import Position, apply_event

BUNDLES = Path(models.__path__[0]) / "bundles"
NOW_MS = mara.STORY_MS + 60_000


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    return open_scorer(Bundle.load(BUNDLES / latest(BUNDLES)))


def order(scorer: Scorer, within_ms: int | None, *acts: dict[str, Any]) -> list[str]:
    state = UserState()
    for offset, act in enumerate([*mara.history(mara.STORY_MS, within_ms), *mara.opens_feed(mara.STORY_MS), *acts]):
        event = msgspec.convert(act, Event)
        apply_event(state, event, Position(0, offset, event.ts_ms))
    rows = scorer.bundle.vocabulary.rows(mara.CANDIDATES)
    scores = scorer.score(state, encode_state_history(scorer, state, NOW_MS), rows, NOW_MS, "home")
    return [mara.CANDIDATES[place] for place in np.argsort(-scores)]


# The engine refuses events older than 24 h, so that the end-to-end test squeezes her nine evenings into 20 hours.
@pytest.mark.parametrize("within_ms", [None, 20 * HOUR_MS])
class TestMara:
    def test_before_the_trail_is_fourth(self, scorer: Scorer, within_ms: int | None) -> None:
        assert order(scorer, within_ms)[3] == mara.TRAIL

    def test_twelve_seconds_of_marathon_put_it_first(self, scorer: Scorer, within_ms: int | None) -> None:
        assert order(scorer, within_ms, mara.watches_marathon(NOW_MS))[0] == mara.TRAIL

    def test_twelve_seconds_of_pasta_do_not(self, scorer: Scorer, within_ms: int | None) -> None:
        assert order(scorer, within_ms, mara.watches_pasta(NOW_MS)).index(mara.TRAIL) >= 3
