"""Metrics of experiments: what one unit did in one arm, and how metrics are made of it."""

from __future__ import annotations

import msgspec


class Counted(msgspec.Struct, frozen=True, kw_only=True):
    """What is counted of an arm. By keyword, so that in state, where fields are an array, they follow what names the arm."""

    exposures: int = 0
    clicks: int = 0
    carts: int = 0
    purchases: int = 0
    revenue: float = 0.0
    sessions: int = 0
    lists: int = 0
    latency_ms: float = 0.0  # summed over lists


COUNTED = Counted.__struct_fields__


class CountedOfUnit(Counted, frozen=True, kw_only=True):
    """And what only makes sense of one unit."""

    wins: int = 0  # drafted lists of which more of this arm's items were clicked than of the other's


class UnitMetrics(CountedOfUnit, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """What one unit did in one arm of one experiment, on one day and surface; or in all, as one record.

    `before` is its clicks per exposure before the start: what CUPED takes out. A unit may have several records for the same: as an
    anonymous session and as the account that this opened. They add up.
    """

    experiment: str
    arm: str
    unit: str
    day: int = 0  # a number that counts days, from the start or from 1970
    surface: str = ""
    segment: str = ""  # the device of the unit's newest event
    before: float = 0.0
    crossed: bool = False
    bot: bool = False


class ArmMetrics(Counted, frozen=True, kw_only=True, omit_defaults=True):
    """An arm's totals over all its units on one surface and segment, since the job has its state; and the metrics made of them.

    For dashboards: a decision needs the spread between units, which `riffle experiments report` takes from UnitMetrics.
    """

    experiment: str
    arm: str
    surface: str
    segment: str
    state_epoch: int
    update_no: int
    metrics: dict[str, float] = {}  # by the names of RATIOS; absent where nothing was counted yet


# Metric -> value and weight, of a unit; the metric is their ratio over all units.
RATIOS = {
    "ctr": ("clicks", "exposures"),
    "cart_rate": ("carts", "exposures"),
    "conversion_rate": ("purchases", "sessions"),
    "revenue_per_session": ("revenue", "sessions"),
    "session_depth": ("exposures", "sessions"),
    "latency_ms": ("latency_ms", "lists"),
}
LOWER_IS_BETTER = frozenset({"latency_ms"})


def unit_key(one: UnitMetrics, key: str) -> bytes:
    """Of a record on `experiment-units`: the newest of a key holds its totals. The user's key comes last: it may hold a bar."""
    return f"{one.experiment}|{one.arm}|{one.day}|{one.surface}|{one.segment}|{key}".encode()


encode_arm = msgspec.json.Encoder().encode
decode_arm = msgspec.json.Decoder(ArmMetrics).decode
encode_unit = msgspec.json.Encoder().encode
decode_unit = msgspec.json.Decoder(UnitMetrics).decode
