"""Traffic with a known outcome: every record says what must become of it.

A person clicks some thirty times and leaves; another comes. Every third is a visitor who logs in after a few clicks, so that
anonymous state has to be merged. In between come duplicates, late events and garbage. All of it follows from the seed.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from schemas.keys import user_key

CLICKS = 30  # of one person: fewer than a session keeps, so that all of them can be looked for in the state
_ANONYMOUS_CLICKS = 4
_LATE_MS = 25 * 3_600_000
_SURFACE = "home"
# Of 100 records of a person who has clicked before.
_DUPLICATES, _LATE, _GARBAGE = 10, 4, 4
_encode = msgspec.json.Encoder().encode


class Click(NamedTuple):
    """An event that must be applied, once."""

    event_id: str
    item_id: str
    ts_ms: int
    key: str


class Sent(NamedTuple):
    """A record for the topic `events`."""

    key: bytes
    value: bytes


class Person:
    """What one person has sent. Late events and garbage by their bytes, which are unique."""

    def __init__(self, user_id: str, visitor: bool) -> None:
        self.user_id, self.session_id = user_id, f"session-of-{user_id}"
        self.visitor = visitor
        self.clicks: list[Click] = []
        self.late: list[bytes] = []
        self.garbage: list[bytes] = []
        self.duplicates = 0
        self.last: dict[str, bytes] = {}  # event id -> as it was sent

    @property
    def logged_in(self) -> bool:
        return not self.visitor or len(self.clicks) > _ANONYMOUS_CLICKS

    @property
    def keys(self) -> list[str]:
        """The keys that hold this person's state: the user's first, where it is known."""
        anonymous, known = user_key(None, self.session_id), user_key(self.user_id, None)
        if not self.visitor:
            return [known]
        return [known, anonymous] if self.logged_in else [anonymous]

    @property
    def sent(self) -> int:
        return len(self.clicks) + len(self.late) + len(self.garbage) + self.duplicates


class Traffic:
    """`label` keeps the users of one run apart from those of another."""

    def __init__(self, seed: int, label: str, items: Sequence[str], at_once: int = 20) -> None:
        self.seed = seed
        self.people: list[Person] = []
        self._label, self._items, self._chance = label, items, random.Random(seed)
        self._present = [self._arrival() for _ in range(at_once)]
        self._turn = 0

    def present(self) -> list[Person]:
        """Who is clicking now."""
        return list(self._present)

    def next(self, now_ms: int) -> Sent:
        """The next record, of the next person in turn."""
        self._turn = (self._turn + 1) % len(self._present)
        person = self._present[self._turn]
        if len(person.clicks) == CLICKS:
            person = self._present[self._turn] = self._arrival()
        draw = self._chance.randrange(100)
        key = person.keys[0].encode()
        if not person.clicks or draw >= _DUPLICATES + _LATE + _GARBAGE:
            return self._click(person, now_ms)
        if draw < _DUPLICATES:
            person.duplicates += 1
            again = self._chance.choice(person.clicks[-15:])
            return Sent(again.key.encode(), person.last[again.event_id])
        if draw < _DUPLICATES + _LATE:
            user_id = person.user_id if person.logged_in else None
            body = self._body(person, user_id, f"{person.user_id}-late-{len(person.late)}", now_ms - _LATE_MS)
            person.late.append(_encode(body))
            return Sent(key, person.late[-1])
        person.garbage.append(f"{{garbage {len(person.garbage)} of {person.user_id}".encode())
        return Sent(key, person.garbage[-1])

    def _arrival(self) -> Person:
        number = len(self.people)
        person = Person(f"{self._label}-{number}", visitor=number % 3 == 0)
        self.people.append(person)
        return person

    def _click(self, person: Person, now_ms: int) -> Sent:
        # Strictly later than the one before: a person's clicks have one order.
        ts_ms = max(now_ms, person.clicks[-1].ts_ms + 1 if person.clicks else 0)
        anonymous = person.visitor and len(person.clicks) < _ANONYMOUS_CLICKS
        user_id = None if anonymous else person.user_id
        body = self._body(person, user_id, f"{person.user_id}-{len(person.clicks)}", ts_ms)
        key = user_key(user_id, person.session_id)
        click = Click(str(body["event_id"]), str(body["item_id"]), ts_ms, key)
        person.clicks.append(click)
        person.last[click.event_id] = _encode(body)
        return Sent(key.encode(), person.last[click.event_id])

    def _body(self, person: Person, user_id: str | None, event_id: str, ts_ms: int) -> dict[str, object]:
        return {
            "event_id": event_id,
            "session_id": person.session_id,
            **({"user_id": user_id} if user_id is not None else {}),
            "event_type": "click",
            "item_id": self._chance.choice(self._items),
            "ts_ms": ts_ms,
            "schema_version": 2,
            "props": {"surface": _SURFACE},
        }
