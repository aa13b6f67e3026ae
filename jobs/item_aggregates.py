"""Interactions in, counters of items, groups and contexts out: a job of its own, beside `personalise`.

interactions ─ SQL: one row a key ─ summed over 2 s ─┐
items ───────────────────────────────────────────────┴─ aggregate-items ─┬─ rows ──────────────────────┐
                                                                         └─ group deltas ─ summed ─ aggregate-groups ─ rows
                                                     store-item-features: Redis, then `item-features` ─┘

Keys: the item, its surface, everything, device, geo and hour of the day come from the interaction; subcategory and category
from the catalogue, which the item's own state knows. The JVM sums what comes within two seconds for each key and 5-minute slice,
so that Python sees a hot item as rarely as any other.
"""

from __future__ import annotations

import time
from typing import NamedTuple

import msgspec
import typer
from pyflink.common.typeinfo import Types
from pyflink.datastream import DataStream, KeyedStream, OutputTag
from pyflink.table import Schema, StreamTableEnvironment

from jobs.flink import execute, keyed_on_jvm, run_async, side_output
from jobs.streams import OUTPUT_TYPE, Streams
from jobs.submission import connected, environment
from schemas import topics
from schemas.connections import Connections
from schemas.features import FeatureError, registry
from schemas.features_row import RowCodec
from schemas.interaction import FLOOD
from udfs.aggregate_items import (
    AGGREGATE_GROUPS,
    AGGREGATE_ITEMS,
    CATALOGUE,
    DELTA_FIELDS,
    FLAGGED,
    LATE,
    UNREADABLE,
    AggregateItems,
)
from udfs.logic.item_aggregates import ACTIONS, LATENESS_MS, SLICE_MS, Column, columns_of
from udfs.store_item_features import UID as STORE_ITEM_FEATURES
from udfs.store_item_features import StoreItemFeatures

NAME = "item-aggregates"

_BUNDLE_S = 2
_PLACES = range(len(ACTIONS))
_COUNTS = [f"n{place}" for place in _PLACES]
_BYTES = Types.PRIMITIVE_ARRAY(Types.BYTE())
DELTA_TYPE = Types.ROW_NAMED(list(DELTA_FIELDS), [Types.LONG(), *[Types.LONG() for _ in _PLACES], _BYTES])
GROUP_DELTA_TYPE = Types.ROW_NAMED(
    ["row_key", "slice", *_COUNTS], [Types.STRING(), Types.LONG(), *[Types.LONG() for _ in _PLACES]]
)
ROWS = OutputTag("rows", OUTPUT_TYPE)

# When it happened, by the validated interaction; SQL over the column `v`.
EVENT_TIME_MS = "TRY_CAST(JSON_VALUE(CAST(`v` AS STRING), '$.ts_ms') AS BIGINT)"
APPEND_TIME_MS = "CAST(EXTRACT(EPOCH FROM `append_time`) * 1000 AS BIGINT)"


class Settings(msgspec.Struct, frozen=True):
    """What a submission decides. `state_epoch` rises with every submission: newer rows are never blocked by older ones."""

    state_epoch: int
    in_flight: int = 200


class Counting(NamedTuple):
    """What the registry asks for: how rows are packed, and how each of their columns is counted."""

    codec: RowCodec
    columns: tuple[Column, ...]


def counting() -> Counting:
    """Raises FeatureError where the registry cannot be used, or asks for what cannot be counted."""
    return Counting(RowCodec(registry()), columns_of(registry()))


def build(tables: StreamTableEnvironment, connections: Connections, settings: Settings, counts: Counting) -> DataStream:
    """The job between its sources, the tables `interactions` and `items`, and its sink: records for `item-features`."""
    items = _aggregated(_keyed_deltas(tables), AGGREGATE_ITEMS, connections, settings, counts)
    groups = _aggregated(_keyed_group_deltas(tables, items), AGGREGATE_GROUPS, connections, settings, counts)
    rows = side_output(items, ROWS).union(side_output(groups, ROWS))
    store = StoreItemFeatures(connections, counts.codec)
    return run_async(rows, store, settings.in_flight, OUTPUT_TYPE).name(STORE_ITEM_FEATURES).uid(STORE_ITEM_FEATURES)


def _aggregated(
    deltas: KeyedStream, uid: str, connections: Connections, settings: Settings, counts: Counting
) -> DataStream:
    operator = AggregateItems(uid, settings.state_epoch, counts.codec, counts.columns, ROWS, connections.namespace)
    return deltas.process(operator, GROUP_DELTA_TYPE).name(uid).uid(uid)


def _keyed_deltas(tables: StreamTableEnvironment) -> KeyedStream:
    """Deltas of items, surfaces and contexts, and the catalogue's records, keyed by `<level>|<name>`."""
    kinds = ", ".join(f"'{action}'" for action in ACTIONS)
    tables.execute_sql(
        f"""CREATE TEMPORARY VIEW `parsed` AS
        SELECT `j`, JSON_VALUE(`j`, '$.event.event_type') AS `kind`, {EVENT_TIME_MS} AS `ts_ms`,
            TRY_CAST(JSON_VALUE(`j`, '$.append_ms') AS BIGINT) AS `append_ms`,
            JSON_VALUE(`j`, '$.event.props.surface') AS `surface`,
            JSON_VALUE(`j`, '$.event.props.context.device') AS `device`,
            JSON_VALUE(`j`, '$.event.props.context.geo') AS `geo`,
            COALESCE(JSON_QUERY(`j`, '$.notes'), '') AS `notes`
        FROM (SELECT `v`, CAST(`v` AS STRING) AS `j` FROM `interactions`)"""
    )
    flagged = f"`notes` LIKE '%\"{FLOOD}\"%'"
    # An order counts once a line, in all that it counts for.
    tables.execute_sql(
        f"""CREATE TEMPORARY VIEW `lines` AS
        SELECT `kind`, `ts_ms`, `surface`, `device`, `geo`, `item_id`,
            CASE WHEN `kind` IS NULL OR `ts_ms` IS NULL OR `append_ms` IS NULL THEN '{UNREADABLE}|'
                 WHEN {flagged} THEN '{FLAGGED}|'
                 WHEN `append_ms` - `ts_ms` > {LATENESS_MS} THEN '{LATE}|' END AS `refused`
        FROM `parsed` CROSS JOIN UNNEST(
            CASE WHEN `kind` IN ('purchase', 'return')
                 THEN JSON_QUERY(`j`, '$.event.props.items[*].item_id' RETURNING ARRAY<STRING>)
                 ELSE ARRAY[JSON_VALUE(`j`, '$.event.item_id')] END) AS `line`(`item_id`)
        WHERE `kind` IN ({kinds}) OR `kind` IS NULL"""
    )
    tables.execute_sql(
        f"""CREATE TEMPORARY VIEW `keyed` AS
        SELECT `row_key`, COALESCE(`ts_ms` / {SLICE_MS}, 0) AS `slice`, `kind`, PROCTIME() AS `at`
        FROM `lines` CROSS JOIN UNNEST(
            CASE WHEN `refused` IS NOT NULL THEN ARRAY[`refused`] ELSE ARRAY[
                CONCAT('item|', `item_id`), 'all|', CONCAT('surface|', `surface`), CONCAT('device|', `device`),
                CONCAT('geo|', `geo`), CONCAT('hour|', LPAD(CAST(MOD(`ts_ms` / 3600000, 24) AS STRING), 2, '0'))
            ] END) AS `key`(`row_key`)
        WHERE `row_key` IS NOT NULL"""
    )
    # What has no kind is unreadable, and counted in the first place.
    counted = ", ".join(
        f"COUNT(*) FILTER (WHERE `kind` = '{action}'{' OR `kind` IS NULL' if not place else ''}) AS `n{place}`"
        for place, action in enumerate(ACTIONS)
    )
    zeros = ", ".join("CAST(0 AS BIGINT)" for _ in _PLACES)
    query = f"""{_summed("keyed", counted)}
        UNION ALL SELECT CONCAT('item|', CAST(`k` AS STRING)), ROW(CAST({CATALOGUE} AS BIGINT), {zeros}, `v`)
        FROM `items` WHERE `k` IS NOT NULL"""
    return keyed_on_jvm(tables, tables.sql_query(query), DELTA_TYPE)


def _keyed_group_deltas(tables: StreamTableEnvironment, items: DataStream) -> KeyedStream:
    """The deltas that items have passed on to their groups, summed again: groups are few and hot."""
    schema = Schema.new_builder().column("row_key", "STRING").column("slice", "BIGINT")
    for name in _COUNTS:
        schema.column(name, "BIGINT")
    # Only so that watermarks come through: the timers of groups go by them as those of items do.
    schema.column_by_expression("event_time", f"TO_TIMESTAMP_LTZ(`slice` * {SLICE_MS}, 3)")
    schema.watermark("event_time", "SOURCE_WATERMARK()")
    tables.create_temporary_view("group_deltas", items, schema.build())
    tables.execute_sql("CREATE TEMPORARY VIEW `groups` AS SELECT *, PROCTIME() AS `at` FROM `group_deltas`")
    summed = ", ".join(f"SUM(`{name}`) AS `{name}`" for name in _COUNTS)
    return keyed_on_jvm(tables, tables.sql_query(_summed("groups", summed)), DELTA_TYPE)


def _summed(view: str, counts: str) -> str:
    """What comes within _BUNDLE_S of the worker's clock, summed for each key and slice. No state outlives its two seconds, so no
    lateness and no time to live has to be guessed here."""
    return f"""SELECT `row_key`, ROW(`slice`, {", ".join(_COUNTS)}, CAST(NULL AS BYTES)) FROM (
        SELECT `row_key`, `slice`, {counts}
        FROM TABLE(TUMBLE(TABLE `{view}`, DESCRIPTOR(`at`), INTERVAL '{_BUNDLE_S}' SECOND))
        GROUP BY `window_start`, `window_end`, `row_key`, `slice`)"""


def main(
    brokers: str | None = typer.Option(None, help="Kafka bootstrap servers; default: RIFFLE_BROKERS."),
    redis_url: str | None = typer.Option(
        None, help="Where rows are written; default: RIFFLE_REDIS_URL. Without credentials."
    ),
    namespace: str | None = typer.Option(
        None, help="Prefix of topics, Redis keys and groups; default: RIFFLE_NAMESPACE."
    ),
    parallelism: int = typer.Option(0, help="Parallel subtasks; 0 takes the cluster's default."),
) -> None:
    """Submit the item-aggregates job: `flink run -py jobs/item_aggregates.py ...`, see docs/features.md."""
    try:
        counts = counting()
    except FeatureError as error:
        raise typer.BadParameter(str(error)) from error
    connections = connected(brokers=brokers, redis_url=redis_url, namespace=namespace)
    env = environment(parallelism)
    streams = Streams(env, connections, NAME)
    streams.table(topics.INTERACTIONS, EVENT_TIME_MS)
    streams.table(topics.ITEMS, APPEND_TIME_MS)
    rows = build(streams.tables, connections, Settings(state_epoch=int(time.time())), counts)
    streams.write(rows, "rows", [topics.ITEM_FEATURES])
    streams.attach()
    execute(env, NAME)


if __name__ == "__main__":
    typer.run(main)
