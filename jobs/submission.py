"""What every job does when it is submitted: connections that hold, and an environment that keeps to the deployment's rules."""

from __future__ import annotations

import typer
from pyflink.datastream import StreamExecutionEnvironment

from jobs.flink import use_thread_mode
from jobs.kafka_security import kafka_security
from schemas.connections import Connections, InvalidConnection

MAX_PARALLELISM = 2048  # fixed for the life of a deployment: key groups are counted in it


def connected(**named: str | None) -> Connections:
    """From the environment and the options given. What cannot be used is refused here, in a sentence, and not by a JVM later."""
    try:
        connections = Connections.from_environment(**named)
        kafka_security(connections)
    except InvalidConnection as error:
        raise typer.BadParameter(str(error)) from error
    return connections


def environment(parallelism: int) -> StreamExecutionEnvironment:
    """In thread mode; a parallelism of 0 takes the cluster's default."""
    env = StreamExecutionEnvironment.get_execution_environment()
    env.set_max_parallelism(MAX_PARALLELISM)
    if parallelism:
        env.set_parallelism(parallelism)
    use_thread_mode(env)
    return env
