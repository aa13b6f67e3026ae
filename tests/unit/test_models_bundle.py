"""Bundles: what is refused, and in which words; the builders for tests and baselines."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.assemble import popularity_of, variant
from models.bundle import ITEMS, MANIFEST, RETRIEVAL, Bundle, BundleError, latest, packed, write_bundle

TINY = Path(__file__).parents[1] / "fixtures/bundles/tiny-1"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(TINY, tmp_path / "copy"))


def edit(folder: Path, **changes: Any) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps(manifest | changes))


def test_a_good_bundle_loads() -> None:
    bundle = Bundle.load(TINY)
    assert bundle.version == "tiny-1"
    assert bundle.ranker == "dual_sequence"
    assert bundle.embedding.shape == (bundle.vocabulary.size, 8)
    assert bundle.embedding.dtype == np.float32


@pytest.mark.parametrize(
    "name", ["vocabulary.msgpack", "items.npz", "retrieval.npz", "weights.npz", "history.onnx", "scorer.onnx"]
)
def test_a_changed_byte_is_refused_by_the_name_of_the_file(folder: Path, name: str) -> None:
    blob = bytearray((folder / name).read_bytes())
    blob[len(blob) // 2] ^= 1
    (folder / name).write_bytes(blob)
    with pytest.raises(BundleError, match=f"file {name} .* is corrupt"):
        Bundle.load(folder)


def test_a_missing_file_is_named(folder: Path) -> None:
    (folder / ITEMS).unlink()
    with pytest.raises(BundleError, match=r"misses its file items\.npz"):
        Bundle.load(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "has format 2; this release reads format 1"),
        ({"ranker": "oracle"}, "has the ranker 'oracle'"),
        ({"feature_versions": {"tokens": 9}}, "was made for the features"),
        ({"files": {"../secret": "0"}}, "names the files"),
        ({"version": "../up"}, "cannot name a folder"),
        ({"created": 5}, "is broken"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(folder: Path, changes: dict[str, Any], message: str) -> None:
    edit(folder, **changes)
    with pytest.raises(BundleError, match=message):
        Bundle.load(folder)


def test_no_bundle_at_all(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"has no manifest\.json"):
        Bundle.load(tmp_path)
    (tmp_path / MANIFEST).write_text("{")
    with pytest.raises(BundleError, match="is broken"):
        Bundle.load(tmp_path)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (ITEMS, {"embedding": np.zeros((3, 8))}, "embedding has 3 rows"),
        (ITEMS, {"embedding": np.zeros((32, 4))}, "embedding is 4 wide, the config says 8"),
        (RETRIEVAL, {"popular": np.array([7, 10_000])}, "popular names rows outside"),
    ],
)
def test_parts_of_different_bundles_are_refused(
    tmp_path: Path, name: str, change: dict[str, Any], message: str
) -> None:
    bundle = Bundle.load(TINY)
    files = {one: (TINY / one).read_bytes() for one in bundle.manifest.files}
    with np.load(TINY / name) as arrays:
        stored = dict(arrays)
    size = bundle.vocabulary.size
    change = {key: np.zeros((size, 4)) if array.shape == (32, 4) else array for key, array in change.items()}
    files[name] = packed(**(stored | change))
    write_bundle(tmp_path / "mixed", bundle.manifest, files)
    with pytest.raises(BundleError, match=message):
        Bundle.load(tmp_path / "mixed")


def test_bundles_are_immutable(folder: Path) -> None:
    with pytest.raises(FileExistsError):
        write_bundle(folder, Bundle.load(folder).manifest, {})


def test_latest(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="has no LATEST file"):
        latest(tmp_path)
    (tmp_path / "LATEST").write_text("demo-1\n")
    assert latest(tmp_path) == "demo-1"
    (tmp_path / "LATEST").write_text("../elsewhere")
    with pytest.raises(BundleError, match="is no version"):
        latest(tmp_path)


def test_a_variant_is_another_bundle(tmp_path: Path) -> None:
    bundle = Bundle.load(variant(TINY, tmp_path, "tiny-2"))
    assert bundle.version == "tiny-2"
    assert not np.array_equal(bundle.embedding, Bundle.load(TINY).embedding)


def test_the_popularity_of_a_bundle(tmp_path: Path) -> None:
    original = Bundle.load(TINY)
    bundle = Bundle.load(popularity_of(original, tmp_path, "tiny-popularity"))
    assert bundle.ranker == "popularity"
    np.testing.assert_array_equal(bundle.popularity, original.popularity)
