"""Assemble: statistics and a trained ranker as the files of a bundle. No torch here: weights come as arrays.

popularity_files      vocabulary, popularity, retrieval tables: what every bundle has
dual_sequence_files   those, and item vectors, weights and graphs
variant               another version of a bundle with slightly different vectors: for hot-swap tests
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from models.bundle import (
    FORMAT,
    HISTORY_GRAPH,
    ITEMS,
    MANIFEST,
    POPULARITY,
    RETRIEVAL,
    SCORER_GRAPH,
    VOCABULARY,
    WEIGHTS,
    Bundle,
    Manifest,
    packed,
    read_manifest,
    write_bundle,
)
from models.featurise import FEATURE_VERSIONS, Tastes
from models.vocabulary import Vocabulary, encode_vocabulary

Array = npt.NDArray[Any]
POPULAR_KEPT = 400
POPULAR_IN_GROUP_KEPT = 100
LICENCE = "Apache-2.0"


@dataclass(frozen=True, eq=False)
class ItemKnowledge:
    """What was counted: inputs of the head (N, F), popularity (N,), quality within a group (N,), neighbours (N, K); tastes."""

    statics: Array
    popularity: Array
    quality: Array
    neighbours: Array
    tastes: Tastes | None = None


def manifest(version: str, ranker: str, **more: Any) -> Manifest:
    return Manifest(
        format=FORMAT,
        version=version,
        ranker=ranker,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        licence=LICENCE,
        files={},
        feature_versions=FEATURE_VERSIONS,
        **more,
    )


def popularity_files(
    vocabulary: Vocabulary, knowledge: ItemKnowledge, embedding: Array | None = None
) -> dict[str, bytes]:
    items = np.arange(vocabulary.first_item, vocabulary.size)
    by_popularity = items[np.argsort(-knowledge.popularity[items], kind="stable")]
    by_quality = items[np.argsort(-knowledge.quality[items], kind="stable")]
    in_group = np.zeros((vocabulary.first_item, POPULAR_IN_GROUP_KEPT), dtype=np.int32)
    for row in range(2, vocabulary.first_item):
        of = vocabulary.subcategory_row if row >= vocabulary.first_subcategory else vocabulary.category_row
        best = by_quality[of[by_quality] == row][:POPULAR_IN_GROUP_KEPT]
        in_group[row, : len(best)] = best
    tastes = {} if knowledge.tastes is None else knowledge.tastes._asdict()
    narrow = np.uint16 if vocabulary.size <= 1 << 16 else np.int32
    return {
        VOCABULARY: encode_vocabulary(vocabulary),
        ITEMS: packed(
            embedding=np.zeros((vocabulary.size, 0), np.float16) if embedding is None else embedding.astype(np.float16),
            statics=knowledge.statics.astype(np.float32),
            popularity=knowledge.popularity.astype(np.float32),
            **{f"taste_{name}": np.asarray(column, np.float32) for name, column in tastes.items()},
        ),
        RETRIEVAL: packed(
            neighbours=knowledge.neighbours.astype(narrow),
            popular=by_popularity[:POPULAR_KEPT].astype(narrow),
            popular_in_group=in_group.astype(narrow),
        ),
    }


def dual_sequence_files(
    vocabulary: Vocabulary,
    knowledge: ItemKnowledge,
    embedding: Array,
    weights: Mapping[str, Array],
    history_graph: bytes,
    scorer_graph: bytes,
) -> dict[str, bytes]:
    files = popularity_files(vocabulary, knowledge, embedding)
    return files | {WEIGHTS: packed(**weights), HISTORY_GRAPH: history_graph, SCORER_GRAPH: scorer_graph}


def popularity_of(bundle: Bundle, folder: Path, version: str) -> Path:
    """The popularity baseline of a bundle, as a bundle of its own."""
    files = {name: (bundle.path / name).read_bytes() for name in (VOCABULARY, RETRIEVAL)}
    width = np.zeros((bundle.vocabulary.size, 0), np.float16)
    files[ITEMS] = packed(embedding=width, statics=bundle.statics, popularity=bundle.popularity)
    write_bundle(folder / version, manifest(version, POPULARITY, surfaces=bundle.manifest.surfaces), files)
    return folder / version


def variant(source: Path, folder: Path, version: str, seed: int = 1) -> Path:
    """A copy of the bundle at `source` under another version, with item vectors moved at random: it ranks differently."""
    original = read_manifest(source)
    files = {name: (source / name).read_bytes() for name in original.files if name != MANIFEST}
    bundle = Bundle.load(source)
    noise = np.random.Generator(np.random.PCG64(seed)).standard_normal(bundle.embedding.shape)
    moved = bundle.embedding + 0.5 * bundle.embedding.std() * noise if bundle.embedding.size else bundle.embedding
    tastes = {} if bundle.tastes is None else bundle.tastes._asdict()
    files[ITEMS] = packed(
        embedding=moved.astype(np.float16),
        statics=bundle.statics,
        popularity=bundle.popularity[::-1].copy(),
        **{f"taste_{name}": column for name, column in tastes.items()},
    )
    write_bundle(folder / version, msgspec.structs.replace(original, version=version), files)
    return folder / version
