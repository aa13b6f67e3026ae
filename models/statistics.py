"""Statistics: what the traffic says of items without any model: counts, clicks over expected clicks, neighbours.

Popularity enters the ranker's head as a feature. A list's own clicks must not be in the feature it is trained with, so
training takes each list's features from the other shoppers' lists (folds); serving takes them from all.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from models.featurise import PRICE_LEVEL
from models.traffic import Examples, Ragged
from models.vocabulary import GLOBAL, Vocabulary
from schemas.items import Item

Floats = npt.NDArray[np.float32]

FOLDS = 5
CONTENTS = ("log_price", "price_in_subcategory", "is_free")
assert CONTENTS[PRICE_LEVEL] == "price_in_subcategory"
# Inputs of the head for each candidate; the last, of models/tastes.py, is counted on other shoppers.
STATICS = (*CONTENTS, "log_impressions", "log_clicks", "log_carts", "log_click_ratio", "worth")
# A prior of so many expected clicks pulls an item's ratio to its subcategory's, and a subcategory's to 1.
_PRIOR_CLICKS = 1.5
NEIGHBOURS = 50
_WINDOW = 10  # tokens of a session within which two items are neighbours


class Counts(NamedTuple):
    """Per row: sums over lists. `expected` are the clicks that its positions would have had with an average item."""

    impressions: npt.NDArray[np.float64]  # (N,)
    expected: npt.NDArray[np.float64]
    clicks: npt.NDArray[np.float64]
    carts: npt.NDArray[np.float64]


def count(data: Examples, size: int, of: npt.NDArray[np.bool_] | None = None) -> Counts:
    """Sums over the lists of which `of` is true."""
    chosen = np.ones(len(data), dtype=bool) if of is None else of
    rows, clicked, carted = data.items[chosen], data.clicked[chosen], data.carted[chosen]
    by_place = clicked.mean(axis=0)  # (P,) position bias and all
    flat = rows.ravel()

    def total(weights: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        return np.bincount(flat, weights=weights.ravel(), minlength=size).astype(np.float64)

    return Counts(
        total(np.ones(rows.shape)),
        total(np.broadcast_to(by_place, rows.shape).copy()),
        total(clicked),
        total(carted),
    )


def click_ratio(counts: Counts, vocabulary: Vocabulary) -> npt.NDArray[np.float64]:
    """(N,) clicks over expected clicks, shrunk towards the subcategory; groups get their own, the global row gets 1."""
    groups = vocabulary.subcategory_row
    size = vocabulary.size
    items = np.arange(vocabulary.first_item, size)
    group_clicks = np.bincount(groups[items], weights=counts.clicks[items], minlength=size)
    group_expected = np.bincount(groups[items], weights=counts.expected[items], minlength=size)
    group_ratio = (group_clicks + 20.0) / (group_expected + 20.0)
    ratio = group_ratio.copy()
    prior = group_ratio[groups[items]]
    ratio[items] = (counts.clicks[items] + _PRIOR_CLICKS * prior) / (counts.expected[items] + _PRIOR_CLICKS)
    return ratio


def contents(items: tuple[Item, ...], vocabulary: Vocabulary) -> Floats:
    """(N, len(CONTENTS)) what the catalogue says; zero means average, which is what a group's row has."""
    prices = np.array([item.price or 0.0 for item in items])
    free = prices == 0.0
    logs = np.log1p(prices)
    numbers = vocabulary.subcategory_row[vocabulary.first_item :]
    within = np.zeros(len(items))
    for number in np.unique(numbers):
        here = (numbers == number) & ~free
        if here.sum() > 1:
            within[here] = (logs[here] - logs[here].mean()) / max(logs[here].std(), 1e-6)
    table = np.zeros((vocabulary.size, len(CONTENTS)), dtype=np.float32)
    table[vocabulary.first_item :] = np.stack(
        ((logs - logs.mean()) / max(logs.std(), 1e-6), within, free - free.mean()), axis=1
    )
    return table


def statics(counts: Counts, content: Floats, vocabulary: Vocabulary, worth: Floats) -> Floats:
    """(N, len(STATICS)) inputs of the head for each candidate; `worth` is (N,)."""
    scale = counts.impressions.sum() / max(1, len(counts.impressions) - vocabulary.first_item)
    columns = (
        np.log1p(counts.impressions) - np.log1p(scale),
        np.log1p(counts.clicks),
        np.log1p(counts.carts),
        np.log(click_ratio(counts, vocabulary)),
    )
    table = np.concatenate((content, np.stack(columns, axis=1).astype(np.float32)), axis=1)
    # A row that stands in for many is an average item of its group, not one that nobody has ever seen.
    items = np.arange(vocabulary.first_item, vocabulary.size)
    for row in range(GLOBAL, vocabulary.first_item):
        members = (
            items
            if row == GLOBAL
            else items[(vocabulary.subcategory_row[items] == row) | (vocabulary.category_row[items] == row)]
        )
        if len(members):
            table[row, len(CONTENTS) : -1] = table[members, len(CONTENTS) : -1].mean(axis=0)
            table[row, -1] = table[members, -1].mean()
    table = np.concatenate((table, worth[:, None]), axis=1)
    table[0] = 0.0
    return np.asarray(table, dtype=np.float32)


def fold_of(data: Examples) -> npt.NDArray[np.int64]:
    folds: npt.NDArray[np.int64] = data.shopper.astype(np.int64) % FOLDS
    return folds


def statics_by_fold(data: Examples, content: Floats, vocabulary: Vocabulary, worth: Floats) -> Floats:
    """(FOLDS, N, len(STATICS)): fold f's table is counted without fold f's lists."""
    folds = fold_of(data)
    return np.stack(
        [statics(count(data, vocabulary.size, folds != fold), content, vocabulary, worth) for fold in range(FOLDS)]
    )


def last_sessions(data: Examples) -> Ragged:
    """Each visit's longest view: the session as it was at its last list."""
    last = np.flatnonzero(np.append(data.visit[1:] != data.visit[:-1], True))
    starts, lengths = data.sessions.starts[last], data.sessions.lengths()[last]
    places = np.concatenate([np.arange(start, start + length) for start, length in zip(starts, lengths)])
    return Ragged(
        data.sessions.rows[places], data.sessions.actions[places], data.sessions.log_hours[places],
        np.concatenate(([0], np.cumsum(lengths))),
    )  # fmt: skip


def neighbours(sessions: Ragged, vocabulary: Vocabulary) -> npt.NDArray[np.int32]:
    """(N, NEIGHBOURS) items acted on together within a session, strongest first, PADDING where there are fewer.

    Strength is the cosine of co-occurrence, shrunk: n(a, b) / sqrt((n(a) + s)(n(b) + s)).
    """
    size = vocabulary.size
    session_of = np.repeat(np.arange(len(sessions.lengths())), sessions.lengths())
    pairs: list[npt.NDArray[np.int64]] = []
    for apart in range(1, _WINDOW):
        same = session_of[apart:] == session_of[:-apart]
        one, other = sessions.rows[:-apart][same].astype(np.int64), sessions.rows[apart:][same].astype(np.int64)
        good = (one != other) & (one >= vocabulary.first_item) & (other >= vocabulary.first_item)
        pairs += [one[good] * size + other[good], other[good] * size + one[good]]
    codes, together = np.unique(np.concatenate(pairs), return_counts=True) if pairs else (np.zeros(0, np.int64),) * 2
    times = np.bincount(sessions.rows, minlength=size)
    one, other = codes // size, codes % size
    strength = together / np.sqrt((times[one] + 5.0) * (times[other] + 5.0))
    order = np.lexsort((-strength, one))
    one, other = one[order], other[order]
    rank = np.arange(len(one)) - np.searchsorted(one, one)
    kept = rank < NEIGHBOURS
    table = np.zeros((size, NEIGHBOURS), dtype=np.int32)
    table[one[kept], rank[kept]] = other[kept]
    return table
