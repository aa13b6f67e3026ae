"""Streams: what the job reads and writes, as SQL tables on the JVM. The only file that knows connectors.

Values are raw bytes in both directions, so that what is not valid UTF-8 survives to the dead letters.
"""

from __future__ import annotations

from collections.abc import Iterable

from pyflink.common.typeinfo import Types
from pyflink.datastream import DataStream, KeyedStream, StreamExecutionEnvironment
from pyflink.table import StreamTableEnvironment
from pyflink.table.expressions import col

from jobs.flink import keyed_on_jvm
from jobs.kafka_security import kafka_security
from schemas import headers, topics
from schemas.connections import Connections

# What UpdateUserState receives, in this order; see udfs/update_user_state.py. The last three are set on records that were put
# back on `events` (headers.*): where they stood first.
INPUT_TYPE = Types.ROW_NAMED(
    [
        "topic",
        "key",
        "value",
        "partition",
        "offset",
        "append_ms",
        "via",
        "first_partition",
        "first_offset",
        "first_append_ms",
    ],
    [
        Types.STRING(),
        Types.STRING(),
        Types.PRIMITIVE_ARRAY(Types.BYTE()),
        Types.INT(),
        Types.LONG(),
        Types.LONG(),
        Types.STRING(),
        Types.STRING(),
        Types.STRING(),
        Types.STRING(),
    ],
)

# What UpdateTrainingLog receives, in this order.
LOG_TYPE = Types.ROW_NAMED(
    ["topic", "key", "value", "partition", "offset", "append_ms"],
    [
        Types.STRING(),
        Types.STRING(),
        Types.PRIMITIVE_ARRAY(Types.BYTE()),
        Types.INT(),
        Types.LONG(),
        Types.LONG(),
    ],
)

# What operators emit: a record on its way to a topic.
OUTPUT_TYPE = Types.ROW_NAMED(
    ["topic", "key", "value", "headers"],
    [
        Types.STRING(),
        Types.PRIMITIVE_ARRAY(Types.BYTE()),
        Types.PRIMITIVE_ARRAY(Types.BYTE()),
        Types.MAP(Types.STRING(), Types.PRIMITIVE_ARRAY(Types.BYTE())),
    ],
)

# A record key that names a user or a session; anything else is keyed by its partition, never by null.
_VALID_KEY = (
    "CHAR_LENGTH(CAST(`k` AS STRING)) BETWEEN 3 AND 66 AND SUBSTRING(CAST(`k` AS STRING) FROM 1 FOR 2) IN ('u:', 's:')"
)

# Watermarks only end windows, and late events correct them: there is no need to wait for long.
_OUT_OF_ORDER_S = 5
_IDLE_S = 5


class Streams:
    """Sources and sinks of one job on one Kafka. Nothing is registered before it is asked for."""

    def __init__(
        self, env: StreamExecutionEnvironment, connections: Connections, group: str, start_from: str = "group-offsets"
    ):
        self.env = env
        self.tables = StreamTableEnvironment.create(env)
        self._connections = connections
        self._group = connections.group(group)
        self._start_from = start_from
        self._statements = self.tables.create_statement_set()

    def keyed_by_user(self, names: Iterable[str]) -> KeyedStream:
        """The topics as one stream of INPUT_TYPE rows, keyed by the key each record travelled under."""
        parts = []
        for name in names:
            self._source(name)
            parts.append(
                f"""SELECT CASE WHEN {_VALID_KEY} THEN CAST(`k` AS STRING)
                           ELSE CONCAT('p:{name}:', CAST(`partition` AS STRING)) END AS routing,
                    ROW('{name}', CAST(`k` AS STRING), `v`, `partition`, `offset`, {_epoch_ms("append_time")},
                        CAST(`headers`['{headers.VIA}'] AS STRING), CAST(`headers`['{headers.PARTITION}'] AS STRING),
                        CAST(`headers`['{headers.OFFSET}'] AS STRING), CAST(`headers`['{headers.APPEND_MS}'] AS STRING)) AS `record`
                    FROM `{name}`"""
            )
        return keyed_on_jvm(self.tables, self.tables.sql_query(" UNION ALL ".join(parts)), INPUT_TYPE)

    def log_by_user(self, *names: str) -> KeyedStream:
        """Of `interactions`, `ranked-feed`, `rankings-log` those named, as one stream of LOG_TYPE rows by user; append times are
        watermarks."""
        parts = []
        # A list's key, and its decision's, ends with its surface, whose name has no bar; a user's id may have one.
        of_list = "REGEXP_REPLACE(`key`, '[|][^|]*$', '')"
        for name in names:
            user = "`key`" if name == topics.INTERACTIONS else of_list
            self._source(name, watermarks=True)
            parts.append(
                f"""SELECT CASE WHEN `key` IS NULL THEN CONCAT('p:{name}:', CAST(`partition` AS STRING)) ELSE {user} END AS routing,
                    ROW('{name}', `key`, `v`, `partition`, `offset`, {_epoch_ms("append_time")}) AS `record`
                    FROM (SELECT CAST(`k` AS STRING) AS `key`, `v`, `partition`, `offset`, `append_time` FROM `{name}`)"""
            )
        return keyed_on_jvm(self.tables, self.tables.sql_query(" UNION ALL ".join(parts)), LOG_TYPE)

    def table(self, name: str, event_time_ms: str) -> None:
        """Register a topic from its beginning, under its name, as `k`, `v` and metadata. The watermark goes by `event_time_ms`,
        which is SQL; a partition without records does not hold it back.
        """
        self._source(name, start_from="earliest-offset", event_time_ms=event_time_ms)

    def values(self, name: str) -> DataStream:
        """A topic's values from its beginning, as bytes."""
        self._source(name, start_from="earliest-offset")
        rows = self.tables.to_data_stream(self.tables.sql_query(f"SELECT `v` FROM `{name}`"))
        rows._j_data_stream.getTransformation().setOutputType(
            Types.ROW([Types.PRIMITIVE_ARRAY(Types.BYTE())]).get_java_type_info()
        )
        return rows

    def write(self, stream: DataStream, sink: str, names: Iterable[str], *, exactly_once: bool = False) -> None:
        """Send a stream of OUTPUT_TYPE rows to the topics that they name. `sink` names the table, and so its operator."""
        topic_names = [self._connections.topic(name) for name in names]
        rows = self.tables.from_data_stream(stream)
        if len(topic_names) == 1:  # the connector then refuses to be told which
            rows = rows.drop_columns(col("topic"))
        self._sink(sink, topic_names, exactly_once)
        self._statements.add_insert(sink, rows)

    def attach(self) -> None:
        """Make the sinks part of the job that `env.execute` runs."""
        self._statements.attach_as_datastream()

    def _source(
        self, name: str, start_from: str | None = None, *, watermarks: bool = False, event_time_ms: str | None = None
    ) -> None:
        watermark = ""
        if watermarks:  # append times rise within a partition, so they are watermarks as they are
            watermark = ", WATERMARK FOR `append_time` AS `append_time`"
        elif event_time_ms:
            watermark = f""", `event_time` AS COALESCE(TO_TIMESTAMP_LTZ({event_time_ms}, 3), TO_TIMESTAMP_LTZ(0, 3)),
                WATERMARK FOR `event_time` AS `event_time` - INTERVAL '{_OUT_OF_ORDER_S}' SECOND"""
        # A silent partition holds nobody up.
        idle = {"scan.watermark.idle-timeout": f"{_IDLE_S} s"} if watermark else {}
        self.tables.execute_sql(
            f"""CREATE TABLE `{name}` (
                `k` BYTES, `v` BYTES,
                `partition` INT METADATA VIRTUAL, `offset` BIGINT METADATA VIRTUAL,
                `append_time` TIMESTAMP_LTZ(3) METADATA FROM 'timestamp' VIRTUAL,
                `headers` MAP<STRING, BYTES> METADATA VIRTUAL{watermark}
            ) WITH ({
                _options(
                    {
                        "connector": "kafka",
                        "topic": self._connections.topic(name),
                        "key.format": "raw",
                        "key.fields": "k",
                        "value.format": "raw",
                        "value.fields-include": "EXCEPT_KEY",
                        "scan.startup.mode": start_from or self._start_from,
                        "properties.group.id": self._group,
                        "properties.auto.offset.reset": "earliest",
                        "properties.isolation.level": "read_committed",
                        **idle,
                        **self._kafka_properties(),
                    }
                )
            })"""
        )

    def _sink(self, table: str, topic_names: list[str], exactly_once: bool) -> None:
        guarantee = (
            {
                "sink.delivery-guarantee": "exactly-once",
                "sink.transactional-id-prefix": f"{self._group}-{table}",
                # Longer than any checkpoint may take, shorter than the broker's limit of 15 minutes.
                "properties.transaction.timeout.ms": "600000",
                # Nobody sees a record before its checkpoint: it may wait for company, which costs half as much.
                "properties.linger.ms": "50",
            }
            if exactly_once
            else {"sink.delivery-guarantee": "at-least-once", "properties.linger.ms": "0"}
        )
        topic = "" if len(topic_names) == 1 else "`topic` STRING METADATA, "
        self.tables.execute_sql(
            f"""CREATE TABLE `{table}` (
                {topic}`k` BYTES, `v` BYTES, `headers` MAP<STRING, BYTES> METADATA
            ) WITH ({
                _options(
                    {
                        "connector": "kafka",
                        "topic": ";".join(topic_names),
                        "key.format": "raw",
                        "key.fields": "k",
                        "value.format": "raw",
                        "value.fields-include": "EXCEPT_KEY",
                        "properties.max.request.size": str(max(spec.max_message_bytes for spec in topics.TOPICS)),
                        "properties.compression.type": "lz4",
                        **guarantee,
                        **self._kafka_properties(),
                    }
                )
            })"""
        )

    def _kafka_properties(self) -> dict[str, str]:
        properties = {"bootstrap.servers": self._connections.brokers, **kafka_security(self._connections)}
        return {f"properties.{name}": value for name, value in properties.items()}


def _options(options: dict[str, str]) -> str:
    return ", ".join(f"{_text(key)} = {_text(value)}" for key, value in options.items())


def _text(value: str) -> str:
    """A SQL literal."""
    return "'" + value.replace("'", "''") + "'"


def _epoch_ms(column: str) -> str:
    """Milliseconds since 1970 of a TIMESTAMP_LTZ column; SQL has no function for it."""
    return f"(EXTRACT(EPOCH FROM `{column}`) * 1000 + EXTRACT(MILLISECOND FROM `{column}`))"
