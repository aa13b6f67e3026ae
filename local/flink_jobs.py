"""Submitting and ending jobs, as on any Flink cluster: `flink run` to start, the REST API for the rest."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from local import processes
from local.errors import LocalError
from local.flink_cluster import distribution
from local.flink_rest import FlinkRest, JobStatus
from local.logs import last_cause

_SUBMIT_LIMIT_S = 180
_END_LIMIT_S = 120


class FlinkJobs:
    """`environment` is FlinkCluster.environment(): it leads `flink run` to the cluster's configuration and lib folder."""

    def __init__(self, rest: FlinkRest, environment: Mapping[str, str], logs: Path) -> None:
        self.rest = rest
        self.environment = environment
        self.logs = logs

    def submit(
        self, job_file: Path, args: Sequence[str] = (), py_files: Sequence[Path] = (), savepoint: str | None = None
    ) -> str:
        """The job's id, once the JobManager has accepted it."""
        if not job_file.is_file():
            raise LocalError(f"The job {job_file} does not exist: give the path of a Python file.")
        command = [str(distribution() / "bin" / "flink"), "run", "-d"]
        if savepoint is not None:
            command += ["-s", savepoint]
        command += ["-py", str(job_file)]
        if py_files:
            command += ["-pyfs", ",".join(map(str, py_files))]
        log = self.logs / f"submit-{job_file.stem}-{time.strftime('%Y%m%d-%H%M%S')}.log"
        output = self._run([*command, *args], log)
        job_id = re.search(r"submitted with JobID ([0-9a-f]{32})", output)
        if job_id is None:
            raise LocalError(f"{job_file} was not accepted by Flink: {last_cause(output)} (all of it in {log}).")
        return job_id[1]

    def _run(self, command: Sequence[str], log: Path) -> str:
        with log.open("w") as file:
            try:
                subprocess.run(
                    command,
                    env={**self.environment},
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    timeout=_SUBMIT_LIMIT_S,
                    check=False,
                )
            except subprocess.TimeoutExpired as error:
                raise LocalError(
                    f"`flink run` did not end within {_SUBMIT_LIMIT_S} s: look at {log} and at {self.rest.url}."
                ) from error
        return log.read_text(errors="replace")

    def status(self, job_id: str) -> JobStatus:
        return self.rest.status(job_id)

    def wait_running(self, job_id: str, limit_s: float = 120) -> JobStatus:
        """Until every task runs. A job that ended instead is an error with its cause."""
        deadline = time.monotonic() + limit_s
        while not (status := self.rest.status(job_id)).running:
            if status.state in ("FAILED", "FINISHED", "CANCELED"):
                raise LocalError(
                    f"Job {status.name} is {status.state}: {self.rest.root_cause(job_id) or 'no cause given'}."
                )
            if time.monotonic() > deadline:
                cause = self.rest.root_cause(job_id) or "it waits for slots or for its first data"
                raise LocalError(f"Job {status.name} does not run after {limit_s:.0f} s ({status.tasks}): {cause}.")
            time.sleep(0.2)
        return status

    def stop_with_savepoint(self, job_id: str) -> str:
        """End the job after a savepoint; where it is."""
        trigger = self.rest.post(f"/jobs/{job_id}/stop", {"drain": False})["request-id"]
        deadline = time.monotonic() + _END_LIMIT_S
        while (answer := self.rest.get(f"/jobs/{job_id}/savepoints/{trigger}"))["status"]["id"] != "COMPLETED":
            if time.monotonic() > deadline:
                raise LocalError(
                    f"The savepoint of job {job_id} is not done after {_END_LIMIT_S} s: see {self.rest.url}."
                )
            time.sleep(0.2)
        operation = answer["operation"]
        if "location" not in operation:
            cause = last_cause(operation.get("failure-cause", {}).get("stack-trace", ""))
            raise LocalError(f"Job {job_id} could not be stopped with a savepoint: {cause}.")
        self._await_end(job_id)
        return str(operation["location"])

    def cancel(self, job_id: str) -> None:
        self.rest.patch(f"/jobs/{job_id}?mode=cancel")
        self._await_end(job_id)

    def _await_end(self, job_id: str) -> None:
        if not processes.wait_until(lambda: job_id not in self.rest.jobs(), _END_LIMIT_S, every_s=0.2):
            raise LocalError(f"Job {job_id} does not end: see {self.rest.url}, or run `make stop`.")
