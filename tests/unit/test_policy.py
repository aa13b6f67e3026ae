"""Slate policies: what is accepted, and what is refused in which words."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from schemas.policy import (
    DEFAULT,
    Cap,
    Explore,
    Policy,
    PolicyError,
    check_names,
    check_policy,
    encode_policy,
    parse_policy,
)

HEAD = 'version = "home-2"\nsurface = "home"\n'
EXPLORE = '[[slots]]\nkind = "explore"\nplaces = [4, 9]\npolicy = "thompson"\n'


def refusal(text: str) -> str:
    with pytest.raises(PolicyError) as refused:
        parse_policy(HEAD + text, "home.toml")
    return str(refused.value)


def test_a_policy_reads_as_it_is_written() -> None:
    found = parse_policy(HEAD + '[[rules]]\nrule = "cap"\nby = "seller"\nmost = 2\nwithin = 10\n' + EXPLORE)
    assert found == Policy(
        version="home-2",
        surface="home",
        rules=(Cap(by="seller", most=2, within=10),),
        slots=[Explore(places=[4, 9], policy="thompson")],
    )
    assert msgspec.json.decode(encode_policy(found), type=Policy) == found


def test_the_default_policy_is_accepted() -> None:
    check_policy(DEFAULT)
    check_names(DEFAULT, sources=[], tasks=[])


def test_a_published_policy_spells_its_defaults_out() -> None:
    """Contract: a default that changes in a later release does not change what a version means."""
    assert b'"floor":0.0' in encode_policy(parse_policy(HEAD + EXPLORE))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("colour = 1", "home.toml: Object contains unknown field `colour`"),
        ("[weights", "home.toml is not TOML"),
        ("[weights]\nclick = 0.3\ncart = 1.0", "weights: they sum to 1.3 and not to 1: divide each by 1.3"),
        ("[weights]\nclick = -1.0", "weights"),
        ('[[rules]]\nrule = "magic"', "rules number 1.rule: Invalid value 'magic'"),
        ('[[rules]]\nrule = "seen"\n[[rules]]\nrule = "seen"', "rules: seen is there twice"),
        ('[[rules]]\nrule = "cap"\nby = "seller"\nmost = 10\nwithin = 10', "10 of the first 10 places caps nothing"),
        ('[[rules]]\nrule = "cap"\nby = "category"\nmost = 0', "no item has no category, so nothing is left"),
        ('[[rules]]\nrule = "price_band"\nleast = 9.0\nmost = 3.0', "3 is below 9, so nothing is left"),
        ('[[rules]]\nrule = "blocked"', "it names neither items nor sellers"),
        ("[quotas]\npopular = 0", "every source may bring 0 candidates, so nothing is left"),
        (EXPLORE + EXPLORE, "place 4 is both explore and explore"),
        ('[[slots]]\nkind = "pinned"\nplace = 0\nitem = "a"', "slots number 1.place: Expected `int` >= 1"),
        ('[[slots]]\nkind = "pinned"\nplace = 501\nitem = "a"', "slots number 1.place: Expected `int` <= 500"),
        (
            '[[slots]]\nkind = "pinned"\nplace = 1\nitem = "a"\n[[slots]]\nkind = "pinned"\nplace = 2\nitem = "a"',
            "a is pinned to two places",
        ),
        (
            '[[rules]]\nrule = "blocked"\nitems = ["a"]\n[[slots]]\nkind = "pinned"\nplace = 1\nitem = "a"',
            "a is pinned and blocked, so its place is never reached",
        ),
        (
            '[[rules]]\nrule = "cap"\nby = "sponsored"\nmost = 0\n[[slots]]\nkind = "sponsored"\nplaces = [3]',
            "sponsored places are never reached",
        ),
        (
            '[[slots]]\nkind = "follow"\nplaces = [1]\n[[slots]]\nkind = "follow"\nplaces = [2]',
            "slots: follow is there twice: name all its places in one",
        ),
        ('[[slots]]\nkind = "follow"\nplaces = [1]\nitems = 11', "slots number 1.items: Expected `int` <= 10"),
        ('[[slots]]\nkind = "follow"\nplaces = [1]\nby = "seller"', "slots number 1.by: Invalid enum value 'seller'"),
        (EXPLORE + "epsilon = 0.5", "epsilon belongs to epsilon_greedy, and this slot explores by thompson"),
        (EXPLORE + 'arms = "category"', "thompson over arms of category needs what the job beliefs learns"),
        (EXPLORE.replace("thompson", "linucb") + 'arms = "category"\n[beliefs]', "linucb's arms are items"),
        (EXPLORE + 'arms = "seller"', "slots number 1.arms: Invalid enum value 'seller'"),
        (EXPLORE + "pool = 1", "slots number 1.pool: Expected `int` >= 2"),
        ("[stability]\ntop = 5\nmoves = 5", "so nothing is held: make moves smaller than top"),
        ("[prior]\nclicks = 0.5", "prior.clicks: Expected `float` >= 1"),
    ],
)
def test_what_is_wrong_is_refused_with_what_to_do(text: str, says: str) -> None:
    assert says in refusal(text)


def test_the_default_policys_version_is_its_own() -> None:
    with pytest.raises(PolicyError, match="version: 1 is the default policy's own"):
        parse_policy('version = "1"\nrules = []')


def test_names_are_checked_against_the_bundle() -> None:
    policy = Policy(version="x", quotas={"popular": 3}, weights={"click": 1.0})
    check_names(policy, sources=["popular"], tasks=["click"])
    with pytest.raises(PolicyError, match="weights: click is unknown: there are cart"):
        check_names(policy, sources=["popular"], tasks=["cart"])
    with pytest.raises(PolicyError, match="quotas: popular is unknown: there are repeat"):
        check_names(policy, sources=["repeat"], tasks=["click"])


def test_the_policies_of_the_docs_are_accepted() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "policy.md").read_text()
    shown = [block.partition("```")[0] for block in page.split("```toml\n")[1:]]
    assert len(shown) >= 2
    for block in shown:
        parse_policy(block)
