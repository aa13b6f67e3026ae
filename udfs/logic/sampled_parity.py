"""Parity in the stream: of a sample of users the state is worked out a second time, from a plain list of all that happened.

    interactions, as the job emits them ─ follow ─ log ─ session, counts ─┐
    the operator's state ─────────────────────────────────────────────────┴─ differences

Every SAMPLE-th user is followed from the first event on, for LOG_CAP events, or until another user's state is merged in. Nothing of
udfs.logic.sessions is used here: an error there is one that this does not share. `riffle parity` compares all users, but later.
"""

from __future__ import annotations

from collections import Counter

import msgspec

from schemas.event import Event, Follow, Purchase, Return, Search
from schemas.interaction import Interaction
from schemas.keys import id_hash
from schemas.user_state import ACTIONS, COUNTED, IDS_CAP, QUERY_MARK, SESSION_CAP, TARGET_MARK, UserState

SAMPLE = 256
LOG_CAP = 200

Happened = tuple[int, str, list[str]]  # event time as applied in ms, event type, what it acts on


class Log(msgspec.Struct, array_like=True):
    """A user's applied events, in the order in which they were applied; `event_no` is the newest one's."""

    event_no: int = 0
    happened: list[Happened] = []


def samples(key: str) -> bool:
    """Whether the user is in the sample. The anonymous are not: their state is handed on and begins anew."""
    return key.startswith("u:") and id_hash(key) % SAMPLE == 0


def follow(log: Log | None, one: Interaction) -> Log | None:
    """The log with one more event; None where events are missing, or too many: the user is not followed any more."""
    if one.event_no == 1:
        log = Log()
    if log is None or one.event_no != log.event_no + 1 or len(log.happened) >= LOG_CAP:
        return None
    happened = [*log.happened, (one.ts_ms, one.event.event_type, _acted_on(one.event))]
    if len({name for _, _, names in happened for name in names}) > IDS_CAP:  # the state has begun to forget
        return None
    return Log(one.event_no, happened)


def differences(log: Log, state: UserState, gap_ms: int) -> list[str]:
    """What the state says otherwise: `session`, `counts`."""
    kept = state.session()
    in_state = list(zip(kept.ts_ms, kept.item_ids, [code & 15 for code in kept.actions]))
    found = ["session"] if in_state != session(log.happened, gap_ms) else []
    return [*found, "counts"] if dict(state.counted()) != counts(log.happened) else found


def session(happened: list[Happened], gap_ms: int) -> list[tuple[int, str, int]]:
    """The open session's newest acts by time: (event time in ms, id, action)."""
    acts: list[tuple[int, str, int]] = []
    opened = newest = None
    for ts_ms, kind, names in happened:
        if opened is None or newest is None or ts_ms > newest + gap_ms:
            acts, opened, newest = [], ts_ms, ts_ms
        elif ts_ms < min([opened, *(act[0] for act in acts)]) - gap_ms:
            continue  # of a session that is over
        newest = max(newest, ts_ms)
        acts += [(ts_ms, name, ACTIONS[kind]) for name in names]
        acts = sorted(acts, key=lambda act: act[0])[-SESSION_CAP:]
    return acts


def counts(happened: list[Happened]) -> dict[str, tuple[int, ...]]:
    """How often each item was viewed, clicked, put into the cart and bought (COUNTED), whenever that was."""
    times = Counter((name, kind) for _, kind, names in happened if kind in COUNTED for name in names)
    return {item: tuple(times[item, kind] for kind in COUNTED) for item, _ in times}


def _acted_on(event: Event) -> list[str]:
    if event.event_type not in ACTIONS:
        return []
    if isinstance(event, (Purchase, Return)):
        return [line.item_id for line in event.props.items]
    if isinstance(event, Search):
        return [QUERY_MARK + event.props.query.casefold().strip()[:48]]
    if isinstance(event, Follow):
        return [TARGET_MARK + event.props.target]
    return [event.item_id] if event.item_id else []


encode_log = msgspec.msgpack.Encoder().encode
decode_log = msgspec.msgpack.Decoder(Log).decode
