"""riffle replay: logged lists made again from their decision records, and whether they are the same.

one list by its id, or many: rankings-log ─ models/replaying.py ─ identical, close, different, or not replayed and why
"""

from __future__ import annotations

import time
from typing import Annotated

import msgspec
import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from cli.connecting import connections, err, fail, out, plainly
from client.decisions import decision_of_list, logged, published_policies
from client.scan import Limits, Scanner
from models.replaying import IDENTICAL, Bundles, Outcome, Summary
from schemas import topics
from schemas.decision import DecisionError
from udfs.logic.replay import CannotReplay

_HOUR_MS = 3_600_000
_RECORDS = 50_000_000
_TOLD = 20  # lists that are not identical; --json has all


def replay(
    list_id: Annotated[str, typer.Argument(metavar="LIST_ID", help="Of a list of the last day.")] = "",
    last: Annotated[int | None, typer.Option(help="Instead of one list: the newest so many.", min=1)] = None,
    hours: Annotated[float | None, typer.Option(help="Instead: those of the last so many hours.", min=0)] = None,
    surface: Annotated[str | None, typer.Option(help="With --last or --hours: lists of this surface only.")] = None,
    bundles: Annotated[str, typer.Option(help="Folder of model bundles; default: the shipped ones.")] = "",
    limit_s: Annotated[float, typer.Option(help="How long it may take.", min=1)] = 600.0,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Make logged lists again and say whether they are the same, or what differs first. Exit code 1 where one differs.

    Examples:

        riffle replay 3f1c…

        riffle replay --last 10000

        riffle replay --hours 6 --surface home
    """
    if sum((bool(list_id), last is not None, hours is not None)) != 1:
        fail("Say which lists: one LIST_ID, or --last, or --hours.")
    if list_id and surface is not None:
        fail("--surface chooses among lists: leave it out beside a LIST_ID.")
    if list_id:
        _one(list_id, bundles, limit_s, json)
    else:
        _many(last, hours, surface, bundles, limit_s, json)


def replay_logged(
    scanner: Scanner,
    bundles: Bundles,
    progress: Progress,
    *,
    last: int | None = None,
    since_ms: int | None = None,
    surface: str | None = None,
) -> Summary:
    """Lists as client.decisions.logged chooses them, each replayed."""
    summary = Summary()
    policies = published_policies(scanner)
    task = progress.add_task("replayed", total=last)
    for decision in logged(scanner, last=last, since_ms=since_ms, surface=surface):
        if isinstance(decision, DecisionError):
            summary.leave_out("record cannot be read")
            continue
        try:
            summary.add(decision, bundles.judged(decision, policies))
        except CannotReplay as error:
            summary.leave_out(error.reason)
        except DecisionError:
            summary.leave_out("record cannot be read")
        progress.update(task, completed=summary.lists)
    return summary


def _one(list_id: str, bundles: str, limit_s: float, json: bool) -> None:
    with plainly(), Scanner(connections(), Limits(records=_RECORDS, seconds=limit_s)) as scanner:
        try:
            decision = decision_of_list(scanner, list_id)
        except DecisionError as error:
            fail(f"The record of list {list_id} cannot be used: {error}.")
        if decision is None:
            short = f"; the search was cut short after {limit_s:g} s" if scanner.cut_short else ""
            fail(f"List {list_id} has no record on {topics.RANKINGS_LOG}, which keeps a day{short}.")
        policies = published_policies(scanner)
    try:
        outcome = Bundles(bundles).judged(decision, policies)
    except CannotReplay as error:
        fail(str(error))
    except DecisionError as error:
        fail(f"The record of list {list_id} cannot be used: {error}.")
    if json:
        out.print_json(msgspec.json.encode(outcome).decode())
    else:
        _tell(outcome)
    if outcome.verdict == "different":
        raise typer.Exit(1)


def _many(last: int | None, hours: float | None, surface: str | None, bundles: str, limit_s: float, json: bool) -> None:
    since_ms = None if hours is None else int(time.time() * 1000 - hours * _HOUR_MS)
    bars = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with plainly(), Scanner(connections(), Limits(records=_RECORDS, seconds=limit_s)) as scanner:
        with Progress(*bars, console=err, transient=True, disable=not err.is_terminal) as progress:
            made = replay_logged(scanner, Bundles(bundles), progress, last=last, since_ms=since_ms, surface=surface)
        short = bool(scanner.cut_short)
    if json:
        out.print_json(msgspec.json.encode({"cut_short": short, **msgspec.to_builtins(made)}).decode())
    else:
        _tell_all(made)
        if short:
            out.print(f"Cut short after {limit_s:g} s: --limit-s allows more.", markup=False)
    if made.different:
        raise typer.Exit(1)
    if not made.lists and not json:
        fail(f"There is no such list on {topics.RANKINGS_LOG}, which keeps a day.")


def _tell(outcome: Outcome) -> None:
    said = {
        "identical": "every bit of its scores, places and propensities is the same",
        "close": f"equal but for scores that differ by {outcome.largest_gap:.1e} at most, on another runtime",
        "different": "it differs",
    }[outcome.verdict]
    out.print(
        f"List {outcome.list_id} of bundle {outcome.bundle}, policy {outcome.policy}: {said}.",
        markup=False,
        soft_wrap=True,
    )
    for line in outcome.differences:
        out.print(f"  {line}", markup=False, soft_wrap=True)
    if outcome.recorded_on != outcome.replayed_on:
        out.print(f"  recorded on {outcome.recorded_on}\n  replayed on {outcome.replayed_on}", markup=False)


def _tell_all(made: Summary) -> None:
    for outcome in made.listed[:_TOLD]:
        _tell(outcome)
    if len(made.listed) > _TOLD:
        out.print(f"… and {len(made.listed) - _TOLD} more; --json has them all.", markup=False)
    left_out = sum(made.not_replayed.values())
    out.print(
        f"{made.lists} lists: {made.identical} {IDENTICAL}, {made.close} equal but for scores {made.largest_gap:.1e} apart at "
        f"most, {made.different} different, {left_out} not replayed. {made.scored} were scored, the rest are fallbacks.",
        markup=False,
        soft_wrap=True,
    )
    for title, counts in (
        ("not replayed", made.not_replayed),
        ("policies", made.policies),
        ("bundles", made.bundles),
        ("arms", made.arms),
        ("fallbacks", made.fallbacks),
    ):
        if counts:
            said = ", ".join(f"{name} {count}" for name, count in sorted(counts.items(), key=lambda one: -one[1]))
            out.print(f"  {title}: {said}", markup=False, soft_wrap=True)
