"""SASL_SSL, TLS and ACLs everywhere: the job under the rights of docs/security.md, and its secrets in no place one can look at.

Kafka: SCRAM-SHA-512 for job, tools and catalogue, PLAIN for senders and requesters. Redis: ACL users behind TLS.
"""

from __future__ import annotations

import os
import time
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis
from kafka import KafkaProducer
from kafka.admin import KafkaAdminClient
from kafka.errors import KafkaError
from typer.testing import CliRunner

from cli.cluster import publish_items
from cli.main import app
from client.errors import KafkaUnavailable
from client.events import Events
from client.feed import RankedFeed
from client.requests import RankRequester
from demo.world import load
from local import processes
from local.stack import Ports, Stack
from local.topics import check_topics, create_topics
from schemas import access, topics
from schemas.connections import Connections, Secret
from schemas.keys import features_redis_key
from tests import certificates, guarded_kafka
from tests.e2e.engine import Engine, Reader, event, produce, raw, wait_for
from tests.redis_servers import TlsFront
from trials.hands import LocalHands

# kafka-python drops its sockets unclosed where it is refused.
pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.usefixtures("kafka_leftovers"),
]


NAMESPACE = "eu-"
PLAIN = (access.SENDER, access.REQUESTER)
ITEMS = [item.item_id for item in load().items]


class Guarded:
    """The stack, and each principal's own way in. Passwords differ by principal and by system, so that each can be looked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.passwords = {
            f"{of}-{name}": f"mark{uuid.uuid4().hex}" for of in ("kafka", "redis") for name in access.PRINCIPALS
        }
        secrets = folder / "secrets"
        secrets.mkdir(mode=0o700)
        for name, password in self.passwords.items():
            (secrets / name).write_text(password)
        self.certificates = certificates.make(secrets)
        ports = Ports.free()
        (self.guarded_port,) = processes.free_ports(1)
        self.tls: TlsFront | None = None
        properties = guarded_kafka.properties(
            ports.kafka,
            self.guarded_port,
            ports.kafka_controller,
            self.certificates,
            secrets,
            {f"eu-{name}": self.passwords[f"kafka-{name}"] for name in PLAIN},
        )
        # The job's Kafka password in a file, its Redis password in the environment: both ways there are.
        environment = {
            "RIFFLE_SECURITY_PROTOCOL": "SASL_SSL",
            "RIFFLE_SSL_CAFILE": self.certificates.cafile,
            "RIFFLE_SASL_MECHANISM": "SCRAM-SHA-512",
            "RIFFLE_SASL_USERNAME": "eu-job",
            "RIFFLE_SASL_PASSWORD_FILE": str(secrets / "kafka-job"),
            "RIFFLE_REDIS_USERNAME": "eu-job",
            "RIFFLE_REDIS_PASSWORD": self.passwords["redis-job"],
            "RIFFLE_REDIS_CAFILE": self.certificates.cafile,
        }
        self.stack = Stack(
            folder / "run",
            ports,
            flink_environment=environment,
            broker_properties=properties,
            say=lambda _: None,
        )

    def start(self) -> None:
        self.stack.start()
        self.tls = TlsFront(self.certificates.server, self.stack.ports.redis)
        admin = KafkaAdminClient(bootstrap_servers=self.stack.broker.bootstrap)
        try:
            names = [name for name in access.PRINCIPALS if name not in PLAIN]
            guarded_kafka.admit(admin, {f"eu-{name}": self.passwords[f"kafka-{name}"] for name in names})
            for name in access.PRINCIPALS:
                guarded_kafka.grant(admin, f"eu-{name}", access.kafka_grants(name, NAMESPACE))
        finally:
            admin.close()
        with redis.Redis(port=self.stack.ports.redis) as client:
            for name in access.PRINCIPALS:
                line = access.redis_line(name, NAMESPACE, f"eu-{name}")
                if line is not None:
                    client.execute_command(*line.split(), f">{self.passwords[f'redis-{name}']}")
            client.execute_command("ACL", "SETUSER", "default", "off")

    def stop(self) -> None:
        try:
            self.stack.stop()
        finally:
            if self.tls is not None:
                self.tls.close()

    def where(self, name: str) -> Connections:
        assert self.tls is not None
        secrets = self.folder / "secrets"
        return Connections(
            brokers=f"127.0.0.1:{self.guarded_port}",
            namespace=NAMESPACE,
            security_protocol="SASL_SSL",
            ssl_cafile=self.certificates.cafile,
            sasl_mechanism="PLAIN" if name in PLAIN else "SCRAM-SHA-512",
            sasl_username=f"eu-{name}",
            sasl_password=Secret(file=str(secrets / f"kafka-{name}")),
            redis_url=f"rediss://127.0.0.1:{self.tls.port}/0",
            redis_username=f"eu-{name}",
            redis_password=Secret(file=str(secrets / f"redis-{name}")),
            redis_cafile=self.certificates.cafile,
        )

    def environment(self, name: str) -> dict[str, str]:
        """As a user of the `riffle` command would set it."""
        where, found = self.where(name), {}
        for field, value in msgspec.structs.asdict(where).items():
            if isinstance(value, Secret):
                found[f"RIFFLE_{field.upper()}_FILE"] = value.file
            elif value is not None:
                found[f"RIFFLE_{field.upper()}"] = value
        return found


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    made = Guarded(tmp_path_factory.mktemp("guarded"))
    try:
        made.start()
        yield made
    finally:
        made.stop()


@pytest.fixture(scope="module")
def job(guarded: Guarded) -> Engine:
    """Topics made by the tools' principal, items by the catalogue's, the job submitted as on any cluster."""
    create_topics(topics.TOPICS, guarded.where(access.TOOLS))
    publish_items(guarded.where(access.CATALOGUE), load().items)
    engine = Engine(guarded.stack, guarded.where(access.JOB))
    engine.submit()
    engine.warm_up()
    return engine


def click(guarded: Guarded, user: str, limit_s: float = 60.0) -> Any:
    """What the reader gets after the sender's click."""
    with (
        Events(guarded.where(access.SENDER)) as events,
        RankedFeed(guarded.where(access.READER), timeout_ms=2_000) as feed,
    ):
        token = events.send(raw(event(user, item_id=ITEMS[7])))
        return feed.get(user, at_least=token.event_id, wait_ms=limit_s * 1000)


def test_a_click_becomes_a_list_and_an_interaction(guarded: Guarded, job: Engine) -> None:
    with Reader(guarded.where(access.TOOLS), topics.INTERACTIONS, topics.RANKED_FEED, topics.EVENTS_DLQ) as reader:
        answer = click(guarded, "alice")
        assert (answer.met, answer.fallback) == (True, None)
        produce(guarded.where(access.SENDER), topics.EVENTS, [(b"u:alice", b"no event")])
        found = reader.until(lambda records: all(records.values()), limit_s=60)
    assert b'"degraded":["redis"]' not in found[topics.RANKED_FEED][-1].value
    wait_for(lambda: job.stack.job_status(job.job_id).completed_checkpoints > 1, 60, "checkpoints: offsets and commits")
    assert job.restarts == 0


@pytest.mark.usefixtures("job")
def test_a_request_is_answered(guarded: Guarded) -> None:
    with RankRequester(guarded.where(access.REQUESTER)) as requester:
        ranked = requester.rank_feed("bob", ITEMS[:3], k=2, timeout_ms=20_000)
    assert len(ranked.items) == 2


def test_the_job_recovers_under_the_same_rights(guarded: Guarded, job: Engine) -> None:
    """Contract: what a restart asks of Kafka, to abort transactions for one, is granted too."""
    hands = LocalHands(job.stack)
    hands.start_spare()
    hands.kill_task_manager()
    wait_for(lambda: job.stack.job_status(job.job_id).running, 180, "the job runs again")
    with Reader(guarded.where(access.TOOLS), topics.INTERACTIONS) as reader:
        assert click(guarded, "carol").met
        reader.until(lambda records: bool(records[topics.INTERACTIONS]), limit_s=60)


@pytest.mark.usefixtures("job")
@pytest.mark.parametrize(
    "command",
    [
        ["trace", "no-such-event"],
        ["dead-letters", "list", "--reason", "not_json", "--json"],
        ["redis", "rebuild", "--json"],
        ["explain", "alice", "--json"],
        ["activate", "demo-6"],
    ],
)
def test_the_tools_may_do_their_work(command: list[str], guarded: Guarded, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in guarded.environment(access.TOOLS).items():
        monkeypatch.setenv(name, value)
    ended = CliRunner().invoke(app, command)
    assert "Error" not in ended.output
    assert ended.exit_code == (1 if command[0] == "trace" else 0), ended.output
    if command[0] == "trace":
        assert "It is on no topic" in ended.output


@pytest.mark.usefixtures("job")
def test_the_tools_see_that_the_topics_are_right(guarded: Guarded) -> None:
    report = check_topics(topics.TOPICS, guarded.where(access.TOOLS))
    assert (report.created, report.differences) == ([], [])


@pytest.mark.usefixtures("job")
def test_nobody_may_more(guarded: Guarded) -> None:
    elsewhere = msgspec.structs.replace(guarded.where(access.SENDER), namespace="us-")
    admin = KafkaAdminClient(bootstrap_servers=guarded.stack.broker.bootstrap)
    admin.create_topics({"us-events": {"num_partitions": 1, "replication_factor": 1}})
    admin.close()
    with pytest.raises(KafkaUnavailable, match="us-events"):
        Events(elsewhere)
    producer = KafkaProducer(**guarded.where(access.SENDER).kafka_python(), max_block_ms=3_000)
    try:
        for topic in (topics.CONTROL, topics.ITEMS, topics.RANKED_FEED):
            with pytest.raises(KafkaError):
                producer.send(f"{NAMESPACE}{topic}", b"x").get(timeout=5)
    finally:
        producer.close(timeout=1)
    reader = guarded.where(access.READER).redis.settings(2.0)
    mine = features_redis_key("eu-riffle:", "u:alice")
    port = guarded.stack.ports.redis
    with redis.Redis(port=port, **without_tls(reader)) as client:
        assert client.hget(mine, "features")
        for command in (("HSET", mine, "features", "x"), ("HGET", "us-riffle:x", "y"), ("KEYS", "*"), ("ACL", "LIST")):
            with pytest.raises(redis.exceptions.NoPermissionError):
                client.execute_command(*command)
    with redis.Redis(port=port) as nobody, pytest.raises(redis.AuthenticationError):
        nobody.ping()


def without_tls(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if not name.startswith("ssl")}


def test_a_wrong_password_or_authority_is_one_sentence_without_it(guarded: Guarded, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text("markWrong")
    sender = guarded.where(access.SENDER)
    for change in ({"sasl_password": Secret(file=str(wrong))}, {"ssl_cafile": certificates_of_another(tmp_path)}):
        with pytest.raises(KafkaUnavailable, match="does not answer") as refused:
            Events(msgspec.structs.replace(sender, **change))
        assert "markWrong" not in str(refused.value)
    reader = guarded.where(access.READER)
    for change in ({"redis_password": Secret(file=str(wrong))}, {"redis_cafile": certificates_of_another(tmp_path)}):
        with RankedFeed(msgspec.structs.replace(reader, **change), timeout_ms=2_000) as feed:
            assert feed.get("alice").fallback == "redis_unavailable"


def certificates_of_another(folder: Path) -> str:
    other = folder / uuid.uuid4().hex
    other.mkdir()
    return certificates.make(other).cafile


# ── the secrets ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_secrets_are_in_no_place_one_can_look_at(guarded: Guarded, job: Engine) -> None:
    """Contract: not in the plan, the web UI, the REST API, logs, checkpoints, staged code, or any process's command line."""
    marks = [password.encode() for password in guarded.passwords.values()]
    secrets = guarded.folder / "secrets"
    assert [path.name for path in files(secrets) if carries(path.read_bytes(), marks)], "the search finds what is there"

    answers = dict(web_ui(job))
    assert len(answers) > 25
    assert any(b"SASL_SSL" in body for url, body in answers.items() if "logs/" in url), "clients log their settings"
    assert [url for url, body in answers.items() if carries(body, marks)] == []
    assert [str(path) for path in files(guarded.stack.run_dir) if carries(path.read_bytes(), marks)] == []
    assert [pid for pid, line in command_lines() if carries(line, marks)] == []


def carries(content: bytes, marks: list[bytes]) -> bool:
    return any(mark in content for mark in marks)


def files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink() and path.exists())


def command_lines() -> Iterator[tuple[int, bytes]]:
    for pid in (int(name) for name in os.listdir("/proc") if name.isdigit()):
        try:
            yield pid, Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue  # it has ended meanwhile


def web_ui(job: Engine) -> Iterator[tuple[str, bytes]]:
    """Everything that the web UI asks the JobManager for, about the job and the cluster."""
    rest, at = job.stack.flink.rest, f"/jobs/{job.job_id}"
    paths = [
        "/config",
        "/overview",
        "/jobs/overview",
        "/jobmanager/config",
        "/jobmanager/environment",
        "/jobmanager/log",
    ]
    paths += [f"/jobmanager/logs/{log['name']}" for log in rest.get("/jobmanager/logs")["logs"]]
    paths += [at + part for part in ("", "/config", "/plan", "/jobmanager/config", "/exceptions", "/accumulators")]
    paths += [f"{at}/checkpoints", f"{at}/checkpoints/config", "/jars", "/jobmanager/thread-dump"]
    for vertex in rest.get(at)["vertices"]:
        here = f"{at}/vertices/{vertex['id']}"
        paths += [here, f"{here}/accumulators", f"{here}/subtasks/metrics", f"{here}/metrics", f"{here}/taskmanagers"]
    for manager in rest.get("/taskmanagers")["taskmanagers"]:
        here = f"/taskmanagers/{manager['id']}"
        logs = [log["name"] for log in rest.get(f"{here}/logs")["logs"]] if alive(manager) else []
        paths += [here, *([f"{here}/thread-dump"] if logs else []), *(f"{here}/logs/{log}" for log in logs)]
    for path in paths:
        try:
            with urllib.request.urlopen(rest.url + path, timeout=30) as answer:
                yield path, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                yield path, error.read()  # an error's text could hold one as well


def alive(manager: dict[str, Any]) -> bool:
    """A killed one stays listed for a while."""
    return bool(time.time() * 1000 - manager["timeSinceLastHeartbeat"] < 10_000)
