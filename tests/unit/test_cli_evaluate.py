"""riffle evaluate on small files: a JSON object as last line, reports as files, and plain sentences for what is wrong."""

from __future__ import annotations

import builtins
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from cli.main import app
from models.evaluation.clickout_files import COLUMNS

KNN = "v_sknn,item_knn,popularity"


def run(*arguments: str, code: int = 0) -> Any:
    found = CliRunner().invoke(app, ["evaluate", *arguments])
    assert found.exit_code == code, found.output
    return found


def log(path: Path) -> Path:
    """Twenty users a day for ten days, each of them looking at three items that follow one another."""
    lines = ["user,item,event,ts"]
    for visit in range(200):
        for step in range(3):
            lines.append(f"u{visit % 50},i{(visit + step) % 8},view,{1_600_000_000 + visit * 4_320 + step * 30}")
    path.write_text("\n".join(lines) + "\n")
    return path


def clickouts(path: Path, name: str, day: int) -> Path:
    rows, rng = [], np.random.default_rng(day)
    for number in range(30):
        items = [str(item) for item in rng.permutation(20)[:5]]
        for step, kind in ((1, "interaction item info"), (2, "clickout item")):
            values = (f"u{number}", f"{name}{number}", day * 86_400 + number, step, kind, items[3])
            shown = ("|".join(items), "10|20|30|40|50") if step == 2 else (None, None)
            rows.append(dict(zip(COLUMNS, (*values, *shown))))
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def test_a_log_is_split_and_next_items_are_evaluated(tmp_path: Path) -> None:
    train, test, report = tmp_path / "train.csv", tmp_path / "test.csv", tmp_path / "report"
    files = ("--train", str(train), "--test", str(test))
    run("split", str(log(tmp_path / "log.csv")), *files, "--days", "2")
    found = run("sessions", *files, "--models", KNN)
    figures = json.loads(found.stdout.splitlines()[-1])
    assert list(figures) == KNN.split(",")
    assert figures["item_knn"]["hr@20"] == 1.0 and figures["v_sknn"]["mrr@20"] > 0.9
    assert figures["v_sknn"]["n"] == 2 * 40  # forty sessions begin within two days before the last event
    pytest.importorskip("matplotlib", reason="needs the extra `train`")
    run("sessions", *files, "--models", KNN, "--out", str(report))
    assert {path.name for path in report.iterdir()} == {"report.json", "report.md", "comparison.png"}
    written = json.loads((report / "report.json").read_text())
    assert [pair["models"] for pair in written["pairs"]] == [
        ["v_sknn", "item_knn"],
        ["v_sknn", "popularity"],
        ["item_knn", "popularity"],
    ]
    assert "first event of a session" in (report / "report.md").read_text()


def test_lists_are_reranked(tmp_path: Path) -> None:
    train, test = clickouts(tmp_path / "a.parquet", "a", 1), clickouts(tmp_path / "b.parquet", "b", 2)
    found = run("trivago", "--train", str(train), "--test", str(test), "--models", "last_interacted,as_displayed")
    assert json.loads(found.stdout.splitlines()[-1]) == {
        "last_interacted": {"mrr_all": 1.0, "mrr_last": 1.0, "n_all": 30, "n_last": 30},
        "as_displayed": {"mrr_all": 0.25, "mrr_last": 0.25, "n_all": 30, "n_last": 30},
    }


def test_what_is_wrong_is_said_in_one_sentence(tmp_path: Path) -> None:
    files = ("--train", str(tmp_path / "no.csv"), "--test", str(tmp_path / "no.csv"))
    assert "no.csv: cannot be read" in run("sessions", *files, "--models", KNN, code=1).stderr
    assert "--models bert: choose from dual_sequence" in run("sessions", *files, "--models", "bert", code=1).stderr


@pytest.mark.parametrize(
    ("command", "model", "package"), [("sessions", "gru4rec", "torch"), ("trivago", "lightgbm", "lightgbm")]
)
def test_a_missing_package_is_named_with_its_remedy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: str, model: str, package: str
) -> None:
    """Contract: known before any work is done, so that nobody waits for it."""
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.split(".")[0] == package or name in ("models.baselines.gru4rec", "models.baselines.trees"):
            raise ModuleNotFoundError(f"No module named {package!r}", name=package)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    files = ("--train", str(tmp_path / "no"), "--test", str(tmp_path / "no"))
    found = run(command, *files, "--models", model, code=1)
    assert f"needs {package}, which is not installed: run `uv sync --extra train`" in found.stderr.replace("\n", " ")


def test_a_truncated_log_is_refused_by_name(tmp_path: Path) -> None:
    """Contract: split, sessions and clickouts alike; nothing is evaluated on part of a file."""
    whole = clickouts(tmp_path / "whole.parquet", "a", 1)
    cut = tmp_path / "cut.parquet"
    cut.write_bytes(whole.read_bytes()[:-60])
    files = ("--train", str(tmp_path / "train.csv"), "--test", str(tmp_path / "test.csv"))
    said = run("split", str(cut), *files, code=1).stderr
    assert "cut.parquet is neither CSV nor parquet, or damaged" in said and "write it again" in said
    assert not (tmp_path / "train.csv").exists()
    said = run("sessions", "--train", str(cut), "--test", str(cut), "--models", KNN, code=1).stderr
    assert "cut.parquet: is no CSV file" in said
    said = run("trivago", "--train", str(cut), "--test", str(whole), "--models", "popularity", code=1).stderr
    assert "cut.parquet: is no parquet file, or damaged" in said and "write it again" in said
