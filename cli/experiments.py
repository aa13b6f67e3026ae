"""riffle experiments: definitions checked and published, and what they have shown."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.table import Table

from cli.cluster import publish
from cli.connecting import connections, err, fail, out, plainly
from client.errors import InvalidArgument
from client.scan import Limits, Scanner
from proof.interleaved import Interleaved, markdown_interleaved, report_interleaved
from proof.report import report
from proof.report_page import markdown, plot
from proof.statistics import Effect
from proof.units import UnitsError, read_units, units_of_rows
from schemas import topics
from schemas.connections import Connections
from schemas.control import PublishExperiments, control_record
from schemas.experiment_metrics import UnitMetrics, decode_unit
from schemas.experiments import Definition, DefinitionError, Experiment, faults, read_definition

app = typer.Typer(help="Experiments: who gets what, and what came of it.", no_args_is_help=True)

_RECORDS = 50_000_000

File = Annotated[Path, typer.Argument(metavar="FILE", help="The definition, TOML.")]
Bundles = Annotated[
    Path | None, typer.Option(help="Folder of bundles: an arm that names another one is a fault.", show_default=False)
]
Policies = Annotated[
    list[str] | None, typer.Option("--policy", help="A policy version that is published; may be repeated.")
]


@app.callback()
def _group() -> None:
    """Experiments: who gets what, and what came of it."""


@app.command()
def check(file: File, bundles: Bundles = None, policies: Policies = None) -> None:
    """Say everything that is wrong with a definition. Exit code 1 where something is.

    Example:

        riffle experiments check experiments.toml --bundles /srv/riffle/bundles
    """
    definition = _checked(file, bundles, policies)
    units = " and a holdout" if definition.holdout else ""
    out.print(
        f"{file}: version {definition.version}, {sum(1 for _ in definition.experiments())} experiments in "
        f"{len(definition.layers)} layers{units}, nothing wrong.",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


@app.command("publish")
def publish_definition(file: File, bundles: Bundles = None, policies: Policies = None) -> None:
    """Check a definition and give it to the running job, in place of the one it has.

    Example:

        riffle experiments publish experiments.toml
    """
    definition = _checked(file, bundles, policies)
    with plainly():
        publish(connections(), topics.CONTROL, [control_record(PublishExperiments(definition))])
    err.print(f"Published {definition.version}; the receipt of each list names its arms.", markup=False)


def _checked(file: Path, bundles: Path | None, policies: list[str] | None) -> Definition:
    try:
        definition = read_definition(file)
    except DefinitionError as error:
        fail(str(error))
    known = None
    if bundles is not None:
        if not bundles.is_dir():
            fail(f"{bundles} is no folder.")
        known = {path.name for path in bundles.iterdir() if (path / "manifest.json").is_file()}
    found = faults(definition, known, policies or None)
    for sentence in found:
        err.print(sentence, style="red", markup=False, highlight=False, soft_wrap=True)
    if found:
        raise typer.Exit(1)
    return definition


@app.command("report")
def report_on(
    file: File,
    name: Annotated[str, typer.Argument(metavar="EXPERIMENT", help="Its name in the definition.")],
    units: Annotated[
        Path | None, typer.Option(help="JSON lines of per-unit metrics, instead of the topic.", show_default=False)
    ] = None,
    rows: Annotated[
        Path | None, typer.Option(help="Folder of exported training rows, instead of the topic.", show_default=False)
    ] = None,
    surface: Annotated[str | None, typer.Option(help="Only this surface.", show_default=False)] = None,
    segment: Annotated[str | None, typer.Option(help="Only this segment (device).", show_default=False)] = None,
    limit_s: Annotated[float, typer.Option(help="How long to read Kafka.", min=1)] = 120.0,
    page: Annotated[
        Path | None, typer.Option("--out", help="Markdown file; the plot is put beside it as PNG.", show_default=False)
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Say what an experiment has shown. Look as often as you like: the intervals hold at every look.

    Example:

        riffle experiments report experiments.toml ranker-4 --out ranker-4.md
    """
    experiment = _named(file, name)
    if units is not None and rows is not None:
        fail("Say where the data is: --units FILE, or --rows FOLDER, or neither for the topic.")
    if rows is not None and experiment.kind == "interleaved":
        fail(f"{name} is interleaved, and training rows do not tell who won a list: leave --rows out.")
    try:
        if units is not None:
            records = read_units(units)
        elif rows is not None:
            records = list(units_of_rows(rows, experiment))
        else:
            with plainly():
                records = units_on_topic(connections(), limit_s)
    except UnitsError as error:
        fail(str(error))
    records = [one for one in records if surface in (None, one.surface) and segment in (None, one.segment)]
    if experiment.kind == "interleaved":
        _say_interleaved(report_interleaved(experiment, records), page, json)
        return
    found = report(experiment, records)
    if page is not None:
        try:
            plot(found, page.with_suffix(".png"))
            page.write_text(markdown(found, page.with_suffix(".png").name))
        except OSError as error:
            fail(f"{page} cannot be written: {error.strerror}.")
        except ModuleNotFoundError:
            fail("The plot needs matplotlib: uv sync --extra report.")
        err.print(f"Written: {page} and {page.with_suffix('.png').name}.", markup=False, soft_wrap=True)
    if json:
        out.print_json(msgspec.json.encode(found).decode())
        return
    table = Table("metric", "arm", "control", "arm's", "difference", "at all times between", "p (Holm)", "guardrail")
    for row in found.rows:
        one = row.effect
        values = ("", "", "too few units", "") if one is None else _figures(one)
        p = "" if row.adjusted_p is None else f"{row.adjusted_p:.3g}"
        table.add_row(row.metric, row.arm, *values, p, row.guardrail or "")
    out.print(table)
    arms = ", ".join(f"{arm} {count:,}" for arm, count in found.units.items())
    out.print(f"Units: {arms}. Sample ratio: p = {found.sample_ratio_p:.3g}.", highlight=False, soft_wrap=True)
    for why, count in found.left_out.items():
        out.print(f"Left out: {count} units, {why}.", highlight=False)
    for sentence in found.conclusion:
        out.print(sentence, markup=False, highlight=False, soft_wrap=True)


def _say_interleaved(found: Interleaved, page: Path | None, json: bool) -> None:
    if page is not None:
        try:
            page.write_text(markdown_interleaved(found))
        except OSError as error:
            fail(f"{page} cannot be written: {error.strerror}.")
        err.print(f"Written: {page}.", markup=False, soft_wrap=True)
    if json:
        out.print_json(msgspec.json.encode(found).decode())
        return
    table = Table("arm", "units that prefer it", "lists won", "clicks")
    for arm, count in found.units.items():
        table.add_row(arm, f"{count:,}", f"{found.lists_won[arm]:,}", f"{found.clicks[arm]:,}")
    out.print(table)
    out.print(f"Units without a preference: {found.tied:,}. Drafted lists: {found.lists:,}.", highlight=False)
    for why, count in found.left_out.items():
        out.print(f"Left out: {count} units, {why}.", highlight=False)
    for sentence in found.conclusion:
        out.print(sentence, markup=False, highlight=False, soft_wrap=True)


def units_on_topic(where: Connections, limit_s: float) -> list[UnitMetrics]:
    """The newest totals of each key. Raises InvalidArgument where the time limit ends the reading."""
    newest: dict[bytes, UnitMetrics] = {}
    with Scanner(where, Limits(records=_RECORDS, seconds=limit_s)) as scanner:
        for record in scanner.since(topics.EXPERIMENT_UNITS, 0):
            try:
                newest[record.key] = decode_unit(record.value or b"")
            except (msgspec.DecodeError, UnicodeDecodeError):
                continue  # of another release
        if scanner.cut_short:
            raise InvalidArgument(f"{topics.EXPERIMENT_UNITS} was not read to its end: choose a longer --limit-s.")
    return list(newest.values())


def _figures(one: Effect) -> tuple[str, str, str, str]:
    return f"{one.control:.5g}", f"{one.value:.5g}", f"{one.difference:+.5g}", f"{one.low:+.5g} to {one.high:+.5g}"


def _named(file: Path, name: str) -> Experiment:
    definition = _checked(file, None, None)
    named = {one.name: one for _, one in definition.experiments()}
    if name not in named:
        fail(f"{file} has no experiment {name}: it has {', '.join(named)}.")
    return named[name]
