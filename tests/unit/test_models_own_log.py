"""A log of one's own as training examples, and what `riffle train` says of files that it cannot learn from."""

from __future__ import annotations

from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from cli.main import app
from cli.train import read_catalogue, read_events
from client.errors import InvalidArgument
from models.own_log import COLUMNS, InvalidRows, ShownList, judged, lists_of_rows, newest_apart, visits_of
from models.traffic import examples
from models.vocabulary import build_vocabulary
from schemas.event import Event, Rejected, parse_event
from schemas.items import Item
from tests.fakes import MINUTE, NOW, raw

RUNNER = CliRunner()
ITEMS = [Item(item_id=name) for name in "abcde"]


def act(user: str, item: str, minute: float, kind: str = "click") -> Event:
    found = parse_event(
        raw(kind, item, user_id=user, session_id=user, event_id=f"{user}-{minute}", ts_ms=int(NOW + minute * MINUTE))
    )
    assert not isinstance(found, Rejected), found
    return found


def test_visits_end_with_half_an_hour_of_silence() -> None:
    found = visits_of([act("u", "a", 0), act("u", "b", 29), act("v", "c", 30), act("u", "d", 60)])
    assert [(visit.shopper.key, [event.item_id for event in visit.events]) for visit in found] == [
        ("u:u", ["a", "b"]),
        ("u:v", ["c"]),
        ("u:u", ["d"]),
    ]


def test_what_comes_next_is_new_to_the_visit() -> None:
    """Contract: an item is learnt once a visit, and again in the next; what is known is the state as it was before.

    A session closes with the event that shows its end, so the next visit's first act still sees it."""
    events = [act("u", "a", 0), act("u", "b", 1), act("u", "a", 2, "add_to_cart"), act("u", "a", 60)]
    visits = visits_of(events)
    assert [[shown.items for shown in visit.exposures] for visit in visits] == [[("a",), ("b",)], [("a",)]]
    data = examples(visits, build_vocabulary(ITEMS))
    assert data.sessions.lengths().tolist() == [0, 1, 3]
    assert data.histories.lengths()[data.history].tolist() == [0, 0, 0]
    assert data.clicked[:, 0].all() and not data.clicked[:, 1:].any()


def test_lists_that_were_shown_are_learnt_as_they_were() -> None:
    lists = {"u:u": [ShownList(NOW + MINUTE, tuple("abc"), (False, True, False), (False,) * 3, (False,) * 3)]}
    data = examples(visits_of([act("u", "d", 0), act("u", "b", 1)], lists), build_vocabulary(ITEMS))
    assert (len(data), data.items[0, :4].tolist()) == (1, [4, 5, 6, 0])
    assert data.clicked[0, :3].tolist() == [False, True, False]
    assert data.sessions.lengths().tolist() == [1]  # of the same moment's click it knows nothing


def test_a_list_that_nobody_acted_on_is_a_visit(tmp_path: Path) -> None:
    """Contract: it is learnt from, and asked nothing when bundles are judged."""
    from cli.train import bundle_from_log
    from models.own_log import acts_in

    lists = {"u:u": [ShownList(NOW + 90 * MINUTE, ("a",), (False,), (False,), (False,))]}
    visits = visits_of([act("u", "d", 0), act("u", "b", 1)], lists)
    assert [(len(visit.events), len(visit.exposures)) for visit in visits] == [(2, 0), (0, 1)]
    path = bundle_from_log(tmp_path, "counted", ITEMS, acts_in(visits), "test")
    assert judged({"counted": path}, visits[:1], visits[1:]) == {}


def row(row_id: str, revision: int, item: str, rank: int, **outcome: bool) -> dict[str, Any]:
    shown = datetime.fromtimestamp(NOW / 1000, timezone.utc)
    return {
        "row_id": row_id, "revision": revision, "key": "u:u", "item_id": item, "shown": shown, "list_id": "l1",
        "rank": rank, "propensity": 1.0 if rank else 0.25, **dict.fromkeys(("click", "cart", "purchase"), None), **outcome,
    }  # fmt: skip


def test_the_last_revision_of_a_row_counts(tmp_path: Path) -> None:
    rows = [
        row("r1", 1, "a", 1),
        row("r2", 2, "b", 0, click=True),
        row("r2", 1, "b", 0),
        row("r1", 2, "a", 1, cart=True),
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "part.parquet")
    assert lists_of_rows(tmp_path) == {
        "u:u": [ShownList(NOW, ("b", "a"), (True, False), (False, True), (False, False), (0.25, 1.0))]
    }


def test_what_is_read_of_rows_is_what_is_exported() -> None:
    from client.training_files import SCHEMA

    assert set(COLUMNS) <= set(SCHEMA.names)


def test_rows_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRows, match="holds no training rows in parquet"):
        lists_of_rows(tmp_path / "nothing")
    pq.write_table(pa.table({"row_id": ["x"], "colour": ["red"]}), tmp_path / "part.parquet")
    with pytest.raises(InvalidRows, match=r"lacks the column revision \(found: row_id, colour\)"):
        lists_of_rows(tmp_path)


def test_the_newest_are_apart() -> None:
    visits = visits_of([act(f"u{n}", "a", n) for n in range(10)])
    learnt, newest = newest_apart(visits, 0.3)
    assert (len(learnt), [visit.shopper.key for visit in newest]) == (7, ["u:u7", "u:u8", "u:u9"])
    assert newest_apart(visits, 0.0)[1] == []


def test_bundles_are_judged_on_what_came_next(tmp_path: Path) -> None:
    """Contract: `a` is followed by `b` in the log that is counted, so a list after `a` has it; what nobody saw is missed."""
    from cli.train import bundle_from_log
    from models.own_log import acts_in

    before = visits_of([act(f"u{n}", item, n * 60 + at) for n in range(6) for at, item in enumerate("ab")])
    path = bundle_from_log(tmp_path, "counted", ITEMS, acts_in(before), "test")
    test = visits_of([act("v", "a", 1_000), act("v", "b", 1_001), act("v", "never", 1_002)])
    found = judged({"counted": path}, before, test)["counted"]
    assert (found.cases, found.retrieved) == (3, pytest.approx(2 / 3))
    assert found.hit_rate == pytest.approx(2 / 3)


LOG = "user,item,event,ts,price\nann,7,view,1767225600,1.5\nann,8,purchase,1767225700,-2\nbob,7,stare,1767225800,1\n"


def test_events_and_catalogue_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text(LOG)
    heard, skipped = read_events(path, {})
    assert [event.event_type for event in heard] == ["click", "purchase"]
    assert sum(skipped.values()) == 1
    shown = {"u:ann": [ShownList(NOW, ("9",), (False,), (False,), (False,))]}
    items = read_catalogue(None, path, {}, heard, shown)
    assert [item.item_id for item in items] == ["7", "8", "9"]
    assert (items[0].price, items[1].price) == (1.0, None)  # the last one said; a negative one is none


@pytest.mark.parametrize(
    ("text", "more", "sentence"),
    [
        ("colour,size\nred,1\n", [], "has no column for user, item, event, ts: name it with --column"),
        (LOG, [], "2 are too few to learn from, 200 is the least"),
        (LOG, ["--test", "0.9"], "--test 0.9: give a share from 0 to 0.5"),
        (LOG, ["--debias"], "--debias needs --rows"),
        (LOG, ["--rows", "nowhere"], "holds no training rows in parquet"),
    ],
)
def test_what_cannot_be_learnt_from_is_said(tmp_path: Path, text: str, more: list[str], sentence: str) -> None:
    path = tmp_path / "log.csv"
    path.write_text(text)
    done = RUNNER.invoke(app, ["train", "--events", str(path), "--out", str(tmp_path / "bundles"), *more])
    assert done.exit_code == 1
    assert sentence in done.output.replace("\n", " ")


def test_a_bundle_that_is_there_stays(tmp_path: Path) -> None:
    (tmp_path / "mine-1").mkdir()
    done = RUNNER.invoke(app, ["train", "--events", "x.csv", "--out", str(tmp_path), "--version", "mine-1"])
    assert (done.exit_code, "bundles do not change" in done.output.replace("\n", " ")) == (1, True)


def test_a_setting_that_is_none_is_named() -> None:
    pytest.importorskip("torch")
    from cli.train import _settings

    assert _settings(["epochs=3", "dropout=0.2"]) == {"epochs": 3, "dropout": 0.2}
    with pytest.raises(InvalidArgument, match="there is no setting speed; known: shoppers"):
        _settings(["speed=3"])
    with pytest.raises(InvalidArgument, match="--set epochs=many: epochs is of type int"):
        _settings(["epochs=many"])


def test_training_learns_what_follows_what(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Contract: of a log where each item calls for its partner, the ranker finds the partner; the run folder has all of it."""
    pytest.importorskip("torch")
    from models import train
    from models.bundle import Bundle
    from models.scorer import encode_state_history, open_scorer
    from schemas.user_state import UserState
    from udfs.logic.sessions import Position, apply_event

    monkeypatch.setattr(train, "release", partial(train.release, samples=12))
    rng = np.random.Generator(np.random.PCG64(1))
    lines = ["user,item,event,ts"]
    for n in range(300):
        pair, ts = int(rng.integers(10)), 1_767_225_600 + n * 7_200
        lines += [f"u{n % 90},i{pair},view,{ts}", f"u{n % 90},j{pair},view,{ts + 60}"]
    log = tmp_path / "log.csv"
    log.write_text("\n".join(lines) + "\n")
    out, runs = tmp_path / "bundles", tmp_path / "runs"
    changed = ("epochs=10", "threads=1", "dim=16", "learning_rate=0.01", "lists_per_batch=32", "changes=0")
    done = RUNNER.invoke(
        app,
        ["train", "--events", str(log), "--out", str(out), "--runs", str(runs), "--version", "own-1", "--test", "0",
         *(word for one in changed for word in ("--set", one))],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert {path.name for path in (runs / "own-1").iterdir()} == {"metrics.json", "metrics.csv", "curves.png"}
    assert (out / "LATEST").read_text() == "own-1\n"
    bundle = Bundle.load(out / "own-1")
    scorer, rows = open_scorer(bundle), bundle.vocabulary.rows([f"j{n}" for n in range(10)])
    for pair in range(10):
        state = UserState()
        apply_event(state, act("new", f"i{pair}", 0), Position(0, 0, NOW))
        scores = scorer.score(state, encode_state_history(scorer, state, NOW), rows, NOW, "home")
        assert int(np.argmax(scores)) == pair


def test_popularity_by_what_chance_has_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Contract: `a` is always shown and has most clicks, `b` is clicked more where chance shows it: --debias puts `b` first."""
    pytest.importorskip("torch")
    from models import train
    from models.bundle import Bundle

    monkeypatch.setattr(train, "release", partial(train.release, samples=12))
    draw = np.random.Generator(np.random.PCG64(2))
    rows, lines = [], ["user,item,event,ts"]
    for n in range(1_200):
        item = "bcde"[int(draw.integers(4))]
        first, second = bool(draw.random() < 0.2), bool(draw.random() < (0.4 if item == "b" else 0.05))
        at = datetime.fromtimestamp(NOW / 1000 + n * 7_200, timezone.utc)
        listed = {"list_id": f"l{n}", "key": f"u:u{n % 90}", "shown": at}
        rows += [row(f"{n}a", 1, "a", 0, click=first) | listed | {"propensity": 1.0}]
        rows += [row(f"{n}b", 1, item, 1, click=second) | listed | {"propensity": 0.25}]
        lines += [
            f"u{n % 90},{one},view,{int(at.timestamp()) + 5}" for one, hit in (("a", first), (item, second)) if hit
        ]
    (tmp_path / "rows").mkdir()
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows" / "part.parquet")
    (tmp_path / "log.csv").write_text("\n".join(lines) + "\n")
    out = tmp_path / "bundles"
    for version, more in (("counted", []), ("debiased", ["--debias"])):
        done = RUNNER.invoke(
            app,
            ["train", "--events", str(tmp_path / "log.csv"), "--rows", str(tmp_path / "rows"), "--out", str(out),
             "--runs", str(tmp_path / "runs"), "--version", version, "--test", "0", "--set", "epochs=1", "--set", "dim=16",
             "--set", "threads=1", "--set", "changes=0", *more],
        )  # fmt: skip
        assert done.exit_code == 0, done.output
    first_of = {version: Bundle.load(out / version) for version in ("counted", "debiased")}
    names = {version: one.vocabulary.ids[one.popular[0]] for version, one in first_of.items()}
    assert names == {"counted": "a", "debiased": "b"}
