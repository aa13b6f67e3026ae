"""Latency: event → list at rising rates until the job saturates, on one job and one machine that carries everything.

Open loop; each event triggers one list; 10,000 events a rate. Each rate says what of the latency each part of the way took, how
busy each task of the job was and how many cores each process used: at the rate that saturates, that names the bottleneck. A rate
saturates the job when fewer than 95 % of its events got a list of the ranker's own, or the last tenth waited for over a second.
"""

from __future__ import annotations

import statistics
import threading
import time

import msgspec

from bench.machine import about, cpu_by_role
from bench.results import Latency, Percentiles, Rate, Reads
from bench.serve import USERS, Served, serve
from bench.stack import err, own_stack
from cli.cluster import publish_items, submit_personalise
from demo.world import load
from local.stack import Stack
from schemas import topics

RATES = (25.0, 50.0, 100.0, 200.0, 400.0)
READS_AT = 50.0
_WAIT_MS = 100
_BEHIND_MS = 1_000


def run(quick: bool, repeat: int) -> Latency:
    events = 1_000 if quick else 10_000
    warm_up_s = 15.0 if quick else 60.0
    rates = (50.0, 200.0, 400.0) if quick else RATES
    runs: list[list[Rate]] = []
    reads: list[Reads] = []
    with own_stack() as stack:
        stack.create_topics(topics.TOPICS)
        publish_items(stack.connections(), load().items)
        job_id = submit_personalise(stack)
        stack.wait_running(job_id)
        err.print(f"Warming up for {warm_up_s:.0f} s.")
        serve(stack.connections(), 100.0, int(100 * warm_up_s))
        for number in range(repeat):
            runs.append([])
            for rate in rates:
                found = _rate(stack, job_id, rate, events)
                runs[-1].append(found)
                err.print(f"run {number + 1}: {rate:g}/s {msgspec.json.encode(found.latency_ms).decode()}")
                if found.saturated:
                    # What is still waiting must not meet the next run: its lists come first.
                    serve(stack.connections(), 10.0, 100, warm_up_s=20.0)
                    break
            served = serve(stack.connections(), READS_AT, events, warm_up_s=2.0, wait_ms=_WAIT_MS)
            assert served.reads is not None
            reads.append(served.reads)
    described = about(quick, repeat, events_per_rate=events, users=USERS, warm_up_s=warm_up_s, read_limit_ms=_WAIT_MS)
    return Latency(described, runs, reads)


def _rate(stack: Stack, job_id: str, rate: float, events: int) -> Rate:
    with _Watched(stack, job_id) as watched:
        served = serve(stack.connections(), rate, events)
    return _judged(rate, events, served, watched)


def _judged(rate: float, events: int, served: Served, watched: _Watched) -> Rate:
    latencies, fallbacks = served.latencies_ms(), served.fallbacks()
    tail = latencies[-max(1, len(latencies) // 10) :]
    late_ms = round(statistics.median(tail), 2) if tail else None
    return Rate(
        rate=rate,
        events=events,
        answered=len(latencies),
        fallbacks=fallbacks,
        latency_ms=Percentiles.of(latencies),
        parts_ms={name: Percentiles.of(values) for name, values in served.parts_ms().items()},
        late_ms=late_ms,
        saturated=len(latencies) - sum(fallbacks.values()) < 0.95 * events or late_ms is None or late_ms > _BEHIND_MS,
        cpu_cores=watched.cpu_cores,
        busy=watched.busy,
    )


class _Watched:
    """CPU by process and Flink's busy ratio by task while the block runs."""

    def __init__(self, stack: Stack, job_id: str) -> None:
        self._stack, self._job_id = stack, job_id
        self._samples: dict[str, list[float]] = {}
        self._over = threading.Event()
        self.cpu_cores: dict[str, float] = {}
        self.busy: dict[str, float] = {}

    def __enter__(self) -> _Watched:
        self._before, self._begun = cpu_by_role(self._stack.run_dir), time.monotonic()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(timeout=15)
        seconds, after = time.monotonic() - self._begun, cpu_by_role(self._stack.run_dir)
        self.cpu_cores = {
            role: round((used - self._before.get(role, 0.0)) / seconds, 2) for role, used in sorted(after.items())
        }
        self.busy = {name: round(statistics.fmean(values), 2) for name, values in self._samples.items()}

    def _sample(self) -> None:
        rest = self._stack.flink.rest
        vertices = rest.get(f"/jobs/{self._job_id}")["vertices"]
        while not self._over.wait(2.0):
            for vertex in vertices:
                path = f"/jobs/{self._job_id}/vertices/{vertex['id']}/subtasks/metrics?get=busyTimeMsPerSecond&agg=max"
                for metric in rest.get(path):
                    value = float(metric["max"])
                    if value == value:  # NaN before the first record
                        self._samples.setdefault(_short(vertex["name"]), []).append(value / 1000)


def _short(name: str) -> str:
    """A vertex is named by all operators chained in it; the first one of ours says enough."""
    for known in ("update-user-state", "rank-candidates", "records", "exact", "ranked"):
        if known in name:
            return known
    return name.partition(" ")[0].rstrip(":")[:30]
