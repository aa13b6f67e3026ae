"""What docs/metrics.md lists is what Prometheus reads."""

from __future__ import annotations

import re
import urllib.request
from pathlib import Path

from demo.world import load
from schemas import topics
from tests.e2e.engine import Engine, event, new_user, produce, raw, wait_for
from udfs.outputs import BUCKETS_MS
from udfs.rank_candidates import SUMMED, TIMED

PAGE = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()
OURS = "flink_taskmanager_job_task_operator_"


def scraped(engine: Engine) -> dict[str, float]:
    """Our metrics of the job by name and, in braces, the labels `stage` and `le` where they have them."""
    logs = "".join(path.read_text() for path in engine.stack.flink.logs.glob("flink-*-taskexecutor-*.log"))
    found: dict[str, float] = {}
    for port in re.findall(r"Started PrometheusReporter HTTP server on port (\d+)", logs):
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            page = answer.read().decode()
        for name, labels, value in re.findall(rf"^{OURS}(\w+){{(.*)}} (\S+)$", page, flags=re.M):
            if f'job_id="{engine.job_id}"' in labels:
                told = {key: dict(re.findall(r'(\w+)="([^"]*)"', labels)).get(key) for key in ("stage", "le")}
                found[name + "".join(f"{{{said}}}" for said in told.values() if said)] = float(value)
    return found


def documented(section: str) -> set[str]:
    table = PAGE.partition(f"## {section}\n")[2].partition("\n## ")[0]
    cells = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    return {name for cell in cells for name in re.findall(r"`([^`<]+)`", cell)}


def test_every_metric_of_the_page_is_there_and_right(engine: Engine) -> None:
    user = new_user("counted")
    before = scraped(engine)
    with engine.events() as events, engine.feed() as feed:
        click = raw(event(user, item_id=load().items[0].item_id))
        produce(engine.where, topics.EVENTS, [(f"u:{user}".encode(), b"{broken"), (f"u:{user}".encode(), b"")])
        events.send(click)
        token = events.send(click)
        last = events.send(raw(event(user, item_id=load().items[1].item_id)))
        assert feed.get(user, at_least=last.event_id, wait_ms=10_000).met
        assert token.event_id != last.event_id
    stages = {"us_sum", "ms_bucket"}
    wanted = documented("rank-candidates") - stages
    wanted |= {f"stage_us_sum{{{stage}}}" for stage in (*TIMED, *SUMMED)}
    wanted |= {f"stage_le_ms_bucket{{{stage}}}{{{le}}}" for stage in TIMED for le in (*map(str, BUCKETS_MS), "+Inf")}
    # Gauges of a process are told at the end of a bundle, so those of the last list may be a moment late.
    found = wait_for(lambda: (seen := scraped(engine)).keys() >= wanted and seen, 20, f"all of {sorted(wanted)}")
    grown = {name: found[name] - before.get(name, 0.0) for name in found}
    assert (grown["events_applied"], grown["events_duplicate"], grown["events_rejected"]) == (2, 1, 2)
    assert (grown["rejected_not_json"], grown["rejected_empty"]) == (1, 1)
    assert grown["records"] >= 5, "and identity records of the tests before, which come with a checkpoint"
    for stage in TIMED:
        counts = [found[f"stage_le_ms_bucket{{{stage}}}{{{le}}}"] for le in (*map(str, BUCKETS_MS), "+Inf")]
        assert counts == sorted(counts) and counts[-1] > 0
    assert found["stage_le_ms_bucket{rank}{+Inf}"] == found["lists"]
    assert found["model_breaker_open"] == found["redis_breaker_open"] == 0
