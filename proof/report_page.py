"""A report on an experiment as Markdown, and as a plot."""

from __future__ import annotations

from pathlib import Path

from proof.report import Report, Row


def markdown(of: Report, plot: str | None = None) -> str:
    """One page; `plot` is the image's name beside it."""
    lines = [f"# {of.experiment}", "", *(f"- {sentence}" for sentence in of.conclusion), ""]
    arms = ", ".join(f"{arm} {units:,}" for arm, units in of.units.items())
    left_out = ", ".join(f"{count} {why}" for why, count in of.left_out.items()) or "none"
    lines += [f"Units: {arms}. Left out: {left_out}. Sample ratio: p = {of.sample_ratio_p:.3g}.", ""]
    lines += [
        "| Metric | Arm | Control | Arm's | Difference | At all times between | Relative | p (Holm) | Guardrail |",
        "|---|---|---|---|---|---|---|---|---|",
        *(_line(row, of.primary) for row in of.rows),
        "",
    ]
    if plot is not None:
        lines += [f"![Differences with their intervals, and the primary metric by day]({plot})", ""]
    return "\n".join(lines)


def _line(row: Row, primary: str) -> str:
    name = f"**{row.metric}**" if row.metric == primary else row.metric
    one = row.effect
    if one is None:
        return f"| {name} | {row.arm} | – | – | too few units | – | – | – | {row.guardrail or ''} |"
    relative = one.relative
    part = f"{relative[0]:+.2%} ({relative[1]:+.2%} to {relative[2]:+.2%})" if relative else "–"
    p = "–" if row.adjusted_p is None else f"{row.adjusted_p:.3g}"
    return (
        f"| {name} | {row.arm} | {one.control:.5g} | {one.value:.5g} | {one.difference:+.5g} | "
        f"{one.low:+.5g} to {one.high:+.5g} | {part} | {p} | {row.guardrail or ''} |"
    )


def plot(of: Report, path: Path) -> None:
    """A PNG: relative differences with their intervals on the left, the primary metric's difference by day on the right."""
    from matplotlib.figure import Figure  # slow to import, and an extra: only who draws needs it

    figure = Figure(figsize=(11, 1.8 + 0.35 * len(of.rows)), layout="constrained")
    left, right = figure.subplots(1, 2)
    shown = [
        (row, row.effect.relative) for row in of.rows if row.effect is not None and row.effect.relative is not None
    ]
    for place, (row, relative) in enumerate(shown):
        assert relative is not None
        value, low, high = relative
        colour = "#2a9d8f" if row.metric == of.primary else "#555555"
        left.plot([100 * low, 100 * high], [place, place], color=colour, linewidth=2)
        left.plot([100 * value], [place], "o", color=colour)
    left.axvline(0, color="#bbbbbb", linewidth=1)
    left.set_yticks(range(len(shown)), [f"{row.arm}: {row.metric}" for row, _ in shown])
    left.invert_yaxis()
    left.set_xlabel("difference from the control, % (95 % at all times)")
    for arm in dict.fromkeys(day.arm for day in of.days):
        days = [day for day in of.days if day.arm == arm]
        right.plot([day.day for day in days], [day.difference for day in days], "o-", label=arm)
        right.fill_between([day.day for day in days], [day.low for day in days], [day.high for day in days], alpha=0.15)
    right.axhline(0, color="#bbbbbb", linewidth=1)
    right.set_xlabel("day")
    right.set_ylabel(f"{of.primary}: difference (95 % of the day)")
    if of.days:
        right.legend()
    figure.suptitle(of.experiment)
    figure.savefig(path, dpi=110)
