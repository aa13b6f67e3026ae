"""The towers against slow formulas; recall and pre-ranking on them; items that the bundle does not know."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.bundle import TOWERS, Bundle, BundleError, packed, read_manifest, write_bundle
from models.featurise import (
    ACTION_CODES,
    COUNTERS,
    GROUP_COLUMNS,
    PRICE_LEVEL,
    as_batch,
    counters,
    group_columns,
    history_anchor_ms,
    history_sides,
    price_gap,
    session_sides,
    tokens,
)
from models.nearest import FLAT_AT_MOST, Flat, Ivf, made_index
from models.newcomers import Newcomers
from models.samples import NOW_MS, sample_states
from models.store import BundleStore
from models.towers import Towers
from schemas.items import Item
from schemas.user_state import UserState
from tests.fakes import NOW, event
from udfs.logic.sessions import Position, apply_event

FOLDER = Path(__file__).parents[1] / "fixtures/bundles/tiny-1"
TINY = Bundle.load(FOLDER)
R, HIDDEN = 4, 5


def tower_weights(seed: int = 1) -> dict[str, Any]:
    rng = np.random.Generator(np.random.PCG64(seed))
    dim, statics = TINY.embedding.shape[1], TINY.statics.shape[1]
    z, out = dim + statics + 1, 2 * (R + 1)
    sizes: dict[str, tuple[int, ...]] = {
        "item_linear": (z, out), "item_in": (z, HIDDEN), "item_bias": (HIDDEN,), "item_out": (HIDDEN, out),
        "user_linear": (2 * R + 2, 2 * R), "user_in": (2 * R + 2, HIDDEN), "user_bias": (HIDDEN,),
        "user_out": (HIDDEN, 2 * R), "tokens": (dim, R), "group_in": (GROUP_COLUMNS, 3), "group_bias": (3,),
        "group_out": (3,), "gap": (1,), "own": (COUNTERS,), "session_action": (ACTION_CODES,),
        "history_action": (ACTION_CODES,), "session_decay": (1,), "history_decay": (1,),
    }  # fmt: skip
    return {name: (0.5 * rng.standard_normal(size)).astype(np.float32) for name, size in sizes.items()}


WITH_TOWERS = replace(TINY, towers=tower_weights())


def written(folder: Path, version: str = "tiny-2", **weights: Any) -> Path:
    manifest = replace_version(version)
    files = {name: (FOLDER / name).read_bytes() for name in manifest.files}
    write_bundle(folder / version, manifest, files | {TOWERS: packed(**{**tower_weights(), **weights})})
    (folder / "LATEST").write_text(version)
    return folder


def replace_version(version: str) -> Any:
    import msgspec

    return msgspec.structs.replace(read_manifest(FOLDER), version=version)


def naive_light(state: UserState, row: int) -> float:
    """models/towers.py's docstring, one candidate and one token at a time."""
    w, vocabulary, level = WITH_TOWERS.towers, TINY.vocabulary, TINY.statics[:, PRICE_LEVEL]
    session = tokens(state.session(), NOW_MS, vocabulary)
    history = tokens(state.history(), history_anchor_ms(state, NOW_MS), vocabulary)
    pooled = []
    for name, found in (("session", session), ("history", history)):
        total, vector = 1.0, np.zeros(R)
        for place in range(found.length):
            hours = math.expm1(found.log_hours[place])
            age = 2 * hours if name == "session" else found.log_hours[place]
            weight = math.exp(w[f"{name}_action"][found.actions[place]] - w[f"{name}_decay"][0] * age)
            total, vector = total + weight, vector + weight * (TINY.embedding[found.rows[place]] @ w["tokens"])
        pooled.append(vector / total)
    x = np.concatenate((*pooled, np.log1p([session.length, history.length])))
    user = x @ w["user_linear"] + np.maximum(x @ w["user_in"] + w["user_bias"], 0) @ w["user_out"]
    z = np.concatenate((TINY.embedding[row], TINY.statics[row], [TINY.prior[row]]))
    item = z @ w["item_linear"] + np.maximum(z @ w["item_in"] + w["item_bias"], 0) @ w["item_out"]
    now = session_sides(*as_batch(session), vocabulary, level)
    before = history_sides(*as_batch(history), vocabulary, level)
    group = group_columns(now, before)[vocabulary.group_row[row]]
    said = np.maximum(group @ w["group_in"] + w["group_bias"], 0) @ w["group_out"]
    gap = w["gap"][0] * price_gap(now.prices[0] + before.prices[0], level[[row]])[0]
    own = counters(state, np.array([row], np.int32), vocabulary, NOW_MS)[0] @ w["own"]
    return float(user[R:] @ item[R + 1 : -1] + item[-1] + said + gap + own)


def test_light_scores_are_the_formulas() -> None:
    towers = Towers(WITH_TOWERS)
    items = np.arange(TINY.vocabulary.first_item, TINY.vocabulary.size, dtype=np.int32)
    for state in sample_states(TINY.vocabulary, 20):
        found = towers.light(towers.user(state, towers.past(state, NOW_MS), NOW_MS), items)
        wanted = [naive_light(state, row) for row in items.tolist()]
        np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-3)


def test_a_group_is_the_mean_of_its_items() -> None:
    towers, vocabulary = Towers(WITH_TOWERS), TINY.vocabulary
    row = vocabulary.row("anything", lambda _: ("pasta", "food"))
    members = np.flatnonzero(vocabulary.subcategory_row == row)
    members = members[members >= vocabulary.first_item]
    np.testing.assert_allclose(towers.vectors[row], towers.vectors[members].mean(axis=0), rtol=1e-5)


def test_towers_of_another_bundle_are_refused() -> None:
    narrow = tower_weights() | {"item_linear": np.zeros((3, 10), np.float32)}
    with pytest.raises(BundleError, match="the towers of bundle tiny-1 do not fit it"):
        Towers(replace(TINY, towers=narrow))


# ── search ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_flat_search_is_exact() -> None:
    rng = np.random.Generator(np.random.PCG64(1))
    vectors, query = rng.standard_normal((300, 6)).astype(np.float32), rng.standard_normal(6).astype(np.float32)
    wanted = 10 + np.argsort(-(vectors[10:] @ query))[:20]
    assert sorted(Flat(vectors, 10).search(query, 20).tolist()) == sorted(wanted.tolist())
    assert len(Flat(vectors, 10).search(query, 1_000)) == 290


def test_an_index_finds_nearly_what_a_flat_search_finds() -> None:
    """Contract: recall at 200 of at least .9 where the vectors have no order at all; trained ones have."""
    rng = np.random.Generator(np.random.PCG64(1))
    vectors = rng.standard_normal((6_000, 8)).astype(np.float32)
    index = Ivf(made_index(vectors[10:]), 10, len(vectors))
    flat = Flat(vectors, 10)
    shares = []
    for query in rng.standard_normal((20, 8)).astype(np.float32):
        exact = set(flat.search(query, 200).tolist())
        shares.append(len(exact & set(index.search(query, 200).tolist())) / 200)
    assert np.mean(shares) > 0.9
    assert index.search(vectors[0], 0).tolist() == []


def test_an_index_of_another_catalogue_is_refused() -> None:
    vectors = np.eye(64, dtype=np.float32).repeat(8, axis=0)
    with pytest.raises(BundleError, match="holds 512 vectors; the vocabulary has 500 items"):
        Ivf(made_index(vectors), 0, 500)
    with pytest.raises(BundleError, match="cannot be read"):
        Ivf(b"no index", 0, 500)
    assert TINY.vocabulary.size < FLAT_AT_MOST  # below it no index is made


# ── newcomers ─────────────────────────────────────────────────────────────────────────────────────────────────────


def newcomers(**weights: Any) -> Newcomers:
    bundle = replace(WITH_TOWERS, towers={**WITH_TOWERS.towers, **weights})
    return Newcomers(bundle, Towers(bundle).vectors)


def item(item_id: str, subcategory: str | None = "pasta", **more: Any) -> Item:
    return Item(item_id=item_id, subcategory=subcategory, category="food", **more)


def test_a_new_item_is_found_where_its_group_is() -> None:
    table = newcomers()
    table.update([("rye", item("rye", "bread")), ("farfalle", item("farfalle")), ("any", Item(item_id="any"))])
    found = table.search(np.array([0, 0, 0, 0, 1], np.float32), 3)
    assert set(found.item_ids) == {"rye", "farfalle", "any"}
    levels = {item_id: TINY.vocabulary.level(row) for item_id, row in zip(found.item_ids, found.rows.tolist())}
    assert levels == {"rye": "subcategory", "farfalle": "subcategory", "any": "global"}


def test_a_content_vector_says_more_than_a_group() -> None:
    """Contract: where its group is, moved by how its content differs from the group's; without content it stays there."""
    weights = np.zeros((2, R + 1), np.float32)
    weights[0, 0], weights[1, 1] = 1.0, 1.0
    means = np.full((TINY.vocabulary.first_item, 2), 4.0, np.float32)
    table = newcomers(content_weights=weights, content_means=means)
    table.update([("a", item("a", vector=[9.0, 4.0])), ("b", item("b", vector=[4.0, 9.0])), ("plain", item("plain"))])
    table.update([("odd", item("odd", vector=[1.0, 2.0, 3.0]))])  # of another width than the map's
    first = table.search(np.array([1, 0, 0, 0, 1], np.float32), 1)
    second = table.search(np.array([0, 1, 0, 0, 1], np.float32), 1)
    assert (first.item_ids, second.item_ids) == (["a"], ["b"])
    of_group = table._vectors[table._vocabulary.group_of("pasta", "food")]
    vectors = {item_id: table._table.vectors[place] for item_id, place in table._places.items()}
    np.testing.assert_allclose(vectors["a"] - of_group, [5, 0, 0, 0, 0], atol=1e-5)
    np.testing.assert_array_equal(vectors["plain"], of_group)
    np.testing.assert_array_equal(vectors["odd"], of_group)


def test_what_is_gone_or_known_is_no_newcomer() -> None:
    table = newcomers()
    table.update([("rye", item("rye", "bread")), ("pasta-2", item("pasta-2"))])
    assert len(table) == 1
    table.update([("rye", None)])
    assert (len(table), table.search(np.ones(R + 1, np.float32), 5).item_ids) == (0, [])


def test_an_item_that_moved_is_found_in_its_new_group_and_scored_as_itself() -> None:
    table = newcomers()
    table.update([("pasta-2", item("pasta-2", "bread"))])
    found = table.search(np.ones(R + 1, np.float32), 5)
    assert found.item_ids == ["pasta-2"]
    assert found.rows.tolist() == [TINY.vocabulary.row("pasta-2")]


def test_the_side_table_grows_and_its_places_are_used_again() -> None:
    table = newcomers()
    table.update([(f"n{n}", item(f"n{n}")) for n in range(600)])
    table.update([(f"n{n}", None) for n in range(500)])
    table.update([(f"m{n}", item(f"m{n}")) for n in range(500)])
    assert len(table) == 600
    assert len(table._table.rows) <= 1_024
    found = set(table.search(np.ones(R + 1, np.float32), 1_000).item_ids)
    assert found == {f"n{n}" for n in range(500, 600)} | {f"m{n}" for n in range(500)}


# ── in a worker ───────────────────────────────────────────────────────────────────────────────────────────────────


def visitor(*item_ids: str) -> UserState:
    state = UserState()
    for n, item_id in enumerate(item_ids):
        apply_event(state, event("click", item_id, ts_ms=NOW + n, event_id=f"e{n}"), Position(3, n, NOW + n))
    return state


def test_the_pre_ranker_passes_on_its_best(tmp_path: Path) -> None:
    store = BundleStore(str(written(tmp_path)), 16)
    bundle, state, stages = store.current, visitor("pasta-2", "bread-1", "road-1"), list[str]()
    try:
        few, all_ = (bundle.retrieve(state, limit, NOW + 9, stages.append) for limit in (6, 200))
        assert stages == ["recall", "pre_rank"] * 2
        assert (len(few.rows), few.passed_over, all_.passed_over) == (6, len(all_.rows) - 6, 0)
        scores = bundle.light(state, all_.rows, NOW + 9)
        assert set(few.rows.tolist()) == set(all_.rows[np.argsort(-scores)[:6]].tolist())
        assert few.item_ids == [bundle.item_ids[row] for row in few.rows]
        assert few.seen_hashes.tolist() == bundle.seen_hashes[few.rows].tolist()
    finally:
        store.close()


def test_a_new_item_becomes_a_candidate_without_a_restart(tmp_path: Path) -> None:
    """Contract: R10. It is scored by what stands in for it, and leaves with its record."""
    catalogue: dict[str, Item] = {}
    store = BundleStore(str(written(tmp_path)), 16, catalogue=catalogue)
    state, done = visitor("pasta-2"), lambda _stage: None
    try:
        assert "new" not in store.current.retrieve(state, 200, NOW + 9, done).sources
        catalogue["farfalle"] = item("farfalle")
        store.items_changed(["farfalle", "pasta-1"])
        found = store.current.retrieve(state, 200, NOW + 9, done)
        assert (found.item_ids[-1], found.sources[-1], store.items_not_in_bundle()) == ("farfalle", "new", 1)
        assert store.current.level(int(found.rows[-1])) == "subcategory"
        del catalogue["farfalle"]
        store.items_changed(["farfalle"])
        assert "farfalle" not in store.current.retrieve(state, 200, NOW + 9, done).item_ids
    finally:
        store.close()


def test_a_bundle_loaded_later_knows_what_came_before_it(tmp_path: Path) -> None:
    import time

    catalogue = {"farfalle": item("farfalle")}
    store = BundleStore(str(written(tmp_path)), 16, catalogue=catalogue)
    written(tmp_path, "tiny-3")
    try:
        give_up = time.monotonic() + 20
        while not (store.get("tiny-3")[1] and store.items_not_in_bundle()):
            assert time.monotonic() < give_up
            time.sleep(0.01)
        assert "farfalle" in store.current.retrieve(visitor("pasta-2"), 200, NOW + 9, lambda _stage: None).item_ids
    finally:
        store.close()


def test_the_user_s_own_sources_grow_with_the_first_interactions(tmp_path: Path) -> None:
    store = BundleStore(str(written(tmp_path)), 16)
    try:
        new = store.current.retrieve(UserState(), 200, NOW, lambda _stage: None)
        assert set(new.sources) == {"popular"}
    finally:
        store.close()
