"""A tiny bundle with random weights, for tests: 24 items, 8 wide. `python -m models.tiny FOLDER` writes FOLDER/tiny-1."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

from models.assemble import ItemKnowledge
from models.ranker import DualSequenceRanker, RankerConfig
from models.release import release
from models.statistics import CONTENTS, NEIGHBOURS, STATICS
from models.vocabulary import Vocabulary, build_vocabulary
from schemas.items import Item

GROUPS = {"shoes": ("trail", "road"), "food": ("pasta", "bread")}


def tiny_vocabulary() -> Vocabulary:
    return build_vocabulary(
        Item(
            item_id=f"{sub}-{number}",
            title=f"{sub} item {number}",
            category=category,
            subcategory=sub,
            price=5.0 + number,
        )
        for category, subs in GROUPS.items()
        for sub in subs
        for number in range(6)
    )


def tiny_ranker(vocabulary: Vocabulary, seed: int = 1) -> DualSequenceRanker:
    torch.manual_seed(seed)
    data = vocabulary.data
    config = RankerConfig(
        rows=vocabulary.size, subcategories=len(data.subcategories), categories=len(data.categories), contents=len(CONTENTS),
        statics=len(STATICS), dim=8, heads=2, history_layers=1, session_layers=1, gate_hidden=4, head=8,
    )  # fmt: skip
    rows = [torch.from_numpy(rows.astype(np.int64)) for rows in (vocabulary.subcategory_row, vocabulary.category_row)]
    ranker = DualSequenceRanker(config, rows[0], rows[1], torch.randn(vocabulary.size, len(CONTENTS)))
    with torch.no_grad():
        for parameter in ranker.parameters():  # spread out, so that a wrong formula shows
            parameter += 0.3 * torch.randn_like(parameter)
    return ranker


def main(folder: Path) -> Path:
    vocabulary = tiny_vocabulary()
    rng = np.random.Generator(np.random.PCG64(1))
    size = vocabulary.size
    neighbours = np.zeros((size, NEIGHBOURS), dtype=np.int32)
    items = np.arange(vocabulary.first_item, size)
    for row in items:
        neighbours[row, : len(items) - 1] = rng.permutation(items[items != row])
    knowledge = ItemKnowledge(rng.standard_normal((size, len(STATICS))), rng.random(size), rng.random(size), neighbours)
    return release(
        folder, "tiny-1", tiny_ranker(vocabulary), vocabulary, knowledge,
        surfaces=["<unknown>", "home"], metrics={}, training={"command": "python -m models.tiny"},
    )  # fmt: skip


if __name__ == "__main__":
    print(main(Path(sys.argv[1])))
