"""item-aggregates on a real Kafka, Flink and Redis: interactions in, rows out, and nothing counted twice after a kill -9."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest

from cli.cluster import submit_item_aggregates
from cli.training_parity import check_counts
from client.features import read_rows
from connect.redis import Nodes
from local.stack import Ports, Stack
from schemas import topics
from schemas.features_row import ALL, RowKey, row_codec
from schemas.interaction import Interaction, encode_interaction
from schemas.items import Item
from schemas.topics import TOPICS
from tests.e2e.engine import Engine, Reader, produce, wait_for
from tests.fakes import event
from trials.hands import LocalHands

CODEC = row_codec()
BOOT, SHOES, LAMP = RowKey("item", "boot-1"), RowKey("category", "shoes"), RowKey("item", "lamp-9")
USERS = 40
_NUMBERS = itertools.count()
event_nos: dict[int, int] = {}  # of each user, the last


@pytest.fixture
def engine(tmp_path: Any) -> Iterator[Engine]:
    stack = Stack(tmp_path / "stack", Ports.free(), say=lambda _: None)
    try:
        stack.start()
        stack.create_topics(TOPICS)
        running = Engine(stack)
        running.job_id = submit_item_aggregates(stack)
        stack.wait_running(running.job_id)
        yield running
    finally:
        stack.stop()


def clicks(item_id: str, ago_ms: int = 0, users: int = USERS) -> list[tuple[bytes | None, bytes | None]]:
    """A click of each of many users, so of every partition."""
    now_ms = int(time.time() * 1000)
    found: list[tuple[bytes | None, bytes | None]] = []
    for user in range(users):
        number, ts_ms = next(_NUMBERS), now_ms - ago_ms
        event_nos[user] = event_nos.get(user, 0) + 1
        made = event("click", item_id, event_id=f"e{number}", user_id=f"{user}", ts_ms=ts_ms, props={"surface": "home"})
        one = Interaction(f"u:{user}", event_nos[user], 1, made, ts_ms, 0, number, now_ms)
        found.append((f"u:{user}".encode(), encode_interaction(one)))
    return found


def test_interactions_become_rows_and_survive_a_kill(engine: Engine) -> None:
    nodes = Nodes(engine.where.redis, 5.0)

    def counted(*keys: RowKey) -> list[int]:
        rows = read_rows(nodes, engine.where.redis_namespace, codec=CODEC, keys=keys)
        place = CODEC.columns.index("clicks_2h")
        return [rows[key].counts[place] if key in rows else 0 for key in keys]

    item = msgspec.json.encode(Item(item_id="boot-1", category="shoes"))
    produce(engine.where, topics.ITEMS, [(b"boot-1", item)])
    with Reader(engine.where, topics.ITEM_FEATURES) as reader:
        # The catalogue is another topic: until it is read, an item counts for no group.
        wait_for(lambda: _probe(engine) and counted(SHOES)[0] > 0, 60, "the catalogue is known")
        before = _settled(lambda: counted(BOOT, SHOES, ALL, LAMP))
        produce(
            engine.where, topics.INTERACTIONS, [*clicks("boot-1"), *clicks("lamp-9"), *clicks("lamp-9", 3 * 3_600_000)]
        )
        wanted = [before[0] + USERS, before[1] + USERS, before[2] + 2 * USERS, USERS]
        wait_for(lambda: counted(BOOT, SHOES, ALL, LAMP) == wanted, 30, "the clicks are counted")
        keys = {CODEC.record_key(key) for key in (BOOT, SHOES, ALL, LAMP)}
        reader.until(lambda records: keys <= {one.key for one in records[topics.ITEM_FEATURES]}, limit_s=10)

    hands = LocalHands(engine.stack)
    hands.start_spare()
    hands.kill_task_manager()
    produce(engine.where, topics.INTERACTIONS, clicks("boot-1"))
    wanted = [wanted[0] + USERS, wanted[1] + USERS, wanted[2] + USERS, USERS]
    wait_for(lambda: counted(BOOT, SHOES, ALL, LAMP) == wanted, 90, "the clicks after the kill are counted, once")
    assert _settled(lambda: counted(BOOT, SHOES, ALL, LAMP)) == wanted
    nodes.close()
    report = check_counts(engine.where, int(time.time() * 1000), limit_s=60)
    assert report.rows >= 4, "at least what was looked at above"
    assert (report.share, report.missing) == (1.0, []), report


def _settled(read: Callable[[], list[int]]) -> list[int]:
    """What is read once two bundles have passed without a change: items' counts come first, those of their groups later."""
    found, before = read(), None
    while found != before:
        time.sleep(6)
        found, before = read(), found
    return found


def _probe(engine: Engine) -> bool:
    """One more click on the boot, and time for it to be counted."""
    produce(engine.where, topics.INTERACTIONS, clicks("boot-1", users=1))
    time.sleep(3)
    return True
