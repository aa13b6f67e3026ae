"""Processes are found by what they were started for, not by who started them, and nothing outlives its stack."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from local import processes
from local.errors import LocalError

SLEEP = "import time; time.sleep(60)"
STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SLEEP}"
PARENT = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {SLEEP!r}]); {SLEEP}"


@pytest.fixture
def run_dir(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    processes.end(lambda: processes.of(tmp_path), patience_s=0.1)


def start(run_dir: Path, program: str) -> processes.Daemon:
    command = [sys.executable, "-c", program]
    return processes.start("Thing", "sleeper", command, run_dir=run_dir, log=run_dir / "logs" / "sleeper.log")


def test_a_daemon_is_found_by_its_run_dir_and_role(run_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    pid = start(run_dir, SLEEP).pid
    assert processes.daemons(run_dir, "sleeper") == processes.of(run_dir) == [pid]
    assert processes.daemons(run_dir, "other") == []
    assert processes.of(tmp_path_factory.mktemp("other")) == []


def test_an_orphan_belongs_to_the_stack_but_is_no_daemon(run_dir: Path) -> None:
    parent = start(run_dir, PARENT).pid
    assert processes.wait_until(lambda: len(processes.of(run_dir)) == 2, 10)
    assert processes.daemons(run_dir, "sleeper") == [parent]
    os.kill(parent, signal.SIGKILL)
    assert processes.wait_until(lambda: not processes.daemons(run_dir, "sleeper"), 10)
    assert len(processes.of(run_dir)) == 1
    processes.end(lambda: processes.of(run_dir), patience_s=5)
    assert processes.of(run_dir) == []


def test_who_ignores_the_request_to_end_is_killed(run_dir: Path) -> None:
    pid = start(run_dir, STUBBORN).pid
    processes.end(lambda: processes.of(run_dir), patience_s=0.3)
    assert not processes.alive(pid)


def test_a_daemon_that_dies_while_starting_is_explained_by_its_log(run_dir: Path) -> None:
    sleeper = start(run_dir, SLEEP)
    failing = start(run_dir, "raise ValueError('no such setting')")
    with pytest.raises(LocalError, match=r'Thing ended while starting.*"ValueError: no such setting".*sleeper\.log'):
        processes.wait_ready([sleeper, failing], lambda: False, limit_s=20)


def test_a_daemon_that_never_serves_is_reported_after_the_limit(run_dir: Path) -> None:
    with pytest.raises(LocalError, match=r"Thing did not become ready within 0 s.*nothing was logged"):
        processes.wait_ready([start(run_dir, SLEEP)], lambda: False, limit_s=0.2)


def test_a_taken_port_is_named_with_its_purpose() -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        with pytest.raises(LocalError, match=f"Port {port}, needed for Kafka,.*choose another port"):
            processes.require_free_port(port, "Kafka")
    processes.require_free_port(port, "Kafka")


def test_free_ports_are_distinct() -> None:
    assert len(set(processes.free_ports(20))) == 20


def test_daemons_are_told_by_age_and_not_by_pid(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Contract: pids begin anew at some time."""
    older, younger = start(run_dir, SLEEP).pid, start(run_dir, SLEEP).pid
    monkeypatch.setattr(processes, "_pids", lambda: [younger, older])
    monkeypatch.setattr(processes, "_started", {older: 7, younger: 8}.__getitem__)
    # A busy machine shows the marks a moment late.
    assert processes.wait_until(lambda: processes.daemons(run_dir, "sleeper") == [older, younger], 10)
