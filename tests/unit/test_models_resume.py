"""A training that is killed and taken up again comes to the figures of one that was not. Needs the `train` extra."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from rich.console import Console  # noqa: E402

from models.checkpoint import NAME, CheckpointError, Checkpoints  # noqa: E402
from models.own_log import visits_of  # noqa: E402
from models.statistics import contents  # noqa: E402
from models.traffic import examples  # noqa: E402
from models.train import Corpus, Settings, Trainer, kept, main, train  # noqa: E402
from models.vocabulary import build_vocabulary  # noqa: E402
from schemas.items import Item  # noqa: E402
from tests.fakes import MINUTE, NOW, event  # noqa: E402

SETTINGS = Settings(epochs=2, dim=8, threads=1, lists_per_batch=16, bce=0.0, listwise=0.0, next_listwise=0.0)


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    rng = np.random.Generator(np.random.PCG64(1))
    items = tuple(Item(item_id=f"i{n}", category=f"c{n % 3}", price=1.0 + n) for n in range(12))
    events = [
        event("click", f"i{int(rng.integers(12))}", user_id=f"u{n % 30}", session_id="s", event_id=f"e{n}",
              ts_ms=NOW + n // 30 * MINUTE)
        for n in range(300)
    ]  # fmt: skip
    vocabulary = build_vocabulary(items)
    data = examples(visits_of(events), vocabulary)
    return Corpus(data, vocabulary, contents(items, vocabulary), None)


class _Killed(Exception):
    pass


class _KilledAfter(Checkpoints):
    """Keeps every step, and fails with the power when so many have been done."""

    def __init__(self, run: Path, steps: int) -> None:
        super().__init__(run, every_s=0)
        self._left = steps

    def keep(self, trainer: Trainer) -> None:
        super().keep(trainer)
        self._left -= 1
        if not self._left:
            raise _Killed


QUIET = Console(quiet=True)


@pytest.mark.parametrize("after", [3, 13, 18])
def test_a_killed_training_goes_on_where_it_was(tmp_path: Path, corpus: Corpus, after: int) -> None:
    """Contract: killed within an epoch or beyond its end, the same figures and the same weights, bit for bit."""
    whole = Trainer(SETTINGS, corpus)
    wanted = train(whole, QUIET, Checkpoints(tmp_path / "whole"))
    assert len(whole.at.losses) > after
    with pytest.raises(_Killed):
        train(Trainer(SETTINGS, corpus), QUIET, _KilledAfter(tmp_path, after))
    resumed = Trainer(SETTINGS, corpus)
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.take_up(resumed)
    assert len(resumed.at.losses) == after
    assert train(resumed, QUIET, checkpoints) == wanted
    assert resumed.at.losses == whole.at.losses
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(weight, resumed.model.state_dict()[name]), name
    checkpoints.done()
    assert not checkpoints.take_up(Trainer(SETTINGS, corpus))


def test_a_checkpoint_of_another_training_is_refused(tmp_path: Path, corpus: Corpus) -> None:
    with pytest.raises(_Killed):
        train(Trainer(SETTINGS, corpus), QUIET, _KilledAfter(tmp_path, 2))
    other = Trainer(replace(SETTINGS, learning_rate=0.5), corpus)
    with pytest.raises(CheckpointError, match=r"with learning_rate 0.003, this one has 0.5: give the same settings"):
        Checkpoints(tmp_path).take_up(other)
    assert Checkpoints(tmp_path).take_up(Trainer(replace(SETTINGS, threads=2), corpus))
    (tmp_path / NAME).write_bytes(b"half of it")
    with pytest.raises(CheckpointError, match="cannot be read"):
        Checkpoints(tmp_path).take_up(Trainer(SETTINGS, corpus))


def test_what_is_written_half_is_not_taken_up(tmp_path: Path) -> None:
    """Contract: a run that is killed while it writes its lists collects them anew."""
    path = tmp_path / "lists.pickle"
    path.with_suffix(".new").write_bytes(b"half")
    assert kept(path, True, {"days": 3}, lambda: "made") == "made"
    assert kept(path, True, {"days": 3}, lambda: "again") == "made"


def test_lists_of_other_shoppers_or_days_are_not_taken_up(tmp_path: Path) -> None:
    """Contract: what is on disk is not trained on in the place of what was asked for."""
    path, asked = tmp_path / "lists.pickle", {"shop": "demo", "shoppers": 40, "days": 3}
    kept(path, False, asked, lambda: "made")
    with pytest.raises(
        CheckpointError, match=r"lists.pickle was made with shoppers 40, this run has 60: give the same settings"
    ):
        kept(path, True, {**asked, "shoppers": 60}, lambda: "again")
    assert kept(path, False, {**asked, "shoppers": 60}, lambda: "anew") == "anew"
    assert kept(path, True, {**asked, "shoppers": 60}, lambda: "again") == "anew"


def test_lists_that_do_not_say_what_they_are_of_are_not_taken_up(tmp_path: Path) -> None:
    path = tmp_path / "lists.pickle"
    path.write_bytes(pickle.dumps(["lists of an earlier release"]))
    with pytest.raises(CheckpointError, match="does not say which settings it was made with"):
        kept(path, True, {"days": 3}, lambda: "made")


@pytest.mark.parametrize(("option", "value"), [("--shoppers", "5"), ("--days", "2"), ("--seed", "7")])
def test_a_training_with_other_settings_is_refused_before_it_begins(tmp_path: Path, option: str, value: str) -> None:
    asked = {"shop": "demo", "shoppers": 4, "days": 1, "seed": 1}
    kept(tmp_path / "one" / "lists.pickle", False, asked, lambda: "never looked at")
    settings = {"--shoppers": "4", "--days": "1", "--seed": "1", option: value}
    told = [part for pair in settings.items() for part in pair]
    with pytest.raises(SystemExit, match=rf"made with {option[2:]} {asked[option[2:]]}, this run has {value}"):
        main(["--runs", str(tmp_path), "--version", "one", "--resume", "--out", str(tmp_path / "out"), *told])
    assert not (tmp_path / "out").exists()
