"""Content map: where an item belongs that nobody has acted on, told by its content vector."""

from __future__ import annotations

import numpy as np
import pytest

from models import content_map
from models.vocabulary import build_vocabulary
from schemas.items import Item


def test_a_content_map_finds_items_that_it_was_not_fitted_on() -> None:
    """Contract: nearer to where they are than their group; what groups differ in is not asked of the map."""
    rng = np.random.Generator(np.random.PCG64(1))
    items = [Item(item_id=f"i{n}", subcategory=f"s{n % 20}") for n in range(400)]
    vocabulary = build_vocabulary(items)
    group, x = np.arange(400) % 20, rng.standard_normal((400, 6))
    vectors = np.zeros((vocabulary.size, 9), np.float32)
    vectors[vocabulary.first_item :] = (
        x @ rng.standard_normal((6, 9)) + 9 * rng.standard_normal((20, 9))[group] + 0.3 * rng.standard_normal((400, 9))
    )
    vocabulary.speak_for_groups(vectors)
    content = 5 * rng.standard_normal((20, 6))[group] + x
    found = content_map.fitted({f"i{n}": content[n].tolist() for n in range(300)}, vocabulary, vectors)
    assert found is not None and found.weights.shape == (6, 9)
    rows = vocabulary.rows([f"i{n}" for n in range(300, 400)])
    by_group = vectors[vocabulary.group_row[rows]]
    mapped = by_group + (content[300:] - found.means[vocabulary.group_row[rows]]) @ found.weights
    missed, missed_by_group = (((one - vectors[rows]) ** 2).mean() for one in (mapped, by_group))
    assert missed < 0.2 * missed_by_group


def test_content_that_says_nothing_moves_nothing() -> None:
    rng = np.random.Generator(np.random.PCG64(2))
    vocabulary = build_vocabulary([Item(item_id=f"i{n}", subcategory=f"s{n % 4}") for n in range(200)])
    vectors = rng.standard_normal((vocabulary.size, 5)).astype(np.float32)
    vocabulary.speak_for_groups(vectors)
    found = content_map.fitted({f"i{n}": rng.standard_normal(6).tolist() for n in range(200)}, vocabulary, vectors)
    assert found is not None and np.abs(found.weights).max() < 0.1


def test_without_content_there_is_no_map() -> None:
    vocabulary = build_vocabulary([Item(item_id="trail-0"), Item(item_id="trail-1")])
    vectors = np.zeros((vocabulary.size, 3), np.float32)
    assert content_map.fitted({}, vocabulary, vectors) is None
    assert content_map.fitted({"never-seen": [1.0]}, vocabulary, vectors) is None
    with pytest.raises(ValueError, match="1 and 2 wide: give all items vectors of one width"):
        content_map.fitted({"trail-0": [1.0], "trail-1": [1.0, 2.0]}, vocabulary, vectors)
