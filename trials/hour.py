"""A simulated hour through the backfill, killed again and again: row for row what 30 lines compute from the raw events.

    python -m trials.hour --events 1000000 --kills 5

events (doubled, late, out of order, unreadable, of no exposure) and lists ─ parquet ─┬─ riffle backfill, SIGKILL, again … ─ rows
                                                                                      └─ oracle, which shares no code ─────── rows
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import typer

START_MS = 1_767_225_600_000  # 2026-01-01T00:00:00Z
HOUR_MS, DAY_MS = 3_600_000, 86_400_000
WINDOWS_MS = {"click": 1_800_000, "dwell": 1_800_000, "cart": DAY_MS, "purchase": 7 * DAY_MS, "return": 7 * DAY_MS}
SPAN = ("--from", "2025-12-30", "--to", "2026-01-11")  # what came late was shown before; every window has closed
_ITEMS, _LIST = 500, 10
_EVENTS_BETWEEN_KILLS = 8_000  # per second of the longest time that a backfill is left alone
_ROUND_LIMIT_S = 4 * 3600
Row = dict[str, Any]


class Raw(NamedTuple):
    append_ms: int
    key: str
    value: bytes


def simulated(events: int, seed: int = 1) -> tuple[list[Raw], list[Raw]]:
    """Events and lists of an hour, one user for 150 events."""
    rng = random.Random(seed)
    users = max(1, events // 150)
    made: list[Raw] = []
    lists: list[Raw] = []
    shown: dict[int, list[tuple[str, list[str]]]] = defaultdict(list)
    impressions: dict[int, list[tuple[str, str]]] = defaultdict(list)
    for number in range(events):
        user, at_ms = rng.randrange(users), START_MS + number * HOUR_MS // events
        if not shown[user] or rng.random() < 0.03:
            items = [f"item-{one}" for one in rng.sample(range(_ITEMS), _LIST)]
            list_id = f"list-{number}"
            shown[user].append((list_id, items))
            lists.append(Raw(at_ms, f"u:{user}", _list(list_id, f"u:{user}", at_ms, items)))
        list_id, items = rng.choice(shown[user][-3:])
        kind = rng.choices(("impression", "click", "view", "add_to_cart", "purchase"), (60, 20, 12, 6, 2))[0]
        item = rng.choice(items) if rng.random() < 0.95 else f"item-{rng.randrange(_ITEMS)}"
        props: dict[str, Any] = {}
        if kind == "impression" or rng.random() < 0.3:
            props["list_id"] = list_id if rng.random() > 0.01 else "nobody-made-it"
        elif kind == "click" and impressions[user] and rng.random() < 0.3:
            props["source_impression_id"], item = rng.choice(impressions[user][-5:])
        if kind == "view":
            props["dwell_ms"] = rng.randrange(20_000)
        if kind == "purchase":
            props |= {"order_id": f"o{number}", "items": [{"item_id": item}, {"item_id": rng.choice(items)}]}
        ts_ms = at_ms - (0 if rng.random() < 0.9 else rng.choice([5_000, 600_000, 30 * HOUR_MS]))
        ts_ms += 300_000 if rng.random() < 0.005 else 0  # a clock that runs ahead
        body = {"event_id": f"e{number}", "event_type": kind, "user_id": str(user), "session_id": f"s{user}",
                "ts_ms": ts_ms, "schema_version": 2, "props": props}  # fmt: skip
        if kind != "purchase":
            body["item_id"] = item
        if kind == "impression":
            impressions[user].append((f"e{number}", item))
        value = json.dumps(body).encode()
        made.append(Raw(at_ms, f"u:{user}", value if rng.random() > 0.002 else value[:-9]))
        if rng.random() < 0.02:
            made.append(Raw(at_ms + rng.randrange(60_000), f"u:{user}", value))
    made.sort(key=lambda one: one.append_ms)
    return made, lists


def oracle(events: list[Raw], lists: list[Raw]) -> dict[tuple[str, str], Row]:
    """What the rows have to say in the end, by user and impression: everything is looked at, nothing is shared."""
    made = {}
    for record in lists:
        body = json.loads(record.value)
        made[body["list_id"]] = record.key, body["created_ms"], [one["item_id"] for one in body["items"]]
    seen: set[tuple[str, str]] = set()
    shows: dict[tuple[str, str], list[tuple[int, str, str]]] = defaultdict(list)
    acts = []
    for append_ms, key, value in events:
        try:
            event = json.loads(value)
        except ValueError:
            continue
        name, kind, props = event["event_id"], event["event_type"], event["props"]
        ts = min(event["ts_ms"], append_ms + 60_000)
        if (key, name) in seen or append_ms - ts > DAY_MS:
            continue
        seen.add((key, name))
        if kind == "impression":
            shows[key, event["item_id"]].append((ts, name, props["list_id"]))
        kinds = {"click": ["click"], "view": ["dwell"], "add_to_cart": ["cart"], "purchase": ["purchase"]}.get(kind, [])
        for item in {line["item_id"] for line in props["items"]} if kind == "purchase" else {event["item_id"]}:
            acts += [(label, ts, key, item, props) for label in kinds]
    rows: dict[tuple[str, str], Row] = {}
    for (key, item), of_item in shows.items():
        for shown_ms, name, list_id in of_item:
            owner, created_ms, items = made.get(list_id, ("", 0, []))
            if owner == key and item in items and shown_ms <= created_ms + DAY_MS:
                rows[key, name] = {"rank": items.index(item), "dwell_ms": 0, "delays": {}}
    for label, ts, key, item, props in acts:
        fits = [one for one in shows[key, item] if 0 <= ts - one[0] <= WINDOWS_MS[label]]
        if "source_impression_id" in props:
            fits = [one for one in fits if one[1] == props["source_impression_id"]]
        elif "list_id" in props:
            fits = [one for one in fits if one[2] == props["list_id"]]
        row = rows.get((key, max(fits)[1])) if fits else None
        if row is not None:
            row["dwell_ms"] = max(row["dwell_ms"], props["dwell_ms"] if label == "dwell" else 0)
            if label != "dwell" or props["dwell_ms"] >= 5_000:
                row["delays"][label] = min(ts - max(fits)[0], row["delays"].get(label, DAY_MS * 99))
    return rows


def written(folder: Path) -> dict[tuple[str, str], Row]:
    """The last revision of each row of a backfill, in the oracle's words; every label must be known."""
    last: dict[str, Row] = {}
    for row in ds.dataset(folder / "training-rows").to_table().to_pylist():
        if row["row_id"] not in last or row["revision"] > last[row["row_id"]]["revision"]:
            last[row["row_id"]] = row
    found = {}
    for row in last.values():
        delays = {kind: row[f"{kind}_delay_ms"] for kind in WINDOWS_MS if row[kind]}
        assert all(row[kind] is not None for kind in WINDOWS_MS), f"a label of {row['row_id']} is still open"
        found[row["key"], row["event_id"]] = {"rank": row["rank"], "dwell_ms": row["dwell_ms"], "delays": delays}
    return found


def run(
    folder: Path, events: int, kills: int, seed: int = 1, say: Callable[[str], None] = lambda _: None
) -> tuple[int, int, int]:
    """(rows, rows that differ or are on one side only, kills that hit a backfill at work). `say` is told what goes on."""
    say(f"Simulating an hour of {events} events.")
    made, lists = simulated(events, seed)
    folder.mkdir(parents=True, exist_ok=True)
    for name, records in (("events", made), ("lists", lists)):
        columns = dict(zip(Raw._fields, map(list, zip(*records))))
        pq.write_table(pa.table(columns), folder / f"{name}.parquet", compression="zstd")
    asked = [sys.executable, "-m", "cli.main", "backfill", *SPAN, "--out", str(folder / "out")]
    asked += ["--events", str(folder / "events.parquet"), "--lists", str(folder / "lists.parquet")]
    rng, hit = random.Random(seed), 0
    for number in range(1, kills + 1):
        # Where a person looks on, the backfill's own bars are shown.
        with (folder / "log").open("ab") as log:
            bars = None if sys.stderr.isatty() else log
            with subprocess.Popen(asked, stdout=log, stderr=bars) as process:
                # Killed anywhere after it has begun: reading, between checkpoints, while one is written.
                time.sleep(rng.uniform(2.0, 2.0 + events / _EVENTS_BETWEEN_KILLS))
                if process.poll() is None:
                    process.kill()
                    hit += 1
        say(f"Killed {number} of {kills} times, {hit} of them at work.")
    if not (folder / "out" / "report.json").exists():
        say("The last backfill goes on to the end.")
        subprocess.run(asked, check=True, timeout=_ROUND_LIMIT_S)
    say("Comparing its rows with the oracle's.")
    rows, wanted = written(folder / "out"), oracle(made, lists)
    return len(wanted), sum(rows.get(name) != wanted.get(name) for name in rows.keys() | wanted.keys()), hit


def main(
    folder: Annotated[Path, typer.Option("--folder", help="A new folder.")] = Path(".riffle/hour"),
    events: Annotated[int, typer.Option(help="How many events the hour has.", min=1)] = 1_000_000,
    kills: Annotated[int, typer.Option(help="How often the backfill is killed.", min=0)] = 5,
) -> None:
    """Simulate, backfill, kill, compare; progress on stderr. Exit code 1 where a row differs."""
    begun = time.monotonic()

    def say(what: str) -> None:
        typer.echo(f"{time.monotonic() - begun:5.0f} s  {what}", err=True)

    rows, different, hit = run(folder, events, kills, say=say)
    typer.echo(f"{events} events, {rows} rows, {different} different, killed {hit} times at work")
    if different:
        raise typer.Exit(1)


def _list(list_id: str, key: str, created_ms: int, items: list[str]) -> bytes:
    freshness: dict[str, Any] = {
        "event_no": 0,
        "last_event_id": None,
        "last_event_ts_ms": None,
        "recent": [],
        "offsets": {},
    }
    receipt = {"freshness": freshness, "bundle": "b", "ranker": "r", "policy": "p", "items_offsets": {}, "arms": {},
               "stage_ms": {}, "counts": {}}  # fmt: skip
    places = [{"item_id": item, "score": 1.0, "source": "popular"} for item in items]
    body = {"list_id": list_id, "key": key, "surface": "home", "state_epoch": 1, "list_no": 1, "created_ms": created_ms,
            "items": places, "receipt": receipt, "trigger": "click"}  # fmt: skip
    return json.dumps(body).encode()


if __name__ == "__main__":
    typer.run(main)
