"""The naive export of a bundle, to measure against: one graph that re-encodes both sequences and projects every candidate.

python -m models.naive models/bundles/VERSION /tmp/naive.onnx     needs torch
python -m models.measure models/bundles/VERSION --naive /tmp/naive.onnx
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from models.bundle import Bundle
from models.export import naive_graph
from models.ranker import DualSequenceRanker, RankerConfig


def ranker_of(bundle: Bundle) -> DualSequenceRanker:
    """The torch model of a bundle; its item vectors are the bundle's `embedding`, not those of its own tables."""
    config = RankerConfig(**bundle.manifest.config)
    rows = torch.zeros(config.rows, dtype=torch.int64)
    ranker = DualSequenceRanker(config, rows, rows, torch.zeros(config.rows, config.contents))
    ranker.load_state_dict({name: torch.from_numpy(weight) for name, weight in bundle.weights.items()}, strict=False)
    return ranker.eval()


def main(folder: Path, out: Path) -> None:
    bundle = Bundle.load(folder)
    out.write_bytes(
        naive_graph(ranker_of(bundle), torch.from_numpy(bundle.embedding), torch.from_numpy(bundle.statics))
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
