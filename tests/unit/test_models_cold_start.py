"""Items and users that nobody trained on: each level of the chain gives finite, sensible scores and says that it was used.

Needs the `train` extra."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from models.bundle import Bundle
from models.vocabulary import build_vocabulary
from schemas.items import Item
from schemas.user_state import UserState
from tests.fakes import MINUTE, NOW, event
from udfs.logic.sessions import Position, apply_event
from udfs.logic.slate import Slate, World, rank

GROUPS = {"trail": "shoes", "road": "shoes", "pasta": "food", "bread": "food"}
EACH, HELD_OUT = 5, "4"  # items of a subcategory, and the number of the one that training never sees
ITEMS = [
    Item(item_id=f"{sub}-{number}", subcategory=sub, category=category, price=1.0 + number)
    for sub, category in GROUPS.items()
    for number in range(EACH)
]
KNOWN = [item for item in ITEMS if not item.item_id.endswith(HELD_OUT)]
NEW = [item.item_id for item in ITEMS if item.item_id.endswith(HELD_OUT)]


torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A ranker of users who stay within one subcategory; the item HELD_OUT of each is neither in catalogue nor log."""
    from rich.console import Console

    from models.checkpoint import Checkpoints
    from models.own_log import visits_of
    from models.release import release
    from models.statistics import contents, last_sessions
    from models.traffic import examples
    from models.train import SURFACES, Corpus, Settings, Trainer, knowledge, train

    rng = np.random.Generator(np.random.PCG64(3))
    subs = list(GROUPS)
    events = [
        event("click", f"{subs[n % 4]}-{item}", user_id=f"u{n}", session_id="s", event_id=f"e{n}-{at}",
              ts_ms=NOW + at * MINUTE)
        for n in range(120)
        for at, item in enumerate(rng.permutation(EACH - 1)[:3].tolist())
    ]  # fmt: skip
    vocabulary = build_vocabulary(KNOWN)
    data = examples(visits_of(events), vocabulary)
    corpus = Corpus(data, vocabulary, contents(tuple(KNOWN), vocabulary), None)
    settings = Settings(epochs=8, dim=16, threads=1, lists_per_batch=32, learning_rate=0.01, bce=0.0, listwise=0.0,
                        next_listwise=0.0, sampled=1.0, changes=0.0, negatives=32, history_negatives=2)  # fmt: skip
    folder = tmp_path_factory.mktemp("held-out")
    trainer = Trainer(settings, corpus)
    train(trainer, Console(quiet=True), Checkpoints(folder / "run"))
    path = release(
        folder, "held-out", trainer.model, vocabulary, knowledge(corpus, last_sessions(data)),
        surfaces=SURFACES, metrics={}, training={}, samples=12,
        task_weights={"click": 0.0, "cart": 0.0, "purchase": 0.0, "next": 1.0}, popularity_weight=0.0,
    )  # fmt: skip
    return Bundle.load(path)


def of(level: str) -> Callable[[str], tuple[str | None, str | None] | None]:
    """What the shop says of an item that the bundle does not know: as much as the level needs."""
    by_id = {item.item_id: item for item in ITEMS}

    def describe(item_id: str) -> tuple[str | None, str | None] | None:
        item = by_id.get(item_id)
        if item is None or level == "global":
            return None
        return (item.subcategory if level == "subcategory" else None), item.category

    return describe


def listed(bundle: Bundle, level: str, candidates: list[str], *acted: str) -> Slate:
    from models.store import LoadedBundle

    state = UserState()
    for number, item_id in enumerate(acted):
        at_ms = NOW + number * MINUTE
        click = event("click", item_id, user_id="nobody-trained-on", event_id=f"new-{number}", ts_ms=at_ms)
        apply_event(state, click, Position(0, number, at_ms))
    loaded, now_ms = LoadedBundle(bundle, 2**20, of(level)), NOW + 5 * MINUTE
    encode = loaded.history_encoder("u:nobody-trained-on", now_ms, None)
    return rank(state, loaded, World(set()), encode, surface="home", k=10, limit=50, now_ms=now_ms, stop=None,
                requested=candidates)  # fmt: skip


def test_items_trained_on_are_scored_as_themselves(bundle: Bundle) -> None:
    found = listed(bundle, "subcategory", ["trail-3", "pasta-3", "bread-3", "road-3"], "pasta-0", "pasta-1")
    assert (found.items[0].item_id, found.levels, found.cold_start) == ("pasta-3", {"item": 4}, None)


@pytest.mark.parametrize("sub", GROUPS)
def test_a_new_item_is_ranked_as_its_subcategory_is(bundle: Bundle, sub: str) -> None:
    """Contract: before the new items of other subcategories, for a user whom nobody trained on."""
    found = listed(bundle, "subcategory", NEW, f"{sub}-0", f"{sub}-1")
    assert (found.items[0].item_id, found.levels, found.cold_start) == (
        f"{sub}-{HELD_OUT}",
        {"subcategory": 4},
        "new_item",
    )
    assert np.isfinite([item.score for item in found.items]).all()


def test_without_a_subcategory_it_is_ranked_as_its_category_is(bundle: Bundle) -> None:
    found = listed(bundle, "category", NEW, "pasta-0", "bread-1")
    assert {item.item_id for item in found.items[:2]} == {"pasta-4", "bread-4"}
    assert (found.levels, found.cold_start) == ({"category": 4}, "new_item")
    assert found.items[0].score == found.items[1].score > found.items[2].score


def test_of_what_nothing_is_known_all_is_the_same(bundle: Bundle) -> None:
    found = listed(bundle, "global", NEW, "pasta-0")
    assert (found.levels, found.cold_start) == ({"global": 4}, "new_item")
    assert len({item.score for item in found.items}) == 1
    assert np.isfinite(found.items[0].score)


def test_a_new_user_has_a_list_of_what_is_known(bundle: Bundle) -> None:
    found = listed(bundle, "subcategory", [*NEW, "pasta-0", "road-1"])
    assert (found.cold_start, sum(found.levels.values())) == ("new_user", 6)
    assert np.isfinite([item.score for item in found.items]).all()
