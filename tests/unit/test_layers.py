"""The one-way layer rule of docs: which folder may import which, and where the heavy packages may appear.

connect ─ schemas ─ udfs/logic ─ proof ─ models ─ udfs ─ client ─ jobs ─ local ─ trials ─ demo ─ cli   each uses only those named
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Layer -> the layers it may import besides itself.
MAY_IMPORT: dict[str, set[str]] = {
    "connect": set(),
    "schemas": {"connect"},
    "udfs/logic": {"schemas"},
    "proof": {"schemas", "udfs/logic"},
    "models": {"schemas", "udfs/logic"},
    "udfs": {"connect", "schemas", "udfs/logic", "models"},
    "client": {"connect", "schemas"},
    "jobs": {"schemas", "udfs/logic", "models", "udfs"},
    "local": {"schemas"},
    "trials": {"connect", "schemas", "client", "local"},
    "demo": {"schemas", "proof", "client"},
    "cli": {"connect", "schemas", "udfs/logic", "models", "udfs", "client", "jobs", "local", "trials", "demo", "proof"},
}
# What a worker imports to serve a bundle: it must run where torch is not installed.
SERVING = {
    f"models/{name}.py"
    for name in ("featurise", "scorer", "bundle", "retrieval", "recall", "towers", "store", "vocabulary", "tables")
}
FORBIDDEN_NAMES = {"utils", "util", "common", "helpers", "helper", "misc"}


@cache
def files() -> list[Path]:
    return sorted(
        path for folder in {layer.split("/")[0] for layer in MAY_IMPORT} for path in (ROOT / folder).rglob("*.py")
    )


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def layer_of(name: str) -> str | None:
    """The layer of a file ("udfs/logic/slate.py") or of a module ("udfs.logic.slate"); None for what is not ours."""
    parts = name.removesuffix(".py").replace(".", "/").split("/")
    if parts[:2] == ["udfs", "logic"]:
        return "udfs/logic"
    return parts[0] if parts[0] in MAY_IMPORT else None


@cache
def imports(path: Path) -> tuple[str, ...]:
    """Every module a file imports, at any depth: an import inside a function counts as well."""
    return tuple(_imports(path))


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{name_of(path)} imports relatively: say the folder"
            # `from udfs import logic` names a layer only in its second half.
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def users_of(package: str) -> set[str]:
    return {name_of(path) for path in files() if any(one.split(".")[0] == package for one in imports(path))}


@pytest.mark.parametrize("layer", MAY_IMPORT)
def test_a_layer_imports_only_what_it_may(layer: str) -> None:
    allowed = MAY_IMPORT[layer] | {layer}
    wrong = [
        f"{name_of(path)} imports {module}"
        for path in files()
        if layer_of(name_of(path)) == layer
        for module in imports(path)
        if (found := layer_of(module)) is not None and found not in allowed
    ]
    assert not wrong


def test_nothing_imports_the_tests() -> None:
    assert not users_of("tests")


def test_the_rule_reads_real_files() -> None:
    """A layer whose folder was renamed would pass every test here."""
    assert {layer_of(name_of(path)) for path in files()} == set(MAY_IMPORT)


def test_pyflink_stays_in_the_adapters() -> None:
    allowed = {name for name in map(name_of, files()) if layer_of(name) in ("udfs", "jobs")}
    assert users_of("pyflink") <= allowed


def test_serving_needs_no_torch() -> None:
    """Contract: torch is in the `train` extra only; what serving imports, directly or not, must do without."""
    reached, waiting = (
        set[str](),
        [name for name in map(name_of, files()) if name in SERVING or layer_of(name) in ("udfs", "jobs")],
    )
    while waiting:
        name = waiting.pop()
        if name in reached:
            continue
        reached.add(name)
        for module in imports(ROOT / name):
            for candidate in (module, module.rpartition(".")[0]):
                path = f"{candidate.replace('.', '/')}.py"
                if (ROOT / path).is_file():
                    waiting.append(path)
    assert not reached & users_of("torch")


def test_torch_and_onnx_stay_in_models() -> None:
    assert {layer_of(name) for name in users_of("torch") | users_of("onnx")} <= {"models"}


def test_onnxruntime_has_one_place() -> None:
    # udfs/rank_candidates.py makes RunOptions for the runner, until models/scorer.py offers to.
    assert users_of("onnxruntime") <= {"models/scorer.py", "udfs/rank_candidates.py"}


def test_redis_clients_are_made_in_one_place() -> None:
    assert {name for name in users_of("redis") if "redis.Redis(" in (ROOT / name).read_text()} == {"connect/redis.py"}


def test_faiss_has_one_place() -> None:
    assert users_of("faiss") == {"models/nearest.py"}


def test_modules_are_named_for_what_they_do() -> None:
    assert not [
        name_of(path) for path in files() if path.stem in FORBIDDEN_NAMES or path.parent.name in FORBIDDEN_NAMES
    ]
