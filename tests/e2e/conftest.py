"""One stack and one job for all end-to-end tests: each test has users of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cli.cluster import publish_items
from demo.world import load
from local.stack import Ports, Stack
from schemas.topics import TOPICS
from tests.e2e.engine import Engine


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    stack = Stack(tmp_path_factory.mktemp("stack"), Ports.free(), say=lambda _: None)
    try:
        stack.start()
        stack.create_topics(TOPICS)
        running = Engine(stack)
        publish_items(running.where, load().items)
        running.submit()
        running.warm_up()
        yield running
    finally:
        stack.stop()
