"""The decision record: what goes in comes out, and bytes that are no such record are refused with the reason."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest

from schemas.decision import (
    EXPLOIT,
    FALLBACK,
    NOT_SHOWN,
    SHOWN,
    Candidates,
    Decision,
    DecisionError,
    Places,
    decode_decision,
    encode_decision,
    pack_candidates,
    pack_places,
)
from schemas.ranking import RankedItem, RankedList, RankTask, Receipt
from schemas.user_state import UserState, encode
from tests.fakes import NOW
from udfs.logic.decisions import Asked, decision_record, seed_of
from udfs.logic.sessions import freshness
from udfs.logic.slate import Considered, Gathered, Slate, fall_back
from udfs.logic.slots import Filled

FEATURES = ["clicks_2h@1", "ctr_2h@1"]
SCORES = np.array([0.1, np.nan, 0.3, 0.2], np.float32)
ROWS = np.array([[1, 0.5], [np.nan, np.nan], [3, 0.25], [2, 0.125]], np.float32)


def candidates() -> Candidates:
    return pack_candidates(
        ["a", "b", "ç/ö", "d"],
        ["popular", "popular", "repeat", "popular"],
        [NOT_SHOWN, "out_of_stock", SHOWN, SHOWN],
        SCORES,
        FEATURES,
        ROWS,
    )


def places() -> Places:
    return pack_places([2, 3], [EXPLOIT, "explore"], [1.0, 0.25])


def decision(**fields: Any) -> Decision:
    values: dict[str, Any] = {
        "list_id": "0" * 24,
        "key": "u:alice",
        "surface": "home",
        "state_epoch": 7,
        "list_no": 5,
        "trigger": "click",
        "now_ms": NOW,
        "append_ms": NOW - 9,
        "state": encode(UserState()),
        "k": 2,
        "limit": 200,
        "requested": False,
        "request_id": None,
        "fallback": None,
        "bundle": "b1",
        "ranker": "fake",
        "policy": "1",
        "runtime": "onnxruntime 1",
        "seed": 2**64 - 1,
        "items_offsets": {0: 41},
        "item_features_offsets": {2: 7},
        "arms": {},
        "complete": True,
        "candidates": candidates(),
        "places": places(),
    }
    return Decision(**(values | fields))


def test_what_goes_in_comes_out() -> None:
    """Contract: columns are bit for bit what was served."""
    found = decode_decision(encode_decision(decision()))
    assert found == decision()
    assert found.shown() == ["ç/ö", "d"]
    assert found.candidates.score_column().tobytes() == SCORES.tobytes()
    assert found.candidates.feature_rows().tobytes() == ROWS.tobytes()
    assert [found.candidates.source(n) for n in range(4)] == ["popular", "popular", "repeat", "popular"]
    assert [found.candidates.outcome(n) for n in range(4)] == [NOT_SHOWN, "out_of_stock", SHOWN, SHOWN]
    assert [found.places.slot(n) for n in range(2)] == [EXPLOIT, "explore"]
    assert found.places.propensity_column().tolist() == [1.0, 0.25]


def test_a_list_without_candidates_is_a_record_too() -> None:
    empty = pack_candidates([], [], [], np.zeros(0, np.float32), [], np.zeros((0, 0), np.float32))
    found = decode_decision(encode_decision(decision(candidates=empty, places=pack_places([], [], []))))
    assert (found.shown(), found.candidates.item_ids(), len(found.candidates)) == ([], [], 0)


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"", "does not begin with RD"),
        (b'{"list_id": 1}', "does not begin with RD"),
        (b"RD\x02" + encode_decision(decision())[3:], "version 2; this release reads version 1"),
        (encode_decision(decision())[:-5], "cannot be read"),
        (encode_decision(decision(places=pack_places([2, 3], [EXPLOIT], [1.0, 1.0]))), "damaged: places has 4, not 2"),
        (encode_decision(decision(candidates=msgspec.structs.replace(candidates(), ids="a"))), "damaged: ids has 1"),
    ],
)
def test_other_bytes_are_refused_with_the_reason(raw: bytes, says: str) -> None:
    with pytest.raises(DecisionError, match=says):
        decode_decision(raw)


def test_a_place_that_is_no_candidates_is_refused() -> None:
    with pytest.raises(DecisionError, match="names candidate 9 of 4"):
        decode_decision(encode_decision(decision(places=pack_places([9], [EXPLOIT], [1.0]))))


# ── made from a ranking ──────────────────────────────────────────────────────────────────────────────────────────────


def recorded(slate: Slate, *, share: float = 1.0, list_id: str = "8" * 24, fallback: str | None = None) -> Decision:
    state = UserState()
    task = RankTask("u:alice", ["home"], 7, 5, NOW, "click", encode(state), None, NOW)
    receipt = Receipt(freshness(state), "b1", "fake", "1", {0: 41}, {}, {}, {})
    ranked = RankedList(list_id, "u:alice", "home", 7, 5, NOW, slate.items, receipt, "click", fallback)
    return decision_record(task, ranked, slate, Asked(2, 200, False), "here", share)


def slate() -> Slate:
    gathered = Gathered(
        ["a", "b", "c", "d"], ["popular"] * 4, {1: "out_of_stock"}, np.arange(4, dtype=np.int32), ROWS, FEATURES
    )
    filled = Filled([2, 3], [EXPLOIT] * 2, [1.0, 1.0])
    full = Considered(gathered, SCORES, [NOT_SHOWN, "out_of_stock", SHOWN, SHOWN], filled)
    return Slate([RankedItem("c", 0.3, "popular"), RankedItem("d", 0.2, "popular")], {}, {}, full)


def test_the_share_decides_which_lists_keep_all_candidates() -> None:
    assert len(recorded(slate()).candidates) == 4
    low, high = "7" + "f" * 23, "8" + "0" * 23
    assert (
        recorded(slate(), share=0.5, list_id=low).complete,
        recorded(slate(), share=0.5, list_id=high).complete,
    ) == (
        True,
        False,
    )


def test_what_was_shown_is_always_recorded() -> None:
    found = recorded(slate(), share=0.0)
    assert (found.complete, found.candidates.item_ids(), found.shown()) == (False, ["c", "d"], ["c", "d"])
    assert found.candidates.score_column().tolist() == SCORES[[2, 3]].tolist()
    assert found.candidates.feature_rows().tolist() == ROWS[[2, 3]].tolist()
    assert found.places.propensity_column().tolist() == [1.0, 1.0]


def test_a_fallback_claims_no_propensity() -> None:
    """Contract: what the ranker did not make is marked unknown, so that no estimate counts it."""
    to = [RankedItem(one, 0.5, "popular") for one in "abcd"]
    found = recorded(fall_back(to, {0: "out_of_stock"}, 2), fallback="model_error")
    assert (found.complete, found.fallback, found.shown()) == (True, "model_error", ["b", "c"])
    assert [found.candidates.outcome(place) for place in range(4)] == ["out_of_stock", SHOWN, SHOWN, NOT_SHOWN]
    assert found.places.slot_names == [FALLBACK]
    assert np.isnan(found.places.propensity_column()).all()


def test_the_seed_differs_with_everything_that_names_a_list() -> None:
    named = [
        ("u:a", "home", 1, 2, "p"),
        ("u:b", "home", 1, 2, "p"),
        ("u:a", "cart", 1, 2, "p"),
        ("u:a", "home", 2, 2, "p"),
    ]
    seeds = {seed_of(*one) for one in [*named, ("u:a", "home", 1, 3, "p"), ("u:a", "home", 1, 2, "q")]}
    assert len(seeds) == 6
    assert seed_of(*named[0]) == seed_of(*named[0]) < 2**64
