"""Bundle: a trained model as a folder of files with a manifest that names each by its SHA-256. Immutable by version.

    manifest.json       what this is, what made it, how good it is, checksums
    vocabulary.msgpack  ids, groups and query words by row
    items.npz           embedding (N, D), inputs of the head (N, F), popularity (N,)
    retrieval.npz       neighbours, popular items, popular items of each group
    weights.npz         all other weights by name: for the tables made at load, and for the oracle
    history.onnx        history -> keys and values
    scorer.onnx         session and candidates -> logits
    towers.npz          may be there: recall and pre-ranking distilled from the ranker (models/towers.py)
    index.faiss         may be there: the towers' vectors of a large catalogue, to be searched (models/nearest.py)

A bundle that was only counted (`popularity`, `covisitation`, `last_interacted`) has the first four files, with an embedding of
width 0; other baselines have their own besides (models/baseline_scorers.py).
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from models.featurise import FEATURE_VERSIONS
from models.vocabulary import Vocabulary, decode_vocabulary

FORMAT = 1
MANIFEST, LATEST = "manifest.json", "LATEST"
VOCABULARY, ITEMS, RETRIEVAL, WEIGHTS = "vocabulary.msgpack", "items.npz", "retrieval.npz", "weights.npz"
HISTORY_GRAPH, SCORER_GRAPH = "history.onnx", "scorer.onnx"
TOWERS, INDEX = "towers.npz", "index.faiss"
SESSIONS, ENCODER_GRAPH = "sessions.npz", "encoder.onnx"
DUAL_SEQUENCE, POPULARITY, COVISITATION = "dual_sequence", "popularity", "covisitation"
LAST_INTERACTED, V_SKNN, GRU4REC, SASREC = "last_interacted", "v_sknn", "gru4rec", "sasrec"
_COUNTED = (VOCABULARY, ITEMS, RETRIEVAL)
_FILES = {
    POPULARITY: _COUNTED,
    COVISITATION: _COUNTED,
    LAST_INTERACTED: _COUNTED,
    V_SKNN: (*_COUNTED, SESSIONS),
    GRU4REC: (*_COUNTED, WEIGHTS, ENCODER_GRAPH),
    SASREC: (*_COUNTED, WEIGHTS, ENCODER_GRAPH),
    DUAL_SEQUENCE: (*_COUNTED, WEIGHTS, HISTORY_GRAPH, SCORER_GRAPH),
}
_OPTIONAL = {DUAL_SEQUENCE: {TOWERS, INDEX}}
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

Array = npt.NDArray[Any]


class BundleError(ValueError):
    """A bundle that must not be served. The message is one plain sentence that names the cause."""


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    format: int
    version: str
    ranker: str
    created: str
    licence: str
    files: dict[str, str]  # name -> SHA-256
    feature_versions: dict[str, int]
    surfaces: list[str] = []
    tasks: list[str] = []
    task_weights: dict[str, float] = {}  # a score is the sum of the tasks' logits by these weights, and of
    popularity_weight: float = 0.0  # this times log(1 + clicks): the prior that the logQ correction took out
    config: dict[str, Any] = {}
    metrics: dict[str, Any] = {}
    training: dict[str, Any] = {}  # command, seed, data


@dataclass(frozen=True, eq=False)
class Bundle:
    """What the files hold, checked. N rows of the vocabulary."""

    path: Path
    manifest: Manifest
    vocabulary: Vocabulary
    embedding: Array  # (N, D) float32 of stored float16
    statics: Array  # (N, F) float32
    popularity: Array  # (N,) float32
    neighbours: Array  # (N, K) int32
    popular: Array  # (P,) int32, best first
    popular_in_group: Array  # (rows before the first item, Q) int32, best first, PADDING where there are fewer
    weights: Mapping[str, Array]
    graphs: Mapping[str, bytes]
    towers: Mapping[str, Array]  # none: candidates come from the tables alone, and nothing is pre-ranked
    index: bytes = b""  # none: the catalogue is searched whole
    sessions: Mapping[str, Array] = field(default_factory=dict)  # of v_sknn: items, times, starts

    @property
    def version(self) -> str:
        return self.manifest.version

    @property
    def ranker(self) -> str:
        return self.manifest.ranker

    @property
    def prior(self) -> Array:
        """(N,) what is added to every score: popularity, by the manifest's weight."""
        return np.float32(self.manifest.popularity_weight) * np.log1p(self.popularity)

    @classmethod
    def load(cls, path: str | Path) -> Bundle:
        """Read and check a bundle's folder. Raises BundleError."""
        folder = Path(path)
        manifest = read_manifest(folder)
        blobs = {name: _read_checked(folder, name, digest) for name, digest in manifest.files.items()}
        try:
            vocabulary = decode_vocabulary(blobs[VOCABULARY])
            items, retrieval = _arrays(blobs[ITEMS]), _arrays(blobs[RETRIEVAL])
            bundle = cls(
                folder,
                manifest,
                vocabulary,
                items["embedding"].astype(np.float32),
                items["statics"].astype(np.float32),
                items["popularity"].astype(np.float32),
                retrieval["neighbours"].astype(np.int32),
                retrieval["popular"].astype(np.int32),
                retrieval["popular_in_group"].astype(np.int32),
                _float32(blobs, WEIGHTS),
                {name: blobs[name] for name in (HISTORY_GRAPH, SCORER_GRAPH, ENCODER_GRAPH) if name in blobs},
                _float32(blobs, TOWERS),
                blobs.get(INDEX, b""),
                _arrays(blobs[SESSIONS]) if SESSIONS in blobs else {},
            )
        except (KeyError, ValueError, OSError, EOFError, msgspec.DecodeError) as error:
            raise BundleError(f"bundle {folder} cannot be read: {error}") from error
        _check_shapes(bundle)
        return bundle


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a bundle's folder, checked against what this release can serve."""
    try:
        raw = (folder / MANIFEST).read_bytes()
    except OSError as error:
        raise BundleError(f"bundle {folder} has no {MANIFEST}: {error.strerror}") from error
    try:
        found = msgspec.json.decode(raw)
        number = found.get("format") if isinstance(found, dict) else None
        if number != FORMAT:
            raise BundleError(f"bundle {folder} has format {number}; this release reads format {FORMAT}")
        manifest = msgspec.convert(found, Manifest)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise BundleError(f"{MANIFEST} of bundle {folder} is broken: {error}") from error
    if not _VERSION.fullmatch(manifest.version):
        raise BundleError(f"bundle {folder} has the version {manifest.version!r}, which cannot name a folder")
    if manifest.ranker not in _FILES:
        raise BundleError(f"bundle {folder} has the ranker {manifest.ranker!r}; known: {', '.join(_FILES)}")
    if set(manifest.files) - _OPTIONAL.get(manifest.ranker, set()) != set(_FILES[manifest.ranker]):
        raise BundleError(
            f"bundle {folder} names the files {sorted(manifest.files)}; expected {sorted(_FILES[manifest.ranker])}"
        )
    if manifest.feature_versions != FEATURE_VERSIONS:
        raise BundleError(
            f"bundle {manifest.version} was made for the features {manifest.feature_versions}; "
            f"this release computes {FEATURE_VERSIONS}"
        )
    return manifest


def write_bundle(folder: Path, manifest: Manifest, files: Mapping[str, bytes]) -> None:
    """Write files and manifest; `manifest.files` is filled in here. The folder must not exist: bundles are immutable."""
    folder.mkdir(parents=True)
    digests = {}
    for name, blob in files.items():
        (folder / name).write_bytes(blob)
        digests[name] = hashlib.sha256(blob).hexdigest()
    encoded = msgspec.json.encode(msgspec.structs.replace(manifest, files=digests))
    (folder / MANIFEST).write_bytes(msgspec.json.format(encoded, indent=2) + b"\n")


def latest(bundles: Path) -> str:
    """The version that the folder's LATEST file names."""
    try:
        version = (bundles / LATEST).read_text().strip()
    except OSError as error:
        raise BundleError(f"{bundles} has no {LATEST} file that names the default bundle: {error.strerror}") from error
    if not _VERSION.fullmatch(version):
        raise BundleError(f"{bundles / LATEST} holds {version[:40]!r}, which is no version")
    return version


def packed(**arrays: Array) -> bytes:
    """Arrays as one compressed .npz, the same bytes for the same arrays."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def _read_checked(folder: Path, name: str, digest: str) -> bytes:
    try:
        blob = (folder / name).read_bytes()
    except OSError as error:
        raise BundleError(f"bundle {folder} misses its file {name}: {error.strerror}") from error
    if hashlib.sha256(blob).hexdigest() != digest:
        raise BundleError(f"file {name} of bundle {folder} is corrupt: its SHA-256 is not the manifest's")
    return blob


def _arrays(blob: bytes) -> dict[str, Array]:
    with np.load(io.BytesIO(blob), allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def _float32(blobs: Mapping[str, bytes], name: str) -> dict[str, Array]:
    """Arrays of a file; none where the bundle does not have it."""
    return {key: array.astype(np.float32) for key, array in _arrays(blobs[name]).items()} if name in blobs else {}


def _check_shapes(bundle: Bundle) -> None:
    size = bundle.vocabulary.size
    for name in ("embedding", "statics", "popularity", "neighbours"):
        rows = len(getattr(bundle, name))
        if rows != size:
            raise BundleError(
                f"bundle {bundle.version} does not fit together: {name} has {rows} rows, the vocabulary {size}"
            )
    for name in ("neighbours", "popular", "popular_in_group"):
        rows = getattr(bundle, name)
        if rows.size and not 0 <= rows.min() <= rows.max() < size:
            raise BundleError(
                f"bundle {bundle.version} does not fit together: {name} names rows outside the vocabulary"
            )
    if bundle.ranker == DUAL_SEQUENCE:
        width, expected = bundle.embedding.shape[1], bundle.manifest.config.get("dim")
        if width != expected:
            raise BundleError(
                f"bundle {bundle.version} does not fit together: embedding is {width} wide, the config says {expected}"
            )
