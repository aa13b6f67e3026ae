"""Faults: what breaks while a load runs, and the verdict on how the engine took it.

Each trial breaks one thing with the hands it is given, waits until the engine serves again, and takes the account of the load
(trials/account.py). A trial passes where nothing is lost or repeated and every time limit is kept.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec

from client.events import Events
from client.feed import RankedFeed
from client.rebuild import rebuild
from client.scan import Limits as ScanLimits
from client.scan import Scanner
from connect.redis import Nodes
from schemas import topics
from schemas.connections import Connections
from schemas.ranking import decode_list
from trials.account import Account, settle
from trials.load import Load
from trials.open_loop import Apart, Plan, measure
from trials.traffic import Person, Traffic

Hand = Callable[[], object]
_WARM_S = 4.0  # of load before something is broken
_PAUSE_S = 2.0  # of load between faults, so that the engine is seen to go on and not only to catch up
_HOT_RATE, _HOT_S = 2_000, 5.0
_FLAGGED = 0.9  # share of the lists made without Redis that must say so


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What is tolerated. The figures are for a machine with nothing else to do."""

    back_s: float = 15.0  # from the fault until a list has seen an event sent after it
    redis_back_s: float = 5.0  # from Redis' return until every active user's list is right
    settle_s: float = 60.0  # from the end of the load until the account balances
    hot_ratio: float = 2.0  # p99 of the others beside a hot user, to their p99 without
    hot_right_s: float = 1.0  # until the hot user's list has seen their last event


class Arena(msgspec.Struct, frozen=True, kw_only=True):
    """Where trials take place. `items` are ids to click on; `redis` makes the client that the rebuild writes with."""

    where: Connections
    items: Sequence[str]
    redis: Callable[[Connections], Nodes]
    seed: int
    rate: float = 40.0
    limits: Limits = Limits()
    say: Callable[[str], None] = lambda _: None

    def traffic(self) -> Traffic:
        return Traffic(self.seed, f"trial-{uuid.uuid4().hex[:8]}", self.items)


class Verdict(msgspec.Struct, kw_only=True):
    """`wrong` says in sentences why a trial has not passed."""

    trial: str
    seed: int
    figures: dict[str, Any] = {}
    account: Account | None = None
    wrong: list[str] = []

    @property
    def passed(self) -> bool:
        return not self.wrong


def kills(arena: Arena, kill: Sequence[Hand], ready: Hand = lambda: None) -> Verdict:
    """Kill the TaskManager under load, with each of the hands in turn; `ready` provides the slot that the job goes to."""
    verdict = Verdict(trial="kill", seed=arena.seed)
    with Load(arena.where, arena.traffic(), arena.rate) as load:
        time.sleep(_WARM_S)
        verdict.figures["back_s"] = []
        for hand in kill:
            ready()
            verdict.figures["back_s"].append(_broken(arena, load, hand, verdict))
    return _accounted(arena, load, verdict)


def broker_restarted(arena: Arena, restart: Hand) -> Verdict:
    """Restart the broker under load."""
    verdict = Verdict(trial="broker", seed=arena.seed)
    with Load(arena.where, arena.traffic(), arena.rate) as load:
        time.sleep(_WARM_S)
        verdict.figures["back_s"] = _broken(arena, load, restart, verdict)
    return _accounted(arena, load, verdict)


def redis_away(arena: Arena, stop: Hand, start: Hand, away_s: float = 20.0, name: str = "redis") -> Verdict:
    """Stop Redis under load (or hang it), and bring it back, empty or not. Whoever left meanwhile is back after a rebuild."""
    verdict = Verdict(trial=name, seed=arena.seed)
    with Load(arena.where, arena.traffic(), arena.rate) as quiet:
        time.sleep(_WARM_S)
    settle(arena.where, quiet, arena.limits.settle_s)
    with Load(arena.where, arena.traffic(), arena.rate) as load:
        time.sleep(_WARM_S)
        arena.say(f"{name}: away for {away_s:.0f} s")
        stop()
        away_ms = _now_ms() + 1_000  # what was under way may still have been written
        time.sleep(away_s)
        back_ms = _now_ms()
        start()
        begun, since_ms = time.monotonic(), _now_ms()
        right = _until(lambda: _all_right(arena.where, load.traffic.present(), since_ms), 60)
        verdict.figures["active_users_right_s"] = back_s = round(time.monotonic() - begun, 2)
        if not right or back_s > arena.limits.redis_back_s:
            verdict.wrong.append(f"active users were not right within {arena.limits.redis_back_s} s of Redis' return")
    made, flagged = _degraded(arena.where, away_ms, back_ms)
    verdict.figures |= {"lists_without_redis": made, "flagged": flagged}
    if not made or flagged < _FLAGGED * made:
        verdict.wrong.append(f"of {made} lists made without Redis, {flagged} were flagged as degraded")
    verdict.figures["quiet_users_missing_before_rebuild"] = _missing(arena.where, quiet.traffic.people)
    nodes = arena.redis(arena.where)
    with Scanner(arena.where, ScanLimits(records=2**62, seconds=600)) as scanner:
        rebuild(scanner, nodes, arena.where.redis_namespace, _now_ms())
    nodes.close()
    if missing := _missing(arena.where, quiet.traffic.people):
        verdict.wrong.append(f"{missing} quiet users have no list after the rebuild")
    return _accounted(arena, load, verdict)


def worker_hangs(arena: Arena, hang: Hand, resume: Hand, hang_s: float = 5.0) -> Verdict:
    """Stop the ranking worker in its tracks, as native code that does not return would, and let it go on."""
    verdict = Verdict(trial="hang", seed=arena.seed)
    with Load(arena.where, arena.traffic(), arena.rate) as load:
        time.sleep(_WARM_S)

        def both() -> None:
            hang()
            time.sleep(hang_s)
            resume()

        verdict.figures["back_s"] = _broken(arena, load, both, verdict)
    return _accounted(arena, load, verdict)


def hot_user(arena: Arena) -> Verdict:
    """2,000 events a second of one user for 5 s; what the others notice of it, and whether the hot user's list is right.

    With more than one subtask, only some of the others share the hot user's: the figures then flatter.
    """
    verdict = Verdict(trial="hot-user", seed=arena.seed)
    plan = Plan(rate=arena.rate, users=20, seconds=2 * _HOT_S, warm_up_s=1.0, label=f"calm-{uuid.uuid4().hex[:8]}")
    normal = measure(arena.where, plan, arena.items)
    hot = Apart(_heat, arena.where, arena.items)
    try:
        beside = measure(arena.where, msgspec.structs.replace(plan, seconds=_HOT_S), arena.items)
        right_s, applied = hot.result()
    finally:
        hot.end()
    (calm, before), (usual, during) = (
        (one.event_to_list_on_kafka_ms.get("p50", 0.0), one.event_to_list_on_kafka_ms.get("p99", 0.0))
        for one in (normal, beside)
    )
    verdict.figures = {
        "normal_p50_ms": calm,
        "beside_p50_ms": usual,
        "normal_p99_ms": before,
        "beside_p99_ms": during,
        "ratio": round(during / before, 2) if before else None,
        "sender_behind_ms": beside.behind_ms,
        "hot_right_s": right_s,
    }
    if not before or not during or during > arena.limits.hot_ratio * before:
        verdict.wrong.append(f"the others' p99 rose from {before} ms to {during} ms")
    if applied != int(_HOT_RATE * _HOT_S):
        verdict.wrong.append(f"of the hot user's {int(_HOT_RATE * _HOT_S)} events, their list has seen {applied}")
    if right_s is None or right_s > arena.limits.hot_right_s:
        verdict.wrong.append(
            f"the hot user's list was not right within {arena.limits.hot_right_s} s, but after {right_s}"
        )
    return verdict


def _heat(where: Connections, _told: Any, answers: Any, items: Sequence[str]) -> None:
    """In a process of its own: the hot user's events. Answers with the seconds from the last of them until their list has seen it
    (None where it has not), and how many of them it has seen."""
    user, count = f"hot-{uuid.uuid4().hex[:8]}", int(_HOT_RATE * _HOT_S)
    with Events(where, linger_ms=5, timeout_ms=60_000) as events, RankedFeed(where) as feed:
        begun = time.monotonic()
        for number in range(count):
            if number % 20 == 0:
                time.sleep(max(0.0, begun + number / _HOT_RATE - time.monotonic()))
            item_id = items[number % len(items)]
            last = events.track("click", user_id=user, session_id=user, item_id=item_id, props={"surface": "home"})
        sent = time.monotonic()
        while (
            not (answer := feed.get(user, at_least=last.event_id, wait_ms=1_000)).met and time.monotonic() - sent < 45
        ):
            pass
        right_s = round(time.monotonic() - sent, 2) if answer.met else None
        answers.send((right_s, answer.receipt.freshness.event_no if answer.receipt is not None else 0))


def _broken(arena: Arena, load: Load, act: Hand, verdict: Verdict) -> float | None:
    """Break something; seconds from then until a list has seen an event sent after it."""
    arena.say(f"{verdict.trial}: now")
    begun = time.monotonic()
    act()
    since_ms = _now_ms() + 500  # what was under way when it broke may still have been written
    if not _until(lambda: _any_sees(arena.where, load.traffic.present(), since_ms), max(60.0, 2 * arena.limits.back_s)):
        verdict.wrong.append("lists did not come back")
        return None
    back_s = round(time.monotonic() - begun, 2)
    if back_s > arena.limits.back_s:
        verdict.wrong.append(f"lists were back after {back_s} s; the limit is {arena.limits.back_s} s")
    time.sleep(_PAUSE_S)
    return back_s


def _accounted(arena: Arena, load: Load, verdict: Verdict) -> Verdict:
    verdict.account = account = settle(arena.where, load, arena.limits.settle_s)
    if not account.balanced:
        verdict.wrong += account.differences or [f"the account does not balance: {account}"]
    return verdict


def _any_sees(where: Connections, people: Iterable[Person], since_ms: int) -> bool:
    return any(newest > since_ms for newest in _newest_seen(where, people))


def _all_right(where: Connections, people: Sequence[Person], since_ms: int) -> bool:
    """Whether most have clicked again since, and the lists of all who have name a click since."""
    back = [person for person in people if person.clicks and person.clicks[-1].ts_ms > since_ms]
    return len(back) > len(people) / 2 and all(newest > since_ms for newest in _newest_seen(where, back))


def _newest_seen(where: Connections, people: Iterable[Person]) -> list[int]:
    """For each person, the time of the last event that their list in Redis has seen; 0 without a list."""
    with RankedFeed(where) as feed:
        answers = [
            feed.get(person.user_id if person.logged_in else None, session_id=person.session_id) for person in people
        ]
    return [(answer.receipt.freshness.last_event_ts_ms or 0) if answer.receipt is not None else 0 for answer in answers]


def _missing(where: Connections, people: Sequence[Person]) -> int:
    return _newest_seen(where, [person for person in people if person.clicks]).count(0)


def _degraded(where: Connections, since_ms: int, until_ms: int) -> tuple[int, int]:
    """How many lists were made in a stretch of time, and how many of them say that Redis did not take them."""
    with Scanner(where, ScanLimits(records=2**62, seconds=60)) as scanner:
        lists = [decode_list(record.value) for record in scanner.since(topics.RANKED_FEED, since_ms)]
    lists = [one for one in lists if since_ms <= one.created_ms < until_ms]
    return len(lists), sum("redis" in one.degraded for one in lists)


def _until(condition: Callable[[], bool], limit_s: float) -> bool:
    deadline = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def _now_ms() -> int:
    return int(time.time() * 1000)
