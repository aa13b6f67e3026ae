"""The state path that every contender runs: pure functions of udfs.logic and schemas, no engine.

    record ─ parse, validate ─ deduplicate, place in session ─ encode state ─┬─ interactions, identity, dead letters
                                                                             └─ the ranking's task (encoded; nobody ranks here)

Rules without the two that need timers (throttle, catching up), because Quix Streams has none: every click makes its task at once.
"""

from __future__ import annotations

from schemas import topics
from schemas.ranking import encode_task
from schemas.record import Record, TopicRecord
from schemas.user_state import decode
from udfs.logic.records import Rules, Stamp, handle
from udfs.logic.when_to_rank import RankPolicy

NEVER_MS = 1 << 53
RULES = Rules(ranking=RankPolicy(throttle_ms=0, catch_up_lag_ms=NEVER_MS))
STAMP = Stamp(1, None)
OUT = (topics.INTERACTIONS, topics.IDENTITY, topics.EVENTS_DLQ, topics.EVENTS_LATE)


def step(blob: bytes | None, key: str, record: Record, now_ms: int) -> tuple[bytes | None, list[TopicRecord]]:
    """The state to store (None: as it was) and the records to send."""
    outcome = handle(decode(blob) if blob else None, key, record, now_ms, STAMP, RULES)
    if outcome.task is not None:
        encode_task(outcome.task)
    return outcome.store, outcome.outputs
