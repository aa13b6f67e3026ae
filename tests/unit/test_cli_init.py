"""riffle init: which column is what, the items of a log, the bundle counted from it, and what is said where nothing fits."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from cli import init
from cli.main import app
from client.importing import guess_columns, read_items, read_log
from models.bundle import COVISITATION, Bundle, latest
from models.from_log import Act, bundle_from_log
from models.scorer import open_scorer
from schemas.event import Rejected, parse_event
from schemas.items import Item
from schemas.user_state import UserState
from tests.fakes import MINUTE, NOW, raw
from udfs.logic.sessions import Position, apply_event

RUNNER = CliRunner()
SHOP = """customer_no,what,sku_code,when,price,category
ann,view,7,2026-01-01T10:00:00,1.5,shoes
ann,purchase,8,2026-01-01T10:05:00,2.5,hats
bob,view,7,2026-01-02T10:00:00,1.75,shoes
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "log.csv"
    path.write_text(text)
    return path


def test_columns_are_guessed_from_names_and_from_values(tmp_path: Path) -> None:
    """Contract: `what` and `when` are told by what stands in them, the others by parts of their names."""
    guesses = {one.ours: (one.theirs, one.why) for one in guess_columns(written(tmp_path, SHOP))}
    assert guesses == {
        "user": ("customer_no", "its name"),
        "item": ("sku_code", "its name"),
        "event": ("what", "its values"),
        "ts": ("when", "its values"),
        "category": ("category", "its name"),
        "price": ("price", "its name"),
    }


def test_what_is_given_goes_before_what_is_guessed(tmp_path: Path) -> None:
    text = "user_id,owner,item,event,ts\na,x,1,view,1767225600\n"
    guesses = {one.ours: (one.theirs, one.why) for one in guess_columns(written(tmp_path, text), {"user": "owner"})}
    assert guesses["user"] == ("owner", "given")
    assert read_log(tmp_path / "log.csv", {"user": "owner"}).events[0].body["user_id"] == "x"


def test_dates_are_times(tmp_path: Path) -> None:
    times = [one.ts_ms for one in read_log(written(tmp_path, SHOP)).events]
    assert times[0] == datetime(2026, 1, 1, 10, tzinfo=timezone.utc).timestamp() * 1000
    zoned = "user,item,event,ts\na,1,view,2026-01-01 10:00:00 UTC\na,1,view,2026-01-01T11:00:00+01:00\na,1,view,soon\n"
    log = read_log(written(tmp_path, zoned))
    assert ([one.ts_ms for one in log.events], sum(log.skipped.values())) == ([times[0]] * 2, 1)


def test_items_are_what_the_log_says_last(tmp_path: Path) -> None:
    assert read_items(written(tmp_path, SHOP)) == [
        {"item_id": "7", "price": 1.75, "category": "shoes"},
        {"item_id": "8", "price": 2.5, "category": "hats"},
    ]


def test_an_item_that_cannot_be_one_keeps_its_id(tmp_path: Path) -> None:
    """Contract: a negative price is counted with its reason, and the item is still in the catalogue."""
    _, items, skipped = init.read(written(tmp_path, SHOP.replace("1.75", "-1")), {})
    assert items[0] == Item(item_id="7")
    assert [times for reason, times in skipped.items() if "price" in reason] == [1]


def acts() -> list[Act]:
    """`a` and `b` go together, `c` and `d` go together, `p` is what everybody buys, alone."""
    pairs = [("a", "b"), ("c", "d")] * 6
    found = [
        Act(f"u{n}", NOW + place * MINUTE, "click", item)
        for n, pair in enumerate(pairs)
        for place, item in enumerate(pair)
    ]
    return found + [Act(f"v{n}", NOW, "purchase", "p") for n in range(9)]


def state_after(*items: str) -> UserState:
    state = UserState()
    for n, item in enumerate(items):
        event = parse_event(raw("click", item, event_id=f"e{n}", ts_ms=NOW + n))
        assert not isinstance(event, Rejected)
        apply_event(state, event, Position(0, n, NOW + n))
    return state


def test_the_bundle_ranks_what_goes_together_before_what_is_popular(tmp_path: Path) -> None:
    path = bundle_from_log(tmp_path, "from-log-1", [Item(item_id=one) for one in "abcdp"], acts(), "log.csv")
    bundle = Bundle.load(path)
    assert (bundle.ranker, latest(tmp_path)) == (COVISITATION, "from-log-1")
    scorer = open_scorer(bundle)
    rows = bundle.vocabulary.rows(list("abcdp"))

    def best(state: UserState) -> str:
        scores = scorer.score(state, scorer.encode_history(state.history(), 0), rows, NOW, "home")
        return "abcdp"[int(np.argmax(scores))]

    assert [best(state_after("a")), best(state_after("d")), best(UserState())] == ["b", "c", "p"]
    assert best(state_after("a", "c")) == "d"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "colour,size\nred,1\n",
            "no column for user, item, event, ts: name it with --column user=<one of colour, size>",
        ),
        ("user,item,event,ts\n", "holds no event (it has no rows)"),
        ("user,item,event,ts\na,1,stare,1767225600\n", "holds no event (1 rows: event 'stare' has no counterpart)"),
    ],
)
def test_a_log_that_holds_nothing_is_said(tmp_path: Path, text: str, sentence: str) -> None:
    done = RUNNER.invoke(app, ["init", "--from", str(written(tmp_path, text)), "--dry-run"])
    assert done.exit_code == 1
    assert sentence in done.output.replace("\n", " ")


def test_bundles_are_counted_anew_under_the_next_version(tmp_path: Path) -> None:
    log, items, _ = init.read(written(tmp_path, SHOP), {})
    assert [init.make_bundle(tmp_path, log, items, "log.csv")[1] for _ in range(2)] == ["from-log-1", "from-log-2"]


def test_the_shipped_bundle_is_taken_where_it_knows_the_items(tmp_path: Path) -> None:
    known = Bundle.load(init.SHIPPED / latest(init.SHIPPED)).vocabulary.ids[0]
    log, items, _ = init.read(written(tmp_path, f"user,item,event,ts\na,{known},view,1767225600\n"), {})
    assert init.make_bundle(tmp_path, log, items, "log.csv") == (None, latest(init.SHIPPED))
