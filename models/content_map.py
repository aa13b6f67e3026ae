"""Content map: how far from the mean of its group the towers would have an item, told by its content vector.

    (content vector − its group's mean) ─ ridge regression ─ (vector − its group's mean)      (R + 1) of models/towers.py

Learnt from the items that have both. With it a newcomer (models/newcomers.py) is found where its content says, before anybody has
acted on it; where content says nothing, the map is near 0 and the newcomer stays where its group is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from models.featurise import Floats
from models.vocabulary import Vocabulary

_PENALTIES = (1.0, 10.0, 100.0, 1_000.0, 10_000.0)
_FOLDS = 5


class ContentMap(NamedTuple):
    """F wide content, G rows before the first item."""

    weights: Floats  # (F, R + 1)
    means: Floats  # (G, F) of each group's items; of all, where a group has none with content


def fitted(content: Mapping[str, Sequence[float]], vocabulary: Vocabulary, vectors: Floats) -> ContentMap | None:
    """`content` by item id, of one width F; `vectors` (N, R + 1), groups included. None where no known item has content.

    The penalty is the one that predicts items left out best. Raises ValueError where content vectors differ in width.
    """
    known = [(vocabulary.row(item_id), vector) for item_id, vector in content.items()]
    known = [(row, vector) for row, vector in known if vocabulary.is_item(row)]
    if not known:
        return None
    widths = sorted({len(vector) for _, vector in known})
    if len(widths) > 1:
        raise ValueError(f"content vectors are {widths[0]} and {widths[-1]} wide: give all items vectors of one width")
    rows, raw = np.array([row for row, _ in known]), np.array([vector for _, vector in known], np.float64)
    means = np.tile(raw.mean(axis=0), (vocabulary.first_item, 1))
    for groups in (vocabulary.category_row[rows], vocabulary.subcategory_row[rows]):
        for row in np.unique(groups).tolist():
            means[row] = raw[groups == row].mean(axis=0)
    group = vocabulary.group_row[rows]
    x, y = raw - means[group], (vectors[rows] - vectors[group]).astype(np.float64)
    fold = np.arange(len(x)) % _FOLDS

    def missed(penalty: float) -> float:
        return sum(
            float(((x[fold == left] @ _ridge(x[fold != left], y[fold != left], penalty) - y[fold == left]) ** 2).sum())
            for left in range(_FOLDS)
        )

    weights = _ridge(x, y, min(_PENALTIES, key=missed))
    return ContentMap(weights.astype(np.float32), means.astype(np.float32))


def _ridge(x: np.ndarray, y: np.ndarray, penalty: float) -> np.ndarray:
    found: np.ndarray = np.linalg.solve(x.T @ x + penalty * np.eye(x.shape[1]), x.T @ y)
    return found
