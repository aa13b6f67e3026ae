"""Flink's configuration, the reading of its answers, and the archive that carries our packages."""

from __future__ import annotations

from pathlib import Path

import pytest

from local.errors import LocalError
from local.flink_cluster import CONFIG, FlinkCluster, render_config
from local.flink_rest import JobStatus
from local.logs import last_cause


def keys(text: str) -> list[str]:
    return [line.split(":", 1)[0] for line in text.splitlines() if line and not line.startswith("#")]


def test_settings_replace_and_append_without_repeating_a_key() -> None:
    text = render_config("# why\na.b: 1\nc: 2\n", {"a.b": "9", "d": "4"})
    assert keys(text) == ["a.b", "c", "d"]
    assert "a.b: 9" in text
    assert "# why" in text


def test_the_committed_configuration_leaves_machine_settings_to_the_machine(tmp_path: Path) -> None:
    committed = keys(CONFIG.read_text())
    assert len(committed) == len(set(committed))
    FlinkCluster(tmp_path, 8081, 6123).prepare([], {"taskmanager.memory.process.size": "3g"})
    rendered = (tmp_path / "flink" / "conf" / "config.yaml").read_text()
    assert len(keys(rendered)) == len(set(keys(rendered)))
    assert "taskmanager.memory.process.size: 3g" in rendered
    assert not {"rest.port", "python.executable", "execution.checkpointing.dir"} & set(committed)
    assert {"rest.port", "python.executable", "execution.checkpointing.dir"} <= set(keys(rendered))


def test_the_lib_folder_has_the_distribution_and_the_connector(tmp_path: Path) -> None:
    connector = tmp_path / "connector.jar"
    connector.touch()
    FlinkCluster(tmp_path / "run", 8081, 6123).prepare([connector], {})
    names = {jar.name for jar in (tmp_path / "run" / "flink" / "lib").iterdir()}
    assert "connector.jar" in names
    assert any(name.startswith("flink-dist") for name in names)


def test_a_run_directory_with_a_space_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LocalError, match="has a space"):
        FlinkCluster(tmp_path / "my run", 8081, 6123).prepare([], {})


@pytest.mark.parametrize(
    ("state", "tasks", "running"),
    [
        ("RUNNING", {"RUNNING": 3}, True),
        ("RUNNING", {"RUNNING": 2, "INITIALIZING": 1}, False),
        ("RESTARTING", {"RUNNING": 1}, False),
    ],
)
def test_a_job_runs_when_all_its_tasks_do(state: str, tasks: dict[str, int], running: bool) -> None:
    assert JobStatus(job_id="", name="", state=state, tasks=tasks, completed_checkpoints=0).running is running


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        (
            "a.B: outer\n\tat x.Y(Z.java:1)\nCaused by: c.D: middle\n\tat q\nCaused by: e.F: inner\n\t... 3 more\n",
            "e.F: inner",
        ),
        (
            'Traceback (most recent call last):\n  File "j.py", line 3\n    1/0\nZeroDivisionError: division by zero\n\n',
            "ZeroDivisionError: division by zero",
        ),
        (
            'a.B: failed\nCaused by: c.D\nTraceback (most recent call last):\n  File "x", line 1\nmod.Bad: why\n\tat j.K\n',
            "mod.Bad: why",
        ),
        (
            "Traceback (most recent call last):\n  File x\npy4j.protocol.Py4JJavaError: An error occurred\n: a.V: refused\n"
            "\tat b.C\nCaused by: d.E: no such table\n\norg.x.ProgramAbortException: f\nCaused by: exits with code: 1\n",
            "d.E: no such table",
        ),
        ("all is well\nwas it?\n", "was it?"),
        ("", ""),
    ],
)
def test_the_cause_is_the_line_a_reader_looks_for(text: str, cause: str) -> None:
    assert last_cause(text) == cause
