"""Finding decision records and policies on their topics, newest first."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from client.scan import Scanner
from schemas import topics
from schemas.control import PublishPolicy, decode_control
from schemas.decision import Decision, DecisionError, decode_decision
from schemas.policy import DEFAULT, Policy


def decision_of_list(scanner: Scanner, list_id: str) -> Decision | None:
    """The record of a list; None where there is none (any more). Raises DecisionError for one that cannot be read."""
    needle = list_id.encode()
    for record in scanner.newest_first(topics.RANKINGS_LOG):
        if record.value and needle in record.value:
            found = decode_decision(record.value)
            if found.list_id == list_id:
                return found
    return None


def logged(
    scanner: Scanner, *, last: int | None = None, since_ms: int | None = None, surface: str | None = None
) -> Iterator[Decision | DecisionError]:
    """Records of lists, each list once: the `last` ones, newest first; or those appended since `since_ms`, oldest first.

    What cannot be read comes as its error.
    """
    seen: set[str] = set()
    found: Iterator[Any] = (
        scanner.newest_first(topics.RANKINGS_LOG) if since_ms is None else scanner.since(topics.RANKINGS_LOG, since_ms)
    )
    ends = f"|{surface}".encode() if surface is not None else b""
    for record in found:
        if not record.value or not (record.key or b"").endswith(ends):
            continue
        if last is not None and len(seen) >= last:
            return
        try:
            decision = decode_decision(record.value)
        except DecisionError as error:
            yield error
            continue
        if decision.list_id not in seen:
            seen.add(decision.list_id)
            yield decision


def newest_decisions(scanner: Scanner, keys: set[str], surface: str) -> dict[str, Decision]:
    """The newest record of each user's key on a surface, of those that have one."""
    wanted = {f"{key}|{surface}".encode(): key for key in keys}
    found: dict[str, Decision] = {}
    for record in scanner.newest_first(topics.RANKINGS_LOG):
        key = wanted.pop(record.key or b"", None)
        if key is not None and record.value:
            found[key] = decode_decision(record.value)
        if not wanted:
            break
    return found


def recent_decisions(scanner: Scanner, surface: str, count: int) -> dict[str, Decision]:
    """The newest record of each of the last users on a surface; what cannot be read is passed over."""
    found: dict[str, Decision] = {}
    ends = f"|{surface}".encode()
    for record in scanner.newest_first(topics.RANKINGS_LOG):
        key = (record.key or b"").removesuffix(ends).decode(errors="replace")
        if not (record.key or b"").endswith(ends) or key in found or not record.value:
            continue
        try:
            found[key] = decode_decision(record.value)
        except DecisionError:
            continue
        if len(found) >= count:
            break
    return found


def published_policies(scanner: Scanner) -> dict[str, Policy]:
    """Every version that was ever published, and the default; of one version, what was published first."""
    found = {DEFAULT.version: DEFAULT}
    for record in scanner.everything(topics.CONTROL):
        try:
            control = decode_control(record.value or b"")
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            continue
        if isinstance(control, PublishPolicy):
            found.setdefault(control.policy.version, control.policy)
    return found
