"""The job experiments on a MiniCluster: the same `build` as in production, with state and a side output of Flink's own.

Totals of arms are summed over two seconds of the clock, which a bounded input does not live to see: tests/e2e/test_experiments.py.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest

from local.java import find_java_home
from schemas import topics
from tests.fakes import DAY, NOW
from tests.integration import experiments_cluster

_ROOT = Path(__file__).resolve().parents[2]
_LIMIT_S = 240


@pytest.fixture(scope="module")
def records() -> list[tuple[str, str, dict[str, Any]]]:
    paths = os.pathsep.join([str(_ROOT), sysconfig.get_paths()["purelib"]])
    environment = {**os.environ, "PYTHONPATH": paths, "JAVA_HOME": str(find_java_home())}
    command = [sys.executable, "-m", experiments_cluster.__name__]
    done = subprocess.run(
        command, env=environment, cwd=_ROOT, capture_output=True, text=True, timeout=_LIMIT_S, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [tuple(one) for one in json.loads(done.stdout.strip().splitlines()[-1])]


def test_totals_of_a_unit_go_out_with_every_change(records: list[tuple[str, str, dict[str, Any]]]) -> None:
    units = [(key, one) for topic, key, one in records if topic == topics.EXPERIMENT_UNITS]
    assert {key for key, _ in units} == {f"ranker|new|{NOW // DAY}|home||u:alice"}
    assert [one.get("exposures", 0) for _, one in units] == [0, 1, 2, 2]
    assert units[-1][1]["clicks"] == 1
