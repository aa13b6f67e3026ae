"""riffle chaos and riffle load: what they refuse, what they skip, and that commands are run."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from cli import chaos
from cli.connecting import redis_nodes
from cli.main import app
from schemas.connections import Connections
from trials.account import Account
from trials.faults import Arena, Verdict
from trials.hands import CommandFailed, command

RUNNER = CliRunner()


@pytest.fixture(autouse=True)
def _nobody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RIFFLE_BROKERS", "127.0.0.1:1")
    monkeypatch.setenv("RIFFLE_REDIS_URL", "redis://127.0.0.1:1/0")
    monkeypatch.setattr("client.kafka._BOOTSTRAP_MS", 50)


@pytest.mark.parametrize("name", ["load", "chaos"])
def test_help_teaches_with_an_example(name: str) -> None:
    shown = " ".join(RUNNER.invoke(app, [name, "--help"]).output.split())
    assert "Example" in shown and f"riffle {name} --" in shown


def test_a_cluster_that_nobody_said_how_to_break_is_refused(tmp_path: Path) -> None:
    """Contract: the local stack is never broken on behalf of another cluster that the settings name."""
    done = RUNNER.invoke(app, ["chaos", "--run-dir", str(tmp_path)])
    assert done.exit_code == 1
    assert "is not what is connected to (127.0.0.1:1)" in done.output


def test_trials_without_their_command_are_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    killed: list[int] = []

    def kills(arena: Arena, kill: list[chaos.Hand], *_: object) -> Verdict:
        killed.append(len(kill))
        return Verdict(trial="kill", seed=arena.seed, account=Account())

    monkeypatch.setattr(chaos, "kills", kills)
    arguments = ["--kill-task-manager", "true", "--only", "kill", "--only", "broker", "--seed", "5", "--json"]
    done = RUNNER.invoke(app, ["chaos", *arguments])
    assert (done.exit_code, killed) == (0, [chaos.KILLS]), done.output
    assert "broker: skipped" in done.stderr
    (verdict,) = msgspec.json.decode(done.stdout, type=list[Verdict])
    assert (verdict.trial, verdict.seed, verdict.passed) == ("kill", 5, True)


def test_a_trial_that_has_not_passed_ends_with_code_1(monkeypatch: pytest.MonkeyPatch) -> None:
    def kills(arena: Arena, *_: object) -> Verdict:
        return Verdict(trial="kill", seed=arena.seed, wrong=["u1: lost"])

    monkeypatch.setattr(chaos, "kills", kills)
    done = RUNNER.invoke(app, ["chaos", "--kill-task-manager", "true", "--only", "kill"])
    assert done.exit_code == 1 and "u1: lost" in done.output


def test_every_trial_has_its_hands() -> None:
    arena = Arena(where=Connections(), items=["i"], redis=redis_nodes, seed=1)
    everything = chaos.Hands([print], print, *[print] * 7)
    assert set(chaos._trials(arena, everything)) == set(chaos.Trial)
    assert set(chaos._trials(arena, chaos.Hands())) == {chaos.Trial.HOT_USER}  # needs nobody's help


def test_a_command_that_fails_is_told_in_its_own_words() -> None:
    command("true")
    with pytest.raises(CommandFailed, match="code 3: no such pod"):
        command("echo no such pod >&2; exit 3")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # kafka-python drops its sockets
def test_a_broken_command_is_a_verdict_and_not_a_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    def kills(_: Arena, kill: list[chaos.Hand], *__: object) -> Verdict:
        kill[0]()
        raise AssertionError("the command fails")

    monkeypatch.setattr(chaos, "kills", kills)
    done = RUNNER.invoke(app, ["chaos", "--kill-task-manager", "exit 4", "--only", "kill"])
    assert done.exit_code == 1 and "ended with code 4" in done.output
