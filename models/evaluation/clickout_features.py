"""What every trained re-ranker is given for an item of a displayed list: numbers from the list and the session so far.

    Clickouts ─ per list: place, price, what was done to each item and when, lists before ─ (R, F) floats, NaN for unknown

Nothing of the clickout itself is used but the list, its prices, its filters and its time; nothing after it at all.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.baselines.contract import Floats
from models.evaluation.clickout_files import ACTIONS, CLICKOUT, Clickout, Clickouts

Doubles = NDArray[np.float64]
_CLICK = ACTIONS.index(CLICKOUT)
_SORTS = ("Sort by Price", "Focus on Distance", "Best Value", "Sort By Distance", "Focus on Rating", "Sort By Rating")
_DEVICES = ("desktop", "mobile", "tablet")

ITEM = (
    "place", "place_share", "price", "price_rank", "price_to_median", "price_gap_above", "price_gap_below", "price_to_touched",
    "price_to_clicked", "touches", "touches_rank", "touch_share", "clicks", "images", "infos", "ratings", "deals", "searched",
    "recency", "recency_rank", "is_last", "steps_since", "seconds_since", "span_s", "last_kind",
    "from_last", "from_last_abs", "from_clicked", "from_clicked_abs", "from_second", "displayed_before", "passed_over",
    "place_before", "place_change", "touched_below", "touched_above", "run", "from_deepest",
)  # fmt: skip
LIST = (
    "list_length", "step", "touched_in_list", "seconds_since_action", "seconds_since_start", "clickouts_before", "last_action",
    "last_touched_place", "deepest_touched", "same_list", "filters", "device", "actions_on_items", "last_is_in_list",
    "price_spread", "is_touch", *(f"sort_{number}" for number in range(len(_SORTS))),
)  # fmt: skip
POPULARITY = ("popular_clicks", "popular_touches", "popular_displays", "popular_rate")
NAMES = (*ITEM, *LIST, *POPULARITY)


class Popularity(NamedTuple):
    """Counts by item: sessions that clicked it, touched it, and lists that displayed it."""

    clicks: Counter[int]
    touches: Counter[int]
    displays: Counter[int]


def popularity(clickouts: Clickouts) -> Popularity:
    clicks, touches, displays = Counter[int](), Counter[int](), Counter[int]()
    for one in clickouts.rows:
        if not one.touch:
            displays.update(one.items.tolist())
            clicks[int(one.items[one.clicked])] += 1
    for session in {one.session for one in clickouts.rows}:
        touches.update(set(clickouts.sessions[session].items.tolist()))
    return Popularity(clicks, touches, displays)


def features(clickouts: Clickouts, counts: Popularity, own: bool) -> Floats:
    """(R, F) in the order of NAMES. `own`: the counts hold these sessions too, so each session's own share is taken out."""
    before: dict[int, list[Clickout]] = defaultdict(list)
    blocks = []
    by_session: dict[int, list[Clickout]] = defaultdict(list)
    for one in clickouts.rows:
        by_session[one.session].append(one)
    taken: Popularity | None = None
    for at, one in enumerate(clickouts.rows):
        earlier = before[one.session]
        if own and (not at or clickouts.rows[at - 1].session != one.session):
            taken = popularity(Clickouts(clickouts.sessions, by_session[one.session], 0))
        blocks.append(np.column_stack((_of_list(clickouts, one, earlier), _popular(one, counts, taken))))
        if not one.touch:
            earlier.append(one)
    return np.concatenate(blocks).astype(np.float32)


def _popular(one: Clickout, counts: Popularity, own: Popularity | None) -> Doubles:
    columns = []
    for kind, table in enumerate(counts):
        values = np.array([table[item] for item in one.items.tolist()], dtype=np.float64)
        if own is not None:
            values -= [own[kind][item] for item in one.items.tolist()]
        columns.append(values)
    clicks, touches, displays = columns
    return np.column_stack((clicks, touches, displays, (clicks + 0.4) / (displays + 10.0)))


def _of_list(clickouts: Clickouts, one: Clickout, earlier: list[Clickout]) -> Doubles:
    actions = clickouts.sessions[one.session]
    n, at, now = len(one.items), one.at, actions.times[one.at]
    place = np.arange(n, dtype=np.float64)
    kinds, items, times = actions.kinds[:at], actions.items[:at], actions.times[:at]
    on_item = items >= 0
    hits = one.items[:, None] == items[None, :]  # (n, at)
    touches = hits.sum(axis=1)
    touched = touches > 0
    newest = np.where(touched, at - 1 - np.argmax(hits[:, ::-1], axis=1), -1) if at else np.full(n, -1)
    oldest = np.where(touched, np.argmax(hits, axis=1), -1) if at else np.full(n, -1)
    of_kind = [(hits & (kinds == kind)).sum(axis=1) for kind in range(1, 7)]
    nothing = np.full(n, np.nan)

    # Recency: how many other items of the list were touched later.
    recency_rank = np.where(touched, (newest[None, :] > newest[:, None]).sum(axis=1), np.nan)
    # Recency among all items of the session, in the list or not.
    all_newest = {int(item): index for index, item in enumerate(items) if item >= 0}
    order = {item: number for number, item in enumerate(sorted(all_newest, key=lambda item: -all_newest[item]))}
    recency = np.array([order.get(int(item), np.nan) for item in one.items])
    last_item = int(items[on_item][-1]) if on_item.any() else -2
    in_list = np.flatnonzero(one.items == last_item)
    by_recency = np.argsort(-newest, kind="stable")[: int(touched.sum())]
    last_place = float(by_recency[0]) if len(by_recency) else np.nan
    second_place = float(by_recency[1]) if len(by_recency) > 1 else np.nan
    clicked = items[kinds == _CLICK]
    clicked_places = [int(np.flatnonzero(one.items == item)[0]) for item in clicked[::-1] if item in one.items]
    clicked_place = float(clicked_places[0]) if clicked_places else np.nan
    deepest = float(place[touched].max()) if touched.any() else np.nan
    run = nothing.copy()  # how many of the newest actions on items were on this one without a break
    if on_item.any():
        tail = items[on_item][::-1]
        run = np.zeros(n)
        run[one.items == last_item] = float(np.argmax(tail != last_item)) if (tail != last_item).any() else len(tail)

    prices = one.prices
    median = np.nanmedian(prices) if np.isfinite(prices).any() else np.nan
    known = np.nan_to_num(prices, nan=np.inf)
    price_rank = (known[None, :] < known[:, None]).sum(axis=1) / n
    above, below = np.r_[np.nan, prices[:-1]], np.r_[prices[1:], np.nan]
    price_of: dict[int, float] = {}
    for list_before in earlier:
        price_of.update(zip(list_before.items.tolist(), list_before.prices.tolist()))
    price_of.update(zip(one.items.tolist(), prices.tolist()))
    touched_prices = [price_of[item] for item in all_newest if np.isfinite(price_of.get(item, np.nan))]
    clicked_prices = [price_of[item] for item in set(clicked.tolist()) if np.isfinite(price_of.get(item, np.nan))]
    displayed = sum((np.isin(one.items, before.items).astype(np.float64) for before in earlier), np.zeros(n))
    place_before = nothing
    if earlier:
        where = {item: float(number) for number, item in enumerate(earlier[-1].items.tolist())}
        place_before = np.array([where.get(item, np.nan) for item in one.items.tolist()])

    per_item = np.column_stack((
        place, place / n, np.log1p(prices), price_rank, prices / median, prices / above, prices / below,
        prices / (np.mean(touched_prices) if touched_prices else np.nan),
        prices / (np.mean(clicked_prices) if clicked_prices else np.nan),
        touches, (touches[None, :] > touches[:, None]).sum(axis=1), touches / max(1, on_item.sum()), *of_kind,
        recency, recency_rank, one.items == last_item, np.where(touched, at - newest, np.nan),
        np.where(touched, np.log1p(np.maximum(now - times[newest], 0)) if at else np.nan, np.nan),
        np.where(touched, np.log1p(np.maximum(times[newest] - times[oldest], 0)) if at else np.nan, np.nan),
        np.where(touched, kinds[newest] if at else np.nan, np.nan),
        place - last_place, np.abs(place - last_place), place - clicked_place, np.abs(place - clicked_place),
        place - second_place, displayed, displayed * ~touched, place_before, place - place_before,
        [touched[at_place + 1 :].sum() for at_place in range(n)], [touched[:at_place].sum() for at_place in range(n)], run,
        place - deepest,
    ))  # fmt: skip
    same = float(bool(earlier) and np.array_equal(earlier[-1].items, one.items))
    per_list = np.array([
        n, at, touched.sum(), np.log1p(max(0.0, now - times[-1])) if at else np.nan,
        np.log1p(max(0.0, now - times[0])) if at else np.nan, len(clicked), kinds[-1] if at else np.nan,
        last_place, deepest, same, len(one.filters), _DEVICES.index(one.device) if one.device in _DEVICES else -1,
        on_item.sum(), float(len(in_list) > 0),
        np.nanstd(prices) / median if np.isfinite(median) and median > 0 else np.nan, one.touch,
        *(float(name in one.filters) for name in _SORTS),
    ])  # fmt: skip
    return np.column_stack((per_item, np.tile(per_list, (n, 1))))
