"""Coverage against a naive oracle: a user's log, of which a prefix has been handled."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.coverage import Coverage, SeenEvent, SeenPosition, demand_of, judge
from client.errors import InvalidArgument
from schemas.keys import id_hash
from schemas.ranking import Freshness, NotApplied

RECENT = 16
TRACES = 4


def freshness_after(log: list[tuple[str, str | None]], partition: int) -> Freshness:
    """The freshness record after a log of (event id, reason why not applied or None), at offsets 0, 1, 2, …"""
    applied = [event_id for event_id, reason in log if reason is None]
    refused = [
        NotApplied(reason, partition, offset, f"{id_hash(event_id):016x}")
        for offset, (event_id, reason) in enumerate(log)
        if reason is not None
    ]
    return Freshness(
        event_no=len(applied),
        last_event_id=applied[-1] if applied else None,
        last_event_ts_ms=None,
        recent=[f"{id_hash(event_id):016x}" for event_id in applied[-RECENT:]],
        offsets={partition: len(log) - 1} if log else {},
        not_applied=refused[-TRACES:],
    )


reasons = st.sampled_from([None, None, None, "late", "missing_field"])
logs = st.lists(reasons, max_size=60).map(lambda kinds: [(f"event-{n}", kind) for n, kind in enumerate(kinds)])


@given(logs, st.integers(0, 7), st.data())
def test_a_position_is_covered_exactly_when_it_was_handled(
    log: list[tuple[str, str | None]], partition: int, data: st.DataObject
) -> None:
    """Contract: a position is never forgotten; a refused one is answered with its reason while that is remembered."""
    handled = data.draw(st.integers(0, len(log)))
    offset = data.draw(st.integers(0, 70))
    fresh = freshness_after(log[:handled], partition)
    verdict = judge(SeenPosition(partition, offset), fresh)
    if offset >= handled:
        assert verdict is Coverage.NOT_YET
    elif log[offset][1] is None:
        assert verdict is Coverage.COVERED
    else:
        later = [reason for _, reason in log[offset + 1 : handled] if reason is not None]
        assert verdict == (log[offset][1] if len(later) < TRACES else Coverage.COVERED)
    assert judge(SeenPosition(partition + 1, offset), fresh) is Coverage.NOT_YET


@given(logs, st.data())
def test_an_event_id_is_covered_while_it_is_among_the_last_sixteen(
    log: list[tuple[str, str | None]], data: st.DataObject
) -> None:
    """Contract: never covered before it was applied; covered right after; a refusal is told at once."""
    handled = data.draw(st.integers(0, len(log)))
    number = data.draw(st.integers(0, 70))
    demand = demand_of(f"event-{number}")
    assert isinstance(demand, SeenEvent)
    verdict = judge(demand, freshness_after(log[:handled], 0))
    applied = [event_id for event_id, reason in log[:handled] if reason is None]
    refused = [(event_id, reason) for event_id, reason in log[:handled] if reason is not None][-TRACES:]
    if demand.event_id in applied[-RECENT:]:
        assert verdict is Coverage.COVERED
    elif demand.event_id in dict(refused):
        assert verdict == dict(refused)[demand.event_id]
    else:
        assert verdict is Coverage.NOT_YET


@given(logs, st.integers(0, 59))
def test_coverage_of_a_position_never_goes_back(log: list[tuple[str, str | None]], offset: int) -> None:
    steps = range(0, len(log) + 1, 5)
    seen = [judge(SeenPosition(0, offset), freshness_after(log[:n], 0)) for n in steps]
    waiting = [verdict is Coverage.NOT_YET for verdict in seen]
    assert waiting == sorted(waiting, reverse=True)


def test_an_applied_event_is_covered_though_a_copy_of_it_was_dropped() -> None:
    """Contract: a retry's `duplicate` must not tell the sender that its event was refused."""
    event_hash = f"{id_hash('e1'):016x}"
    fresh = Freshness(1, "e1", 1, [event_hash], {0: 5}, [NotApplied("duplicate", 0, 5, event_hash)])
    assert judge(SeenEvent("e1", event_hash), fresh) is Coverage.COVERED
    assert judge(SeenPosition(0, 5), fresh) == "duplicate"
    assert judge(SeenPosition(0, 4), fresh) is Coverage.COVERED


def test_a_forgotten_applied_event_whose_copy_was_dropped_is_answered_at_once() -> None:
    event_hash = f"{id_hash('old'):016x}"
    fresh = Freshness(
        40, "new", 1, [f"{n:016x}" for n in range(16)], {0: 50}, [NotApplied("duplicate", 0, 50, event_hash)]
    )
    assert judge(SeenEvent("old", event_hash), fresh) == "duplicate"


@pytest.mark.parametrize(
    "wrong", ["", "x" * 129, "tab\t", (1,), (1, 2, 3), (-1, 0), (0, 1.5), (True, 1), 7, ["a", "b"]]
)
def test_what_is_no_demand_is_refused(wrong: object) -> None:
    with pytest.raises(InvalidArgument, match="at_least"):
        demand_of(wrong)  # type: ignore[arg-type]


def test_demands_are_read() -> None:
    assert demand_of(None) is None
    assert demand_of((3, 9)) == SeenPosition(3, 9)
    assert demand_of("e1") == SeenEvent("e1", f"{id_hash('e1'):016x}")
