"""Curves of a training run as one picture: the loss by step, and what was found on shoppers held out after each epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

_WINDOW = 50  # steps that a point of the loss is the mean of


def draw(path: Path, losses: Sequence[float], epochs: Sequence[Mapping[str, float]]) -> None:
    """PNG. `epochs` are the rows of metrics.json; needs matplotlib."""
    from matplotlib.figure import Figure

    names = [name for name in epochs[0] if name.startswith("validation_")] if epochs else []
    figure = Figure(figsize=(4 * (1 + len(names)), 3))
    axes = figure.subplots(1, 1 + len(names), squeeze=False)
    window = max(1, min(_WINDOW, len(losses) // 4))
    smooth = np.convolve(losses, np.ones(window) / window, mode="valid") if losses else []
    axes[0, 0].plot(np.arange(len(smooth)) + window, smooth)
    axes[0, 0].set(title="training loss", xlabel="step")
    for axis, name in zip(axes[0, 1:], names):
        axis.plot([row["epoch"] for row in epochs], [row[name] for row in epochs], marker="o")
        axis.set(title=name.removeprefix("validation_").replace("_", " "), xlabel="epoch")
    figure.tight_layout()
    figure.savefig(path)
