"""One evaluation for every model: fit it for each seed, score, rank the true item, keep what the figures need.

model × seed ─ fit, in its share of time ─ score in chunks ─┬ ranks ─ per case: hit rate, NDCG, reciprocal rank
                                                            ├ top of each list ─ coverage, novelty, diversity …
                                                            └ softmax, where scores are logits ─ calibration
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.baselines.contract import Floats, Lists, NextItem, Reranker, Tick
from models.evaluation import clickout_features
from models.evaluation.budget import Budget
from models.evaluation.clickout_files import Clickouts, with_touches
from models.evaluation.ranks import Doubles, Ints, hit_rate, ndcg, ranks_in_lists, ranks_in_rows, reciprocal
from models.evaluation.session_files import Prefixes, Sessions, Split, prefixes

TOP = 20
_CHUNK = 256  # prefixes scored at a time: a row holds a score for every item
Watch = Callable[[str], Tick]  # what is being done -> where its steps are told


class Confidence(NamedTuple):
    """Of the first place of each list: the probability that the model claims, and whether it was right."""

    claimed: Doubles
    right: NDArray[np.bool_]


@dataclass
class Outcome:
    """One model's. Arrays of cases are means over seeds; the rest is of the first seed."""

    name: str
    cases: dict[str, Doubles] = field(default_factory=dict)  # metric -> (n,)
    by_seed: dict[str, list[float]] = field(default_factory=dict)  # metric -> mean of each seed
    lists: dict[str, float] = field(default_factory=dict)  # metrics of the lists themselves
    confidence: Confidence | None = None
    seconds: float = 0.0

    def add(self, cases: dict[str, Doubles]) -> None:
        for name, values in cases.items():
            seen = len(self.by_seed.setdefault(name, []))
            before = self.cases.get(name, np.zeros_like(values))
            self.cases[name] = (before * seen + values) / (seen + 1)
            self.by_seed[name].append(float(values.mean()))


class Comparison(NamedTuple):
    """All models on the same n cases. `clusters` are their sessions, `segments` name subsets of the cases."""

    task: str
    outcomes: dict[str, Outcome]
    clusters: Ints
    segments: dict[str, NDArray[np.bool_]]
    main: str  # the metric that models are compared by
    notes: list[str]


def on_sessions(
    split: Split,
    models: Mapping[str, Callable[[int], NextItem]],
    seeds: int,
    watch: Watch,
    limit_s: float = math.inf,
) -> Comparison:
    """Next item over every prefix of the test sessions, among all items of training. `limit_s` bounds the fits."""
    asked = prefixes(split.test)
    counts = np.bincount(split.training.items, minlength=split.training.n_items)
    outcomes, budget = {}, Budget(limit_s, seeds * sum(make(0).effort for make in models.values()))
    for name, make in models.items():
        outcome = outcomes[name] = Outcome(name)
        begun = time.monotonic()
        for seed in range(seeds):
            model, what = make(seed), f"{name}: fit, seed {seed}"
            model.fit(split.training, budget.of(what, model.effort, watch(what)))
            found = _ask(model, asked, watch(f"{name}: rank, seed {seed}"))
            outcome.add(_cases(found.ranks))
            watch(_so_far(outcome, (f"hr@{TOP}", f"mrr@{TOP}")))(1, 1)
            if not seed:
                outcome.lists = _of_lists(found.tops, counts, _item_sessions(split.training))
                outcome.confidence = found.confidence
        outcome.seconds = time.monotonic() - begun
    lengths = asked.ends - asked.begins
    seen = np.array([target in asked.items(row) for row, target in enumerate(asked.targets)])
    clusters = np.searchsorted(split.test.starts, asked.begins)
    segments = {
        "first event of a session": lengths == 1, "later in a session": lengths > 1, "seen in the session": seen,
        "new in the session": ~seen, **_by_count(counts[asked.targets], counts),
    }  # fmt: skip
    notes = [
        f"{len(split.training)} sessions to train on with {split.training.n_items} items, {len(split.test)} to test on.",
        f"{split.unknown_events} test events are on items that training never saw: left out, as no model can rank them.",
        *_of_time(outcomes, budget),
    ]
    return Comparison("sessions", outcomes, clusters, segments, f"mrr@{TOP}", notes)


def on_clickouts(
    training: Clickouts,
    test: Clickouts,
    models: Mapping[str, Callable[[int], Reranker]],
    seeds: int,
    watch: Watch,
    limit_s: float = math.inf,
) -> Comparison:
    """Re-ranking of displayed lists: where the clicked item of each clickout would have stood. `limit_s` bounds the fits."""
    begun = time.monotonic()
    counts = clickout_features.popularity(training)
    tick = watch("features")
    shown = with_touches(training)
    fitted = Lists(shown, clickout_features.features(shown, counts, True))
    tick(1, 2)
    asked = Lists(test, clickout_features.features(test, counts, False))
    tick(2, 2)
    last = np.array([one.last for one in test.rows])
    left_s = limit_s - (time.monotonic() - begun)
    outcomes, budget = {}, Budget(left_s, seeds * sum(make(0).effort for make in models.values()))
    for name, make in models.items():
        outcome = outcomes[name] = Outcome(name)
        begun = time.monotonic()
        for seed in range(seeds):
            model, what = make(seed), f"{name}: fit, seed {seed}"
            model.fit(fitted, budget.of(what, model.effort, watch(what)))
            scores = np.asarray(model.score(asked))
            ranks = ranks_in_lists(scores, test.starts, test.clicked)
            outcome.add({"mrr_all": reciprocal(ranks), **_cases(ranks, (1, 3, 5))})
            watch(_so_far(outcome, ("mrr_all",)))(1, 1)
            if not seed and model.logits:
                outcome.confidence = _confidence_of_lists(scores, test)
        outcome.seconds = time.monotonic() - begun
    clicked = np.array([counts.clicks[int(one.items[one.clicked])] for one in test.rows])
    users = {one.user for one in training.rows}
    known = np.array([one.user in users for one in test.rows])
    column = clickout_features.NAMES.index("touched_in_list")
    touched = asked.x[test.starts[:-1], column] > 0
    segments = {
        "last of its session": last, "nothing of the list touched": ~touched, "something touched": touched,
        "new users": ~known, "known users": known, "clicked item never clicked in training": clicked == 0,
    }  # fmt: skip
    notes = [
        f"{len(training)} clickouts to train on, with {len(shown) - len(training)} looks at items of their lists; "
        f"{len(test)} clickouts to test on; {training.left_out + test.left_out} on lists of fewer than two items, or "
        "without the clicked one, left out.",
        *_of_time(outcomes, budget),
    ]
    return Comparison("trivago", outcomes, test.session_numbers, segments, "mrr_all", notes)


def _so_far(outcome: Outcome, metrics: tuple[str, ...]) -> str:
    figures = ", ".join(f"{metric} {outcome.by_seed[metric][-1]:.4f}" for metric in metrics)
    return f"{outcome.name}, seed {len(outcome.by_seed[metrics[0]]) - 1}: {figures}"


def _of_time(outcomes: dict[str, Outcome], budget: Budget) -> list[str]:
    took = ", ".join(f"{name} {one.seconds:.0f} s" for name, one in outcomes.items())
    return [f"To fit and rank: {took}.", *budget.cut]


class _Found(NamedTuple):
    ranks: Ints
    tops: Ints  # (n, TOP)
    confidence: Confidence | None


def _ask(model: NextItem, asked: Prefixes, tick: Tick) -> _Found:
    ranks, tops, claimed, right = [], [], [], []
    for part in _parts(asked):
        scores = model.score(part)
        ranks.append(ranks_in_rows(scores, part.targets))
        clean = np.where(np.isfinite(scores), scores, -np.inf)
        top = min(TOP, scores.shape[1])
        best = np.argpartition(-clean, top - 1, axis=1)[:, :top]
        tops.append(best)
        if model.logits:
            first = clean.argmax(axis=1)
            claimed.append(1 / np.exp(clean - clean.max(axis=1, keepdims=True)).sum(axis=1))
            right.append(first == part.targets)
        tick(sum(map(len, ranks)), len(asked))
    confidence = Confidence(np.concatenate(claimed), np.concatenate(right)) if claimed else None
    return _Found(np.concatenate(ranks), np.concatenate(tops), confidence)


def _parts(asked: Prefixes) -> Iterator[Prefixes]:
    for at in range(0, len(asked), _CHUNK):
        yield asked.part(slice(at, at + _CHUNK))


def _cases(ranks: Ints, sizes: tuple[int, ...] = (5, 10, TOP)) -> dict[str, Doubles]:
    found = {f"mrr@{TOP}": reciprocal(ranks, TOP)}
    for k in sizes:
        found |= {f"hr@{k}": hit_rate(ranks, k), f"ndcg@{k}": ndcg(ranks, k)}
    # One item is right in each case, so the average precision is the reciprocal rank without a cut.
    return found | {"map": reciprocal(ranks)}


def _confidence_of_lists(scores: Floats, test: Clickouts) -> Confidence:
    claimed, right = [], []
    for begin, end, clicked in zip(test.starts[:-1], test.starts[1:], test.clicked):
        weights = np.exp(scores[begin:end] - scores[begin:end].max())
        claimed.append(1 / weights.sum())
        right.append(int(weights.argmax()) == clicked)
    return Confidence(np.array(claimed), np.array(right))


def _of_lists(tops: Ints, counts: Ints, vectors: Ints) -> dict[str, float]:
    """Coverage, novelty, popularity bias, concentration and diversity of the first TOP of every list."""
    shown = np.bincount(tops.ravel(), minlength=len(counts))
    share = (counts + 1) / (counts + 1).sum()
    ordered = np.sort(shown)
    steps = np.arange(1, len(ordered) + 1)
    return {
        f"coverage@{TOP}": float((shown > 0).mean()),
        f"novelty@{TOP}": float(-np.log2(share[tops]).mean()),  # bits
        "popularity_bias": float(counts[tops].mean() / counts.mean()),  # times the mean item's count
        "gini": float(((2 * steps - len(ordered) - 1) * ordered).sum() / (len(ordered) * max(1, ordered.sum()))),
        f"diversity@{TOP}": _diversity(tops, vectors),
    }


def _item_sessions(training: Sessions) -> Ints:
    """(2, n) pairs of item and session, each once, sorted by item."""
    session = np.repeat(np.arange(len(training)), training.lengths)
    keys = np.unique(training.items * len(training) + session)
    return np.stack((keys // len(training), keys % len(training)))


def _diversity(tops: Ints, pairs: Ints, sample: int = 200) -> float:
    """Intra-list: 1 − the mean cosine between two items of a list, each the set of sessions that it was in."""
    begins = np.searchsorted(pairs[0], np.arange(pairs[0].max() + 2))
    rows = np.random.default_rng(0).permutation(len(tops))[:sample]
    found = []
    for row in rows:
        parts = [pairs[1, begins[item] : begins[item + 1]] for item in tops[row]]
        sessions, at = np.unique(np.concatenate(parts), return_inverse=True)
        table = np.zeros((len(parts), len(sessions)))
        table[np.repeat(np.arange(len(parts)), [len(part) for part in parts]), at] = 1
        table /= np.sqrt(np.maximum(1, table.sum(axis=1, keepdims=True)))
        cosines = table @ table.T
        n = len(parts)
        found.append(1 - (cosines.sum() - np.trace(cosines)) / max(1, n * (n - 1)))
    return float(np.mean(found))


def _by_count(of_targets: Ints, counts: Ints) -> dict[str, NDArray[np.bool_]]:
    ordered = np.sort(counts)[::-1]
    head = ordered[int(np.searchsorted(np.cumsum(ordered), 0.5 * counts.sum()))]
    return {
        "new items: at most 2 training events": of_targets <= 2,
        "long tail: outside the items with half of all events": of_targets < head,
        "head": of_targets >= head,
    }
