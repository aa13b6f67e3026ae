"""Nearest: the items whose vectors have the largest inner product with a user's. The only file that imports faiss.

    up to FLAT_AT_MOST items   one product with all vectors
    beyond                     faiss IVF: the vectors in lists around centroids, of which the nearest are searched

An IVF index is made once, with the towers (models/distil.py), and lies in the bundle: index.faiss. One thread: the caller
decides how many requests run side by side.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from models.bundle import Bundle, BundleError
from models.featurise import Floats
from models.vocabulary import Rows

FLAT_AT_MOST = 50_000
PROBES = 40  # lists searched; recall@1,000 is above .95 with it: docs/benchmarks.md
_PER_LIST = 64  # vectors that each centroid is learnt from


def _faiss() -> Any:
    """Imported where a bundle has an index: a worker with a small catalogue does without it."""
    import faiss

    faiss.omp_set_num_threads(1)
    return faiss


class Nearest(Protocol):
    """Items by row."""

    def search(self, query: Floats, count: int) -> Rows:
        """(at most count,) rows, in any order."""


def open_nearest(bundle: Bundle, vectors: Floats) -> Nearest:
    """By what the bundle holds. `vectors` (N, W) of all rows; those before the first item are never found."""
    if bundle.index:
        return Ivf(bundle.index, bundle.vocabulary.first_item, len(vectors))
    return Flat(vectors, bundle.vocabulary.first_item)


class Flat:
    """Exact."""

    def __init__(self, vectors: Floats, first: int) -> None:
        self._vectors, self._first = np.ascontiguousarray(vectors[first:]), first

    def search(self, query: Floats, count: int) -> Rows:
        scores = self._vectors @ query
        if count < len(scores):
            return (np.argpartition(scores, len(scores) - count - 1)[len(scores) - count :] + self._first).astype(
                np.int32
            )
        return np.arange(self._first, self._first + len(scores), dtype=np.int32)


class Ivf:
    """Approximate: docs/benchmarks.md says how close. Raises BundleError where it is not of this bundle."""

    def __init__(self, index: bytes, first: int, size: int) -> None:
        faiss = _faiss()
        try:
            self._index = faiss.deserialize_index(np.frombuffer(index, np.uint8))
        except RuntimeError as error:
            raise BundleError(f"the index of the bundle cannot be read: {error}") from error
        if self._index.ntotal != size - first:
            raise BundleError(
                f"the index of the bundle holds {self._index.ntotal} vectors; the vocabulary has {size - first} items"
            )
        self._index.nprobe, self._first = PROBES, first

    def search(self, query: Floats, count: int) -> Rows:
        if not count:  # which faiss refuses
            return np.zeros(0, np.int32)
        _, found = self._index.search(query[None], count)
        places = found[0]
        return (places[places >= 0] + self._first).astype(np.int32)


def made_index(vectors: Floats) -> bytes:
    """An IVF index of items' vectors (n, W), as bytes. Some seconds per 100,000."""
    faiss = _faiss()
    lists = int(2 * np.sqrt(len(vectors)))
    quantizer = faiss.IndexFlatIP(vectors.shape[1])
    index = faiss.IndexIVFFlat(quantizer, vectors.shape[1], lists, faiss.METRIC_INNER_PRODUCT)
    index.cp.niter, index.cp.max_points_per_centroid = 10, _PER_LIST
    index.train(vectors)
    index.add(vectors)
    return bytes(faiss.serialize_index(index))


def top(scores: Floats, count: int) -> Rows:
    """Places of the highest scores, best first; equal ones in order of place."""
    if count >= len(scores):
        return np.argsort(-scores, kind="stable").astype(np.int32)
    some = np.argpartition(-scores, count)[:count]
    some.sort()
    found: Rows = some[np.argsort(-scores[some], kind="stable")].astype(np.int32)
    return found
