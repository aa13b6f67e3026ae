"""Experiments: one definition file says who gets what, from when to when, and what decides.

    layers ─ each splits all units anew ─ experiments, each with a part of its layer ─ arms, by weight
    holdout ─ a part of all units that no experiment touches

An experiment splits its units between its arms, or is interleaved: each list is drafted of both arms' rankings.

Read from TOML; travels as JSON over the control topic. How a unit's arm is found: udfs/logic/experiments.py.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator
from datetime import datetime
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any, Literal, Union

import msgspec
from msgspec import Meta

from schemas.event import Channel, Device, Name
from schemas.policy import located
from schemas.user_state import HISTORY_CAP
from schemas.versions import BundleVersion

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

BUCKETS = 10_000
HOLDOUT = "holdout"  # the name under which a list's arms say that the unit is in the holdout
CROSSED = "crossed"  # and that another unit's lists may have been seen under the same person's eyes
INTERLEAVED = "interleaved"  # the arm of a unit whose lists are drafted of both arms' rankings
HOLDOUT_SHARES = (0.01, 0.05)
# Part of a hashed text: the bar between its parts must not be in it.
Label = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$(?!\n)")]
Share = Annotated[float, Meta(ge=0, le=1)]
Instant = Annotated[datetime, Meta(tz=True)]
Metric = Literal["ctr", "cart_rate", "conversion_rate", "revenue_per_session", "session_depth", "latency_ms"]


class DefinitionError(ValueError):
    """A definition that is not accepted; the message says in sentences what is wrong and where."""


class Arm(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """What a share of an experiment's units gets; what it leaves out stays as it is for everybody."""

    name: Label
    weight: Share
    bundle: BundleVersion | None = None
    policy: Label | None = None


class Guardrail(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """A metric that must not fall by more than `worst`, relative to the first arm; of latency: rise."""

    metric: Metric
    worst: Share


class Audience(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """Whom an experiment is meant for, by what the user's events last said; what is left out does not count. A user of whom what is
    asked is not known is not meant. `actions_*`: tokens of sessions before the present one, from inclusive, below exclusive.
    """

    device: tuple[Device, ...] = ()
    geo: tuple[Name, ...] = ()
    channel: tuple[Channel, ...] = ()
    actions_from: Annotated[int, Meta(ge=0, le=HISTORY_CAP)] = 0
    actions_below: Annotated[int, Meta(ge=1, le=HISTORY_CAP)] | None = None


class Experiment(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """The first arm is the control. `part` is from where to where in its layer, in shares of all units."""

    name: Label
    kind: Literal["split", "interleaved"] = "split"
    arms: Annotated[tuple[Arm, ...], Meta(min_length=2, max_length=16)]
    start: Instant
    end: Instant
    unit: Literal["user", "session"] = "user"
    part: tuple[Share, Share] = (0.0, 1.0)
    surfaces: tuple[Name, ...] = ()  # empty: all
    only: Audience | None = None  # None: everybody
    primary: Metric = "ctr"
    guardrails: tuple[Guardrail, ...] = ()
    planned_units: Annotated[int, Meta(ge=100)] = (
        20_000  # where the intervals are to be narrowest; they hold at any number
    )


class Layer(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """Experiments of one layer never share a unit; those of different layers are independent of each other."""

    name: Label
    experiments: Annotated[tuple[Experiment, ...], Meta(min_length=1)]


class Holdout(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """Long-term: units that no experiment touches, ranked by this bundle, usually popularity."""

    share: Share
    bundle: BundleVersion | None = None
    policy: Label | None = None


class Definition(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """A version never changes its meaning; the salt stays for as long as assignments are to."""

    version: Label
    salt: Label
    layers: tuple[Layer, ...] = ()
    holdout: Holdout | None = None

    def experiments(self) -> Iterator[tuple[Layer, Experiment]]:
        for layer in self.layers:
            for experiment in layer.experiments:
                yield layer, experiment


decode_definition = msgspec.json.Decoder(Definition).decode
encode_definition = msgspec.json.Encoder().encode


def bucket_edge(share: float) -> int:
    """A share as a number of buckets."""
    return round(share * BUCKETS)


def read_definition(path: Path) -> Definition:
    """A TOML file, checked for its form and meaning. Raises DefinitionError."""
    try:
        raw: Any = tomllib.loads(path.read_text())
        found = msgspec.convert(raw, Definition)
    except OSError as error:
        raise DefinitionError(f"{path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise DefinitionError(f"{path} is not UTF-8 text.") from error
    except tomllib.TOMLDecodeError as error:
        raise DefinitionError(f"{path} is not TOML: {error}.") from error
    except msgspec.ValidationError as error:
        raise DefinitionError(f"{path}: {located(str(error))}.") from error
    return found


def faults(
    of: Definition, bundles: Collection[str] | None = None, policies: Collection[str] | None = None
) -> list[str]:
    """Every reason not to accept it, in sentences. `bundles` and `policies` are those known; None: not checked."""
    found = [*_names_used_twice(of), *_overlaps(of), *_layers_that_fight(of)]
    if of.holdout is not None and not HOLDOUT_SHARES[0] <= of.holdout.share <= HOLDOUT_SHARES[1]:
        found.append(
            f"The holdout's share is {of.holdout.share:.2%}: it is 1 % to 5 %, so that it measures and costs little."
        )
    for _, one in of.experiments():
        total = sum(arm.weight for arm in one.arms)
        if abs(total - 1) > 1e-9:
            found.append(f"The weights of {one.name} sum to {total:g}, not to 1.")
        found += [*_not_interleaved(one), *_of_nobody(one)]
        for arm in one.arms:
            if abs(arm.weight * BUCKETS - bucket_edge(arm.weight)) > 1e-6:
                found.append(f"Arm {arm.name} of {one.name} has weight {arm.weight}: at most four decimals.")
        if one.end <= one.start:
            found.append(f"{one.name} ends ({one.end:%Y-%m-%d %H:%M}) before it starts ({one.start:%Y-%m-%d %H:%M}).")
        if not one.part[0] < one.part[1]:
            found.append(f"{one.name} has the part {one.part[0]} to {one.part[1]} of its layer: that is nobody.")
        if all((arm.bundle, arm.policy) == (one.arms[0].bundle, one.arms[0].policy) for arm in one.arms[1:]):
            found.append(f"All arms of {one.name} give the same bundle and policy: there is nothing to compare.")
    for where, choice in _choices(of):
        if bundles is not None and choice.bundle is not None and choice.bundle not in bundles:
            found.append(f"{where} names bundle {choice.bundle}, which is not there (there are {_listed(bundles)}).")
        if policies is not None and choice.policy is not None and choice.policy not in policies:
            found.append(f"{where} names policy {choice.policy}, which is not there (there are {_listed(policies)}).")
    return found


def _not_interleaved(one: Experiment) -> Iterator[str]:
    """Why lists cannot be drafted as the experiment says."""
    for arm in one.arms:
        if arm.name == INTERLEAVED:
            yield f"An arm of {one.name} cannot be called {INTERLEAVED}: that name has a meaning of its own on lists."
    if one.kind != "interleaved":
        return
    if len(one.arms) != 2:
        yield f"{one.name} is interleaved and has {len(one.arms)} arms: a list is drafted of two, so keep two."
    elif any(arm.weight != 0.5 for arm in one.arms):
        yield f"{one.name} is interleaved: a fair coin decides who picks first, so give both arms the weight 0.5."
    if one.primary != "ctr" or one.guardrails:
        yield f"{one.name} is interleaved: clicks decide it, so leave primary and guardrails out."


def _of_nobody(one: Experiment) -> Iterator[str]:
    only = one.only
    if only is None:
        return
    if only == Audience():
        yield f"{one.name} is only for whom nothing is said of: name a device, geo, channel or actions, or leave only out."
    if only.actions_below is not None and only.actions_below <= only.actions_from:
        yield (
            f"{one.name} is only for users of {only.actions_from} actions and more, and below {only.actions_below}: that is nobody."
        )


def _choices(of: Definition) -> Iterator[tuple[str, Union[Arm, Holdout]]]:
    for _, one in of.experiments():
        for arm in one.arms:
            yield f"Arm {arm.name} of {one.name}", arm
    if of.holdout is not None:
        yield "The holdout", of.holdout


def _names_used_twice(of: Definition) -> Iterator[str]:
    groups = {
        "layer": [layer.name for layer in of.layers],
        "experiment": [one.name for _, one in of.experiments()],
        **{f"arm in {one.name}": [arm.name for arm in one.arms] for _, one in of.experiments()},
    }
    for what, names in groups.items():
        for name in sorted({name for name in names if names.count(name) > 1}):
            yield f"{name} names more than one {what}."
    for _, one in of.experiments():
        if one.name in (HOLDOUT, CROSSED):
            yield f"An experiment cannot be called {one.name}: that name has a meaning of its own on lists."


def _overlaps(of: Definition) -> Iterator[str]:
    for layer in of.layers:
        for one, other in combinations(layer.experiments, 2):
            share = max(one.part[0], other.part[0]) < min(one.part[1], other.part[1])
            if share and _at_the_same_time(one, other):
                yield (
                    f"{one.name} and {other.name} overlap in layer {layer.name}: give them different parts, times or layers."
                )


def _layers_that_fight(of: Definition) -> Iterator[str]:
    """A unit is in one experiment of every layer: two of them must not choose the same thing."""
    for (layer, one), (second, other) in combinations(of.experiments(), 2):
        if layer.name == second.name or not _at_the_same_time(one, other) or not _same_surface(one, other):
            continue
        for what in ("bundle", "policy"):
            if all(any(getattr(arm, what) is not None for arm in which.arms) for which in (one, other)):
                yield (
                    f"Layers {layer.name} and {second.name} overlap: {one.name} and {other.name} both choose the {what}, "
                    "and one list has only one; put them into one layer."
                )
        if one.kind == other.kind == "interleaved":
            yield f"{one.name} and {other.name} are both interleaved, and a list is drafted once: put them into one layer."


def _at_the_same_time(one: Experiment, other: Experiment) -> bool:
    return one.start < other.end and other.start < one.end


def _same_surface(one: Experiment, other: Experiment) -> bool:
    return not one.surfaces or not other.surfaces or bool(set(one.surfaces) & set(other.surfaces))


def _listed(names: Collection[str]) -> str:
    return ", ".join(sorted(names)) or "none"
