"""riffle replay: a logged list made again from its decision record, and whether it is the same."""

from __future__ import annotations

from typing import Annotated

import msgspec
import typer

from cli.connecting import connections, fail, out, plainly
from cli.policy import read_catalogue
from client.decisions import decision_of_list, published_policies
from client.scan import Limits, Scanner
from models.bundle import BundleError
from models.replaying import Bundles
from models.runtime import runtime
from models.vocabulary import Describe
from schemas import topics
from schemas.decision import Decision, DecisionError
from schemas.items import Item
from schemas.policy import Policy
from udfs.logic.replay import CLOSE, CannotReplay, Replayed

Seconds = Annotated[float, typer.Option(help="How long to look for the record.", min=1)]


class Outcome(msgspec.Struct, frozen=True):
    """`verdict`: identical; close, where only scores differ, by less than CLOSE, on another runtime; or different."""

    list_id: str
    verdict: str
    differences: list[str]
    largest_gap: float
    bundle: str
    policy: str
    recorded_on: str
    replayed_on: str


def replay(
    list_id: Annotated[str, typer.Argument(metavar="LIST_ID", help="Of a list of the last day.")],
    bundles: Annotated[str, typer.Option(help="Folder of model bundles; default: the shipped ones.")] = "",
    seconds: Seconds = 60.0,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Make a logged list again and say whether it is the same, or what differs first. Exit code 1 where it differs.

    Example:

        riffle replay 3f1c…
    """
    decision, policies, catalogue = found_record(list_id, seconds)
    try:
        outcome = judged(decision, Bundles(bundles, groups_in(catalogue)).replay_any(decision, policies))
    except (CannotReplay, BundleError) as error:
        fail(str(error))
    if json:
        out.print_json(msgspec.json.encode(outcome).decode())
    else:
        said = {
            "identical": "every bit of its scores, places and propensities is the same",
            "close": f"equal but for scores that differ by {outcome.largest_gap:.1e} at most, on another runtime",
            "different": "it differs",
        }[outcome.verdict]
        out.print(f"List {list_id} of bundle {outcome.bundle}, policy {outcome.policy}: {said}.", markup=False)
        for line in outcome.differences:
            out.print(f"  {line}", markup=False)
        if outcome.recorded_on != outcome.replayed_on:
            out.print(f"  recorded on {outcome.recorded_on}\n  replayed on {outcome.replayed_on}", markup=False)
    if outcome.verdict == "different":
        raise typer.Exit(1)


def found_record(list_id: str, seconds: float) -> tuple[Decision, dict[str, Policy], dict[str, Item]]:
    """The record of a list, the policies that it names, by version, and the catalogue as it is now."""
    with plainly(), Scanner(connections(), Limits(seconds=seconds)) as scanner:
        try:
            decision = decision_of_list(scanner, list_id)
            if decision is None:
                short = f"; the search was cut short after {seconds:g} s" if scanner.cut_short else ""
                fail(f"List {list_id} has no record on {topics.RANKINGS_LOG}, which keeps a day{short}.")
            return decision, policies_of(decision, scanner), read_catalogue(scanner)
        except DecisionError as error:
            fail(f"The record of list {list_id} cannot be used: {error}.")


def policies_of(decision: Decision, scanner: Scanner) -> dict[str, Policy]:
    """The policies that a record names; of a drafted list, those of both rankers."""
    published = published_policies(scanner)
    named = {one.policy for one in (decision, *decision.rankings())}
    for version in sorted(named - published.keys()):
        fail(f"Policy {version} of list {decision.list_id} is not on {topics.CONTROL}: publish its file again.")
    return {version: published[version] for version in named}


def groups_in(catalogue: dict[str, Item]) -> Describe:
    """As bundles ask for the groups of items that they do not know."""
    return lambda item_id: (one.subcategory, one.category) if (one := catalogue.get(item_id)) else None


def judged(decision: Decision, made: Replayed) -> Outcome:
    here = runtime()
    close = made.same_items and made.gap <= CLOSE and here != decision.runtime
    verdict = "identical" if made.identical else "close" if close else "different"
    return Outcome(
        decision.list_id,
        verdict,
        made.differences,
        made.gap,
        decision.bundle,
        decision.policy,
        decision.runtime,
        here,
    )
