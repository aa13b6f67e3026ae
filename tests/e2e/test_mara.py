"""Mara's worked example (seed document 3) with the shipped bundle, through Kafka, Flink and Redis."""

from __future__ import annotations

import time
import uuid

import msgspec
import pytest
from typer.testing import CliRunner

from cli.main import app
from demo import mara
from demo.world import HOUR_MS
from schemas.ranking import decode_list
from tests.e2e.engine import Engine

SURFACE = "videos"


def _story(engine: Engine, user: str, watched: str) -> tuple[list[str], list[str]]:
    """Her list before and after she has watched one item for 12 seconds; both read from Redis."""
    now_ms = int(time.time() * 1000)

    def hers(body: dict) -> bytes:  # type: ignore[type-arg]
        props = {**body.get("props", {}), "surface": SURFACE}
        return msgspec.json.encode({**body, "user_id": user, "event_id": f"{user}-{body['event_id']}", "props": props})

    with engine.events() as events, engine.feed() as feed, engine.requester() as requester:
        for body in mara.history(now_ms, within_ms=20 * HOUR_MS):
            events.send(hers(body))
        for body in mara.opens_feed(now_ms):
            last = events.send(hers(body))
        assert feed.get(user, SURFACE, at_least=last.event_id, wait_ms=20_000).freshness is not None
        session = mara.session_id(now_ms)
        requester.rank_feed(user, list(mara.CANDIDATES), k=5, surface=SURFACE, session_id=session, timeout_ms=10_000)
        before = feed.get(user, SURFACE, k=5).items
        views = mara.watches_marathon(now_ms) if watched == mara.MARATHON else mara.watches_pasta(now_ms)
        token = events.send(hers(views))
        after = feed.get(user, SURFACE, k=5, at_least=token.event_id, wait_ms=20_000)
    assert after.met
    return before, after.items


def test_twelve_seconds_of_marathon_lift_the_trail_video_from_rank_4_to_rank_1(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = f"mara-{uuid.uuid4().hex[:6]}"
    before, after = _story(engine, user, mara.MARATHON)
    assert before.index(mara.TRAIL) == 3
    assert after.index(mara.TRAIL) == 0
    monkeypatch.setenv("RIFFLE_BROKERS", engine.where.brokers)
    monkeypatch.setenv("RIFFLE_REDIS_URL", engine.where.redis_url)
    why = CliRunner().invoke(app, ["explain", user, "--surface", SURFACE, "--json"])
    assert why.exit_code == 0, why.output
    explained = decode_list(why.stdout.encode())
    trail = next(item for item in explained.items if item.item_id == mara.TRAIL)
    assert trail.why
    assert (trail.why[0].action, trail.why[0].item_id) == ("view", mara.MARATHON)
    assert trail.why[0].delta > 0


def test_twelve_seconds_of_pasta_do_not(engine: Engine) -> None:
    before, after = _story(engine, f"mara-{uuid.uuid4().hex[:6]}", mara.PASTA)
    assert before.index(mara.TRAIL) == 3
    assert after.index(mara.TRAIL) >= 3
