"""A comparison as files: report.json for programs, report.md for people, calibration.png and comparison.png.

Every interval and every p draws whole sessions, because the cases of one session are not independent.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.evaluation.outcomes import Comparison, Confidence
from models.evaluation.ranks import bootstrap, paired

_BINS = 10


def summary(found: Comparison) -> dict[str, dict[str, float | int]]:
    """What the command prints as its last line: model -> figures, means over seeds."""
    if found.task == "sessions":
        return {
            name: {"hr@20": _mean(one.cases["hr@20"]), "mrr@20": _mean(one.cases["mrr@20"]), "n": len(found.clusters)}
            for name, one in found.outcomes.items()
        }
    last = found.segments["last of its session"]
    return {
        name: {
            "mrr_all": _mean(one.cases["mrr_all"]), "mrr_last": _mean(one.cases["mrr_all"][last]),
            "n_all": len(last), "n_last": int(last.sum()),
        }
        for name, one in found.outcomes.items()
    }  # fmt: skip


def full(found: Comparison, command: str) -> dict[str, Any]:
    """All figures: intervals, pairs, segments, lists, calibration."""
    models = {}
    for name, one in found.outcomes.items():
        models[name] = {
            "seconds": round(one.seconds, 1),
            "metrics": {
                metric: {
                    "mean": _mean(values),
                    "interval_95": [round(end, 5) for end in bootstrap(values, found.clusters)],
                    "by_seed": [round(value, 5) for value in one.by_seed[metric]],
                }
                for metric, values in one.cases.items()
            },
            "lists": {metric: round(value, 5) for metric, value in one.lists.items()},
            "segments": {
                segment: {"n": int(chosen.sum()), found.main: _mean(one.cases[found.main][chosen])}
                for segment, chosen in found.segments.items()
                if chosen.any()
            },
            "ece": None if one.confidence is None else round(calibration_error(one.confidence), 5),
        }
    names, pairs = list(found.outcomes), []
    for at, first in enumerate(names):
        for second in names[at + 1 :]:
            test = paired(*(found.outcomes[name].cases[found.main] for name in (first, second)), found.clusters)
            pairs.append({
                "models": [first, second], "difference": round(test.difference, 5),
                "interval_95": [round(end, 5) for end in test.interval], "p": round(test.p, 4),
            })  # fmt: skip
    return {
        "task": found.task, "command": command, "cases": len(found.clusters),
        "sessions": len(np.unique(found.clusters)), "notes": found.notes, "main_metric": found.main,
        "models": models, "pairs": pairs,
    }  # fmt: skip


def write(found: Comparison, command: str, folder: Path) -> None:
    """Raises OSError where the folder cannot be written, ModuleNotFoundError without matplotlib."""
    folder.mkdir(parents=True, exist_ok=True)
    all_of_it = full(found, command)
    (folder / "report.json").write_text(json.dumps(all_of_it, indent=2) + "\n")
    _plot_comparison(all_of_it, folder / "comparison.png")
    confidences = {name: one.confidence for name, one in found.outcomes.items() if one.confidence is not None}
    if confidences:
        _plot_calibration(confidences, folder / "calibration.png")
    (folder / "report.md").write_text(markdown(all_of_it, bool(confidences)))


def markdown(report: dict[str, Any], calibrated: bool) -> str:
    models, main = report["models"], report["main_metric"]
    metrics = list(next(iter(models.values()))["metrics"])
    lines = [f"# {report['task']}: {report['cases']} cases of {report['sessions']} sessions", ""]
    lines += [f"    {report['command']}", "", *report["notes"], ""]
    lines += ["Means over seeds; in brackets the 95 % interval of a bootstrap over sessions.", ""]
    rows = [
        [
            name,
            *(f"{one['metrics'][metric]['mean']:.4f}" for metric in metrics),
            _interval(one["metrics"][main]),
            f"{one['seconds']:.0f}",
        ]
        for name, one in models.items()
    ]
    lines += _table(["model", *metrics, f"{main} interval", "seconds"], rows)
    lines += ["", "## Between two models", ""]
    lines += [f"Difference of {main}, case by case; p by flipping the signs of whole sessions.", ""]
    lines += _table(
        ["first", "second", "difference", "95 % interval", "p"],
        [
            [*pair["models"], f"{pair['difference']:+.4f}", _ends(pair["interval_95"]), f"{pair['p']:.3f}"]
            for pair in report["pairs"]
        ],
    )
    lines += ["", f"## {main} by segment", ""]
    segments = next(iter(models.values()))["segments"]
    lines += _table(
        ["segment", "cases", *models],
        [
            [name, str(of["n"]), *(f"{one['segments'][name][main]:.4f}" for one in models.values())]
            for name, of in segments.items()
        ],
    )
    listed = {name: one["lists"] for name, one in models.items() if one["lists"]}
    if listed:
        lines += ["", "## What the lists are like", ""]
        lines += [
            "Coverage: share of all items in any list. Novelty: bits. Popularity bias: how many times as popular as the "
            "mean item. Gini: 1 where all lists are the same items. Diversity: 1 less the mean cosine of two items' sessions.",
            "",
        ]
        heads = list(next(iter(listed.values())))
        lines += _table(
            ["model", *heads], [[name, *(f"{of[head]:.4f}" for head in heads)] for name, of in listed.items()]
        )
    if calibrated:
        lines += [
            "",
            "## Calibration",
            "",
            "Expected calibration error of the first place, in ten bins of equal size.",
            "",
        ]
        lines += _table(
            ["model", "ECE"], [[name, f"{one['ece']:.4f}"] for name, one in models.items() if one["ece"] is not None]
        )
        lines += ["", "![calibration](calibration.png)"]
    lines += ["", "![comparison](comparison.png)", ""]
    return "\n".join(lines)


def calibration_error(found: Confidence) -> float:
    """Mean distance of claimed and true shares over bins of equal size (ECE)."""
    return sum(len(claimed) * abs(claimed.mean() - right.mean()) for claimed, right in _bins(found)) / len(
        found.claimed
    )


def _bins(found: Confidence) -> list[tuple[NDArray[np.float64], NDArray[np.bool_]]]:
    order = np.argsort(found.claimed, kind="stable")
    return [(found.claimed[part], found.right[part]) for part in np.array_split(order, _BINS) if len(part)]


def _plot_calibration(found: dict[str, Confidence], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 5), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="#999999", linestyle="--")
    for name, one in found.items():
        bins = _bins(one)
        axes.plot(
            [claimed.mean() for claimed, _ in bins],
            [right.mean() for _, right in bins],
            marker="o",
            label=f"{name}, ECE {calibration_error(one):.3f}",
        )
    axes.set_xlabel("probability that the model claims for its first item")
    axes.set_ylabel("how often it was right")
    axes.legend()
    figure.savefig(path, dpi=120)


def _plot_comparison(report: dict[str, Any], path: Path) -> None:
    from matplotlib.figure import Figure

    main = report["main_metric"]
    names = list(report["models"])[::-1]
    found = [report["models"][name]["metrics"][main] for name in names]
    figure = Figure(figsize=(7, 1 + 0.4 * len(names)), layout="constrained")
    axes = figure.subplots()
    means = np.array([one["mean"] for one in found])
    ends = np.array([one["interval_95"] for one in found])
    axes.barh(names, means, color="#2a9d8f", xerr=np.abs(ends.T - means), capsize=3)
    axes.set_xlabel(f"{main}, with 95 % intervals")
    figure.savefig(path, dpi=120)


def _table(heads: list[str], rows: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (heads, ["---"] * len(heads), *rows)]


def _interval(metric: dict[str, Any]) -> str:
    return _ends(metric["interval_95"])


def _ends(interval: list[float]) -> str:
    return f"[{interval[0]:.4f}, {interval[1]:.4f}]"


def _mean(values: NDArray[np.float64]) -> float:
    return round(float(values.mean()), 5)
