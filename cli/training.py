"""riffle training-rows: what was shown and what came of it, as parquet files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from cli.connecting import connections, err, fail, out, plainly
from client.errors import InvalidArgument
from client.scan import Limits, Scanner
from client.training_files import ROWS, SERVED, Stored, TrainingFiles, export
from schemas import topics
from schemas.connections import Connections

app = typer.Typer(help="Training rows as parquet files.", no_args_is_help=True)

Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="Where the files are.")]
_CHUNK_LIMIT_S = 120.0  # of one stretch: longer means that Kafka is away


@app.command("export")
def export_rows(folder: Folder) -> None:
    """Write what is new on `training-rows` and `rankings-log` to parquet files, each record in exactly one. Repeat it at will.

    Example:

        riffle training-rows export /srv/riffle/training
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with plainly(), Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as progress:
        done = {}
        for files in _files(folder):
            topic = files.table.topic
            task = progress.add_task(topic, total=None)

            def say(now: int, total: int, task: TaskID = task) -> None:
                progress.update(task, completed=now, total=total)

            done[topic] = export(TopicRows(connections(), topic), files, say)
    for topic, one in done.items():
        what = "rows" if topic == topics.TRAINING_ROWS else "places of lists"
        out.print(f"{one.rows} {what} in {one.files} new files, {one.unreadable} records of {topic} that are none.")
    lost = [
        f"{topic} {partition}: {start} to {end}" for topic, one in done.items() for partition, start, end in one.lost
    ]
    if lost:
        fail(f"Kafka no longer had these offsets ({', '.join(lost)}): export more often than the topic's retention.")


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
    damage, written = [], 0
    with plainly():
        for files in _files(folder):
            written += sum(len(commit.files) for commit in files.commits())
            found = files.damaged()
            damage += [(files.folder.relative_to(folder) / one.path, one) for one in found]
            if repair and found:
                with files.writing():
                    for commit in {one.commit.name: one.commit for one in found}.values():
                        files.set_aside(commit)
    for path, one in damage:
        err.print(f"{path}: {one.what} (offsets {one.commit.start} to {one.commit.end})", markup=False)
    if damage and repair:
        err.print("Put aside in _damaged: export again, as long as the topic has those offsets.")
    elif damage:
        fail(f"{len(damage)} files are damaged: run it with --repair, then export again.")
    elif not written:
        fail(f"Nothing was ever exported to {folder}: name the folder that `riffle training-rows export` was given.")
    else:
        out.print(f"All {written} files are as they were written.")


def _files(folder: Path) -> list[TrainingFiles]:
    return [TrainingFiles(folder, ROWS), TrainingFiles(folder / "served", SERVED)]


class TopicRows:
    """client.training_files.Source over Kafka. Raises KafkaUnavailable."""

    def __init__(self, where: Connections, topic: str) -> None:
        self._where, self._topic = where, topic

    def extent(self) -> dict[int, tuple[int, int]]:
        with Scanner(self._where) as scanner:
            return scanner.extent(self._topic)

    def read(self, partition: int, start: int, end: int) -> Iterator[Stored]:
        with Scanner(self._where, Limits(seconds=_CHUNK_LIMIT_S)) as scanner:
            for record in scanner.stretch(self._topic, partition, start, end):
                yield _stored(record)
            if scanner.cut_short:
                raise InvalidArgument(
                    f"Offsets {start} to {end} of partition {partition} did not come within {_CHUNK_LIMIT_S:.0f} s: "
                    "run it again, nothing is lost."
                )


def _stored(record: Any) -> Stored:
    return Stored(record.partition, record.offset, record.timestamp, record.value)
