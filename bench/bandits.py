"""Regret of the exploration policies against a public library's, on seeded Bernoulli and linear problems.

Run by `python -m bench bandits`, in an environment of its own, which holds the library.
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
from mabwiser.mab import MAB, LearningPolicy

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from schemas.beliefs import D
from schemas.policy import Explore
from udfs.logic.beliefs import linucb
from udfs.logic.exploration import BetaTables, chances, draw

ARMS, STEPS, PROBLEMS = 10, 2_000, int(sys.argv[1]) if len(sys.argv) > 1 else 40
LINEAR_STEPS, LINEAR_PROBLEMS = 600, 10  # the library's LinUCB takes 10 ms a step
OURS = {
    "thompson": Explore(places=[1], policy="thompson"),
    "ucb": Explore(places=[1], policy="ucb"),
    "epsilon_greedy": Explore(places=[1], policy="epsilon_greedy", epsilon=0.1),
    "softmax": Explore(places=[1], policy="softmax", temperature=0.1),
}
THEIRS = {
    "thompson": LearningPolicy.ThompsonSampling(),
    "ucb": LearningPolicy.UCB1(alpha=1.0),
    "epsilon_greedy": LearningPolicy.EpsilonGreedy(epsilon=0.1),
    "softmax": LearningPolicy.Softmax(tau=0.1),
}


def ours(slot: Explore, means: np.ndarray, seed: int) -> float:
    rng, tables = np.random.default_rng(seed), BetaTables(kept=100_000)
    posteriors, regret = np.ones((ARMS, 2)), 0.0
    for step in range(STEPS):
        if step < ARMS and slot.policy in ("ucb",):
            arm = step
        else:
            believed = (posteriors[:, 0] - 1) / np.maximum(posteriors.sum(axis=1) - 2, 1)
            arm = draw(chances(slot, believed, posteriors, tables), rng.random())
        won = rng.random() < means[arm]
        posteriors[arm] += (won, not won)
        regret += means.max() - means[arm]
    return regret


def theirs(policy: object, means: np.ndarray, seed: int) -> float:
    rng = np.random.default_rng(seed)
    bandit, regret = MAB(list(range(ARMS)), policy, seed=seed), 0.0
    bandit.fit(list(range(ARMS)), [int(rng.random() < mean) for mean in means])
    for _ in range(STEPS - ARMS):
        arm = bandit.predict()
        bandit.partial_fit([arm], [int(rng.random() < means[arm])])
        regret += means.max() - means[arm]
    return regret + float((means.max() - means).sum())


def linear(seed: int, by_library: bool) -> float:
    """LinUCB on a linear problem: contexts of D features, ten arms; both see the same contexts and the same luck."""
    rng, bonus = np.random.default_rng(seed), 0.5
    weights = rng.uniform(0, 0.9 / D, (ARMS, D))
    contexts, luck = rng.uniform(0, 1, (LINEAR_STEPS, D)), rng.random(LINEAR_STEPS)
    squares, rewards, regret = np.stack([np.eye(D)] * ARMS), np.zeros((ARMS, D)), 0.0
    inverses = np.linalg.inv(squares)
    bandit = MAB(list(range(ARMS)), LearningPolicy.LinUCB(alpha=bonus, l2_lambda=1.0), seed=seed)
    for step, x in enumerate(contexts):
        if not by_library:
            arm = int(np.argmax(linucb(x, inverses, rewards, None) @ (1, bonus)))
        else:
            arm = bandit.predict([x]) if step else 0
        chances_of = weights @ x
        won = int(luck[step] < chances_of[arm])
        if by_library:
            (bandit.partial_fit if step else bandit.fit)([arm], [won], [x])
        else:
            squares[arm] += np.outer(x, x)
            inverses[arm] = np.linalg.inv(squares[arm])
            rewards[arm] += won * x
        regret += chances_of.max() - chances_of[arm]
    return regret


def compared(mine: np.ndarray, other: np.ndarray) -> dict[str, float]:
    gap = (mine - other).std(ddof=1) / np.sqrt(len(mine)) / other.mean()
    return {
        "regret": round(float(mine.mean()), 2),
        "mabwiser": round(float(other.mean()), 2),
        "ratio": round(float(mine.mean() / other.mean()), 3),
        "standard_error": round(float(gap), 3),
    }


def main() -> None:
    problems = [np.random.default_rng(1_000 + number).uniform(0.02, 0.5, ARMS) for number in range(PROBLEMS)]
    found = {}
    for name, slot in OURS.items():
        mine = np.array([ours(slot, means, 7 * number) for number, means in enumerate(problems)])
        other = np.array([theirs(THEIRS[name], means, 7 * number + 1) for number, means in enumerate(problems)])
        found[name] = compared(mine, other)
        print(name, found[name], flush=True)
    sides = [np.array([linear(3_000 + number, side) for number in range(LINEAR_PROBLEMS)]) for side in (False, True)]
    found["linucb"] = compared(*sides)
    print("linucb", found["linucb"], flush=True)
    counts = {"steps": STEPS, "problems": PROBLEMS, "linear_steps": LINEAR_STEPS, "linear_problems": LINEAR_PROBLEMS}
    print(json.dumps({"mabwiser": version("mabwiser"), **counts, **found}))


main()
