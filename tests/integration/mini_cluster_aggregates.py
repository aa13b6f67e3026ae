"""Run `item-aggregates` on a MiniCluster on generated interactions; print its plan and the rows that came out as one JSON line.

A program of its own, because the JVM must be started with the paths that embedded Python needs. The interactions come one after
the other for some seconds: sums over the worker's clock are not made of what ends at once.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec
from pyflink.common import Row
from pyflink.common.typeinfo import Types
from pyflink.table import StreamTableEnvironment

from jobs.item_aggregates import Settings, build, counting
from jobs.submission import environment
from schemas.connections import Connections

NOON = 1_767_268_800_000  # 2026-01-01T12:00:00Z
HOUR = 3_600_000
_A_SECOND, _SECONDS = 14, 14
_LATER_FROM = 5 * _A_SECOND  # from here on it is three hours later


def interaction(
    kind: str, item_id: str | None, ts_ms: int = NOON, append_ms: int | None = None, note: str = "", **props: Any
) -> str:
    event = {"event_type": kind, "event_id": "e", "item_id": item_id, "props": props}
    body = {"key": "u:a", "event": event, "ts_ms": ts_ms, "append_ms": append_ms or ts_ms} | (
        {"notes": [note]} if note else {}
    )
    return json.dumps(body)


INTERACTIONS = [
    interaction("impression", "boot-1", surface="home", context={"device": "mobile", "geo": "de"}),
    interaction("click", "boot-1", surface="home"),
    interaction("click", "boot-1", ts_ms=NOON - HOUR, append_ms=NOON),
    interaction("click", "boot-1", ts_ms=NOON - 3 * HOUR, append_ms=NOON),  # too late
    interaction("click", "lamp-9"),  # not in the catalogue
    interaction("purchase", None, order_id="o", items=[{"item_id": "boot-1"}, {"item_id": "boot-2", "quantity": 3}]),
    interaction("search", None, query="boots"),  # counts for nothing
    interaction("click", "boot-1", note="flood"),
    interaction("click", "boot-1", note="flood"),
    interaction("view", "lamp-9", note="out_of_order"),
    "nonsense",
]
ITEMS = {"boot-1": {"subcategory": "boots", "category": "shoes"}, "boot-2": {"category": "shoes"}}
_LATER = interaction("view", "later", ts_ms=NOON + 3 * HOUR)


def _collectable(record: Row) -> Row:
    """As text: collecting cannot carry a value that is null, nor bytes without sign."""
    topic, key, value, _ = record
    return Row(topic, bytes(key).hex(), None if value is None else bytes(value).hex())


def main() -> None:
    env = environment(parallelism=1)
    tables = StreamTableEnvironment.create(env)
    # Interactions wait for the catalogue, which is read at once.
    cases = " ".join(f"WHEN {_A_SECOND + number} THEN '{value}'" for number, value in enumerate(INTERACTIONS))
    tables.execute_sql(
        f"""CREATE TABLE `interactions` (
            `n` BIGINT,
            `v` AS CAST(CASE `n` {cases} ELSE IF(`n` < {_LATER_FROM}, '{interaction("scroll", None)}', '{_LATER}') END AS BYTES),
            `event_time` AS TO_TIMESTAMP_LTZ(IF(`n` < {_LATER_FROM}, {NOON}, {NOON + 3 * HOUR}), 3),
            WATERMARK FOR `event_time` AS `event_time`
        ) WITH ('connector' = 'datagen', 'rows-per-second' = '{_A_SECOND}', 'fields.n.kind' = 'sequence',
                'fields.n.start' = '0', 'fields.n.end' = '{_A_SECOND * _SECONDS}')"""
    )
    values = ", ".join(f"('{name}', '{json.dumps({'item_id': name, **rest})}')" for name, rest in ITEMS.items())
    tables.execute_sql(
        f"""CREATE TEMPORARY VIEW `items` AS
        SELECT CAST(`k` AS BYTES) AS `k`, CAST(`v` AS BYTES) AS `v` FROM (VALUES {values}) AS t(`k`, `v`)"""
    )
    nowhere = Connections(brokers="127.0.0.1:1", redis_url="redis://127.0.0.1:1/0")  # rows must come out all the same
    rows = build(tables, nowhere, Settings(state_epoch=1), counting())
    rows = rows.map(_collectable, Types.ROW([Types.STRING()] * 3))
    result: dict[str, Any] = {"plan": json.loads(env.get_execution_plan())}
    with rows.execute_and_collect() as collected:
        result["records"] = [[row[1], row[2]] for row in collected]
    print(msgspec.json.encode(result).decode())


if __name__ == "__main__":
    main()
