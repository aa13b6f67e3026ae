"""riffle evaluate: rankers against baselines on files that the user names, by one protocol."""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from cli.connecting import err, fail, out, plainly
from client.errors import InvalidArgument
from client.importing import read_log
from models.baselines.contract import Tick
from models.evaluation import clickout_files, contenders, outcomes, report, session_files

app = typer.Typer(help="Compare rankers with baselines on your own files.", no_args_is_help=True)

_TELL_S = 30.0
_EXTRA = {"torch", "lightgbm", "matplotlib"}
Train = Annotated[Path, typer.Option("--train", metavar="FILE", help="What the models learn from.")]
Test = Annotated[Path, typer.Option("--test", metavar="FILE", help="What they are judged on.")]
Seeds = Annotated[int, typer.Option(help="How often each model is trained; the figures are means.", min=1, max=20)]
Minutes = Annotated[
    float, typer.Option(help="Fits end early, and it is said, where the whole would take longer.", min=1)
]
Folder = Annotated[
    Path | None, typer.Option("--out", metavar="DIR", help="Write report.md, report.json and plots there.")
]
_SESSION_MODELS = "dual_sequence,sasrec,gru4rec,v_sknn,item_knn,last_interacted,popularity"
_LIST_MODELS = "dual_sequence,lightgbm,last_interacted,popularity,as_displayed"


@app.command()
def sessions(
    train: Train,
    test: Test,
    models: Annotated[str, typer.Option(help="Which, by comma.")] = _SESSION_MODELS,
    seeds: Seeds = 1,
    minutes: Minutes = 25,
    folder: Folder = None,
) -> None:
    """Next item: rank all training items after every prefix of every test session; HR@20 and MRR@20.

    The files are CSV with session_id, item_id and, where known, ts (seconds, milliseconds or a date and time; without it
    the order of the lines counts). Repeated items are kept. Test events on items that training never saw are left out
    and counted. The last line is a JSON object: model to hr@20, mrr@20 and the number of prefixes.

    Example:

        riffle evaluate sessions --train train.csv --test test.csv --out report
    """
    with _plainly():
        chosen = {name: contenders.next_item(name) for name in _names(models, contenders.NEXT_ITEM)}
        begun = time.monotonic()
        split = session_files.read(train, test)
        with _watching() as watch:
            found = outcomes.on_sessions(split, chosen, seeds, watch, 60 * minutes - (time.monotonic() - begun))
        _tell(found, folder)


@app.command()
def trivago(
    train: Train,
    test: Test,
    models: Annotated[str, typer.Option(help="Which, by comma.")] = _LIST_MODELS,
    seeds: Seeds = 3,
    minutes: Minutes = 25,
    folder: Folder = None,
) -> None:
    """Re-rank the list that each clickout was made on, from what came before it; MRR over all, and each session's last.

    The files are parquet as of the RecSys Challenge 2019. Split them by session, as by the day it starts on; a session
    in both is refused. One file given as both: the sessions that start on its last day (UTC) are the test. Lists of
    fewer than two items are left out. The last line is a JSON object: model to mrr_all, mrr_last, n_all, n_last.

    Example:

        riffle evaluate trivago --train day1.parquet --test day2.parquet --out report
    """
    with _plainly():
        chosen = {name: contenders.reranker(name) for name in _names(models, contenders.RERANKERS)}
        begun = time.monotonic()
        fitted, asked = clickout_files.read(train, test)
        with _watching() as watch:
            left_s = 60 * minutes - (time.monotonic() - begun)
            found = outcomes.on_clickouts(fitted, asked, chosen, seeds, watch, left_s)
        _tell(found, folder)


@app.command()
def split(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A log: csv, csv.gz or parquet.")],
    train: Annotated[Path, typer.Option("--train", metavar="FILE", help="Where to write the sessions to train on.")],
    test: Annotated[Path, typer.Option("--test", metavar="FILE", help="Where to write the sessions to test on.")],
    days: Annotated[float, typer.Option(help="Sessions that begin within the last so many days are the test.")] = 14,
    gap: Annotated[float, typer.Option(help="Minutes without an event that end a session.")] = 30,
) -> None:
    """Cut a log of user, item, event and time into sessions, and those by time into the two files of `sessions`.

    Example:

        riffle evaluate split events.csv.gz --train train.csv --test test.csv --days 14
    """
    with _plainly():
        log = read_log(file)
        parts = session_files.cut(_events(log.events), gap, days)
        for path, lines in zip((train, test), parts):
            path.write_text("\n".join(lines) + "\n")
            out.print(f"{path}: {len(lines) - 1} events", highlight=False)


def _events(imported: list[Any]) -> Iterator[session_files.Event]:
    for one in imported:
        bought = one.body.get("props", {}).get("items", [])
        for item in [one.body["item_id"]] if "item_id" in one.body else [each["item_id"] for each in bought]:
            yield session_files.Event(one.body["user_id"], item, one.ts_ms)


def _names(models: str, known: tuple[str, ...]) -> list[str]:
    names = list(dict.fromkeys(name.strip() for name in models.split(",") if name.strip()))
    wrong = [name for name in names if name not in known]
    if wrong or not names:
        raise InvalidArgument(f"--models {wrong[0] if wrong else repr(models)}: choose from {', '.join(known)}.")
    return names


def _tell(found: outcomes.Comparison, folder: Path | None) -> None:
    for note in found.notes:
        err.print(note, markup=False, highlight=False)
    if folder is not None:
        report.write(found, shlex.join(["riffle", *sys.argv[1:]]), folder)
        err.print(f"Written: {folder / 'report.md'}", markup=False, highlight=False)
    print(json.dumps(report.summary(found)))


@contextmanager
def _watching() -> Iterator[Callable[[str], Tick]]:
    """One bar a piece of work on a terminal, elsewhere a line when it begins and every half minute; both on stderr."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err, disable=not err.is_terminal) as progress:

        def watch(what: str) -> Tick:
            if not err.is_terminal:
                err.print(what, markup=False, highlight=False)
            task, told = progress.add_task(what, total=None), time.monotonic()

            def tick(done: int, of: int) -> float:
                nonlocal told
                progress.update(task, completed=done, total=of)
                if not err.is_terminal and time.monotonic() - told > _TELL_S:
                    told = time.monotonic()
                    err.print(f"{what}: {done} of {of}", markup=False, highlight=False)
                return 0.0

            return tick

        yield watch


@contextmanager
def _plainly() -> Iterator[None]:
    with plainly():
        try:
            yield
        except session_files.InvalidFile as error:
            fail(str(error))
        except OSError as error:
            fail(f"{error.filename}: cannot be written ({error.strerror}): check the path.")
        except ModuleNotFoundError as error:
            if error.name not in _EXTRA:
                raise
            fail(f"This needs {error.name}, which is not installed: run `uv sync --extra train`.")
