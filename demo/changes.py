"""When the mind changes within a visit: after how many events does the list follow?

    a shopper's past ─ one intent: two items looked at ─ another intent, of another category: click, view, click ─ after each a list

python -m models.evaluate BUNDLE --changes 500      asks it of a bundle
"""

from __future__ import annotations

import numpy as np

from demo.catalogue import CATEGORY_OF
from demo.evaluate import Rank, Situation
from demo.offline import START_MS, play
from demo.policies import mixed
from demo.tastes import FIRST_UNSEEN, Memory, meet
from demo.truth import top
from demo.world import DAY_MS, generator, load
from demo.writer import Writer
from schemas.event import Event

EVENTS = 3  # of the new intent, after each of which a list is asked for
_PAST_VISITS = 3
_DWELL_MS = 15_000
_POOL = 20  # the items looked at are among the most appealing of their subcategory


def followed(rank: Rank, *, visits: int = 500, seed: int = 1, first_shopper: int = FIRST_UNSEEN) -> list[float]:
    """Share of visits in which the list's first item was of the new intent's category after the first event, by the second,
    and by the third."""
    led = [_visit(rank, number, seed) for number in range(first_shopper, first_shopper + visits)]
    return [float(share) for share in np.maximum.accumulate(np.array(led), axis=1).mean(axis=0)]


def _visit(rank: Rank, number: int, seed: int) -> list[bool]:
    """After each event of the new intent, whether it leads."""
    world = load()
    shopper, memory, rng = meet(world, number), Memory(), generator(seed, 9, number)
    past: list[Event] = []
    for visit in range(_PAST_VISITS):
        at = START_MS + (20 + visit) * DAY_MS + int(rng.integers(DAY_MS // 2))
        past += [event for event in play(world, shopper, memory, at, rng, mixed())[0] if event.user_id]
    before, after = _two_intents(rng)
    now_ms = START_MS + 24 * DAY_MS + int(rng.integers(DAY_MS // 2))
    writer = Writer(shopper.user_id, rng)

    def looks(subcategory: int, at_ms: int) -> list[Event]:
        appeal = np.where(world.subcategory == subcategory, shopper.appeal, 0.0)
        item_id = world.ids[int(top(appeal, _POOL)[rng.integers(_POOL)])]
        clicked = writer.click(at_ms, item_id, None, None, None)
        return [clicked, writer.view(at_ms + _DWELL_MS, item_id, _DWELL_MS, None)]

    events = past + looks(before, now_ms) + looks(before, now_ms + 30_000)
    led = []
    for event in (*looks(after, now_ms + 60_000), looks(after, now_ms + 90_000)[0]):
        events.append(event)
        ranked = rank(Situation(shopper.user_id, writer.session_id, event.ts_ms + 1, events))
        led.append(CATEGORY_OF[world.subcategory[world.index[ranked[0]]]] == CATEGORY_OF[after])
    return led


def _two_intents(rng: np.random.Generator) -> tuple[int, int]:
    """Two subcategories of different categories."""
    while True:
        before, after = rng.integers(0, len(CATEGORY_OF), 2).tolist()
        if CATEGORY_OF[before] != CATEGORY_OF[after]:
            return before, after
