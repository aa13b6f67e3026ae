"""Starting, finding and ending processes that must not outlive their stack.

The kernel is the register, not a pid file: every process is started with two environment variables that its children
inherit, and is found again by them in /proc. So a stack can be stopped after a crash of whoever started it, a recycled
pid is never mistaken for ours, and the Beam workers that a killed TaskManager leaves behind are ended too.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from local.errors import LocalError
from local.logs import last_cause_in

OWNER = "RIFFLE_STARTED_FOR"
ROLE = "RIFFLE_STARTED_AS"

# Children of this interpreter are kept, so that the dead are reaped and none is reported as a leaked resource.
_children: list[subprocess.Popen[bytes]] = []


class Daemon(NamedTuple):
    name: str
    pid: int
    log: Path


def start(
    name: str, role: str, command: Sequence[str], *, run_dir: Path, log: Path, env: Mapping[str, str] = os.environ
) -> Daemon:
    """Start a daemon in a session of its own: Ctrl-C in a terminal must not reach it."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            cwd=run_dir,
            env=marked(env, run_dir, role),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    _children.append(process)
    # The kernel shows the new environment a moment after the program has begun.
    wait_until(lambda: bool(_environment(process.pid)) or process.poll() is not None, 5, every_s=0.005)
    return Daemon(name, process.pid, log)


def marked(env: Mapping[str, str], run_dir: Path, role: str) -> dict[str, str]:
    """`env` with the two variables by which a process and its children are found."""
    return {**env, OWNER: str(run_dir), ROLE: role}


def of(run_dir: Path) -> list[int]:
    """Every living process of the stack in `run_dir`: daemons, their children and orphans."""
    return [pid for pid in _pids() if _environment(pid).get(OWNER) == str(run_dir)]


def daemons(run_dir: Path, role: str) -> list[int]:
    """The daemons of one role, oldest first. Their children carry the same marks but do not lead a session."""
    found = [
        pid
        for pid in _pids()
        if (marks := _environment(pid)).get(OWNER) == str(run_dir) and marks.get(ROLE) == role and _leads_session(pid)
    ]
    return sorted(found, key=_started)


def mark(pid: int, name: str) -> str:
    """A variable of the environment that a process was started with; empty if it has none."""
    return _environment(pid).get(name, "")


def has_loaded(pid: int, library: str) -> bool:
    """Whether a file whose path holds `library` is mapped into the process."""
    with contextlib.suppress(OSError):
        return library in Path(f"/proc/{pid}/maps").read_text(errors="replace")
    return False


def alive(pid: int) -> bool:
    """Not by its marks, which are out of sight for a moment whenever a script becomes the JVM. A zombie is dead."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def end(pids: Callable[[], list[int]], *, patience_s: float) -> None:
    """Ask whatever `pids` finds to end; kill what is still there after `patience_s`."""
    _signal(pids(), signal.SIGTERM)
    if wait_until(lambda: _none(pids), patience_s):
        return
    _signal(pids(), signal.SIGKILL)
    if not wait_until(lambda: _none(pids), 10):
        raise LocalError(f"Processes {pids()} cannot be ended, although they were killed; look at them with ps.")


def wait_until(condition: Callable[[], bool], limit_s: float, *, every_s: float = 0.1) -> bool:
    """Whether `condition` became true within the limit."""
    deadline = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(every_s)
    return True


def wait_ready(daemons: Sequence[Daemon], ready: Callable[[], bool], *, limit_s: float) -> None:
    """Wait until daemons serve together; if one ends instead, or they never do, say so with the reason in its log."""

    def lost() -> Daemon | None:
        return next((daemon for daemon in daemons if not alive(daemon.pid)), None)

    if wait_until(lambda: lost() is not None or ready(), limit_s) and lost() is None:
        return
    culprit, state = lost(), "ended while starting"
    if culprit is None:
        culprit, state = daemons[0], f"did not become ready within {limit_s:.0f} s"
    reason = last_cause_in(culprit.log) or "nothing was logged"
    raise LocalError(f'{culprit.name} {state}; the reason may be "{reason}", its log is {culprit.log}.')


def require_free_port(port: int, purpose: str) -> None:
    with socket.socket() as probe:
        # As the servers do: a port that only waits for old connections to time out is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise LocalError(
                f"Port {port}, needed for {purpose}, cannot be used ({error.strerror}): "
                "stop the program that holds it (`ss -ltnp` names it) or choose another port."
            ) from error


def accepts_connections(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on. All are held while choosing, so that none comes twice."""
    with contextlib.ExitStack() as held:
        probes = [held.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]


def _pids() -> list[int]:
    for child in _children[:]:
        if child.poll() is not None:
            with contextlib.suppress(ValueError):  # another thread was faster
                _children.remove(child)
    return [int(entry) for entry in os.listdir("/proc") if entry.isdigit() and int(entry) != os.getpid()]


def _environment(pid: int) -> dict[str, str]:
    """The environment a process was started with; empty for the dead, for zombies and for other users' processes."""
    try:
        raw = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return {}
    pairs = (entry.partition("=") for entry in os.fsdecode(raw).split("\0"))
    return {name: value for name, _, value in pairs}


def _started(pid: int) -> int:
    """When, in ticks since boot: pids begin anew at some time, so that the youngest process may have the lowest."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except OSError:
        return 0


def _none(pids: Callable[[], list[int]]) -> bool:
    """Asked twice, because a process that is just becoming another program shows no marks."""
    if pids():
        return False
    time.sleep(0.05)
    return not pids()


def _leads_session(pid: int) -> bool:
    with contextlib.suppress(ProcessLookupError):
        return os.getsid(pid) == pid
    return False


def _signal(pids: Sequence[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
