"""What a job's program prints that runs on a MiniCluster in a process of its own: a JVM is started once a process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path
from types import ModuleType
from typing import Any

from local.java import find_java_home

_ROOT = Path(__file__).resolve().parents[2]
_LIMIT_S = 240


def result_of(program: ModuleType, *arguments: str) -> dict[str, Any]:
    """Its last line, which is JSON."""
    # Embedded Python looks into no virtual environment: it is told where the packages are.
    paths = os.pathsep.join([str(_ROOT), sysconfig.get_paths()["purelib"]])
    environment = {**os.environ, "PYTHONPATH": paths, "JAVA_HOME": str(find_java_home())}
    command = [sys.executable, "-m", program.__name__, *arguments]
    done = subprocess.run(
        command, env=environment, cwd=_ROOT, capture_output=True, text=True, timeout=_LIMIT_S, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    parsed: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return parsed
