"""Run `top-lists` on a MiniCluster on generated interactions; print its plan and the lists that came out as one JSON line.

A program of its own, because the JVM must be started with the paths that embedded Python needs. The interactions come one after
the other for some seconds: what is gathered over the worker's clock is not what ends at once.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec
from pyflink.common import Row
from pyflink.common.typeinfo import Types
from pyflink.table import StreamTableEnvironment

from jobs.submission import environment
from jobs.top_lists import Settings, build
from schemas.connections import Connections
from tests.integration.mini_cluster_aggregates import HOUR, NOON

_A_SECOND, _SECONDS = 10, 24
DAY = 24 * HOUR
_LATER_FROM = 12 * _A_SECOND  # from here on it is three months later


def choice(
    item_id: str,
    beside: list[str] | None,
    ts_ms: int = NOON,
    append_ms: int | None = None,
    note: str = "",
    **props: Any,
) -> str:
    body: dict[str, Any] = {
        "event": {"event_type": "click", "item_id": item_id, "props": props},
        "ts_ms": ts_ms,
        "append_ms": append_ms or ts_ms,
    }
    return json.dumps(body | ({} if beside is None else {"beside": beside}) | ({"notes": [note]} if note else {}))


HERE = {"context": {"device": "mobile", "geo": "de"}}
CHOICES = [
    choice("boot-1", [], **HERE),
    choice("sock-1", ["boot-1"], **HERE),
    choice("sock-1", None, **HERE),  # chosen again: counts for nothing
    choice("boot-1", ["sock-1", "lamp-9"], ts_ms=NOON - HOUR, append_ms=NOON),
    choice("sock-1", ["boot-1"], ts_ms=NOON - 3 * HOUR, append_ms=NOON),  # too late
    choice("sock-1", ["boot-1"], note="flood"),
    choice("sock-1", ["boot-1"], note="no_training"),
    choice("sock-1", ["boot-1"], consent={"train": False}),
    choice("boot-1", ['łódź, "a"=1']),
    choice("boot-1", ['łódź, "a"=1']),
    "nonsense",
    choice("sock-1", [], **HERE),
]
_IDLE = choice("x", None)
_LATER = choice("x", None, ts_ms=NOON + 90 * DAY)


def _collectable(record: Row) -> Row:
    """As text: collecting cannot carry a value that is null."""
    topic, key, value, _ = record
    return Row(topic, bytes(key).decode(), None if value is None else bytes(value).decode())


def main() -> None:
    env = environment(parallelism=1)
    tables = StreamTableEnvironment.create(env)
    cases = " ".join(f"WHEN {number} THEN '{value}'" for number, value in enumerate(CHOICES))
    tables.execute_sql(
        f"""CREATE TABLE `interactions` (
            `n` BIGINT,
            `v` AS CAST(CASE `n` {cases} ELSE IF(`n` < {_LATER_FROM}, '{_IDLE}', '{_LATER}') END AS BYTES),
            `event_time` AS TO_TIMESTAMP_LTZ(IF(`n` < {_LATER_FROM}, {NOON}, {NOON + 90 * DAY}), 3),
            WATERMARK FOR `event_time` AS `event_time`
        ) WITH ('connector' = 'datagen', 'rows-per-second' = '{_A_SECOND}', 'fields.n.kind' = 'sequence',
                'fields.n.start' = '0', 'fields.n.end' = '{_A_SECOND * _SECONDS}')"""
    )
    nowhere = Connections(brokers="127.0.0.1:1", redis_url="redis://127.0.0.1:1/0")  # lists must come out all the same
    lists = build(tables, nowhere, Settings(state_epoch=1)).map(_collectable, Types.ROW([Types.STRING()] * 3))
    result: dict[str, Any] = {"plan": json.loads(env.get_execution_plan())}
    with lists.execute_and_collect() as collected:
        result["records"] = [[row[1], row[2]] for row in collected]
    print(msgspec.json.encode(result).decode())


if __name__ == "__main__":
    main()
