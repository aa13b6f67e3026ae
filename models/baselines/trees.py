"""LightGBM's LambdaMART on the features of clickout_features: the same that the dual-sequence ranker is given."""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import lightgbm
import numpy as np

from models.baselines.contract import Floats, Lists, Tick


class TreeSettings(NamedTuple):
    trees: int = 350
    leaves: int = 15
    learning_rate: float = 0.05
    rows_per_leaf: int = 50
    columns: float = 0.5  # share of the features that a tree may use
    rows: float = 0.7  # share of the rows that a tree is fitted on
    depth_of_list: int = 10  # pairs are counted down to this rank


class LambdaMART:
    logits: ClassVar[bool] = False
    effort: ClassVar[float] = 1

    def __init__(self, settings: TreeSettings = TreeSettings(), seed: int = 0) -> None:
        self.settings, self.seed = settings, seed

    def fit(self, training: Lists, tick: Tick) -> None:
        settings, starts = self.settings, training.clickouts.starts
        labels = np.zeros(len(training.x))
        labels[starts[:-1] + training.clickouts.clicked] = 1
        parameters = {
            "objective": "lambdarank", "num_leaves": settings.leaves, "learning_rate": settings.learning_rate,
            "min_data_in_leaf": settings.rows_per_leaf, "feature_fraction": settings.columns,
            "bagging_fraction": settings.rows, "bagging_freq": 1,
            "lambdarank_truncation_level": settings.depth_of_list, "seed": self.seed, "deterministic": True,
            "force_row_wise": True, "verbose": -1,
        }  # fmt: skip

        def stop_in_time(now: lightgbm.callback.CallbackEnv) -> None:
            if tick(now.iteration + 1, settings.trees) >= 1:
                raise lightgbm.callback.EarlyStopException(now.iteration, [])

        self._trees = lightgbm.train(
            parameters,
            lightgbm.Dataset(training.x, labels, group=np.diff(starts)),
            settings.trees,
            callbacks=[stop_in_time],
        )

    def score(self, asked: Lists) -> Floats:
        return np.asarray(self._trees.predict(asked.x), dtype=np.float32)
