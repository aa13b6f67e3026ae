"""The report on an interleaved experiment: which of two rankers people's clicks prefer.

    units ─ bots and crossovers left out ─ lists won, by team ─ whom each unit prefers ─ always-valid p ─ a sentence

A person's lists are alike, and so are not tests of their own: a unit counts once, for the ranker that won more of its lists. Holds
at every look, as the intervals of proof.report do.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from proof.statistics import ALPHA, interleaving_p, preference_interval
from schemas.experiment_metrics import UnitMetrics
from schemas.experiments import Experiment


class Interleaved(msgspec.Struct, frozen=True, kw_only=True):
    """By arm, the control first. `share` is the challenger's of the units that prefer one."""

    experiment: str
    units: dict[str, int]  # who won more of the unit's lists
    tied: int  # units that were shown drafted lists, and prefer neither
    lists: int  # drafted
    lists_won: dict[str, int]
    clicks: dict[str, int]
    left_out: dict[str, int]
    share: float | None
    low: float
    high: float
    p: float
    conclusion: list[str]


def report_interleaved(of: Experiment, records: Iterable[UnitMetrics]) -> Interleaved:
    """On records of this experiment; others are passed over."""
    control, challenger = (arm.name for arm in of.arms)
    ours = [one for one in records if one.experiment == of.name and one.arm in (control, challenger)]
    excluded = {"bot": {one.unit for one in ours if one.bot}, "crossed": {one.unit for one in ours if one.crossed}}
    out: set[str] = set().union(*excluded.values())
    kept = [one for one in ours if one.unit not in out]
    lead: dict[str, int] = {}
    for one in kept:
        lead[one.unit] = lead.get(one.unit, 0) + (one.wins if one.arm == challenger else -one.wins)
    losses, wins = (sum(1 for value in lead.values() if value * sign > 0) for sign in (-1, 1))
    low, high = preference_interval(wins, losses)
    found = Interleaved(
        experiment=of.name,
        units={control: losses, challenger: wins},
        tied=len(lead) - wins - losses,
        lists=sum(one.lists for one in kept if one.arm == control),
        lists_won={arm: sum(one.wins for one in kept if one.arm == arm) for arm in (control, challenger)},
        clicks={arm: sum(one.clicks for one in kept if one.arm == arm) for arm in (control, challenger)},
        left_out={why: len(which) for why, which in excluded.items() if which},
        share=wins / (wins + losses) if wins + losses else None,
        low=low,
        high=high,
        p=interleaving_p(wins, losses),
        conclusion=[],
    )
    return msgspec.structs.replace(found, conclusion=[_conclusion(found, challenger)])


def _conclusion(found: Interleaved, challenger: str) -> str:
    if found.share is None:
        return f"{challenger}: nobody's clicks prefer a ranker yet."
    verdict = "not decided" if found.p > ALPHA else "preferred" if found.share > 0.5 else "not preferred"
    return (
        f"{challenger} is {verdict}: {found.share:.1%} of those whose clicks prefer one, "
        f"between {found.low:.1%} and {found.high:.1%} at all times (p = {found.p:.3g})."
    )


def markdown_interleaved(of: Interleaved) -> str:
    """One page."""
    left_out = ", ".join(f"{count} {why}" for why, count in of.left_out.items()) or "none"
    lines = [f"# {of.experiment}", "", *(f"- {sentence}" for sentence in of.conclusion), ""]
    lines += ["| Arm | Units that prefer it | Lists won | Clicks |", "|---|---|---|---|"]
    lines += [f"| {arm} | {of.units[arm]:,} | {of.lists_won[arm]:,} | {of.clicks[arm]:,} |" for arm in of.units]
    lines += ["", f"Units without a preference: {of.tied:,}. Drafted lists: {of.lists:,}. Left out: {left_out}.", ""]
    return "\n".join(lines)
