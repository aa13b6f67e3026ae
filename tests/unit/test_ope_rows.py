"""riffle ope rows: training rows with propensities, a target per place, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from cli.main import app
from proof.lists import evaluate_tables, read_rows

RUNNER = CliRunner()
ITEMS = ["a", "b", "c", "d"]
RATES = np.array([0.1, 0.2, 0.3, 0.4])
LOGGED = np.array([0.4, 0.3, 0.2, 0.1])
TARGET = np.array([0.1, 0.2, 0.3, 0.4])


def shown(lists: int, seed: int = 1) -> list[dict[str, Any]]:
    """Lists of two places, each drawn by itself."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(lists):
        for rank in range(2):
            item = int(rng.choice(4, p=LOGGED))
            found.append(
                {
                    "row_id": f"r{number}-{rank}",
                    "revision": 2,
                    "key": f"u:{number // 2}",
                    "list_id": f"l{number}",
                    "rank": rank,
                    "item_id": ITEMS[item],
                    "click": bool(rng.random() < RATES[item]),
                    "propensity": float(LOGGED[item]),
                }
            )
    return found


def target_of(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    places = dict.fromkeys((one["list_id"], one["rank"]) for one in rows)
    return [
        {"list_id": name, "rank": rank, "item_id": item, "probability": float(chance)}
        for name, rank in places
        for item, chance in zip(ITEMS, TARGET)
    ]


def written(folder: Path, rows: list[dict[str, Any]], target: list[dict[str, Any]]) -> tuple[Path, Path]:
    place = folder / "rows" / "date=2026-11-22" / "hour=10"
    place.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), place / "0-0-1.parquet")
    pq.write_table(pa.Table.from_pylist(target), folder / "target.parquet")
    return folder, folder / "target.parquet"


def run(folder: Path, target: Path, *options: str) -> tuple[int, dict[str, Any], str]:
    result = RUNNER.invoke(app, ["ope", "rows", str(folder), "--target", str(target), *options])
    return result.exit_code, json.loads(result.stdout.splitlines()[-1]), result.output


@pytest.mark.parametrize("slate", ["independent", "cascade"])
def test_the_truth_is_in_the_interval(tmp_path: Path, slate: str) -> None:
    rows = shown(1_500)
    code, last, _ = run(*written(tmp_path, rows, target_of(rows)), "--slate", slate)
    low, high = last["intervals"]["dr"]
    assert code == 0 and not last["refused"] and low < float(TARGET @ RATES) < high
    assert abs(last["snips"] - float(TARGET @ RATES)) < 0.04


def test_cascade_multiplies_from_the_top() -> None:
    rows = shown(50)
    tables = pa.Table.from_pylist(rows), pa.Table.from_pylist(target_of(rows))
    report = evaluate_tables(*tables, "click", "cascade", None)
    weights = []
    for top, below in zip(rows[::2], rows[1::2]):
        ratio = [TARGET[ITEMS.index(one["item_id"])] / one["propensity"] for one in (top, below)]
        weights += [ratio[0], ratio[0] * ratio[1]]
    assert report.ips == pytest.approx(np.mean([w * one["click"] for w, one in zip(weights, rows)]))


def test_a_place_that_no_row_tells_of_breaks_the_cascade() -> None:
    rows = shown(200)[1:]
    report = evaluate_tables(
        pa.Table.from_pylist(rows), pa.Table.from_pylist(target_of(rows)), "click", "cascade", None
    )
    assert report.codes == ["unknown_propensities"] and report.unknown_propensities == 1


def test_only_the_newest_revision_and_closed_windows_count(tmp_path: Path) -> None:
    rows = shown(10)
    older = rows[0] | {"revision": 1, "click": not rows[0]["click"]}
    rows[3]["click"] = None
    folder, _ = written(tmp_path, [rows[0], older, *rows[1:]], target_of(rows))
    table, notes = read_rows(folder, "click")
    assert table.num_rows == 19
    assert table.filter(pa.compute.equal(table["row_id"], "r0-0"))["click"].to_pylist() == [rows[0]["click"]]
    assert "1 left out" in notes[0]


def test_rows_without_propensities_are_refused(tmp_path: Path) -> None:
    rows = [{name: value for name, value in one.items() if name != "propensity"} for one in shown(50)]
    code, last, said = run(*written(tmp_path, rows, target_of(rows)))
    assert (code, last["codes"], last["ips"]) == (0, ["unknown_propensities"], None)
    assert "carry no propensities" in said


def test_one_unknown_propensity_is_refused(tmp_path: Path) -> None:
    rows = shown(1_000)
    rows[7]["propensity"] = None
    _, last, _ = run(*written(tmp_path, rows, target_of(rows)))
    assert last["codes"] == ["unknown_propensities"] and last["snips"] > 0


def test_a_place_that_the_target_does_not_list_is_refused(tmp_path: Path) -> None:
    rows = shown(50)
    _, last, _ = run(*written(tmp_path, rows, target_of(rows)[4:]))
    assert last["codes"] == ["unknown_target"] and "1 of 100" in last["reason"]


def test_probabilities_that_do_not_sum_to_one_are_named(tmp_path: Path) -> None:
    rows = shown(50)
    target = target_of(rows)
    target[5]["probability"] = 0.9
    code, last, _ = run(*written(tmp_path, rows, target))
    assert code == 1 and "sum to 1.7000 at place 1 of list l0" in last["reason"]


def test_what_is_no_training_row_is_named(tmp_path: Path) -> None:
    folder, target = written(tmp_path, [{"row_id": "r", "revision": 1}], target_of(shown(1)))
    code, last, _ = run(folder, target)
    assert code == 1 and "column key is missing" in last["reason"]
    assert run(tmp_path / "nowhere", target)[0] == 1
    assert run(folder, tmp_path / "nothing.parquet")[0] == 1


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def flipped(path: Path) -> None:
    """As a bad disk: the footer is whole, the data is not."""
    body = bytearray(path.read_bytes())
    body[8:72] = bytes(byte ^ 0xFF for byte in body[8:72])
    path.write_bytes(bytes(body))


@pytest.mark.parametrize("damage", [cut_short, flipped])
def test_damaged_files_are_counted_and_named(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    """Contract: no estimate on the files that are left, which would be of other exposures."""
    rows = shown(300)
    folder, target = written(tmp_path, rows, target_of(rows))
    place = folder / "rows" / "date=2026-11-22" / "hour=10"
    whole = (place / "0-0-1.parquet").read_bytes()
    for name in ("0-1-2.parquet", "0-2-3.parquet"):
        (place / name).write_bytes(whole)
    damage(place / "0-1-2.parquet")
    code, last, output = run(folder, target)
    assert (code, last["refused"], last["codes"]) == (1, True, ["unreadable"])
    assert "1 of 3 files cannot be read: rows/date=2026-11-22/hour=10/0-1-2.parquet (" in last["reason"]
    assert f"`riffle training-rows check {folder} --repair`" in last["reason"]
    assert "Traceback" not in output


def test_of_many_damaged_files_three_are_named(tmp_path: Path) -> None:
    folder, target = written(tmp_path, shown(9), target_of(shown(9)))
    for number in range(5):
        (folder / "rows" / f"{number}.parquet").write_bytes(b"PAR1")
    assert "5 of 6 files" in (reason := run(folder, target)[1]["reason"])
    assert "rows/2.parquet" in reason and "rows/3.parquet" not in reason and "and 2 more" in reason


def test_a_damaged_target_is_named(tmp_path: Path) -> None:
    folder, target = written(tmp_path, shown(9), target_of(shown(9)))
    cut_short(target)
    code, last, _ = run(folder, target)
    assert code == 1 and f"{target} cannot be read as a target" in last["reason"]
