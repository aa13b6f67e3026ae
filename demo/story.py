"""One shopper followed, for the terminal: what they did, and their list before and after."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from demo.world import World
from schemas.event import AddToCart, Click, Event, Follow, Hide, Like, Login, Purchase, Search, View


@dataclass(frozen=True)
class Story:
    """`acts` happened between the two lists, oldest first; lists are titles, best first."""

    user_id: str
    acts: tuple[str, ...]
    before: tuple[str, ...]
    after: tuple[str, ...]


class Follower:
    """Follows one visit at a time and tells a story whenever a list comes after an act."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._session: str | None = None
        self._before: tuple[str, ...] = ()
        self._acts: list[str] = []
        self.story: Story | None = None

    def begins(self, session_id: str) -> None:
        """A visit begins: follow it if nobody is followed."""
        if self._session is None:
            self._session, self._before, self._acts = session_id, (), []

    def ends(self, session_id: str) -> None:
        if session_id == self._session:
            self._session = None

    def did(self, event: Event) -> None:
        if event.session_id == self._session and (act := describe(self._world, event)):
            self._acts.append(act)

    def saw(self, session_id: str, user_id: str, item_ids: Sequence[str]) -> None:
        if session_id != self._session:
            return
        titles = tuple(self._title(item_id) for item_id in item_ids)
        if self._acts and self._before:
            self.story = Story(user_id, tuple(self._acts), self._before, titles)
        self._before, self._acts = titles, []

    def _title(self, item_id: str) -> str:
        number = self._world.index.get(item_id)
        return item_id if number is None else self._world.items[number].title or item_id


def describe(world: World, event: Event) -> str | None:
    """An act in a few words; None for what says little (impressions, scrolls)."""

    def title(item_id: str) -> str:
        item = world.items[world.index[item_id]]
        return f"{item.title} ({item.subcategory})"

    if isinstance(event, Search):
        return f"searched for “{event.props.query}”"
    if isinstance(event, Click):
        return f"clicked {title(event.item_id)}"
    if isinstance(event, View):
        return f"stayed {event.props.dwell_ms / 1000:.0f} s on {title(event.item_id)}"
    if isinstance(event, AddToCart):
        return f"put {title(event.item_id)} into the cart"
    if isinstance(event, Purchase):
        return f"bought {', '.join(title(line.item_id) for line in event.props.items)}"
    if isinstance(event, Follow):
        return f"followed {event.props.target}"
    if isinstance(event, Like):
        return f"liked {title(event.item_id)}"
    if isinstance(event, Hide):
        return f"hid {title(event.item_id)}"
    return "logged in" if isinstance(event, Login) else None
