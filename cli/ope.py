"""riffle ope: what a policy would have earned, from the logs of another one; or why that cannot be told."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.table import Table

from cli.connecting import err, fail, out
from proof import lists, open_bandit
from proof.off_policy import ESTIMATORS, Report, refuse

app = typer.Typer(help="Off-policy evaluation: estimates, or a refusal with its reason.", no_args_is_help=True)

Clip = Annotated[str, typer.Option(help="Largest weight, or none.")]
_TITLES = {"ips": "IPS", "snips": "SNIPS", "dr": "doubly robust", "switch_dr": "switch-DR"}


@app.callback()
def _group() -> None:
    """Off-policy evaluation: estimates, or a refusal with its reason."""


@app.command("open-bandit")
def of_open_bandit(
    path: Annotated[Path, typer.Option(metavar="DIR", help="Folder of Open Bandit files.")],
    campaign: Annotated[str, typer.Option(help="men, women, or another that the folder has.")] = "men",
    logs: Annotated[str, typer.Option(help="Whose logs: bts or random.")] = "bts",
    target: Annotated[str, typer.Option(help="Which policy is evaluated: uniform or bts.")] = "uniform",
    clip: Clip = "none",
    seed: Annotated[int, typer.Option(help="Of the bootstrap and of the folds.", min=0)] = 0,
) -> None:
    """Estimate the click rate of a policy from Open Bandit files. The last line is JSON; `refused` says not to trust it.

    The exit code is 0 for a refusal too: it is an answer. It is 1 where the files cannot be read.

    Example:

        riffle ope open-bandit --path obd --campaign women --logs bts --target uniform --clip 10
    """
    for name, value, known in (("logs", logs, open_bandit.LOGS), ("target", target, open_bandit.TARGETS)):
        if value not in known:
            fail(f"--{name} {value} is unknown: it is {' or '.join(known)}.")
    asked = {"campaign": campaign, "logs": logs, "target": target}
    limit = _limit(clip)
    try:
        answer = open_bandit.evaluate_files(path, campaign, logs, target, limit, seed)
    except open_bandit.FileError as error:
        err.print(str(error), style="red", markup=False, highlight=False, soft_wrap=True)
        _last_line(refuse("unreadable", str(error)), asked)
        raise typer.Exit(1) from error
    show(answer.report, f"{target} on the logs of {logs}, {campaign}", answer.notes, answer.reference)
    _last_line(answer.report, {**asked, "reference": answer.reference, "notes": answer.notes})


@app.command("rows")
def of_rows(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where `riffle training-rows export` wrote.")],
    target: Annotated[
        Path, typer.Option(metavar="FILE", help="Parquet or CSV: list_id, rank, item_id, probability of the target.")
    ],
    outcome: Annotated[str, typer.Option(help="What counts: click, dwell, cart, purchase or return.")] = "click",
    slate: Annotated[str, typer.Option(help="independent places, or cascade: from the top down.")] = "independent",
    clip: Clip = "none",
    seed: Annotated[int, typer.Option(help="Of the bootstrap and of the folds.", min=0)] = 0,
) -> None:
    """Estimate a policy's rate of outcomes per exposure from training rows. The last line is JSON, as of open-bandit.

    Rows without a propensity are not guessed at: with any of them the estimate is refused.

    Example:

        riffle ope rows /srv/riffle/training --target candidate-policy.parquet --outcome click
    """
    if slate not in lists.SLATES:
        fail(f"--slate {slate} is unknown: it is {' or '.join(lists.SLATES)}.")
    asked = {"outcome": outcome, "slate": slate}
    try:
        report, notes = lists.evaluate_rows(folder, target, outcome, slate, _limit(clip), seed)
    except lists.RowsError as error:
        err.print(str(error), style="red", markup=False, highlight=False, soft_wrap=True)
        _last_line(refuse("unreadable", str(error)), asked)
        raise typer.Exit(1) from error
    show(report, f"{target.name} on {folder}, {outcome}", notes)
    _last_line(report, {**asked, "notes": notes})


def show(report: Report, title: str, notes: list[str], reference: float | None = None) -> None:
    """The figures as a table, then what is to be said of them."""
    table = Table("estimator", "estimate", f"{report.level:.0%} interval", title=title, title_justify="left")
    for name in ESTIMATORS:
        value = getattr(report, name)
        if value is not None:
            low, high = report.intervals[name]
            table.add_row(_TITLES[name], f"{value:.6f}", f"{low:.6f} to {high:.6f}")
    if table.row_count:
        out.print(table)
    lines = []
    if report.ess is not None and report.weights is not None:
        weights = report.weights
        lines.append(
            f"{report.rows:,} rows, {report.rewarded_rows:,} with a reward; effective sample size {report.ess:,.1f}; weights: "
            f"mean {weights.mean:.4f}, median {weights.p50:.4g}, p99 {weights.p99:.4g}, largest {weights.max:,.4g} "
            f"({weights.largest_share:.2%} of all), {weights.clipped_rows} clipped."
        )
    if report.logged_rate is not None:
        lines.append(f"Mean reward of the logs: {report.logged_rate:.6f}.")
    if reference is not None:
        lines.append(f"Mean reward of the target's own logs: {reference:.6f}.")
    for line in (*lines, *notes, *report.warnings):
        out.print(line, markup=False, highlight=False, soft_wrap=True)
    if report.refused:
        out.print(f"REFUSED: {report.reason}", style="red", markup=False, highlight=False, soft_wrap=True)


def _limit(clip: str) -> float | None:
    if clip == "none":
        return None
    try:
        limit = float(clip)
    except ValueError:
        limit = 0.0
    if not 0 < limit < float("inf"):
        fail(f"--clip {clip}: write a number above 0, or none.")
    return limit


def _last_line(report: Report, more: Mapping[str, object]) -> None:
    typer.echo(msgspec.json.encode({**msgspec.to_builtins(report), **more}).decode())
