"""Proof where the truth is known: off-policy estimates and A/B tests on the demo shop's visits, no Kafka, no Flink.

    a pool of visits ─ their true click probabilities ─┬─ lists drawn by one policy, logged with probabilities ─ estimate of another
                                                       └─ shoppers assigned to two arms ─ report on the experiment

    python -m demo.logged      200 runs of each, and how often the interval held the truth

A policy draws each place from a softmax over the candidates that are left (Plackett-Luce), so that the probability of each item
given the items above it is known. The truth of a policy is computed on the whole pool, from which each run draws its visits.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from demo.tastes import FIRST_UNSEEN, Memory, intent_probabilities, meet
from demo.truth import Moment, expected_relevance, popularity, relevance, top
from demo.world import DAY_MS, HOUR_MS, Floats, Ints, examination, generator, load
from proof.off_policy import Logged, evaluate, item_rates
from schemas.experiment_metrics import UnitMetrics

VISITS = 3_000  # in the pool
CANDIDATES, PLACES = 16, 3
_WARMTH = 1.0  # of the softmax: higher is closer to a fixed order, and further from another policy
_BEGIN_MS = 1_767_571_200_000


class Shop(NamedTuple):
    """A pool of visits. C candidates each: item numbers, P(click | examined), and what two rankers think of them."""

    items: Ints  # (V, C)
    relevance: Floats  # (V, C)
    popular: Floats  # (V, C) scores of the logging policy
    personal: Floats  # (V, C) scores of the policy that is to be judged


class Draws(NamedTuple):
    """Lists of PLACES: which candidate, with which probability given those above, under both policies; and clicks."""

    visit: Ints  # (n,)
    chosen: Ints  # (n, PLACES)
    logging: Floats  # (n, PLACES)
    target: Floats  # (n, PLACES)
    clicked: Floats  # (n, PLACES)
    target_of_all: Floats  # (n, PLACES, C) the target's probability of each candidate there


def open_shop(visits: int = VISITS) -> Shop:
    """Unseen shoppers at seeded hours. About a millisecond a visit."""
    world, memory, liked = load(), Memory(), popularity(200)
    rows: list[tuple[Ints, Floats, Floats, Floats]] = []
    favourites = top(liked, CANDIDATES // 2)
    for number in range(visits):
        rng = generator(71, number)
        shopper = meet(world, FIRST_UNSEEN + number)
        now_ms = _BEGIN_MS + int(rng.integers(14)) * DAY_MS + int(rng.integers(8, 23)) * HOUR_MS
        intents = intent_probabilities(world, shopper, memory, now_ms)
        guess = expected_relevance(world, shopper, Moment(now_ms, -1, frozenset(), memory), intents)
        guess_top = top(guess, CANDIDATES + 8)
        items = np.concatenate([favourites, guess_top[~np.isin(guess_top, favourites)]])[:CANDIDATES]
        moment = Moment(now_ms, int(rng.choice(len(intents), p=intents)), frozenset(), memory)
        rows.append((items, relevance(world, shopper, moment, items), liked[items], guess[items]))
    items, relevant, popular, personal = (np.stack(column) for column in zip(*rows))
    return Shop(items, relevant, _standard(popular), _standard(personal))


def _standard(scores: Floats) -> Floats:
    logs = np.log(np.maximum(scores, 1e-4))
    centred: Floats = (logs - logs.mean(axis=1, keepdims=True)) / np.maximum(logs.std(axis=1, keepdims=True), 1e-6)
    return centred


def draw(
    shop: Shop, visit: Ints, by: Floats, target: Floats, rng: np.random.Generator, warmth: float = _WARMTH
) -> Draws:
    """One list per visit, drawn by the scores `by`; probabilities under `target` given the same items above."""
    n = len(visit)
    logits = [warmth * scores[visit] / 2 for scores in (by, target)]
    left = np.ones((n, shop.items.shape[1]), dtype=bool)
    rows, chosen, chances, of_all = np.arange(n), [], [], []
    for _ in range(PLACES):
        own, other = (_softmax(one, left) for one in logits)
        pick = np.minimum((own.cumsum(axis=1) < rng.random((n, 1))).sum(axis=1), own.shape[1] - 1)
        chosen.append(pick)
        chances.append((own[rows, pick], other[rows, pick]))
        of_all.append(other)
        left[rows, pick] = False
    at = np.stack(chosen, axis=1)
    p_click = shop.relevance[visit[:, None], at] * examination(np.arange(PLACES))
    clicked = (rng.random(p_click.shape) < p_click).astype(np.float64)
    logging, judged = (np.stack(column, axis=1) for column in zip(*chances))
    return Draws(visit, at, logging, judged, clicked, np.stack(of_all, axis=1))


def _softmax(logits: Floats, left: npt.NDArray[np.bool_]) -> Floats:
    powers = np.where(left, np.exp(logits), 0.0)
    chances: Floats = powers / powers.sum(axis=1, keepdims=True)
    return chances


def true_rate(shop: Shop, scores: Floats, rounds: int = 20) -> float:
    """Expected clicks per place of lists drawn by the scores; of every visit of the pool, `rounds` lists each."""
    rng, visit = generator(72), np.tile(np.arange(len(shop.items)), rounds)
    made = draw(shop, visit, scores, scores, rng)
    seen = shop.relevance[visit[:, None], made.chosen] * examination(np.arange(PLACES))
    return float(seen.mean())


def as_logged(shop: Shop, made: Draws, seed: int) -> Logged:
    """Rows for proof.off_policy: weights multiply from the top of each list (cascade), a list is one cluster."""
    n = len(made.visit)
    item = shop.items[made.visit[:, None], made.chosen]  # (n, PLACES)
    lists = np.repeat(np.arange(n), PLACES)
    model = item_rates(item.ravel(), made.clicked.ravel(), lists, int(shop.items.max()) + 1, seed)
    shown = model.of(item.ravel())
    rates = model.rates[model.fold.reshape(n, PLACES)[:, :1], shop.items[made.visit]]  # (n, C)
    # Under the target, given what stands above as it was logged; weighted like the places above (doubly robust per decision).
    expected = (made.target_of_all * rates[:, None, :]).sum(axis=2)  # (n, PLACES)
    before = np.cumprod(np.pad(made.target / made.logging, ((0, 0), (1, 0)), constant_values=1.0), axis=1)[:, :-1]
    return Logged(
        made.clicked.ravel(),
        np.cumprod(made.logging, axis=1).ravel(),
        np.cumprod(made.target, axis=1).ravel(),
        shown,
        (before * expected).ravel(),
        lists,
    )


class Covered(NamedTuple):
    """Of so many runs: in how many the interval held the truth, by estimator; and how many were refused."""

    runs: int
    held: dict[str, int]
    refused: int
    truth: float


def cover(shop: Shop, runs: int = 200, lists: int = 1_000) -> Covered:
    """Estimate the personal policy from lists of the popular one, `runs` times."""
    truth, held, refused = true_rate(shop, shop.personal), dict.fromkeys(("ips", "snips", "dr"), 0), 0
    for run in range(runs):
        rng = generator(73, run)
        made = draw(shop, rng.integers(0, len(shop.items), lists), shop.popular, shop.personal, rng)
        found = evaluate(as_logged(shop, made, run), None, run)
        refused += found.refused
        for name in held:
            low, high = found.intervals[name]
            held[name] += low <= truth <= high
    return Covered(runs, held, refused, truth)


def units(
    shop: Shop, assignment: Callable[[str], str | None], name: str, shoppers: int, seed: int
) -> list[UnitMetrics]:
    """A live A/B: shoppers come once or a few times; arm `new` sees the personal ranker's lists, any other the popular ones."""
    rng, found = generator(74, seed), []
    for number in range(shoppers):
        unit = f"u:shopper-{seed}-{number}"
        arm = assignment(unit)
        if arm is None:
            continue
        scores = shop.personal if arm == "new" else shop.popular
        visit = np.repeat(rng.integers(0, len(shop.items)), 1 + rng.integers(0, 4))
        made = draw(shop, visit, scores, scores, rng)
        found.append(
            UnitMetrics(
                experiment=name,
                arm=arm,
                unit=unit,
                exposures=made.clicked.size,
                clicks=int(made.clicked.sum()),
                sessions=len(visit),
                lists=len(visit),
            )
        )
    return found


def main() -> None:
    shop = open_shop()
    found = cover(shop)
    sys.stdout.write(
        f"{found.runs} runs, 95 % intervals, true rate {found.truth:.5f}: "
        + ", ".join(f"{name} held it in {count}" for name, count in found.held.items())
        + f"; {found.refused} refused.\n"
    )


if __name__ == "__main__":
    main()
