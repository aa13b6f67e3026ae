"""`python -m bench`: measure, keep the figures in docs/benchmarks.json, and write docs/benchmarks.md from them."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import msgspec
import typer

from bench import page, results
from bench.stack import err
from local.errors import LocalError

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
Quick = Annotated[
    bool, typer.Option("--quick", help="Few events: shows that it works; the table says that it was quick.")
]
Repeat = Annotated[int, typer.Option(help="Runs; the table gives their median and spread.", min=1)]


@app.callback(invoke_without_command=True)
def everything(context: typer.Context, quick: Quick = False, repeat: Repeat = 3) -> None:
    """Measure all parts, or the one that is named, on a stack of its own; nothing else should run on the machine.

    Each part replaces its own figures in docs/benchmarks.json, from which docs/benchmarks.md is written. The last line of output
    is one JSON object with every figure. Times are for 2 cores, per run of --repeat; --quick takes 1 to 3 minutes a part.

    Examples:

        python -m bench                          all of it, three runs: about 2 hours

        python -m bench ranking --repeat 1       one part once

        python -m bench --quick --repeat 1       whether everything works
    """
    if context.invoked_subcommand is None:
        for part in (latency, state, ranking, retrieval, users, aggregates, items, replays, bandits):
            part(quick, repeat)
        _print()


@app.command("latency")
def latency_command(quick: Quick = False, repeat: Repeat = 3) -> None:
    """Event → list at 25 to 400 events/s, and 10,000 reads that demand their own write. 16 minutes a run."""
    latency(quick, repeat)
    _print()


@app.command("state")
def state_command(quick: Quick = False, repeat: Repeat = 3) -> None:
    """Kafka → session in RocksDB → Kafka: Riffle, Quix Streams and PyFlink's process mode in turns. 5 minutes a run."""
    state(quick, repeat)
    _print()


@app.command("ranking")
def ranking_command(quick: Quick = False, repeat: Repeat = 3) -> None:
    """CPU of one ranking against the naive export and torch. Needs the extra `train`. 20 seconds a run."""
    measured = ranking(quick, repeat)
    _print()
    if not measured:
        raise typer.Exit(1)


@app.command("retrieval")
def retrieval_command(quick: Quick = False, repeat: Repeat = 3) -> None:
    """Search of a million vectors against an exact search, and each stage of a list. 3 minutes."""
    retrieval(quick, repeat)
    _print()


@app.command("users")
def users_command(quick: Quick = False, repeat: Repeat = 3) -> None:
    """State of 100,000 full users, checkpoints, restore; cost per event at 1,000 and 1,000,000 users. 12 minutes a run."""
    users(quick, repeat)
    _print()


@app.command("aggregates")
def aggregates_command(quick: Quick = False, repeat: Repeat = 3) -> None:
    """Counters of items against the same windows in PyFlink's Python windows, in turns. 4 minutes a run."""
    aggregates(quick, repeat)
    _print()


@app.command("items")
def items_command(quick: Quick = False, repeat: Repeat = 3) -> None:
    """Cost of an event for the counters at 1,000 and at 1,000,000 items, 200,000 of them counted before."""
    items(quick, repeat)
    _print()


@app.command("replays")
def replays_command(quick: Quick = False, repeat: Repeat = 3) -> None:
    """10,000 lists of every kind, before and after a savepoint, made again by `riffle replay`. One run, 10 minutes."""
    replays(quick, repeat)
    _print()


@app.command("bandits")
def bandits_command(quick: Quick = False, repeat: Repeat = 3) -> None:
    """Regret of the exploration policies against a public library's, in an environment of its own. One run, 10 minutes."""
    bandits(quick, repeat)
    _print()


@app.command("labels")
def labels_command() -> None:
    """Write docs/label-delays.svg: a simulated day of the demo shop, how long each label took. Seconds; nothing is measured."""
    from bench.labels import run

    for one in run():
        known = {f"{share:.0%}": one.within(share) for share in (0.5, 0.9, 0.99)}
        typer.echo(f"{one.kind}: {len(one.delays_ms)} of {one.rows}; known after ms: {known}")


@app.command("page")
def page_command() -> None:
    """Write docs/benchmarks.md and its plot again from docs/benchmarks.json, measuring nothing."""
    page.write(results.load())
    _print()


def latency(quick: bool, repeat: int) -> None:
    from bench.latency import run

    _keep("latency", run(quick, repeat))


def state(quick: bool, repeat: int) -> None:
    from bench.state import run

    _keep("state", run(quick, repeat))


def ranking(quick: bool, repeat: int) -> bool:
    """Whether it could be measured."""
    from bench.ranking import run

    try:
        found = run(quick, repeat)
    except ImportError as error:
        err.print(f"Ranking is not measured: {error.name} is missing; `make bench` installs it (extra train).")
        return False
    _keep("ranking", found)
    return True


def retrieval(quick: bool, repeat: int) -> None:
    from bench.retrieval import run

    _keep("retrieval", run(quick, repeat))


def users(quick: bool, repeat: int) -> None:
    from bench.users import run

    _keep("users", run(quick, repeat))


def aggregates(quick: bool, repeat: int) -> None:
    from bench.aggregates import run

    _keep("aggregates", run(quick, repeat))


def items(quick: bool, repeat: int) -> None:
    from bench.aggregates import run_items

    _keep("items", run_items(quick, repeat))


def replays(quick: bool, repeat: int) -> None:
    from bench.replays import run

    _keep("replays", run(quick, repeat))


def bandits(quick: bool, repeat: int) -> None:
    from bench.regret import run

    _keep("bandits", run(quick, repeat))


def _keep(name: str, part: Any) -> None:
    """At once, so that a later part that fails takes nothing with it."""
    kept = results.load()
    setattr(kept, name, part)
    results.save(kept)
    page.write(kept)


def _print() -> None:
    typer.echo(msgspec.json.encode(results.load()).decode())


if __name__ == "__main__":
    try:
        app()
    except (LocalError, TimeoutError) as error:
        err.print(str(error), style="red")
        sys.exit(1)
