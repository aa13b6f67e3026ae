"""Regret of the exploration policies against a public library's, on seeded Bernoulli problems.

Run in an environment of its own, which holds the library:

    uv run --no-project --python 3.11 --with mabwiser==2.7.4 --with "msgspec>=0.19" python bench/bandits.py
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
from mabwiser.mab import MAB, LearningPolicy

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from schemas.policy import Explore
from udfs.logic.exploration import BetaTables, chances, draw

ARMS, STEPS, PROBLEMS = 10, 2_000, int(sys.argv[1]) if len(sys.argv) > 1 else 40
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


def main() -> None:
    problems = [np.random.default_rng(1_000 + number).uniform(0.02, 0.5, ARMS) for number in range(PROBLEMS)]
    found = {}
    for name, slot in OURS.items():
        mine = np.array([ours(slot, means, 7 * number) for number, means in enumerate(problems)])
        other = np.array([theirs(THEIRS[name], means, 7 * number + 1) for number, means in enumerate(problems)])
        gap = (mine - other).std(ddof=1) / np.sqrt(PROBLEMS) / other.mean()
        found[name] = {
            "regret": round(float(mine.mean()), 2),
            "mabwiser": round(float(other.mean()), 2),
            "ratio": round(float(mine.mean() / other.mean()), 3),
            "standard_error": round(float(gap), 3),
        }
        print(name, found[name], flush=True)
    print(json.dumps({"mabwiser": version("mabwiser"), "steps": STEPS, "problems": PROBLEMS, **found}))


main()
