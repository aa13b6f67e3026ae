"""Run `training-log` on a MiniCluster with records from a SQL VALUES clause; print what came out as one JSON line.

A program of its own, because the JVM must be started with the paths that embedded Python needs.
"""

from __future__ import annotations

import json

import msgspec
from pyflink.table import StreamTableEnvironment

from jobs.flink import keyed_on_jvm
from jobs.streams import LOG_TYPE
from jobs.submission import environment
from jobs.training_log import build
from schemas import topics
from schemas.interaction import encode_interaction
from schemas.ranking import encode_json
from tests.unit.test_attribution import BASE, RULES, interaction, ranked, shown

RECORDS = [
    (topics.RANKED_FEED, encode_json(ranked()), BASE),
    (topics.INTERACTIONS, encode_interaction(shown("i1", BASE)), BASE),
    (topics.INTERACTIONS, encode_interaction(interaction("c1", "click", "a", BASE + 4)), BASE + 4),
    (topics.INTERACTIONS, encode_interaction(shown("i2", BASE + 5, list_id="?")), BASE + 5),
    (topics.INTERACTIONS, b"nonsense", BASE + 5),
]


def main() -> None:
    env = environment(parallelism=1)
    tables = StreamTableEnvironment.create(env)
    rows = ", ".join(
        f"('{topic}', x'{value.hex()}', {offset}, CAST({at} AS BIGINT))"
        for offset, (topic, value, at) in enumerate(RECORDS)
    )
    query = tables.sql_query(
        f"""SELECT 'u:alice' AS k, ROW(t, 'u:alice', CAST(v AS BYTES), 0, CAST(o AS BIGINT), a) AS r
            FROM (VALUES {rows}) AS l(t, v, o, a)"""
    )
    stream = build(keyed_on_jvm(tables, query, LOG_TYPE), "", RULES)
    # The end of bounded input is the highest watermark: every window closes.
    with stream.execute_and_collect() as collected:
        records = [[row[0], bytes(row[1]).decode(), json.loads(bytes(row[2]))] for row in collected]
    print(msgspec.json.encode(records).decode())


if __name__ == "__main__":
    main()
