"""Checkpoints: a training that was killed goes on where it was, and comes to the figures of one that was not.

weights, optimiser, schedule ─┐
both random generators ───────┼─ checkpoint.pt, replaced as a whole every minute, gone when training is over
epoch, batches done, losses ──┘
"""

from __future__ import annotations

import os
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from models.train import Trainer

NAME = "checkpoint.pt"
EVERY_S = 60.0


class CheckpointError(ValueError):
    """A checkpoint that this training cannot go on from. The message says why, and what to do."""


class Checkpoints:
    """Of one training, in the folder of its run."""

    def __init__(self, run: Path, every_s: float = EVERY_S) -> None:
        self._path, self._every_s, self._kept_s = run / NAME, every_s, time.monotonic()

    def keep(self, trainer: Trainer) -> None:
        """Between two steps: written when the last one is `every_s` old."""
        if time.monotonic() - self._kept_s < self._every_s:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        aside = self._path.with_suffix(".new")
        torch.save(_state(trainer), aside)
        os.replace(aside, self._path)
        self._kept_s = time.monotonic()

    def take_up(self, trainer: Trainer) -> bool:
        """Whether there was one to go on from. Raises CheckpointError for one of other settings or other lists."""
        if not self._path.exists():
            return False
        try:
            found: dict[str, Any] = torch.load(self._path, weights_only=True)
        except Exception as error:  # torch raises whatever its reader and pickle do
            raise CheckpointError(
                f"{self._path} cannot be read ({error}): remove it, and training begins anew."
            ) from error
        asked = _asked(trainer)
        for name, value in asked.items():
            if found["asked"].get(name) != value:
                raise CheckpointError(
                    f"{self._path} is of a training with {name} {found['asked'].get(name)}, this one has {value}: "
                    "give the same settings, or remove it, and training begins anew."
                )
        trainer.model.load_state_dict(found["model"])
        with torch.no_grad():
            trainer.position_bias.copy_(found["position_bias"])
        trainer.optimiser.load_state_dict(found["optimiser"])
        trainer.schedule.load_state_dict(found["schedule"])
        trainer.rng.bit_generator.state = found["rng"]
        torch.set_rng_state(found["torch_rng"])
        trainer.left = found["left"]
        vars(trainer.at).update(found["at"])
        return True

    def done(self) -> None:
        self._path.unlink(missing_ok=True)


def _state(trainer: Trainer) -> dict[str, Any]:
    return {
        "asked": _asked(trainer),
        "model": trainer.model.state_dict(),
        "position_bias": trainer.position_bias.detach(),
        "optimiser": trainer.optimiser.state_dict(),
        "schedule": trainer.schedule.state_dict(),
        "rng": trainer.rng.bit_generator.state,
        "torch_rng": torch.get_rng_state(),
        "left": trainer.left,
        "at": vars(trainer.at),
    }


def _asked(trainer: Trainer) -> dict[str, Any]:
    """What must be the same. The number of threads may change; sums are then rounded otherwise."""
    settings = {name: value for name, value in asdict(trainer.settings).items() if name != "threads"}
    return settings | {"lists": len(trainer.data), "items": trainer.vocabulary.size}
