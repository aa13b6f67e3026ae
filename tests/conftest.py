"""Settings shared by all tests."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# The machine is shared and slow at times: a deadline per example would measure its neighbours. Derandomised, so that a
# red run is red again.
settings.register_profile(
    "riffle", deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("riffle")
