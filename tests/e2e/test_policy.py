"""Slate policies on the running engine: published, taken up without a restart, explained; its lists replayed from their records."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.main import app
from client.decisions import recent_decisions
from client.scan import Limits, Scanner
from demo.world import load
from schemas.ranking import RankedList
from tests.e2e.engine import Engine, event, raw

POLICY = """
version = "shelf-2"
surface = "shelf"

[diversity]
method = "mmr"
relevance = 0.7

[[slots]]
kind = "explore"
places = [3, 7]
policy = "thompson"
floor = 0.1

[stability]
top = 10
moves = 3
"""
TAKEN_UP_S = 2.0
SURFACE = "shelf"  # of these tests alone: others share the engine


@pytest.fixture
def riffle(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    monkeypatch.setenv("RIFFLE_BROKERS", engine.where.brokers)
    monkeypatch.setenv("RIFFLE_REDIS_URL", engine.where.redis_url)
    return CliRunner()


def clicked(engine: Engine, user: str, number: int) -> RankedList:
    """The list that has seen the user's click."""
    item_id = load().items[number].item_id
    with engine.events() as events, engine.feed() as feed:
        token = events.send(raw(event(user, item_id=item_id, props={"surface": SURFACE})))
        answer = feed.get(user, SURFACE, at_least=token.event_id, wait_ms=10_000)
    assert answer.list is not None
    return answer.list


def test_a_published_policy_is_taken_up_within_two_seconds(engine: Engine, riffle: CliRunner, tmp_path: Path) -> None:
    """Contract: without a restart; the receipt names it, and the record has its slots and their chances."""
    assert clicked(engine, "pol-0", 300).receipt.policy == "1"
    file = tmp_path / "shelf.toml"
    file.write_text(POLICY)
    published = riffle.invoke(app, ["policy", "publish", str(file)])
    assert published.exit_code == 0, published.output
    begun = time.monotonic()
    number = 301
    while clicked(engine, "pol-0", number).receipt.policy != "shelf-2":
        assert time.monotonic() - begun < TAKEN_UP_S
        number += 1
    with Scanner(engine.where, Limits(seconds=20)) as scanner:
        found = recent_decisions(scanner, SURFACE, 1)["u:pol-0"]
    assert (found.policy, found.places.slot(2), found.places.slot(6)) == ("shelf-2", "explore", "explore")
    chances = found.places.propensity_column()
    assert 0 < chances[2] < 1
    assert set(chances.tolist()) - {chances[2], chances[6]} == {1.0}


def test_logged_lists_replay_bit_for_bit(engine: Engine, riffle: CliRunner) -> None:
    """Contract: both policies' lists, made by the cluster, made again by this process from their records."""
    for number in range(30):
        clicked(engine, f"pol-{number % 5}", 400 + number)
    made = riffle.invoke(app, ["replay", "--last", "30", "--surface", SURFACE, "--json"])
    assert made.exit_code == 0, made.output
    found = json.loads(made.stdout)
    assert (found["lists"], found["identical"], found["not_replayed"]) == (30, 30, {})
    with Scanner(engine.where, Limits(seconds=20)) as scanner:
        one = recent_decisions(scanner, SURFACE, 1).popitem()[1]
    made = riffle.invoke(app, ["replay", one.list_id, "--json"])
    assert json.loads(made.stdout)["verdict"] == "identical"


def test_a_list_and_what_is_not_in_it_are_explained(engine: Engine, riffle: CliRunner) -> None:
    ranked = clicked(engine, "pol-7", 500)
    why = riffle.invoke(app, ["explain", "pol-7", "--surface", SURFACE, "--json", "--limit-ms", "20000"])
    assert why.exit_code == 0, why.output
    how = json.loads(why.stdout)["how"]
    assert [one["item_id"] for one in how["places"]] == [item.item_id for item in ranked.items]
    assert how["places"][2]["slot"] == "explore"
    assert set(how["places"][0]["scores"]) >= {"click"}
    missed = riffle.invoke(app, ["why-not", "pol-7", "no-such-item", "--surface", SURFACE, "--json"])
    assert missed.exit_code == 0, missed.output
    assert json.loads(missed.stdout)["stage"] == "retrieval"


def test_a_policy_can_be_tried_on_real_lists_before(engine: Engine, riffle: CliRunner, tmp_path: Path) -> None:
    clicked(engine, "pol-8", 510)
    file = tmp_path / "strict.toml"
    file.write_text(
        'version = "strict"\nsurface = "other-shelf"\n[[rules]]\nrule = "cap"\nby = "subcategory"\nmost = 1\nwithin = 20\n'
    )
    compared = riffle.invoke(
        app, ["policy", "diff", "1", str(file), "--users", "pol-8", "--surface", SURFACE, "--json"]
    )
    assert compared.exit_code == 0, compared.output
    (one,) = json.loads(compared.stdout)["lists"]
    assert (one["user"], one["places_changed"] > 0) == ("pol-8", True)
    again = riffle.invoke(app, ["policy", "publish", str(file)])
    assert again.exit_code == 0
    other = file.with_name("other.toml")
    other.write_text('version = "strict"\nsurface = "other-shelf"\nrules = []\n')
    refused = riffle.invoke(app, ["policy", "publish", str(other)])
    assert (refused.exit_code, "give the file another version" in refused.stderr) == (1, True)
