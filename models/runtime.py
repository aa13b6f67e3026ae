"""Runtime: what computes the scores. Equal bits are promised where this is equal; elsewhere scores may differ by some 1e-7."""

from __future__ import annotations

import platform
from functools import cache
from importlib.metadata import version
from pathlib import Path


@cache
def runtime() -> str:
    """`onnxruntime 1.22.0, numpy 2.1.3, x86_64, <model of the CPU>`: kernels are chosen by the CPU's model."""
    libraries = ", ".join(f"{name} {version(name)}" for name in ("onnxruntime", "numpy"))
    return f"{libraries}, {platform.machine()}, {_cpu_model()}"


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return "unknown CPU"
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "unknown CPU")
