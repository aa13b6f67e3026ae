"""Ranking: a request for a list, the task inside the job, the ranked list and its receipt.

A `RankedList` is what services read from Redis, from `ranked-feed` and from `rank-responses`. Its `Receipt` says what the
list has seen and what made it, so that a reader can demand its own write and anyone can recompute the list.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from schemas.event import Context, EventId, Id, Name, TimestampMs

MAX_CANDIDATES = 1_000
MAX_REQUEST_BYTES = 960 * 1024  # the most that candidates can fill, every letter escaped; and the topic takes it back
REMEMBERED_CANDIDATES = 100
DEFAULT_SURFACE = "home"


class RankRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """`rank_feed(user, candidates, k)` as a record on `rank-requests`, keyed like an event.

    Without `candidates` the engine retrieves its own. With them, the surface is the caller's until its session ends: events
    re-rank these candidates (up to REMEMBERED_CANDIDATES of them; a longer list is only ranked by requests). `reply_by_ms` is
    when the caller stops waiting: what is reached later is not ranked but answered with `expired`. `explain` asks for the
    contribution of each action of the session; such a list is answered but not published.
    """

    request_id: EventId
    ts_ms: TimestampMs
    schema_version: Literal[2]
    user_id: Id | None = None
    session_id: Id | None = None  # needed where the user is not known
    surface: Name = DEFAULT_SURFACE
    k: Annotated[int, Meta(ge=1, le=500)] = 50
    candidates: Annotated[list[Id], Meta(max_length=MAX_CANDIDATES)] | None = None
    context: Context | None = None
    reply_by_ms: TimestampMs | None = None
    explain: bool = False


class Contribution(msgspec.Struct, frozen=True):
    """By how much one action of the session moved an item's score: the score with it less the score without it."""

    action: str
    item_id: str
    ts_ms: int
    delta: float


class RankedItem(msgspec.Struct, frozen=True, omit_defaults=True):
    """One place in a list: which item, its score (higher is better), and where the candidate came from."""

    item_id: str
    score: float
    source: str
    why: list[Contribution] | None = None  # only where the request asked to explain, strongest first
    team: str | None = None  # of a drafted list: the arm whose ranker picked it. Scores of two rankers do not compare


class NotApplied(msgspec.Struct, frozen=True, omit_defaults=True):
    """A record of this user that changed no state, and why: `duplicate`, `late` or a rejection's reason code."""

    reason: str
    partition: int
    offset: int
    event: str | None = None  # hash of its event_id, as in Freshness.recent


class Freshness(msgspec.Struct, frozen=True, omit_defaults=True):
    """What had been applied when this was written. The token that a reader's demand is compared with."""

    event_no: int
    last_event_id: str | None
    last_event_ts_ms: int | None
    recent: list[str]  # hashes of the last 16 event ids, newest last: 16 hex digits of schemas.keys.id_hash
    offsets: dict[int, int]  # highest offset of `events` handled for this user, per partition
    not_applied: list[NotApplied] = []


class Team(msgspec.Struct, frozen=True):
    """One of two rankers that a list was drafted of."""

    arm: str
    bundle: str
    ranker: str
    policy: str


class Draft(msgspec.Struct, frozen=True):
    """Of an interleaved experiment: two rankers filled the list in turns, the control first among `teams`."""

    experiment: str
    teams: list[Team]


class Receipt(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a list has seen and what made it. Of a drafted list `bundle`, `ranker` and `policy` are the control's."""

    freshness: Freshness
    bundle: str  # version of the model bundle
    ranker: str
    policy: str
    items_offsets: dict[int, int]  # of the worker's copy of `items`: with item_features_offsets, the feature version
    arms: dict[str, str]
    stage_ms: dict[
        str, float
    ]  # recall, pre_rank, candidates, encode, score, select, total; and draft: the second ranker's
    counts: dict[str, int]  # candidates by source, removed by reason, and passed over by the pre-ranker
    cold_start: str | None = None  # "new_user" or "new_item", where nothing was known of the user, or of any item
    item_features_offsets: dict[int, int] = {}  # of the worker's copy of `item-features`
    levels: dict[str, int] = {}  # items of the list by what they were scored as: item, subcategory, category, global
    user_level: str | None = None  # new, few (interactions), known
    draft: Draft | None = None  # None: one ranker made the list
    unit: str | None = None  # by which experiments assign, where it is not `key`


class RankedList(msgspec.Struct, frozen=True, omit_defaults=True):
    """The next list of a user on a surface. (state_epoch, list_no) orders the lists of one user and surface."""

    list_id: str
    key: str
    surface: str
    state_epoch: int
    list_no: int
    created_ms: int
    items: list[RankedItem]
    receipt: Receipt
    trigger: str  # event type, "request" or "identity"
    fallback: str | None = None  # why this is not the ranker's own answer, where it is not
    # What else was wrong: "redis" where the list could not be written there, "items" where the catalogue was not read yet.
    degraded: list[str] = []
    request_id: str | None = None


class RankResponse(msgspec.Struct, frozen=True, omit_defaults=True):
    """Answer to a request, on `rank-responses` keyed by request_id: a list, or the error that names the field."""

    request_id: str
    list: RankedList | None = None
    error: str | None = None


class SessionFeatures(msgspec.Struct, frozen=True, omit_defaults=True):
    """A user's session as other services may use it, newest action last. On `features` and in Redis."""

    key: str
    state_epoch: int
    list_no: int
    updated_ms: int
    session_start_ms: int | None
    session_items: list[str]
    session_actions: list[str]
    session_ts_ms: list[int]
    history_length: int
    surfaces: list[str]
    freshness: Freshness
    pending: list[str] = []  # surfaces whose ranking waits for the throttle: their lists are older than `freshness`
    vector: list[float] = []  # session vector of the bundle's encoder, where one was computed


class Challenger(msgspec.Struct, frozen=True, array_like=True):
    """Of an interleaved experiment: the second ranker. The first, `control`, is what the list would be made by without it."""

    experiment: str
    control: str
    arm: str
    bundle: str | None
    policy: str | None


class Stamped(msgspec.Struct, frozen=True, array_like=True):
    """What experiments decided of one surface's ranking: arms by experiment, and the bundle and policy that they choose, if any."""

    arms: dict[str, str]
    bundle: str | None = None
    policy: str | None = None
    challenger: Challenger | None = None


class RankTask(msgspec.Struct, frozen=True, array_like=True):
    """From UpdateUserState to RankCandidates: the user's state as it was, and what to do with it.

    `surfaces` is empty for an event that only refreshes the session features.
    """

    key: str
    surfaces: list[str]
    state_epoch: int
    list_no: int
    now_ms: int
    trigger: str
    state: bytes  # schemas.user_state encoding
    bundle: str | None  # None: the worker's default
    append_ms: int
    request: RankRequest | None = None
    stamped: dict[str, Stamped] = {}  # by surface; absent where no experiment touches the user

    def stamped_of(self, surface: str) -> Stamped:
        found = self.stamped.get(surface)
        if found is None:
            return Stamped({}, self.bundle)
        return found if found.bundle is not None else msgspec.structs.replace(found, bundle=self.bundle)


encode_task = msgspec.msgpack.Encoder().encode
decode_task = msgspec.msgpack.Decoder(RankTask).decode
encode_json = msgspec.json.Encoder().encode
decode_list = msgspec.json.Decoder(RankedList).decode
decode_request = msgspec.json.Decoder(RankRequest).decode
decode_response = msgspec.json.Decoder(RankResponse).decode
decode_features = msgspec.json.Decoder(SessionFeatures).decode
