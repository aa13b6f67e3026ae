"""Assignment: published vectors, uniform, independent, sticky; and what `riffle experiments check` refuses."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from typer.testing import CliRunner

from cli.main import app
from schemas.experiments import (
    CROSSED,
    HOLDOUT,
    INTERLEAVED,
    Arm,
    Audience,
    Definition,
    Experiment,
    Holdout,
    Layer,
    decode_definition,
    encode_definition,
    faults,
    read_definition,
)
from schemas.ranking import Challenger
from schemas.user_state import UserState
from tests.fakes import HOUR, NOW, event
from udfs.logic.experiments import Assignment, Visitor, arms_of, bucket, merge_units, name_unit, stamp
from udfs.logic.sessions import Position, apply_event

RUNNER = CliRunner()
VECTORS = Path(__file__).parents[1] / "fixtures" / "assignment_vectors.json"
BEGIN = datetime.fromtimestamp(NOW / 1000, timezone.utc)
WEEK = timedelta(days=7)
CONTROL, NEW = Arm(name="control", weight=0.5), Arm(name="new", weight=0.5, bundle="b2")


def experiment(name: str = "ranker", **fields: Any) -> Experiment:
    return Experiment(**({"name": name, "arms": (CONTROL, NEW), "start": BEGIN, "end": BEGIN + WEEK} | fields))


def definition(*experiments: Experiment, layer: str = "ranking", **fields: Any) -> Definition:
    layers = (Layer(name=layer, experiments=experiments),) if experiments else ()
    return Definition(**({"version": "v1", "salt": "riffle", "layers": layers} | fields))


def arms(of: Definition, unit: str, surface: str = "home", now_ms: int = NOW) -> dict[str, str]:
    found = Assignment(of).of(unit, f"{unit}|{now_ms}", surface, now_ms)
    return {} if found is None else found.arms


# ── assignment ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_published_vectors() -> None:
    """Contract: other languages compute these; they never change."""
    vectors = json.loads(VECTORS.read_text())
    assert [bucket(one["text"]) for one in vectors["buckets"]] == [one["bucket"] for one in vectors["buckets"]]
    of = msgspec.convert(vectors["definition"], Definition)
    at_ms = int(datetime.fromisoformat(vectors["at"]).timestamp() * 1000)
    assert len(vectors["assignments"]) >= 20
    for one in vectors["assignments"]:
        found = Assignment(of).of(one["unit"], one["session"], one["surface"], at_ms)
        assert (found.arms if found else {}) == one["arms"], one


def test_a_million_units_are_spread_evenly() -> None:
    """χ² over 100 cells and a million units: the 99.9 % point of χ² with 99 degrees of freedom is 148.2."""
    assert _chi_square([bucket(f"riffle|experiment:ranker|u:{n}") // 100 for n in range(1_000_000)], 100) < 148.2


def test_layers_and_experiments_are_independent() -> None:
    """χ² of a 10 × 10 table per pair of texts; 81 degrees of freedom, 99.9 % point 126.1."""
    texts = ("holdout", "layer:ranking", "layer:policy", "experiment:ranker")
    units = [f"u:{n}" for n in range(100_000)]
    cells = np.array([[bucket(f"riffle|{text}|{unit}") // 1000 for unit in units] for text in texts])
    for one in range(len(texts)):
        for other in range(one):
            table = np.bincount(cells[one] * 10 + cells[other], minlength=100).reshape(10, 10)
            expected = np.outer(table.sum(1), table.sum(0)) / table.sum()
            assert ((table - expected) ** 2 / expected).sum() < 126.1


def test_shares_are_as_defined() -> None:
    of = definition(
        experiment(
            "one",
            part=(0.0, 0.5),
            arms=(msgspec.structs.replace(CONTROL, weight=0.8), msgspec.structs.replace(NEW, weight=0.2)),
        ),
        experiment("two", part=(0.5, 1.0)),
        holdout=Holdout(share=0.05),
    )
    found = [tuple(arms(of, f"u:{n}").items()) for n in range(20_000)]
    shares = {key: found.count(key) / len(found) for key in set(found)}
    assert shares == {
        ((HOLDOUT, HOLDOUT),): pytest.approx(0.05, abs=0.005),
        (("one", "control"),): pytest.approx(0.38, abs=0.012),
        (("one", "new"),): pytest.approx(0.095, abs=0.008),
        (("two", "control"),): pytest.approx(0.2375, abs=0.01),
        (("two", "new"),): pytest.approx(0.2375, abs=0.01),
    }


def test_an_assignment_needs_no_memory() -> None:
    """Contract: the same after a restart, and after other experiments come and go."""
    alone, among = (
        definition(experiment()),
        definition(experiment(), experiment("later", start=BEGIN + WEEK, end=BEGIN + 2 * WEEK)),
    )
    again = decode_definition(encode_definition(alone))
    for n in range(200):
        assert arms(alone, f"u:{n}") == arms(again, f"u:{n}") == arms(among, f"u:{n}")


def test_an_experiment_lives_from_start_to_end() -> None:
    of, end_ms = definition(experiment()), NOW + int(WEEK.total_seconds() * 1000)
    assert [bool(arms(of, "u:a", now_ms=at)) for at in (NOW - 1, NOW, end_ms - 1, end_ms)] == [False, True, True, False]


def test_surfaces_are_respected() -> None:
    of = definition(experiment(surfaces=("cart",)))
    assert not arms(of, "u:a") and arms(of, "u:a", "cart")


def test_the_arm_chooses_the_bundle() -> None:
    of = Assignment(definition(experiment()))
    found = [of.of(f"u:{n}", "s", "home", NOW) for n in range(50)]
    assert {(one.arms["ranker"], one.bundle) for one in found if one} == {("control", None), ("new", "b2")}


def test_sessions_are_units_of_their_own() -> None:
    of = Assignment(definition(experiment(unit="session")))
    drawn = {of.of("u:a", f"u:a|{n}", "home", NOW).arms["ranker"] for n in range(30)}  # type: ignore[union-attr]
    assert drawn == {"control", "new"}


def interleaved(name: str = "duel", **fields: Any) -> Experiment:
    return experiment(name, kind="interleaved", **fields)


def test_an_interleaved_experiment_names_both_rankers() -> None:
    """Contract: the control is what the list is made by where it cannot be drafted."""
    of = Assignment(definition(interleaved(part=(0.0, 0.5)), holdout=Holdout(share=0.05)))
    found = [of.of(f"u:{n}", "s", "home", NOW) for n in range(400)]
    drafted = [one for one in found if one is not None and "duel" in one.arms]
    assert 140 < len(drafted) < 240
    assert {(one.arms["duel"], one.bundle, one.challenger) for one in drafted} == {
        (INTERLEAVED, None, Challenger("duel", "control", "new", "b2", None))
    }


def test_another_layers_choice_holds_for_both_rankers_of_a_draft() -> None:
    arms = (Arm(name="old", weight=0.0, policy="p1"), Arm(name="fresh", weight=1.0, policy="p2"))
    policies = Layer(name="policy", experiments=(experiment("places", arms=arms),))
    of = definition(layers=(Layer(name="ranking", experiments=(interleaved(),)), policies))
    assert not faults(of)
    found = Assignment(of).of("u:a", "s", "home", NOW)
    assert found is not None and (found.bundle, found.policy) == (None, "p2")
    assert found.challenger == Challenger("duel", "control", "new", "b2", "p2")


def test_a_control_that_chooses_leaves_the_challenger_everybodys() -> None:
    arms = (Arm(name="control", weight=0.5, bundle="b1"), Arm(name="new", weight=0.5, policy="p2"))
    found = Assignment(definition(interleaved(arms=arms))).of("u:a", "s", "home", NOW)
    assert found is not None and (found.bundle, found.policy) == ("b1", None)
    assert found.challenger == Challenger("duel", "control", "new", None, "p2")


# ── audiences ────────────────────────────────────────────────────────────────────────────────────────────────────────

MOBILE = Visitor(device="mobile", geo="de", channel="app", actions=5)


@pytest.mark.parametrize(
    ("only", "visitor", "wanted"),
    [
        (Audience(device=("mobile", "tablet")), MOBILE, True),
        (Audience(device=("desktop",)), MOBILE, False),
        (Audience(device=("desktop",)), Visitor(), False),
        (Audience(geo=("de", "at"), channel=("app",)), MOBILE, True),
        (Audience(geo=("de",), channel=("web",)), MOBILE, False),
        (Audience(actions_below=1), Visitor(), True),
        (Audience(actions_below=5), MOBILE, False),
        (Audience(actions_from=5), MOBILE, True),
        (Audience(actions_from=6), MOBILE, False),
    ],
)
def test_an_experiment_is_only_for_whom_it_is_meant(only: Audience, visitor: Visitor, wanted: bool) -> None:
    found = Assignment(definition(experiment(only=only))).of("u:a", "s", "home", NOW, 0, visitor)
    assert (found is not None) is wanted


def test_who_is_meant_follows_from_what_the_events_said() -> None:
    """Contract: the arm stays what the hash says; only whether it holds changes, with the next event."""
    of = Assignment(definition(experiment(only=Audience(device=("mobile",)))))
    state, seen = UserState(), list[str | None]()
    for n, device in enumerate(["mobile", "mobile", "desktop", None, "mobile"]):
        props = {"context": {"device": device}} if device else {}
        apply_event(state, event("click", ts_ms=NOW + n, props=props), Position(0, n, NOW + n))
        found = stamp(of, state, "u:a", ["home"], NOW + n)
        assert arms_of(of, state, "u:a", "home", NOW + n) == (found["home"].arms if found else {})
        seen.append(found["home"].arms["ranker"] if found else None)
    assert seen[2:4] == [None, None] and len(set(seen) - {None}) == 1 and seen[4] == seen[0]


def test_new_and_returning_users_are_told_apart_by_earlier_sessions_alone() -> None:
    """Contract: what a user does in this session cannot move them out of it: an arm would choose whom it is judged by."""
    of = Assignment(definition(experiment(only=Audience(actions_below=1))))
    state = UserState()
    for n in range(3):
        apply_event(state, event("click", ts_ms=NOW + n), Position(0, n, NOW + n))
        assert stamp(of, state, "u:a", ["home"], NOW + n)
    later = NOW + 2 * HOUR
    apply_event(state, event("click", ts_ms=later), Position(0, 9, later))
    assert not stamp(of, state, "u:a", ["home"], later)


def user_with(unit: tuple[str, int] | None, events: int = 1) -> UserState:
    state = UserState()
    state.event_no, state.tail.unit = events, unit
    return state


def test_a_new_user_s_unit_is_the_session_they_come_from() -> None:
    fresh, known, anonymous = UserState(), user_with(None), UserState()
    name_unit(fresh, "u:alice", "s1")
    name_unit(known, "u:alice", "s1")
    name_unit(anonymous, "s:s1", "s1")
    assert (fresh.tail.unit, known.tail.unit, anonymous.tail.unit) == (("s:s1", 0), None, None)


def test_a_login_keeps_the_unit() -> None:
    new = UserState()
    name_unit(new, "u:alice", "s1")
    new.event_no = 1
    assert not merge_units(new, "u:alice", user_with(None), "s:s1", NOW)
    assert new.tail.unit == ("s:s1", 0)
    before_any_event = UserState()
    assert not merge_units(before_any_event, "u:alice", user_with(None), "s:s1", NOW)
    assert before_any_event.tail.unit == ("s:s1", 0)


def test_a_known_user_keeps_their_unit_and_has_crossed_over() -> None:
    known = user_with(None)
    assert merge_units(known, "u:alice", user_with(None), "s:s2", NOW)
    assert known.tail.unit == ("u:alice", NOW)


def test_who_crossed_over_is_marked() -> None:
    for crossed_ms, marked in ((NOW + 5, True), (NOW - 5, False)):  # the experiment begins at NOW
        state = user_with(("u:alice", crossed_ms))
        found = stamp(Assignment(definition(experiment())), state, "u:alice", ["home"], NOW + 9)
        assert (CROSSED in found["home"].arms) is marked


def _chi_square(found: list[int], cells: int) -> float:
    counts = np.bincount(found, minlength=cells)
    expected = len(found) / cells
    return float(((counts - expected) ** 2).sum() / expected)


# ── check ────────────────────────────────────────────────────────────────────────────────────────────────────────────

GOOD = """
version = "2026-48"
salt = "riffle-1"

[holdout]
share = 0.02
bundle = "demo-popularity"

[[layers]]
name = "ranking"

[[layers.experiments]]
name = "ranker-4"
start = 2026-11-23T00:00:00Z
end = 2026-12-07T00:00:00Z
arms = [{ name = "control", weight = 0.5 }, { name = "new", weight = 0.5, bundle = "demo-3" }]
primary = "ctr"
guardrails = [{ metric = "revenue_per_session", worst = 0.02 }]
"""


def said(tmp_path: Path, text: str, *options: str) -> tuple[int, str]:
    (tmp_path / "experiments.toml").write_text(text)
    result = RUNNER.invoke(app, ["experiments", "check", str(tmp_path / "experiments.toml"), *options])
    return result.exit_code, " ".join(result.output.split())


def test_a_good_file_is_accepted(tmp_path: Path) -> None:
    code, words = said(tmp_path, GOOD)
    assert code == 0 and "1 experiments in 1 layers and a holdout, nothing wrong" in words
    assert faults(read_definition(tmp_path / "experiments.toml")) == []


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("weight = 0.5 }", "weight = 0.4 }", "The weights of ranker-4 sum to 0.9, not to 1."),
        ("end = 2026-12-07", "end = 2026-11-07", "ranker-4 ends (2026-11-07 00:00) before it starts"),
        ("share = 0.02", "share = 0.2", "The holdout's share is 20.00%"),
        (', bundle = "demo-3"', "", "All arms of ranker-4 give the same bundle and policy"),
        ('name = "new"', 'name = "control"', "control names more than one arm in ranker-4."),
        ("primary =", "part = [0.5, 0.5]\nprimary =", "that is nobody"),
        ("primary =", 'primry = "ctr"\nprimary =', "unknown field `primry`"),
        ('"ctr"', '"joy"', "Invalid enum value 'joy'"),
        ("start = 2026-11-23T00:00:00Z", "start = 2026-11-23T00:00:00", "timezone"),
        ('salt = "riffle-1"', 'salt = "a|b"', "salt"),
        ('name = "ranker-4"', 'name = "holdout"', "cannot be called holdout"),
        ("[holdout]", "[holdout", "is not TOML"),
        ("weight = 0.5 }", "weight = 0.33333 }", "at most four decimals"),
        ("primary =", "only = {}\nprimary =", "ranker-4 is only for whom nothing is said of"),
        (
            "primary =",
            "only = { actions_from = 5, actions_below = 5 }\nprimary =",
            "5 actions and more, and below 5: that is nobody",
        ),
        ("primary =", 'only = { city = ["rome"] }\nprimary =', "unknown field `city`"),
        ("primary =", 'only = { device = ["fridge"] }\nprimary =', "layers number 1.experiments number 1.only.device"),
        ("primary =", "only = { actions_below = 900 }\nprimary =", "<= 200"),
        ("primary =", 'kind = "interleaved"\nprimary =', "clicks decide it, so leave primary and guardrails out"),
        ('name = "new"', 'name = "interleaved"', "An arm of ranker-4 cannot be called interleaved"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, old: str, new: str, sentence: str) -> None:
    assert old in GOOD
    code, words = said(tmp_path, GOOD.replace(old, new, 1))
    assert code == 1 and sentence in words


def test_experiments_of_a_layer_must_not_overlap() -> None:
    found = faults(definition(experiment("one"), experiment("two", part=(0.5, 1.0))))
    assert found == ["one and two overlap in layer ranking: give them different parts, times or layers."]
    assert not faults(definition(experiment("one", part=(0.0, 0.5)), experiment("two", part=(0.5, 1.0))))
    assert not faults(definition(experiment("one"), experiment("two", start=BEGIN + WEEK, end=BEGIN + 2 * WEEK)))


def test_layers_must_not_choose_the_same_thing() -> None:
    layers = tuple(Layer(name=name, experiments=(experiment(f"of-{name}"),)) for name in ("a", "b"))
    assert "both choose the bundle" in faults(definition(layers=layers))[0]


def test_what_cannot_be_drafted_is_said() -> None:
    three = (CONTROL, msgspec.structs.replace(NEW, weight=0.25), Arm(name="b3", weight=0.25, bundle="b3"))
    assert faults(definition(interleaved(arms=three))) == [
        "duel is interleaved and has 3 arms: a list is drafted of two, so keep two."
    ]
    uneven = (msgspec.structs.replace(CONTROL, weight=0.8), msgspec.structs.replace(NEW, weight=0.2))
    assert (
        "a fair coin decides who picks first, so give both arms the weight 0.5"
        in faults(definition(interleaved(arms=uneven)))[0]
    )
    arms = (Arm(name="control", weight=0.5), Arm(name="new", weight=0.5, policy="p2"))
    layers = (
        Layer(name="a", experiments=(interleaved("one"),)),
        Layer(name="b", experiments=(interleaved("two", arms=arms),)),
    )
    assert faults(definition(layers=layers)) == [
        "one and two are both interleaved, and a list is drafted once: put them into one layer."
    ]


def test_unknown_bundles_and_policies_are_named(tmp_path: Path) -> None:
    (tmp_path / "demo-3").mkdir()
    (tmp_path / "demo-3" / "manifest.json").write_text("{}")
    code, words = said(tmp_path, GOOD, "--bundles", str(tmp_path))
    assert code == 1 and "The holdout names bundle demo-popularity, which is not there (there are demo-3)." in words
    code, words = said(tmp_path, GOOD.replace('bundle = "demo-3"', 'policy = "p9"'), "--policy", "p1")
    assert code == 1 and "Arm new of ranker-4 names policy p9, which is not there (there are p1)." in words
