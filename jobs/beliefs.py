"""Outcomes in, beliefs of items on each surface out: what explored places are drawn by.

interactions ─ SQL: exposures and clicks by surface, item, hour and context ─ summed over 2 s ─ update-beliefs ─ beliefs (compacted)

State exactly once per checkpoint; records at least once: they are totals, of which the newest of a key holds.
"""

from __future__ import annotations

import typer
from pyflink.common.typeinfo import Types
from pyflink.datastream import DataStream
from pyflink.table import StreamTableEnvironment

from jobs.flink import execute, keyed_on_jvm
from jobs.streams import OUTPUT_TYPE, Streams
from jobs.submission import connected, environment
from schemas import topics
from schemas.interaction import FLOOD, NO_TRAINING
from udfs.logic.beliefs import HOUR_MS, NEW_USER_EVENTS
from udfs.update_beliefs import FIELDS, LEFT_OUT, UID, UpdateBeliefs

NAME = "beliefs"

_BUNDLE_S = 2
_KINDS = [Types.LONG(), Types.STRING(), Types.STRING(), Types.STRING(), Types.BOOLEAN(), Types.LONG(), Types.LONG()]
DELTA_TYPE = Types.ROW_NAMED(list(FIELDS), _KINDS)
# When it happened, by the validated interaction; SQL over the column `v`.
EVENT_TIME_MS = "TRY_CAST(JSON_VALUE(CAST(`v` AS STRING), '$.ts_ms') AS BIGINT)"


def build(tables: StreamTableEnvironment, half_life_ms: int, namespace: str) -> DataStream:
    """The job between its source, the table `interactions`, and its sink: records for `beliefs`."""
    tables.execute_sql(
        f"""CREATE TEMPORARY VIEW `outcomes` AS
        SELECT CASE WHEN `notes` LIKE '%"{FLOOD}"%' OR `notes` LIKE '%"{NO_TRAINING}"%' THEN '{LEFT_OUT}'
                    ELSE CONCAT(`surface`, '|', `item_id`) END AS `belief_key`,
            `kind`, `ts_ms` / {HOUR_MS} AS `hour`, `device`, `geo`, `channel`, `event_no` <= {NEW_USER_EVENTS} AS `is_new`,
            PROCTIME() AS `at`
        FROM (SELECT JSON_VALUE(`j`, '$.event.event_type') AS `kind`, {EVENT_TIME_MS} AS `ts_ms`,
                  JSON_VALUE(`j`, '$.event.item_id') AS `item_id`, JSON_VALUE(`j`, '$.event.props.surface') AS `surface`,
                  JSON_VALUE(`j`, '$.event.props.context.device') AS `device`,
                  JSON_VALUE(`j`, '$.event.props.context.geo') AS `geo`,
                  JSON_VALUE(`j`, '$.event.props.context.channel') AS `channel`,
                  COALESCE(TRY_CAST(JSON_VALUE(`j`, '$.event_no') AS BIGINT), 0) AS `event_no`,
                  COALESCE(JSON_QUERY(`j`, '$.notes'), '') AS `notes`
              FROM (SELECT `v`, CAST(`v` AS STRING) AS `j` FROM `interactions`))
        WHERE `kind` IN ('impression', 'click') AND `ts_ms` IS NOT NULL AND `item_id` IS NOT NULL AND `surface` IS NOT NULL"""
    )
    alike = "`belief_key`, `hour`, `device`, `geo`, `channel`, `is_new`"
    query = f"""SELECT `belief_key`, ROW({", ".join(f"`{name}`" for name in FIELDS)}) FROM (
        SELECT {alike}, COUNT(*) FILTER (WHERE `kind` = 'impression') AS `shown`,
            COUNT(*) FILTER (WHERE `kind` = 'click') AS `clicked`
        FROM TABLE(TUMBLE(TABLE `outcomes`, DESCRIPTOR(`at`), INTERVAL '{_BUNDLE_S}' SECOND))
        GROUP BY `window_start`, `window_end`, {alike})"""
    deltas = keyed_on_jvm(tables, tables.sql_query(query), DELTA_TYPE)
    return deltas.process(UpdateBeliefs(half_life_ms, namespace), OUTPUT_TYPE).name(UID).uid(UID)


def main(
    brokers: str | None = typer.Option(None, help="Kafka bootstrap servers; default: RIFFLE_BROKERS."),
    namespace: str | None = typer.Option(None, help="Prefix of topics and groups; default: RIFFLE_NAMESPACE."),
    half_life_h: float = typer.Option(168.0, min=1, help="After how many hours an outcome counts half."),
    parallelism: int = typer.Option(0, help="Parallel subtasks; 0 takes the cluster's default."),
) -> None:
    """Submit the beliefs job: `flink run -py jobs/beliefs.py ...`, see docs/policy.md."""
    connections = connected(brokers=brokers, namespace=namespace)
    env = environment(parallelism)
    streams = Streams(env, connections, NAME)
    streams.table(topics.INTERACTIONS, EVENT_TIME_MS)
    beliefs = build(streams.tables, round(half_life_h * HOUR_MS), connections.namespace)
    streams.write(beliefs, "beliefs", [topics.BELIEFS])
    streams.attach()
    execute(env, NAME)


if __name__ == "__main__":
    typer.run(main)
