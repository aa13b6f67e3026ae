"""The only file that touches PyFlink's internals: keying on the JVM, mixing execution modes, shaping operators.

PyFlink's `key_by` is a Python map, which costs a hop and fights the keyed operator for the GIL; its AsyncFunction exists
only in process mode, while keyed state is fast only in thread mode. tests/integration/test_personalise.py fails when an
upgrade of Flink breaks what is done here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pyflink.common import Time
from pyflink.common.typeinfo import TypeInformation, Types
from pyflink.datastream import AsyncDataStream, DataStream, KeyedStream, StreamExecutionEnvironment
from pyflink.datastream.functions import AsyncFunction
from pyflink.java_gateway import get_gateway
from pyflink.table import StreamTableEnvironment, Table
from pyflink.util.java_utils import get_j_env_configuration


def keyed_on_jvm(tables: StreamTableEnvironment, query: Table, value_type: TypeInformation) -> KeyedStream:
    """A keyed stream of the query's second column, keyed by its first (a STRING), with no Python in between.

    `value_type` must describe the second column as the Table API hands it over.
    """
    rows = tables.to_data_stream(query)
    pair = Types.ROW([Types.STRING(), value_type])
    # Before anything asks for the type: Flink freezes it on first use.
    rows._j_data_stream.getTransformation().setOutputType(pair.get_java_type_info())
    selector = get_gateway().jvm.org.apache.flink.streaming.api.functions.python.KeyByKeySelector()
    j_keyed = rows._j_data_stream.keyBy(selector, Types.ROW([Types.STRING()]).get_java_type_info())
    return KeyedStream(j_keyed, value_type, DataStream(rows._j_data_stream))


@contextmanager
def execution_mode(env: StreamExecutionEnvironment, mode: str) -> Iterator[None]:
    """Build operators in `mode` ("process" or "thread"); the mode before is restored, which embedded operators need:
    they read the shared configuration again at run time."""
    configuration = get_j_env_configuration(env._j_stream_execution_environment)
    before = configuration.getString("python.execution-mode", "process")
    configuration.setString("python.execution-mode", mode)
    try:
        yield
    finally:
        configuration.setString("python.execution-mode", before)


def use_thread_mode(env: StreamExecutionEnvironment) -> None:
    get_j_env_configuration(env._j_stream_execution_environment).setString("python.execution-mode", "thread")


def rank_async(stream: DataStream, function: AsyncFunction, capacity: int, output_type: TypeInformation) -> DataStream:
    """Apply an AsyncFunction in process mode, in the same slot as the operator before it (same parallelism: forward).

    The time limit is 0: a limit of Flink's would start one OS thread per record. The function keeps its own.
    """
    with execution_mode(stream.get_execution_environment(), "process"):
        return AsyncDataStream.unordered_wait(stream, function, Time.milliseconds(0), capacity, output_type)
