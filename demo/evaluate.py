"""How good is a ranking on shoppers nobody has trained on? Expected CTR next to popularity, tastes only and the optimum.

unseen shopper ─ earlier visits against the logging policy ─ one more visit against the ranking ─ CtrAccount

python -m demo.evaluate              the baselines: what there is to gain, and the ceiling
python -m demo.evaluate --help       what the rows mean
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from demo.accounting import CtrAccount
from demo.offline import DAYS, START_MS, play, visit_times
from demo.policies import mixed
from demo.shoppers import Visit
from demo.tastes import FIRST_UNSEEN, Memory, meet
from demo.truth import optimum, popular, tastes_only, top
from demo.world import LIST_SIZE, Ints, generator, load
from schemas.event import Event
from schemas.keys import user_key


@dataclass(frozen=True)
class Situation:
    """All that a ranker may know when it is asked. `events` are of this key only, oldest first, earlier visits included."""

    user_id: str | None
    session_id: str
    now_ms: int
    events: Sequence[Event]

    @property
    def key(self) -> str:
        return user_key(self.user_id, self.session_id)


Rank = Callable[[Situation], Sequence[str]]
# Oracles may look into the visit; rankers may not.
Oracle = Callable[[Visit, int], Ints]

ORACLES: dict[str, Oracle] = {
    "observer": lambda visit, now_ms: top(visit.observer.relevance(visit.moment(now_ms))),
    "tastes": lambda visit, now_ms: tastes_only(visit.world, visit.shopper, visit.moment(now_ms)),
    "popularity": lambda _visit, _now_ms: popular(),
    "optimum": lambda visit, now_ms: optimum(visit.world, visit.shopper, visit.moment(now_ms)),
}
_SIGNS = ("click", "search")


def evaluate(
    rank: Rank,
    *,
    visits: int = 400,
    seed: int = 1,
    first_shopper: int = FIRST_UNSEEN,
    days: int = DAYS,
    start_ms: int = START_MS,
) -> CtrAccount:
    """Show `rank`'s lists to unseen shoppers, one visit each after `days` of history, and account for them.

    The same arguments give the same shoppers, histories and first intents, whatever the ranker.
    """
    ranks = [rank]
    return evaluate_beside(ranks, visits=visits, seed=seed, first_shopper=first_shopper, days=days, start_ms=start_ms)[
        0
    ]


def evaluate_beside(
    ranks: Sequence[Rank],
    *,
    visits: int = 400,
    seed: int = 1,
    first_shopper: int = FIRST_UNSEEN,
    days: int = DAYS,
    start_ms: int = START_MS,
) -> list[CtrAccount]:
    """As `evaluate`, an account each: the first's lists are shown, and the others charged what theirs were worth at the same
    moments (CtrAccount.over)."""
    accounts = [CtrAccount(load(), with_tastes=True) for _ in ranks]
    shows = [lambda _, situation, rank=rank: rank(situation) for rank in ranks]
    for visit, history, rng in _last_visits(visits, seed, first_shopper, days, start_ms):
        _show(visit, history, rng, accounts, shows)
    return accounts


def evaluate_oracle(
    oracle: Oracle, *, visits: int = 400, seed: int = 1, first_shopper: int = FIRST_UNSEEN, days: int = DAYS
) -> CtrAccount:
    """The same for a ranking that may look into the visit: the baselines and ceilings of ORACLES."""
    world = load()
    account = CtrAccount(world, with_tastes=True)

    def choose(visit: Visit, situation: Situation) -> list[str]:
        return [world.ids[item] for item in oracle(visit, situation.now_ms).tolist()]

    for visit, history, rng in _last_visits(visits, seed, first_shopper, days):
        _show(visit, history, rng, [account], [choose])
    return account


def _last_visits(
    count: int, seed: int, first_shopper: int, days: int, start_ms: int = START_MS
) -> Iterator[tuple[Visit, list[Event], np.random.Generator]]:
    """For `count` shoppers: their last visit of these days, just begun, and the events of the earlier ones (logged in)."""
    world, policy = load(), mixed()
    for number in range(first_shopper, first_shopper + count):
        shopper, memory, history = meet(world, number), Memory(), list[Event]()
        times = visit_times(shopper, start_ms, days, generator(seed, 4, number)) or [start_ms]
        for visit_no, at in enumerate(times[:-1]):
            events, _ = play(world, shopper, memory, at, generator(seed, 5, number, visit_no), policy)
            history += _known(events)
        rng = generator(seed, 6, number)
        yield Visit.start(world, shopper, memory, times[-1], rng), history, rng


def _known(events: list[Event]) -> list[Event]:
    """What belongs to the user after a visit: all of it once they logged in, nothing while anonymous."""
    return events if any(event.user_id for event in events) else []


def _show(
    visit: Visit,
    history: list[Event],
    rng: np.random.Generator,
    accounts: Sequence[CtrAccount],
    chooses: Sequence[Callable[[Visit, Situation], Sequence[str]]],
) -> None:
    """The list of the first of `chooses` is shown; each is charged to its account."""
    current = list(visit.opening)
    while not visit.done:
        now_ms = visit.ready_ms
        events = history + current if visit.user_id else current
        situation = Situation(visit.user_id, visit.session_id, now_ms, events)
        signs = sum(event.event_type in _SIGNS for event in current)
        lists = [list(choose(visit, situation))[:LIST_SIZE] for choose in chooses]
        for account, item_ids in zip(accounts, lists, strict=True):
            account.add(visit.session_id, visit.shopper, visit.moment(now_ms), item_ids, signs)
        current += visit.shown(visit.writer.new_id(), lists[0], now_ms, rng).events


def table(account: CtrAccount) -> str:
    """Rows of `CtrAccount.shares` as text, the optimum last."""
    lines = [f"{'ranking':<14}{'CTR':>9}{'± SE':>9}{'of optimum':>13}{'± SE':>8}"]
    shares = account.shares()
    for name in sorted(shares, key=lambda name: shares[name].ctr):
        share = shares[name]
        lines.append(
            f"{name:<14}{share.ctr:>9.4f}{share.ctr_se:>9.4f}{share.of_optimum:>12.1%}{share.of_optimum_se:>9.1%}"
        )
    return "\n".join(lines)


_HELP = """\
Rankings, all on the same moments of the same visits of shoppers nobody trains on:
  popularity    the ten items most clicked over all shoppers; knows nobody
  tastes_only   the best list of one who knows the shopper's tastes, follows, purchases and the hour, but not the visit
  ranked        the list that was shown (--show). The default, the ideal observer, knows all of that and learns the
                visit's intent from searches, clicks and dwell alone: no ranker can do better than it on average
  optimum       the ten items of highest true click probability; knows the intent
CTR is the expected number of clicks per place, by true probabilities and with position bias: no luck is in it.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m demo.evaluate",
        description="What there is to gain in the demo shop.",
        epilog=_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--visits", type=int, default=400, help="unseen shoppers, one visit each (default 400, about 15 s)"
    )
    parser.add_argument(
        "--seed", type=int, default=1, help="another seed, other visits of the same shoppers (default 1)"
    )
    parser.add_argument(
        "--show", choices=sorted(ORACLES), default="observer", help="whose lists are shown (default observer)"
    )
    options = parser.parse_args(arguments)
    account = evaluate_oracle(ORACLES[options.show], visits=options.visits, seed=options.seed)
    print(table(account))
    print(f"\n{options.visits} visits, {account.moments} lists; shown: {options.show}. Share of the optimum that the")
    print("shown list reaches after so many clicks and searches of the visit, or more:")
    print("  " + "   ".join(f"{signs}+: {account.after_signs(signs):.1%}" for signs in range(5)))


if __name__ == "__main__":
    main()
