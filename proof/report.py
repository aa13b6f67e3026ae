"""The report on an experiment: from per-unit metrics to what may be concluded.

    units ─ bots and crossovers left out ─ sums per arm ─ sample ratio right? ─┬─ effects per metric, Holm
                                                                              ├─ guardrails, arms to drop, novelty
                                                                              └─ a sentence

One record per unit, arm and day; all times are valid for a decision, since the intervals hold at every look.
"""

from __future__ import annotations

from collections.abc import Iterable
from statistics import NormalDist
from typing import NamedTuple

import msgspec
import numpy as np

from proof.statistics import (
    ALPHA,
    SRM_ALPHA,
    Effect,
    Floats,
    Sums,
    effect,
    eliminated,
    holm,
    mean_and_variance,
    sample_ratio_p,
    sums,
)
from schemas.experiment_metrics import LOWER_IS_BETTER, RATIOS, UnitMetrics
from schemas.experiments import Experiment


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One metric of one arm against the control. `effect` is None as long as too little is known."""

    arm: str
    metric: str
    effect: Effect | None
    adjusted_p: float | None = None  # Holm over all metrics and arms but the primary
    guardrail: str | None = None  # kept, open or broken


class Day(msgspec.Struct, frozen=True, kw_only=True):
    """The primary metric's difference on one day, and its usual 95 % interval: to see it wear off, not to decide."""

    arm: str
    day: int
    difference: float
    low: float
    high: float


class Report(msgspec.Struct, frozen=True, kw_only=True):
    experiment: str
    primary: str
    units: dict[str, int]
    left_out: dict[str, int]
    values: dict[str, dict[str, float]]  # metric -> arm -> value
    sample_ratio_p: float
    rows: list[Row]
    dropped: dict[str, str]  # arm -> the one that is better for certain
    days: list[Day]
    novelty: dict[str, float]  # arm -> p of the first half's effect being that of the second
    conclusion: list[str]


class _Table(NamedTuple):
    """Columns over the units of one arm."""

    columns: dict[str, Floats]

    def sums(self, metric: str, cuped: bool) -> Sums:
        value, weight = RATIOS[metric]
        return sums(self.columns[value], self.columns[weight], self.columns["before"] if cuped else None)


def report(of: Experiment, records: Iterable[UnitMetrics]) -> Report:
    """On records of this experiment; others are passed over."""
    ours = [one for one in records if one.experiment == of.name]
    names = [arm.name for arm in of.arms]
    excluded = {
        "bot": {one.unit for one in ours if one.bot},
        "crossed": {one.unit for one in ours if one.crossed},
        "in two arms": _in_two_arms(ours),
    }
    out: set[str] = set().union(*excluded.values())
    kept = [one for one in ours if one.unit not in out and one.arm in names]
    by_arm = {name: _table([one for one in kept if one.arm == name]) for name in names}
    units = {name: len(table.columns["exposures"]) for name, table in by_arm.items()}
    ratio_p = sample_ratio_p(list(units.values()), [arm.weight for arm in of.arms]) if sum(units.values()) else 1.0
    metrics = [name for name, (_, weight) in RATIOS.items() if any(by_arm[arm].columns[weight].sum() for arm in names)]
    metrics = [of.primary, *(one for one in metrics if one != of.primary)]
    rows = _adjusted(_rows(of, by_arm, metrics), of.primary)
    days = _days(of, kept)
    found = Report(
        experiment=of.name,
        primary=of.primary,
        units=units,
        left_out={why: len(which) for why, which in excluded.items() if which},
        values={
            metric: {arm: mean_and_variance(by_arm[arm].sums(metric, False))[0] for arm in names if units[arm] > 1}
            for metric in metrics
        },
        sample_ratio_p=ratio_p,
        rows=rows,
        dropped=eliminated(
            {arm: table.sums(of.primary, True) for arm, table in by_arm.items()},
            higher_is_better=of.primary not in LOWER_IS_BETTER,
        ),
        days=days,
        novelty=_novelty(of, kept),
        conclusion=[],
    )
    return msgspec.structs.replace(found, conclusion=_conclusion(of, found))


def _in_two_arms(records: list[UnitMetrics]) -> set[str]:
    arms: dict[str, str] = {}
    return {one.unit for one in records if arms.setdefault(one.unit, one.arm) != one.arm}


def _table(records: list[UnitMetrics]) -> _Table:
    place: dict[str, int] = {}
    at = np.array([place.setdefault(one.unit, len(place)) for one in records], dtype=np.int64)
    names = {name for pair in RATIOS.values() for name in pair}
    columns = {
        name: np.bincount(at, weights=[getattr(one, name) for one in records], minlength=len(place)).astype(np.float64)
        for name in names
    }
    before = np.zeros(len(place))
    for row, one in zip(at, records):
        before[row] = one.before  # the same on all days
    return _Table({**columns, "before": before})


def _rows(of: Experiment, by_arm: dict[str, _Table], metrics: list[str]) -> list[Row]:
    control, *others = (arm.name for arm in of.arms)
    worst = {one.metric: one.worst for one in of.guardrails}
    rows = []
    for arm in others:
        for metric in metrics:
            # `before` is of clicks: of another metric it is only noise that CUPED would have to estimate away.
            cuped = metric == "ctr"
            found = effect(by_arm[control].sums(metric, cuped), by_arm[arm].sums(metric, cuped), of.planned_units)
            guardrail = _guardrail(metric, found, worst[metric]) if metric in worst else None
            rows.append(Row(arm=arm, metric=metric, effect=found, guardrail=guardrail))
    return rows


def _guardrail(metric: str, found: Effect | None, worst: float) -> str:
    relative = found.relative if found is not None else None
    if relative is None:
        return "open"
    _, low, high = relative
    if metric in LOWER_IS_BETTER:
        low, high = -high, -low
    return "broken" if high < -worst else "kept" if low > -worst else "open"


def _adjusted(rows: list[Row], primary: str) -> list[Row]:
    p = {f"{row.arm}|{row.metric}": row.effect.p for row in rows if row.effect is not None and row.metric != primary}
    adjusted = holm(p)
    first = holm({row.arm: row.effect.p for row in rows if row.effect is not None and row.metric == primary})
    return [
        msgspec.structs.replace(
            row, adjusted_p=first.get(row.arm) if row.metric == primary else adjusted.get(f"{row.arm}|{row.metric}")
        )
        for row in rows
    ]


def _days(of: Experiment, records: list[UnitMetrics]) -> list[Day]:
    control, *others = (arm.name for arm in of.arms)
    found = []
    first = min((one.day for one in records), default=0)
    for day in sorted({one.day for one in records}):
        sides = {
            arm: _table([one for one in records if one.day == day and one.arm == arm]).sums(of.primary, False)
            for arm in (control, *others)
        }
        for arm in others:
            one = effect(sides[control], sides[arm], of.planned_units, adjust=False)
            if one is not None:
                found.append(
                    Day(arm=arm, day=day - first, difference=one.difference, low=one.fixed_low, high=one.fixed_high)
                )
    return found


def _novelty(of: Experiment, records: list[UnitMetrics]) -> dict[str, float]:
    """Per arm the p-value of a usual z-test: is the effect of the first half of the days that of the second?"""
    days = sorted({one.day for one in records})
    if len(days) < 4:
        return {}
    middle = days[len(days) // 2]
    control, *others = (arm.name for arm in of.arms)
    found = {}
    for arm in others:
        halves = []
        for early in (True, False):
            part = [one for one in records if (one.day < middle) is early]
            sides = [
                _table([one for one in part if one.arm == name]).sums(of.primary, False) for name in (control, arm)
            ]
            (a, va), (b, vb) = (mean_and_variance(side) for side in sides)
            halves.append((b - a, va + vb))
        (first, v1), (second, v2) = halves
        if 0 < v1 + v2 < float("inf"):
            z = abs(first - second) / (v1 + v2) ** 0.5
            found[arm] = 2 * (1 - NormalDist().cdf(z))
    return found


def _conclusion(of: Experiment, found: Report) -> list[str]:
    said = []
    if found.sample_ratio_p < SRM_ALPHA:
        shares = ", ".join(f"{arm.name} {found.units[arm.name]:,} (planned {arm.weight:.0%})" for arm in of.arms)
        said.append(
            f"Do not read the effects: the arms have {shares}, and chance does not do that (p = {found.sample_ratio_p:.1e}). "
            "Look for what loses or doubles units of one arm."
        )
    for row in found.rows:
        if row.metric == of.primary:
            said.append(_of_primary(row))
        if row.guardrail == "broken":
            said.append(f"{row.arm} breaks the guardrail {row.metric}: end it.")
        elif row.guardrail == "open":
            said.append(f"{row.arm}: the guardrail {row.metric} is still open.")
    for arm, better in found.dropped.items():
        said.append(f"{arm} can be dropped: {better} is better for certain.")
    for arm, p in found.novelty.items():
        if p < ALPHA:
            said.append(
                f"{arm}: the effect of the first days is not that of the last ones (p = {p:.3f}); wait until it settles."
            )
    return said


def _of_primary(row: Row) -> str:
    if row.effect is None:
        return f"{row.arm}: too few units for an interval of {row.metric}."
    effect, p = row.effect, row.adjusted_p if row.adjusted_p is not None else row.effect.p
    better = (effect.difference > 0) is (row.metric not in LOWER_IS_BETTER)
    verdict = ("better" if better else "worse") if p <= ALPHA else "not decided"
    return (
        f"{row.arm} is {verdict} on {row.metric}: difference {effect.difference:+.5g}, "
        f"between {effect.low:+.5g} and {effect.high:+.5g} at all times (p = {p:.3g})."
    )
