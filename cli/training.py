"""riffle training-rows: the job that joins what was shown with what came of it, and its rows as parquet."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from cli.cluster import RunDir, stage_app
from cli.connecting import connections, err, fail, out, plainly
from client.errors import InvalidArgument
from client.scan import Limits, Scanner
from client.training_files import Stored, TrainingFiles, export
from local.errors import LocalError
from local.stack import DEFAULT_RUN_DIR, Stack
from schemas import topics
from schemas.connections import Connections

app = typer.Typer(help="Training rows: the job that makes them, and the same as parquet files.", no_args_is_help=True)

Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="Where the files are.")]
_JOB = Path(__file__).resolve().parents[1] / "jobs" / "training_log.py"
_CHUNK_LIMIT_S = 120.0  # of one stretch: longer means that Kafka is away


@app.command()
def submit(
    run_dir: RunDir = DEFAULT_RUN_DIR,
    savepoint: Annotated[str | None, typer.Option(help="Savepoint to start from.")] = None,
) -> None:
    """Submit the training log to the local cluster. It takes a slot of its own: `riffle up --task-managers 2`.

    Example:

        riffle training-rows submit
    """
    try:
        stack = Stack(run_dir, say=err.print)
        if not stack.status().up:
            fail("The local stack is not up: run `riffle up --task-managers 2` first.")
        job_id = submit_training_log(stack, savepoint=savepoint)
        err.print("Submitted; waiting until every task runs.")
        stack.wait_running(job_id)
    except LocalError as error:
        fail(str(error))
    typer.echo(job_id)


def submit_training_log(
    stack: Stack, args: list[str] | None = None, *, savepoint: str | None = None, where: Connections | None = None
) -> str:
    """The job's id. `args` are further options of the job."""
    where = where or stack.connections()
    named = ["--brokers", where.brokers, *(["--namespace", where.namespace] if where.namespace else []), *(args or [])]
    return stack.submit(_JOB, named, [stage_app(stack.run_dir / "app-training-log")], savepoint)


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
