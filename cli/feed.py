"""riffle feed and riffle explain: a user's list as a service reads it, and why it is what it is."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Annotated

import msgspec
import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from cli.connecting import connections, fail, out, plainly
from cli.explaining import How, how_of_newest, how_view
from client.dead_letters import printable
from client.feed import RankedFeed
from client.feed_core import FeedAnswer
from client.requests import RankRequester
from schemas.keys import user_key
from schemas.ranking import DEFAULT_SURFACE, Contribution, RankedList, Receipt

_WATCH_S = 0.2
_TOOL_LIMIT_MS = 1_000

User = Annotated[str, typer.Argument(metavar="USER", help="A user id; or a session id, with --session.")]
Surface = Annotated[str, typer.Option(help="Where the list is shown.")]
Session = Annotated[bool, typer.Option("--session", help="USER is the session id of an anonymous user.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def feed(
    user: User,
    surface: Surface = DEFAULT_SURFACE,
    k: Annotated[int, typer.Option("-k", help="How many items.", min=1, max=500)] = 20,
    session: Session = False,
    watch: Annotated[bool, typer.Option("--watch", help="Follow the list until Ctrl-C.")] = False,
    at_least: Annotated[str | None, typer.Option(help="An event id that the list must have seen.")] = None,
    wait_ms: Annotated[int, typer.Option(help="How long to wait for --at-least.", min=0, max=60_000)] = 1_000,
    json: Json = False,
) -> None:
    """Show a user's newest list from Redis, with what it has seen.

    Examples:

        riffle feed alice --surface home

        riffle feed alice --watch
    """
    known, anonymous = (None, user) if session else (user, None)
    with plainly(), RankedFeed(connections(), timeout_ms=_TOOL_LIMIT_MS) as reader:

        def read() -> FeedAnswer:
            patience_ms = wait_ms if at_least else 0
            return reader.get(known, surface, k, at_least=at_least, wait_ms=patience_ms, session_id=anonymous)

        answer = read()
        if json:
            out.print_json(msgspec.json.encode(answer).decode())
        elif not watch:
            out.print(feed_view(user, surface, k, answer))
        else:
            with suppress(KeyboardInterrupt), Live(console=out, auto_refresh=False) as live:
                while True:
                    live.update(feed_view(user, surface, k, answer), refresh=True)
                    time.sleep(_WATCH_S)
                    answer = read()


def explain(
    user: User,
    surface: Surface = DEFAULT_SURFACE,
    k: Annotated[int, typer.Option("-k", help="How many items.", min=1, max=50)] = 10,
    session: Session = False,
    limit_ms: Annotated[int, typer.Option(help="How long to wait for the engine, and for the log.", min=1)] = 5_000,
    bundles: Annotated[str, typer.Option(help="Folder of model bundles; default: the shipped ones.")] = "",
    json: Json = False,
) -> None:
    """Say why a user's list is as it is: which actions moved each item's score by how much, and how its places were filled.

    The engine ranks the items of the current list once more, with and without each action of the session; nothing is
    published. Sources, scores by task, slots, propensities and what diversity gave up come from the list's decision record.

    Example:

        riffle explain alice -k 5
    """
    known, anonymous = (None, user) if session else (user, None)
    with plainly():
        where = connections()
        with RankedFeed(where, timeout_ms=_TOOL_LIMIT_MS) as reader:
            now = reader.get(known, surface, k, session_id=anonymous)
        if not now.items:
            fail(f"There is nothing to explain: {user} has no list on {surface} ({now.fallback}).")
        with RankRequester(where) as requester:
            ranked = requester.rank_feed(
                known,
                now.items,
                len(now.items),
                surface,
                session_id=anonymous,
                timeout_ms=limit_ms,
                explain=True,
            )
        key = user_key(known, anonymous)
        how = how_of_newest(key, surface, now.list.list_id, limit_ms / 1000, bundles) if now.list is not None else None
    if json:
        body = msgspec.to_builtins(ranked) | ({"how": msgspec.to_builtins(how)} if isinstance(how, How) else {})
        out.print_json(msgspec.json.encode(body).decode())
        return
    if now.list is None:
        out.print(f"{printable(user.encode())} has no list on {surface}: this explains the popular one.", markup=False)
    out.print(explanation(user, ranked))
    if isinstance(how, How):
        out.print(how_view(how, k))
    elif how is not None:
        out.print(how, markup=False)


def feed_view(user: str, surface: str, k: int, answer: FeedAnswer) -> RenderableType:
    """A table of the list, and lines that say what it has seen."""
    table = Table(title=Text(f"{printable(user.encode())} on {surface}"), title_justify="left")
    for name, justify in (("#", "right"), ("item", "left"), ("score", "right"), ("source", "left")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    if answer.list is not None:
        for place, item in enumerate(answer.list.items[:k], start=1):
            table.add_row(str(place), Text(item.item_id), f"{item.score:.4f}", Text(item.source))
    else:
        for place, item_id in enumerate(answer.items, start=1):
            table.add_row(str(place), Text(item_id), "", "popular")
    lines: list[RenderableType] = [table]
    if answer.fallback is not None:
        lines.append(Text(f"fallback: {answer.fallback}", style="yellow"))
    if answer.list is not None:
        age_s = max(0.0, time.time() - answer.list.created_ms / 1000)
        number = f"list {answer.list.list_no} of epoch {answer.list.state_epoch}"
        lines.append(Text(f"{number}, {_age(age_s)} old, after {answer.list.trigger}"))
    if answer.receipt is not None:
        lines.append(receipt_view(answer.receipt))
    return Group(*lines)


def receipt_view(receipt: Receipt) -> Text:
    """What a list has seen and what made it."""
    fresh = receipt.freshness
    stages = ", ".join(f"{name} {ms:.1f}" for name, ms in receipt.stage_ms.items())
    parts = [
        f"has seen {fresh.event_no} events, last {printable((fresh.last_event_id or 'none').encode())}",
        f"ranker {receipt.ranker}, bundle {receipt.bundle}, policy {receipt.policy}",
        f"stages in ms: {stages or 'none'}",
    ]
    if receipt.cold_start is not None:
        parts.append(f"cold start: {receipt.cold_start}")
    return Text("\n".join(parts), style="dim")


def explanation(user: str, ranked: RankedList) -> RenderableType:
    """A table of scores and of the actions that moved them, strongest first, and the receipt."""
    table = Table(title=Text(f"why {printable(user.encode())} sees this on {ranked.surface}"), title_justify="left")
    for name in ("#", "item", "score", "source", "moved by"):
        table.add_column(name, justify="right" if name in ("#", "score") else "left")
    for place, item in enumerate(ranked.items, start=1):
        moved = Text("\n".join(_moved(part) for part in item.why or []) or "no action of this session")
        table.add_row(str(place), Text(item.item_id), f"{item.score:.4f}", Text(item.source), moved)
    fallback = [Text(f"fallback: {ranked.fallback}", style="yellow")] if ranked.fallback else []
    return Group(table, *fallback, receipt_view(ranked.receipt))


def _moved(part: Contribution) -> str:
    ago_s = max(0.0, time.time() - part.ts_ms / 1000)
    return f"{part.delta:+.4f}  {part.action} {printable(part.item_id.encode())}, {_age(ago_s)} ago"


def _age(seconds: float) -> str:
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.1f} s"
