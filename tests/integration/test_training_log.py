"""The training log on a MiniCluster: the same `build` as in production, with map state and event-time timers of Flink's own."""

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
from tests.integration import training_cluster

_ROOT = Path(__file__).resolve().parents[2]
_LIMIT_S = 240


@pytest.fixture(scope="module")
def records() -> list[tuple[str, str, dict[str, Any]]]:
    paths = os.pathsep.join([str(_ROOT), sysconfig.get_paths()["purelib"]])
    environment = {**os.environ, "PYTHONPATH": paths, "JAVA_HOME": str(find_java_home())}
    command = [sys.executable, "-m", training_cluster.__name__]
    done = subprocess.run(
        command, env=environment, cwd=_ROOT, capture_output=True, text=True, timeout=_LIMIT_S, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [tuple(one) for one in json.loads(done.stdout.strip().splitlines()[-1])]


def test_positives_come_at_once_and_windows_close_by_timers(records: list[tuple[str, str, dict[str, Any]]]) -> None:
    rows = [(key, row["event_id"], row["revision"], row["delay_ms"]) for topic, key, row in records if "rows" in topic]
    assert rows == [("u:alice", "i1", revision, {"click": 4}) for revision in (1, 2, 3, 4)]
    last = [row for topic, _, row in records if topic == topics.TRAINING_ROWS][-1]
    assert last["closed"] == ["click", "dwell", "cart", "purchase", "return"]


def test_what_cannot_be_joined_is_put_aside(records: list[tuple[str, str, dict[str, Any]]]) -> None:
    aside = [(row["reason"], row["event_id"]) for topic, _, row in records if topic == topics.TRAINING_UNMATCHED]
    assert sorted(aside) == [("unknown_list", "i2"), ("unreadable", "")]
