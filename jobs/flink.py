"""The only file of `jobs/` that touches PyFlink's internals: keying on the JVM, mixing execution modes, shaping operators.

PyFlink's `key_by` is a Python map, which costs a hop and fights the keyed operator for the GIL; its AsyncFunction exists
only in process mode, while keyed state is fast only in thread mode. tests/integration/test_personalise.py fails when an
upgrade of Flink breaks what is done here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from py4j.java_gateway import JavaObject
from pyflink.common import Time
from pyflink.common.typeinfo import TypeInformation, Types
from pyflink.datastream import (
    AsyncDataStream,
    DataStream,
    KeyedStream,
    OutputTag,
    StreamExecutionEnvironment,
    data_stream,
)
from pyflink.datastream.functions import AsyncFunction
from pyflink.java_gateway import get_gateway
from pyflink.table import StreamTableEnvironment, Table
from pyflink.util.java_utils import get_j_env_configuration

_BUNDLE_SIZE = 100  # tasks that may share a bundle; it ends when the last of them is done
_COMPANY_MS = 50  # as long as the producers of exactly-once sinks wait themselves: jobs/streams.py


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


def use_thread_mode(env: StreamExecutionEnvironment) -> None:
    get_j_env_configuration(env._j_stream_execution_environment).setString("python.execution-mode", "thread")


def run_async(stream: DataStream, function: AsyncFunction, capacity: int, output_type: TypeInformation) -> DataStream:
    """Apply an AsyncFunction in process mode, in the same slot as the operator before it (same parallelism: forward).

    The time limit is 0: a limit of Flink's would start one OS thread per record. The function keeps its own.
    """
    with _process_mode(stream.get_execution_environment()):
        return AsyncDataStream.unordered_wait(stream, function, Time.milliseconds(0), capacity, output_type)


@contextmanager
def _process_mode(env: StreamExecutionEnvironment) -> Iterator[None]:
    """Build operators in process mode, on a copy of the configuration that all Python operators otherwise share.

    The mode before is restored: embedded operators read it again at run time.
    """
    configuration = get_j_env_configuration(env._j_stream_execution_environment)
    before, shared = configuration.getString("python.execution-mode", "process"), data_stream.get_j_env_configuration
    configuration.setString("python.execution-mode", "process")
    data_stream.get_j_env_configuration = lambda _: get_gateway().jvm.org.apache.flink.configuration.Configuration(
        configuration
    )
    try:
        yield
    finally:
        data_stream.get_j_env_configuration = shared
        configuration.setString("python.execution-mode", before)


def side_output(stream: DataStream, tag: OutputTag) -> DataStream:
    """A side output as it is, on a thread of its own. PyFlink's `get_side_output` puts a Python map behind it, which costs
    every record a second crossing into the interpreter that holds the state."""
    # At equal parallelism each subtask still sends to its own neighbour; but it is no chain.
    return DataStream(stream._j_data_stream.getSideOutput(tag.get_java_output_tag()).rescale())


def execute(env: StreamExecutionEnvironment, name: str, unhurried: Sequence[OutputTag] = ()) -> None:
    """As `env.execute`, with bundles of 1 ms in process mode only; records of the side outputs `unhurried` leave together.

    Flink starts a timer of `python.fn-execution.bundle.time` in every Python operator. Process mode needs it at its shortest,
    as a record waits for the end of its bundle; embedded operators have no bundles, and each would be woken a thousand times
    a second for nothing.
    """
    graph = env._generate_stream_graph(clear_transformations=True, job_name=name)
    for node in graph.getStreamNodes().toArray():
        factory = node.getOperatorFactory()
        if factory is None or factory.getClass().getSimpleName() != "SimpleOperatorFactory":
            continue
        operator = factory.getOperator()
        if ".python.process." in operator.getClass().getName():
            operator.getConfiguration().setString("python.fn-execution.bundle.time", "1")
            operator.getConfiguration().setString("python.fn-execution.bundle.size", str(_BUNDLE_SIZE))
    let_wait(graph, unhurried)
    env._j_stream_execution_environment.execute(graph)


def let_wait(graph: JavaObject, unhurried: Sequence[OutputTag]) -> None:
    """In a Java StreamGraph: let records of these side outputs wait for others, for _COMPANY_MS at most.

    With a buffer timeout of 0 (flink-conf/config.yaml) each record is a buffer of its own and wakes the thread that takes it. What
    goes to an exactly-once sink, nobody sees before its checkpoint, whose barrier takes along what waits.
    """
    names = {tag.tag_id for tag in unhurried}
    for node in graph.getStreamNodes().toArray():
        for edge in node.getOutEdges().toArray():
            tag = edge.getOutputTag()
            if tag is not None and tag.getId() in names:
                edge.setBufferTimeout(_COMPANY_MS)
