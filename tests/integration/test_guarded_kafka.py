"""Every mechanism against a real broker, by both clients: kafka-python, and the one inside the connector's jar.

The job's properties are given to that Java client as they are; what it resolves, it resolves as in a Flink JVM.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
from kafka.admin import KafkaAdminClient
from py4j.java_gateway import GatewayParameters, JavaGateway, launch_gateway
from py4j.protocol import Py4JJavaError

from client.errors import KafkaUnavailable
from client.events import Events
from jobs.kafka_security import ALLOWED_URLS, SHADED, kafka_security
from local import jars, processes
from local.broker import Broker
from local.java import find_java_home
from local.topics import create_topics
from schemas import access, topics
from schemas.connections import OAUTHBEARER, Connections, Secret
from tests import certificates, guarded_kafka
from tests.token_endpoint import AUDIENCE, TokenEndpoint

# kafka-python drops its sockets unclosed where it is refused.
pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.usefixtures("kafka_leftovers"),
]


USER, PASSWORD = "tools", "mark-of-the-password"
VARIABLE = "RIFFLE_SASL_PASSWORD"
NAMES = [spec.name for spec in topics.TOPICS]


class Place(NamedTuple):
    guarded: int
    oauth: int
    cafile: str
    file: str
    endpoint: TokenEndpoint

    def where(self, mechanism: str, secret: Secret) -> Connections:
        of_oauth = mechanism == OAUTHBEARER
        return Connections(
            brokers=f"127.0.0.1:{self.oauth if of_oauth else self.guarded}",
            security_protocol="SASL_SSL",
            ssl_cafile=self.cafile,
            sasl_mechanism=mechanism,
            sasl_username=USER,
            sasl_password=secret,
            sasl_token_url=f"{self.endpoint.url}/token" if of_oauth else None,
            sasl_scope="kafka" if of_oauth else None,
        )


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("guarded")
    plain, guarded, oauth, controller = processes.free_ports(4)
    made = certificates.make(folder)
    endpoint = TokenEndpoint(USER, PASSWORD)
    settings = guarded_kafka.properties(plain, guarded, controller, made, folder, {USER: PASSWORD})
    module = "org.apache.kafka.common.security.oauthbearer"
    for name in ("listeners", "advertised.listeners"):
        settings[name] += f",OAUTH://127.0.0.1:{oauth}"
    settings["listener.security.protocol.map"] += ",OAUTH:SASL_SSL"
    settings |= {
        "listener.name.oauth.sasl.enabled.mechanisms": OAUTHBEARER,
        "listener.name.oauth.oauthbearer.sasl.server.callback.handler.class": f"{module}.OAuthBearerValidatorCallbackHandler",
        "listener.name.oauth.oauthbearer.sasl.jaas.config": f"{module}.OAuthBearerLoginModule required;",
        "listener.name.oauth.sasl.oauthbearer.jwks.endpoint.url": f"{endpoint.url}/keys",
        "listener.name.oauth.sasl.oauthbearer.expected.audience": AUDIENCE,
    }
    file = folder / "password"
    file.write_text(PASSWORD)
    broker = Broker(folder / "run", plain, controller, settings)
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv(VARIABLE, PASSWORD)
        environment.setenv("JAVA_TOOL_OPTIONS", f"-Dorg.apache.kafka.sasl.oauthbearer.allowed.urls={endpoint.url}/keys")
        try:
            broker.start(find_java_home(), jars.fetch(jars.listed("broker"), say=lambda _: None))
            environment.delenv("JAVA_TOOL_OPTIONS")
            admin = KafkaAdminClient(bootstrap_servers=broker.bootstrap)
            guarded_kafka.admit(admin, {USER: PASSWORD})
            guarded_kafka.grant(admin, USER, access.kafka_grants(access.TOOLS, ""))
            admin.close()
            yield Place(guarded, oauth, made.cafile, str(file), endpoint)
        finally:
            processes.end(lambda: processes.of(folder / "run"), patience_s=6)
            endpoint.close()


@pytest.fixture(scope="module")
def java(place: Place) -> Iterator[Any]:
    """A JVM as a TaskManager's is: the connector, logging, and what OAUTHBEARER needs beside it."""
    names = ("jackson-annotations", "jackson-core", "jackson-databind", "jose4j", "slf4j")
    beside = [jar for jar in jars.listed("broker") if jar.name.startswith(names)]
    paths = jars.fetch([*jars.listed("flink"), *beside], say=lambda _: None)
    port, process = launch_gateway(
        classpath=os.pathsep.join(map(str, paths)),
        javaopts=[f"-D{ALLOWED_URLS}={place.endpoint.url}/token", "-Dorg.slf4j.simpleLogger.defaultLogLevel=error"],
        java_path=str(find_java_home() / "bin" / "java"),
        die_on_exit=True,
        return_proc=True,
        redirect_stderr=None,
    )
    gateway = JavaGateway(gateway_parameters=GatewayParameters(port=port))
    yield gateway
    gateway.shutdown()
    process.terminate()
    process.wait(10)
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()


def secrets(place: Place) -> dict[str, Secret]:
    return {"file": Secret(file=place.file), "variable": Secret(variable=VARIABLE)}


@pytest.mark.parametrize("kept", ["file", "variable"])
@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", OAUTHBEARER])
def test_every_mechanism_is_let_in_by_both_clients(place: Place, java: Any, mechanism: str, kept: str) -> None:
    where = place.where(mechanism, secrets(place)[kept])
    create_topics(topics.TOPICS, where)
    with Events(where) as events:
        assert events.track("login", user_id="alice", session_id="s1").position()[1] >= 0
    assert set(NAMES) <= set(topics_by_java(java, where))


def topics_by_java(java: Any, where: Connections) -> list[str]:
    given = java.jvm.java.util.HashMap()
    for name, value in kafka_security(where).items():
        given.put(name, value)
    given.put("bootstrap.servers", where.brokers)
    given.put("default.api.timeout.ms", "10000")
    given.put("request.timeout.ms", "5000")
    admin = getattr(java.jvm, f"{SHADED}.clients.admin.AdminClient").create(given)
    try:
        return list(admin.listTopics().names().get())
    finally:
        admin.close()


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-512", OAUTHBEARER])
def test_a_wrong_secret_is_refused_and_not_repeated(place: Place, java: Any, mechanism: str, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text("markWrong")
    where = place.where(mechanism, Secret(file=str(wrong)))
    with pytest.raises(KafkaUnavailable) as by_python:
        Events(where)
    with pytest.raises(Py4JJavaError) as by_java:
        topics_by_java(java, where)
    assert "markWrong" not in f"{by_python.value} {by_java.value}"


def test_an_authority_that_nobody_named_is_refused(place: Place, java: Any, tmp_path: Path) -> None:
    other = msgspec.structs.replace(
        place.where("PLAIN", Secret(file=place.file)), ssl_cafile=certificates.make(tmp_path).cafile
    )
    with pytest.raises(KafkaUnavailable):
        Events(other)
    with pytest.raises(Py4JJavaError, match="SSL"):
        topics_by_java(java, other)
