"""The committed JSON Schema files are current, valid, and say the same as the code that reads."""

from __future__ import annotations

import json
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest

from schemas.event import EVENT_TYPES, Rejected, parse_event
from schemas.json_schema import CONTRACTS, FOLDER, documents, main

CLICK = {
    "event_id": "e1",
    "session_id": "s1",
    "user_id": "alice",
    "event_type": "click",
    "item_id": "shoe-7",
    "ts_ms": 1_767_225_600_000,
    "schema_version": 2,
}


def validator(name: str) -> Any:
    return jsonschema.Draft202012Validator(json.loads(documents()[f"{name}.json"]))


def test_the_committed_files_are_current() -> None:
    """Contract: docs/schemas is what `python -m schemas.json_schema` writes, no more and no less."""
    committed = {path.name: path.read_bytes() for path in FOLDER.glob("*.json")}
    assert committed == documents(), "run: python -m schemas.json_schema"


@pytest.mark.parametrize("name", sorted(CONTRACTS))
def test_every_file_is_a_valid_schema(name: str) -> None:
    jsonschema.Draft202012Validator.check_schema(json.loads(documents()[f"{name}.json"]))


def test_every_event_type_has_a_schema() -> None:
    found = {
        part["properties"]["event_type"]["enum"][0]
        for part in json.loads(documents()["event.json"])["$defs"].values()
        if "event_type" in part.get("properties", {})
    }
    assert found == set(EVENT_TYPES)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"props": {"dwell_ms": 1200, "surface": "home"}},
        {"props": {"dwell_ms": -1}},
        {"props": {"nonsense": 1}},
        {"item_id": ""},
        {"item_id": "x" * 65},
        {"ts_ms": "soon"},
        {"user_id": None},
        {"event_id": "tab\tin it"},
        {"event_type": "view"},
        {"event_type": "dance"},
        {"extra": True},
    ],
)
def test_schema_and_reader_agree(change: dict[str, Any]) -> None:
    """Contract: what the schema accepts, the engine accepts; what it refuses, the engine refuses."""
    body = CLICK | change
    accepted = not list(validator("event").iter_errors(body))
    assert accepted is not isinstance(parse_event(json.dumps(body).encode()), Rejected)


def test_writing_removes_the_schema_of_a_contract_that_is_gone(tmp_path: Any) -> None:
    (tmp_path / "gone.json").write_text("{}")
    main(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == documents().keys()
