"""Train: the dual-sequence ranker on a log of one's own, and what it is worth beside what needs no training.

    riffle train --events events.csv --out bundles --version mine-1

events (csv, parquet) ─┬─ visits ─┬─ all but the newest ─ training ─ bundle ─┐
training rows ─────────┘          └─ the newest ─────────────────────────────┴─ hit rate, beside counted neighbours and popularity
"""

from __future__ import annotations

import json
import math
import shlex
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from cli.connecting import err, fail, out, plainly
from cli.importing import mapping
from client.errors import InvalidArgument
from client.importing import read_items
from client.log_files import EVENTS, ITEMS, files_of, read_records
from models import own_log
from models.assemble import popularity_of
from models.bundle import Bundle, BundleError
from models.debiased import TooFewPlaces, click_rates
from models.from_log import bundle_from_log, in_order, sessions_of
from models.own_log import InvalidRows, Visit
from models.vocabulary import build_vocabulary
from schemas.event import Event, Rejected, parse_event
from schemas.items import Item, decode_item

_FEWEST = 200  # lists to learn from: below, a ranker learns noise
# Without lists that were shown nothing says what was passed over: the task `next` is all there is to learn.
_OF_ACTS: dict[str, Any] = {
    "bce": 0.0,
    "listwise": 0.0,
    "next_listwise": 0.0,
    "sampled": 1.0,
    "own_rate": 1.0,
    "own_decay": 0.05,
}
_NEXT_ONLY = {"click": 0.0, "cart": 0.0, "purchase": 0.0, "next": 1.0}


def train(
    events: Annotated[Path, typer.Option(help="Your log: csv, csv.gz or parquet, or a folder of them.")],
    rows: Annotated[
        Path | None, typer.Option(help="Training rows in parquet: the lists that were shown, and what came of them.")
    ] = None,
    items: Annotated[
        Path | None, typer.Option(help="Your catalogue, likewise; else what the log says of items.")
    ] = None,
    columns: Annotated[
        list[str] | None, typer.Option("--column", help="Which column is what, such as user=customer; may be repeated.")
    ] = None,
    folder: Annotated[Path, typer.Option("--out", help="The folder of bundles.")] = Path("bundles"),
    version: Annotated[str | None, typer.Option(help="Name of the bundle. Default: own and the time.")] = None,
    runs: Annotated[Path, typer.Option(help="Where checkpoints, figures and curves of runs are kept.")] = Path(".runs"),
    test: Annotated[
        float, typer.Option(help="Share of visits, the newest, to judge by; the rest is learnt from.")
    ] = 0.1,
    changed: Annotated[
        list[str] | None, typer.Option("--set", help="A setting of `python -m models.train`, such as epochs=8.")
    ] = None,
    debias: Annotated[
        bool,
        typer.Option(
            help="Popularity from the places that chance filled, by inverse propensity: what was shown more counts no more."
        ),
    ] = False,
    resume: Annotated[bool, typer.Option(help="Go on where a killed run of this --version was.")] = False,
) -> None:
    """Train the ranker on your own events, write a bundle for the job, and say what it is worth on the newest visits.

    Without --rows it learns what is acted on next; with them, also what was passed over, put into carts and bought. Needs the
    extra `train`: uv sync --extra train.

    Examples:

        riffle train --events events.csv --out bundles --version mine-1

        riffle train --events events.csv --rows training/rows --out bundles --version mine-2
    """
    begun_s = time.monotonic()
    name = version or f"own-{datetime.now(timezone.utc):%Y%m%d-%H%M}"
    with _plainly():
        if (folder / name).exists():
            raise InvalidArgument(f"{folder / name} exists, and bundles do not change: give another --version.")
        if not 0 <= test <= 0.5:
            raise InvalidArgument(f"--test {test}: give a share from 0 to 0.5.")
        if debias and rows is None:
            raise InvalidArgument(
                "--debias needs --rows: a log of events alone does not say what was shown, and with what chance."
            )
        heard, skipped = read_events(events, mapping(columns or []))
        for reason, times in sorted(skipped.items()):
            err.print(f"{times} rows left out: {reason}", markup=False, highlight=False)
        lists = None if rows is None else own_log.lists_of_rows(rows)
        catalogue = read_catalogue(items, events, mapping(columns or []), heard, lists)
        learnt, newest = own_log.newest_apart(own_log.visits_of(heard, lists), test)
        shown = sum(len(visit.exposures) for visit in learnt)
        out.print(
            f"{len(heard)} events, {len(learnt)} visits to learn from with {shown} "
            f"{'lists' if lists is not None else 'acts on items new to their visit'}, {len(newest)} to judge by, "
            f"{len(catalogue)} items.",
            highlight=False,
        )
        if shown < _FEWEST:
            raise InvalidArgument(
                f"{events}: {shown} are too few to learn from, {_FEWEST} is the least: give more events, or rank by what "
                "`riffle init` counts until there are."
            )
        chosen = None
        if debias:
            begin = newest[0].start_ms if newest else math.inf
            chosen = [one for own in (lists or {}).values() for one in own if one.ts_ms < begin]
        path = _trained(folder, name, runs / name, catalogue, learnt, lists is not None, changed or [], resume, chosen)
        found = _judged(path, catalogue, learnt, newest)
    for ranker, one in found.items():
        out.print(f"{ranker}: " + ", ".join(f"{key} {value}" for key, value in one.items()), highlight=False)
    err.print(f"Rank with it: riffle submit --bundles {folder} --bundle {name}", soft_wrap=True)
    print(json.dumps({"bundle": str(path), **found, "seconds": round(time.monotonic() - begun_s)}))


def read_events(where: Path, columns: dict[str, str]) -> tuple[list[Event], Counter[str]]:
    """Every event of the files, and the rows that are none, by reason. Raises InvalidArgument."""
    heard: list[Event] = []
    skipped: Counter[str] = Counter()
    for path in files_of(where):
        for found in read_records(path, EVENTS, columns):
            skipped.update(found.skipped)
            for record in found.records:
                event = parse_event(record.value or b"")
                if isinstance(event, Rejected):
                    skipped[f"no event: {event.reason.value}"] += 1
                else:
                    heard.append(event)
    if not heard:
        why = "; ".join(f"{times} rows: {reason}" for reason, times in skipped.items()) or "it has no rows"
        raise InvalidArgument(f"{where} holds no event ({why}): name its columns with --column.")
    return heard, skipped


def read_catalogue(
    items: Path | None,
    events: Path,
    columns: dict[str, str],
    heard: Iterable[Event],
    lists: dict[str, list[own_log.ShownList]] | None,
) -> list[Item]:
    """All that was acted on or shown, and what is said of it; the whole catalogue where one is given."""
    ids = {item for event in heard for item in own_log.items_of(event)}
    ids |= {item for own in (lists or {}).values() for one in own for item in one.items}
    known: dict[str, Item] = {}
    if items is not None:
        for path in files_of(items):
            for found in read_records(path, ITEMS):
                made = [decode_item(record.value) for record in found.records if record.value]
                known |= {item.item_id: item for item in made}
    else:
        for path in files_of(events):
            known |= {item.item_id: item for item in _described(path, columns)}
    return [known.get(item_id) or Item(item_id=item_id) for item_id in sorted(ids | (set(known) if items else set()))]


def _described(path: Path, columns: dict[str, str]) -> Iterator[Item]:
    """What a log of actions says of its items beside them; records as they stood on a topic say nothing."""
    try:
        found = read_items(path, columns)
    except InvalidArgument:
        return  # read as events before: what it lacks are columns of actions
    for one in found:
        said = {name: float(value) if name == "price" else str(value) for name, value in one.items()}
        try:
            yield msgspec.convert(said, Item)
        except msgspec.ValidationError as error:
            err.print(f"item {one['item_id']}: what the log says of it is left out: {error}", markup=False)


def _trained(
    folder: Path,
    version: str,
    run: Path,
    catalogue: list[Item],
    learnt: list[Visit],
    with_lists: bool,
    changed: list[str],
    resume: bool,
    shown: list[own_log.ShownList] | None,
) -> Path:
    """`shown`: the lists by which popularity is debiased; None counts clicks."""
    from models.checkpoint import CheckpointError
    from models.pretrained import item_vectors
    from models.release import POPULARITY_WEIGHT, TASK_WEIGHTS
    from models.statistics import contents
    from models.traffic import examples
    from models.train import Corpus, Run, Settings, begin_with
    from models.train import run as run_training

    settings = Settings(**({} if with_lists else _OF_ACTS) | _settings(changed))
    vocabulary = build_vocabulary(catalogue)
    rates = None
    if shown is not None:
        rates = click_rates(shown, vocabulary)
        err.print(
            f"Popularity by {rates.places} places that chance filled; {rates.unknown} have no propensity.",
            highlight=False,
        )
    with err.status("replaying the visits"):
        data = examples(learnt, vocabulary)
    sessions = sessions_of(in_order(own_log.acts_in(learnt)), vocabulary)
    corpus = Corpus(data, vocabulary, contents(tuple(catalogue), vocabulary), None, rates)
    weights = (TASK_WEIGHTS, POPULARITY_WEIGHT) if with_lists else (_NEXT_ONLY, 0.0)
    where = Run(folder, version, run, {"command": shlex.join(["riffle", *sys.argv[1:]])}, *weights)
    begin = partial(begin_with, vectors=item_vectors(sessions, vocabulary, settings.dim, settings.seed))
    try:
        return run_training(where, corpus, settings, sessions, err, resume, begin)
    except CheckpointError as error:
        raise InvalidArgument(str(error)) from error


def _settings(changed: list[str]) -> dict[str, Any]:
    from models.train import Settings

    known = {name: type(value) for name, value in vars(Settings()).items()}
    found = {}
    for one in changed:
        name, _, value = one.partition("=")
        if name not in known:
            raise InvalidArgument(f"--set {one}: there is no setting {name}; known: {', '.join(known)}.")
        try:
            found[name] = known[name](value)
        except ValueError:
            raise InvalidArgument(f"--set {one}: {name} is of type {known[name].__name__}.") from None
    return found


def _judged(path: Path, catalogue: list[Item], learnt: list[Visit], newest: list[Visit]) -> dict[str, dict[str, float]]:
    """The bundle beside one counted from the same visits, and beside popularity."""
    with tempfile.TemporaryDirectory() as scratch, err.status(f"judging by {len(newest)} visits"):
        counted = bundle_from_log(Path(scratch), "counted", catalogue, own_log.acts_in(learnt), "the same visits")
        paths = {
            "dual_sequence": path,
            "covisitation": counted,
            "popularity": popularity_of(Bundle.load(counted), Path(scratch), "popular"),
        }
        found = own_log.judged(paths, learnt, newest)
    return {
        name: {"hr@20": round(one.hit_rate, 4), "mrr@20": round(one.mrr, 4), "n": one.cases, "retrieved": round(one.retrieved, 4)}
        for name, one in found.items()
    }  # fmt: skip


@contextmanager
def _plainly() -> Iterator[None]:
    with plainly():
        try:
            yield
        except (InvalidRows, BundleError, TooFewPlaces) as error:
            fail(str(error))
        except ModuleNotFoundError as error:
            if error.name not in ("torch", "onnx", "matplotlib"):
                raise
            fail(f"This needs {error.name}, which is not installed: run `uv sync --extra train`.")
