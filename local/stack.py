"""The whole stack: start, stop and status of Kafka, Redis and Flink under one run directory.

Several stacks can be up at once, each with its own run directory and ports, as end-to-end tests do.
"""

from __future__ import annotations

import fcntl
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path

import msgspec

from local import jars, processes
from local.broker import Broker
from local.errors import LocalError
from local.flink_cluster import FlinkCluster
from local.flink_jobs import FlinkJobs
from local.flink_rest import JobStatus
from local.java import find_java_home
from local.redis_server import RedisServer
from local.topics import TopicReport, create_topics
from schemas.connections import Connections
from schemas.topics import TopicSpec

DEFAULT_RUN_DIR = Path(__file__).resolve().parents[1] / ".riffle"

_NEEDED_DISK_BYTES = 1 << 30
_PATIENCE_S = 6.0


class Ports(msgspec.Struct, frozen=True, kw_only=True):
    kafka: int = 9092
    kafka_controller: int = 9093
    redis: int = 6379
    flink: int = 8081
    flink_rpc: int = 6123

    @classmethod
    def free(cls) -> Ports:
        """Ports that nobody uses now, for a stack beside others."""
        kafka, controller, redis, flink, rpc = processes.free_ports(5)
        return cls(kafka=kafka, kafka_controller=controller, redis=redis, flink=flink, flink_rpc=rpc)


class StackState(msgspec.Struct, frozen=True, kw_only=True):
    """What `stack.json` holds."""

    run_dir: str
    ports: Ports
    pids: dict[str, list[int]]
    kafka: str
    redis_url: str
    flink_url: str


class StackStatus(msgspec.Struct, frozen=True, kw_only=True):
    kafka: bool
    redis: bool
    flink: bool
    task_managers: int
    processes: int

    @property
    def up(self) -> bool:
        return self.kafka and self.redis and self.flink


class Stack:
    """`say` gets one plain sentence per step; `flink_settings` replace settings of flink-conf/config.yaml, `flink_environment`
    is added to the environment of its processes, and `broker_properties` to the broker's settings."""

    def __init__(
        self,
        run_dir: Path = DEFAULT_RUN_DIR,
        ports: Ports | None = None,
        *,
        task_managers: int = 1,
        flink_settings: Mapping[str, str] | None = None,
        flink_environment: Mapping[str, str] | None = None,
        broker_properties: Mapping[str, str] | None = None,
        say: Callable[[str], None] = print,
    ) -> None:
        self.run_dir = run_dir.resolve()
        self.task_managers = task_managers
        self.flink_settings = dict(flink_settings or {})
        self.say = say
        self._gave_up = threading.Event()
        # Whoever names no ports means those that this run directory was started with.
        saved = self.state()
        self.ports = ports or (saved.ports if saved and processes.of(self.run_dir) else Ports())
        self.broker = Broker(self.run_dir, self.ports.kafka, self.ports.kafka_controller, broker_properties)
        self.redis = RedisServer(self.run_dir, self.ports.redis)
        self.flink = FlinkCluster(self.run_dir, self.ports.flink, self.ports.flink_rpc, flink_environment)

    @cached_property
    def java_home(self) -> Path:
        """Found once: to ask a Java for its version takes as long as to start it."""
        return find_java_home()

    # --- life ----------------------------------------------------------------------------------------------------------

    def start(self, beside: Sequence[Callable[[], None]] = ()) -> StackState:
        """Start what is not up; a stack that is up is left alone. Whatever fails, nothing half-started is left.

        `beside` runs at the same time, each on a thread, once Flink's configuration is written: what can be prepared
        while daemons start. It waits itself for what it needs.
        """
        with self._locked():
            if self._is_complete():
                self.say(
                    f"Already up: Kafka {self.broker.bootstrap}, Redis {self.redis.url}, Flink {self.flink.rest.url}."
                )
                self._start_together([], beside)
                return self._write_state()
            self._refuse_other_ports()
            starts = self._missing()
            self.say("Starting Kafka, Redis and Flink.")
            try:
                self._start_together(starts, beside)
            except BaseException:
                self._end_all()
                raise
            return self._write_state()

    def stop(self) -> None:
        """End every process of this run directory, orphans included. Kafka's data and savepoints stay."""
        with self._locked():
            if not processes.of(self.run_dir):
                self.say("Nothing is up.")
                return
            begun = time.monotonic()
            self._end_all()
            self.say(f"Stopped in {time.monotonic() - begun:.1f} s.")

    def wipe(self) -> None:
        """Stop, and forget all data: topics, checkpoints, savepoints, logs."""
        self.stop()
        for name in ("kafka", "redis", "flink", "logs"):
            shutil.rmtree(self.run_dir / name, ignore_errors=True)

    def status(self) -> StackStatus:
        return StackStatus(
            kafka=self.broker.ready(),
            redis=self.redis.ready(),
            flink=(self.flink.slots() or 0) > 0 and bool(self.flink.job_manager_pids()),
            task_managers=len(self.flink.task_manager_pids()),
            processes=len(processes.of(self.run_dir)),
        )

    def state(self) -> StackState | None:
        """What the last start wrote; None before the first start and after a stop."""
        with suppress(FileNotFoundError, msgspec.DecodeError):
            return msgspec.json.decode((self.run_dir / "stack.json").read_bytes(), type=StackState)
        return None

    # --- Kafka ---------------------------------------------------------------------------------------------------------

    def wait_broker(self, limit_s: float = 90) -> None:
        """For what runs beside `start`: until Kafka serves."""
        processes.wait_until(lambda: self._gave_up.is_set() or self.broker.ready(), limit_s)
        if not self.broker.ready():
            raise LocalError(f"Kafka at {self.broker.bootstrap} does not answer: see {self.broker.log}.")

    def connections(self, namespace: str = "") -> Connections:
        return Connections(brokers=self.broker.bootstrap, redis_url=self.redis.url, namespace=namespace)

    def create_topics(self, specs: Sequence[TopicSpec], namespace: str = "") -> TopicReport:
        return create_topics(specs, self.connections(namespace))

    # --- Flink ---------------------------------------------------------------------------------------------------------

    @property
    def jobs(self) -> FlinkJobs:
        environment = processes.marked(self.flink.environment(self.java_home), self.run_dir, "flink-run")
        return FlinkJobs(self.flink.rest, environment, self.flink.logs)

    def submit(
        self, job_file: Path, args: Sequence[str] = (), py_files: Sequence[Path] = (), savepoint: str | None = None
    ) -> str:
        """`flink run -d`; the job's id. Wait with `wait_running`: slots and Python take some seconds more."""
        return self.jobs.submit(job_file, args, py_files, savepoint)

    def wait_running(self, job_id: str, limit_s: float = 120) -> JobStatus:
        return self.jobs.wait_running(job_id, limit_s)

    def stop_with_savepoint(self, job_id: str) -> str:
        return self.jobs.stop_with_savepoint(job_id)

    def cancel(self, job_id: str) -> None:
        self.jobs.cancel(job_id)

    def job_status(self, job_id: str) -> JobStatus:
        return self.flink.rest.status(job_id)

    def add_task_manager(self) -> int:
        """One more TaskManager; its pid."""
        pid = self.flink.add_task_manager(self.java_home)
        self._write_state()
        return pid

    def pids(self) -> dict[str, list[int]]:
        """The daemons by role, oldest first."""
        return {
            "kafka": self.broker.pids(),
            "redis": self.redis.pids(),
            "jobmanager": self.flink.job_manager_pids(),
            "taskmanager": self.flink.task_manager_pids(),
        }

    # --- inside --------------------------------------------------------------------------------------------------------

    def _is_complete(self) -> bool:
        if any(not found for found in self.pids().values()):
            return False
        status = self.status()
        return status.up and status.task_managers >= self.task_managers

    def _missing(self) -> list[Callable[[], None]]:
        """How to start what is not up, after checking that nothing is in its way."""
        java_home = self.java_home
        self._require_disk()
        connectors = jars.fetch(jars.listed("flink"), say=self.say)
        broker_jars = jars.fetch(jars.listed("broker"), say=self.say)
        starts: list[Callable[[], None]] = []
        if not self.redis.ready():
            processes.end(self.redis.pids, patience_s=_PATIENCE_S)
            self.redis.require_ports()
            starts.append(self.redis.start)
        if not self.broker.ready():
            processes.end(self.broker.pids, patience_s=_PATIENCE_S)
            self.broker.require_ports()
            starts.append(lambda: self.broker.start(java_home, broker_jars))
        if self.flink.slots() is None or not self.flink.job_manager_pids():
            # TaskManagers of a lost JobManager belong to nobody.
            processes.end(self._flink_pids, patience_s=_PATIENCE_S)
            self.flink.require_ports()
            self.flink.prepare(connectors, self.flink_settings)
        starts.append(lambda: self.flink.start(java_home, self.task_managers))
        return starts

    def _start_together(self, starts: Sequence[Callable[[], None]], beside: Sequence[Callable[[], None]]) -> None:
        begun = time.monotonic()
        self._gave_up.clear()
        with ThreadPoolExecutor(max_workers=max(1, len(starts) + len(beside)), thread_name_prefix="start") as pool:
            daemons = [pool.submit(start) for start in starts]
            others = [pool.submit(one) for one in beside]
            try:
                for started in as_completed([*daemons, *others]):
                    started.result()
                    if started in daemons and all(daemon.done() for daemon in daemons):
                        self.say(
                            f"Up in {time.monotonic() - begun:.0f} s: Kafka {self.broker.bootstrap}, "
                            f"Redis {self.redis.url}, Flink {self.flink.rest.url}."
                        )
            except BaseException:
                # The others wait for daemons; when those end they give up, and the pool can close.
                self._gave_up.set()
                self._end_all()
                raise

    def _flink_pids(self) -> list[int]:
        return self.flink.job_manager_pids() + self.flink.task_manager_pids()

    def _end_all(self) -> None:
        processes.end(lambda: processes.of(self.run_dir), patience_s=_PATIENCE_S)
        shutil.rmtree(self.run_dir / "flink" / "tmp", ignore_errors=True)
        (self.run_dir / "stack.json").unlink(missing_ok=True)

    def _refuse_other_ports(self) -> None:
        saved = self.state()
        if saved and saved.ports != self.ports and processes.of(self.run_dir):
            raise LocalError(f"A stack is up in {self.run_dir} on other ports (Kafka {saved.kafka}): stop it first.")

    def _require_disk(self) -> None:
        free = shutil.disk_usage(self.run_dir).free
        if free < _NEEDED_DISK_BYTES:
            raise LocalError(
                f"Only {free >> 20} MB are free where {self.run_dir} lies, and 1,024 MB are needed: "
                "make room, or choose another run directory."
            )

    def _write_state(self) -> StackState:
        state = StackState(
            run_dir=str(self.run_dir),
            ports=self.ports,
            pids=self.pids(),
            kafka=self.broker.bootstrap,
            redis_url=self.redis.url,
            flink_url=self.flink.rest.url,
        )
        fresh = self.run_dir / "stack.json.new"
        fresh.write_bytes(msgspec.json.format(msgspec.json.encode(state), indent=2) + b"\n")
        fresh.replace(self.run_dir / "stack.json")
        return state

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One start or stop at a time per run directory."""
        try:
            self.run_dir.mkdir(parents=True, exist_ok=True)
            lock = (self.run_dir / "lock").open("w")
        except OSError as error:
            raise LocalError(
                f"{self.run_dir} cannot be written ({error.strerror}): choose another run directory."
            ) from error
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
