"""How long labels take: one day of the demo shop, joined by the functions of the training log. Simulated: no clock is measured.

shoppers ─ events, lists shown ─ udfs.logic.backfill ─ rows ─ share of the positives known so long after the exposure
"""

from __future__ import annotations

from collections.abc import Iterable
from statistics import quantiles

import msgspec

from bench.machine import ROOT
from bench.plot import delay_plot
from demo.offline import VisitLog, visits
from demo.shoppers import Exposure
from schemas.interaction import Interaction
from schemas.keys import user_key
from schemas.ranking import Freshness, RankedItem, RankedList, Receipt
from schemas.training import KINDS
from udfs.logic.attribution import Rules
from udfs.logic.backfill import Logged, training_rows

PLOT = ROOT / "docs" / "label-delays.svg"
SHOPPERS = 1_000
_FRESHNESS = Freshness(event_no=0, last_event_id=None, last_event_ts_ms=None, recent=[], offsets={})
_RECEIPT = Receipt(_FRESHNESS, "demo", "mixed", "demo", {}, {}, {}, {})


class Delays(msgspec.Struct, frozen=True):
    """Of one kind, in ms after the exposure: every positive's delay, in order. `rows` are all exposures."""

    kind: str
    rows: int
    delays_ms: list[int]

    def within(self, share: float) -> int:
        """The delay that this share of the positives does not exceed."""
        return round(quantiles(self.delays_ms, n=100, method="inclusive")[round(100 * share) - 1])


def label_delays(days: Iterable[VisitLog]) -> list[Delays]:
    """Of each kind that had at least two positives."""
    rows = training_rows((one for visit in days for one in _logged(visit)), Rules())
    found = []
    for kind in KINDS:
        delays = sorted(row.delay_ms[kind] for row in rows.values() if kind in row.delay_ms)
        if len(delays) > 1:
            found.append(Delays(kind, len(rows), delays))
    return found


def run(shoppers: int = SHOPPERS) -> list[Delays]:
    """One day of the shop; writes the plot."""
    found = label_delays(visits(range(shoppers), days=1))
    PLOT.write_text(delay_plot({one.kind: one.delays_ms for one in found}))
    return found


def _logged(visit: VisitLog) -> Iterable[Logged]:
    for exposure in visit.exposures:
        yield Logged(exposure.ts_ms, _list(exposure))
    for event in visit.events:
        key = user_key(event.user_id, event.session_id)
        yield Logged(event.ts_ms, Interaction(key, 0, 0, event, event.ts_ms, 0, 0, event.ts_ms))


def _list(shown: Exposure) -> RankedList:
    items = [RankedItem(item_id, 0.0, "demo") for item_id in shown.items]
    key = user_key(shown.user_id, shown.session_id)
    return RankedList(shown.list_id, key, "home", 0, shown.list_no, shown.ts_ms, items, _RECEIPT, "click")
