"""What explain and why-not say, from decision records of the real ranker."""

from __future__ import annotations

import msgspec
import pytest

from cli.explaining import fell_out, how_made, how_view
from models.replaying import Bundles
from schemas.decision import Decision
from schemas.policy import DEFAULT, Explore, Mmr, Policy
from tests.unit.test_replay import FOLDER, fallback, loaded, made, made_of_two, states

POLICY = Policy(version="x", diversity=Mmr(relevance=0.3), slots=[Explore(places=[3], policy="thompson", floor=0.5)])


@pytest.fixture(scope="module")
def bundles() -> Bundles:
    return Bundles(FOLDER)


def record(bundles: Bundles, policy: Policy) -> Decision:
    bundle = loaded(bundles)
    return made(bundle, states(bundle, 6)[0], policy, 3, None)


def outcome(found: Decision, name: str) -> str:
    """The first candidate that this became of."""
    ids = found.candidates.item_ids()
    return next(ids[place] for place in range(len(ids)) if found.candidates.outcome(place) == name)


def test_each_place_is_explained(bundles: Bundles) -> None:
    found = record(bundles, POLICY)
    how = how_made(found, bundles)
    assert [one.item_id for one in how.places] == found.shown()
    assert [one.slot for one in how.places[:4]] == ["exploit", "exploit", "explore", "exploit"]
    assert [one.propensity == 1 for one in how.places[:4]] == [True, True, False, True]
    assert how.places[0].given_up == 0
    assert any(one.given_up > 0 for one in how.places)
    assert how.removed["out_of_stock"] >= 1
    assert how.note is None


def test_scores_by_task_make_the_score(bundles: Bundles) -> None:
    """Contract: by the bundle's weights they add up, with the popularity prior, to what the list says."""
    found = record(bundles, DEFAULT)
    manifest = Bundles(FOLDER).of(found)._scorer.bundle.manifest  # type: ignore[attr-defined]
    bundle = loaded(bundles)
    prior = bundle._scorer.bundle.prior  # type: ignore[attr-defined]
    for one in how_made(found, bundles).places:
        total = sum(manifest.task_weights[task] * score for task, score in one.scores.items())
        assert total + prior[bundle.rows([one.item_id])[0]] == pytest.approx(one.score, abs=1e-4)


def test_a_fallbacks_places_are_shown_without_what_only_the_ranker_knows(bundles: Bundles) -> None:
    how = how_made(fallback(bundles), bundles)
    assert "fallback (model_busy)" in (how.note or "")
    assert how.places[0].scores == {}


def test_why_not_names_the_stage(bundles: Bundles) -> None:
    found = record(bundles, DEFAULT)
    first = found.shown()[0]
    assert fell_out(found, "alice", first).because == "it is in the list, at place 1"
    gone = fell_out(found, "alice", outcome(found, "out_of_stock"))
    assert (gone.stage, "the rule out_of_stock took it out" in gone.because) == ("rules", True)
    low = fell_out(found, "alice", outcome(found, "not_shown"))
    assert (low.stage, low.rank is not None and low.rank > 6) == ("score", True)
    never = fell_out(found, "alice", "unheard-of")
    assert (never.stage, "no source brought it" in never.because) == ("retrieval", True)


def test_why_not_tells_scores_from_places(bundles: Bundles) -> None:
    found = record(bundles, POLICY)
    scores, ids = found.candidates.score_column(), found.candidates.item_ids()
    passed_over = [
        ids[place]
        for place in range(len(ids))
        if found.candidates.outcome(place) == "not_shown" and (scores > scores[place]).sum() < 6
    ]
    assert passed_over
    assert {fell_out(found, "alice", one).stage for one in passed_over} == {"places"}


def test_a_record_of_what_was_shown_only_says_so(bundles: Bundles) -> None:
    found = msgspec.structs.replace(record(bundles, DEFAULT), complete=False)
    assert "--decisions-share" in fell_out(found, "alice", "unheard-of").because


def test_a_drafted_lists_places_are_explained_by_who_picked_them(bundles: Bundles) -> None:
    bundle = loaded(bundles)
    found = made_of_two(bundle, states(bundle, 6)[0], (DEFAULT, POLICY), 3)
    how = how_made(found, bundles)
    control, new = found.rankings()
    assert [one.item_id for one in how.places] == found.shown()
    assert {one.slot for one in how.places} == {"draft:control", "draft:new"}
    assert {(one.propensity, one.given_up) for one in how.places} == {(None, None)}
    assert all(one.scores for one in how.places) and how.candidates == len(control.candidates) + len(new.candidates)
    assert how.note is not None and "control (tiny-1, 1) and new (tiny-1, x)" in how.note
    assert how_view(how, 3).row_count == 3
    missing = next(one for one in (*control.shown(), *new.shown()) if one not in found.shown())
    ended = fell_out(found, "alice", missing)
    assert ended.stage == "places" and "and its turns went to others" in ended.because
    assert fell_out(found, "alice", found.shown()[2]).because == "it is in the list, at place 3"
    never = fell_out(found, "alice", "unheard-of")
    assert never.stage == "retrieval" and never.because.startswith("control: ") and "; new: " in never.because
