"""riffle experiments report: effects, guardrails, sample ratio, exclusions and novelty on simulated units whose truth is known."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from cli.main import app
from proof.interleaved import markdown_interleaved, report_interleaved
from proof.report import Report, report
from proof.report_page import markdown, plot
from proof.statistics import interleaving_p
from schemas.experiment_metrics import UnitMetrics, encode_unit
from schemas.experiments import INTERLEAVED, Arm, Experiment, Guardrail

RUNNER = CliRunner()
BEGIN = datetime(2026, 11, 23, tzinfo=timezone.utc)
RATES = {"control": 0.08, "new": 0.10}


def experiment(*names: str, **fields: Any) -> Experiment:
    names = names or tuple(RATES)
    arms = tuple(Arm(name=name, weight=round(1 / len(names), 4), bundle=f"b-{name}") for name in names)
    given = {"name": "ranker", "arms": arms, "start": BEGIN, "end": BEGIN + timedelta(days=14), "planned_units": 4_000}
    return Experiment(**(given | fields))


def units(rates: dict[str, float] = RATES, each: int = 2_000, days: int = 1, seed: int = 1) -> list[UnitMetrics]:
    rng = np.random.default_rng(seed)
    found = []
    for arm, rate in rates.items():
        for n in range(each):
            taste = float(rng.normal(0, 0.02))
            for day in range(days):
                shown = int(rng.integers(5, 30))
                clicks = int(rng.binomial(shown, min(max(rate + taste, 0.0), 1.0)))
                bought = int(rng.binomial(clicks, 0.1))
                one = UnitMetrics(
                    experiment="ranker",
                    arm=arm,
                    unit=f"{arm}-{n}",
                    day=day,
                    exposures=shown,
                    clicks=clicks,
                    purchases=bought,
                    revenue=20.0 * bought,
                    sessions=1,
                    lists=2,
                    latency_ms=float(rng.normal(40, 5)),
                    before=0.09 + taste,
                )
                found.append(one)
    return found


def row(of: Report, metric: str, arm: str = "new") -> Any:
    return next(one for one in of.rows if (one.metric, one.arm) == (metric, arm))


@pytest.fixture(scope="module")
def found() -> Report:
    return report(experiment(guardrails=(Guardrail(metric="latency_ms", worst=0.05),)), units())


def test_the_true_difference_is_found(found: Report) -> None:
    ctr = row(found, "ctr")
    assert ctr.effect.low < 0.02 < ctr.effect.high and ctr.adjusted_p < 0.001
    assert found.conclusion[0].startswith("new is better on ctr")
    assert found.units == {"control": 2_000, "new": 2_000} and found.sample_ratio_p > 0.05
    assert found.dropped == {"control": "new"}


def test_a_metric_that_is_the_same_is_not_decided(found: Report) -> None:
    latency = row(found, "latency_ms")
    assert latency.guardrail == "kept" and latency.adjusted_p > 0.05


def test_values_are_plain_ratios(found: Report) -> None:
    ours = [one for one in units() if one.arm == "control"]
    assert found.values["ctr"]["control"] == pytest.approx(
        sum(one.clicks for one in ours) / sum(one.exposures for one in ours)
    )
    assert found.values["latency_ms"]["control"] == pytest.approx(
        sum(one.latency_ms for one in ours) / sum(one.lists for one in ours)
    )


def test_a_broken_guardrail_ends_it() -> None:
    slow = [
        msgspec.structs.replace(one, latency_ms=one.latency_ms * 1.3) if one.arm == "new" else one for one in units()
    ]
    found = report(experiment(guardrails=(Guardrail(metric="latency_ms", worst=0.05),)), slow)
    assert row(found, "latency_ms").guardrail == "broken"
    assert "new breaks the guardrail latency_ms: end it." in found.conclusion


def test_a_sample_ratio_bug_forbids_reading() -> None:
    lost = [one for one in units() if one.arm == "control" or int(one.unit.split("-")[1]) % 5]
    assert report(experiment(), lost).conclusion[0].startswith("Do not read the effects")


def test_bots_crossovers_and_units_of_two_arms_are_left_out() -> None:
    data = units()
    data[0] = msgspec.structs.replace(data[0], bot=True, clicks=data[0].exposures)
    data[1] = msgspec.structs.replace(data[1], crossed=True)
    data.append(msgspec.structs.replace(data[2], arm="new"))
    found = report(experiment(), data)
    assert found.left_out == {"bot": 1, "crossed": 1, "in two arms": 1}
    assert found.units == {"control": 1_997, "new": 2_000}


def test_an_effect_that_wears_off_is_said() -> None:
    first, later = (units(rates, 1_000, 3, seed) for rates, seed in (({"control": 0.08, "new": 0.14}, 1), (RATES, 2)))
    later = [msgspec.structs.replace(one, day=one.day + 3) for one in later]
    assert report(experiment(), [*first, *later]).novelty["new"] < 0.01
    steady = report(experiment(), units(RATES, 1_000, 6))
    assert steady.novelty["new"] > 0.05 and len(steady.days) == 6


def test_nothing_at_all_is_said_plainly() -> None:
    found = report(experiment(), [])
    assert found.conclusion == ["new: too few units for an interval of ctr."] and found.rows[0].effect is None
    assert "too few units" in markdown(found)


def test_three_arms_are_corrected_for() -> None:
    rates = {"control": 0.08, "a": 0.08, "b": 0.12}
    found = report(experiment(*rates), units(rates))
    assert row(found, "ctr", "b").adjusted_p < 0.01 < row(found, "ctr", "a").adjusted_p
    assert found.dropped == {"control": "b", "a": "b"}


# ── command ──────────────────────────────────────────────────────────────────────────────────────────────────────────

DEFINITION = """
version = "1"
salt = "s"
[[layers]]
name = "ranking"
[[layers.experiments]]
name = "ranker"
start = 2026-11-23T00:00:00Z
end = 2026-12-07T00:00:00Z
arms = [{ name = "control", weight = 0.5 }, { name = "new", weight = 0.5, bundle = "b2" }]
planned_units = 4000
"""


def run(folder: Path, *options: str, name: str = "ranker") -> tuple[int, str]:
    (folder / "experiments.toml").write_text(DEFINITION)
    result = RUNNER.invoke(app, ["experiments", "report", str(folder / "experiments.toml"), name, *options])
    return result.exit_code, result.output


def test_the_command_writes_a_page_and_a_plot(tmp_path: Path) -> None:
    (tmp_path / "units.jsonl").write_bytes(b"\n".join(map(encode_unit, units(days=2, each=300))))
    code, said = run(tmp_path, "--units", str(tmp_path / "units.jsonl"), "--out", str(tmp_path / "ranker.md"))
    assert code == 0 and "on ctr" in said
    assert "![" in (tmp_path / "ranker.md").read_text()
    assert (tmp_path / "ranker.png").read_bytes().startswith(b"\x89PNG")
    code, said = run(tmp_path, "--units", str(tmp_path / "units.jsonl"), "--json")
    assert json.loads(said)["units"] == {"control": 300, "new": 300}


def test_training_rows_are_a_source(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    place = tmp_path / "rows" / "date=2026-11-24" / "hour=10"
    place.mkdir(parents=True)
    rows = []
    for n in range(2_000):
        arm = ("control", "new")[n % 2]
        clicked = bool(rng.random() < (0.1, 0.3)[n % 2])
        known = {"row_id": f"r{n}", "key": f"u:{n % 600}", "surface": "home", "shown": BEGIN + timedelta(hours=n % 40)}
        rows.append({**known, "revision": 1, "arms": [("ranker", arm)], "click": None, "cart": None})
        rows.append({**known, "revision": 2, "arms": [("ranker", arm)], "click": clicked, "cart": False})
    schema = pa.schema(
        [
            ("row_id", pa.string()),
            ("key", pa.string()),
            ("surface", pa.string()),
            ("shown", pa.timestamp("ms", tz="UTC")),
            ("revision", pa.int32()),
            ("arms", pa.map_(pa.string(), pa.string())),
            ("click", pa.bool_()),
            ("cart", pa.bool_()),
        ]
    )
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), place / "0-0-1.parquet")
    code, said = run(tmp_path, "--rows", str(tmp_path))
    assert code == 0 and "control 300, new 300" in said and "new is better on ctr" in said


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "units.jsonl").write_text('{"experiment":"ranker","arm":"new","unit":"a","clicks":"many"}\n')
    code, said = run(tmp_path, "--units", str(tmp_path / "units.jsonl"))
    assert code == 1 and "line 1" in said and "clicks" in said
    assert run(tmp_path, "--units", "a", "--rows", "b")[0] == 1
    code, said = run(tmp_path, "--units", str(tmp_path / "units.jsonl"), name="other")
    assert code == 1 and "has no experiment other" in said


def test_a_plot_of_nothing(tmp_path: Path) -> None:
    plot(report(experiment(), []), tmp_path / "nothing.png")
    assert (tmp_path / "nothing.png").stat().st_size > 0


# ── interleaved ──────────────────────────────────────────────────────────────────────────────────────────────────────


def of_unit(unit: str, control: int, new: int, **fields: bool) -> list[UnitMetrics]:
    return [
        UnitMetrics(experiment="duel", arm=arm, unit=unit, lists=control + new, clicks=wins, wins=wins, **fields)
        for arm, wins in (("control", control), ("new", new))
    ]


def test_a_report_counts_each_person_for_the_ranker_that_won_more_of_their_lists() -> None:
    duel = experiment(name="duel", kind="interleaved")
    records = [one for n in range(30) for one in of_unit(f"u:{n}", 1, 3)]
    records += [*of_unit("u:other", 2, 1), *of_unit("u:tied", 2, 2), *of_unit("u:bot", 9, 0, bot=True)]
    records += of_unit("u:0", 1, 0)  # another day, or another key of the same unit
    records += [UnitMetrics(experiment="duel", arm=INTERLEAVED, unit="u:9", lists=4)]
    found = report_interleaved(duel, records)
    assert found.units == {"control": 1, "new": 30} and (found.tied, found.left_out) == (1, {"bot": 1})
    assert found.lists_won == {"control": 30 + 2 + 2 + 1, "new": 90 + 1 + 2}
    assert found.lists == 30 * 4 + 3 + 4 + 1
    assert found.p == interleaving_p(30, 1) < 1e-5 and found.low > 0.5
    assert found.conclusion[0].startswith("new is preferred: 96.8% of those whose clicks prefer one, between ")
    assert "| new | 30 | 93 | 93 |" in markdown_interleaved(found)
    assert report_interleaved(duel, []).conclusion == ["new: nobody's clicks prefer a ranker yet."]
    assert "not decided" in report_interleaved(duel, of_unit("u:1", 0, 1)).conclusion[0]


DUEL = """
version = "1"
salt = "s"

[[layers]]
name = "ranking"

[[layers.experiments]]
name = "duel"
kind = "interleaved"
start = 2026-11-23T00:00:00Z
end = 2026-12-07T00:00:00Z
arms = [{ name = "control", weight = 0.5 }, { name = "new", weight = 0.5, bundle = "b2" }]
"""


def test_the_report_on_a_duel_is_printed_and_written(tmp_path: Path) -> None:
    (tmp_path / "duel.toml").write_text(DUEL)
    records = [one for n in range(40) for one in of_unit(f"u:{n}", 1, 2)]
    (tmp_path / "units.jsonl").write_bytes(b"\n".join(encode_unit(one) for one in records))
    command = ["experiments", "report", str(tmp_path / "duel.toml"), "duel", "--units", str(tmp_path / "units.jsonl")]
    said = RUNNER.invoke(app, [*command, "--out", str(tmp_path / "duel.md")])
    assert said.exit_code == 0 and "new is preferred: 100.0% of those" in said.output
    assert "| new | 40 | 80 | 80 |" in (tmp_path / "duel.md").read_text()
    assert json.loads(RUNNER.invoke(app, [*command, "--json"]).output)["units"] == {"control": 0, "new": 40}
    refused = RUNNER.invoke(app, [*command[:4], "--rows", str(tmp_path)])
    assert refused.exit_code == 1 and "training rows do not tell who won a list" in " ".join(refused.output.split())
