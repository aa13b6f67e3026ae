"""Run `beliefs` on a MiniCluster on generated interactions; print its plan and the records that came out as one JSON line.

A program of its own, because the JVM must be started with the paths that embedded Python needs. The interactions come one after
the other for some seconds: sums over the worker's clock are not made of what ends at once.
"""

from __future__ import annotations

import json
from typing import Any

from pyflink.common import Row
from pyflink.common.typeinfo import Types
from pyflink.table import StreamTableEnvironment

from jobs.beliefs import EVENT_TIME_MS, build
from jobs.submission import environment

NOON = 1_767_268_800_000  # 2026-01-01T12:00:00Z
HOUR = 3_600_000
HALF_LIFE_MS = 10 * HOUR
_A_SECOND, _SECONDS = 10, 8


def interaction(kind: str, item_id: str, ts_ms: int = NOON, note: str = "", event_no: int = 9, **props: Any) -> str:
    event = {"event_type": kind, "event_id": "e", "item_id": item_id, "props": {"surface": "home"} | props}
    body = {"key": "u:a", "event_no": event_no, "event": event, "ts_ms": ts_ms, "append_ms": ts_ms}
    return json.dumps(body | ({"notes": ["clamped", note]} if note else {}))


APP = {"device": "mobile", "geo": "de", "channel": "app"}
INTERACTIONS = [
    interaction("impression", "boot|1", context=APP),
    interaction("impression", "boot|1", context=APP),
    interaction("click", "boot|1", context=APP),
    interaction("impression", "boot|1", ts_ms=NOON - 10 * HOUR, event_no=5),
    interaction("impression", "boot|1", surface=None),
    interaction("view", "boot|1"),
    interaction("click", "lamp", surface="cart"),
    interaction("impression", "lamp", note="flood"),
    interaction("click", "lamp", note="no_training"),
    interaction("impression", "lamp", note="out_of_order"),
    "nonsense",
]


def _collectable(record: Row) -> Row:
    """As text: collecting cannot carry a value that is null, nor bytes without sign."""
    topic, key, value, _ = record
    return Row(topic, bytes(key).hex(), None if value is None else bytes(value).hex())


def main() -> None:
    env = environment(parallelism=1)
    tables = StreamTableEnvironment.create(env)
    cases = " ".join(f"WHEN {_A_SECOND + number} THEN '{value}'" for number, value in enumerate(INTERACTIONS))
    tables.execute_sql(
        f"""CREATE TABLE `interactions` (
            `n` BIGINT,
            `v` AS CAST(CASE `n` {cases} ELSE '{interaction("view", "nothing")}' END AS BYTES),
            `event_time` AS COALESCE(TO_TIMESTAMP_LTZ({EVENT_TIME_MS.replace("`v`", "'{}'")}, 3), TO_TIMESTAMP_LTZ({NOON}, 3)),
            WATERMARK FOR `event_time` AS `event_time`
        ) WITH ('connector' = 'datagen', 'rows-per-second' = '{_A_SECOND}', 'fields.n.kind' = 'sequence',
                'fields.n.start' = '0', 'fields.n.end' = '{_A_SECOND * _SECONDS}')"""
    )
    # A Python map right behind the operator is a chain that PyFlink cannot optimise.
    beliefs = build(tables, HALF_LIFE_MS, "").rebalance().map(_collectable, Types.ROW([Types.STRING()] * 3))
    result: dict[str, Any] = {"plan": json.loads(env.get_execution_plan())}
    with beliefs.execute_and_collect() as collected:
        result["records"] = [[row[1], row[2]] for row in collected]
    print(json.dumps(result))


if __name__ == "__main__":
    main()
