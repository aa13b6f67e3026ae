"""Which decision records are found, in which order; each list once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec
import pytest

from client.decisions import logged
from models.replaying import Bundles
from schemas.decision import Decision, DecisionError, encode_decision
from tests.unit.test_replay import FOLDER, record


class Record(NamedTuple):
    key: bytes
    value: bytes | None


class FakeScanner:
    def __init__(self, records: list[Record]) -> None:
        self._records = records

    def newest_first(self, _name: str) -> Iterator[Any]:
        return reversed(self._records)

    def since(self, _name: str, append_ms: int) -> Iterator[Any]:
        return iter(self._records[append_ms:])


@pytest.fixture(scope="module")
def scanner() -> FakeScanner:
    made = record(Bundles(FOLDER))

    def of(name: str, surface: str = "home") -> Record:
        return Record(f"u:a|{surface}".encode(), encode_decision(msgspec.structs.replace(made, list_id=name)))

    damaged = Record(b"u:a|home", b"RD")
    return FakeScanner([of("a"), of("b", "cart"), damaged, of("c"), of("a"), Record(b"u:a|home", None), of("d")])


def named(found: Iterator[Decision | DecisionError]) -> list[str]:
    return ["unreadable" if isinstance(one, DecisionError) else one.list_id for one in found]


def test_the_last_lists_come_newest_first_each_once(scanner: Any) -> None:
    assert named(logged(scanner, last=3)) == ["d", "a", "c"]
    assert named(logged(scanner, last=9)) == ["d", "a", "c", "unreadable", "b"]


def test_lists_of_a_surface_or_since_a_time(scanner: Any) -> None:
    assert named(logged(scanner, last=9, surface="cart")) == ["b"]
    assert named(logged(scanner, since_ms=3)) == ["c", "a", "d"]
