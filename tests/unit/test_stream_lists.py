"""Top lists of the stream in a worker: the copy of the topic, what retrieval makes of it, and who is told."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from client.rebuild import rebuild
from models.bundle import Bundle
from models.retrieval import COVISITED, POPULAR, POPULAR_HERE, Retriever
from models.store import BundleStore
from models.top_lists import StreamLists
from schemas import topics
from schemas.connections import Connections
from schemas.keys import top_list_redis_key
from schemas.redis_layout import TOP_LIST_FIELD, TOP_LIST_TTL_MS, version
from schemas.top_lists import TopList, encode_top_list
from schemas.user_state import UserState
from tests.fakes import DAY, NOW, event
from tests.unit.test_models_retrieval import TINY, state_with
from tests.unit.test_models_towers import written
from tests.unit.test_rebuild import Redis
from udfs.logic.beliefs import Moment
from udfs.logic.sessions import Position, apply_event
from udfs.logic.slate import World, gather
from udfs.top_lists_replica import TopListsReplica

PASTA = TINY.vocabulary.row("pasta-2")
EVERY = np.arange(len(TINY.neighbours), dtype=np.int32)
HOUR = NOW // 3_600_000


def told(*items: str, total: float = 10.0, list_no: int = 1) -> TopList:
    return TopList(7, list_no, NOW, DAY, total, list(items), [float(9 - place) for place in range(len(items))])


def ids(rows: list[int]) -> list[str]:
    return [TINY.vocabulary.ids[row] for row in rows]


def streamed(**lists: TopList) -> tuple[StreamLists, dict[str, TopList]]:
    """Keys are written with `__` for the bar and `_` for the dash."""
    known = {key.replace("__", "|").replace("_", "-"): one for key, one in lists.items()}
    found = StreamLists(TINY)
    found.update(known, known)
    return found, known


# ── tables ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_streams_neighbours_stand_before_the_bundles() -> None:
    found, _ = streamed(item__pasta_2=told("road-1", "unknown", "bread-3"))
    own = [row for row in TINY.neighbours[PASTA].tolist() if ids([row]) not in (["road-1"], ["bread-3"])]
    assert ids(found.neighbours(EVERY)[PASTA].tolist()[:2]) == ["road-1", "bread-3"]
    assert found.neighbours(EVERY)[PASTA].tolist()[2:] == own[: len(TINY.neighbours[PASTA]) - 2]


def test_what_is_chosen_with_everything_is_nobodys_nearest() -> None:
    found, lists = streamed(item__pasta_2=told("road-1", "bread-3"), item__road_1=told("bread-1", total=10_000.0))
    found.update(["item|pasta-2"], lists)
    assert ids(found.neighbours(EVERY)[PASTA].tolist()[:2]) == ["bread-3", "road-1"]


def test_a_list_that_is_no_more_leaves_the_bundles_own() -> None:
    found, lists = streamed(item__pasta_2=told("road-1"), device__mobile=told("road-1"))
    gone = list(lists)
    lists.clear()
    found.update(gone, lists)
    assert (found.neighbours(EVERY) == TINY.neighbours).all()
    assert found.popular("mobile", None, HOUR).tolist() == []


def test_an_item_that_the_bundle_does_not_know_changes_nothing() -> None:
    found, _ = streamed(item__unknown=told("road-1"))
    assert (found.neighbours(EVERY) == TINY.neighbours).all()


def test_popular_here_is_taken_round_by_round_from_what_is_known() -> None:
    found, _ = streamed(
        all__=told("road-9"), device__mobile=told("road-1", "road-2"), geo__de=told("bread-1"), hour__07=told("pasta-1")
    )
    rows = found.popular("mobile", "de", 31)
    assert ids(rows[rows > 0].tolist()) == ["road-1", "bread-1", "pasta-1", "road-2"]
    assert ids(found.popular("tv", None, 7).tolist()) == ["pasta-1"]


def test_where_no_context_is_known_everything_speaks() -> None:
    found, _ = streamed(all__=told("road-2"))
    assert ids(found.popular(None, "fr", 12).tolist()) == ["road-2"]
    assert StreamLists(TINY).popular("mobile", "de", 7).tolist() == []


# ── retrieval ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_neighbours_of_the_stream_are_candidates_by_covisitation() -> None:
    retriever = Retriever(TINY)
    lists = {"item|pasta-2": told("road-1")}
    retriever.lists.update(lists, lists)
    rows, sources = retriever.retrieve(state_with("pasta-2"), 20)
    assert ids(rows[sources == COVISITED].tolist())[0] == "road-1"


def test_a_new_user_is_found_what_is_popular_here_first() -> None:
    retriever = Retriever(TINY)
    here = TINY.vocabulary.rows(["road-2", "bread-3", "road-2", "pasta-1"])
    rows, sources = retriever.retrieve(UserState(), 6, here=here)
    assert ids(rows[:3].tolist()) == ["road-2", "bread-3", "pasta-1"]
    assert sources.tolist() == [POPULAR_HERE] * 3 + [POPULAR] * 3


def test_a_known_user_is_found_less_of_it() -> None:
    here = TINY.vocabulary.rows([f"road-{number}" for number in range(1, 6)])
    _, sources = Retriever(TINY).retrieve(state_with("pasta-2"), 20, here=here)
    assert sources.tolist().count(POPULAR_HERE) <= 1


# ── a worker's bundles ────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return written(tmp_path)


@pytest.fixture
def replica() -> TopListsReplica:
    return TopListsReplica(Connections())


@pytest.fixture
def store(folder: Path, replica: TopListsReplica) -> Iterator[BundleStore]:
    found = BundleStore(str(folder), 16, lists=replica.lists)
    replica.changed = found.lists_changed
    yield found
    found.close()


def sources(store: BundleStore, state: UserState, at: Moment | None) -> dict[str, str]:
    found = store.current.retrieve(state, 200, NOW, lambda _stage: None, at)
    return dict(zip(found.item_ids, found.sources))


def test_a_record_on_the_topic_changes_the_candidates(store: BundleStore, replica: TopListsReplica) -> None:
    """Contract: from the topic's bytes to the candidate's source, and back when the list is taken out."""
    at = Moment(HOUR, "mobile", None, None, True)
    assert set(sources(store, UserState(), at).values()) == {"popular"}
    replica._apply_all([(b"device|mobile", encode_top_list(told("road-3")))])
    assert sources(store, UserState(), at)["road-3"] == "popular_here"
    assert set(sources(store, UserState(), None).values()) == {"popular"}, "where nobody says where the user is"
    replica._apply_all([(b"device|mobile", None)])
    assert set(sources(store, UserState(), at).values()) == {"popular"}


def test_a_broken_record_is_counted_and_the_list_stays(replica: TopListsReplica) -> None:
    replica._apply_all([(b"item|a", encode_top_list(told("b"))), (b"item|a", b"{torn"), (b"\xff", None)])
    assert (replica.rejected, len(replica), replica.lists["item|a"].items) == (2, 1, ["b"])


def test_a_bundle_loaded_later_knows_the_lists_that_came_before_it(
    store: BundleStore, replica: TopListsReplica, folder: Path
) -> None:
    replica._apply_all([(b"device|mobile", encode_top_list(told("road-3")))])
    written(folder, "tiny-3")
    give_up = time.monotonic() + 20
    while not store.get("tiny-3")[1]:
        assert time.monotonic() < give_up
        time.sleep(0.01)
    at = Moment(HOUR, "mobile", None, None, True)
    while "popular_here" not in sources(SimpleNamespace(current=store.get("tiny-3")[0]), UserState(), at).values():  # type: ignore[arg-type]
        assert time.monotonic() < give_up
        time.sleep(0.01)


def test_who_does_not_allow_personal_lists_is_not_asked_where_they_are(store: BundleStore) -> None:
    asked: list[Moment | None] = []

    class Asked:
        def __getattr__(self, name: str) -> object:
            return getattr(store.current, name)

        def retrieve(self, state, limit, now_ms, done, at=None):  # type: ignore[no-untyped-def]
            asked.append(at)
            return store.current.retrieve(state, limit, now_ms, done, at)

    state, at = UserState(), Moment(HOUR, "mobile", "de", None, True)
    gather(state, Asked(), World(at=at), 10, NOW, None)  # type: ignore[arg-type]
    no = event("click", "road-1", props={"consent": {"personalise": False}})
    apply_event(state, no, Position(0, 1, NOW))
    gather(state, Asked(), World(at=at), 10, NOW, None)  # type: ignore[arg-type]
    assert asked == [at, None]


# ── Redis ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_redis_is_rebuilt_from_the_topic() -> None:
    class Topics:
        def everything(self, name: str) -> list[object]:
            if name != topics.TOP_LISTS:
                return []
            return [
                SimpleNamespace(key=key, value=value)
                for key, value in ((b"item|a", encode_top_list(told("b"))), (b"item|b", None), (b"item|c", b"torn"))
            ]

    redis = Redis()
    done = rebuild(Topics(), redis, "riffle:", NOW + DAY)  # type: ignore[arg-type]
    assert (done.top_lists, done.removed, done.unreadable) == (1, 1, 1)
    (command,) = redis.sent
    assert command.key == top_list_redis_key("riffle:", "item|a")
    assert command.words[-4:] == (version(7, 1), TOP_LIST_TTL_MS - DAY, TOP_LIST_FIELD, encode_top_list(told("b")))


def test_the_bundle_itself_is_not_changed() -> None:
    before = Bundle.load(Path(__file__).parents[1] / "fixtures/bundles/tiny-1").neighbours
    streamed(item__pasta_2=told("road-1"))
    assert (TINY.neighbours == before).all()
