"""RankCandidates: the async operator that turns a user's state into ranked lists. Process mode.

One task in, and out come the records of one event: a list per surface, the session features, the answer to a request. Before
they leave, all of it has been written to Redis in one round trip. A user's tasks keep their order; a task whose surfaces are
all waited for by a newer task of the same user is skipped. Nothing here may raise or be cancelled: either would hang the
bundle; what goes wrong becomes a named fallback and a counter.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import msgspec
import onnxruntime
from pyflink.common import Row
from pyflink.datastream.functions import AsyncFunction, RuntimeContext

from models.featurise import ITEM_COUNTERS
from models.runtime import runtime
from models.store import BundleStore, LoadedBundle
from schemas import topics
from schemas.connections import Connections
from schemas.decision import encode_decision
from schemas.features import registry
from schemas.keys import features_redis_key, list_redis_key, popular_redis_key
from schemas.ranking import (
    RankedItem,
    RankedList,
    RankResponse,
    RankTask,
    Receipt,
    decode_task,
    encode_json,
)
from schemas.record import TopicRecord
from schemas.redis_layout import FEATURES_FIELD, LIST_FIELD, LIST_TTL_MS, Entry, cas_arguments, version
from schemas.user_state import UserState, decode
from udfs.beam_overhead import lighten_bundles
from udfs.beliefs_replica import BeliefsReplica
from udfs.breaker import Breaker
from udfs.item_features_replica import ItemFeaturesReplica
from udfs.logic.beliefs import moment
from udfs.logic.consent import consent_of
from udfs.logic.decisions import Asked, decision_record, draft_seed_of, drafted_record, list_id_of, seed_of
from udfs.logic.drafting import Drafted, Ranking, alone, drafted
from udfs.logic.experiments import unit_of
from udfs.logic.exploration import BetaTables
from udfs.logic.rules import Question, taken_out
from udfs.logic.session_features import session_features
from udfs.logic.sessions import freshness
from udfs.logic.slate import NO_CONSENT, PRE_RANKER, Slate, World, explain, fall_back, rank, user_level
from udfs.logic.when_to_rank import DEFAULT_POLICY
from udfs.outputs import StageTimes, Totals, to_row, watch
from udfs.policies_replica import PoliciesReplica
from udfs.redis_writer import RedisWriter
from udfs.replica import ItemsReplica
from udfs.runner import Busy, NoThreadLeft, Runner, TimedOut
from udfs.top_lists_replica import TopListsReplica

log = logging.getLogger(__name__)

UID = "rank-candidates"
COUNTERS = (
    "lists",
    "tasks_failed",
    "rankings_superseded",
    "bundle_fallbacks",
    "redis_failures",
    "fallback_model_breaker",
    "fallback_model_busy",
    "fallback_model_timeout",
    "fallback_model_hangs",
    "fallback_model_error",
    "fallback_model_late",
    "lists_by_pre_ranker",
    "drafts_missed",
)
# Of a list: from the append of the record that asked for it until it was made; ranking it; writing it to Redis.
TIMED = ("event_to_list", "rank", "redis")
SUMMED = ("recall", "pre_rank", "candidates", "encode", "score", "select")  # inside `rank`: stage_ms of the receipt
_SURFACES_CAP = 256


class RankSettings(msgspec.Struct, frozen=True):
    """Limits of a ranking. Times in ms."""

    bundles: str = ""  # folder of bundle folders; empty: those shipped with the code
    candidates: int = 200
    k: int = 50
    model_limit_ms: int = 50
    ranker_budget_ms: int = (
        15  # of those: a ranker that would begin with less left is skipped for the pre-ranker's order
    )
    patient_limit_ms: int = 2_000  # where nobody waits for the list this moment (_nobody_waits)
    redis_limit_ms: int = 50
    cache_mb: int = 128
    last_good_lists: int = 5_000
    popular_every_s: float = 30.0
    items_wait_s: float = 5.0  # how long the first task waits for the items topic
    decisions_share: float = 1.0  # of the lists whose decision record holds every candidate, not only those shown


class _Wanted(NamedTuple):
    """One list to be made: for whom, by which ranker and policy, of how many, within what time."""

    task: RankTask
    state: UserState
    bundle: LoadedBundle
    world: World
    surface: str
    k: int
    requested: list[str] | None  # the caller's candidates
    limit_s: float


class _Made(NamedTuple):
    """A list, and what its decision record is made of: of a drafted one the lists that each ranker would have shown."""

    ranked: RankedList
    slate: Slate
    asked: Asked
    rankings: list[tuple[RankedList, Slate]]


class _LastGood(NamedTuple):
    """The newest list that the ranker made for a user on a surface, and the user's last event it had seen."""

    items: list[RankedItem]
    event_no: int


class RankCandidates(AsyncFunction):
    """Recall, filter, encode, score, cut; then Redis; then the records."""

    def __init__(self, connections: Connections, settings: RankSettings) -> None:
        self._connections, self._settings = connections, settings

    def open(self, runtime_context: RuntimeContext) -> None:
        self._connections.require_secrets()
        metrics = runtime_context.get_metrics_group()
        self._counters = Totals(metrics, COUNTERS)
        self._times = StageTimes(metrics, SUMMED, TIMED)
        self._replica = ItemsReplica(self._connections)
        self._features = ItemFeaturesReplica(self._connections, registry(), self._replica.groups_of)
        self._lists = TopListsReplica(self._connections)
        self._bundles = BundleStore(
            self._settings.bundles,
            self._settings.cache_mb,
            self._replica.groups_of,
            self._features,
            self._replica.items,
            self._lists.lists,
        )
        self._beliefs = BeliefsReplica(self._connections, self._replica.groups_of)
        self._replica.changed = self._items_changed
        self._replica.start()
        self._features.start()
        self._lists.changed = self._bundles.lists_changed
        self._lists.start()
        self._policies = PoliciesReplica(self._connections)
        self._policies.start()
        self._beliefs.start()
        self._tables = BetaTables()
        self._runner = Runner(onnxruntime.RunOptions)
        self._breaker = Breaker(failures=5, rest_s=1.0, clock=time.monotonic)
        self._redis: RedisWriter | None = None
        self._newest: dict[tuple[str, str], int] = {}
        self._last_of_user: dict[str, asyncio.Future[None]] = {}
        self._last_good: OrderedDict[tuple[str, str], _LastGood] = OrderedDict()
        self._popular_at: dict[str, float] = {}
        watch(metrics, "history_cache_hits", lambda: self._bundles.current.cache.hits)
        watch(metrics, "history_cache_misses", lambda: self._bundles.current.cache.misses)
        watch(metrics, "scores_not_finite", lambda: self._bundles.current.non_finite)
        watch(metrics, "items_rejected", lambda: self._replica.rejected)
        watch(metrics, "items_not_in_bundle", lambda: self._bundles.items_not_in_bundle())
        watch(metrics, "items_ready", lambda: int(self._replica.ready.is_set()))
        watch(metrics, "model_breaker_open", lambda: int(self._breaker.is_open))
        watch(metrics, "model_threads_hanging", lambda: self._runner.hanging)
        watch(metrics, "redis_breaker_open", lambda: self._redis.nodes_down if self._redis else 0)
        watch(metrics, "item_features_ready", lambda: int(self._features.ready.is_set()))
        watch(metrics, "item_features_rejected", lambda: self._features.rejected)
        watch(metrics, "item_features_keys", lambda: len(self._features))
        watch(metrics, "item_features_age_ms", lambda: self._features.age_ms(int(time.time() * 1000)))
        watch(metrics, "features_fetched", lambda: self._bundles.item_features_served()[0])
        for name in ITEM_COUNTERS:
            watch(metrics, f"feature_nulls_{name}", partial(self._nulls, name))
        watch(metrics, "top_lists_known", lambda: len(self._lists))
        watch(metrics, "top_lists_rejected", lambda: self._lists.rejected)
        watch(metrics, "beliefs_known", lambda: len(self._beliefs))
        watch(metrics, "beliefs_rejected", lambda: self._beliefs.rejected)
        watch(metrics, "policies_known", lambda: len(self._policies))
        watch(metrics, "policies_taken_up", lambda: self._policies.taken_up)
        watch(metrics, "policies_rejected", lambda: self._policies.rejected)
        watch(metrics, "policies_missed", lambda: self._policies.missed)
        watch(metrics, "redis_writes_owed", lambda: len(self._redis.owed) if self._redis else 0)
        watch(metrics, "redis_writes_repaid", lambda: self._redis.repaid if self._redis else 0)
        watch(metrics, "redis_writes_lost", lambda: self._redis.owed.lost if self._redis else 0)
        lighten_bundles(metrics)
        # Before the first task: what it would wait for is paid here, and counts against no time limit.
        if not self._replica.ready.wait(self._settings.items_wait_s):
            log.warning("the items topic is not read yet: lists may hold what is out of stock until it is")
        if not self._policies.ready.wait(self._settings.items_wait_s):
            log.warning("the control topic is not read yet: lists follow the default policy until it is")

    def close(self) -> None:
        self._replica.stop()
        self._features.stop()
        self._lists.stop()
        self._policies.stop()
        self._beliefs.stop()
        self._bundles.close()
        self._runner.close()

    def _items_changed(self, item_ids: list[str]) -> None:
        self._bundles.items_changed(item_ids)
        self._beliefs.items_changed(item_ids)

    def _nulls(self, feature: str) -> int:
        return self._bundles.item_features_served()[1][feature]

    async def async_invoke(self, value: bytes) -> list[Row]:
        try:
            return [to_row(record, self._connections.namespace) for record in await self._rank(decode_task(value))]
        except BaseException as error:  # see the module's docstring
            self._counters.add("tasks_failed")
            log.exception("a ranking task failed: %s", type(error).__name__)
            return []

    async def _rank(self, task: RankTask) -> list[TopicRecord]:
        if self._redis is None:  # the clients of the event loop can only be made on it
            self._redis = RedisWriter(self._connections.redis, self._settings.redis_limit_ms / 1000)
        before, turn = self._last_of_user.get(task.key), asyncio.get_running_loop().create_future()
        self._last_of_user[task.key] = turn
        # An explanation is not published: it makes no list superfluous.
        published = [] if task.request is not None and task.request.explain else task.surfaces
        try:
            for surface in published:
                self._newest[task.key, surface] = task.list_no
            # Let the tasks that arrived together register first: the newest of a user makes the older ones superfluous.
            await asyncio.sleep(0)
            return await self._rank_in_turn(task, before)
        finally:
            try:
                # A task that was skipped or failed must not let the next one overtake the one before.
                await _settled(before)
            finally:
                turn.set_result(None)
            if self._last_of_user.get(task.key) is turn:
                del self._last_of_user[task.key]
            for surface in published:
                if self._newest.get((task.key, surface)) == task.list_no:
                    del self._newest[task.key, surface]

    async def _rank_in_turn(self, task: RankTask, before: asyncio.Future[None] | None) -> list[TopicRecord]:
        if self._superseded(task):
            self._counters.add("rankings_superseded")
            return []
        started = time.perf_counter()
        state = decode(task.state)
        bundle = self._bundle(task.bundle)
        chosen = {surface: self._chosen(task, surface, bundle) for surface in task.surfaces}
        made = [await self._list(task, state, chosen[surface], surface, started) for surface in task.surfaces]
        lists = [one.ranked for one in made]
        await _settled(before)
        if task.request is not None and task.request.explain:
            return [_response(lists[0])]
        vector = bundle.session_vector(state, task.now_ms)
        session = session_features(task.key, task.state_epoch, task.list_no, state, vector)
        features, bodies = encode_json(session), [encode_json(one) for one in lists]
        written = time.perf_counter()
        reached = await self._write(task, features, lists, bodies)
        self._times.took("redis", (time.perf_counter() - written) * 1000)
        await self._refresh_popular([one.surface for one in lists], bundle)
        if not reached:
            self._counters.add("redis_failures")
            lists = [msgspec.structs.replace(one, degraded=[*one.degraded, "redis"]) for one in lists]
            bodies = [encode_json(one) for one in lists]
        # The feed comes first: what is first goes to the broker at once, what follows shares the next request.
        record_keys = [f"{task.key}|{one.surface}".encode() for one in lists]
        records = [TopicRecord(topics.RANKED_FEED, key, body) for key, body in zip(record_keys, bodies)]
        records.append(TopicRecord(topics.FEATURES, task.key.encode(), features))
        for record_key, one, body, (_, slate, asked, rankings) in zip(record_keys, lists, bodies, made):
            records.append(TopicRecord(topics.RANKED_FEED_LATEST, record_key, body))
            share = self._settings.decisions_share
            decision = (
                drafted_record(task, one, rankings, asked, runtime(), share)
                if rankings
                else decision_record(task, one, slate, asked, runtime(), share)
            )
            records.append(TopicRecord(topics.RANKINGS_LOG, record_key, encode_decision(decision)))
        if task.request is not None:
            records.append(_response(lists[0]))
        return records

    def _superseded(self, task: RankTask) -> bool:
        if task.request is not None or not task.surfaces:
            return False
        return all(self._newest.get((task.key, surface), 0) > task.list_no for surface in task.surfaces)

    def _chosen(self, task: RankTask, surface: str, bundle: LoadedBundle) -> LoadedBundle:
        """The bundle of the user's arm; where it cannot be had, everybody's, and not another arm's."""
        version = task.stamped_of(surface).bundle
        if version == task.bundle:
            return bundle
        found = self._bundle(version)
        return found if found.version == version else bundle

    def _bundle(self, version: str | None) -> LoadedBundle:
        bundle, wanted = self._bundles.get(version)
        if not wanted:
            self._counters.add("bundle_fallbacks")
        return bundle

    async def _list(
        self, task: RankTask, state: UserState, bundle: LoadedBundle, surface: str, started: float
    ) -> _Made:
        request = task.request
        requested = request.candidates if request is not None else None
        if requested is None:
            requested = state.tail.candidates.get(surface) or None
        k = request.k if request is not None else self._settings.k
        stamped, begun = task.stamped_of(surface), time.perf_counter()
        world = self._world(task, state, surface, stamped.policy)
        wanted = _Wanted(task, state, bundle, world, surface, k, requested, self._limit_s(task))
        slate, fallback = await self._slate(wanted)
        items, made = slate.items, None
        if stamped.challenger is not None:
            own, challenged = _ranking(bundle, world, slate), time.perf_counter()
            left_s = wanted.limit_s - (challenged - begun)
            if fallback is None:
                made = await self._challenged(wanted._replace(limit_s=left_s), own)
            if made is None:
                self._counters.add("drafts_missed")
            else:
                slate, items = made.slate, made.items
                slate.stage_ms["draft"] = round((time.perf_counter() - challenged) * 1000, 3)
        slate.stage_ms["total"] = round((time.perf_counter() - started) * 1000, 3)
        self._counters.add("lists")
        self._times.took("rank", slate.stage_ms["total"])
        self._times.took("event_to_list", max(0.0, time.time() * 1000 - task.append_ms))
        for stage in SUMMED:
            self._times.took(stage, slate.stage_ms.get(stage, 0.0))
        if fallback is None:
            if request is None or not request.explain:  # its items carry explanations
                self._remember(task.key, surface, items, state.event_no)
        else:
            self._counters.add(f"fallback_{fallback}")
        if slate.by_light:
            self._counters.add("lists_by_pre_ranker")
        receipt = Receipt(
            freshness=freshness(state),
            bundle=bundle.version,
            ranker=PRE_RANKER if slate.by_light else bundle.name,
            policy=world.policy.version,
            items_offsets=dict(self._replica.offsets),
            item_features_offsets=dict(bundle.item_features.offsets),
            arms=stamped.arms,
            stage_ms=slate.stage_ms,
            counts=slate.counts,
            cold_start=slate.cold_start if consent_of(state).personalise else NO_CONSENT,
            levels=slate.levels,
            user_level=user_level(state),
            draft=made.draft if made is not None else None,
            unit=unit_of(state, task.key) if stamped.arms else None,
        )
        ranked = RankedList(
            list_id=list_id_of(task.key, surface, task.state_epoch, task.list_no, slate.items),
            key=task.key,
            surface=surface,
            state_epoch=task.state_epoch,
            list_no=task.list_no,
            created_ms=int(time.time() * 1000),
            items=slate.items,
            receipt=receipt,
            trigger=task.trigger,
            fallback=fallback,
            degraded=[] if self._replica.ready.is_set() else ["items"],
            request_id=request.request_id if request is not None else None,
        )
        asked = Asked(k, self._settings.candidates, requested is not None)
        return _Made(ranked, slate, asked, [alone(ranked, one) for one in made.rankings] if made is not None else [])

    async def _challenged(self, first: _Wanted, own: Ranking) -> Drafted | None:
        """The list drafted of `own` and of the second ranker's, made in what is left of the time limit; None where that is not
        there in time, or where either ranker is not the one that the experiment names. The breaker hears nothing of the
        second: it spares the model that serves everybody."""
        task, surface = first.task, first.surface
        stamped = task.stamped_of(surface)
        challenger = stamped.challenger
        assert challenger is not None  # else nobody challenges
        version = challenger.bundle or task.bundle
        bundle = self._bundle(version)
        world = self._world(task, first.state, surface, challenger.policy)
        stand_ins = (
            stamped.bundle not in (None, own.ranker.version)
            or stamped.policy not in (None, own.policy)
            or version not in (None, bundle.version)
            or challenger.policy not in (None, world.policy.version)
        )
        if stand_ins or first.limit_s <= 0:
            return None
        second = first._replace(bundle=bundle, world=world)
        try:
            slate = await self._runner.run(self._work(second), second.limit_s)
        except (Busy, TimedOut, NoThreadLeft):
            return None
        except Exception as error:
            log.exception("the second ranking of a draft failed: %s", type(error).__name__)
            return None
        if slate.by_light:
            return None
        seed = draft_seed_of(task.key, surface, task.state_epoch, task.list_no, challenger.experiment)
        return drafted(own, _ranking(bundle, world, slate), challenger, first.k, seed)

    def _world(self, task: RankTask, state: UserState, surface: str, version: str | None) -> World:
        """What this list is made of beside the user and the bundle; by this version of policy, or by the one in force."""
        policy = self._policies.of(surface, version)
        last = self._last_good.get((task.key, surface)) if policy.stability is not None else None
        believed = policy.beliefs
        at = moment(state, task.request.context if task.request is not None else None, task.now_ms)
        return World(
            self._replica.unavailable,
            self._replica.items,
            policy,
            self._features.exposures
            if believed is None
            else partial(self._beliefs.exposures, surface, believed.segment, at),
            None if believed is None else partial(self._beliefs.linear, surface, believed.shared, at),
            None if believed is None else partial(self._beliefs.of_groups, surface, believed.segment, at),
            previous=[item.item_id for item in last.items] if last and last.event_no == state.event_no else None,
            seed=seed_of(task.key, surface, task.state_epoch, task.list_no, policy.version),
            tables=self._tables,
            at=at,
        )

    def _limit_s(self, task: RankTask) -> float:
        return (self._settings.patient_limit_ms if _nobody_waits(task) else self._settings.model_limit_ms) / 1000

    def _work(self, wanted: _Wanted) -> Callable[..., Slate]:
        """One ranker's list, to be called in a thread of its own within the limit."""
        task, state, bundle, world, surface, k, requested, limit_s = wanted
        wants_why = task.request is not None and task.request.explain
        begin_by = time.perf_counter() + limit_s - self._settings.ranker_budget_ms / 1000

        def work(stop: Any, begin_by: float = begin_by) -> Slate:
            slate = rank(
                state,
                bundle,
                world,
                bundle.history_encoder(task.key, task.now_ms, stop),
                surface=surface,
                k=k,
                limit=self._settings.candidates,
                now_ms=task.now_ms,
                stop=stop,
                requested=requested,
                begin_by=begin_by,
            )
            if wants_why and not slate.by_light:
                history = bundle.history_encoder(task.key, task.now_ms, stop)(state)
                slate.items = explain(state, bundle, history, slate.items, task.now_ms, surface, stop)
            return slate

        return work

    async def _slate(self, wanted: _Wanted) -> tuple[Slate, str | None]:
        """The ranker's list; or the last good one, or the popular one, and why."""
        work = self._work(wanted)

        def without_ranker() -> Slate:
            """The pre-ranker's order of what is known now; where that fails too, what was good before."""
            if wanted.bundle.has_light:
                try:
                    return work(None, begin_by=0.0)
                except Exception as error:
                    log.exception("pre-ranking failed: %s", type(error).__name__)
            return self._fall_back(wanted)

        if self._breaker.is_open:
            return without_ranker(), "model_breaker"
        try:
            slate = await self._runner.run(work, wanted.limit_s)
        except Busy:  # no sign that the model is sick: the breaker hears nothing of it
            return self._fall_back(wanted), "model_busy"
        except TimedOut:
            reason = "model_timeout"
        except NoThreadLeft:
            reason = "model_hangs"
        except Exception as error:
            log.exception("ranking failed: %s", type(error).__name__)
            reason = "model_error"
        else:
            self._breaker.succeeded()
            if not slate.by_light:
                return slate, None
            reason = "model_late"
            return slate, reason
        self._breaker.failed()
        return without_ranker(), reason

    def _fall_back(self, wanted: _Wanted) -> Slate:
        """The last good list of this surface, or the popular items; the caller's candidates by popularity. Without what the
        policy's rules remove: what is blocked must not come back because the ranker is slow."""
        task, state, bundle, world, surface, k, requested, _ = wanted
        if requested is not None:
            items = bundle.popular_first(list(dict.fromkeys(requested)))
        else:
            last = self._last_good.get((task.key, surface)) if consent_of(state).personalise else None
            items = last.items if last is not None and last.items else bundle.popular
        question = Question(
            state, [item.item_id for item in items], None, world.unavailable, world.catalogue, task.now_ms
        )
        return fall_back(items, taken_out(world.policy, question), k)

    def _remember(self, key: str, surface: str, items: list[RankedItem], event_no: int) -> None:
        self._last_good[key, surface] = _LastGood(items, event_no)
        self._last_good.move_to_end((key, surface))
        if len(self._last_good) > self._settings.last_good_lists:
            self._last_good.popitem(last=False)

    async def _write(self, task: RankTask, features: bytes, lists: list[RankedList], bodies: list[bytes]) -> bool:
        assert self._redis is not None
        namespace = self._connections.redis_namespace
        entries = [Entry(features_redis_key(namespace, task.key), FEATURES_FIELD, features)]
        for one, body in zip(lists, bodies):
            entries.append(Entry(list_redis_key(namespace, task.key, one.surface), LIST_FIELD, body))
        keys, args = cas_arguments(version(task.state_epoch, task.list_no), LIST_TTL_MS, entries)
        return await self._redis.write(keys, args)

    async def _refresh_popular(self, surfaces: list[str], bundle: LoadedBundle) -> None:
        """Now and then the list that a reader falls back to: Redis may have lost it, and stock changes."""
        assert self._redis is not None
        now = time.monotonic()
        for surface in surfaces:
            if now - self._popular_at.get(surface, -1e9) < self._settings.popular_every_s:
                continue
            if len(self._popular_at) >= _SURFACES_CAP:  # surfaces are named by callers: any number of them may come
                self._popular_at.clear()
            self._popular_at[surface] = now
            ids = [item.item_id for item in bundle.popular if item.item_id not in self._replica.unavailable]
            key = popular_redis_key(self._connections.redis_namespace, surface)
            await self._redis.set_popular(key, encode_json(ids[: self._settings.k]))


def _ranking(bundle: LoadedBundle, world: World, slate: Slate) -> Ranking:
    return Ranking(bundle, world.policy.version, dict(bundle.item_features.offsets), slate)


async def _settled(before: asyncio.Future[None] | None) -> None:
    """Wait for the task before. Not by awaiting its future: who is cancelled while doing so cancels it for everybody."""
    if before is not None:
        await asyncio.wait([before])


def _response(ranked: RankedList) -> TopicRecord:
    request_id = ranked.request_id or ""
    return TopicRecord(topics.RANK_RESPONSES, request_id.encode(), encode_json(RankResponse(request_id, ranked)))


def _nobody_waits(task: RankTask) -> bool:
    """Explanations, which a person asks for; old events that are caught up on; merges, which come with a checkpoint and all at
    once. A fallback in time would be worth less than the ranker's own list."""
    if task.request is not None:
        return task.request.explain
    return task.trigger == "identity" or task.now_ms - task.append_ms > DEFAULT_POLICY.catch_up_lag_ms
