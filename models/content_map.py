"""Content map: from an item's content vector to where the towers would have it, learnt from the items that have both.

    (content vector, 1) ─ ridge regression ─ (R + 1) of models/towers.py

What a newcomer is found by (models/newcomers.py), before anybody has acted on it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from models.featurise import Floats
from models.vocabulary import Vocabulary

_PENALTIES = (0.1, 1.0, 10.0, 100.0, 1_000.0)
_FOLDS = 5


def fitted(content: Mapping[str, Sequence[float]], vocabulary: Vocabulary, vectors: Floats) -> Floats | None:
    """(F + 1, R + 1). `content` by item id, of one width F; `vectors` (N, R + 1). None where no known item has content.

    The penalty is the one that predicts items left out best. Raises ValueError where content vectors differ in width.
    """
    known = [(vocabulary.row(item_id), vector) for item_id, vector in content.items()]
    known = [(row, vector) for row, vector in known if vocabulary.is_item(row)]
    if not known:
        return None
    widths = sorted({len(vector) for _, vector in known})
    if len(widths) > 1:
        raise ValueError(f"content vectors are {widths[0]} and {widths[-1]} wide: give all items vectors of one width")
    x = np.array([[*vector, 1.0] for _, vector in known])
    y = vectors[[row for row, _ in known]].astype(np.float64)
    fold = np.arange(len(x)) % _FOLDS

    def missed(penalty: float) -> float:
        return sum(
            float(((x[fold == left] @ _ridge(x[fold != left], y[fold != left], penalty) - y[fold == left]) ** 2).sum())
            for left in range(_FOLDS)
        )

    return _ridge(x, y, min(_PENALTIES, key=missed)).astype(np.float32)


def _ridge(x: np.ndarray, y: np.ndarray, penalty: float) -> np.ndarray:
    """The constant is not drawn to 0."""
    shrink = penalty * np.eye(x.shape[1])
    shrink[-1, -1] = 1e-9
    found: np.ndarray = np.linalg.solve(x.T @ x + shrink, x.T @ y)
    return found
