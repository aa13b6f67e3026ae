"""riffle doctor: what could go wrong here, each finding with its remedy."""

from __future__ import annotations

import platform
import shutil
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Annotated, NamedTuple

import msgspec
import redis
import typer
from rich.table import Table

from cli.connecting import connections, out, plainly, redis_nodes
from local import jars
from local.errors import LocalError
from local.java import find_java_home
from local.stack import DEFAULT_RUN_DIR, Stack
from local.topics import check_topics
from schemas import topics
from schemas.connections import Connections

_WANTED = {"apache-flink": "2.2.1", "redis": "5.", "protobuf": "5.", "numpy": "2."}
_NEEDED_DISK_BYTES = 1 << 30


class Finding(NamedTuple):
    """`remedy` is None where all is well."""

    what: str
    found: str
    remedy: str | None = None


def doctor(
    run_dir: Annotated[Path, typer.Option(help="Run directory of the local stack.")] = DEFAULT_RUN_DIR,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check versions, Java, jars, ports, topics, Redis and the running job; exit code 1 if anything needs a remedy.

    Example:

        riffle doctor
    """
    with plainly():
        where = connections()
    findings = [*_machine(), *_jars(), *_cluster(Stack(run_dir, say=lambda _: None)), *_kafka(where), *_redis(where)]
    if json:
        typer.echo(msgspec.json.encode([finding._asdict() for finding in findings]).decode())
    else:
        table = Table("", "what", "found", "remedy", box=None)
        for finding in findings:
            mark = "[green]ok[/]" if finding.remedy is None else "[red]!![/]"
            table.add_row(mark, finding.what, finding.found, finding.remedy or "")
        out.print(table)
    if any(finding.remedy for finding in findings):
        raise typer.Exit(1)


def _machine() -> Iterator[Finding]:
    version = platform.python_version()
    fits = (3, 10) <= sys.version_info[:2] <= (3, 12)
    yield Finding("Python", version, None if fits else "use Python 3.10, 3.11 or 3.12")
    kind = f"{platform.system()} {platform.machine()}"
    yield Finding(
        "machine", kind, None if kind == "Linux x86_64" else "use the container: docker compose run --rm riffle"
    )
    for package, wanted in _WANTED.items():
        found = metadata.version(package)
        yield Finding(package, found, None if found.startswith(wanted) else f"run `make setup`: {wanted}* is needed")
    try:
        yield Finding("Java", str(find_java_home()))
    except LocalError as error:
        yield Finding("Java", "none", str(error))
    free = shutil.disk_usage(Path.cwd()).free
    yield Finding("free disk", f"{free >> 30} GiB", None if free > _NEEDED_DISK_BYTES else "make room: 1 GiB is needed")


def _jars() -> Iterator[Finding]:
    pinned = [jar for group in ("flink", "broker") for jar in jars.listed(group)]
    missing = [jar.name for jar in pinned if not (jars.cache_dir() / "jars" / jar.name).exists()]
    remedy = "they are fetched by `make run`, once" if missing else None
    yield Finding("jars", f"{len(pinned) - len(missing)} of {len(pinned)} in the cache", remedy)


def _cluster(stack: Stack) -> Iterator[Finding]:
    status = stack.status()
    if not status.flink:
        yield Finding("Flink", f"not up at {stack.flink.rest.url}", "run `riffle up`")
        return
    yield Finding("Flink", f"{stack.flink.rest.url}, {status.task_managers} TaskManager(s)")
    jobs = [stack.job_status(job_id) for job_id in stack.jobs.rest.jobs()]
    running = [job for job in jobs if job.name == "personalise" and job.running]
    if not running:
        yield Finding("personalise", "does not run", "run `riffle submit`")
        return
    restarts = stack.flink.rest.restarts(running[0].job_id)
    yield Finding(
        "personalise", f"{running[0].state}, {restarts} restarts", _why_restarted(stack, running[0].job_id, restarts)
    )
    # update-user-state refuses to open in any other mode, so a job that runs has not fallen back.
    yield Finding("execution mode", "thread for update-user-state, process for rank-candidates")


def _why_restarted(stack: Stack, job_id: str, restarts: int) -> str | None:
    return (
        f"look at the exceptions of the job: {stack.flink.rest.url}/#/job/running/{job_id}/exceptions"
        if restarts
        else None
    )


def _kafka(where: Connections) -> Iterator[Finding]:
    try:
        report = check_topics(topics.TOPICS, where)
    except LocalError as error:
        yield Finding("Kafka", where.brokers, str(error))
        return
    yield Finding("Kafka", where.brokers)
    for missing in report.created:
        yield Finding("topic", f"{missing} is missing", "run `riffle up`, or create it as docs/contracts.md says")
    for difference in report.differences:
        found = f"{difference.topic}: {difference.setting} is {difference.found or 'unset'}, not {difference.wanted}"
        yield Finding("topic", found, "set it as docs/contracts.md says; partition counts are fixed for good")


def _redis(where: Connections) -> Iterator[Finding]:
    nodes = redis_nodes(where)
    try:
        versions = sorted({str(client.info("server")["redis_version"]) for client in nodes.clients()})
    except (redis.RedisError, OSError) as error:
        yield Finding("Redis", type(error).__name__, "is it up, and are RIFFLE_REDIS_URL and its user right?")
        return
    finally:
        nodes.close()
    for version in versions:
        new_enough = tuple(int(part) for part in version.split(".")[:2]) >= (6, 2)
        yield Finding("Redis", version, None if new_enough else "6.2 or newer is needed")
