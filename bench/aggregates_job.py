"""Counters of items as a Flink job: Riffle's own (`riffle`), or the same windows as PyFlink offers them in Python (`windows`).

    flink run -py bench/aggregates_job.py --mode windows --brokers ... --group run1      (bench/aggregates.py submits it)

`windows` counts less: of items alone, not of their groups and contexts, and it emits when a window ends, not when it changes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import typer
from pyflink.common import Row, Time, WatermarkStrategy
from pyflink.common.typeinfo import Types
from pyflink.common.watermark_strategy import TimestampAssigner
from pyflink.datastream import StreamExecutionEnvironment
from pyflink.datastream.functions import AggregateFunction
from pyflink.datastream.window import SlidingEventTimeWindows

from jobs.flink import use_thread_mode
from jobs.item_aggregates import APPEND_TIME_MS, EVENT_TIME_MS, Settings, build, counting
from jobs.streams import OUTPUT_TYPE, Streams
from jobs.submission import MAX_PARALLELISM
from schemas import topics
from schemas.connections import Connections
from udfs.logic.item_aggregates import ACTIONS

_BYTES = Types.PICKLED_BYTE_ARRAY()
_ITEM, _PLACE, _TS = range(3)


class Counts(AggregateFunction):  # type: ignore[misc]
    """One window's counts, an action each."""

    def create_accumulator(self) -> list[int]:
        return [0] * len(ACTIONS)

    def add(self, value: Row, accumulator: list[int]) -> list[int]:
        accumulator[value[_PLACE]] += 1
        return accumulator

    def get_result(self, accumulator: list[int]) -> list[int]:
        return accumulator

    def merge(self, one: list[int], other: list[int]) -> list[int]:
        return [a + b for a, b in zip(one, other)]


class EventTime(TimestampAssigner):  # type: ignore[misc]
    def extract_timestamp(self, value: Row, record_timestamp: int) -> int:
        ts_ms: int = value[_TS]
        return ts_ms


def main(mode: str = "riffle", brokers: str = "", redis_url: str = "", namespace: str = "", group: str = "") -> None:
    env = StreamExecutionEnvironment.get_execution_environment()
    env.set_max_parallelism(MAX_PARALLELISM)
    use_thread_mode(env)
    where = Connections(brokers=brokers, redis_url=redis_url, namespace=namespace)
    streams = Streams(env, where, group)
    streams.table(topics.INTERACTIONS, EVENT_TIME_MS)
    if mode == "riffle":
        streams.table(topics.ITEMS, APPEND_TIME_MS)
        rows = build(streams.tables, where, Settings(state_epoch=1), counting())
    else:
        rows = _windows(streams)
    streams.write(rows, "rows", [topics.ITEM_FEATURES])
    streams.attach()
    env.execute(f"aggregates-{mode}")


def _windows(streams: Streams) -> Any:
    """Two hours by five minutes and 28 days by one day, of each item. Parsed on the JVM, as Riffle's."""
    places = " ".join(f"WHEN '{action}' THEN {place}" for place, action in enumerate(ACTIONS))
    table = streams.tables.sql_query(
        f"""SELECT JSON_VALUE(`j`, '$.event.item_id') AS `item`, CASE JSON_VALUE(`j`, '$.event.event_type') {places} END AS `place`,
                TRY_CAST(JSON_VALUE(`j`, '$.ts_ms') AS BIGINT) AS `ts_ms`
            FROM (SELECT CAST(`v` AS STRING) AS `j` FROM `interactions`)"""
    )
    late = WatermarkStrategy.for_monotonous_timestamps().with_timestamp_assigner(EventTime())
    keyed = streams.tables.to_data_stream(table).assign_timestamps_and_watermarks(late).key_by(lambda row: row[_ITEM])
    two_hours = keyed.window(SlidingEventTimeWindows.of(Time.hours(2), Time.minutes(5)))
    days = keyed.window(SlidingEventTimeWindows.of(Time.days(28), Time.days(1)))
    counted = [window.aggregate(Counts(), output_type=_BYTES) for window in (two_hours, days)]

    def packed(counts: list[int]) -> Iterator[Row]:
        yield Row(topics.ITEM_FEATURES, b"window", ",".join(map(str, counts)).encode(), None)

    return counted[0].union(counted[1]).flat_map(packed, OUTPUT_TYPE)


if __name__ == "__main__":
    typer.run(main)
