"""Hands: how things are broken. On the local stack by signals to its processes; on a cluster by commands of its owner's."""

from __future__ import annotations

import os
import signal
import subprocess
import time

from client.errors import InvalidArgument
from local import processes
from local.errors import LocalError
from local.flink_cluster import NAME
from local.jars import fetch, listed
from local.java import find_java_home
from local.stack import Stack

_COMMAND_LIMIT_S = 120
_END_LIMIT_S = 10


class CommandFailed(Exception):
    """A command of the user's did not end well."""


def command(line: str) -> None:
    """Run a shell command. Raises CommandFailed with its last words."""
    try:
        done = subprocess.run(line, shell=True, capture_output=True, text=True, timeout=_COMMAND_LIMIT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise CommandFailed(f"`{line}` did not end within {_COMMAND_LIMIT_S} s") from error
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise CommandFailed(f"`{line}` ended with code {done.returncode}: {said[-1] if said else 'it said nothing'}")


class LocalHands:
    """Breaks the stack in a run directory. Whatever it kills is gone with its children, as a container would be."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack

    def start_spare(self) -> None:
        """One more TaskManager than the job needs."""
        self._stack.add_task_manager()

    def kill_task_manager(self) -> None:
        """kill -9 of the TaskManagers that work."""
        _kill(self._busy())

    def kill_task_manager_in_a_checkpoint(self) -> None:
        """The same, at once after a checkpoint was asked for: it takes some 50 ms or more, and cannot complete."""
        busy, rest = self._busy(), self._stack.flink.rest
        (job_id,) = rest.jobs()
        rest.post(f"/jobs/{job_id}/checkpoints", {})
        _kill(busy)

    def restart_broker(self) -> None:
        _kill(self._stack.pids()["kafka"])
        self._stack.broker.start(find_java_home(), fetch(listed("broker"), say=lambda _: None))

    def stop_redis(self) -> None:
        _kill(self._stack.pids()["redis"])

    def start_redis(self) -> None:
        """Empty: the local Redis keeps nothing on disk."""
        self._stack.redis.start()

    def hang_redis(self) -> None:
        """From now on it accepts connections and never answers."""
        _signal(self._stack.pids()["redis"], signal.SIGSTOP)

    def resume_redis(self) -> None:
        _signal(self._stack.pids()["redis"], signal.SIGCONT)

    def hang_workers(self) -> None:
        """The ranking workers stand still; the TaskManagers that feed them do not."""
        if not (workers := self._workers()):
            raise InvalidArgument("no ranking worker runs on the local stack: is the job submitted?")
        _signal(workers, signal.SIGSTOP)

    def resume_workers(self) -> None:
        _signal(self._workers(), signal.SIGCONT)

    def _busy(self) -> list[int]:
        names = self._stack.flink.rest.task_managers_in_use()
        found = [pid for pid in self._stack.pids()["taskmanager"] if processes.mark(pid, NAME) in names]
        if not found:
            raise LocalError("No TaskManager of the local stack works on a job: run `riffle submit`.")
        return found

    def _workers(self) -> list[int]:
        managers = set(self._stack.pids()["taskmanager"])
        ours = set(processes.of(self._stack.run_dir)) - managers
        return [pid for pid in sorted(ours) if _session(pid) in managers]


def _session(pid: int) -> int:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return 0


def _kill(leaders: list[int]) -> None:
    """kill -9 of daemons and of what they started: they lead a process group each."""
    for pid in leaders:
        os.killpg(pid, signal.SIGKILL)
    deadline = time.monotonic() + _END_LIMIT_S
    while any(processes.alive(pid) for pid in leaders):
        if time.monotonic() > deadline:
            raise LocalError(f"Processes {leaders} were killed and do not end; look at them with ps.")
        time.sleep(0.02)


def _signal(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        os.kill(pid, number)
