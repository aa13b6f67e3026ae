"""Run `personalise` on a MiniCluster with events from a SQL VALUES clause; print its plan and what came out as one JSON line.

A program of its own, because the JVM must be started with the paths that embedded Python needs.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from typing import Any

import msgspec
from py4j.java_gateway import JavaObject
from pyflink.common.typeinfo import Types
from pyflink.table import StreamTableEnvironment

from jobs.flink import keyed_on_jvm, let_wait
from jobs.personalise import EXACT, UPDATE_USER_STATE, Settings, build
from jobs.streams import INPUT_TYPE, OUTPUT_TYPE
from jobs.submission import environment
from schemas.connections import Connections
from udfs.rank_candidates import RankSettings

# Records appended long ago would be caught up on, and ranked later than this bounded job lives.
_AHEAD_MS = 60_000

EVENTS = [
    (
        "u:alice",
        {
            "event_id": "e1",
            "user_id": "alice",
            "event_type": "click",
            "item_id": "shoe-0",
            "ts_ms": int(time.time() * 1000),
        },
    ),
    (
        "u:alice",
        {
            "event_id": "e1",
            "user_id": "alice",
            "event_type": "click",
            "item_id": "shoe-0",
            "ts_ms": int(time.time() * 1000),
        },
    ),
    (
        "u:bob",
        {
            "event_id": "e2",
            "user_id": "carol",
            "event_type": "click",
            "item_id": "shoe-1",
            "ts_ms": int(time.time() * 1000),
        },
    ),
    ("p:events:0", None),
]


def text(value: Any) -> str:
    """Java's bytes have a sign; what is binary (a decision record) keeps what can be read of it."""
    return bytes(byte & 0xFF for byte in value).decode(errors="replace")


def _waits_ms(graph: JavaObject) -> dict[str, list[int]]:
    """Buffer timeouts of the edges out of the state operator, by side output; "" is the main one."""
    edges = [
        edge
        for node in graph.getStreamNodes().toArray()
        if node.getOperatorName() == UPDATE_USER_STATE
        for edge in node.getOutEdges().toArray()
    ]
    waits: dict[str, list[int]] = {}
    for edge in edges:
        tag = edge.getOutputTag()
        waits.setdefault("" if tag is None else tag.getId(), []).append(edge.getBufferTimeout())
    return waits


def main(bundles: str) -> None:
    env = environment(parallelism=1)
    tables = StreamTableEnvironment.create(env)
    rows = []
    for offset, (key, body) in enumerate(EVENTS):
        value = "nonsense" if body is None else json.dumps({"session_id": "s", "schema_version": 2, **body})
        rows.append(f"('{key}', '{value}', {offset})")
    append_ms = int(time.time() * 1000) + _AHEAD_MS
    query = tables.sql_query(
        f"""SELECT k, ROW('events', k, CAST(v AS BYTES), 0, CAST(o AS BIGINT), CAST({append_ms} AS BIGINT),
            CAST(NULL AS STRING), CAST(NULL AS STRING), CAST(NULL AS STRING), CAST(NULL AS STRING)) AS r
            FROM (VALUES {", ".join(rows)}) AS t(k, v, o)"""
    )
    control = env.from_collection([(b"{}",)], Types.ROW([Types.PRIMITIVE_ARRAY(Types.BYTE())]))
    # Nobody answers there: lists must come out all the same, flagged.
    nowhere = Connections(brokers="127.0.0.1:1", redis_url="redis://127.0.0.1:1/0")
    settings = Settings(RankSettings(bundles), state_epoch=1, bundle=None)
    outputs = build(keyed_on_jvm(tables, query, INPUT_TYPE), control, nowhere, settings)
    # Side outputs are made known to their operator by walking back from what the environment has registered: collecting alone
    # registers nothing in time, a map does.
    everything = outputs.ranked.union(outputs.records, outputs.exact).map(lambda row: row, output_type=OUTPUT_TYPE)
    graph = env._generate_stream_graph(clear_transformations=False)
    let_wait(graph, [EXACT])
    result = {"plan": json.loads(env.get_execution_plan()), "waits_ms": _waits_ms(graph)}
    with everything.execute_and_collect() as collected:
        result["records"] = [[row[0], text(row[1]), text(row[2])] for row in collected]
    print(msgspec.json.encode(result).decode())


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else tempfile.gettempdir())
