"""riffle up, submit, activate, down: the local stack and the jobs on it."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from enum import Enum
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from kafka import KafkaProducer
from kafka.errors import KafkaError

from cli.connecting import connections, err, fail, plainly
from local.errors import LocalError
from local.stack import DEFAULT_RUN_DIR, Ports, Stack
from schemas import topics
from schemas.connections import Connections
from schemas.control import ActivateBundle, control_record
from schemas.items import Item

RunDir = Annotated[Path, typer.Option(help="Where data, logs and process ids are kept.")]

_CHECKOUT = Path(__file__).resolve().parents[1]
_PACKAGES = ("connect", "jobs", "models", "schemas", "udfs")
_SEND_LIMIT_S = 30


class Job(str, Enum):
    """What can be submitted; the file is jobs/<name>.py with underscores."""

    PERSONALISE = "personalise"
    ITEM_AGGREGATES = "item-aggregates"
    TRAINING_LOG = "training-log"
    EXPERIMENTS = "experiments"
    BELIEFS = "beliefs"
    TOP_LISTS = "top-lists"


def up(
    run_dir: RunDir = DEFAULT_RUN_DIR,
    task_managers: Annotated[int, typer.Option(help="TaskManagers, of one slot each.", min=1)] = 1,
    free_ports: Annotated[bool, typer.Option(help="Take ports that nobody uses, instead of the usual ones.")] = False,
) -> None:
    """Start Kafka, Redis and a Flink cluster on this machine, and create the topics.

    Example:

        riffle up && riffle submit
    """
    try:
        stack = Stack(run_dir, Ports.free() if free_ports else None, task_managers=task_managers, say=err.print)
        stack.start()
        report = stack.create_topics(topics.TOPICS)
    except LocalError as error:
        fail(str(error))
    for difference in report.differences:
        err.print(f"Topic {difference.topic}: {difference.setting} is {difference.found}, not {difference.wanted}.")


def submit(
    run_dir: RunDir = DEFAULT_RUN_DIR,
    savepoint: Annotated[str | None, typer.Option(help="Savepoint to start from.")] = None,
    bundle: Annotated[
        str, typer.Option(help="Bundle version for personalise to rank with; default: the newest shipped.")
    ] = "",
    bundles: Annotated[
        Path | None, typer.Option(help="Folder of bundles of your own, on every worker; default: the shipped ones.")
    ] = None,
    job: Annotated[Job, typer.Option(help="Which job.")] = Job.PERSONALISE,
) -> None:
    """Submit a job to the local cluster, exactly as `flink run` does on yours (README, "Your own cluster").

    Each job needs a slot, so a TaskManager, of its own: `riffle up --task-managers 6` for all six.

    Examples:

        riffle submit --job training-log

        riffle submit --savepoint .riffle/flink/savepoints/savepoint-1234

        riffle submit --bundles bundles --bundle mine-1
    """
    if (bundle or bundles) and job is not Job.PERSONALISE:
        fail(f"The job {job.value} ranks nothing: leave out --bundle and --bundles.")
    if bundles is not None and not bundles.is_dir():
        fail(f"--bundles {bundles}: there is no such folder.")
    try:
        stack = Stack(run_dir, say=err.print)
        if not stack.status().up:
            fail("The local stack is not up: run `riffle up` first.")
        job_id = (
            submit_personalise(
                stack, savepoint=savepoint, bundles=bundles.resolve() if bundles else None, bundle=bundle
            )
            if job is Job.PERSONALISE
            else submit_training_log(stack, savepoint=savepoint)
            if job is Job.TRAINING_LOG
            else submit_experiments(stack, savepoint=savepoint)
            if job is Job.EXPERIMENTS
            else submit_beliefs(stack, savepoint=savepoint)
            if job is Job.BELIEFS
            else submit_top_lists(stack, savepoint=savepoint)
            if job is Job.TOP_LISTS
            else submit_item_aggregates(stack, savepoint=savepoint)
        )
        err.print("Submitted; waiting until every task runs.")
        stack.wait_running(job_id)
    except LocalError as error:
        fail(str(error))
    typer.echo(job_id)


def down(run_dir: RunDir = DEFAULT_RUN_DIR) -> None:
    """Stop what `riffle up` or `riffle run` started. Kafka's data and savepoints stay."""
    try:
        Stack(run_dir, say=err.print).stop()
    except LocalError as error:
        fail(str(error))


def activate(version: Annotated[str, typer.Argument(help="Bundle version, a folder of the bundles folder.")]) -> None:
    """Rank with another bundle from now on: the running job swaps it without a restart.

    Example:

        riffle activate 2026-11-22-a
    """
    with plainly():
        publish(connections(), topics.CONTROL, [control_record(ActivateBundle(version))])
    err.print(f"Asked for bundle {version}; the receipt of each list names the bundle that made it.")


def submit_personalise(
    stack: Stack,
    *,
    namespace: str = "",
    savepoint: str | None = None,
    bundles: Path | None = None,
    bundle: str = "",
    parallelism: int = 0,
    where: Connections | None = None,
) -> str:
    """The job's id. The code travels as one folder that holds the packages. `where`: other addresses than the stack's own;
    the rest of it the job reads from the environment."""
    where = where or stack.connections(namespace)
    options = ["--redis-url", where.redis_url]
    options += ["--bundles", str(bundles)] if bundles else []
    options += ["--bundle", bundle] if bundle else []
    options += ["--parallelism", str(parallelism)] if parallelism else []
    return _submit(stack, Job.PERSONALISE, where, options, savepoint)


def submit_training_log(
    stack: Stack, options: Sequence[str] = (), *, savepoint: str | None = None, where: Connections | None = None
) -> str:
    """The job's id. `options` are the job's own, such as `--click-s`."""
    return _submit(stack, Job.TRAINING_LOG, where or stack.connections(), options, savepoint)


def submit_experiments(stack: Stack, *, namespace: str = "", savepoint: str | None = None) -> str:
    """The job's id."""
    where = stack.connections(namespace)
    return _submit(stack, Job.EXPERIMENTS, where, ["--redis-url", where.redis_url], savepoint)


def submit_beliefs(stack: Stack, *, namespace: str = "", savepoint: str | None = None) -> str:
    """The job's id."""
    return _submit(stack, Job.BELIEFS, stack.connections(namespace), [], savepoint)


def submit_top_lists(stack: Stack, *, namespace: str = "", savepoint: str | None = None) -> str:
    """The job's id."""
    where = stack.connections(namespace)
    return _submit(stack, Job.TOP_LISTS, where, ["--redis-url", where.redis_url], savepoint)


def submit_item_aggregates(stack: Stack, *, namespace: str = "", savepoint: str | None = None) -> str:
    """The job's id."""
    where = stack.connections(namespace)
    return _submit(stack, Job.ITEM_AGGREGATES, where, ["--redis-url", where.redis_url], savepoint)


def _submit(stack: Stack, job: Job, where: Connections, options: Sequence[str], savepoint: str | None) -> str:
    args = ["--brokers", where.brokers, *(["--namespace", where.namespace] if where.namespace else []), *options]
    # A folder for each job: `flink run` of one must not lose its code to the other's.
    app = stage_app(stack.run_dir / ("app" if job is Job.PERSONALISE else f"app-{job.value}"))
    return stack.submit(_CHECKOUT / "jobs" / f"{job.value.replace('-', '_')}.py", args, [app], savepoint)


def stage_app(folder: Path) -> Path:
    """The packages of the job in one folder, which is what `flink run -pyfs` takes."""
    shutil.rmtree(folder, ignore_errors=True)
    for package in _PACKAGES:
        shutil.copytree(_CHECKOUT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def publish_items(where: Connections, items: Iterable[Item]) -> None:
    publish(where, topics.ITEMS, ((item.item_id.encode(), msgspec.json.encode(item)) for item in items))


def publish(where: Connections, topic: str, records: Iterable[tuple[bytes, bytes]]) -> None:
    """Send records and wait until all are acknowledged. Raises LocalError."""
    try:
        producer = KafkaProducer(**where.kafka_python(), linger_ms=5, acks="all")
        try:
            sent = [producer.send(where.topic(topic), key=key, value=value) for key, value in records]
            producer.flush(timeout=_SEND_LIMIT_S)
            for future in sent:
                future.get(timeout=_SEND_LIMIT_S)
        finally:
            producer.close(timeout=_SEND_LIMIT_S)
    except KafkaError as error:
        raise LocalError(
            f"Kafka at {where.brokers} did not take the records ({type(error).__name__}): is it up, and does the topic exist?"
        ) from error
