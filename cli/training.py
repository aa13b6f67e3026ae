"""riffle training-rows: what was shown and what came of it, as parquet files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from cli.connecting import connections, err, fail, out, plainly
from client.errors import InvalidArgument
from client.scan import Limits, Scanner
from client.training_files import Stored, TrainingFiles, export
from schemas import topics
from schemas.connections import Connections

app = typer.Typer(help="Training rows as parquet files.", no_args_is_help=True)

Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="Where the files are.")]
_CHUNK_LIMIT_S = 120.0  # of one stretch: longer means that Kafka is away


@app.command("export")
def export_rows(folder: Folder) -> None:
    """Write what is new on `training-rows` to parquet files, each record in exactly one. Repeat it as often as you like.

    Example:

        riffle training-rows export /srv/riffle/training
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with plainly(), Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as progress:
        task = progress.add_task("offsets", total=None)
        source = TopicRows(connections())
        done = export(
            source, TrainingFiles(folder), lambda now, total: progress.update(task, completed=now, total=total)
        )
    out.print(f"{done.rows} rows in {done.files} new files, {done.unreadable} records that are no rows.")
    if done.lost:
        stretches = ", ".join(f"partition {partition}: {start} to {end}" for partition, start, end in done.lost)
        fail(f"Kafka no longer had these offsets ({stretches}): export more often than the topic's retention.")


@app.command()
def check(
    folder: Folder,
    repair: Annotated[
        bool, typer.Option("--repair", help="Put damaged files aside, so that the next export writes them again.")
    ] = False,
) -> None:
    """Compare every file with what was written: size and SHA-256. Exit code 1 where one differs.

    Example:

        riffle training-rows check /srv/riffle/training --repair
    """
    files = TrainingFiles(folder)
    with plainly():
        damage = files.damaged()
        if repair and damage:
            with files.writing():
                for commit in {one.commit.name: one.commit for one in damage}.values():
                    files.set_aside(commit)
    for one in damage:
        err.print(f"{one.path}: {one.what} (offsets {one.commit.start} to {one.commit.end})", markup=False)
    if damage and repair:
        err.print("Put aside in _damaged: export again, as long as the topic has those offsets.")
    elif damage:
        fail(f"{len(damage)} files are damaged: run it with --repair, then export again.")
    else:
        out.print("Every file is as it was written.")


class TopicRows:
    """client.training_files.Source over Kafka. Raises KafkaUnavailable."""

    def __init__(self, where: Connections) -> None:
        self._where = where

    def extent(self) -> dict[int, tuple[int, int]]:
        with Scanner(self._where) as scanner:
            return scanner.extent(topics.TRAINING_ROWS)

    def read(self, partition: int, start: int, end: int) -> Iterator[Stored]:
        with Scanner(self._where, Limits(seconds=_CHUNK_LIMIT_S)) as scanner:
            for record in scanner.stretch(topics.TRAINING_ROWS, partition, start, end):
                yield _stored(record)
            if scanner.cut_short:
                raise InvalidArgument(
                    f"Offsets {start} to {end} of partition {partition} did not come within {_CHUNK_LIMIT_S:.0f} s: "
                    "run it again, nothing is lost."
                )


def _stored(record: Any) -> Stored:
    return Stored(record.partition, record.offset, record.timestamp, record.value)
