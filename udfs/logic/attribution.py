"""Attribution: which exposure an outcome belongs to, and what is known of each exposure by now.

    exposure ──┬── click, dwell ──┬── cart ──────────────┬── purchase, return ─────────────┬── forgotten
    shown_ms   │  positive:       │  window closes:      │                                 │  last window + lateness
               │  at once         │  negative            │                                 │

An outcome that names its impression or list belongs to that one only; any other belongs to the last exposure of the item before
it. Only what happened within a kind's window counts, by event time. So the last revision of a row depends on which records there
are, not on their order: a late record makes a further revision.

Pure: time is `now_ms`, the clock of the log (append times), and state is behind `Store`. The job and the backfill call the same
functions.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Protocol

import msgspec

from schemas.decision import Decision
from schemas.event import AddToCart, Click, Impression, Purchase, Return, View
from schemas.interaction import Interaction
from schemas.ranking import RankedList
from schemas.training import KINDS, Served, TrainingRow, Unmatched, row_id
from schemas.training_state import Chosen, Exposure, Labels, ListEntry, Outcome, ServedList, Trail

CLICK, DWELL, CART, PURCHASE, RETURN = range(len(KINDS))
NO_EXPOSURE, UNKNOWN_LIST, NOT_IN_LIST, TOO_MANY = "no_exposure", "unknown_list", "not_in_list", "too_many"
TRAIL_CAP = 256  # exposures, and outcomes, of one item that one user may have open: more is no person
LIST_CAP = 1_000  # distinct items shown of one list: no list is longer
ITEM, LIST = "i", "l"  # first letter of a timer's token; the rest is the item's or the list's id

_MINUTE_MS = 60_000
_HOUR_MS = 60 * _MINUTE_MS
_DAY_MS = 24 * _HOUR_MS


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """How long after an exposure an outcome counts, in ms, and how late a record may come.

    `late_ms` is the lateness that user state accepts: what is later is on no `interactions`.
    """

    click_ms: int = 30 * _MINUTE_MS
    dwell_ms: int = 30 * _MINUTE_MS
    cart_ms: int = _DAY_MS
    purchase_ms: int = 7 * _DAY_MS
    return_ms: int = 7 * _DAY_MS
    list_ms: int = _DAY_MS  # how long after it was made a list may be shown
    late_ms: int = _DAY_MS
    long_dwell_ms: int = 5_000  # from here a dwell is an outcome

    @property
    def windows(self) -> tuple[int, ...]:
        """By index into KINDS."""
        return (self.click_ms, self.dwell_ms, self.cart_ms, self.purchase_ms, self.return_ms)

    @property
    def kept_ms(self) -> int:
        """How long after it was shown an exposure is remembered."""
        return max(self.windows) + self.late_ms


class Store(Protocol):
    """What is remembered of one user."""

    def trail(self, item_id: str) -> Trail | None: ...

    def put_trail(self, item_id: str, trail: Trail | None) -> None: ...

    def list_entry(self, list_id: str) -> ListEntry | None: ...

    def put_list_entry(self, list_id: str, entry: ListEntry | None) -> None: ...

    def wake_at(self, at_ms: int, token: str) -> None:
        """Call `wake` with the token once the clock has reached the time."""


class Effects:
    """What leaves because of one record or timer."""

    __slots__ = ("counted", "rows", "unmatched")

    def __init__(self) -> None:
        self.rows: list[TrainingRow] = []
        self.unmatched: list[Unmatched] = []
        self.counted: list[tuple[str, int]] = []

    def count(self, name: str, times: int = 1) -> None:
        self.counted.append((name, times))

    def unmatch(self, found: Unmatched) -> None:
        self.unmatched.append(found)
        self.count(f"unmatched_{found.reason}")


# ── records and timers ───────────────────────────────────────────────────────────────────────────────────────────────


def take_interaction(one: Interaction, store: Store, now_ms: int, rules: Rules) -> Effects:
    effects = Effects()
    event = one.event
    if not one.may_train:
        effects.count("without_consent")
        return effects
    if one.flagged:
        effects.count("flagged")
        return effects
    if isinstance(event, Impression):
        list_id = event.props.list_id
        if list_id is None:
            effects.count("impressions_without_list")
            return effects
        exposure = Exposure(event.event_id, list_id, one.ts_ms, one.event_no, event.props.position)
        _expose(one.key, event.item_id, exposure, store, now_ms, rules, effects)
    for item_id, outcome in _outcomes(one):
        trail = store.trail(item_id) or Trail()
        if any((known.event_id, known.kind) == (outcome.event_id, outcome.kind) for known in trail.outcomes):
            effects.count("repeated")
            continue
        if len(trail.outcomes) >= TRAIL_CAP:
            effects.unmatch(_unmatched(TOO_MANY, one.key, item_id, outcome))
            continue
        effects.count("outcomes")
        trail.outcomes.append(outcome)
        _refresh(one.key, item_id, trail, store, now_ms, rules, effects)
    return effects


def take_list(ranked: RankedList, store: Store, now_ms: int, rules: Rules) -> Effects:
    """A list as it came off `ranked-feed`. Of one list_id the first counts: what comes again has the same content."""
    effects = Effects()
    entry = store.list_entry(ranked.list_id) or ListEntry()
    if entry.served is not None:
        effects.count("lists_repeated")
        return effects
    effects.count("lists_taken")
    entry.served = _compact(ranked)
    store.put_list_entry(ranked.list_id, entry)
    store.wake_at(ranked.created_ms + rules.list_ms + rules.late_ms, LIST + ranked.list_id)
    for item_id in entry.shown:
        trail = store.trail(item_id)
        if trail is not None:
            _refresh(ranked.key, item_id, trail, store, now_ms, rules, effects)
    return effects


def take_decision(decision: Decision, store: Store, now_ms: int, rules: Rules) -> Effects:
    """How a list was made, off `rankings-log`; before or after the list. Rows that went out without it get a revision."""
    effects = Effects()
    entry = store.list_entry(decision.list_id) or ListEntry()
    if entry.chosen is not None:
        effects.count("decisions_repeated")
        return effects
    effects.count("decisions_taken")
    places = decision.places
    propensities = [None if math.isnan(one) else one for one in places.propensity_column().tolist()]
    slots = [places.slot(place) for place in range(len(places.slots))]
    entry.chosen = Chosen(slots, propensities, decision.item_features_offsets)
    store.put_list_entry(decision.list_id, entry)
    if entry.served is None and not entry.shown:
        store.wake_at(decision.now_ms + rules.list_ms + rules.late_ms, LIST + decision.list_id)
    if entry.served is not None:
        for item_id in entry.shown:
            trail = store.trail(item_id)
            if trail is not None:
                _say_again(decision, item_id, trail, store, now_ms, rules, effects)
    return effects


def _say_again(
    decision: Decision, item_id: str, trail: Trail, store: Store, now_ms: int, rules: Rules, effects: Effects
) -> None:
    for exposure in trail.exposures:
        if exposure.list_id == decision.list_id and exposure.revision:
            _say(decision.key, item_id, exposure, exposure.said, store, now_ms, rules, effects)
    store.put_trail(item_id, trail)


def wake(key: str, token: str, store: Store, now_ms: int, rules: Rules) -> Effects:
    """A timer: windows close, and what can no longer matter is forgotten."""
    effects = Effects()
    kind, identifier = token[0], token[1:]
    if kind == ITEM:
        trail = store.trail(identifier)
        if trail is not None:
            trail.wake_ms = 0
            _refresh(key, identifier, trail, store, now_ms, rules, effects)
        return effects
    entry = store.list_entry(identifier)
    if entry is not None:
        gone_ms = 0 if entry.served is None else entry.served.created_ms + rules.list_ms + rules.kept_ms
        if not entry.shown or now_ms >= gone_ms:
            store.put_list_entry(identifier, None)
        else:
            store.wake_at(gone_ms, token)
    return effects


# ── the join ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def credited(trail: Trail, rules: Rules) -> list[Exposure | None]:
    """For each outcome of the trail the exposure that it belongs to."""
    return [_owner(outcome, trail.exposures, rules.windows[outcome.kind]) for outcome in trail.outcomes]


def _owner(outcome: Outcome, exposures: list[Exposure], window_ms: int) -> Exposure | None:
    found = None
    for exposure in exposures:
        if not exposure.shown_ms <= outcome.ts_ms <= exposure.shown_ms + window_ms:
            continue
        if outcome.impression_id is not None:
            if exposure.event_id != outcome.impression_id:
                continue
        elif outcome.list_id is not None and exposure.list_id != outcome.list_id:
            continue
        if found is None or (exposure.shown_ms, exposure.event_id) > (found.shown_ms, found.event_id):
            found = exposure
    return found


def labels_of(exposure: Exposure, outcomes: list[Outcome], now_ms: int, rules: Rules) -> Labels:
    """What is known at `now_ms`, given the outcomes that belong to the exposure."""
    labels = Labels()
    for kind, window_ms in enumerate(rules.windows):
        labels.closed |= (now_ms >= exposure.shown_ms + window_ms) << kind
    for outcome in outcomes:
        if outcome.kind == DWELL:
            labels.dwell_ms = max(labels.dwell_ms, outcome.dwell_ms)
            if outcome.dwell_ms < rules.long_dwell_ms:
                continue
        delay_ms = outcome.ts_ms - exposure.shown_ms
        labels.delay_ms[outcome.kind] = min(delay_ms, labels.delay_ms.get(outcome.kind, delay_ms))
    labels.delay_ms = dict(sorted(labels.delay_ms.items()))
    return labels


def _expose(
    key: str, item_id: str, exposure: Exposure, store: Store, now_ms: int, rules: Rules, effects: Effects
) -> None:
    trail = store.trail(item_id) or Trail()
    if any(known.event_id == exposure.event_id for known in trail.exposures):
        effects.count("repeated")
        return
    entry = store.list_entry(exposure.list_id)
    if len(trail.exposures) >= TRAIL_CAP or (entry is not None and len(entry.shown) >= LIST_CAP):
        effects.unmatch(_unshown(TOO_MANY, key, item_id, exposure))
        return
    effects.count("exposures")
    trail.exposures.append(exposure)
    if entry is None:
        entry = ListEntry()
        store.wake_at(exposure.shown_ms + rules.kept_ms, LIST + exposure.list_id)
    if item_id not in entry.shown:
        entry.shown.append(item_id)
        store.put_list_entry(exposure.list_id, entry)
    _refresh(key, item_id, trail, store, now_ms, rules, effects)


def _refresh(key: str, item_id: str, trail: Trail, store: Store, now_ms: int, rules: Rules, effects: Effects) -> None:
    """Write what has changed, forget what is over, set the next timer, store."""
    owners = credited(trail, rules)
    for exposure in trail.exposures:
        own = [outcome for outcome, owner in zip(trail.outcomes, owners) if owner is exposure]
        labels = labels_of(exposure, own, now_ms, rules)
        if labels != exposure.said:
            _say(key, item_id, exposure, labels, store, now_ms, rules, effects)
    over = {id(one) for one in trail.exposures if now_ms >= one.shown_ms + rules.kept_ms}
    kept = []
    for outcome, owner in zip(trail.outcomes, owners):
        if owner is None and now_ms >= outcome.ts_ms + rules.late_ms:
            effects.unmatch(_unmatched(NO_EXPOSURE, key, item_id, outcome))
        elif owner is None or id(owner) not in over:
            kept.append(outcome)
    waiting = [outcome.ts_ms + rules.late_ms for outcome, owner in zip(trail.outcomes, owners) if owner is None]
    trail.exposures = [one for one in trail.exposures if id(one) not in over]
    trail.outcomes = kept
    if not trail.exposures and not trail.outcomes:
        store.put_trail(item_id, None)
        return
    for one in trail.exposures:
        waiting += [one.shown_ms + after_ms for after_ms in {*rules.windows, rules.kept_ms}]
    wake_ms = min(due_ms for due_ms in waiting if due_ms > now_ms)
    if not trail.wake_ms or wake_ms < trail.wake_ms:
        trail.wake_ms = wake_ms
        store.wake_at(wake_ms, ITEM + item_id)
    store.put_trail(item_id, trail)


def _say(
    key: str,
    item_id: str,
    exposure: Exposure,
    labels: Labels,
    store: Store,
    now_ms: int,
    rules: Rules,
    effects: Effects,
) -> None:
    entry = store.list_entry(exposure.list_id)
    served = entry.served if entry is not None else None
    if served is None or item_id not in served.item_ids or exposure.shown_ms > served.created_ms + rules.list_ms:
        # The list may still come, until the first window has closed; even after that a row is written when it does.
        if now_ms >= exposure.shown_ms + min(rules.windows) and not exposure.reported:
            exposure.reported = True
            reason = NOT_IN_LIST if served is not None and item_id not in served.item_ids else UNKNOWN_LIST
            effects.unmatch(_unshown(reason, key, item_id, exposure))
        return
    exposure.said = labels
    exposure.revision += 1
    effects.rows.append(_row(key, item_id, exposure, served, entry.chosen if entry is not None else None))
    effects.count("rows" if exposure.revision == 1 else "revisions")


def _row(key: str, item_id: str, exposure: Exposure, served: ServedList, chosen: Chosen | None) -> TrainingRow:
    rank = served.item_ids.index(item_id)
    place = chosen if chosen is not None and rank < len(chosen.slots) else None
    return TrainingRow(
        row_id=row_id(key, exposure.event_id),
        revision=exposure.revision,
        key=key,
        event_id=exposure.event_id,
        event_no=exposure.event_no,
        item_id=item_id,
        surface=served.surface,
        shown_ms=exposure.shown_ms,
        served=Served(
            list_id=exposure.list_id,
            created_ms=served.created_ms,
            state_epoch=served.state_epoch,
            list_no=served.list_no,
            seen_event_no=served.seen_event_no,
            rank=rank,
            score=served.scores[rank],
            source=served.sources[rank],
            bundle=served.bundle,
            ranker=served.ranker,
            policy=served.policy,
            trigger=served.trigger,
            items_offsets=served.items_offsets,
            arms=served.arms,
            fallback=served.fallback,
            cold_start=served.cold_start,
            slot=place.slots[rank] if place else None,
            propensity=place.propensities[rank] if place else None,
            item_features_offsets=place.item_features_offsets if place else {},
        ),
        position=exposure.position,
        delay_ms={KINDS[kind]: delay_ms for kind, delay_ms in exposure.said.delay_ms.items()},
        dwell_ms=exposure.said.dwell_ms,
        closed=[name for kind, name in enumerate(KINDS) if exposure.said.closed >> kind & 1],
    )


def _outcomes(one: Interaction) -> Iterator[tuple[str, Outcome]]:
    """The outcomes that an event is, with the items they are of."""
    event = one.event

    def made(kind: int, dwell_ms: int = 0) -> Outcome:
        props = event.props
        return Outcome(event.event_id, kind, one.ts_ms, props.list_id, props.source_impression_id, dwell_ms)

    if isinstance(event, Click):
        yield event.item_id, made(CLICK)
    if isinstance(event, (Click, View)) and event.props.dwell_ms is not None:
        yield event.item_id, made(DWELL, event.props.dwell_ms)
    if isinstance(event, AddToCart):
        yield event.item_id, made(CART)
    if isinstance(event, (Purchase, Return)):
        kind = PURCHASE if isinstance(event, Purchase) else RETURN
        for item_id in dict.fromkeys(line.item_id for line in event.props.items):
            yield item_id, made(kind)


def _compact(ranked: RankedList) -> ServedList:
    receipt = ranked.receipt
    return ServedList(
        ranked.surface,
        ranked.created_ms,
        ranked.state_epoch,
        ranked.list_no,
        receipt.freshness.event_no,
        receipt.bundle,
        receipt.ranker,
        receipt.policy,
        ranked.trigger,
        receipt.items_offsets,
        receipt.arms,
        ranked.fallback,
        receipt.cold_start,
        [one.item_id for one in ranked.items],
        [one.score for one in ranked.items],
        [one.source for one in ranked.items],
    )


def _unmatched(reason: str, key: str, item_id: str, outcome: Outcome) -> Unmatched:
    return Unmatched(
        reason, key, outcome.event_id, KINDS[outcome.kind], item_id, outcome.ts_ms, list_id=outcome.list_id
    )


def _unshown(reason: str, key: str, item_id: str, exposure: Exposure) -> Unmatched:
    return Unmatched(reason, key, exposure.event_id, "impression", item_id, exposure.shown_ms, list_id=exposure.list_id)
