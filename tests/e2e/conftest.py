"""One stack and one job for all end-to-end tests: each test has users of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.engine import Engine, personalising


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with personalising(tmp_path_factory.mktemp("stack")) as running:
        yield running
