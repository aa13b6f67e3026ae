"""When to rank: a policy, not a habit.

Ingestion rate and ranking rate are separate numbers. Intent (a click, a cart, a long view …) ranks at once; impressions and
scrolls only change state. One ranking per user and surface in `throttle_ms`, the newest wins; while old records are being
caught up on, only each user's newest state is ranked; only surfaces the user was on lately.

The throttle grows with the lag: a job that is 300 ms behind ranks a user three times a second and not fifty times. So whoever
floods it (one user, or all of them) costs rankings of their own first, and those who click now and then lose none.
"""

from __future__ import annotations

import msgspec

from schemas.event import Event, View
from schemas.ranking import DEFAULT_SURFACE
from schemas.user_state import Surface, UserState


class RankPolicy(msgspec.Struct, frozen=True):
    """Which events rank, and how often. `version` is on every receipt."""

    version: str = "1"
    at_once: frozenset[str] = frozenset(
        {"click", "add_to_cart", "remove_from_cart", "purchase", "return", "search", "follow", "like", "hide", "login"}
    )
    view_ms: int = 5_000
    throttle_ms: int = 20
    active_ms: int = 30 * 60_000
    catch_up_lag_ms: int = 5_000
    catch_up_interval_ms: int = 1_000


DEFAULT_POLICY = RankPolicy()


def wants_ranking(event: Event, policy: RankPolicy) -> bool:
    if isinstance(event, View):
        return event.props.dwell_ms >= policy.view_ms
    return event.event_type in policy.at_once


def active_surfaces(state: UserState, now_ms: int, policy: RankPolicy) -> list[str]:
    """Surfaces the user was on in the last `active_ms` of event time; DEFAULT_SURFACE where there is none.

    A surface whose caller handed in more candidates than are remembered is only ranked by requests.
    """
    surfaces, owned = state.tail.surfaces, state.tail.candidates
    active = [name for name, surface in surfaces.items() if now_ms - surface.seen_ms <= policy.active_ms]
    return [name for name in active or [DEFAULT_SURFACE] if owned.get(name) != []]


def due(state: UserState, wanted: list[str], append_ms: int, now_ms: int, policy: RankPolicy) -> list[str]:
    """The surfaces to rank now. The others of `wanted` become pending; `state.tail.timer_ms` says until when.

    When the record is older than `catch_up_lag_ms` nothing is ranked at once: a timer ranks what is newest then.
    """
    tail = state.tail
    lagging = now_ms - append_ms > policy.catch_up_lag_ms
    interval = policy.catch_up_interval_ms if lagging else _throttle_ms(append_ms, now_ms, policy)
    now: list[str] = []
    for name in wanted:
        surface = tail.surfaces.setdefault(name, Surface(0))
        if lagging or now_ms - surface.ranked_ms < interval:
            if name not in tail.pending:
                tail.pending = [*tail.pending, name]
                tail.waiting_since_ms = min(tail.waiting_since_ms or append_ms, append_ms)
            at = now_ms + interval if lagging else surface.ranked_ms + interval
            tail.timer_ms = min(tail.timer_ms, at) if tail.timer_ms > now_ms else at
        else:
            now.append(name)
            ranked(state, name, now_ms)
    return now


def refresh_at(state: UserState, append_ms: int, now_ms: int, policy: RankPolicy) -> int:
    """When the session features may be written again, in ms; 0 for at once."""
    if now_ms - append_ms > policy.catch_up_lag_ms:
        return now_ms + policy.catch_up_interval_ms
    next_ms = state.tail.emitted_ms + _throttle_ms(append_ms, now_ms, policy)
    return next_ms if next_ms > now_ms else 0


def _throttle_ms(append_ms: int, now_ms: int, policy: RankPolicy) -> int:
    """A policy without a throttle has none under load either."""
    if not policy.throttle_ms:
        return 0
    return max(policy.throttle_ms, min(now_ms - append_ms, policy.catch_up_interval_ms))


def ranked(state: UserState, surface: str, now_ms: int) -> None:
    """Note that the surface is ranked with this state: whatever waited for it is served by it."""
    state.tail.surfaces.setdefault(surface, Surface(0)).ranked_ms = now_ms
    state.tail.pending = [name for name in state.tail.pending if name != surface]
    if not state.tail.pending:
        state.tail.waiting_since_ms = 0


def overdue(state: UserState, now_ms: int) -> list[str]:
    """At the timer: the surfaces whose ranking has waited long enough."""
    pending = list(state.tail.pending)
    for name in pending:
        ranked(state, name, now_ms)
    state.tail.timer_ms = 0
    return pending
