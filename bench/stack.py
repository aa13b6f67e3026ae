"""A stack of its own for a benchmark: free ports, nothing of an earlier run, gone at the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from bench.machine import ROOT
from local.stack import Ports, Stack

RUN_DIR = ROOT / ".riffle" / "bench"
err = Console(stderr=True)


@contextmanager
def own_stack(
    run_dir: Path = RUN_DIR, flink_settings: Mapping[str, str] | None = None, task_managers: int = 1
) -> Iterator[Stack]:
    """`flink_settings` replace settings of flink-conf/config.yaml."""
    stack = Stack(run_dir, Ports.free(), task_managers=task_managers, flink_settings=flink_settings, say=err.print)
    stack.wipe()
    try:
        stack.start()
        yield stack
    finally:
        stack.wipe()


def wait_for(condition: Callable[[], bool], limit_s: float, what: str, every_s: float = 0.1) -> None:
    """Raises TimeoutError naming what was waited for."""
    deadline = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {limit_s:.0f} s for {what}")
        time.sleep(every_s)
