"""Settings shared by all tests."""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

# The machine is shared and slow at times: a deadline per example would measure its neighbours. Derandomised, so that a
# red run is red again.
settings.register_profile(
    "riffle", deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("riffle")


@pytest.fixture
def kafka_leftovers(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """For tests in which kafka-python cannot connect and drops sockets: they are collected here, where the warning is expected,
    and not in a later test. A log record would hold on to its error's sockets."""
    caplog.set_level(logging.CRITICAL, "kafka")
    yield
    gc.collect()
