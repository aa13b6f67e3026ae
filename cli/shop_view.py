"""What `riffle run` shows: numbers, and one shopper followed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from cli.watch import Watch

if TYPE_CHECKING:
    from cli.shop import Shop

_TITLES = 5


def shop_view(shop: Shop, watch: Watch, seconds: float) -> RenderableType:
    return Group(_numbers(shop, watch, seconds), _story(shop))


def plain_line(shop: Shop, watch: Watch, seconds: float) -> str:
    """One line for where there is no terminal."""
    counts, reads, ctr = shop.traffic.counts, shop.reads, shop.traffic.ctr()
    return (
        f"{seconds:5.0f} s  {counts.events / seconds:5.1f} events/s  {watch.lists / seconds:5.1f} lists/s  "
        f"latency p50 {_ms(watch.latency_ms(50, recent=True))} p99 {_ms(watch.latency_ms(99, recent=True))}  "
        f"dead letters {watch.dead_letters}  read-your-writes {reads.met}/{reads.asked}  "
        f"CTR {ctr['ranked']:.3f} (popular {ctr['popularity']:.3f}, optimum {ctr['optimum']:.3f})"
    )


def _numbers(shop: Shop, watch: Watch, seconds: float) -> Table:
    counts, reads, ctr = shop.traffic.counts, shop.reads, shop.traffic.ctr()
    table = Table(box=None, show_header=False, padding=(0, 2))
    table.add_row("open for", f"{seconds:.0f} s", "visits", f"{counts.visits}")
    table.add_row("events/s", f"{counts.events / seconds:.1f}", "lists/s", f"{watch.lists / seconds:.1f}")
    table.add_row(
        "event → list p50", _ms(watch.latency_ms(50, recent=True)), "p99", _ms(watch.latency_ms(99, recent=True))
    )
    table.add_row("dead letters", f"{watch.dead_letters}", "own act seen", f"{reads.met} of {reads.asked} reads")
    table.add_row(
        "expected CTR",
        f"{ctr['ranked']:.3f}",
        "popular / best possible",
        f"{ctr['popularity']:.3f} / {ctr['optimum']:.3f}",
    )
    return table


def _story(shop: Shop) -> RenderableType:
    story = shop.traffic.story
    if story is None:
        return Text("Waiting for the first shopper to act …", style="dim")
    lists = Table(box=None, padding=(0, 2))
    lists.add_column("list before")
    lists.add_column("list after")
    for before, after in zip(story.before[:_TITLES], story.after[:_TITLES]):
        moved = "bold green" if after not in story.before[:_TITLES] else ""
        lists.add_row(before, Text(after, style=moved))
    acts = Text("\n".join(story.acts[-3:]))
    return Panel(Group(acts, lists), title=f"{story.user_id}", title_align="left")


def _ms(value: float | None) -> str:
    return "–" if value is None else f"{value:.0f} ms"
