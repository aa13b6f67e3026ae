"""Account: what became of a load, record by record, from what the engine has written.

    sent = applied (interactions) + duplicate (numbers in the state) + late (events-late) + rejected (events-dlq)

The state is known by its session features: `list_no` counts every record handled, so that what is neither applied nor late nor
rejected was handled as a duplicate; `session_items` are the clicks as the state holds them.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from typing import Any

import msgspec

from client.feed import RankedFeed
from client.scan import Limits, Scanner
from schemas import topics
from schemas.connections import Connections
from schemas.interaction import Interaction, decode_interaction
from schemas.ranking import RankedList, SessionFeatures, decode_features, decode_list
from trials.load import Load
from trials.traffic import Person

_SCAN_S = 60.0
_SURFACE = "home"
_NAMED = 20  # differences that are told


class Account(msgspec.Struct):
    """`differences` is empty where every record is accounted for, and every state and newest list is right."""

    sent: int = 0
    applied: int = 0
    duplicate: int = 0
    late: int = 0
    rejected: int = 0
    people: int = 0
    merges: int = 0
    differences: list[str] = []

    @property
    def balanced(self) -> bool:
        return not self.differences and self.sent == self.applied + self.duplicate + self.late + self.rejected


class Written(msgspec.Struct):
    """What the engine wrote since a load began."""

    interactions: dict[str, list[Interaction]] = {}  # by user key, in order
    late: set[bytes] = set()
    dead: set[bytes] = set()
    features: dict[str, SessionFeatures] = {}  # the newest by user key
    lists: dict[str, RankedList] = {}  # likewise, of the surface `home`


def settle(where: Connections, load: Load, limit_s: float) -> Account:
    """The account once it balances, or as it stands after `limit_s`: the last checkpoint's records take a moment."""
    deadline = time.monotonic() + limit_s
    while True:
        account = take(load.traffic.people, written(where, load.begun_ms), in_redis(where, load.traffic.people))
        if account.balanced or time.monotonic() > deadline:
            return account
        time.sleep(1)


def written(where: Connections, since_ms: int) -> Written:
    """Read the topics. Raises KafkaUnavailable."""
    found = Written()
    with Scanner(where, Limits(records=2**62, seconds=_SCAN_S)) as scanner:
        for record in scanner.since(topics.INTERACTIONS, since_ms):
            one = decode_interaction(record.value)
            found.interactions.setdefault(one.key, []).append(one)
        found.late = {record.value for record in scanner.since(topics.EVENTS_LATE, since_ms)}
        found.dead = {record.value for record in scanner.since(topics.EVENTS_DLQ, since_ms)}
        for features in _newest(map(decode_features, _values(scanner.since(topics.FEATURES, since_ms)))):
            found.features[features.key] = features
        lists = map(decode_list, _values(scanner.since(topics.RANKED_FEED_LATEST, since_ms)))
        for ranked in _newest(one for one in lists if one.surface == _SURFACE):
            found.lists[ranked.key] = ranked
    return found


def in_redis(where: Connections, people: Iterable[Person]) -> dict[str, str | None]:
    """The last event that the newest list in Redis names, by user key."""
    found = {}
    with RankedFeed(where) as feed:
        for person in people:
            if not person.clicks:
                continue
            known = person.user_id if person.logged_in else None
            receipt = feed.get(known, _SURFACE, session_id=person.session_id).receipt
            found[person.keys[0]] = receipt.freshness.last_event_id if receipt is not None else None
    return found


def take(people: Iterable[Person], found: Written, redis: dict[str, str | None]) -> Account:
    """Compare what was sent with what was written."""
    account = Account()
    for person in people:
        if person.clicks:
            account.people += 1
            account.sent += person.sent
            _count(account, person, found)
            account.differences += _differences(person, found, redis)
    del account.differences[_NAMED:]
    return account


def _count(account: Account, person: Person, found: Written) -> None:
    applied = sum(len(found.interactions.get(key, [])) for key in person.keys)
    late, rejected = len(found.late & set(person.late)), len(found.dead & set(person.garbage))
    merged = len(person.keys) == 2
    handled = sum(found.features[key].list_no for key in person.keys if key in found.features)
    handled -= 2 if merged else 0  # the claim at the one key, the merge at the other
    account.applied, account.late, account.rejected = (
        account.applied + applied,
        account.late + late,
        account.rejected + rejected,
    )
    account.merges += merged
    account.duplicate += handled - applied - late - rejected


def _differences(person: Person, found: Written, redis: dict[str, str | None]) -> Iterable[str]:
    name, key = person.user_id, person.keys[0]
    times = Counter(one.event.event_id for one_key in person.keys for one in found.interactions.get(one_key, []))
    wrong = {click.event_id: times[click.event_id] for click in person.clicks if times[click.event_id] != 1}
    if wrong:
        yield f"{name}: applied another number of times than once: {wrong}"
    for one_key in person.keys:
        numbers = [one.event_no for one in found.interactions.get(one_key, [])]
        if numbers != list(range(1, len(numbers) + 1)):
            yield f"{one_key}: events are numbered {numbers}"
    if missing := set(person.late) - found.late:
        yield f"{name}: {len(missing)} late events are not on {topics.EVENTS_LATE}"
    if missing := set(person.garbage) - found.dead:
        yield f"{name}: {len(missing)} rejected records are not on {topics.EVENTS_DLQ}"
    features = found.features.get(key)
    items = features.session_items if features is not None else None
    if items != [click.item_id for click in person.clicks]:
        yield f"{name}: the state holds {len(items or [])} clicks in its order, {len(person.clicks)} were sent"
    last = person.clicks[-1].event_id
    newest = found.lists.get(key)
    for place, seen in (
        ("Kafka", newest.receipt.freshness.last_event_id if newest is not None else None),
        ("Redis", redis.get(key)),
    ):
        if seen != last:
            yield f"{name}: the newest list in {place} names {seen}, not {last}"


def _values(records: Iterable[Any]) -> Iterable[bytes]:
    return (record.value for record in records if record.value is not None)


def _newest(versions: Iterable[Any]) -> list[Any]:
    """The highest (state_epoch, list_no) of each key: after a failure, older ones may come again."""
    found: dict[str, Any] = {}
    for one in versions:
        before = found.get(one.key)
        if before is None or (one.state_epoch, one.list_no) >= (before.state_epoch, before.list_no):
            found[one.key] = one
    return list(found.values())
