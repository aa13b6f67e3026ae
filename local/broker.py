"""One Kafka broker in KRaft mode: broker and controller in one small JVM, ready when the admin API answers."""

from __future__ import annotations

import base64
import logging
import os
import subprocess
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from kafka.admin import KafkaAdminClient
from kafka.errors import KafkaError

from local import processes
from local.errors import LocalError
from local.logs import last_cause_in

ROLE = "broker"

# A broker of a few hundred records a second has nothing to gain from the optimising compiler, and two cores have none to spare.
_HEAP = ("-Xms256m", "-Xmx512m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")
_LOGGING = (
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=info",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd HH:mm:ss.SSS",
)

_PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller_port}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
controller.listener.names=CONTROLLER
log.dirs={data}

# Topics are made with their settings by local/topics.py; one made by a typo would have none of them.
auto.create.topics.enable=false

# One broker: nothing can be replicated, and internal topics of 50 partitions only cost start time.
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
share.coordinator.state.topic.num.partitions=1

# Flink's exactly-once sink keeps a transaction open from checkpoint to checkpoint and through a restart.
transaction.max.timeout.ms=900000
# A single consumer must not wait for others to join.
group.initial.rebalance.delay.ms=0
# The cleaner's default buffer of 128 MB would not fit into this heap.
log.cleaner.dedupe.buffer.size=33554432
# Nobody else could take the partitions over, so there is nothing to hand over at the end.
controlled.shutdown.enable=false
num.network.threads=2
num.io.threads=4
"""


class Broker:
    """`properties` are added to the broker's own, or replace them: other listeners, for example, and who may do what."""

    def __init__(
        self, run_dir: Path, port: int, controller_port: int, properties: Mapping[str, str] | None = None
    ) -> None:
        self.properties = dict(properties or {})
        self.run_dir = run_dir
        self.port = port
        self.controller_port = controller_port
        self.folder = run_dir / "kafka"
        self.log = run_dir / "logs" / "kafka.log"

    @property
    def bootstrap(self) -> str:
        return f"127.0.0.1:{self.port}"

    def pids(self) -> list[int]:
        return processes.daemons(self.run_dir, ROLE)

    def ready(self) -> bool:
        return bool(self.pids()) and processes.accepts_connections(self.port) and self._admin_answers()

    def require_ports(self) -> None:
        processes.require_free_port(self.port, "Kafka")
        processes.require_free_port(self.controller_port, "Kafka's controller")

    def start(self, java_home: Path, jars: Sequence[Path]) -> None:
        """`jars` is the closed list of the group "broker"."""
        java = [str(java_home / "bin" / "java"), *_LOGGING, *_HEAP, "-cp", os.pathsep.join(map(str, jars))]
        properties = self._write_properties()
        if not (self.folder / "data" / "meta.properties").is_file():
            self._format(java, properties)
        daemon = processes.start(
            "Kafka", ROLE, [*java, "kafka.Kafka", str(properties)], run_dir=self.run_dir, log=self.log
        )
        # The port first: a refused connection costs kafka-python's client far more than a look at the socket.
        processes.wait_ready([daemon], lambda: processes.accepts_connections(self.port), limit_s=60)
        processes.wait_ready([daemon], self._admin_answers, limit_s=30)

    def _write_properties(self) -> Path:
        self.folder.mkdir(parents=True, exist_ok=True)
        properties = self.folder / "server.properties"
        properties.write_text(
            _PROPERTIES.format(port=self.port, controller_port=self.controller_port, data=self.folder / "data")
            # The last of two lines for one key counts.
            + "".join(f"{key}={value}\n" for key, value in self.properties.items())
        )
        return properties

    def _format(self, java: Sequence[str], properties: Path) -> None:
        command = [*java, "kafka.tools.StorageTool", "format", "-t", _cluster_id(), "-c", str(properties)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("a") as log:
            log.write(done.stdout + done.stderr)
        if done.returncode != 0:
            raise LocalError(
                f"Kafka's storage in {self.folder} cannot be formatted "
                f'("{last_cause_in(self.log)}"): remove that folder and start again.'
            )

    def _admin_answers(self) -> bool:
        # kafka-python reports each refused attempt as an error; while a broker starts they are expected.
        logger = logging.getLogger("kafka")
        level = logger.level
        logger.setLevel(logging.CRITICAL)
        try:
            with suppress(KafkaError, OSError):
                admin = KafkaAdminClient(bootstrap_servers=self.bootstrap, request_timeout_ms=5_000)
                try:
                    admin.list_topics()
                    return True
                finally:
                    admin.close()
            return False
        finally:
            logger.setLevel(level)


def _cluster_id() -> str:
    """A random id as Kafka writes them: 16 bytes in base64 for URLs, and, as with Kafka's own, never a leading dash,
    which its command line would read as an option."""
    while True:
        name = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        if not name.startswith("-"):
            return name
