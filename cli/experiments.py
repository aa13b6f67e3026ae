"""riffle experiments: definitions checked and published, and what they have shown."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from cli.cluster import publish
from cli.connecting import connections, err, fail, out, plainly
from schemas import topics
from schemas.control import PublishExperiments
from schemas.experiments import Definition, DefinitionError, faults, read_definition

app = typer.Typer(help="Experiments: who gets what, and what came of it.", no_args_is_help=True)

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
        value = msgspec.json.encode(PublishExperiments(definition))
        publish(connections(), topics.CONTROL, [(b"experiments", value)])
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
