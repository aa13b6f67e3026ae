"""A Flink standalone cluster out of the distribution inside the apache-flink wheel.

The wheel is never changed: configuration, logs, lib folder (the wheel's jars and the Kafka connector, as links) and
temporary files live under the run directory, and Flink's own scripts are pointed there by environment variables.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from pathlib import Path

from local import processes
from local.errors import LocalError
from local.flink_rest import FlinkRest

JOB_MANAGER = "jobmanager"
TASK_MANAGER = "taskmanager"
CONFIG = Path(__file__).resolve().parents[1] / "flink-conf" / "config.yaml"

# The name by which a TaskManager is known to Flink and to the log folder.
NAME = "RIFFLE_FLINK_NAME"
_START_LIMIT_S = 90


def distribution() -> Path:
    spec = importlib.util.find_spec("pyflink")
    if spec is None or spec.origin is None:
        raise LocalError("The package apache-flink is not installed: run `make setup`.")
    return Path(spec.origin).parent


class FlinkCluster:
    """`environment` is added to what every JVM and `flink run` are started with: where their secrets are, for example."""

    def __init__(
        self, run_dir: Path, rest_port: int, rpc_port: int, environment: Mapping[str, str] | None = None
    ) -> None:
        self._environment = dict(environment or {})
        self.run_dir = run_dir
        self.rest_port = rest_port
        self.rpc_port = rpc_port
        self.folder = run_dir / "flink"
        self.logs = run_dir / "logs"
        self.rest = FlinkRest(f"http://127.0.0.1:{rest_port}")

    def job_manager_pids(self) -> list[int]:
        return processes.daemons(self.run_dir, JOB_MANAGER)

    def task_manager_pids(self) -> list[int]:
        """Oldest first."""
        return processes.daemons(self.run_dir, TASK_MANAGER)

    def slots(self) -> int | None:
        """Slots of the TaskManagers that have registered; None while the JobManager does not answer."""
        overview = self.rest.overview()
        return None if overview is None else int(overview["slots-total"])

    def require_ports(self) -> None:
        processes.require_free_port(self.rest_port, "Flink's web UI and REST API")
        processes.require_free_port(self.rpc_port, "Flink's JobManager")

    def prepare(self, connectors: Sequence[Path], overrides: Mapping[str, str]) -> None:
        """Write the configuration and the lib folder. `overrides` replace settings of flink-conf/config.yaml."""
        # Flink's scripts do not quote the lib folder.
        if any(character.isspace() for character in str(self.run_dir)):
            raise LocalError(
                f"Flink cannot run in {self.run_dir}, whose path has a space: choose another run directory."
            )
        lib, conf = self.folder / "lib", self.folder / "conf"
        shutil.rmtree(lib, ignore_errors=True)
        shutil.rmtree(self.folder / "tmp", ignore_errors=True)
        for folder in (lib, conf, self.folder / "tmp", self.folder / "pids", self.logs):
            folder.mkdir(parents=True, exist_ok=True)
        # PyFlink's own jar as well: pemja's native library can be loaded by one class loader only, so that a second
        # submission to the same TaskManager would fail if the jar came with each job.
        python = sorted((distribution() / "opt").glob("flink-python-*.jar"))
        for jar in [*sorted((distribution() / "lib").glob("*.jar")), *python, *connectors]:
            (lib / jar.name).symlink_to(jar)
        for settings in (distribution() / "conf").glob("log*"):
            shutil.copyfile(settings, conf / settings.name)
        (conf / "config.yaml").write_text(render_config(CONFIG.read_text(), {**self._own_settings(), **overrides}))

    def environment(self, java_home: Path) -> dict[str, str]:
        """What Flink's scripts and JVMs are started with, here and for `flink run`."""
        return {
            **os.environ,
            "JAVA_HOME": str(java_home),
            "FLINK_CONF_DIR": str(self.folder / "conf"),
            "FLINK_LIB_DIR": str(self.folder / "lib"),
            "FLINK_LOG_DIR": str(self.logs),
            "FLINK_PID_DIR": str(self.folder / "pids"),
            "FLINK_IDENT_STRING": "riffle",
            # pemja asks a plain interpreter for its path and so misses the virtual environment.
            "PYTHONPATH": sysconfig.get_paths()["purelib"],
            **self._environment,
        }

    def start(self, java_home: Path, task_managers: int) -> None:
        """Start what is missing of the JobManager and the TaskManagers; return when the slots are there."""
        started = [] if self.job_manager_pids() else [self._spawn(JOB_MANAGER, "jobmanager.sh", java_home)]
        missing = task_managers - len(self.task_manager_pids())
        started += [self._spawn(TASK_MANAGER, "taskmanager.sh", java_home) for _ in range(missing)]
        if started:
            processes.wait_ready(started, lambda: (self.slots() or 0) >= task_managers, limit_s=_START_LIMIT_S)

    def add_task_manager(self, java_home: Path) -> int:
        """Start one more; its pid, once it has registered. Counted by TaskManager, as a dead one may still be listed."""
        before = self._registered()
        daemon = self._spawn(TASK_MANAGER, "taskmanager.sh", java_home)
        processes.wait_ready([daemon], lambda: bool(self._registered() - before), limit_s=_START_LIMIT_S)
        return daemon.pid

    def _registered(self) -> set[str]:
        return {manager["id"] for manager in self.rest.get("/taskmanagers")["taskmanagers"]}

    def _spawn(self, role: str, script: str, java_home: Path) -> processes.Daemon:
        name = f"{role}-{len(list(self.logs.glob(f'flink-{role}-*.out')))}"
        log = self.logs / f"flink-{name}.out"
        log.touch()
        # In the foreground: the script then becomes the JVM, so the pid is the JVM's.
        command = [str(distribution() / "bin" / script), "start-foreground"]
        if role == TASK_MANAGER:
            command += ["-D", f"taskmanager.resource-id={name}"]
        else:  # Checkpoints are bursts of its work; on the cores it shares here, they would hold up the lists.
            command = ["nice", "-n", "10", *command]
        environment = {**self.environment(java_home), NAME: name}
        return processes.start(f"Flink's {name}", role, command, run_dir=self.run_dir, log=log, env=environment)

    def _own_settings(self) -> dict[str, str]:
        """What differs from machine to machine. Numbers instead of "localhost", which may mean ::1."""
        return {
            "jobmanager.rpc.address": "127.0.0.1",
            "jobmanager.rpc.port": str(self.rpc_port),
            "jobmanager.bind-host": "127.0.0.1",
            "taskmanager.host": "127.0.0.1",
            "taskmanager.bind-host": "127.0.0.1",
            "rest.address": "127.0.0.1",
            "rest.bind-address": "127.0.0.1",
            "rest.port": str(self.rest_port),
            "rest.bind-port": str(self.rest_port),
            "execution.checkpointing.dir": (self.folder / "checkpoints").as_uri(),
            "execution.checkpointing.savepoint-dir": (self.folder / "savepoints").as_uri(),
            # Also the age up to which the REST API answers from its cache: 3 s by default, too old to wait by.
            "web.refresh-interval": "500 ms",
            # The console gets errors only: all of the log is in a file that is rolled over, and the console's is not.
            # The optimising compiler is left out: on two cores it takes a quarter of one for minutes, which is as long as a
            # local cluster lives. A TaskManager of your own wants it.
            "env.java.opts.jobmanager": "-Dconsole.log.level=ERROR -XX:TieredStopAtLevel=1 -XX:+UseSerialGC",
            "env.java.opts.taskmanager": "-Dconsole.log.level=ERROR -XX:TieredStopAtLevel=1 -XX:+UseSerialGC",
            "io.tmp.dirs": str(self.folder / "tmp"),
            "python.executable": sys.executable,
            "python.client.executable": sys.executable,
        }


def render_config(base: str, settings: Mapping[str, str]) -> str:
    """`base` with `settings` replaced where it has them and appended where not: Flink refuses a key given twice."""
    lines = base.splitlines()
    keys = {line.split(":", 1)[0]: number for number, line in enumerate(lines) if line and line[0].isalpha()}
    appended = ["", "# Added by local/flink_cluster.py: what differs from machine to machine."]
    for key, value in settings.items():
        if key in keys:
            lines[keys[key]] = f"{key}: {value}"
        else:
            appended.append(f"{key}: {value}")
    return "\n".join([*lines, *appended, ""])
