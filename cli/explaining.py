"""How a list came about, from its decision record: shown by riffle explain; and riffle why-not, for an item that is not in it."""

from __future__ import annotations

from typing import Annotated

import msgspec
import numpy as np
import typer
from rich.table import Table
from rich.text import Text

from cli.connecting import connections, fail, out, plainly
from client.decisions import newest_decisions
from client.scan import Limits, Scanner
from models.bundle import BundleError
from models.replaying import Bundles
from schemas import topics
from schemas.decision import DRAFT, FALLBACK, NOT_SHOWN, SHOWN, Decision, DecisionError
from schemas.ranking import DEFAULT_SURFACE
from udfs.logic.replay import CannotReplay, require_scored
from udfs.logic.slots import given_up

_UNKNOWN = "unknown"
_STAGES = ("retrieval", "rules", "score", "places", "shown")


class Placed(msgspec.Struct, frozen=True):
    """One place of a list. `given_up` is the best score that was still left, less its own: the price of diversity, caps and
    slots. `propensity` None: unknown."""

    item_id: str
    source: str
    score: float
    scores: dict[str, float]  # by task
    slot: str
    propensity: float | None
    given_up: float | None  # None: of a drafted list


class How(msgspec.Struct, frozen=True):
    """`removed` counts candidates by the rule that took them out; `note` says why something is missing here."""

    list_id: str
    policy: str
    candidates: int
    removed: dict[str, int]
    places: list[Placed]
    note: str | None = None


class WhyNot(msgspec.Struct, frozen=True):
    """`stage`: shown, retrieval, rules, score or places; `rank` among what was scored, from 1."""

    user: str
    item_id: str
    list_id: str
    stage: str
    because: str
    source: str | None = None
    rank: int | None = None
    score: float | None = None


def how_made(decision: Decision, bundles: Bundles) -> How:
    """What can be said of the list's places. What needs the ranker is left out where the list cannot be scored again."""
    if decision.draft is not None:
        return _how_drafted(decision, bundles)
    found, places = decision.candidates, decision.places
    prices = given_up(found.score_column(), places.candidate_column().tolist())
    by_task, note = dict[str, list[float]](), None
    try:
        require_scored(decision)
        by_task = bundles.task_scores(decision)
    except (CannotReplay, BundleError) as error:
        note = str(error)
    outcomes = [found.outcome(place) for place in range(len(found))]
    ids, chances = found.item_ids(), places.propensity_column().tolist()
    return How(
        decision.list_id,
        decision.policy,
        len(found),
        {name: outcomes.count(name) for name in dict.fromkeys(outcomes) if name not in (SHOWN, NOT_SHOWN)},
        [
            Placed(
                ids[candidate],
                found.source(candidate),
                round(float(found.score_column()[candidate]), 6),
                {task: round(scores[candidate], 6) for task, scores in by_task.items()},
                places.slot(place),
                None if np.isnan(chances[place]) else chances[place],
                round(prices[place], 6),
            )
            for place, candidate in enumerate(places.candidate_column().tolist())
        ],
        note,
    )


def _how_drafted(decision: Decision, bundles: Bundles) -> How:
    """Each place as the ranker that picked it had it; what rules removed, they removed from either ranking."""
    draft = decision.draft
    assert draft is not None  # else one ranker made the list
    alone = [how_made(one, bundles) for one in decision.rankings()]
    places_of = {f"{DRAFT}{arm}": {one.item_id: one for one in how.places} for arm, how in zip(draft.arms, alone)}
    places = []
    for place, item_id in enumerate(decision.shown()):
        slot = decision.places.slot(place)
        picked = places_of[slot][item_id]
        places.append(msgspec.structs.replace(picked, slot=slot, propensity=None, given_up=None))
    removed: dict[str, int] = {}
    for how in alone:
        for name, count in how.removed.items():
            removed[name] = removed.get(name, 0) + count
    rankers = " and ".join(f"{arm} ({one.bundle}, {one.policy})" for arm, one in zip(draft.arms, decision.rankings()))
    note = f"drafted of two rankers for {draft.experiment}: {rankers}; their scores do not compare"
    candidates = sum(how.candidates for how in alone)
    return How(decision.list_id, decision.policy, candidates, removed, places, note)


def how_view(how: How, k: int) -> Table:
    """A table of the places, and a line of what the rules did."""
    rules = ", ".join(f"{name} {count}" for name, count in how.removed.items()) or "nothing"
    title = f"made by policy {how.policy} of {how.candidates} candidates; rules took out: {rules}"
    table = Table(title=Text(title), title_justify="left", caption=how.note, caption_justify="left")
    for name in ("#", "item", "source", "score", "by task", "slot", "propensity", "given up"):
        table.add_column(name)
    for number, one in enumerate(how.places[:k], start=1):
        tasks = ", ".join(f"{task} {score:+.3f}" for task, score in one.scores.items())
        chance = _UNKNOWN if one.propensity is None else f"{one.propensity:.4g}"
        table.add_row(
            str(number),
            Text(one.item_id),
            one.source,
            f"{one.score:.4f}",
            tasks,
            one.slot,
            chance,
            "" if one.given_up is None else f"{one.given_up:.4f}",
        )
    return table


def how_of_newest(key: str, surface: str, list_id: str, seconds: float, bundles: str) -> How | str:
    """Of the list that the user has now; or why there is nothing to say."""
    with Scanner(connections(), Limits(seconds=seconds)) as scanner:
        try:
            decision = newest_decisions(scanner, {key}, surface).get(key)
            if decision is None or decision.list_id != list_id:
                return f"It has no record on {topics.RANKINGS_LOG}, which keeps a day: how it was made is not known any more."
            return how_made(decision, Bundles(bundles))
        except DecisionError as error:
            return f"Its decision record cannot be used: {error}."


def why_not(
    user: Annotated[str, typer.Argument(metavar="USER", help="A user id; or a session id, with --session.")],
    item: Annotated[str, typer.Argument(metavar="ITEM", help="The item that is missed.")],
    surface: Annotated[str, typer.Option(help="Where the list is shown.")] = DEFAULT_SURFACE,
    session: Annotated[bool, typer.Option("--session", help="USER is the session id of an anonymous user.")] = False,
    seconds: Annotated[float, typer.Option(help="How long to look for the record.", min=1)] = 60.0,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say at which stage an item fell out of a user's newest list.

    Example:

        riffle why-not alice shoe-7
    """
    key = f"s:{user}" if session else f"u:{user}"
    with plainly(), Scanner(connections(), Limits(seconds=seconds)) as scanner:
        try:
            decision = newest_decisions(scanner, {key}, surface).get(key)
        except DecisionError as error:
            fail(f"The newest record of {user} on {surface} cannot be used: {error}.")
    if decision is None:
        fail(f"{user} has no record on {topics.RANKINGS_LOG} for {surface}, which keeps a day.")
    found = fell_out(decision, user, item)
    if json:
        out.print_json(msgspec.json.encode(found).decode())
    else:
        out.print(f"{found.item_id}: {found.because} (list {found.list_id})", markup=False)


def fell_out(decision: Decision, user: str, item: str) -> WhyNot:
    """Where the item's way ended, by the record alone."""
    found, ids = decision.candidates, decision.candidates.item_ids()
    if decision.draft is not None and item not in ids:
        return _fell_out_of_both(decision, user, item)

    def ended(stage: str, because: str, **fields: object) -> WhyNot:
        return WhyNot(user, item, decision.list_id, stage, because, **fields)  # type: ignore[arg-type]

    if item not in ids:
        if FALLBACK in decision.places.slot_names:
            return ended("retrieval", f"the list is a fallback ({decision.fallback}) and the item was not in it")
        if not decision.complete:
            return ended("retrieval", "it was not shown, and this record holds only what was: raise --decisions-share")
        asked = "the caller did not name it" if decision.requested else "no source brought it"
        return ended("retrieval", f"it was not among the {len(ids)} candidates: {asked}")
    place = ids.index(item)
    outcome, source = found.outcome(place), found.source(place)
    if outcome == SHOWN:
        at = decision.places.candidate_column().tolist().index(place) + 1
        return ended("shown", f"it is in the list, at place {at}", source=source)
    if outcome != NOT_SHOWN:
        return ended("rules", f"the rule {outcome} took it out; it came from {source}", source=source)
    if FALLBACK in decision.places.slot_names:
        return ended(
            "places", f"the list is a fallback ({decision.fallback}), and it came after its places", source=source
        )
    scores = found.score_column()
    rank = int((scores > scores[place]).sum()) + 1
    shown = len(decision.places.slots)
    fields = {"source": source, "rank": rank, "score": round(float(scores[place]), 6)}
    if rank > shown:
        return ended("score", f"its score was number {rank}, and the list has {shown} places", **fields)
    return ended(
        "places",
        f"its score was number {rank} of {shown} places, but diversity, caps or slots gave them to others",
        **fields,
    )


def _fell_out_of_both(decision: Decision, user: str, item: str) -> WhyNot:
    """Of a list drafted of two rankings: where the item's way ended in each, and the stage where it got further."""
    draft = decision.draft
    assert draft is not None  # else one ranker made the list
    ends = [fell_out(one, user, item) for one in decision.rankings()]
    furthest = max(ends, key=lambda one: _STAGES.index(one.stage))
    said = "; ".join(f"{arm}: {_alone(one)}" for arm, one in zip(draft.arms, ends))
    stage = "places" if furthest.stage == "shown" else furthest.stage
    return WhyNot(user, item, decision.list_id, stage, said, furthest.source, rank=furthest.rank, score=furthest.score)


def _alone(end: WhyNot) -> str:
    if end.stage != "shown":
        return end.because
    return f"{end.because} that this ranker would have shown alone, and its turns went to others"
