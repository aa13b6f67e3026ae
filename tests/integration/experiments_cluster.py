"""Run `experiments` on a MiniCluster with records from a SQL VALUES clause; print what came out as one JSON line.

A program of its own, because the JVM must be started with the paths that embedded Python needs. No Redis is there: what cannot be
written to it goes on to Kafka all the same.
"""

from __future__ import annotations

import json

import msgspec
from pyflink.common import Row
from pyflink.common.typeinfo import Types
from pyflink.table import StreamTableEnvironment

from jobs.experiments import build
from jobs.flink import keyed_on_jvm
from jobs.streams import LOG_TYPE
from jobs.submission import environment
from schemas import topics
from schemas.connections import Connections
from schemas.interaction import encode_interaction
from schemas.ranking import encode_json
from tests.fakes import NOW
from tests.unit.test_experiment_log import happened, ranked

LIST = (topics.RANKED_FEED, encode_json(ranked({"ranker": "new"})))
CLICK = (topics.INTERACTIONS, encode_interaction(happened("click")))
SHOWN = (topics.INTERACTIONS, encode_interaction(happened("impression")))
RECORDS = [LIST, SHOWN, SHOWN, CLICK, (topics.INTERACTIONS, b"nonsense")]


def _as_text(record: Row) -> Row:
    """Collecting cannot carry bytes without sign. And PyFlink finds a side output only where a Python operator follows it."""
    topic, key, value, _ = record
    return Row(topic, bytes(key).decode(), bytes(value).decode())


def main() -> None:
    env = environment(parallelism=1)
    tables = StreamTableEnvironment.create(env)
    rows = ", ".join(
        f"('{topic}', x'{value.hex()}', {offset}, CAST({NOW} AS BIGINT))"
        for offset, (topic, value) in enumerate(RECORDS)
    )
    query = tables.sql_query(
        f"""SELECT 'u:alice' AS k, ROW(t, 'u:alice', CAST(v AS BYTES), 0, CAST(o AS BIGINT), a) AS r
            FROM (VALUES {rows}) AS l(t, v, o, a)"""
    )
    connections = Connections(redis_url="redis://127.0.0.1:1/0")
    made = build(tables, keyed_on_jvm(tables, query, LOG_TYPE), connections, 7)
    rows = made.units.union(made.arms).map(_as_text, Types.ROW([Types.STRING()] * 3))
    with rows.execute_and_collect() as collected:
        records = [[topic, key, json.loads(value)] for topic, key, value in collected]
    print(msgspec.json.encode(records).decode())


if __name__ == "__main__":
    main()
