"""Does a live experiment find what is true? `python -m bench.live_experiment`

    demo shop ─ events, lists ─ Kafka, Flink, Redis: jobs personalise and experiments ─ report on each experiment
       └ knows the probability of every click ─────────────────────────────────────────── the truth beside it

Two experiments at once, on other units: `ab` splits them between the popular list and the ranker; the lists of `duel` are drafted
of both. The truth of an arm is what its shoppers were expected to report of the very lists they were shown (impressions and
clicks), without the luck of the clicks; landing clicks, which no list has caused, are added as they were. Of the duel it is the
clicks expected on the items that each ranker picked.

A stack of its own on free ports, nothing of it left at the end; SIGTERM closes the shop early. Prints tables, and one JSON object
as its last line.
"""

from __future__ import annotations

import signal
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from bench.stack import own_stack, wait_for
from cli.cluster import publish, publish_items, submit_experiments, submit_personalise
from cli.experiments import units_on_topic
from client.events import Events, Token
from client.feed import RankedFeed
from client.feed_core import FeedAnswer
from demo.accounting import CtrAccount, expected_log
from demo.shoppers import IMPRESSIONS_SENT
from demo.tastes import Shopper
from demo.traffic import Given, LiveTraffic
from demo.truth import Moment
from demo.world import World, load
from demo.writer import SURFACE
from local.stack import Stack
from proof.interleaved import Interleaved, report_interleaved
from proof.report import Report, report
from schemas import topics
from schemas.connections import Connections
from schemas.control import PublishExperiments, control_record
from schemas.event import Click, Event, Impression
from schemas.experiment_metrics import UnitMetrics
from schemas.experiments import INTERLEAVED, Arm, Definition, Experiment, Layer
from schemas.keys import user_key
from udfs.logic.experiments import Assignment

AB, DUEL, CONTROL, NEW = "ab", "duel", "popular", "ranker"
RUN_DIR = Path(".riffle") / "live-experiment"
_ARMS = (Arm(name=CONTROL, weight=0.5, bundle="demo-popularity"), Arm(name=NEW, weight=0.5))
_WAIT_MS = 100
_LIMIT_S = 90.0
out, err = Console(), Console(stderr=True)


class Arms(msgspec.Struct, frozen=True):
    """Of the split: the truth, and what the report says."""

    units: dict[str, int]
    true_ctr: dict[str, float]
    reported_ctr: dict[str, float]
    true_lift: float
    lift: float
    low: float
    high: float

    @property
    def holds(self) -> bool:
        return self.low <= self.true_lift <= self.high


class Teams(msgspec.Struct, frozen=True):
    """Of the duel: clicks on the items of each ranker, expected and credited, and whom people prefer."""

    expected_clicks: dict[str, float]
    clicks: dict[str, int]
    units: dict[str, int]
    share: float | None
    low: float
    high: float
    p: float


class Truth(CtrAccount):
    """What the units of each arm, and the items of each team, were expected to report."""

    def __init__(self, world: World, assignment: Assignment, at_ms: int) -> None:
        super().__init__(world)
        self.clicks, self.impressions = defaultdict[str, float](float), defaultdict[str, float](float)
        self.of_teams = defaultdict[str, float](float)
        self.teams: list[str | None] = []  # of the list that is about to be shown
        self._assignment, self._at_ms = assignment, at_ms

    def arms(self, session_id: str) -> dict[str, str]:
        """By the hashes that the stream uses: every visit of the shop is of somebody new, whose unit is the session."""
        found = self._assignment.of(user_key(None, session_id), "", SURFACE, self._at_ms)
        return found.arms if found is not None else {}

    def add(self, visit: str, shopper: Shopper, moment: Moment, item_ids: Sequence[str], signs: int = 0) -> None:
        super().add(visit, shopper, moment, item_ids, signs)
        clicks, impressions = expected_log(self.world, shopper, moment, item_ids, IMPRESSIONS_SENT)
        arm = self.arms(visit).get(AB)
        if arm is not None:
            self.clicks[arm] += float(clicks.sum())
            self.impressions[arm] += impressions
        for team, expected in zip(self.teams, clicks.tolist()):
            if team is not None:
                self.of_teams[team] += expected


class Shop:
    """Sends events and reads lists through the client, as a service would; each list has seen the shopper's last event."""

    def __init__(self, events: Events, feed: RankedFeed, truth: Truth, rate: float, seed: int) -> None:
        self._events, self._feed = events, feed
        self._last: dict[str, Token] = {}
        self.sent = Counter[str]()  # impressions and clicks of each unit in the split
        self.traffic = LiveTraffic(self._send, self._get_list, events_per_s=rate, seed=seed)
        self.truth = truth
        self.traffic.account = truth

    def _send(self, event: Event) -> None:
        self._last[user_key(event.user_id, event.session_id)] = self._events.send(msgspec.json.encode(event))
        arm = self.truth.arms(event.session_id).get(AB)
        if arm is None or not isinstance(event, (Impression, Click)):
            return
        self.sent[user_key(None, event.session_id)] += 1
        if isinstance(event, Click) and event.props.position is None:  # a landing
            self.truth.clicks[arm] += 1

    def _get_list(self, key: str, surface: str, k: int) -> Given:
        user, session = (key[2:], None) if key.startswith("u:") else (None, key[2:])
        last = self._last.pop(key, None)
        demanded = last.event_id if last is not None else None
        answer = self._feed.get(user, surface, k, session_id=session, at_least=demanded, wait_ms=_WAIT_MS)
        self.truth.teams = [item.team for item in answer.list.items[:k]] if answer.list is not None else []
        return Given(answer.items, answer.list.list_id if answer.list is not None else None)


def definition(at_ms: int) -> Definition:
    """Of experiments that run then."""
    begin = datetime.fromtimestamp(at_ms / 1000, timezone.utc) - timedelta(hours=1)
    end = begin + timedelta(days=1)
    return Definition(
        version="live-1",
        salt="live",
        layers=(
            Layer(
                name="ranking",
                experiments=(
                    Experiment(name=AB, arms=_ARMS, start=begin, end=end, part=(0.0, 0.8), planned_units=1_000),
                    Experiment(name=DUEL, kind="interleaved", arms=_ARMS, start=begin, end=end, part=(0.8, 1.0)),
                ),
            ),
        ),
    )


def main(
    seconds: Annotated[int, typer.Option(help="How long the shop is open.", min=30)] = 360,
    rate: Annotated[float, typer.Option(help="Events a second.", min=1)] = 60.0,
    seed: Annotated[int, typer.Option(help="Other seeds are other shoppers.")] = 1,
    run_dir: Annotated[Path, typer.Option(help="Of the stack.")] = RUN_DIR,
) -> None:
    """Open the demo shop on a stack of its own, and compare what experiments find with what is true."""
    now_ms = int(time.time() * 1000)
    running = definition(now_ms)
    ab, duel = (experiment for _, experiment in running.experiments())
    with own_stack(run_dir, task_managers=2) as stack, ExitStack() as closing:
        where = _started(stack, running)
        events, feed = closing.enter_context(Events(where)), closing.enter_context(RankedFeed(where))
        shop = Shop(events, feed, Truth(load(), Assignment(running), now_ms), rate, seed)
        _warm_up(events, feed)
        err.print(f"The shop is open for {seconds} s, {rate:g} events/s.")
        closed = threading.Event()
        signal.signal(signal.SIGTERM, lambda *_: closed.set())
        shop.traffic.run(seconds, stop=closed.is_set)
        shop.traffic.close(int(time.time() * 1000))
        events.flush()
        records = _counted(where, shop)
    arms, teams = of_arms(shop.truth, report(ab, records)), of_teams(shop.truth, report_interleaved(duel, records))
    if arms is None:
        err.print("Too few units for an interval, which needs 100 of each arm: open the shop for longer (--seconds).")
        raise typer.Exit(1)
    _print(arms, teams)
    typer.echo(msgspec.json.encode({"ab": arms, "holds": arms.holds, "duel": teams, "seconds": seconds}).decode())


def _started(stack: Stack, running: Definition) -> Connections:
    stack.create_topics(topics.TOPICS)
    where = stack.connections()
    publish_items(where, load().items)
    publish(where, topics.CONTROL, [control_record(PublishExperiments(running))])
    jobs = [submit_personalise(stack), submit_experiments(stack)]
    for job in jobs:
        stack.wait_running(job)
    return where


def _warm_up(events: Events, feed: RankedFeed) -> None:
    """Until ten lists in a row are made by the rankers that they should be: bundles are loaded when they are first asked for."""
    good = 0

    def fits(number: int) -> bool:
        click = Click(
            event_id=f"warm-{time.time_ns()}",
            session_id=f"warm-{number % 40}",
            ts_ms=int(time.time() * 1000),
            schema_version=2,
            item_id=load().ids[number % 50],
        )
        token = events.send(msgspec.json.encode(click))
        answer = feed.get(None, session_id=click.session_id, at_least=token.event_id, wait_ms=5_000)
        return answer.met and _as_assigned(answer)

    def warm() -> bool:
        nonlocal good
        good = good + 1 if fits(good) else 0
        return good >= 40

    wait_for(warm, _LIMIT_S, "lists of every arm", every_s=0.02)


def _as_assigned(answer: FeedAnswer) -> bool:
    made = answer.list
    if made is None or made.fallback is not None:
        return False
    arms, popular = made.receipt.arms, made.receipt.bundle == _ARMS[0].bundle
    if arms.get(DUEL) == INTERLEAVED:
        return popular and made.receipt.draft is not None
    return popular is (arms.get(AB) == CONTROL)


def _counted(where: Connections, shop: Shop) -> list[UnitMetrics]:
    """The units of the shop, once every impression and click of the split is counted. Raises TimeoutError."""
    found: list[UnitMetrics] = []

    def all_counted() -> bool:
        nonlocal found
        found = [one for one in units_on_topic(where, _LIMIT_S) if not one.unit.startswith("s:warm-")]
        counted = Counter[str]()
        for one in found:
            if one.experiment == AB:
                counted[one.unit] += one.exposures + one.clicks
        return +counted == shop.sent

    wait_for(all_counted, _LIMIT_S, "every impression and click to be counted", every_s=2.0)
    return found


def of_arms(truth: Truth, found: Report) -> Arms | None:
    (row,) = (row for row in found.rows if row.metric == found.primary)
    if row.effect is None:
        return None
    true = {arm: truth.clicks[arm] / truth.impressions[arm] for arm in (CONTROL, NEW)}
    one = row.effect
    return Arms(found.units, true, found.values["ctr"], true[NEW] - true[CONTROL], one.difference, one.low, one.high)


def of_teams(truth: Truth, found: Interleaved) -> Teams:
    expected = {arm: truth.of_teams[arm] for arm in (CONTROL, NEW)}
    return Teams(expected, found.clicks, found.units, found.share, found.low, found.high, found.p)


def _print(arms: Arms, teams: Teams) -> None:
    table = Table("arm", "units", "true CTR", "reported CTR", title=f"{AB}: split", title_justify="left")
    for arm in (CONTROL, NEW):
        table.add_row(arm, f"{arms.units[arm]:,}", f"{arms.true_ctr[arm]:.4f}", f"{arms.reported_ctr[arm]:.4f}")
    out.print(table)
    verdict = "within" if arms.holds else "OUTSIDE"
    out.print(
        f"True lift {arms.true_lift:+.4f}; reported {arms.lift:+.4f}, at all times between {arms.low:+.4f} and "
        f"{arms.high:+.4f}: the truth is {verdict} the interval.",
        highlight=False,
        soft_wrap=True,
    )
    table = Table(
        "ranker",
        "expected clicks",
        "clicks",
        "units that prefer it",
        title=f"{DUEL}: interleaved",
        title_justify="left",
    )
    for arm in (CONTROL, NEW):
        table.add_row(arm, f"{teams.expected_clicks[arm]:.1f}", f"{teams.clicks[arm]:,}", f"{teams.units[arm]:,}")
    out.print(table)
    if teams.share is not None:
        out.print(
            f"{teams.share:.1%} of those who prefer one prefer {NEW}, at all times between {teams.low:.1%} and {teams.high:.1%} "
            f"(p = {teams.p:.3g}).",
            highlight=False,
            soft_wrap=True,
        )


if __name__ == "__main__":
    typer.run(main)
