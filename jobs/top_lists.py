"""Interactions in, top lists out: what is chosen together, and what is chosen most by device, geo and hour of the day.

interactions ─ SQL: one row a key and name ─ sessions by name, gathered for 10 s ─ update-top-lists ─┐
                                                        store-top-lists: Redis, then `top-lists` ─┘

An interaction that is its session's first choice of an item names what the session chose before (`beside`): each of those and the
item count for each other, and the item for its context. A job of its own, so that the state of item-aggregates stays what it is.
"""

from __future__ import annotations

import time

import msgspec
import typer
from pyflink.common.typeinfo import Types
from pyflink.datastream import DataStream
from pyflink.table import StreamTableEnvironment

from jobs.flink import execute, keyed_on_jvm, run_async
from jobs.item_aggregates import EVENT_TIME_MS
from jobs.streams import OUTPUT_TYPE, Streams
from jobs.submission import connected, environment
from schemas import topics
from schemas.connections import Connections
from schemas.interaction import FLOOD, NO_TRAINING
from udfs.logic.item_aggregates import LATENESS_MS, SLICE_MS
from udfs.store_top_lists import UID as STORE_TOP_LISTS
from udfs.store_top_lists import StoreTopLists
from udfs.update_top_lists import FIELDS, FLAGGED, LATE, NOT_ALLOWED, UID, UpdateTopLists

NAME = "top-lists"

_BUNDLE_S = 10  # lists change slowly, and what comes together costs once
DELTA_TYPE = Types.ROW_NAMED(list(FIELDS), [Types.LONG(), Types.MAP(Types.STRING(), Types.INT())])


class Settings(msgspec.Struct, frozen=True):
    """What a submission decides. `state_epoch` rises with every submission: newer lists are never blocked by older ones."""

    state_epoch: int
    in_flight: int = 200


def build(tables: StreamTableEnvironment, connections: Connections, settings: Settings) -> DataStream:
    """The job between its source, the table `interactions`, and its sink: records for `top-lists`."""
    tables.execute_sql(
        f"""CREATE TEMPORARY VIEW `choices` AS
        SELECT *, CASE WHEN `notes` LIKE '%"{FLOOD}"%' THEN '{FLAGGED}|'
                       WHEN `notes` LIKE '%"{NO_TRAINING}"%' OR `may_train` = 'false' THEN '{NOT_ALLOWED}|'
                       WHEN `append_ms` - `ts_ms` > {LATENESS_MS} THEN '{LATE}|' END AS `refused`
        FROM (SELECT JSON_VALUE(`j`, '$.event.item_id') AS `item_id`, {EVENT_TIME_MS} AS `ts_ms`,
                  TRY_CAST(JSON_VALUE(`j`, '$.append_ms') AS BIGINT) AS `append_ms`,
                  JSON_QUERY(`j`, '$.beside' RETURNING ARRAY<STRING>) AS `beside`,
                  JSON_VALUE(`j`, '$.event.props.context.device') AS `device`,
                  JSON_VALUE(`j`, '$.event.props.context.geo') AS `geo`,
                  JSON_VALUE(`j`, '$.event.props.consent.train') AS `may_train`,
                  COALESCE(JSON_QUERY(`j`, '$.notes'), '') AS `notes`
              FROM (SELECT `v`, CAST(`v` AS STRING) AS `j` FROM `interactions`))
        WHERE `item_id` IS NOT NULL AND `ts_ms` IS NOT NULL AND `append_ms` IS NOT NULL AND `beside` IS NOT NULL"""
    )
    tables.execute_sql(
        f"""CREATE TEMPORARY VIEW `named` AS
        SELECT `list_key`, `name`, `ts_ms` / {SLICE_MS} AS `slice`, PROCTIME() AS `at` FROM (
            SELECT `list_key`, `item_id` AS `name`, `ts_ms` FROM `choices` CROSS JOIN UNNEST(
                CASE WHEN `refused` IS NOT NULL THEN ARRAY[`refused`] ELSE ARRAY[
                    'all|', CONCAT('device|', `device`), CONCAT('geo|', `geo`),
                    CONCAT('hour|', LPAD(CAST(MOD(`ts_ms` / 3600000, 24) AS STRING), 2, '0'))
                ] END) AS `key`(`list_key`)
            UNION ALL
            SELECT CONCAT('item|', `pair`.`one`), `pair`.`other`, `ts_ms`
            FROM `choices` CROSS JOIN UNNEST(`beside`) AS `before`(`id`)
                CROSS JOIN UNNEST(ARRAY[ROW(`item_id`, `before`.`id`), ROW(`before`.`id`, `item_id`)]) AS `pair`(`one`, `other`)
            WHERE `refused` IS NULL AND `before`.`id` IS NOT NULL
        ) WHERE `list_key` IS NOT NULL"""
    )
    # What comes within _BUNDLE_S of the worker's clock. No state outlives it, so no time to live has to be guessed here.
    query = f"""SELECT `list_key`, ROW(`slice`, `sessions`) FROM (
        SELECT `list_key`, `slice`, COLLECT(`name`) AS `sessions`
        FROM TABLE(TUMBLE(TABLE `named`, DESCRIPTOR(`at`), INTERVAL '{_BUNDLE_S}' SECOND))
        GROUP BY `window_start`, `window_end`, `list_key`, `slice`)"""
    deltas = keyed_on_jvm(tables, tables.sql_query(query), DELTA_TYPE)
    operator = UpdateTopLists(settings.state_epoch, connections.namespace)
    lists = deltas.process(operator, OUTPUT_TYPE).name(UID).uid(UID)
    store = StoreTopLists(connections)
    return run_async(lists, store, settings.in_flight, OUTPUT_TYPE).name(STORE_TOP_LISTS).uid(STORE_TOP_LISTS)


def main(
    brokers: str | None = typer.Option(None, help="Kafka bootstrap servers; default: RIFFLE_BROKERS."),
    redis_url: str | None = typer.Option(
        None, help="Where lists are written; default: RIFFLE_REDIS_URL. Without credentials."
    ),
    namespace: str | None = typer.Option(
        None, help="Prefix of topics, Redis keys and groups; default: RIFFLE_NAMESPACE."
    ),
    parallelism: int = typer.Option(0, help="Parallel subtasks; 0 takes the cluster's default."),
) -> None:
    """Submit the top-lists job: `flink run -py jobs/top_lists.py ...`, see docs/features.md."""
    connections = connected(brokers=brokers, redis_url=redis_url, namespace=namespace)
    env = environment(parallelism)
    streams = Streams(env, connections, NAME)
    streams.table(topics.INTERACTIONS, EVENT_TIME_MS)
    lists = build(streams.tables, connections, Settings(state_epoch=int(time.time())))
    streams.write(lists, "lists", [topics.TOP_LISTS])
    streams.attach()
    execute(env, NAME)


if __name__ == "__main__":
    typer.run(main)
