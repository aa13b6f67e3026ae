"""riffle parity and riffle training-rows: exit codes, and what they say."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer import Typer
from typer.testing import CliRunner

from cli import training, training_parity
from client.training_files import ROWS, Stored, TrainingFiles
from schemas import topics
from schemas.decision import encode_decision
from schemas.features import registry
from schemas.features_row import ItemRow, RowKey
from schemas.training import encode_row
from schemas.training_state import Exposure, Outcome
from tests.fakes import NOW
from tests.unit.test_attribution import BASE, decided, interaction, ranked, shown
from tests.unit.test_parity import day
from tests.unit.test_training_files import row
from udfs.logic import attribution
from udfs.logic.attribution import Rules
from udfs.logic.backfill import Logged
from udfs.logic.backfill import training_rows as rebuild

RUNNER = CliRunner()
LOG = [
    Logged(BASE, ranked()),
    *(Logged(BASE + n, shown(f"i{n}", BASE + n)) for n in range(5)),
    Logged(BASE + 9_000, interaction("c1", "click", "a", BASE + 9_000)),
]


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Any]]:
    """Kafka, as far as the command reads it: what the jobs wrote is what they write now."""
    served, applied = day(1)
    found = {
        topics.RANKED_FEED: [one.record for one in LOG if not hasattr(one.record, "event")],
        topics.INTERACTIONS: [*(one.record for one in LOG if hasattr(one.record, "event")), *applied],
        topics.TRAINING_ROWS: list(rebuild(LOG, Rules()).values()),
        topics.FEATURES: served,
        topics.IDENTITY: [],
        topics.RANKINGS_LOG: [],
    }

    def read(_where: object, name: str, *_: object) -> Iterator[tuple[int, Any]]:
        return ((BASE, one) for one in found[name])

    monkeypatch.setattr(training_parity, "_read", read)
    monkeypatch.setattr(training_parity, "_item_rows", lambda *_: {})
    return found


def parity(*args: str) -> tuple[int, str]:
    app = Typer()
    app.command()(training_parity.parity)
    done = RUNNER.invoke(app, ["--hours", "1000000", *args])
    return done.exit_code, " ".join(done.output.split())


@pytest.mark.usefixtures("log")
def test_equal_rows_pass() -> None:
    code, said = parity("--json")
    assert code == 0
    reports = json.loads(said)
    assert reports["training rows"]["rows"] == 5
    assert reports["session features"]["rows"] >= 2


@pytest.mark.usefixtures("log")
def test_a_counter_that_differs_fails_and_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Contract: a row of an item nobody acted on parts from the log, with the feature and the item."""
    columns = registry().item_columns()
    row = ItemRow(1, 1, BASE + 300_000, tuple(int(one.id == "likes_28d@1") for one in columns))
    monkeypatch.setattr(training_parity, "_item_rows", lambda *_: {RowKey("item", "nothing"): row})
    code, said = parity()
    assert code == 1
    assert "likes_28d@1" in said
    assert "item|nothing" in said


@pytest.mark.usefixtures("log")
def test_a_skew_of_one_line_fails_and_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Contract: whoever changes how an outcome finds its exposure is told which field, whose, and since when."""
    original = attribution._owner

    def the_first_not_the_last(outcome: Outcome, exposures: list[Exposure], window_ms: int) -> Exposure | None:
        return original(outcome, exposures[:1], window_ms)

    monkeypatch.setattr(attribution, "_owner", the_first_not_the_last)
    code, said = parity("--json")
    assert code == 1
    report, _ = json.JSONDecoder().raw_decode(said)
    field = report["training rows"]["fields"]["click"]
    assert (field["compared"], field["equal"]) == (5, 3)
    assert (field["first"]["key"], field["first"]["event_id"]) == ("u:alice", "i0")
    assert "of the values are equal" in said
    assert parity("--at-least", "0.5")[0] == 0


def test_a_row_that_was_never_written_fails(log: dict[str, list[Any]]) -> None:
    lost = log[topics.TRAINING_ROWS].pop()
    code, said = parity()
    assert code == 1
    assert f"Missing, by impression: {lost.event_id}" in said


class _Topic:
    def extent(self) -> dict[int, tuple[int, int]]:
        return {0: (0, 2)}

    def __init__(self, topic: str) -> None:
        self._topic = topic

    def read(self, partition: int, start: int, end: int) -> list[Stored]:
        of_rows = self._topic == topics.TRAINING_ROWS
        return [
            Stored(partition, n, NOW, encode_row(row(n)) if of_rows else encode_decision(decided(f"L{n}")))
            for n in range(start, end)
        ]


def test_export_check_and_repair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "TopicRows", lambda _where, topic: _Topic(topic))
    folder = str(tmp_path)
    said = RUNNER.invoke(training.app, ["export", folder]).output
    assert "2 rows in 1 new files" in said
    assert "4 places of lists in 1 new files" in said
    assert RUNNER.invoke(training.app, ["check", folder]).exit_code == 0
    (file,) = (TrainingFiles(tmp_path, ROWS).folder / "rows").rglob("*.parquet")
    file.write_bytes(file.read_bytes()[:-1])
    damaged = RUNNER.invoke(training.app, ["check", folder])
    assert damaged.exit_code == 1
    assert f"{file.relative_to(tmp_path)}: changed (offsets 0 to 2)" in damaged.output.replace("\n", "")
    assert RUNNER.invoke(training.app, ["check", folder, "--repair"]).exit_code == 0
    assert "2 rows in 1 new files" in RUNNER.invoke(training.app, ["export", folder]).output
    assert RUNNER.invoke(training.app, ["check", folder]).exit_code == 0


def test_a_folder_that_nothing_was_exported_to_is_not_called_whole(tmp_path: Path) -> None:
    said = RUNNER.invoke(training.app, ["check", str(tmp_path)])
    assert said.exit_code == 1
    assert "Nothing was ever exported" in said.output


@pytest.mark.parametrize("command", ["export", "check"])
def test_help_teaches_with_an_example(command: str) -> None:
    said = " ".join(RUNNER.invoke(training.app, [command, "--help"]).output.split())
    assert "Example" in said
    assert f"riffle training-rows {command}" in said
