"""Release: a trained ranker to a checked bundle on disk."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import msgspec

from models.assemble import ItemKnowledge, dual_sequence_files, manifest
from models.bundle import DUAL_SEQUENCE, Bundle, write_bundle
from models.check import check
from models.export import history_graph, scorer_graph, stored_config, stored_items, stored_weights
from models.ranker import TASKS, DualSequenceRanker
from models.vocabulary import Vocabulary

TASK_WEIGHTS = {"click": 1.0, "cart": 0.0, "purchase": 0.0, "next": 1.0}
# Chosen by the demo shop's CTR on shoppers 400,000 and up, who are in neither training nor evaluation: docs/model.md.
POPULARITY_WEIGHT = 0.45


def release(
    folder: Path,
    version: str,
    ranker: DualSequenceRanker,
    vocabulary: Vocabulary,
    knowledge: ItemKnowledge,
    *,
    surfaces: list[str],
    metrics: dict[str, Any],
    training: dict[str, Any],
    samples: int = 1_000,
    task_weights: dict[str, float] = TASK_WEIGHTS,
    popularity_weight: float = POPULARITY_WEIGHT,
) -> Path:
    """Write `folder`/`version` once the graphs agree with torch. A bundle that fails the check never reaches the folder."""
    ranker.eval()
    files = dual_sequence_files(
        vocabulary, knowledge, stored_items(ranker), stored_weights(ranker), history_graph(ranker), scorer_graph(ranker)
    )
    described = manifest(
        version,
        DUAL_SEQUENCE,
        surfaces=surfaces,
        tasks=list(TASKS),
        task_weights=task_weights,
        popularity_weight=popularity_weight,
        config=stored_config(ranker),
        metrics=metrics,
        training=training,
    )
    with tempfile.TemporaryDirectory() as scratch:
        trial = Path(scratch) / version
        write_bundle(trial, described, files)
        difference = check(Bundle.load(trial), ranker, samples)
    described = msgspec.structs.replace(described, metrics=metrics | {"torch_onnx_difference": difference})
    write_bundle(folder / version, described, files)
    return folder / version
