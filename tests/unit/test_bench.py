"""Benchmarks: the committed page and plot are what the committed figures say, and figures are worked out as documented."""

from __future__ import annotations

from collections import Counter

import msgspec
import pytest

from bench import page, results
from bench.filling import FULL, prepared
from bench.machine import About
from bench.plot import latency_plot
from bench.regret import kept
from bench.results import Latency, Percentiles, Rate, Results, Round, State
from bench.serve import Answer, Served, _answers
from bench.session import step
from schemas import topics
from schemas.keys import id_hash
from schemas.record import Record
from schemas.user_state import HISTORY_CAP, SESSION_CAP, decode, encode
from tests.fakes import NOW, raw

ABOUT = About(
    "2026-01-01T00:00+00:00",
    "abc",
    True,
    2,
    "cpu",
    2,
    8,
    "6",
    "3.11",
    {"numpy": "2"},
    {"events_per_rate": "9", "users": "3"},
)


def test_the_page_is_what_the_figures_say() -> None:
    kept = results.load()
    assert page.PAGE.read_text() == page.render(kept)
    if kept.latency is not None:
        assert page.PLOT.read_text() == latency_plot(kept.latency)


def rate(of: float, p50: float, saturated: bool = False) -> Rate:
    spread = Percentiles(p50, p50, 2 * p50, 3 * p50)
    return Rate(
        of, 100, 99, {"model_busy": 9}, spread, {"send": spread}, p50, saturated, {"taskmanager": 0.5}, {"rank": 0.25}
    )


def test_a_table_gives_median_and_spread_and_says_quick() -> None:
    text = page.render(Results(latency=Latency(ABOUT, [[rate(25, 10), rate(400, 900, True)], [rate(25, 12)]], [])))
    assert "| 25 | 99.0 % (99.0 %–99.0 %) | 90.0 % (90.0 %–90.0 %) | 11.0 (10.0–12.0) |" in text
    assert "| 400 | 99.0 % | 90.0 % | 900.0 | 900.0 | 1800.0 | 2700.0 | saturated |" in text
    assert "Quick: too few events" in text
    assert "Not measured: `.venv/bin/python -m bench state`" in text


def test_ratios_are_of_the_same_round() -> None:
    rounds = {
        "riffle": [Round(10, 1, 100, 5, 10, 0), Round(10, 1, 200, 5, 10, 0)],
        "quix": [Round(10, 1, 150, 5, 10, 0)] * 2,
    }
    line = next(
        line for line in page.render(Results(state=State(ABOUT, rounds))).splitlines() if "Quix Streams |" in line
    )
    assert "| 1.12 (0.75–1.50) |" in line


def test_results_survive_their_file(tmp_path: object) -> None:
    kept = Results(latency=Latency(ABOUT, [[rate(25, 10)]], []))
    path = tmp_path / "results.json"  # type: ignore[operator]
    results.save(kept, path)
    assert results.load(path) == kept


def test_the_first_list_that_has_seen_an_event_answers_it() -> None:
    """Contract: an event whose own ranking was superseded waits for the list that came instead."""

    def seen(at: float, *events: str) -> tuple[float, int, bytes]:
        receipt = {"freshness": {"recent": [f"{id_hash(one):016x}" for one in events]}, "stage_ms": {"total": 2.0}}
        return at, int(at) - 1, msgspec.json.encode({"created_ms": int(at) - 3, "receipt": receipt})

    found = _answers([seen(50.0, "other", "a"), seen(60.0, "a", "b", "c")], {"a": 10.0, "b": 20.0, "d": 30.0})
    assert {name: answer.received_ms for name, answer in found.items()} == {"a": 50.0, "b": 60.0}


def test_the_parts_of_an_event_sum_up_to_its_latency() -> None:
    answer = Answer(100.5, 95, 90, {"candidates": 1.0, "encode": 2.0, "score": 3.0, "select": 0.5, "total": 8.0}, None)
    served = Served({"a": 10.25}, {"a": 20}, {"a": answer}, None)
    assert sum(part[0] for part in served.parts_ms().values()) == pytest.approx(served.latencies_ms()[0])


def test_the_state_path_needs_no_timer_but_the_clean_up_and_forgets_no_duplicate() -> None:
    blob: bytes | None = None
    written: Counter[str] = Counter()
    event = raw("click", event_id="e-same", user_id="alice")
    for offset, value in enumerate((event, event, b"{}")):
        blob, outputs = step(blob, "u:alice", Record(topics.EVENTS, "u:alice", value, 0, offset, NOW), NOW + offset)
        written.update(one.topic for one in outputs)
    assert blob is not None
    state = decode(blob)
    assert (state.event_no, state.tail.timer_ms, state.tail.pending) == (1, 0, [])
    assert written[topics.INTERACTIONS] == 1
    assert written[topics.EVENTS_DLQ] == 1


def test_a_prepared_user_is_full_and_at_home_in_the_session_it_is_sent_events_of() -> None:
    state = decode(encode(prepared("u:user-7", FULL, NOW)))
    assert (len(state.session_slots), len(state.history_slots), len(state.ids)) == (SESSION_CAP, HISTORY_CAP, 250)
    value = raw("click", user_id="user-7", session_id="session-user-7")
    _, outputs = step(encode(state), "u:user-7", Record(topics.EVENTS, "u:user-7", value, 0, 1, NOW), NOW)
    assert [one.topic for one in outputs] == [topics.INTERACTIONS]


def test_the_last_line_of_the_bandits_is_what_is_kept() -> None:
    said = """thompson {'regret': 77.9}
{"mabwiser": "2.7.4", "steps": 2000, "problems": 4, "linear_steps": 600, "linear_problems": 10,
"thompson": {"regret": 77.9, "mabwiser": 77.4, "ratio": 1.007, "standard_error": 0.071}}"""
    found = kept(True, said.replace("10,\n", "10, "))
    assert (found.mabwiser, found.problems, found.policies["thompson"].ratio) == ("2.7.4", 4, 1.007)
    text = page.render(Results(bandits=found))
    assert "| `thompson` | 77.90 | 77.40 | 1.007 | 0.071 |" in text
    assert "4 seeded problems" in text
