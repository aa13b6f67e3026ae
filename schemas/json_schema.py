"""JSON Schema of every JSON contract, for services in other languages: docs/schemas/*.json, generated from the structs.

python -m schemas.json_schema      writes them; tests/unit/test_json_schema.py fails where they are out of date
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from schemas.control import ControlRecord
from schemas.event import Event
from schemas.experiment_metrics import ArmMetrics, UnitMetrics
from schemas.experiments import Definition
from schemas.features import Feature
from schemas.identity import IdentityRecord
from schemas.interaction import Interaction
from schemas.items import Item
from schemas.policy import Policy
from schemas.ranking import RankedList, RankRequest, RankResponse, SessionFeatures
from schemas.top_lists import TopList
from schemas.training import TrainingRow, Unmatched

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "schemas"
_DIALECT = "https://json-schema.org/draft/2020-12/schema"


class Contract(NamedTuple):
    """One file: `where` says on which topic or in which Redis field such JSON is found."""

    type: Any
    title: str
    where: str


CONTRACTS: dict[str, Contract] = {
    "event": Contract(Event, "Event, version 2", "the value of a record on `events`"),
    "rank-request": Contract(RankRequest, "Ranking request", "the value of a record on `rank-requests`"),
    "rank-response": Contract(RankResponse, "Ranking response", "the value of a record on `rank-responses`"),
    "ranked-list": Contract(
        RankedList,
        "Ranked list",
        "the value of a record on `ranked-feed` and `ranked-feed-latest`; the Redis field `list`",
    ),
    "session-features": Contract(
        SessionFeatures, "Session features", "the value of a record on `features`; the Redis field `features`"
    ),
    "interaction": Contract(Interaction, "Interaction", "the value of a record on `interactions`"),
    "top-list": Contract(
        TopList, "Top list", "the value of a record on `top-lists`; the Redis field `list` of a top list"
    ),
    "item": Contract(Item, "Item", "the value of a record on `items`"),
    "training-row": Contract(TrainingRow, "Training row", "the value of a record on `training-rows`"),
    "training-unmatched": Contract(Unmatched, "Unmatched record", "the value of a record on `training-unmatched`"),
    "control": Contract(ControlRecord, "Control record", "the value of a record on `control`"),
    "policy": Contract(Policy, "Slate policy", "a policy file (as TOML), and the field `policy` of a control record"),
    "experiments": Contract(Definition, "Definition of experiments", "a TOML file for `riffle experiments`"),
    "experiment-unit": Contract(
        UnitMetrics,
        "Metrics of a unit",
        "the value of a record on `experiment-units`; a line of the file for `riffle experiments report`",
    ),
    "experiment-arm": Contract(
        ArmMetrics, "Metrics of an arm", "the value of a record on `experiment-metrics`; the Redis field `arm`"
    ),
    "feature": Contract(Feature, "Feature definition", "an entry of schemas/features.toml"),
    "identity": Contract(IdentityRecord, "Identity record", "the value of a record on `identity`; internal"),
}


def documents() -> dict[str, bytes]:
    """File name -> content, the same bytes on every run and Python version."""
    return {f"{name}.json": _document(name, contract) for name, contract in CONTRACTS.items()}


def _document(name: str, contract: Contract) -> bytes:
    (schema,), components = msgspec.json.schema_components([contract.type], ref_template="#/$defs/{name}")
    head = {
        "$schema": _DIALECT,
        "$id": f"{name}.json",
        "title": contract.title,
        "description": f"It is {contract.where}.",
    }
    whole = {**head, **_sorted(schema), "$defs": _sorted(components)}
    return msgspec.json.format(msgspec.json.encode(whole), indent=2) + b"\n"


def _sorted(schema: dict[str, Any]) -> dict[str, Any]:
    """With sorted keys at every depth: a changed field changes its own lines only."""
    ordered: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(schema, order="sorted"))
    return ordered


def main(folder: Path = FOLDER) -> None:
    """Write the files, and remove those whose contract is gone."""
    folder.mkdir(parents=True, exist_ok=True)
    wanted = documents()
    for stale in {path.name for path in folder.glob("*.json")} - wanted.keys():
        (folder / stale).unlink()
    for name, content in wanted.items():
        (folder / name).write_bytes(content)
    sys.stdout.write(f"{len(wanted)} schemas written to {folder}\n")


if __name__ == "__main__":
    main()
