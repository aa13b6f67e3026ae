"""Rebuilding Redis: what each compacted topic writes, under which name, version and time to live; and what writes nothing."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from client.rebuild import rebuild
from connect.slots import Command
from schemas import topics
from schemas.features_row import ItemRow, RowKey, row_codec
from schemas.keys import item_features_redis_key
from schemas.redis_layout import ROW_FIELD, ROW_TTL_MS, version
from tests.fakes import DAY, NOW

CODEC = row_codec()
NAME = RowKey("item", "shoe-7")


class Topics:
    """client.scan.Scanner, as far as it is read."""

    def __init__(self, *rows: tuple[bytes | None, bytes | None]) -> None:
        self._rows = rows

    def everything(self, name: str) -> list[Any]:
        return [SimpleNamespace(key=key, value=value) for key, value in self._rows if name == topics.ITEM_FEATURES]


class Redis:
    def __init__(self) -> None:
        self.sent: list[Command] = []

    def run(self, commands: list[Command]) -> list[int]:
        self.sent += commands
        return [1] * len(commands)


def row(age_ms: int = 0) -> bytes:
    return CODEC.encode(ItemRow(7, 3, NOW - age_ms, (1,) * len(CODEC.columns)))


def test_a_row_of_counters_is_written_as_the_job_writes_it() -> None:
    redis = Redis()
    done = rebuild(Topics((CODEC.record_key(NAME), row(DAY))), redis, "riffle:", NOW)  # type: ignore[arg-type]
    assert (done.item_rows, done.kept) == (1, 0)
    (command,) = redis.sent
    assert command.key == item_features_redis_key("riffle:", CODEC.version, str(NAME))
    assert command.words[-4:] == (version(7, 3), ROW_TTL_MS - DAY, ROW_FIELD, row(DAY))


def test_what_writes_nothing_is_counted() -> None:
    redis = Redis()
    done = rebuild(
        Topics(  # type: ignore[arg-type]
            (CODEC.record_key(NAME), None),
            (b"v99|item|shoe-7", row()),
            (CODEC.record_key(NAME), b"torn"),
            (CODEC.record_key(NAME), row(ROW_TTL_MS)),
        ),
        redis,  # type: ignore[arg-type]
        "riffle:",
        NOW,
    )
    assert (done.removed, done.other_version, done.unreadable, done.expired, redis.sent) == (1, 1, 1, 1, [])
