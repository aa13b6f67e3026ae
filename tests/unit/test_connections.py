"""Connections: what is refused and how that is said, and that a secret is nowhere but where it is used."""

from __future__ import annotations

import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import redis

from client.feed import RankedFeed
from connect.redis_access import Node, RedisAccess
from connect.slots import Slots
from jobs.kafka_security import SHADED, kafka_security
from jobs.streams import Streams
from schemas import topics
from schemas.connections import Connections, InvalidConnection, Secret

MARK = "s3cret-mark"
SASL = {
    "RIFFLE_SECURITY_PROTOCOL": "SASL_SSL",
    "RIFFLE_SASL_MECHANISM": "SCRAM-SHA-512",
    "RIFFLE_SASL_USERNAME": "eu-job",
    "RIFFLE_SASL_PASSWORD": MARK,
}


@pytest.fixture
def environ(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Connections of these variables, which the process has as well: secrets are read from there."""

    def read(**variables: str) -> Connections:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        return Connections.from_environment(variables)

    return read


def file_of(folder: Path, text: str) -> str:
    path = folder / "password"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        ({"RIFFLE_SECURITY_PROTOCOL": "TLS"}, "RIFFLE_SECURITY_PROTOCOL is TLS: it must be one of PLAINTEXT, SSL"),
        ({"RIFFLE_SSL_CAFILE": "/ca.pem"}, "RIFFLE_SSL_CAFILE is set, but RIFFLE_SECURITY_PROTOCOL is PLAINTEXT"),
        ({"RIFFLE_SASL_MECHANISM": "PLAIN"}, "RIFFLE_SASL_MECHANISM is set, but RIFFLE_SECURITY_PROTOCOL is PLAINTEXT"),
        ({"RIFFLE_SECURITY_PROTOCOL": "SASL_SSL"}, "RIFFLE_SASL_MECHANISM is not set, and SASL_SSL needs one of PLAIN"),
        (SASL | {"RIFFLE_SASL_MECHANISM": "GSSAPI"}, "RIFFLE_SASL_MECHANISM is GSSAPI"),
        ({k: v for k, v in SASL.items() if "PASSWORD" not in k}, "RIFFLE_SASL_PASSWORD or RIFFLE_SASL_PASSWORD_FILE"),
        ({k: v for k, v in SASL.items() if "USERNAME" not in k}, "RIFFLE_SASL_USERNAME is not set"),
        (SASL | {"RIFFLE_SASL_PASSWORD": ""}, "RIFFLE_SASL_PASSWORD is empty"),
        (SASL | {"RIFFLE_SASL_PASSWORD_FILE": "/x"}, "RIFFLE_SASL_PASSWORD and RIFFLE_SASL_PASSWORD_FILE are both set"),
        (SASL | {"RIFFLE_SASL_MECHANISM": "OAUTHBEARER"}, "RIFFLE_SASL_TOKEN_URL must be"),
        ({"RIFFLE_REDIS_PASSWORD_FILE": "/no/such"}, "/no/such cannot be read: No such file"),
        ({"RIFFLE_REDIS_URL": f"redis://u:{MARK}@r:1"}, "RIFFLE_REDIS_URL holds credentials"),
        ({"RIFFLE_REDIS_URL": f"redis://r:1?password={MARK}"}, "RIFFLE_REDIS_URL holds credentials"),
        ({"RIFFLE_REDIS_URL": "http://r"}, "RIFFLE_REDIS_URL must be redis://host:port"),
        ({"RIFFLE_REDIS_URL": "redis://r:x"}, "RIFFLE_REDIS_URL is no address"),
        ({"RIFFLE_REDIS_URL": "redis://a,b"}, "RIFFLE_REDIS_URL names several hosts: set RIFFLE_REDIS_MODE"),
        ({"RIFFLE_REDIS_MODE": "ring"}, "RIFFLE_REDIS_MODE is ring: it must be one of single, cluster, sentinel"),
        ({"RIFFLE_REDIS_MODE": "cluster", "RIFFLE_REDIS_URL": "redis://r/3"}, "a Redis Cluster has only 0"),
        ({"RIFFLE_REDIS_MODE": "sentinel"}, "RIFFLE_REDIS_SENTINEL_MASTER belongs to RIFFLE_REDIS_MODE=sentinel"),
        ({"RIFFLE_REDIS_USERNAME": "job"}, "RIFFLE_REDIS_USERNAME is set without RIFFLE_REDIS_PASSWORD"),
        ({"RIFFLE_REDIS_CAFILE": "/ca.pem"}, "RIFFLE_REDIS_CAFILE is set, but RIFFLE_REDIS_URL is not rediss://"),
    ],
)
def test_what_cannot_work_is_refused_by_name_and_without_the_secret(
    variables: dict[str, str], sentence: str, environ: Any
) -> None:
    with pytest.raises(InvalidConnection) as refused:
        environ(**variables)
    assert sentence in str(refused.value)
    assert MARK not in str(refused.value)


def test_a_replaced_field_is_checked_as_well() -> None:
    with pytest.raises(InvalidConnection, match="holds credentials"):
        msgspec.structs.replace(Connections(), redis_url=f"redis://:{MARK}@r:1")
    with pytest.raises(InvalidConnection, match="holds credentials"):
        RankedFeed(f"redis://:{MARK}@r:1")


def test_what_travels_with_a_job_holds_no_secret(environ: Any, tmp_path: Path) -> None:
    """Contract: the operators are pickled with their Connections into the job, its checkpoints and blobs."""
    where = environ(**SASL, RIFFLE_REDIS_PASSWORD_FILE=file_of(tmp_path, MARK))
    told = [repr(where).encode(), pickle.dumps(where), msgspec.json.encode(where), repr(kafka_security(where)).encode()]
    assert not [one for one in told if MARK.encode() in one]
    assert where.kafka_python()["sasl_plain_password"] == MARK
    assert where.redis.password.read() == MARK
    assert pickle.loads(pickle.dumps(where)) == where


def test_a_replaced_file_counts_for_the_next_connection(environ: Any, tmp_path: Path) -> None:
    path = file_of(tmp_path, "before\n")
    password = environ(RIFFLE_REDIS_PASSWORD_FILE=path).redis.settings(1.0)["credential_provider"]
    assert password.get_credentials() == ("before",)
    file_of(tmp_path, "after")
    assert password.get_credentials() == ("after",)


def test_java_is_told_where_the_password_is(environ: Any, tmp_path: Path) -> None:
    by_name = kafka_security(environ(**SASL, RIFFLE_SSL_CAFILE="/etc/ca.pem"))
    module = f"{SHADED}.common.security.scram.ScramLoginModule"
    assert (
        by_name["sasl.jaas.config"] == f'{module} required username="eu-job" password="${{env:RIFFLE_SASL_PASSWORD}}";'
    )
    assert (by_name["ssl.truststore.type"], by_name["ssl.truststore.location"]) == ("PEM", "/etc/ca.pem")
    where = Connections(
        security_protocol="SASL_SSL",
        sasl_mechanism="PLAIN",
        sasl_username='j"o',
        sasl_password=Secret(file=file_of(tmp_path, MARK)),
    )
    jaas = kafka_security(where)["sasl.jaas.config"]
    assert jaas.endswith(f'username="j\\"o" password="${{directory:{tmp_path}:password}}";')


def test_the_sql_text_holds_no_secret(environ: Any) -> None:
    """Contract: sources, and sinks of both guarantees, say where the password is."""
    texts: list[str] = []
    streams = Streams.__new__(Streams)  # without the JVM that its tables need
    streams._connections, streams._group, streams._start_from = environ(**SASL), "it's-riffle", "group-offsets"
    streams.tables = SimpleNamespace(execute_sql=texts.append)
    streams._source(topics.EVENTS)
    streams._sink("exact", [topics.INTERACTIONS], exactly_once=True)
    streams._sink("ranked", [topics.RANKED_FEED], exactly_once=False)
    assert len(texts) == 3
    for text in texts:
        assert 'password="${env:RIFFLE_SASL_PASSWORD}"' in text
        assert MARK not in text
    assert "'properties.group.id' = 'it''s-riffle'" in texts[0]


@pytest.mark.parametrize(("text", "sentence"), [("pw\n", "printf"), ('p"w', "JAAS line"), ("p\\w", "JAAS line")])
def test_what_java_would_misread_is_refused(text: str, sentence: str, tmp_path: Path) -> None:
    where = Connections(
        security_protocol="SASL_SSL",
        sasl_mechanism="PLAIN",
        sasl_username="job",
        sasl_password=Secret(file=file_of(tmp_path, text)),
    )
    with pytest.raises(InvalidConnection, match=sentence):
        kafka_security(where)


def test_a_secret_that_a_worker_lacks_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RIFFLE_SASL_PASSWORD", raising=False)
    with pytest.raises(InvalidConnection, match="RIFFLE_SASL_PASSWORD is not set in the environment of this process"):
        Secret(variable="RIFFLE_SASL_PASSWORD").read()
    with pytest.raises(InvalidConnection, match="must be an absolute path"):
        Secret(file="password")


def test_tls_checks_certificate_and_name() -> None:
    settings = RedisAccess(url="rediss://r:6380/0", cafile="/ca.pem").settings(1.0)
    assert (settings["ssl_cert_reqs"], settings["ssl_check_hostname"], settings["ssl_ca_certs"]) == (
        "required",
        True,
        "/ca.pem",
    )


def test_addresses_of_cluster_and_sentinels() -> None:
    assert RedisAccess(url="redis://a,b:7001,[::1]:7002", mode="cluster").nodes == [
        Node("a", 6379),
        Node("b", 7001),
        Node("::1", 7002),
    ]
    assert RedisAccess(url="redis://s", mode="sentinel", master="m").nodes == [Node("s", 26379)]


def test_a_slot_is_found_and_a_gap_is_said() -> None:
    # CLUSTER KEYSLOT foo is 12182, of bar 5061, of hello 866: from Redis' documentation and a server.
    slots = Slots(
        [[10_000, 16_383, [b"b", 2, b"id"]], [0, 866, [b"", 1, b"id"], [b"replica", 1, b"id"]]], Node("asked", 9)
    )
    assert slots.node_of("foo") == Node("b", 2)
    assert slots.node_of("x{hello}y") == Node("asked", 1)
    with pytest.raises(redis.ConnectionError, match="serves slot 5061"):
        slots.node_of("bar")
