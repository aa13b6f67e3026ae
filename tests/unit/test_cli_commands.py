"""The commands of sender, reader and tools: help that teaches, connections, and errors in one sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer import Typer
from typer.testing import CliRunner

from cli import connecting, dead_letters, feed, replay, send, trace
from cli import redis as redis_commands
from client.errors import InvalidEvent
from schemas.event import Rejected, parse_event

RUNNER = CliRunner()


def app() -> Typer:
    made = Typer()
    for command in (send.send, feed.feed, feed.explain, trace.trace, replay.replay):
        made.command()(command)
    made.add_typer(dead_letters.app, name="dead-letters")
    made.add_typer(redis_commands.app, name="redis")
    return made


@pytest.fixture(autouse=True)
def _nobody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RIFFLE_BROKERS", "127.0.0.1:1")
    monkeypatch.setenv("RIFFLE_REDIS_URL", "redis://127.0.0.1:1/0")
    monkeypatch.setattr("client.kafka._BOOTSTRAP_MS", 50)


@pytest.mark.parametrize(
    "command",
    [
        ["send"],
        ["feed"],
        ["explain"],
        ["trace"],
        ["dead-letters", "list"],
        ["dead-letters", "show"],
        ["dead-letters", "replay"],
        ["redis", "rebuild"],
    ],
)
def test_help_teaches_with_an_example(command: list[str]) -> None:
    shown = RUNNER.invoke(app(), [*command, "--help"])
    assert shown.exit_code == 0
    assert "Example" in shown.output
    assert f"riffle {' '.join(command)}" in " ".join(shown.output.split())


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # kafka-python drops its sockets
@pytest.mark.usefixtures("kafka_leftovers")
@pytest.mark.parametrize(
    "command",
    [
        ["send", "/dev/null"],
        ["trace", "e1"],
        ["dead-letters", "list"],
        ["dead-letters", "show", "0:1"],
        ["redis", "rebuild"],
    ],
)
def test_without_a_broker_a_command_ends_with_one_sentence(command: list[str]) -> None:
    ended = RUNNER.invoke(app(), command)
    assert ended.exit_code == 1
    sentences = [line for line in ended.stderr.splitlines() if line.strip()]
    assert len(sentences) == 1, ended.output
    assert sentences[0].startswith("Kafka at 127.0.0.1:1 does not answer")


def test_without_redis_feed_shows_the_declared_fallback() -> None:
    shown = RUNNER.invoke(app(), ["feed", "alice", "--json"])
    assert shown.exit_code == 0
    assert json.loads(shown.stdout)["fallback"] == "redis_unavailable"
    assert "fallback: redis_unavailable" in RUNNER.invoke(app(), ["feed", "alice"]).stdout
    ended = RUNNER.invoke(app(), ["explain", "alice"])
    assert (ended.exit_code, "nothing to explain" in ended.stderr) == (1, True)


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        (["send", "no-such-file"], "no-such-file cannot be read: No such file or directory."),
        (["feed", "a\x01b"], "user: "),
        (["dead-letters", "replay"], "Name the letters to replay, or the --reason"),
        (["dead-letters", "replay", "1:2", "--reason", "empty"], "one of the two"),
        (["dead-letters", "replay", "1:2", "3:4", "--fix", "x.json"], "name exactly one"),
        (["dead-letters", "replay", "1:2", "--fix", "no-such-file"], "no-such-file cannot be read"),
        (["replay"], "Say which lists: one LIST_ID, or --last, or --hours."),
        (["replay", "3f1c", "--last", "9"], "Say which lists"),
        (["replay", "3f1c", "--surface", "home"], "--surface chooses among lists"),
    ],
)
def test_wrong_arguments_are_one_sentence(command: list[str], sentence: str) -> None:
    ended = RUNNER.invoke(app(), command)
    assert ended.exit_code == 1
    assert sentence in ended.stderr
    assert "Traceback" not in ended.output


# --- connections -----------------------------------------------------------------------------------------------------------


def test_the_local_stack_fills_what_the_environment_leaves_open(tmp_path: Path) -> None:
    (tmp_path / ".riffle").mkdir()
    state = {"kafka": "127.0.0.1:19092", "redis_url": "redis://127.0.0.1:16379/0", "pids": {"kafka": [1]}}
    (tmp_path / ".riffle" / "stack.json").write_text(json.dumps(state))
    below = tmp_path / "deep" / "down"
    below.mkdir(parents=True)
    found = connecting.connections({}, below)
    assert (found.brokers, found.redis_url) == ("127.0.0.1:19092", "redis://127.0.0.1:16379/0")
    found = connecting.connections({"RIFFLE_BROKERS": "kafka:9092", "RIFFLE_NAMESPACE": "eu-"}, below)
    assert (found.brokers, found.redis_url, found.namespace) == ("kafka:9092", "redis://127.0.0.1:16379/0", "eu-")


def test_a_broken_state_file_is_as_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connecting, "_CHECKOUT", tmp_path)
    (tmp_path / ".riffle").mkdir()
    (tmp_path / ".riffle" / "stack.json").write_text("{")
    assert connecting.connections({}, tmp_path).brokers == "localhost:9092"


# --- send ------------------------------------------------------------------------------------------------------------------


class FakeEvents:
    """A sender that validates as the real one does, and acknowledges at once."""

    def __init__(self) -> None:
        self.counters = {"sent": 0, "failed": 0}
        self.pending = 0
        self.flushed = 0

    def send(self, raw: bytes) -> Any:
        event = parse_event(raw)
        if isinstance(event, Rejected):
            raise InvalidEvent(event.reason.value, event.detail)
        self.counters["sent"] += 1
        return self

    def flush(self, _limit_s: float) -> None:
        self.flushed += 1


def test_send_counts_lines_and_names_the_rejected() -> None:
    good = b'{"event_id":"e1","session_id":"s","event_type":"login","ts_ms":5,"schema_version":2}'
    lines = [good, b"", b"  \n", b"nonsense", good.replace(b":5", b":0"), b"\xff", good + b"\r\n"]
    report = send.send_lines(lines, FakeEvents(), wait=False, limit_s=1)
    assert report.sent == 2
    assert [(one.line, one.reason) for one in report.rejected] == [
        (4, "not_json"),
        (5, "out_of_range"),
        (6, "not_utf8"),
    ]
