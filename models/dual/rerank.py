"""The dual-sequence ranker as a Reranker of displayed lists: its tokens are what the session did before the clickout.

    lists ─ folds by session ─ trees on all but one, asked about that one ─ probabilities ─┐
      └─ what was clicked ────────────────────────────────────────────────── mixed ────────┴─ DualRanker

Some ten thousand clicks are few for a net. Trees learn them with less noise, and what they say of lists that they have
not seen is taught along; when it scores, there is only the net.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from models.baselines.contract import Floats, Lists, Tick, until
from models.baselines.trees import LambdaMART
from models.dual.ranker import DualRanker, DualSettings, Examples

_NEWEST, _OLDER = 12, 36  # actions that the session and the history stack read
_FOLDS = 4
_TEACHING = 0.4  # share of the time that may go into teachers
_SHARPNESS = (0.5, 0.7, 1.0, 1.4, 2.0, 2.8)  # what scores are multiplied by before the softmax


class DualSequence:
    logits: ClassVar[bool] = True
    effort: ClassVar[float] = 2

    def __init__(self, settings: DualSettings = DualSettings(), seed: int = 0) -> None:
        self._ranker, self._seed = DualRanker(settings, seed), seed

    def fit(self, training: Lists, tick: Tick) -> None:
        teacher = taught(training, self._seed, tick) if self._ranker.settings.taught else None
        self._ranker.fit(examples(training), tick, teacher)

    def score(self, asked: Lists) -> Floats:
        return self._ranker.score(examples(asked))


def taught(lists: Lists, seed: int, tick: Tick) -> Floats | None:
    """(R,) probabilities by LambdaMART, each list's by trees that no list of its session was in. None where a fold would
    be empty. Scores become probabilities at the sharpness under which the clicks are likeliest."""
    starts, fold = lists.clickouts.starts, lists.clickouts.session_numbers % _FOLDS
    if len(np.unique(fold)) < _FOLDS:
        return None
    scores = np.zeros(len(lists.x), np.float32)
    of_row = np.repeat(fold, np.diff(starts))
    for number in range(_FOLDS):
        trees = LambdaMART(seed=seed)
        trees.fit(_part(lists, fold != number), until(_TEACHING * (number + 1) / _FOLDS, tick))
        scores[of_row == number] = trees.score(_part(lists, fold == number))
    clicked = starts[:-1] + lists.clickouts.clicked
    tried = [_softmax(sharpness * scores, starts) for sharpness in _SHARPNESS]
    return max(tried, key=lambda chances: float(np.log(chances[clicked] + 1e-9).mean()))


def _part(lists: Lists, chosen: NDArray[np.bool_]) -> Lists:
    rows = np.repeat(chosen, np.diff(lists.clickouts.starts))
    return Lists(lists.clickouts.part(np.flatnonzero(chosen)), lists.x[rows])


def _softmax(scores: Floats, starts: NDArray[np.int64]) -> Floats:
    counts = np.diff(starts)
    raised = np.exp(scores - np.repeat(np.maximum.reduceat(scores, starts[:-1]), counts))
    found: Floats = raised / np.repeat(np.add.reduceat(raised, starts[:-1]), counts)
    return found


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
