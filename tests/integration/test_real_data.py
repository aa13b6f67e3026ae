"""The protocol of `riffle evaluate` on public data, against figures that others measured on the same file.

The data is research-only and not part of this project: RIFFLE_DATA names its folder, else it is looked for beside the
checkout; without it the test is skipped.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from models.baselines.orders import AsDisplayed, LastInteracted
from models.evaluation import clickout_files
from models.evaluation.outcomes import on_clickouts
from models.evaluation.report import summary

DATA = Path(os.environ.get("RIFFLE_DATA", Path(__file__).parents[2].parent / "shared" / "data"))
TRIVAGO = DATA / "trivago" / "sessions.parquet"


@pytest.mark.skipif(not TRIVAGO.exists(), reason=f"needs {TRIVAGO}: set RIFFLE_DATA to the folder with the public data")
def test_plain_orders_on_trivago_are_what_others_measured() -> None:
    training, test = clickout_files.read(TRIVAGO, TRIVAGO)
    models = {"displayed": lambda _seed: AsDisplayed(), "last": lambda _seed: LastInteracted()}
    found = summary(on_clickouts(training, test, models, 1, lambda _what: lambda _done, _of: None))
    assert (found["last"]["n_all"], found["last"]["n_last"]) == (2813, 1491)
    assert (found["last"]["mrr_all"], found["last"]["mrr_last"]) == pytest.approx((0.599, 0.637), abs=0.001)
    assert (found["displayed"]["mrr_all"], found["displayed"]["mrr_last"]) == pytest.approx((0.449, 0.500), abs=0.01)
