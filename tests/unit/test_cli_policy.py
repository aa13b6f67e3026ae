"""riffle policy check: accepted, or refused in one sentence with exit code 1. Publishing and diff: tests/e2e/test_policy.py."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.main import app

RUNNER = CliRunner()
GOOD = 'version = "home-2"\nsurface = "home"\n[weights]\nclick = 0.5\nnext = 0.5\n[quotas]\nrepeat = 5\n'


def checked(tmp_path: Path, text: str) -> tuple[int, str]:
    file = tmp_path / "home.toml"
    file.write_text(text)
    ended = RUNNER.invoke(app, ["policy", "check", str(file)])
    return ended.exit_code, ended.stderr.replace("\n", " ")


def test_a_good_policy_is_accepted(tmp_path: Path) -> None:
    code, said = checked(tmp_path, GOOD)
    assert (code, "home.toml is accepted" in said) == (0, True)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (GOOD.replace("click = 0.5", "click = 0.9"), "weights: they sum to 1.4 and not to 1"),
        (GOOD.replace("next", "dance"), "weights: dance is unknown: there are"),
        (GOOD.replace("repeat", "magic"), "quotas: magic is unknown: there are repeat"),
        ("version = 3", "home.toml: version: Expected `str`, got `int`"),
    ],
)
def test_a_bad_one_is_refused_in_one_sentence(tmp_path: Path, text: str, says: str) -> None:
    code, said = checked(tmp_path, text)
    assert (code, says in said) == (1, True), said
