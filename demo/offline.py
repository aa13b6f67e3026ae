"""Training traffic at full speed: simulated time, any logging policy, the same visits as the live shop.

schedule of visits over the days ─ each visit against the policy ─ VisitLog ─ in_time_order ─ events and exposures
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from demo.policies import Policy, mixed
from demo.shoppers import Exposure, Reaction, Visit
from demo.tastes import DEFAULT_SHOPPERS, Memory, Shopper, meet
from demo.world import DAY_MS, HOUR_MS, World, generator, load
from schemas.event import Event

START_MS = 1_767_571_200_000  # Monday 2026-01-05, 00:00 UTC
DAYS = 28
_APART_MS = HOUR_MS  # between two visits of one shopper: longer than any session's gap of 30 minutes
# How busy the shop is by hour of day, UTC.
_BUSY = np.array([2, 1, 1, 1, 1, 2, 4, 6, 7, 6, 6, 7, 8, 7, 6, 6, 7, 9, 11, 13, 13, 11, 8, 4], dtype=float)


@dataclass(frozen=True)
class VisitLog:
    """One visit from end to end. `events` and `exposures` are each in order of time."""

    shopper: Shopper
    visit_no: int  # of this shopper, from 0
    start_ms: int
    events: list[Event]
    exposures: list[Exposure]


class Record(NamedTuple):
    """One line of the merged stream: exactly one of the two is set. An exposure comes before the events it caused."""

    ts_ms: int
    shopper: int
    event: Event | None
    exposure: Exposure | None


def visit_times(shopper: Shopper, start_ms: int, days: int, rng: np.random.Generator) -> list[int]:
    """When a shopper comes: about `visits_per_day`, at busy hours, never twice within an hour."""
    times: list[int] = []
    share = _BUSY / _BUSY.sum()
    for day in range(days):
        expected = share * shopper.visits_per_day
        for hour in np.flatnonzero(rng.random(24) < expected):
            at = start_ms + day * DAY_MS + int(hour) * HOUR_MS + int(rng.integers(HOUR_MS // 2))
            if not times or at - times[-1] >= _APART_MS:
                times.append(at)
    return times


def play(
    world: World, shopper: Shopper, memory: Memory, start_ms: int, rng: np.random.Generator, policy: Policy
) -> tuple[list[Event], list[Exposure]]:
    """One visit against a policy."""
    visit = Visit.start(world, shopper, memory, start_ms, rng)
    events, exposures = list(visit.opening), []
    while not visit.done:
        now_ms = visit.ready_ms
        item_ids = [world.ids[item] for item in policy(visit, now_ms, rng).tolist()]
        reaction: Reaction = visit.shown(visit.writer.new_id(), item_ids, now_ms, rng)
        events += reaction.events
        exposures.append(reaction.exposure)
    return events, exposures


def visits(
    shoppers: Sequence[int] = range(DEFAULT_SHOPPERS),
    *,
    start_ms: int = START_MS,
    days: int = DAYS,
    seed: int = 1,
    policy: Policy | None = None,
) -> Iterator[VisitLog]:
    """Every visit of these shoppers (by number) in order of its start. Same arguments, same visits."""
    world, policy = load(), policy or mixed()
    met = {number: meet(world, number) for number in shoppers}
    memories = {number: Memory() for number in shoppers}
    schedule = sorted(
        (at, number, visit_no)
        for number, shopper in met.items()
        for visit_no, at in enumerate(visit_times(shopper, start_ms, days, generator(seed, 4, number)))
    )
    for at, number, visit_no in schedule:
        rng = generator(seed, 5, number, visit_no)
        events, exposures = play(world, met[number], memories[number], at, rng, policy)
        yield VisitLog(met[number], visit_no, at, events, exposures)


def in_time_order(logs: Iterable[VisitLog]) -> Iterator[Record]:
    """Merge visits that overlap into one stream. Holds only the visits that are still going on."""
    waiting: list[tuple[int, int, Record]] = []
    count = 0
    for log in logs:
        while waiting and waiting[0][0] < log.start_ms:
            yield heapq.heappop(waiting)[2]
        number = log.shopper.number
        records = [Record(shown.ts_ms, number, None, shown) for shown in log.exposures]
        records += [Record(event.ts_ms, number, event, None) for event in log.events]
        for record in records:
            heapq.heappush(waiting, (record.ts_ms, count, record))
            count += 1
    while waiting:
        yield heapq.heappop(waiting)[2]
