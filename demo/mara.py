"""Mara's worked example (source 3): who she is, what she did, the five candidates, and the 12 seconds that change the order.

    history of earlier days ─ today, 7:42 PM: opens her feed ─ five candidates      pasta, lo-fi, marathon, trail, desk
                                 └─ taps the marathon recap, watches 12 s ────────  trail, marathon, lo-fi, pasta, desk

Builders return event v2 dicts, ready for JSON. In the world's truth both orders hold (tests/unit/test_demo_mara.py).
"""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

from demo.catalogue import STORY, SUBCATEGORY_NO
from demo.observer import Observer
from demo.tastes import Memory, Shopper, shopper_of
from demo.truth import Moment
from demo.world import DAY_MS, HOUR_MS, STYLES, World
from schemas.event import Event

USER_ID = "mara"
FOLLOWS = "running"
PASTA, LOFI, MARATHON, TRAIL, DESK = CANDIDATES = tuple(item_id for _, _, item_id in STORY)
BEFORE = (PASTA, LOFI, MARATHON, TRAIL, DESK)
AFTER = (TRAIL, MARATHON, LOFI, PASTA, DESK)
DWELL_MS = 12_000
STORY_MS = 1_768_938_120_000  # Tuesday 2026-01-20, 19:42 UTC
_TASTES = {"cooking": 1.0, "study-music": 0.9, "running": 0.15, "desk-setups": 0.15}

# Her earlier visits: (days ago, hour of day), then what she did, oldest first. Numbers are items of the subcategory.
_EVENINGS: tuple[tuple[int, float, tuple[tuple[str, str, int], ...]], ...] = (
    (9, 19.2, (("search", "cooking", 0), ("watch", "cooking", 12), ("watch", "cooking", 31), ("like", "cooking", 31))),
    (8, 20.5, (("watch", "study-music", 7), ("watch", "study-music", 55))),
    (7, 18.9, (("search", "running", 0), ("watch", "running", 20), ("follow", "running", 0), ("watch", "running", 64))),
    (6, 19.4, (("watch", "cooking", 44), ("watch", "cooking", 80), ("watch", "study-music", 18))),
    (5, 20.8, (("search", "study-music", 0), ("watch", "study-music", 90), ("watch", "study-music", 33))),
    (4, 20.1, (("watch", "desk-setups", 9), ("watch", "desk-setups", 40), ("watch", "study-music", 71))),
    (3, 19.0, (("search", "cooking", 0), ("watch", "cooking", 102), ("watch", "cooking", 57), ("like", "cooking", 57))),
    (2, 20.3, (("watch", "study-music", 25), ("watch", "cooking", 66), ("watch", "study-music", 110))),
    (1, 19.5, (("watch", "cooking", 91), ("watch", "cooking", 23), ("watch", "study-music", 48))),
)  # fmt: skip


def shopper(world: World) -> Shopper:
    """Mara as the world knows her: cooking first, then study music; running is followed, desks are a side interest."""
    tastes = np.zeros(len(SUBCATEGORY_NO))
    for name, weight in _TASTES.items():
        tastes[SUBCATEGORY_NO[name]] = weight
    return shopper_of(
        world,
        number=999_999,
        user_id=USER_ID,
        tastes=tastes / tastes.sum(),
        style=np.zeros(STYLES),
        price_level=0.0,
        visits_per_day=1.0,
    )


def memory() -> Memory:
    return Memory(follows={SUBCATEGORY_NO[FOLLOWS]})


def history(now_ms: int, within_ms: int | None = None) -> list[dict[str, Any]]:
    """Her earlier visits, oldest first. `within_ms` squeezes them into so long before now, keeping sessions apart:
    an engine that refuses events older than 24 h takes them with `within_ms=20 * HOUR_MS` (at least 10 h)."""
    if within_ms is not None and within_ms < 10 * HOUR_MS:
        raise ValueError("nine sessions, 30 minutes and more apart, need within_ms of at least 10 hours")
    events: list[dict[str, Any]] = []
    midnight_ms = now_ms // DAY_MS * DAY_MS
    for number, (days_ago, hour, acts) in enumerate(_EVENINGS):
        at = midnight_ms - days_ago * DAY_MS + int(hour * HOUR_MS)
        if within_ms is not None:
            at = now_ms - within_ms + number * within_ms // (len(_EVENINGS) + 1)
        session = f"mara-{days_ago}-days-ago"
        for act, subcategory, item in acts:
            events += _act(f"{session}-{len(events)}", session, at, act, subcategory, f"{subcategory}-{item:03d}")
            at += 60_000
    return events


def session_id(now_ms: int) -> str:
    return f"mara-{now_ms}"


def opens_feed(now_ms: int) -> list[dict[str, Any]]:
    """Today she opens her feed: impressions of the five, in the order before."""
    session = session_id(now_ms)
    return [
        _event(
            "impression",
            f"{session}-seen-{place}",
            session,
            now_ms + 100 * place,
            item_id=item_id,
            props={"position": place},
        )
        for place, item_id in enumerate(BEFORE)
    ]


def watches(item_id: str, now_ms: int, dwell_ms: int = DWELL_MS) -> list[dict[str, Any]]:
    """She taps an item, and the view that ends `dwell_ms` later. The view ends at now_ms + dwell_ms."""
    session = session_id(now_ms)
    name = f"{session}-{item_id}"
    place = BEFORE.index(item_id) if item_id in BEFORE else None
    return [
        _event(
            "click",
            f"{name}-click",
            session,
            now_ms,
            item_id=item_id,
            props={} if place is None else {"position": place},
        ),
        _event("view", f"{name}-view", session, now_ms + dwell_ms, item_id=item_id, props={"dwell_ms": dwell_ms}),
    ]


def watches_marathon(now_ms: int) -> dict[str, Any]:
    """The single event of the story: a view of the marathon recap, 12 seconds, that ends now."""
    return watches(MARATHON, now_ms - DWELL_MS)[1]


def watches_pasta(now_ms: int) -> dict[str, Any]:
    """The counter-test: 12 seconds of pasta must not lift the trail video."""
    return watches(PASTA, now_ms - DWELL_MS)[1]


def true_order(world: World, watched: str | None = None, now_ms: int = STORY_MS) -> list[str]:
    """The five by the world's own expected relevance, for one who knows Mara and saw what she watched for 12 s."""
    mara, remembers = shopper(world), memory()
    observer = Observer(world, mara, remembers, now_ms)
    clicked: frozenset[int] = frozenset()
    if watched is not None:
        places = np.array([world.index[item_id] for item_id in BEFORE])
        observer.reacted(places, np.array([BEFORE.index(watched)]))
        observer.viewed(world.index[watched], DWELL_MS)
        clicked = frozenset([world.index[watched]])
    relevance = observer.relevance(Moment(now_ms, -1, clicked, remembers))
    return sorted(CANDIDATES, key=lambda item_id: -relevance[world.index[item_id]])


def _act(name: str, session: str, at: int, act: str, subcategory: str, item_id: str) -> list[dict[str, Any]]:
    if act == "watch":
        return [
            _event("click", f"{name}-click", session, at, item_id=item_id, props={}),
            _event("view", f"{name}-view", session, at + 14_000, item_id=item_id, props={"dwell_ms": 14_000}),
        ]
    if act == "search":
        return [_event("search", name, session, at, props={"query": subcategory.replace("-", " ")})]
    if act == "follow":
        return [_event("follow", name, session, at, props={"target": subcategory})]
    return [_event("like", name, session, at, item_id=item_id, props={})]


def _event(
    event_type: str, event_id: str, session: str, ts_ms: int, *, props: dict[str, Any], item_id: str | None = None
) -> dict[str, Any]:
    context = {"device": "mobile", "geo": "DE", "channel": "app"}
    event: dict[str, Any] = {
        "event_id": event_id,
        "event_type": event_type,
        "user_id": USER_ID,
        "session_id": session,
        "ts_ms": ts_ms,
        "schema_version": 2,
        "props": {"surface": "home", "context": context, **props},
    }
    if item_id is not None:
        event["item_id"] = item_id
    msgspec.convert(event, Event)  # a wrong builder fails here, not at the engine
    return event
