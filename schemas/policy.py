"""Slate policy: what becomes of scores before a list is shown, as data. One per surface, in TOML or JSON.

    candidates ─ quotas ─ rules ─ scores by task weights ─ slots, best first: diversity and caps ─ list

    version = "home-2"
    surface = "home"

    [weights]                   # of the bundle's tasks; sum to one; left out: the bundle's own
    click = 0.3
    cart = 0.7

    [[rules]]                   # each removes candidates, or caps what a list may hold; the first that removes is named
    rule = "bought"
    days = 30

    [diversity]
    method = "mmr"
    relevance = 0.8

    [[slots]]
    kind = "explore"
    places = [4, 9]
    policy = "thompson"

A version never changes its meaning: decision records name it. Places count from 1.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from schemas.event import Id

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ANY_SURFACE = "*"  # the policy of every surface that has none of its own
DEFAULT_VERSION = "1"
LAST_PLACE = 500  # no request may ask for more
_SUM_TOLERANCE = 1e-6

PolicyVersion = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$(?!\n)")]
# As schemas.event.Name, or ANY_SURFACE.
SurfaceOrAny = Annotated[str, Meta(min_length=1, max_length=32, pattern=r"^(\*|[A-Za-z0-9_.-]+)$(?!\n)")]
Place = Annotated[int, Meta(ge=1, le=LAST_PLACE)]
Share = Annotated[float, Meta(ge=0, le=1)]
Count = Annotated[int, Meta(ge=1, le=LAST_PLACE)]


class PolicyError(ValueError):
    """A policy that is not accepted. The message names the field and says what to do."""


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What all parts of a policy share: an unknown field is refused, and defaults are written out, so that they may change."""


# ── rules ────────────────────────────────────────────────────────────────────────────────────────────────────────────


class Seen(_Part, frozen=True, tag_field="rule", tag="seen"):
    """Shown so often among the last impressions, and never acted on. Spares a caller's candidates."""

    times: Annotated[int, Meta(ge=1, le=128)] = 8


class Bought(_Part, frozen=True, tag_field="rule", tag="bought"):
    """Bought in the last `days`; in this session, where they are left out. Spares a caller's candidates."""

    days: Annotated[int, Meta(ge=1, le=365)] | None = None


class Hidden(_Part, frozen=True, tag_field="rule", tag="hidden"):
    """Hidden by the user, as far back as the state reaches."""


class OutOfStock(_Part, frozen=True, tag_field="rule", tag="out_of_stock"):
    """Sold out, or gone from the catalogue."""


class Blocked(_Part, frozen=True, tag_field="rule", tag="blocked"):
    """These items, and everything of these sellers."""

    items: list[Id] = []
    sellers: list[Id] = []


class PriceBand(_Part, frozen=True, tag_field="rule", tag="price_band"):
    """Cheaper or dearer than this. An item without a price stays."""

    least: Annotated[float, Meta(ge=0)] = 0.0
    most: Annotated[float, Meta(ge=0)] | None = None


class AgeLimit(_Part, frozen=True, tag_field="rule", tag="age_limit"):
    """For an audience older than `up_to`, by the catalogue's `min_age`. An item without one stays."""

    up_to: Annotated[int, Meta(ge=0, le=99)]


class NeedsConsent(_Part, frozen=True, tag_field="rule", tag="consent"):
    """For who does not allow personal lists: what is sponsored, and everything of these categories."""

    sponsored: bool = True
    categories: list[Id] = []


class Cap(_Part, frozen=True, tag_field="rule", tag="cap"):
    """At most so many of one category, subcategory or seller, or of what is sponsored, in the first `within` places."""

    by: Literal["category", "subcategory", "seller", "sponsored"]
    most: Annotated[int, Meta(ge=0, le=LAST_PLACE)]
    within: Place = LAST_PLACE


Rule = Seen | Bought | Hidden | OutOfStock | Blocked | PriceBand | AgeLimit | NeedsConsent | Cap

# ── diversity and slots ──────────────────────────────────────────────────────────────────────────────────────────────


class Mmr(_Part, frozen=True, tag_field="method", tag="mmr"):
    """Maximal marginal relevance: `relevance` · score - (1 - relevance) · likeness to the most alike above (Carbonell and
    Goldstein 1998). Scores are scaled to 0…1 within the list."""

    relevance: Share
    by: Literal["vector", "subcategory"] = "vector"


class Dpp(_Part, frozen=True, tag_field="method", tag="dpp"):
    """Greedy MAP of a determinantal point process whose quality is exp(`relevance` · score) (Chen, Zhang and Zhou 2018)."""

    relevance: Annotated[float, Meta(ge=0, le=50)]
    by: Literal["vector", "subcategory"] = "vector"


class Explore(_Part, frozen=True, tag_field="kind", tag="explore"):
    """Places whose item is drawn from the `pool` best of what is left. `floor` is the share of draws spread evenly over them.

    With `arms` of groups, what is drawn is a group, and its best item takes the place.
    """

    places: Annotated[list[Place], Meta(min_length=1)]
    policy: Literal["thompson", "ucb", "linucb", "epsilon_greedy", "softmax"]
    arms: Literal["item", "category", "subcategory"] = "item"
    floor: Share = 0.0
    pool: Annotated[int, Meta(ge=2, le=LAST_PLACE)] = 20
    epsilon: Share = 0.1  # of epsilon_greedy: the share of draws that ignore the score
    temperature: Annotated[float, Meta(gt=0)] = 1.0  # of softmax over scores
    bonus: Annotated[float, Meta(ge=0)] = 1.0  # of ucb and linucb: how much uncertainty is worth

    @property
    def believes_of_groups(self) -> bool:
        """Whether it draws groups by what is believed of them, and not by the scores of their best items."""
        return self.arms != "item" and self.policy in ("thompson", "ucb")


class Pinned(_Part, frozen=True, tag_field="kind", tag="pinned"):
    """This item at this place, unless a rule removes it."""

    place: Place
    item: Id


class Sponsored(_Part, frozen=True, tag_field="kind", tag="sponsored"):
    """The best sponsored candidate at each of these places; where there is none, the best of all."""

    places: Annotated[list[Place], Meta(min_length=1)]


class Following(_Part, frozen=True, tag_field="kind", tag="follow"):
    """The best item of the category that the last `items` different items of the session agree on, at each of these places; where
    they agree on none, the best of all. What counts as interest in an item: udfs/logic/following.py."""

    places: Annotated[list[Place], Meta(min_length=1)]
    by: Literal["category", "subcategory"] = "category"
    items: Annotated[int, Meta(ge=1, le=10)] = 2


Slot = Explore | Pinned | Sponsored | Following


class Stability(_Part, frozen=True):
    """While the user has done nothing new, an item among the first `top` moves by at most `moves` places."""

    top: Place
    moves: Annotated[int, Meta(ge=0, le=LAST_PLACE)]


class Prior(_Part, frozen=True):
    """Beta(clicks, misses): what is believed of an item's click-through rate before it was shown."""

    clicks: Annotated[float, Meta(ge=1, le=1000)] = 1.0
    misses: Annotated[float, Meta(ge=1, le=100_000)] = 19.0


class Beliefs(_Part, frozen=True):
    """What explored places believe by: outcomes on this surface, discounted, from the job `beliefs`; of users of the same `segment`
    only, where it is known. `shared`: linucb lets items of which little is known start from what all have in common (hybrid)."""

    segment: Literal["device", "geo"] | None = None
    shared: bool = True


class Policy(_Part, frozen=True):
    """A surface's policy. Rules left out are the default ones; `quotas` are candidates at most, by source."""

    version: PolicyVersion
    surface: SurfaceOrAny = ANY_SURFACE
    weights: dict[str, Annotated[float, Meta(ge=0)]] = {}
    quotas: dict[str, Annotated[int, Meta(ge=0, le=1000)]] = {}
    rules: tuple[Rule, ...] = (Seen(), Bought(), Hidden(), OutOfStock())
    diversity: Mmr | Dpp | None = None
    slots: list[Slot] = []
    stability: Stability | None = None
    prior: Prior = Prior()
    beliefs: Beliefs | None = None  # None: clicks and misses of 28 days on all surfaces, from item-features

    @property
    def caps(self) -> list[Cap]:
        return [rule for rule in self.rules if isinstance(rule, Cap)]

    @property
    def following(self) -> Following | None:
        """The one slot that follows the session, where there is one."""
        return next((slot for slot in self.slots if isinstance(slot, Following)), None)

    def slot_at(self) -> dict[int, Slot]:
        """Slots by place, counted from 1; every other place is the best item's."""
        return {place: slot for slot in self.slots for place in places_of(slot)}


DEFAULT = Policy(version=DEFAULT_VERSION)


def places_of(slot: Slot) -> list[int]:
    return [slot.place] if isinstance(slot, Pinned) else slot.places


# ── reading and checking ─────────────────────────────────────────────────────────────────────────────────────────────

encode_policy = msgspec.json.Encoder().encode


def parse_policy(text: str, name: str = "the policy") -> Policy:
    """Of a TOML file, checked. Raises PolicyError."""
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise PolicyError(f"{name} is not TOML: {error}.") from error
    try:
        policy = msgspec.convert(raw, Policy)
    except msgspec.ValidationError as error:
        raise PolicyError(f"{name}: {located(str(error))}.") from error
    check_policy(policy)
    return policy


def check_policy(policy: Policy) -> None:
    """What the types cannot say. Raises PolicyError."""
    if policy.version == DEFAULT_VERSION and policy != DEFAULT:
        raise PolicyError(f"version: {DEFAULT_VERSION} is the default policy's own: give this one another.")
    _check_weights(policy)
    _check_rules(policy)
    _check_slots(policy)
    if policy.quotas and not any(policy.quotas.values()):
        raise PolicyError("quotas: every source may bring 0 candidates, so nothing is left: raise one.")
    if policy.stability is not None and policy.stability.moves >= policy.stability.top:
        raise PolicyError(
            f"stability: an item among the first {policy.stability.top} may move by {policy.stability.moves} places, so nothing "
            "is held: make moves smaller than top."
        )


def check_names(policy: Policy, *, sources: Iterable[str], tasks: Iterable[str]) -> None:
    """Against what a bundle offers: sources of candidates, and tasks of the ranker. Raises PolicyError."""
    for field, named, known in (("quotas", policy.quotas, list(sources)), ("weights", policy.weights, list(tasks))):
        for name in named:
            if name not in known:
                raise PolicyError(f"{field}: {name} is unknown: there are {', '.join(known) or 'none'}.")


def _check_weights(policy: Policy) -> None:
    total = sum(policy.weights.values())
    if policy.weights and abs(total - 1) > _SUM_TOLERANCE:
        raise PolicyError(f"weights: they sum to {total:g} and not to 1: divide each by {total:g}.")


def _check_rules(policy: Policy) -> None:
    seen: set[str] = set()
    for rule in policy.rules:
        name = type(rule).__struct_config__.tag
        key = f"{name} by {rule.by}" if isinstance(rule, Cap) else str(name)
        if key in seen:
            raise PolicyError(f"rules: {key} is there twice: keep one.")
        seen.add(key)
        if isinstance(rule, Cap):
            if rule.most >= rule.within:
                raise PolicyError(
                    f"rules, {key}: {rule.most} of the first {rule.within} places caps nothing: make most smaller than within."
                )
            if rule.most == 0 and rule.by != "sponsored":
                raise PolicyError(
                    f"rules, {key}: no item has no {rule.by}, so nothing is left: raise most to 1 or more."
                )
        elif isinstance(rule, PriceBand):
            if rule.most is not None and rule.most < rule.least:
                raise PolicyError(
                    f"rules, price_band: {rule.most:g} is below {rule.least:g}, so nothing is left: swap them."
                )
        elif isinstance(rule, Blocked) and not rule.items and not rule.sellers:
            raise PolicyError("rules, blocked: it names neither items nor sellers: name some, or leave the rule out.")
        elif isinstance(rule, NeedsConsent) and not rule.sponsored and not rule.categories:
            raise PolicyError(
                "rules, consent: it takes out neither what is sponsored nor any category: name some, or leave the rule out."
            )


def _check_slots(policy: Policy) -> None:
    taken: dict[int, str] = {}
    pinned: set[str] = set()
    blocked = {item for rule in policy.rules if isinstance(rule, Blocked) for item in rule.items}
    no_sponsored = any(cap.by == "sponsored" and cap.most == 0 for cap in policy.caps)
    if sum(isinstance(slot, Following) for slot in policy.slots) > 1:
        raise PolicyError("slots: follow is there twice: name all its places in one.")
    for slot in policy.slots:
        kind = str(type(slot).__struct_config__.tag)
        for place in places_of(slot):
            if place in taken:
                raise PolicyError(f"slots: place {place} is both {taken[place]} and {kind}: give it to one.")
            taken[place] = kind
        if isinstance(slot, Pinned):
            if slot.item in pinned:
                raise PolicyError(f"slots: {slot.item} is pinned to two places, and can be at one only: keep one.")
            if slot.item in blocked:
                raise PolicyError(f"slots: {slot.item} is pinned and blocked, so its place is never reached: undo one.")
            pinned.add(slot.item)
        elif isinstance(slot, Sponsored) and no_sponsored:
            raise PolicyError(
                "slots: sponsored places are never reached, since a cap allows 0 sponsored items: undo one."
            )
        elif isinstance(slot, Explore):
            _check_explore(slot)
            if policy.beliefs is None and (slot.policy == "linucb" or slot.believes_of_groups):
                what = "linucb" if slot.policy == "linucb" else f"{slot.policy} over arms of {slot.arms}"
                raise PolicyError(f"slots: {what} needs what the job beliefs learns: add the table [beliefs].")


def _check_explore(slot: Explore) -> None:
    if slot.policy == "linucb" and slot.arms != "item":
        raise PolicyError("slots: linucb's arms are items: leave arms out, or explore groups by thompson or ucb.")
    for field, default, policies in _ONLY_OF:
        if slot.policy not in policies and getattr(slot, field) != default:
            raise PolicyError(
                f"slots: {field} belongs to {' and '.join(policies)}, and this slot explores by {slot.policy}: leave it out."
            )


_ONLY_OF: tuple[tuple[str, float, tuple[str, ...]], ...] = (
    ("epsilon", 0.1, ("epsilon_greedy",)),
    ("temperature", 1.0, ("softmax",)),
    ("bonus", 1.0, ("ucb", "linucb")),
)


def located(message: str) -> str:
    """A validation error with the place in the file's own words."""
    found = re.search(r" - at `\$\.?(.*?)`", message)
    if found is None:
        return message
    place = re.sub(r"\[(\d+)\]", lambda match: f" number {int(match[1]) + 1}", found[1])
    return f"{place}: {message[: found.start()]}"
