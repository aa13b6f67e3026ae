"""Results: what each part found, as it is kept in docs/benchmarks.json. A partial run replaces its own part only."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np

from bench.machine import ROOT, About
from models.replaying import Summary

JSON = ROOT / "docs" / "benchmarks.json"


class Percentiles(msgspec.Struct, frozen=True):
    """In ms."""

    p50: float
    p90: float
    p99: float
    p999: float

    @classmethod
    def of(cls, values: list[float]) -> Percentiles | None:
        """None where there is nothing to order."""
        if not values:
            return None
        return cls(*(round(float(np.percentile(values, percent)), 2) for percent in (50, 90, 99, 99.9)))


class Rate(msgspec.Struct, frozen=True):
    """One rate in one run. `answered`: events that a list had seen at most 3 s after the last was sent."""

    rate: float
    events: int
    answered: int
    fallbacks: dict[str, int]  # of the answers, those that are not the ranker's own, by reason
    latency_ms: Percentiles | None
    parts_ms: dict[str, Percentiles | None]  # in the order of an event's way; their sum is the latency, event by event
    late_ms: float | None  # median of the last tenth: far above p50 where a queue grows
    saturated: bool
    cpu_cores: dict[str, float]  # cores in use, by role
    busy: dict[str, float]  # Flink's busy ratio by task, 0 to 1


class Reads(msgspec.Struct, frozen=True):
    """Reads from another process, each demanding the event that was just sent."""

    rate: float
    asked: int
    met: int
    fallbacks: dict[str, int]
    wait_ms: Percentiles | None


class Latency(msgspec.Struct, frozen=True):
    about: About
    runs: list[list[Rate]]
    reads: list[Reads]


class Round(msgspec.Struct, frozen=True):
    """One round of one contender, after its warm-up. `cpu_us` is of all its processes, `broker_us` of Kafka beside it."""

    events: int
    seconds: float
    cpu_us: float
    broker_us: float
    compared: int  # records on its output topics, all of the round's
    different: int  # of them unlike what the pure functions make of the same input

    @property
    def events_per_s(self) -> float:
        return self.events / self.seconds


class State(msgspec.Struct, frozen=True):
    about: About
    rounds: dict[str, list[Round]]


class Ranking(msgspec.Struct, frozen=True):
    """CPU ms of one thread, from user state to scores, at one number of candidates; medians of one run."""

    candidates: int
    hit: float  # history encoding found in the cache
    miss: float  # encoded first
    naive: float
    hit_graph: float  # the graphs alone, inputs ready
    naive_graph: float
    torch: float


class Rankings(msgspec.Struct, frozen=True):
    about: About
    runs: list[list[Ranking]]


class Searched(msgspec.Struct, frozen=True):
    """CPU ms of finding 1,000 of so many vectors, medians over the queries."""

    items: int
    exact: float  # faiss
    exact_numpy: float
    index: float
    recall: float  # of the exact search's 1,000
    made_s: float  # CPU, once
    made_mb: float


class Retrieval(msgspec.Struct, frozen=True):
    """`stages` in ms by name, in order, one dictionary a run."""

    about: About
    searched: list[Searched]
    stages: list[dict[str, float]]


class Sizes(msgspec.Struct, frozen=True):
    """Full users in RocksDB."""

    users: int
    blob_bytes: float  # as encoded, without its key
    state_bytes: float  # per user, in a full checkpoint
    full_mb: float
    full_s: float
    incremental_mb: float  # of the checkpoint after `changed` users had one more event each
    incremental_s: float
    changed: int
    restore_s: float  # the state operator's initialisation, from a retained checkpoint
    fill_s: float


class Cost(msgspec.Struct, frozen=True):
    """CPU per event of the state path over all its processes, events spread over all users."""

    users: int
    events: int
    cpu_us: float
    events_per_s: float


class Users(msgspec.Struct, frozen=True):
    about: About
    sizes: list[Sizes]
    costs: list[list[Cost]]  # per run: few users, then many


class Counted(msgspec.Struct, frozen=True):
    """One round of counting actions on items. `state_bytes` are those of the round's last checkpoint, all keys together."""

    items: int
    events: int
    seconds: float
    cpu_us: float
    state_bytes: int


class Aggregates(msgspec.Struct, frozen=True):
    """By contender."""

    about: About
    rounds: dict[str, list[Counted]]


class Items(msgspec.Struct, frozen=True):
    """Riffle's rounds: in each run few items, then many."""

    about: About
    runs: list[list[Counted]]


class Replays(msgspec.Struct, frozen=True):
    """Lists of a real job made again. `found` is by as many BLAS threads as the machine has cores; bytes are of one record."""

    about: About
    found: Summary
    identical_one_thread: int
    records: int
    record_bytes: int  # as sent
    stored_bytes: int  # on the broker's disk
    made_s: float
    replay_s: float


class Regret(msgspec.Struct, frozen=True):
    """Mean over the problems, of ours and of the library's; the standard error is that of the difference, over the library's."""

    regret: float
    mabwiser: float
    ratio: float
    standard_error: float


class Bandits(msgspec.Struct, frozen=True):
    about: About
    mabwiser: str  # its version
    steps: int
    problems: int
    linear_steps: int
    linear_problems: int
    policies: dict[str, Regret]


class Results(msgspec.Struct):
    latency: Latency | None = None
    state: State | None = None
    ranking: Rankings | None = None
    users: Users | None = None
    aggregates: Aggregates | None = None
    items: Items | None = None
    retrieval: Retrieval | None = None
    replays: Replays | None = None
    bandits: Bandits | None = None


def load(path: Path = JSON) -> Results:
    """What is committed; nothing measured where the file is missing."""
    return msgspec.json.decode(path.read_bytes(), type=Results) if path.exists() else Results()


def save(results: Results, path: Path = JSON) -> None:
    path.write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=1) + b"\n")
