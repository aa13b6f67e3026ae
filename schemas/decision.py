"""Decision record: all that went into one published list, so that it can be made again, and learnt from.

    ┌ magic "RD" ┬ version u8 ┬ msgpack: who, when, with what (Decision) ─ candidates as columns ─ places as columns ┐

On `rankings-log`, keyed like the list on `ranked-feed`. Numbers of candidates and places are packed columns, little endian,
which numpy reads without copying. What depends on the user and the clock alone (sequences, the user's counters of an item,
the calendar) is not spelled out: it follows from `state` and `now_ms`, and from `described` for items that came after the bundle.
"""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

VERSION = 1
_MAGIC = b"RD"
_HEAD = len(_MAGIC) + 1
_END = "\0"  # between ids: no validated id holds a control character

Floats = npt.NDArray[np.float32]
Codes = npt.NDArray[np.uint8]
Described = dict[str, tuple[str | None, str | None]]  # subcategory and category by item id

# What became of a candidate, beside the rules' reasons for removing it.
SHOWN, NOT_SHOWN = "shown", "not_shown"
# Names in `inputs`: columns of n, by which places were filled.
ROWS = "rows"  # i32: the bundle's row that stood for the candidate
GROUP = "group:"  # i32, and then what it groups by; below 0: in no group
POSTERIORS = "posteriors"  # f64 (n, 2): α and β of its click-through rate
OF_GROUP = "posteriors:"  # and then what it groups by; f64 (n, 2): those of its group
LINEAR = "linear"  # f64 (n, 2): mean and width of what LinUCB expects
PREVIOUS = "previous"  # i32: its place in the list before; below 0: none
# The slot of a place whose item was taken by its score; of one that was filled without ranker, pre-ranker and policy's places.
EXPLOIT, FALLBACK = "exploit", "fallback"
DRAFT = "draft:"  # and then the arm: the slot of a place that its ranker picked, where a list was drafted of two


class Candidates(msgspec.Struct, frozen=True, array_like=True):
    """n candidates in the order in which they were found; `sources`, `outcomes` and `values` are columns of n."""

    ids: str  # joined by NUL
    source_names: list[str]
    sources: bytes  # u8: place in source_names
    outcome_names: list[str]  # SHOWN, NOT_SHOWN, or why a rule removed it
    outcomes: bytes  # u8: place in outcome_names
    scores: bytes  # f32; NaN for one that was not scored
    feature_ids: list[str]  # of the columns of `features`: name@version of the registry; none: no row of it was known
    features: bytes  # f32 (n, features), as served; NaN rows for what was not scored

    def __len__(self) -> int:
        return len(self.sources)

    def item_ids(self) -> list[str]:
        return self.ids.split(_END) if self.sources else []

    def source(self, place: int) -> str:
        return self.source_names[self.sources[place]]

    def outcome(self, place: int) -> str:
        return self.outcome_names[self.outcomes[place]]

    def score_column(self) -> Floats:
        """(n,)"""
        return np.frombuffer(self.scores, "<f4")

    def feature_rows(self) -> Floats:
        """(n, len(feature_ids))"""
        return np.frombuffer(self.features, "<f4").reshape(len(self), len(self.feature_ids))


class Places(msgspec.Struct, frozen=True, array_like=True):
    """The k places of the list, best first."""

    candidates: bytes  # u16: place among the candidates
    slot_names: list[str]
    slots: bytes  # u8: place in slot_names
    propensities: bytes  # f64: P(this item here | the items above); NaN: unknown

    def candidate_column(self) -> npt.NDArray[np.uint16]:
        """(k,)"""
        return np.frombuffer(self.candidates, "<u2")

    def propensity_column(self) -> npt.NDArray[np.float64]:
        """(k,)"""
        return np.frombuffer(self.propensities, "<f8")

    def slot(self, place: int) -> str:
        return self.slot_names[self.slots[place]]


class DraftedOf(msgspec.Struct, frozen=True, array_like=True):
    """Two rankers filled the list in turns. `rankings` are decision records of the list that each would have shown alone, the
    control's first; what they share with the list's own record, state and key, is left out: `Decision.rankings` puts it back."""

    experiment: str
    arms: list[str]
    seed: int  # of the coin
    rankings: list[bytes]


class Decision(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """One list's making. New fields go at the end, with a default.

    `complete` says whether all candidates are recorded, with what they were placed by, or only those shown. Of a `fallback` that
    neither the ranker nor the pre-ranker made (slot FALLBACK), they are the list that it fell back to.
    """

    list_id: str
    key: str
    surface: str
    state_epoch: int
    list_no: int
    trigger: str
    now_ms: int  # the clock that was scored against
    append_ms: int
    state: bytes  # schemas.user_state encoding
    k: int
    limit: int  # how many candidates were retrieved at most
    requested: bool  # the candidates are the caller's
    request_id: str | None
    fallback: str | None
    bundle: str
    ranker: str
    policy: str
    runtime: str  # what computed it: models.runtime; equal bits are promised on an equal one
    seed: int  # of the random draws
    items_offsets: dict[int, int]
    item_features_offsets: dict[int, int]
    arms: dict[str, str]
    complete: bool
    candidates: Candidates
    places: Places
    inputs: dict[str, bytes] = {}
    draft: DraftedOf | None = None  # the candidates are those shown, and how they were found is in its rankings

    def rankings(self) -> list[Decision]:
        """Of a drafted list the record of each ranker's own list. Raises DecisionError."""
        if self.draft is None:
            return []
        found = [decode_decision(one) for one in self.draft.rankings]
        return [msgspec.structs.replace(one, key=self.key, state=self.state) for one in found]

    described: Described = {}  # items in the user's sequences that the bundle does not know, as the catalogue had them

    def shown(self) -> list[str]:
        """Ids of the list's items, best first."""
        ids = self.candidates.item_ids()
        return [ids[place] for place in self.places.candidate_column().tolist()]


class DecisionError(ValueError):
    """Bytes that are no decision record of a version that this release reads."""


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Decision).decode


def encode_decision(decision: Decision) -> bytes:
    return _MAGIC + bytes([VERSION]) + _encode(decision)


def decode_decision(raw: bytes) -> Decision:
    """Raises DecisionError."""
    if raw[: len(_MAGIC)] != _MAGIC or len(raw) < _HEAD:
        raise DecisionError("the record is no decision record: it does not begin with RD and a version")
    if raw[_HEAD - 1] != VERSION:
        raise DecisionError(f"the decision record has version {raw[_HEAD - 1]}; this release reads version {VERSION}")
    try:
        decision = _decode(memoryview(raw)[_HEAD:])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DecisionError(f"the decision record cannot be read: {error}") from error
    found, places = decision.candidates, decision.places
    n, k = len(found.sources), len(places.slots)
    sizes = (
        ("ids", len(found.item_ids()), n),
        ("outcomes", len(found.outcomes), n),
        ("scores", len(found.scores), 4 * n),
        ("features", len(found.features), 4 * n * len(found.feature_ids)),
        ("places", len(places.candidates), 2 * k),
        ("propensities", len(places.propensities), 8 * k),
    )
    for name, size, wanted in sizes:
        if size != wanted:
            raise DecisionError(f"the decision record is damaged: {name} has {size}, not {wanted}")
    if k and (last := int(places.candidate_column().max())) >= n:
        raise DecisionError(f"the decision record is damaged: a place names candidate {last} of {n}")
    return decision


def pack_candidates(
    item_ids: list[str],
    sources: list[str],
    outcomes: list[str],
    scores: Floats,
    feature_ids: list[str],
    features: Floats,
) -> Candidates:
    """`scores` (n,) and `features` (n, feature_ids), as described at Candidates."""
    source_names, source_codes = _coded(sources)
    outcome_names, outcome_codes = _coded(outcomes)
    return Candidates(
        _END.join(item_ids),
        source_names,
        source_codes,
        outcome_names,
        outcome_codes,
        scores.astype("<f4", copy=False).tobytes(),
        feature_ids,
        features.astype("<f4", copy=False).tobytes(),
    )


def pack_places(candidates: list[int], slots: list[str], propensities: Any) -> Places:
    """`propensities` (k,), NaN where unknown."""
    slot_names, slot_codes = _coded(slots)
    return Places(
        np.asarray(candidates, "<u2").tobytes(), slot_names, slot_codes, np.asarray(propensities, "<f8").tobytes()
    )


def _coded(names: list[str]) -> tuple[list[str], bytes]:
    places = {name: place for place, name in enumerate(dict.fromkeys(names))}
    return list(places), bytes(map(places.__getitem__, names))
