"""The few calls of Flink's REST API that Riffle needs, with time limits and readable errors."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import Any

import msgspec

from local.errors import LocalError
from local.logs import last_cause

_LIMIT_S = 10


class JobStatus(msgspec.Struct, frozen=True):
    """`state` is the job's; a RUNNING job may still wait for slots, so `tasks` counts its tasks by state."""

    job_id: str
    name: str
    state: str
    tasks: dict[str, int]
    completed_checkpoints: int

    @property
    def running(self) -> bool:
        """Every task works, not only the job."""
        return self.state == "RUNNING" and set(self.tasks) == {"RUNNING"}


class FlinkRest:
    def __init__(self, url: str) -> None:
        self.url = url

    def overview(self) -> dict[str, Any] | None:
        """TaskManagers and slots; None while the JobManager does not answer."""
        try:
            overview: dict[str, Any] = self.get("/overview")
        except LocalError:
            return None
        return overview

    def status(self, job_id: str) -> JobStatus:
        job = self.get(f"/jobs/{job_id}")
        metrics = {
            metric["id"]: metric.get("value", "0")
            for metric in self.get(f"/jobs/{job_id}/metrics?get=numberOfCompletedCheckpoints")
        }
        tasks: dict[str, int] = {}
        for vertex in job["vertices"]:
            for state, count in vertex["tasks"].items():
                if count:
                    tasks[state] = tasks.get(state, 0) + count
        return JobStatus(
            job_id=job_id,
            name=job["name"],
            # The job's own answer comes from a cache that may be older than the state.
            state=self.get(f"/jobs/{job_id}/status")["status"],
            tasks=tasks,
            completed_checkpoints=int(metrics.get("numberOfCompletedCheckpoints", 0)),
        )

    def restarts(self, job_id: str) -> int:
        """How often the job has begun anew since it was submitted. From its attempts: the metric is up to 10 s old."""
        vertices = [vertex["id"] for vertex in self.get(f"/jobs/{job_id}")["vertices"]]
        found = [self.get(f"/jobs/{job_id}/vertices/{vertex}")["subtasks"] for vertex in vertices]
        return max(int(subtask["attempt"]) for subtasks in found for subtask in subtasks)

    def jobs(self) -> list[str]:
        """Ids of the jobs that have not ended."""
        ended = ("FINISHED", "CANCELED", "FAILED")
        return [job["id"] for job in self.get("/jobs")["jobs"] if job["status"] not in ended]

    def task_managers_in_use(self) -> set[str]:
        """Those that the jobs which have not ended run on, or did before their last failure."""
        return {
            task_manager["taskmanager-id"]
            for job_id in self.jobs()
            for vertex in self.get(f"/jobs/{job_id}")["vertices"]
            for task_manager in self.get(f"/jobs/{job_id}/vertices/{vertex['id']}/taskmanagers")["taskmanagers"]
        }

    def root_cause(self, job_id: str) -> str:
        """Why the job failed last, in one line."""
        history = self.get(f"/jobs/{job_id}/exceptions").get("exceptionHistory", {}).get("entries", [])
        return last_cause(history[0]["stacktrace"]) if history else ""

    def get(self, path: str) -> Any:
        return self._call("GET", path)

    def post(self, path: str, body: dict[str, Any]) -> Any:
        return self._call("POST", path, body)

    def patch(self, path: str) -> Any:
        return self._call("PATCH", path)

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        request = urllib.request.Request(
            self.url + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=_LIMIT_S) as response:
                return json.loads(response.read() or b"null")
        except urllib.error.HTTPError as error:
            with error:
                reason = _first_error(error.read())
            raise LocalError(f"Flink refused {method} {path}: {reason}.") from error
        except (OSError, ValueError) as error:
            raise LocalError(f"Flink's REST API at {self.url} does not answer ({error}): is the stack up?") from error


def _first_error(body: bytes) -> str:
    try:
        errors = json.loads(body)["errors"]
    except (ValueError, KeyError, TypeError):
        return body.decode(errors="replace").strip()[:300]
    return last_cause("\n".join(errors)) or "no reason given"
