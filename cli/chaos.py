"""riffle chaos: break a running engine on purpose, and report what came of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Annotated, NamedTuple

import msgspec
import typer
from rich.table import Table

from cli.connecting import connections, err, fail, out, plainly, redis_nodes
from client.errors import InvalidArgument
from demo.world import load as demo_world
from local.errors import LocalError
from local.stack import DEFAULT_RUN_DIR, Stack
from schemas.connections import Connections
from trials.faults import (
    Arena,
    Hand,
    Verdict,
    broker_restarted,
    hot_user,
    kills,
    redis_away,
    worker_hangs,
)
from trials.hands import CommandFailed, LocalHands, command
from trials.load import LoadFailed

KILLS = 5


class Trial(str, Enum):
    KILL = "kill"
    HANG = "hang"
    REDIS_HANGS = "redis-hangs"
    REDIS = "redis"
    HOT_USER = "hot-user"
    BROKER = "broker"


class Hands(NamedTuple):
    """How things are broken and mended; None where nobody has said how."""

    kills: list[Hand] | None = None
    spare: Hand = lambda: None
    restart_broker: Hand | None = None
    stop_redis: Hand | None = None
    start_redis: Hand | None = None
    hang_redis: Hand | None = None
    resume_redis: Hand | None = None
    hang_workers: Hand | None = None
    resume_workers: Hand | None = None


def chaos(
    only: Annotated[list[Trial] | None, typer.Option("--only", help="Run this trial; may be repeated.")] = None,
    run_dir: Annotated[Path, typer.Option(help="The local stack to break, where no commands are given.")] = (
        DEFAULT_RUN_DIR
    ),
    kill_task_manager: Annotated[
        str | None, typer.Option(help="Kills a TaskManager that works, e.g. `kubectl delete pod --now …`.")
    ] = None,
    restart_broker: Annotated[str | None, typer.Option(help="Restarts a broker.")] = None,
    stop_redis: Annotated[str | None, typer.Option(help="Stops Redis.")] = None,
    start_redis: Annotated[str | None, typer.Option(help="Starts it again.")] = None,
    hang_workers: Annotated[str | None, typer.Option(help="Stops the ranking workers (SIGSTOP).")] = None,
    resume_workers: Annotated[str | None, typer.Option(help="Lets them go on (SIGCONT).")] = None,
    rate: Annotated[float, typer.Option(help="Events a second.", min=1)] = 40.0,
    seed: Annotated[int | None, typer.Option(help="Repeats the traffic of an earlier run.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Break the staging cluster under load, one thing after the other, and account for every record.

    The local stack is broken by signals. For your own cluster (RIFFLE_BROKERS, RIFFLE_REDIS_URL) say how, by commands; a trial
    whose commands are missing is skipped. The load is made up: never do this to a cluster that serves real users.
    Ends with exit code 1 if a trial has not passed.

    Example:

        riffle chaos --only kill --only redis

        riffle chaos --kill-task-manager "kubectl delete pod --now riffle-taskmanager-1-1"
    """
    commands = {
        "kill_task_manager": kill_task_manager,
        "restart_broker": restart_broker,
        "stop_redis": stop_redis,
        "start_redis": start_redis,
        "hang_workers": hang_workers,
        "resume_workers": resume_workers,
    }
    seed = seed if seed is not None else time.time_ns() % 2**31
    err.print(f"Seed {seed}: --seed {seed} repeats this traffic.")
    with plainly():
        where = connections()
        hands = _hands(where, run_dir, {name: line for name, line in commands.items() if line is not None})
        arena = Arena(
            where=where,
            items=[item.item_id for item in demo_world().items],
            redis=redis_nodes,
            seed=seed,
            rate=rate,
            say=lambda sentence: err.print(sentence, markup=False, highlight=False),
        )
        verdicts = _run(arena, _trials(arena, hands), only or list(Trial))
    if json:
        typer.echo(msgspec.json.encode(verdicts).decode())
    else:
        _report(verdicts)
    if not all(verdict.passed for verdict in verdicts):
        raise typer.Exit(1)


def _hands(where: Connections, run_dir: Path, commands: dict[str, str]) -> Hands:
    """The user's commands; without any, the local stack, if it is the one that the settings name."""
    if not commands:
        stack = Stack(run_dir, say=lambda _: None)
        found = stack.state()
        if found is None or (found.kafka, found.redis_url) != (where.brokers, where.redis_url):
            raise InvalidArgument(
                f"the stack in {run_dir} is not what is connected to ({where.brokers}): run `riffle up` and `riffle submit`, "
                "or say by commands how your cluster is broken (--kill-task-manager and the others)"
            )
        local = LocalHands(stack)
        during, between = local.kill_task_manager_in_a_checkpoint, local.kill_task_manager
        return Hands(
            [during if number % 2 else between for number in range(KILLS)],
            local.start_spare,
            local.restart_broker,
            local.stop_redis,
            local.start_redis,
            local.hang_redis,
            local.resume_redis,
            local.hang_workers,
            local.resume_workers,
        )
    hands: dict[str, Hand] = {name: _command(line) for name, line in commands.items()}
    return Hands(
        [hands["kill_task_manager"]] * KILLS if "kill_task_manager" in hands else None,
        restart_broker=hands.get("restart_broker"),
        stop_redis=hands.get("stop_redis"),
        start_redis=hands.get("start_redis"),
        hang_workers=hands.get("hang_workers"),
        resume_workers=hands.get("resume_workers"),
    )


def _command(line: str) -> Hand:
    return lambda: command(line)


def _trials(arena: Arena, hands: Hands) -> dict[Trial, Callable[[], Verdict]]:
    """What can be run with these hands."""
    found: dict[Trial, Callable[[], Verdict]] = {}
    if (killing := hands.kills) is not None:
        found[Trial.KILL] = lambda: kills(arena, killing, hands.spare)
    if (hang := hands.hang_workers) is not None and (resume := hands.resume_workers) is not None:
        found[Trial.HANG] = lambda: worker_hangs(arena, hang, resume)
    if (still := hands.hang_redis) is not None and (on := hands.resume_redis) is not None:
        found[Trial.REDIS_HANGS] = lambda: redis_away(arena, still, on, name=Trial.REDIS_HANGS.value)
    if (stop := hands.stop_redis) is not None and (start := hands.start_redis) is not None:
        found[Trial.REDIS] = lambda: redis_away(arena, stop, start)
    found[Trial.HOT_USER] = lambda: hot_user(arena)
    if (restart := hands.restart_broker) is not None:
        found[Trial.BROKER] = lambda: broker_restarted(arena, restart)
    return found


def _run(arena: Arena, trials: dict[Trial, Callable[[], Verdict]], wanted: list[Trial]) -> list[Verdict]:
    verdicts = []
    for name in wanted:
        if name not in trials:
            arena.say(f"{name.value}: skipped, because no command says how (see --help)")
            continue
        try:
            verdicts.append(trials[name]())
        except (LocalError, CommandFailed, LoadFailed, TimeoutError) as error:
            verdicts.append(Verdict(trial=name.value, seed=arena.seed, wrong=[str(error)]))
    if not verdicts:
        fail("No trial could be run: say by commands how your cluster is broken (see --help).")
    return verdicts


def _report(verdicts: list[Verdict]) -> None:
    table = Table("trial", "passed", "sent", "applied", "duplicate", "late", "rejected")
    for verdict in verdicts:
        account = verdict.account
        counts = (
            [account.sent, account.applied, account.duplicate, account.late, account.rejected]
            if account is not None
            else ["–"] * 5
        )
        table.add_row(verdict.trial, "yes" if verdict.passed else "NO", *map(str, counts))
    out.print(table)
    for verdict in verdicts:
        figures = ", ".join(f"{name} {value}" for name, value in verdict.figures.items())
        out.print(f"{verdict.trial}: {figures}", markup=False, highlight=False)
        for sentence in verdict.wrong:
            out.print(f"{verdict.trial}: {sentence}", markup=False, highlight=False)
