"""Jars: verified always, fetched once, and every failure is a sentence with its remedy. The mirror is a local server."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from local import jars
from local.errors import LocalError
from local.jars import Jar

CONTENT = b"the bytes of a jar" * 1000


def jar(name: str = "thing-1.0.jar", content: bytes = CONTENT) -> Jar:
    return Jar(name=name, maven="org.example:thing:1.0", sha256=hashlib.sha256(content).hexdigest())


class Mirror:
    """Answers each path with the responses laid down for it, the last one for ever."""

    def __init__(self) -> None:
        self.answers: dict[str, list[tuple[int, bytes, int]]] = {}
        self.asked: list[str] = []

    def serve(self, jar: Jar, *responses: tuple[int, bytes] | tuple[int, bytes, int]) -> None:
        self.answers[f"/{jar.path}"] = [(r[0], r[1], r[2] if len(r) == 3 else len(r[1])) for r in responses]


@pytest.fixture
def mirror(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Mirror]:
    mirror = Mirror()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            mirror.asked.append(self.path)
            answers = mirror.answers.get(self.path, [(404, b"", 0)])
            status, body, announced = answers.pop(0) if len(answers) > 1 else answers[0]
            self.send_response(status)
            self.send_header("Content-Length", str(announced))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("RIFFLE_MAVEN_URL", f"http://127.0.0.1:{server.server_port}/")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(jars.time, "sleep", lambda _: None)
    yield mirror
    server.shutdown()
    server.server_close()
    thread.join()


def said(_: str) -> None:
    pass


def test_fetched_once_and_then_taken_from_the_cache(mirror: Mirror) -> None:
    mirror.serve(jar(), (200, CONTENT))
    for _ in range(2):
        (path,) = jars.fetch([jar()], say=said)
        assert path.read_bytes() == CONTENT
    assert mirror.asked == ["/org/example/thing/1.0/thing-1.0.jar"]
    assert [entry.name for entry in path.parent.iterdir()] == ["thing-1.0.jar"]


def test_a_damaged_cache_is_repaired(mirror: Mirror) -> None:
    mirror.serve(jar(), (200, CONTENT))
    (path,) = jars.fetch([jar()], say=said)
    path.write_bytes(CONTENT[:-1])
    assert jars.fetch([jar()], say=said)[0].read_bytes() == CONTENT


@pytest.mark.parametrize("bad", [(503, b"busy"), (200, CONTENT[:100], len(CONTENT))], ids=["busy", "cut off"])
def test_a_passing_failure_is_tried_again(mirror: Mirror, bad: tuple[int, bytes]) -> None:
    mirror.serve(jar(), bad, (200, CONTENT))
    assert jars.fetch([jar()], say=said)[0].read_bytes() == CONTENT
    assert len(mirror.asked) == 2


def test_other_bytes_are_refused_and_not_kept(mirror: Mirror, tmp_path: Path) -> None:
    mirror.serve(jar(), (200, b"something else"))
    with pytest.raises(LocalError, match=r"SHA-256.*set RIFFLE_MAVEN_URL"):
        jars.fetch([jar()], say=said)
    assert list((tmp_path / "cache" / "riffle" / "jars").iterdir()) == []


def test_a_mirror_without_the_jar_is_named(mirror: Mirror) -> None:
    with pytest.raises(LocalError, match=r"thing-1.0.jar answered 404: check RIFFLE_MAVEN_URL"):
        jars.fetch([jar()], say=said)
    assert len(mirror.asked) == 1


@pytest.mark.usefixtures("mirror")
def test_no_network_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RIFFLE_MAVEN_URL", "http://127.0.0.1:9")
    with pytest.raises(LocalError, match=r"cannot be fetched from http://127.0.0.1:9 .*check the network"):
        jars.fetch([jar()], say=said)


def test_a_verified_copy_of_maven_saves_the_download(mirror: Mirror, tmp_path: Path) -> None:
    have = tmp_path / "home" / ".m2" / "repository" / jar().path
    have.parent.mkdir(parents=True)
    have.write_bytes(CONTENT)
    assert jars.fetch([jar()], say=said)[0].read_bytes() == CONTENT
    assert mirror.asked == []


def test_a_cache_that_cannot_be_written_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(LocalError, match=r"set XDG_CACHE_HOME to another folder"):
        jars.fetch([jar()], say=said)


def test_the_committed_list_is_complete_and_names_fit_their_coordinates() -> None:
    every = jars.listed("flink") + jars.listed("broker")
    assert {"kafka_2.13-4.2.0.jar", "slf4j-simple-1.7.36.jar", "flink-sql-connector-kafka-5.0.0-2.2.jar"} <= {
        j.name for j in every
    }
    assert len({j.name for j in every}) == len(every) == 47
    for listed in every:
        _, artifact, version = listed.maven.split(":")
        assert listed.name == f"{artifact}-{version}.jar"
        assert len(listed.sha256) == 64
