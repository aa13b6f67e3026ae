"""Attribution: cases one by one, laws on random logs, and an oracle that shares no code with it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schemas.decision import Decision, pack_candidates, pack_places
from schemas.interaction import Interaction
from schemas.ranking import Freshness, RankedItem, RankedList, Receipt
from schemas.training import KINDS, TrainingRow, row_id
from schemas.training_state import (
    Chosen,
    Exposure,
    Labels,
    ListEntry,
    Outcome,
    ServedList,
    Trail,
    decode_list_entry,
    decode_trail,
    encode,
)
from schemas.user_state import UnknownStateVersion
from tests.fakes import event
from udfs.logic import attribution
from udfs.logic.attribution import (
    ITEM,
    LIST,
    LIST_CAP,
    TRAIL_CAP,
    Rules,
    take_decision,
    take_interaction,
    take_list,
    wake,
)
from udfs.logic.backfill import FOREVER_MS, DictStore, Logged, replay, training_rows

FIXTURES = Path(__file__).parent.parent / "fixtures"
RULES = Rules(
    click_ms=30, dwell_ms=30, cart_ms=100, purchase_ms=700, return_ms=700, list_ms=100, late_ms=200, long_dwell_ms=5
)
BASE = 1_000  # event times must be at least 1


def interaction(event_id: str, kind: str, item: str, ts_ms: int, **props: Any) -> Interaction:
    if kind in ("purchase", "return"):
        props = {"order_id": "o", "items": [{"item_id": item}], **props}
    fields = {} if kind in ("purchase", "return") else {"item": item}
    made = event(kind, event_id=event_id, ts_ms=ts_ms, props=props, **fields)
    return Interaction("u:alice", 1, 1, made, ts_ms, 0, 0, ts_ms)


def shown(event_id: str, ts_ms: int, item: str = "a", list_id: str | None = "L", **props: Any) -> Interaction:
    return interaction(event_id, "impression", item, ts_ms, **({"list_id": list_id} if list_id else {}), **props)


def ranked(list_id: str = "L", created_ms: int = BASE, items: tuple[str, ...] = ("a", "b")) -> RankedList:
    freshness = Freshness(event_no=4, last_event_id=None, last_event_ts_ms=None, recent=[], offsets={})
    receipt = Receipt(freshness, "b1", "r1", "p1", {0: 7}, {"layer": "arm"}, {}, {})
    places = [RankedItem(item, 1.0 - n / 10, "ann") for n, item in enumerate(items)]
    return RankedList(list_id, "u:alice", "home", 1, 9, created_ms, places, receipt, "click")


def effects_of(*records: Interaction | RankedList, until_ms: int = FOREVER_MS) -> list[attribution.Effects]:
    logged = [Logged(one.ts_ms if isinstance(one, Interaction) else one.created_ms, one) for one in records]
    return list(replay(logged, RULES, until_ms))


def rows_of(*records: Interaction | RankedList, until_ms: int = FOREVER_MS) -> list[TrainingRow]:
    return [row for effects in effects_of(*records, until_ms=until_ms) for row in effects.rows]


def reasons(*records: Interaction | RankedList, until_ms: int = FOREVER_MS) -> list[tuple[str, str]]:
    found = effects_of(*records, until_ms=until_ms)
    return [(one.reason, one.event_id) for effects in found for one in effects.unmatched]


def decided(list_id: str = "L", created_ms: int = BASE, propensities: tuple[float, ...] = (0.5, 0.25)) -> Decision:
    """The decision record of `ranked()`; NaN is an unknown propensity."""
    n = len(propensities)
    found = pack_candidates(
        list("ab"), ["ann"] * n, ["shown"] * n, np.zeros(n, np.float32), ["clicks_2h@1"], np.ones((n, 1), np.float32)
    )
    return Decision(
        list_id=list_id, key="u:alice", surface="home", state_epoch=1, list_no=9, trigger="click", now_ms=created_ms,
        append_ms=created_ms, state=b"", k=n, limit=n, requested=False, request_id=None, fallback=None, bundle="b1",
        ranker="r1", policy="p1", runtime="", seed=1, items_offsets={}, item_features_offsets={0: 70}, arms={},
        complete=True, candidates=found, places=pack_places([0, 1], ["exploit", "explore"], list(propensities)),
    )  # fmt: skip


# ── cases ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_positive_is_written_as_soon_as_it_is_known() -> None:
    (row,) = rows_of(ranked(), shown("i1", BASE + 1), interaction("c1", "click", "a", BASE + 5), until_ms=BASE + 5)
    assert (row.revision, row.delay_ms, row.closed) == (1, {"click": 4}, [])
    assert [row.label(kind) for kind in KINDS] == [True, None, None, None, None]


def test_a_negative_is_written_when_its_window_closes_and_not_before() -> None:
    assert rows_of(ranked(), shown("i1", BASE), until_ms=BASE + 29) == []
    (row,) = rows_of(ranked(), shown("i1", BASE), until_ms=BASE + 30)
    assert [row.label(kind) for kind in KINDS] == [False, False, None, None, None]
    rows = rows_of(ranked(), shown("i1", BASE))
    assert [(row.revision, row.closed) for row in rows] == [
        (1, ["click", "dwell"]),
        (2, ["click", "dwell", "cart"]),
        (3, list(KINDS)),
    ]


def test_a_row_says_what_was_served() -> None:
    first, *_ = rows_of(ranked(items=("b", "a")), shown("i1", BASE + 3, position=5))
    assert (first.row_id, first.key, first.item_id, first.shown_ms) == (
        row_id("u:alice", "i1"),
        "u:alice",
        "a",
        BASE + 3,
    )
    assert (first.position, first.surface, first.event_no) == (5, "home", 1)
    served = first.served
    assert (served.rank, served.score, served.source, served.bundle, served.seen_event_no) == (1, 0.9, "ann", "b1", 4)
    assert (served.items_offsets, served.arms, served.list_id, served.list_no) == ({0: 7}, {"layer": "arm"}, "L", 9)


def test_a_late_outcome_makes_a_revision() -> None:
    late = interaction("c1", "click", "a", BASE + 10)
    logged = [Logged(BASE, ranked()), Logged(BASE, shown("i1", BASE)), Logged(BASE + 150, late)]
    rows = [row for effects in replay(logged, RULES, BASE + 150) for row in effects.rows]
    assert [(row.revision, row.label("click")) for row in rows] == [(1, False), (2, False), (3, True)]


def test_an_outcome_belongs_to_the_exposure_it_names_else_to_the_last_before_it() -> None:
    lists = (ranked("L"), ranked("M"))
    exposures = (shown("i1", BASE), shown("i2", BASE + 5, list_id="M"))

    def owner(**props: Any) -> set[str]:
        rows = rows_of(*lists, *exposures, interaction("c1", "click", "a", BASE + 9, **props), until_ms=BASE + 9)
        return {row.event_id for row in rows if row.label("click")}

    assert owner() == {"i2"}
    assert owner(list_id="L") == {"i1"}
    assert owner(list_id="M", source_impression_id="i1") == {"i1"}
    assert owner(list_id="N") == set()


def test_what_happens_before_the_exposure_or_after_the_window_does_not_count() -> None:
    for at_ms, wanted in ((-1, False), (0, True), (30, True), (31, False)):
        rows = rows_of(ranked(created_ms=BASE - 1), shown("i1", BASE), interaction("c", "click", "a", BASE + at_ms))
        assert rows[-1].label("click") is wanted, at_ms


def test_an_earlier_exposure_gives_its_outcome_back_to_one_that_comes_late() -> None:
    click = interaction("c1", "click", "a", BASE + 9)
    logged = [Logged(BASE, ranked()), Logged(BASE, shown("i1", BASE)), Logged(BASE + 9, click)]
    rows = [row for one in replay([*logged, Logged(BASE + 12, shown("i2", BASE + 8))], RULES) for row in one.rows]
    latest = {row.event_id: row for row in rows}
    assert (latest["i1"].label("click"), latest["i2"].label("click")) == (False, True)


def test_dwell_counts_from_the_threshold_and_the_longest_is_kept() -> None:
    views = [interaction(f"v{n}", "view", "a", BASE + 3 + n, dwell_ms=ms) for n, ms in enumerate((4, 9, 6))]
    short = rows_of(ranked(), shown("i1", BASE), views[0])[-1]
    assert (short.label("dwell"), short.dwell_ms) == (False, 4)
    longest = rows_of(ranked(), shown("i1", BASE), *views)[-1]
    assert (longest.delay_ms, longest.dwell_ms) == ({"dwell": 4}, 9)


def test_each_line_of_an_order_is_an_outcome() -> None:
    order = interaction("p1", "purchase", "a", BASE + 9, items=[{"item_id": "a"}, {"item_id": "b"}, {"item_id": "a"}])
    rows = rows_of(ranked(), shown("i1", BASE), shown("i2", BASE, item="b"), order, until_ms=BASE + 9)
    assert sorted((row.item_id, row.label("purchase")) for row in rows) == [("a", True), ("b", True)]


def test_an_outcome_without_an_exposure_has_its_place() -> None:
    click = interaction("c1", "click", "a", BASE)
    assert reasons(click, until_ms=BASE + RULES.late_ms - 1) == []
    assert reasons(click) == [("no_exposure", "c1")]


def test_an_exposure_of_an_unknown_list_has_its_place_and_is_a_row_once_the_list_comes() -> None:
    assert reasons(shown("i1", BASE)) == [("unknown_list", "i1")]
    assert rows_of(shown("i1", BASE)) == []
    late_list = [Logged(BASE, shown("i1", BASE)), Logged(BASE + 50, ranked(created_ms=BASE - 1))]
    rows = [row for effects in replay(late_list, RULES) for row in effects.rows]
    assert rows[0].label("click") is False


def test_an_item_that_was_not_in_the_list_and_a_list_that_is_too_old_are_refused() -> None:
    assert reasons(ranked(), shown("i1", BASE + 1, item="z")) == [("not_in_list", "i1")]
    assert reasons(ranked(), shown("i1", BASE + RULES.list_ms + 1)) == [("unknown_list", "i1")]


def test_without_consent_to_training_there_is_neither_exposure_nor_outcome() -> None:
    no = {"consent": {"train": False}}
    assert effects_of(ranked(), shown("i1", BASE, **no), until_ms=BASE)[1].counted == [("without_consent", 1)]
    rows = rows_of(ranked(), shown("i1", BASE), interaction("c", "click", "a", BASE + 1, **no))
    assert rows[-1].label("click") is False


def test_an_impression_without_a_list_is_no_exposure() -> None:
    assert effects_of(shown("i1", BASE, list_id=None))[0].counted == [("impressions_without_list", 1)]


def test_more_exposures_than_any_person_has_are_put_aside() -> None:
    many = [shown(f"i{n}", BASE) for n in range(TRAIL_CAP + 2)]
    assert reasons(ranked(), *many, until_ms=BASE) == [
        ("too_many", f"i{TRAIL_CAP}"),
        ("too_many", f"i{TRAIL_CAP + 1}"),
    ]


def test_more_items_than_a_list_can_have_are_put_aside() -> None:
    many = [shown(f"i{n}", BASE, item=f"a{n}", list_id="?") for n in range(LIST_CAP + 1)]
    assert reasons(*many, until_ms=BASE) == [("too_many", f"i{LIST_CAP}")]


def test_everything_is_forgotten_in_the_end() -> None:
    store = DictStore()
    take_list(ranked(), store, BASE, RULES)
    take_interaction(shown("i1", BASE), store, BASE, RULES)
    take_interaction(shown("i2", BASE, item="z", list_id="N"), store, BASE, RULES)
    take_interaction(interaction("c1", "click", "b", BASE), store, BASE, RULES)
    assert store.trails
    assert store.lists
    while store.timers:
        at_ms, token = store.timers.pop(store.timers.index(min(store.timers)))
        assert token[0] in (ITEM, LIST)
        wake("u:alice", token, store, at_ms, RULES)
    assert (store.trails, store.lists) == ({}, {})


# ── laws ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

ITEMS, LISTS = ("a", "b"), ("L", "M")
_moments = st.integers(0, 120)
_named = st.sampled_from([{}, {"list_id": "L"}, {"list_id": "M"}, {"source_impression_id": "e0"}, {"list_id": "?"}])


@st.composite
def logs(draw: st.DrawFn) -> list[Interaction]:
    """Events of one user: impressions of two lists, and everything that may come of them."""
    made = []
    for number in range(draw(st.integers(1, 14))):
        item, at_ms = draw(st.sampled_from(ITEMS)), BASE + draw(_moments)
        kind = draw(st.sampled_from(["impression"] * 3 + ["click", "view", "add_to_cart", "purchase", "return"]))
        if kind == "impression":
            made.append(shown(f"e{number}", at_ms, item, draw(st.sampled_from([*LISTS, "?"]))))
        else:
            dwell = {"dwell_ms": draw(st.integers(0, 10))} if kind in ("view", "click") else {}
            made.append(interaction(f"e{number}", kind, item, at_ms, **dwell, **draw(_named)))
    return made


LISTS_MADE = [ranked("L", BASE - 1), ranked("M", BASE + 20)]
_few = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def final(records: list[Logged], until_ms: int = FOREVER_MS) -> dict[str, dict[str, Any]]:
    """The last row of each, without its number of revisions: that depends on what came when."""
    rows = training_rows(records, RULES, until_ms)
    return {name: msgspec.to_builtins(msgspec.structs.replace(row, revision=0)) for name, row in rows.items()}


def at_once(events: list[Interaction]) -> list[Logged]:
    return [*(Logged(0, one) for one in LISTS_MADE), *(Logged(0, one) for one in events)]


MADE = {one.list_id: one.created_ms for one in LISTS_MADE}


def oracle(events: list[Interaction], made: dict[str, int], rules: Rules, until_ms: int) -> dict[str, dict[str, Any]]:
    """Labels of one user's exposures by impression, written for being obvious: every pair is looked at."""
    window = dict(zip(("click", "dwell", "cart", "purchase", "return"), rules.windows))
    types = {"click": "click", "add_to_cart": "cart", "purchase": "purchase", "return": "return"}
    shows, acts = [], []
    for one in events:
        e, p = one.event, one.event.props
        if e.event_type == "impression":
            shows.append((one.ts_ms, e.event_id, e.item_id, p.list_id))
            continue
        items = {line.item_id for line in p.items} if e.event_type in ("purchase", "return") else {e.item_id}
        named = [(types[e.event_type], None)] if e.event_type in types else []
        named += [("dwell", p.dwell_ms)] if getattr(p, "dwell_ms", None) is not None else []
        acts += [(k, ms, one.ts_ms, i, p.list_id, p.source_impression_id) for k, ms in named for i in items]
    found: dict[str, dict[str, Any]] = {}
    for at, name, _item, list_id in shows:
        if list_id in made and at <= made[list_id] + rules.list_ms:
            closed = [k for k in window if until_ms >= at + window[k]]
            found[name] = {"delay": {}, "dwell": 0, "closed": closed}
    for kind, ms, ts, item, list_id, seen in acts:
        fits = [s for s in shows if s[2] == item and 0 <= ts - s[0] <= window[kind]]
        fits = [s for s in fits if (s[1] == seen if seen else s[3] == list_id if list_id else True)]
        row = found.get(max(fits)[1]) if fits else None
        if row is None:
            continue
        if kind == "dwell":
            row["dwell"] = max(row["dwell"], ms)
        if kind != "dwell" or ms >= rules.long_dwell_ms:
            row["delay"][kind] = min(ts - max(fits)[0], row["delay"].get(kind, 1 << 60))
    return {name: row for name, row in found.items() if row["delay"] or row["dwell"] or row["closed"]}


def told(rows: Iterable[TrainingRow]) -> dict[str, dict[str, Any]]:
    """Rows in the oracle's words."""
    return {row.event_id: {"delay": row.delay_ms, "dwell": row.dwell_ms, "closed": row.closed} for row in rows}


def test_a_row_says_with_what_probability_its_item_was_there() -> None:
    log = [Logged(BASE, ranked()), Logged(BASE, decided()), Logged(BASE + 1, shown("i1", BASE + 1, "b"))]
    (row,) = training_rows(log, RULES).values()
    assert (row.served.slot, row.served.propensity, row.served.item_features_offsets) == ("explore", 0.25, {0: 70})


def test_an_unknown_propensity_stays_unknown() -> None:
    log = [
        Logged(BASE, ranked()),
        Logged(BASE, decided(propensities=(1.0, math.nan))),
        Logged(BASE, shown("i1", BASE, "b")),
    ]
    (row,) = training_rows(log, RULES).values()
    assert (row.served.slot, row.served.propensity) == ("explore", None)


@pytest.mark.parametrize("place", range(4))
def test_a_decision_may_come_at_any_time(place: int) -> None:
    """Contract: before the list, between, or after rows went out: then with a revision. Twice it counts once."""
    log = [
        Logged(BASE, ranked()), Logged(BASE + 1, shown("i1", BASE + 1)),
        Logged(BASE + 3, interaction("c1", "click", "a", BASE + 3)),
    ]  # fmt: skip
    at_ms = [BASE, BASE, BASE + 2, BASE + 20][place]
    log.insert(place, Logged(at_ms, decided()))
    log.append(Logged(BASE + 40, decided()))
    (row,) = training_rows(log, RULES).values()
    assert (row.served.propensity, row.delay_ms, row.closed) == (0.5, {"click": 2}, list(KINDS))
    first = [row for effects in replay(log, RULES, BASE + 25) for row in effects.rows]
    assert [row.revision for row in first] == ([1, 2] if place == 3 else [1])


def test_a_decision_without_list_and_exposures_is_forgotten() -> None:
    store = DictStore()
    take_decision(decided(), store, BASE, RULES)
    at_ms, token = store.timers[0]
    wake("u:alice", token, store, at_ms, RULES)
    assert not store.lists


@_few
@given(logs(), st.sampled_from([BASE + 200, FOREVER_MS]))
def test_the_rows_are_those_of_the_oracle(events: list[Interaction], until_ms: int) -> None:
    rows = training_rows(at_once(events), RULES, until_ms)
    assert told(rows.values()) == oracle(events, MADE, RULES, until_ms)


@_few
@given(logs(), st.data())
def test_order_duplicates_and_lateness_change_nothing_in_the_end(
    events: list[Interaction], data: st.DataObject
) -> None:
    """Contract: whatever comes when, within the lateness, the last revisions are the same."""
    arrivals = [
        Logged(one.ts_ms + data.draw(st.integers(0, RULES.late_ms - 1)), one)
        for one in events + data.draw(st.lists(st.sampled_from(events), max_size=4))
    ]
    arrivals += [Logged(one.created_ms + data.draw(st.integers(0, 40)), one) for one in LISTS_MADE]
    assert final(arrivals) == final(at_once(events))


@_few
@given(logs(), logs(), st.integers(0, 120))
def test_the_future_changes_nothing_in_the_past(past: list[Interaction], other: list[Interaction], at: int) -> None:
    """Contract: no row as of a moment depends on anything that happened after it, and no outcome before it changes later."""
    now_ms = BASE + at
    before = [one for one in past if one.ts_ms <= now_ms]
    after = [
        msgspec.structs.replace(one, event=msgspec.structs.replace(one.event, event_id=f"x{number}"))
        for number, one in enumerate(other)
        if one.ts_ms > now_ms
    ]
    as_of = final([Logged(one.ts_ms, one) for one in before] + [Logged(0, one) for one in LISTS_MADE], now_ms)
    perturbed = [Logged(one.ts_ms, one) for one in [*before, *after]] + [Logged(0, one) for one in LISTS_MADE]
    assert final(perturbed, now_ms) == as_of
    later = final(perturbed)
    for name, row in as_of.items():
        assert later[name]["served"] == row["served"]
        for kind, delay_ms in row.get("delay_ms", {}).items():
            assert later[name]["delay_ms"][kind] == delay_ms
        for kind in row.get("closed", []):
            assert (kind in later[name].get("delay_ms", {})) == (kind in row.get("delay_ms", {}))


@_few
@given(logs())
def test_revisions_count_up_and_each_says_something_new(events: list[Interaction]) -> None:
    said: dict[str, list[TrainingRow]] = {}
    ordered = sorted(at_once(events), key=lambda logged: getattr(logged.record, "ts_ms", 0))
    for effects in replay(ordered, RULES):
        for row in effects.rows:
            said.setdefault(row.row_id, []).append(row)
    for rows in said.values():
        assert [row.revision for row in rows] == list(range(1, len(rows) + 1))
        for row, following in pairwise(rows):
            assert msgspec.structs.replace(row, revision=0) != msgspec.structs.replace(following, revision=0)


# ── state ────────────────────────────────────────────────────────────────────────────────────────────────────────────

TRAIL = Trail(
    [
        Exposure("i1", "L", 5, 3, 7, 2, Labels({0: 4}, 9, 3), True),
        Exposure("i2", "M", 6, 4),
    ],
    [Outcome("c1", 1, 9, "L", "i1", 6), Outcome("c2", 3, 10)],
    17,
)
ENTRY = ListEntry(
    ServedList("home", 1, 2, 3, 4, "b", "r", "p", "click", {0: 1}, {"l": "a"}, None, "global", ["a"], [0.5], ["ann"]),
    ["a"],
)


def test_state_survives_its_encoding() -> None:
    assert decode_trail(encode(TRAIL)) == TRAIL
    assert decode_list_entry(encode(ENTRY)) == ENTRY


def test_version_1_is_read_as_it_was_written() -> None:
    """Contract: blobs of a release that is out are read by every later one. Never regenerate the fixture."""
    blobs = json.loads((FIXTURES / "training_state_v1.json").read_text())
    assert decode_trail(bytes.fromhex(blobs["trail"])) == TRAIL
    assert decode_list_entry(bytes.fromhex(blobs["list"])) == ENTRY


def test_the_release_before_reads_what_this_one_writes() -> None:
    """Contract: a rollback finds state with a decision in it, and goes on without it."""

    class Before(msgspec.Struct, array_like=True):
        served: ServedList | None = None
        shown: list[str] = []

    blob = encode(msgspec.structs.replace(ENTRY, chosen=Chosen(["exploit"], [None], {0: 1})))
    assert msgspec.msgpack.decode(blob[1:], type=Before) == Before(ENTRY.served, ENTRY.shown)
    assert decode_list_entry(blob).chosen == Chosen(["exploit"], [None], {0: 1})


def test_state_of_another_version_is_refused_in_a_sentence() -> None:
    with pytest.raises(UnknownStateVersion, match="version 2; this release reads 1"):
        decode_trail(b"\x02" + encode(TRAIL)[1:])


def test_a_trail_of_a_month_of_looking_stays_small() -> None:
    trail = Trail([Exposure("f" * 32, "e" * 16, 1_767_225_600_000, n, n) for n in range(TRAIL_CAP)])
    assert len(encode(trail)) / TRAIL_CAP < 80
