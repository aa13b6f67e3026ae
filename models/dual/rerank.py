"""The dual-sequence ranker as a Reranker of displayed lists: its tokens are what the session did before the clickout."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from models.baselines.contract import Floats, Lists, Tick
from models.dual.ranker import DualRanker, DualSettings, Examples

_NEWEST, _OLDER = 12, 36  # actions that the session and the history stack read


class DualSequence:
    logits: ClassVar[bool] = True
    effort: ClassVar[float] = 2

    def __init__(self, settings: DualSettings = DualSettings(), seed: int = 0) -> None:
        self._ranker = DualRanker(settings, seed)

    def fit(self, training: Lists, tick: Tick) -> None:
        self._ranker.fit(examples(training), tick)

    def score(self, asked: Lists) -> Floats:
        return self._ranker.score(examples(asked))


def examples(lists: Lists) -> Examples:
    clickouts = lists.clickouts
    shape = (len(clickouts), 2, _OLDER)
    places, kinds = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    elapsed, lengths = np.zeros(shape, np.float32), np.zeros((len(clickouts), 2), np.int64)
    for row, one in enumerate(clickouts.rows):
        actions = clickouts.sessions[one.session]
        where = {item: place + 2 for place, item in enumerate(one.items.tolist())}
        newest = max(0, one.at - _NEWEST)
        for which, (begin, end) in enumerate(((newest, one.at), (max(0, newest - _OLDER), newest))):
            count = end - begin
            lengths[row, which] = count
            places[row, which, :count] = [where.get(item, int(item >= 0)) for item in actions.items[begin:end].tolist()]
            kinds[row, which, :count] = actions.kinds[begin:end]
            minutes = np.maximum(actions.times[one.at] - actions.times[begin:end], 0) / 60  # a visit lasts no hours
            elapsed[row, which, :count] = np.log1p(minutes)
    return Examples(clickouts.starts, lists.x, clickouts.clicked, places, kinds, elapsed, lengths)
