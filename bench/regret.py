"""Regret: runs bench/bandits.py in an environment of its own, which holds the library that it compares with."""

from __future__ import annotations

import json
import shutil
import subprocess

import msgspec

from bench.machine import ROOT, about
from bench.results import Bandits, Regret
from bench.stack import err
from local.errors import LocalError

LIBRARY = "mabwiser==2.7.4"
_LIMIT_S = 4 * 3600.0
_HAS_NO_PROJECT = ("--no-project", "--python", "3.11", "--with", LIBRARY, "--with", "msgspec>=0.19")


def run(quick: bool, repeat: int) -> Bandits:  # noqa: ARG001 seeded: another run finds the same
    uv = shutil.which("uv") or str(ROOT / ".riffle" / "tools" / "bin" / "uv")
    problems = ["4"] if quick else []
    command = [uv, "run", "--quiet", *_HAS_NO_PROJECT, "python", str(ROOT / "bench" / "bandits.py"), *problems]
    err.print(f"Comparing with {LIBRARY}.")
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=_LIMIT_S, check=False)
    if done.returncode:
        raise LocalError(f"bench/bandits.py ended with code {done.returncode}: its last words are above.")
    return kept(quick, done.stdout)


def kept(quick: bool, said: str) -> Bandits:
    """Of what bench/bandits.py printed: its last line is JSON."""
    found = json.loads(said.strip().splitlines()[-1])
    counts = {name: found.pop(name) for name in ("mabwiser", "steps", "problems", "linear_steps", "linear_problems")}
    return Bandits(about=about(quick, 1), policies=msgspec.convert(found, dict[str, Regret]), **counts)
