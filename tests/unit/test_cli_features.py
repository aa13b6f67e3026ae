"""riffle features: what it shows, and its sentences where there is nothing to show. Redis is a fake."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from typer.testing import CliRunner

from cli import features
from connect.slots import Command
from schemas.features import DEFINITIONS, LOCK, registry
from schemas.features_row import ALL, ItemRow, RowKey, row_codec
from schemas.keys import item_features_redis_key

RUNNER = CliRunner()
CODEC = row_codec()


class FakeNodes:
    """Redis that holds rows."""

    def __init__(self, rows: dict[RowKey, ItemRow]) -> None:
        self.held = {
            item_features_redis_key("riffle:", CODEC.version, str(key)): CODEC.encode(row) for key, row in rows.items()
        }

    def run(self, commands: Sequence[Command]) -> list[Any]:
        return [self.held.get(command.key) for command in commands]

    def close(self) -> None:
        pass


def counts(**given: int) -> tuple[int, ...]:
    return tuple(given.get(name, 0) for name in CODEC.columns)


@pytest.fixture
def redis(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RIFFLE_NAMESPACE", raising=False)
    rows = {
        ALL: ItemRow(1, 1, 0, counts(clicks_28d=100, impressions_28d=1000)),
        RowKey("category", "shoes"): ItemRow(1, 1, 0, counts(clicks_28d=40, impressions_28d=200)),
        RowKey("item", "shoe-7"): ItemRow(1, 1, 600_000, counts(clicks_28d=7), None, "shoes"),
        RowKey("device", "mobile"): ItemRow(1, 1, 600_000, counts(clicks_2h=3)),
    }
    monkeypatch.setattr(features, "redis_nodes", lambda _where: FakeNodes(rows))


def run(*words: str) -> Any:
    return RUNNER.invoke(features.app, list(words))


@pytest.mark.parametrize("command", ["list", "show", "get", "diff"])
def test_help_teaches_with_an_example(command: str) -> None:
    shown = run(command, "--help")
    assert shown.exit_code == 0
    assert f"riffle features {command}" in " ".join(shown.output.split())


def test_list_names_every_feature() -> None:
    listed = json.loads(run("list", "--json").stdout)
    assert [f"{one['name']}@{one['version']}" for one in listed] == [one.id for one in registry().features]
    assert "clicks_2h@1" in run("list").output


def test_show_says_what_a_feature_is() -> None:
    assert "Clicks in the last two hours" in " ".join(run("show", "clicks_2h").output.split())
    shown = run("show", "click_2h")
    assert shown.exit_code == 1
    assert "did you mean clicks_2h?" in shown.output


@pytest.mark.usefixtures("redis")
def test_get_computes_an_items_rates_from_its_groups() -> None:
    found = json.loads(run("get", "shoe-7", "--json").stdout)
    category = (40 + 50 * 0.1) / (200 + 50)
    assert found["clicks_28d@1"] == 7
    assert found["ctr_28d"] == pytest.approx((7 + 50 * category) / 50)


@pytest.mark.usefixtures("redis")
def test_get_reads_groups_and_contexts() -> None:
    assert json.loads(run("get", "mobile", "--of", "device", "--json").stdout)["clicks_2h@1"] == 3
    assert json.loads(run("get", "-", "--of", "all", "--json").stdout)["clicks_28d@1"] == 100


@pytest.mark.usefixtures("redis")
def test_get_says_what_is_missing() -> None:
    assert "does the job item-aggregates run?" in " ".join(run("get", "nothing").output.split())
    assert "did they act" in run("get", "alice", "--of", "user").output
    assert "is user, item, subcategory" in " ".join(run("get", "x", "--of", "shelf").output.split())


def test_diff_is_quiet_where_all_is_recorded(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    assert run("diff").exit_code == 0
    shorter = tmp_path / LOCK.name
    shorter.write_text(LOCK.read_text().replace("clicks_2h@1", "old_clicks@1"))
    monkeypatch.setattr(features, "LOCK", shorter)
    shown = run("diff")
    assert shown.exit_code == 1
    assert "new      clicks_2h@1" in shown.output
    assert "retired  old_clicks@1" in shown.output


def test_diff_says_what_to_do_about_a_change(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    changed = tmp_path / DEFINITIONS.name
    blocks = DEFINITIONS.read_text().split("[[feature]]")
    (hides,) = (one for one in blocks if 'name = "hides_28d"' in one)
    changed.write_text("[[feature]]".join([*blocks, hides.replace("hides_28d", "hides_one_more")]))
    monkeypatch.setattr(features, "DEFINITIONS", changed)
    shown = run("diff")
    assert shown.exit_code == 1
    assert "set item_row = " in " ".join(shown.output.split())
