"""The feature registry: what each feature is, once, for the stream, the ranker, the backfill and the docs.

    features.toml  what is defined now, to be read and edited ─┐
    features.lock  what was ever published, by fingerprint ────┴─ load() ─ Registry, or FeatureError

A published version never changes its meaning: rows, models and training data name it. A changed definition needs the next
version, and both may live side by side. Owner and description are no part of the meaning.
"""

from __future__ import annotations

import difflib
import hashlib
import re
import sys
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from schemas.event import EVENT_TYPES

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DEFINITIONS = Path(__file__).with_name("features.toml")
LOCK = Path(__file__).with_name("features.lock")
RECORD_COMMAND = "python -m schemas.features_page"

ITEM_AGGREGATES, ITEM_RATES = "item-aggregates", "item-rates"

FeatureName = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_]{0,63}$(?!\n)")]
Sentence = Annotated[str, Meta(min_length=1, max_length=400)]
Scalar = int | float | str

_U32_MAX = 2**32 - 1
_UNITS_MS = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_WINDOWS = ("session", "history", "ever", "now")


class FeatureError(ValueError):
    """The registry cannot be used as it stands. The message names the feature and says what to do."""


class Feature(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One version of one feature. `default` stands in for a missing value, and for each of a list's; it has the type `type`."""

    name: FeatureName
    version: Annotated[int, Meta(ge=1)]
    entity: Literal["item", "user", "user_item", "user_group", "context"]
    type: Literal["u32", "f32", "text"]
    shape: Annotated[list[Annotated[int, Meta(ge=1)]], Meta(max_length=2)]
    made_by: Literal["item-aggregates", "item-rates", "update-user-state", "items", "clock"]
    sources: list[str]
    window: str
    ttl: str
    default: Scalar
    owner: Sentence
    description: Sentence

    @property
    def id(self) -> str:
        """`clicks_2h@1`: how rows, receipts and error messages name it."""
        return f"{self.name}@{self.version}"

    @property
    def window_ms(self) -> int | None:
        """None where the window is no length of time."""
        return duration_ms(self.window)

    @property
    def ttl_ms(self) -> int | None:
        """None where it never expires."""
        return duration_ms(self.ttl)

    @property
    def fingerprint(self) -> str:
        """16 hex digits of what the feature means: everything but its owner and description."""
        meaning = {name: value for name, value in msgspec.to_builtins(self).items() if name not in _NO_MEANING}
        return _digest(meaning)


_NO_MEANING = ("owner", "description")


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    item_row: Annotated[int, Meta(ge=1)]
    feature: list[Feature]


class Registry:
    """All versions of all features, checked. `item_row` is the version of the row that item-aggregates writes."""

    def __init__(self, features: Iterable[Feature], item_row: int) -> None:
        self.features = tuple(features)
        self.item_row = item_row
        self._by_id = {(one.name, one.version): one for one in self.features}
        self._newest: dict[str, Feature] = {}
        for one in self.features:
            if one.name not in self._newest or one.version > self._newest[one.name].version:
                self._newest[one.name] = one

    def names(self) -> list[str]:
        return list(self._newest)

    def get(self, name: str, version: int | None = None) -> Feature:
        """A feature, the newest version unless said otherwise. Raises FeatureError for an unknown one."""
        if name not in self._newest:
            near = difflib.get_close_matches(name, self._newest, n=1)
            hint = f": did you mean {near[0]}?" if near else ": `riffle features list` names them all."
            raise FeatureError(f"There is no feature {name}{hint}")
        if version is None:
            return self._newest[name]
        if (name, version) not in self._by_id:
            known = ", ".join(str(one.version) for one in self.features if one.name == name)
            raise FeatureError(f"The feature {name} has no version {version}, only {known}: ask for one of these.")
        return self._by_id[name, version]

    def of(self, entity: str, made_by: str | None = None) -> list[Feature]:
        """The newest version of each feature of an entity, in the order of the file."""
        found = [one for one in self.features if one.entity == entity and self._newest[one.name] is one]
        return [one for one in found if made_by is None or one.made_by == made_by]

    def item_columns(self) -> list[Feature]:
        """The columns of the row that item-aggregates writes, in order: every version that is defined."""
        return [one for one in self.features if one.made_by == ITEM_AGGREGATES]

    def require(self, uses: Mapping[str, str], who: str) -> None:
        """Refuse to start where code that uses features (name -> type) does not fit the registry. Raises FeatureError."""
        for name, wanted in uses.items():
            found = self.get(name)
            if found.type != wanted:
                raise FeatureError(
                    f"{who} uses {name} as {wanted}, but {found.id} is {found.type}: change one of the two; "
                    f"a new type is a new version of the feature."
                )

    def published(self) -> dict[str, str]:
        """What the lock file has to hold: id -> fingerprint; `item_row@n` is the row's list of columns."""
        found = {one.id: one.fingerprint for one in self.features}
        found[f"item_row@{self.item_row}"] = _digest([one.id for one in self.item_columns()])
        return found


def duration_ms(text: str) -> int | None:
    """ "2h" in ms; None for what is no duration."""
    found = re.fullmatch(r"([1-9]\d*)([smhd])", text)
    return int(found[1]) * _UNITS_MS[found[2]] if found else None


@cache
def registry() -> Registry:
    """The registry of this release. Raises FeatureError."""
    return load(DEFINITIONS.read_text(), LOCK.read_text())


def load(definitions: str, lock: str) -> Registry:
    """Parse and check the two files' contents. Raises FeatureError with a sentence that says what to do."""
    loaded = parse(definitions)
    recorded = read_lock(lock)
    for name, fingerprint in loaded.published().items():
        if name not in recorded:
            raise FeatureError(f"{name} is not in {LOCK.name}: record it with `{RECORD_COMMAND}` and commit the file.")
        if recorded[name] != fingerprint:
            raise FeatureError(changed_definition(name))
    return loaded


def parse(definitions: str) -> Registry:
    """Parse and check a definition file by itself. Raises FeatureError."""
    try:
        raw = tomllib.loads(definitions)
    except tomllib.TOMLDecodeError as error:
        raise FeatureError(f"{DEFINITIONS.name} is not TOML: {error}.") from error
    try:
        file = msgspec.convert(raw, _File)
    except msgspec.ValidationError as error:
        raise FeatureError(f"{DEFINITIONS.name}: {_located(raw, str(error))}. Its head explains each field.") from error
    loaded = Registry(file.feature, file.item_row)
    _check_names(file.feature)
    for one in file.feature:
        _check_feature(one, loaded)
    return loaded


def recorded_lock(loaded: Registry, lock: str) -> str:
    """The lock file with what is new added. What was published stays for ever, so that no version is used twice.

    Raises FeatureError where a published definition was changed.
    """
    recorded = read_lock(lock)
    for name, fingerprint in loaded.published().items():
        if recorded.setdefault(name, fingerprint) != fingerprint:
            raise FeatureError(changed_definition(name))
    lines = [f"{name} {fingerprint}" for name, fingerprint in sorted(recorded.items())]
    return "\n".join(
        ["# What was ever published: name@version and fingerprint. Written by", f"# {RECORD_COMMAND}", *lines, ""]
    )


def read_lock(lock: str) -> dict[str, str]:
    """id -> fingerprint. Raises FeatureError."""
    found = {}
    for number, line in enumerate(lock.splitlines(), start=1):
        if line.startswith("#") or not line.strip():
            continue
        entry = re.fullmatch(r"([a-z][a-z0-9_]*@\d+) ([0-9a-f]{16})", line)
        if entry is None:
            raise FeatureError(
                f"{LOCK.name}, line {number} is not `name@version fingerprint`: restore the file from git."
            )
        found[entry[1]] = entry[2]
    return found


def changed_definition(name: str) -> str:
    """What to do where the definition of `name@version`, which was published, is another now."""
    feature, _, version = name.partition("@")
    if feature == "item_row":
        return (
            f"The columns of the item row changed, but item_row is still {version}: set item_row = {int(version) + 1} in "
            f"{DEFINITIONS.name} and run `{RECORD_COMMAND}`."
        )
    return (
        f"The definition of {name} changed, but rows and models already carry that version: put the old definition back and "
        f"add the new one as version {int(version) + 1}, then run `{RECORD_COMMAND}`."
    )


def _check_names(features: list[Feature]) -> None:
    seen: dict[str, Feature] = {}
    for one in features:
        if one.id in seen:
            raise FeatureError(
                f"{one.id} is defined twice in {DEFINITIONS.name}: rename one, or give it the next version."
            )
        seen[one.id] = one
        if one.name == "item_row":
            raise FeatureError("A feature cannot be called item_row, which is the row's own name: choose another.")
    for one in features:
        other = next(each for each in features if each.name == one.name)
        if other.entity != one.entity:
            raise FeatureError(
                f"{one.name} belongs to {other.entity} in version {other.version} and to {one.entity} in version "
                f"{one.version}: give one of them another name."
            )


def _check_feature(one: Feature, loaded: Registry) -> None:
    if not _fits(one.default, one.type):
        raise FeatureError(f"{one.id} has the type {one.type}, but the default {one.default!r}: make them agree.")
    if one.made_by == ITEM_AGGREGATES and (one.type != "u32" or one.shape or one.entity != "item"):
        raise FeatureError(f"{one.id} is made by {ITEM_AGGREGATES}, whose columns are items' single u32: make it one.")
    if one.made_by == ITEM_AGGREGATES and one.window_ms is None:
        raise FeatureError(
            f'{one.id} has the window {one.window!r}: {ITEM_AGGREGATES} counts over a time such as "2h".'
        )
    if one.window_ms is None and one.window not in _WINDOWS:
        raise FeatureError(
            f'{one.id} has the window {one.window!r}: give a time such as "2h" or one of {", ".join(_WINDOWS)}.'
        )
    if one.ttl_ms is None and one.ttl != "ever":
        raise FeatureError(f'{one.id} has the ttl {one.ttl!r}: give a time such as "28d", or "ever".')
    for source in one.sources:
        if one.made_by == ITEM_RATES:
            if loaded.get(source).entity != one.entity:
                raise FeatureError(
                    f"{one.id} is computed from {source}, which is no {one.entity} feature: name one that is."
                )
        elif source not in EVENT_TYPES:
            raise FeatureError(f"{one.id} names the source {source}: event types are {', '.join(EVENT_TYPES)}.")


def _fits(value: Scalar, type_name: str) -> bool:
    if type_name == "u32":
        return isinstance(value, int) and 0 <= value <= _U32_MAX
    return isinstance(value, float if type_name == "f32" else str)


def _located(raw: dict[str, Any], message: str) -> str:
    """A validation error with the feature's name for its number in the file."""
    found = re.search(r"`\$\.feature\[(\d+)\]\.?(.*?)`", message)
    if found is None:
        return message
    name = raw["feature"][int(found[1])].get("name", f"entry {int(found[1]) + 1}")
    return f"feature {name}{', field ' + found[2] if found[2] else ''}: {message.partition(' - at')[0]}"


def _digest(meaning: Any) -> str:
    return hashlib.sha256(msgspec.json.encode(meaning, order="deterministic")).hexdigest()[:16]
