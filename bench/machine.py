"""What a benchmark ran on, and what its processes cost: versions, cores, CPU time by role."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import msgspec

from local import processes

ROOT = Path(__file__).resolve().parents[1]
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
_PACKAGES = ("apache-flink", "onnxruntime", "numpy", "msgspec", "kafka-python", "torch")


class About(msgspec.Struct, frozen=True):
    """Where, when and how a part was measured. `quick`: too few events to be quoted."""

    date: str
    commit: str
    quick: bool
    repeat: int
    cpu: str
    cores: int
    memory_gb: int
    kernel: str
    python: str
    versions: dict[str, str]
    settings: dict[str, str]


def about(quick: bool, repeat: int, **settings: object) -> About:
    return About(
        date=datetime.now(timezone.utc).isoformat(timespec="minutes"),
        commit=_commit(),
        quick=quick,
        repeat=repeat,
        cpu=_cpu_model(),
        cores=os.cpu_count() or 0,
        memory_gb=round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        kernel=platform.release(),
        python=platform.python_version(),
        versions={name: found for name in _PACKAGES if (found := _version(name))},
        settings={name: str(value) for name, value in settings.items()},
    )


def cpu_s(pid: int) -> float:
    """CPU time of a process and of its children that have ended; 0 for one that is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(map(int, fields[11:15])) * _TICK_S


def cpu_by_role(run_dir: Path) -> dict[str, float]:
    """CPU time so far of the stack's living processes, by role; a TaskManager's Python workers count as `python-worker`."""
    leaders = {
        pid for role in ("broker", "redis", "jobmanager", "taskmanager") for pid in processes.daemons(run_dir, role)
    }
    found: dict[str, float] = {}
    for pid in processes.of(run_dir):
        role = processes.mark(pid, processes.ROLE)
        if pid not in leaders and role == "taskmanager":
            role = "python-worker"
        found[role] = found.get(role, 0.0) + cpu_s(pid)
    return found


def _commit() -> str:
    found = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, timeout=10, check=False
    )
    return found.stdout.strip() or "unknown"


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
