"""riffle ope open-bandit: the known values of the public sample, and files that are not as they should be."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from cli.main import app

RUNNER = CliRunner()
DATA = Path(os.environ.get("RIFFLE_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data")
SAMPLE = DATA / "obd"
needs_sample = pytest.mark.skipif(
    not (SAMPLE / "bts_men_men.csv.gz").is_file(),
    reason="needs the Open Bandit sample in obd/ of the folder that RIFFLE_DATA names",
)


def run(folder: Path, *options: str) -> tuple[int, dict[str, Any], str]:
    """Exit code, last line, everything said."""
    result = RUNNER.invoke(app, ["ope", "open-bandit", "--path", str(folder), *options])
    return result.exit_code, json.loads(result.stdout.splitlines()[-1]), result.output


@needs_sample
@pytest.mark.parametrize(
    ("campaign", "clip", "ips", "snips", "ess"),
    [
        ("men", "none", 0.003009, 0.003189, 655.7),
        ("men", "10", 0.003009, 0.003831, 1844.0),
        ("women", "none", 0.007438, 0.002373, 2.1),
        ("women", "10", 0.004384, 0.005777, 1791.8),
    ],
)
def test_known_values(campaign: str, clip: str, ips: float, snips: float, ess: float) -> None:
    code, last, _ = run(SAMPLE, "--campaign", campaign, "--logs", "bts", "--target", "uniform", "--clip", clip)
    assert code == 0
    assert (round(last["ips"], 6), round(last["snips"], 6), round(last["ess"], 1)) == (ips, snips, ess)
    assert last["refused"] is (campaign == "women" and clip == "none")


@needs_sample
def test_the_target_s_own_logs_are_in_the_interval() -> None:
    _, last, _ = run(SAMPLE, "--campaign", "men", "--logs", "random", "--target", "bts")
    low, high = last["intervals"]["snips"]
    assert low < last["reference"] < high and not last["refused"]


# ── made files ───────────────────────────────────────────────────────────────────────────────────────────────────────

ITEMS = 6
RATES = np.linspace(0.05, 0.3, ITEMS)
LIKED = np.array([0.35, 0.25, 0.15, 0.1, 0.1, 0.05])


def rows(logs: str, count: int = 4_000, seed: int = 1) -> list[dict[str, Any]]:
    rng = np.random.default_rng([seed, count, logs == "bts"])
    chance = LIKED if logs == "bts" else np.full(ITEMS, 1 / ITEMS)
    items = rng.choice(ITEMS, count, p=chance)
    return [
        {
            "": row,
            "timestamp": "2019-11-24 00:01:03.979311+00:00",
            "item_id": int(item),
            "position": row % 3 + 1,
            "click": int(rng.random() < RATES[item]),
            "propensity_score": float(chance[item]),
        }
        for row, item in enumerate(items)
    ]


def write(
    folder: Path,
    logs: str,
    content: list[dict[str, Any]],
    name: str = "{logs}_men_men.csv.gz",
    context: bool = True,
) -> None:
    path = folder / name.format(logs=logs)
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [",".join(content[0]), *(",".join(map(str, one.values())) for one in content)]
    data = "\n".join(lines).encode() + b"\n"
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    if context:
        listed = "\n".join([",item_id,item_feature_0", *(f"{item},{item},0.5" for item in range(ITEMS))])
        (path.parent / ("item_context.csv" if path.stem == "men" else f"{logs}_men_item_context.csv")).write_text(
            listed
        )


def without(*names: str) -> Callable[[list[dict[str, Any]]], list[dict[str, Any]]]:
    return lambda content: [{name: value for name, value in one.items() if name not in names} for one in content]


@pytest.mark.parametrize("name", ["{logs}_men_men.csv.gz", "{logs}_men_men.csv", "{logs}/men/men.csv"])
def test_every_layout_is_found(tmp_path: Path, name: str) -> None:
    write(tmp_path, "bts", rows("bts"), name)
    code, last, _ = run(tmp_path)
    low, high = last["intervals"]["snips"]
    assert code == 0 and not last["refused"] and low < RATES.mean() < high


def test_an_estimated_target(tmp_path: Path) -> None:
    for logs in ("bts", "random"):
        write(tmp_path, logs, rows(logs))
    _, last, said = run(tmp_path, "--logs", "random", "--target", "bts")
    low, high = last["intervals"]["snips"]
    assert low < LIKED @ RATES < high and not last["refused"]
    assert "estimated" in said


def test_a_target_whose_logs_are_missing(tmp_path: Path) -> None:
    write(tmp_path, "random", rows("random"))
    code, last, said = run(tmp_path, "--logs", "random", "--target", "bts")
    assert code == 1 and last["refused"] and "bts_men_men.csv" in said


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    code, last, said = run(tmp_path, "--campaign", "women")
    assert code == 1 and last["refused"] and "no logs of bts for campaign women" in said
    assert run(tmp_path / "nowhere")[0] == 1


@pytest.mark.parametrize("column", ["item_id", "click"])
def test_a_missing_column_is_named(tmp_path: Path, column: str) -> None:
    write(tmp_path, "bts", without(column)(rows("bts")))
    code, last, said = run(tmp_path)
    assert code == 1 and last["refused"] and f"has no column {column}" in said


def test_missing_propensities_are_refused(tmp_path: Path) -> None:
    write(tmp_path, "bts", without("propensity_score")(rows("bts")))
    code, last, _ = run(tmp_path)
    assert (code, last["refused"], last["codes"], last["ips"]) == (0, True, ["unknown_propensities"], None)


def test_no_position_is_one_position(tmp_path: Path) -> None:
    write(tmp_path, "bts", without("position")(rows("bts")))
    assert run(tmp_path)[1]["refused"] is False


@pytest.mark.parametrize("bad", ["", "soon", "0", "-1", "7"])
def test_bad_propensities_are_counted(tmp_path: Path, bad: str) -> None:
    content = rows("bts")
    content[5]["propensity_score"] = bad
    write(tmp_path, "bts", content)
    _, last, _ = run(tmp_path)
    assert last["codes"] == ["unknown_propensities"] and last["unknown_propensities"] == 1 and last["ips"] > 0


def test_zero_clicks(tmp_path: Path) -> None:
    write(tmp_path, "bts", [one | {"click": 0} for one in rows("bts")])
    _, last, _ = run(tmp_path)
    assert (last["ips"], last["snips"], last["refused"], last["codes"]) == (0, 0, True, ["too_few_rewards"])


def test_a_click_that_is_no_number(tmp_path: Path) -> None:
    content = rows("bts")
    content[5]["click"] = "maybe"
    write(tmp_path, "bts", content)
    assert run(tmp_path)[1]["codes"] == ["unreadable_rewards"]


@pytest.mark.parametrize("count", [1, 2, 30])
def test_a_handful_of_rows(tmp_path: Path, count: int) -> None:
    write(tmp_path, "bts", rows("bts", count))
    code, last, _ = run(tmp_path)
    assert code == 0 and last["refused"] and last["rows"] == count


@pytest.mark.parametrize("content", [b"", b",item_id,position,click,propensity_score\n", b"\x1f\x8b broken"])
def test_an_empty_or_broken_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bts_men_men.csv.gz").write_bytes(content if content[:1] == b"\x1f" else gzip.compress(content))
    code, last, _ = run(tmp_path)
    assert last["refused"] and (code == 1 or last["codes"] == ["no_rows"])


def test_items_without_a_context_file(tmp_path: Path) -> None:
    write(tmp_path, "bts", rows("bts"), context=False)
    _, last, said = run(tmp_path)
    assert not last["refused"] and "No item context" in said


def test_an_item_that_the_context_does_not_list(tmp_path: Path) -> None:
    write(tmp_path, "bts", [*rows("bts"), rows("bts", 1)[0] | {"item_id": 60}])
    code, last, said = run(tmp_path)
    assert code == 1 and last["refused"] and "shows item 60" in said


@pytest.mark.parametrize("options", [("--clip", "-1"), ("--clip", "much"), ("--logs", "mine"), ("--target", "best")])
def test_wrong_options_are_named(tmp_path: Path, options: tuple[str, str]) -> None:
    result = RUNNER.invoke(app, ["ope", "open-bandit", "--path", str(tmp_path), *options])
    assert result.exit_code == 1 and options[1] in result.output
