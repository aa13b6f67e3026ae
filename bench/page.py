"""The page: docs/benchmarks.md and its plot, from docs/benchmarks.json alone. tests/unit/test_bench.py holds them together."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable

from bench.machine import ROOT, About
from bench.plot import latency_plot
from bench.results import (
    Aggregates,
    Bandits,
    Items,
    Latency,
    Percentiles,
    Rankings,
    Rate,
    Replays,
    Results,
    Retrieval,
    State,
    Users,
    save,
)

PAGE = ROOT / "docs" / "benchmarks.md"
PLOT = ROOT / "docs" / "benchmarks-latency.svg"

_INTRO = """# Benchmarks

`make bench` measures all of this and writes this page; do not edit it. `.venv/bin/python -m bench --help` tells of the parts and
of how long they take. A cell with several runs gives their median and, in brackets, the lowest and the highest. Everything (broker,
Redis, Flink, sender, readers) shares the cores that are named.
"""


def write(results: Results) -> None:
    save(results)
    PAGE.write_text(render(results))
    if results.latency is not None:
        PLOT.write_text(latency_plot(results.latency))


def render(results: Results) -> str:
    parts: list[tuple[str, str, object, Callable[..., list[str]]]] = [
        ("Event to list", "latency", results.latency, _latency),
        ("State path", "state", results.state, _state),
        ("One ranking", "ranking", results.ranking, _ranking),
        ("Recall and cascade", "retrieval", results.retrieval, _retrieval),
        ("Many users", "users", results.users, _users),
        ("Counters of items", "aggregates", results.aggregates, _aggregates),
        ("Counters of many items", "items", results.items, _items),
        ("Replays", "replays", results.replays, _replays),
        ("Regret of exploration", "bandits", results.bandits, _bandits),
    ]
    lines = [_INTRO]
    for title, name, found, show in parts:
        lines.append(f"## {title}\n")
        if found is None:
            lines.append(f"Not measured: `.venv/bin/python -m bench {name}`.\n")
        else:
            lines += [*show(found), ""]
    return "\n".join(lines).rstrip("\n") + "\n"


def _latency(found: Latency) -> list[str]:
    rates = sorted({one.rate for run in found.runs for one in run})
    by_rate = {rate: [one for run in found.runs for one in run if one.rate == rate] for rate in rates}
    settings = found.about.settings
    text = [
        "Clicks in an open loop, each of which triggers one list; from the scheduled send time to the list's arrival at a",
        f"reader of `ranked-feed`. {settings['events_per_rate']} events a rate, {settings['users']} users; the shipped bundle,",
        "200 candidates.\n",
        "![Latency against rate](benchmarks-latency.svg)\n",
        *_table(
            ("events/s", "answered", "by the ranker", "p50 ms", "p90 ms", "p99 ms", "p99.9 ms", ""),
            (
                (
                    f"{rate:g}",
                    _spread([100 * one.answered / one.events for one in runs], "{:.1f} %"),
                    _spread(
                        [100 * (one.answered - sum(one.fallbacks.values())) / one.events for one in runs], "{:.1f} %"
                    ),
                    *(_spread(_each(runs, name)) for name in ("p50", "p90", "p99", "p999")),
                    "saturated" if any(one.saturated for one in runs) else "",
                )
                for rate, runs in by_rate.items()
            ),
        ),
        "",
        "Where the time goes, p50 / p99 in ms. The parts of one event sum up to its latency; percentiles do not.\n",
        *_table(
            ("events/s", *by_rate[rates[0]][0].parts_ms),
            ((f"{rate:g}", *(_part(runs, name) for name in runs[0].parts_ms)) for rate, runs in by_rate.items()),
        ),
        "",
        "What saturates: cores in use by process, and Flink's busy ratio of each task (of",
        "its JVM side, where it runs in process mode).\n",
        *_table(
            ("events/s", "cores by process", "busy by task"),
            ((f"{rate:g}", _means(runs, "cpu_cores"), _means(runs, "busy")) for rate, runs in by_rate.items()),
        ),
        "",
        "Reads from another process, one after each click, each demanding the click just sent:\n",
        *_table(
            ("clicks/s", "reads", "met", "p50 ms", "p99 ms", "not met"),
            (
                (
                    f"{one.rate:g}",
                    f"{one.asked:,}",
                    f"{one.met:,}",
                    f"{one.wait_ms.p50:g}" if one.wait_ms else "–",
                    f"{one.wait_ms.p99:g}" if one.wait_ms else "–",
                    ", ".join(f"{name} {count}" for name, count in one.fallbacks.items()) or "–",
                )
                for one in found.reads
            ),
        ),
    ]
    return [*text, "", _described(found.about)]


_ENGINES = {"riffle": "Riffle", "quix": "Quix Streams", "process": "PyFlink, process mode"}


def _state(found: State) -> list[str]:
    text = [
        "Kafka → one user's session in RocksDB → Kafka, without ranking. The same events, functions, state bytes, deduplication",
        "and transactions of 5 s on each engine, in turns; [bench/state.py](../bench/state.py) says what is counted. Every record",
        "written is compared with what the functions make of the same input in plain Python.\n",
        *_table(
            ("", "events/s", "CPU µs/event", "against Riffle", "Kafka's CPU µs/event", "compared", "different"),
            (
                (
                    _ENGINES[name],
                    _spread([one.events_per_s for one in rounds], "{:,.0f}"),
                    _spread([one.cpu_us for one in rounds], "{:,.0f}"),
                    _spread([a.cpu_us / b.cpu_us for a, b in zip(rounds, found.rounds["riffle"])], "{:.2f}"),
                    _spread([one.broker_us for one in rounds], "{:,.0f}"),
                    f"{sum(one.compared for one in rounds):,}",
                    f"{sum(one.different for one in rounds):,}",
                )
                for name, rounds in found.rounds.items()
            ),
        ),
    ]
    return [*text, "", _described(found.about)]


def _ranking(found: Rankings) -> list[str]:
    by_size = list(zip(*found.runs))
    settings = found.about.settings
    text = [
        f"CPU ms of one thread from user state to scores, {settings['width']} wide, session {settings['session']}, history "
        f"{settings['history']}; random weights.",
        "Naive: one graph that encodes both sequences and projects every candidate at each call. Graph: without features and",
        "tables.\n",
        *_table(
            (
                "candidates",
                "history cached",
                "not cached",
                "naive",
                "torch",
                "naive / cached",
                "graph",
                "naive graph",
                "ratio",
            ),
            (
                (
                    f"{runs[0].candidates:,}",
                    *(
                        _spread([getattr(one, name) for one in runs], "{:.2f}")
                        for name in ("hit", "miss", "naive", "torch")
                    ),
                    _spread([one.naive / one.hit for one in runs], "{:.2f}"),
                    *(_spread([getattr(one, name) for one in runs], "{:.2f}") for name in ("hit_graph", "naive_graph")),
                    _spread([one.naive_graph / one.hit_graph for one in runs], "{:.2f}"),
                )
                for runs in by_size
            ),
        ),
    ]
    return [*text, "", _described(found.about)]


def _retrieval(found: Retrieval) -> list[str]:
    settings = found.about.settings
    text = [
        "CPU ms of one thread to find 1,000 of so many vectors, by the index of large bundles and exactly. The vectors are",
        "those of the shipped bundle's items, many times, with noise; the queries are users' vectors.\n",
        *_table(
            (
                "vectors",
                "exact, faiss",
                "exact, numpy",
                "index",
                "cheaper than faiss",
                "recall@1,000",
                "made in CPU s",
                "MB",
            ),
            (
                (
                    f"{one.items:,}",
                    f"{one.exact:.2f}",
                    f"{one.exact_numpy:.2f}",
                    f"{one.index:.2f}",
                    f"{one.exact / one.index:.1f}",
                    f"{one.recall:.3f}",
                    f"{one.made_s:.1f}",
                    f"{one.made_mb:.0f}",
                )
                for one in found.searched
            ),
        ),
        "",
        f"One list of 50 by {settings['bundle']}, history cached: 1,000 recalled, 200 left by the pre-ranker and ranked. Wall ms",
        "by stage, as receipts have them, and CPU ms of the whole.\n",
        *_table(
            found.stages[0],
            [[_spread([run[name] for run in found.stages], "{:.2f}") for name in found.stages[0]]],
        ),
    ]
    return [*text, "", _described(found.about)]


def _users(found: Users) -> list[str]:
    sizes, costs = found.sizes, found.costs
    text = [
        f"{sizes[0].users:,} users at full caps in RocksDB, put there by the operator from records that name them; "
        "[bench/users.py](../bench/users.py).\n",
        *_table(
            ("", ""),
            (
                ("one state, encoded", _spread([one.blob_bytes for one in sizes], "{:,.0f} bytes")),
                ("state per user in a full checkpoint", _spread([one.state_bytes for one in sizes], "{:,.0f} bytes")),
                ("full checkpoint", _spread([one.full_mb for one in sizes], "{:,.0f} MiB")),
                ("it takes", _spread([one.full_s for one in sizes], "{:.1f} s")),
                (
                    f"incremental checkpoint after {sizes[0].changed:,} events",
                    _spread([one.incremental_mb for one in sizes], "{:,.0f} MiB"),
                ),
                ("it takes", _spread([one.incremental_s for one in sizes], "{:.1f} s")),
                ("restore of the state operator", _spread([one.restore_s for one in sizes], "{:.1f} s")),
            ),
        ),
        "",
        "CPU of the state path per event, all Flink processes, events spread evenly over typical users:\n",
        *_table(
            ("users", "CPU µs/event", "events/s, sender beside it", "against the fewest"),
            (
                (
                    f"{runs[0].users:,}",
                    _spread([one.cpu_us for one in runs], "{:,.0f}"),
                    _spread([one.events_per_s for one in runs], "{:,.0f}"),
                    _spread([one.cpu_us / few.cpu_us for one, few in zip(runs, (run[0] for run in costs))], "{:.2f}"),
                )
                for runs in zip(*costs)
            ),
        ),
    ]
    return [*text, "", _described(found.about)]


_COUNTERS = {
    "riffle": "Riffle: all keys, a row at every change",
    "windows": "PyFlink's windows: items only, a row at their end",
}


def _aggregates(found: Aggregates) -> list[str]:
    riffle = found.rounds["riffle"]
    text = [
        "Kafka → counters over 2 hours (by 5 minutes) and 28 days (by 1 day) → Kafka, items drawn by Zipf; state in RocksDB,",
        "Python in thread mode; in turns. PyFlink's windows count the items alone, Riffle also their surface, hour and everything,",
        "and writes to Redis; [bench/aggregates.py](../bench/aggregates.py).\n",
        *_table(
            ("", "events", "events/s", "Riffle's against it", "CPU µs/event", "against Riffle's"),
            (
                (
                    _COUNTERS[name],
                    _spread([one.events for one in rounds], "{:,.0f}"),
                    _spread([one.events / one.seconds for one in rounds], "{:,.0f}"),
                    _spread(
                        [(a.events / a.seconds) / (b.events / b.seconds) for a, b in zip(riffle, rounds)], "{:.1f}"
                    ),
                    _spread([one.cpu_us for one in rounds], "{:,.0f}"),
                    _spread([b.cpu_us / a.cpu_us for a, b in zip(riffle, rounds)], "{:.1f}"),
                )
                for name, rounds in found.rounds.items()
            ),
        ),
    ]
    return [*text, "", _described(found.about)]


def _items(found: Items) -> list[str]:
    few = [run[0] for run in found.runs]
    text = [
        "CPU per event of all Flink processes of the job item-aggregates, items drawn by Zipf from few and from many. The state is",
        "that of the last checkpoint, with all keys and timers.\n",
        *_table(
            ("items", "CPU µs/event", "against the fewest", "state, MB"),
            (
                (
                    f"{rounds[0].items:,}",
                    _spread([one.cpu_us for one in rounds], "{:,.0f}"),
                    _spread([one.cpu_us / base.cpu_us for one, base in zip(rounds, few)], "{:.2f}"),
                    _spread([one.state_bytes / 1e6 for one in rounds], "{:,.1f}"),
                )
                for rounds in zip(*found.runs)
            ),
        ),
    ]
    return [*text, "", _described(found.about)]


def _replays(found: Replays) -> list[str]:
    all_ = found.found
    names = {
        "explore": "with an explored place",
        "held": "with a place held by stability",
        "pinned": "with a pinned place",
    }
    rows = [
        ("lists on `rankings-log`", f"{all_.lists:,}"),
        ("scored, by ranker, pre-ranker or popularity; the rest fell back", f"{all_.scored:,}"),
        ("identical, every bit of scores, places and propensities", f"{all_.identical:,}"),
        ("equal but for score gaps up to 1e-5", f"{all_.close:,}"),
        ("different", f"{all_.different:,}"),
        *((f"not replayed: {reason}", f"{count:,}") for reason, count in sorted(all_.not_replayed.items())),
        ("identical, by one BLAS thread", f"{found.identical_one_thread:,}"),
        *(
            (f"of start {number} of the job", f"{count:,}")
            for number, (_, count) in enumerate(sorted(all_.epochs.items()), start=1)
        ),
        *((f"of policy `{name}`", f"{count:,}") for name, count in sorted(all_.policies.items())),
        *((f"of bundle `{name}`", f"{count:,}") for name, count in sorted(all_.bundles.items())),
        *((f"in arm {name}", f"{count:,}") for name, count in sorted(all_.arms.items())),
        *((f"{text}", f"{all_.slots[slot]:,}") for slot, text in names.items() if slot in all_.slots),
        *((f"fallback `{name}`", f"{count:,}") for name, count in sorted(all_.fallbacks.items()) if name != "none"),
        ("of users who acted on items that came after the bundle", f"{all_.later_items:,}"),
        ("a record, as sent", f"{found.record_bytes:,} bytes"),
        ("a record, on the broker's disk", f"{found.stored_bytes:,} bytes"),
        ("replaying a list, with reading it", f"{1000 * found.replay_s / max(1, all_.lists):.1f} ms"),
    ]
    text = [
        "Lists of every kind ([trials/variety.py](../trials/variety.py)), made by the jobs personalise, beliefs and",
        "item-aggregates. In the middle personalise is stopped with a savepoint and started from it, and items that came after",
        "the bundle change their groups. Then `riffle replay --hours 24` makes all lists again.\n",
        *_table(("", ""), rows),
    ]
    return [*text, "", _described(found.about)]


def _bandits(found: Bandits) -> list[str]:
    text = [
        f"Regret over {found.steps:,} steps on {found.problems} seeded problems of ten Bernoulli arms, against mabwiser",
        f"{found.mabwiser} with the same parameters; `linucb`, disjoint, on {found.linear_problems} linear problems of",
        f"{found.linear_steps} steps, with the same contexts and luck for both ([bench/bandits.py](../bench/bandits.py)). The",
        "standard error is that of the difference, over the library's regret.\n",
        *_table(
            ("policy", "regret", "mabwiser's", "ratio", "standard error"),
            (
                (
                    f"`{name}`",
                    f"{one.regret:.2f}",
                    f"{one.mabwiser:.2f}",
                    f"{one.ratio:.3f}",
                    f"{one.standard_error:.3f}",
                )
                for name, one in found.policies.items()
            ),
        ),
    ]
    return [*text, "", _described(found.about)]


def _described(about: About) -> str:
    quick = "**Quick: too few events to be quoted.** " if about.quick else ""
    versions = ", ".join(f"{name} {number}" for name, number in about.versions.items())
    settings = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in about.settings.items())
    return (
        f"{quick}{about.repeat} run{'s' if about.repeat > 1 else ''}, {about.date}, commit {about.commit}. {about.cores} cores of "
        f"{about.cpu}, {about.memory_gb} GB, Linux {about.kernel}, Python {about.python}, {versions}. Settings: {settings}."
    )


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    titles = list(head)
    return [_row(titles), _row(["---"] * len(titles)), *map(_row, rows)]


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _spread(values: list[float], form: str = "{:.1f}") -> str:
    """The median, and the lowest and highest where there is more than one."""
    if not values:
        return "–"
    middle = form.format(statistics.median(values))
    if len(values) == 1:
        return middle
    return f"{middle} ({form.format(min(values))}–{form.format(max(values))})"


def _each(runs: list[Rate], name: str) -> list[float]:
    return [getattr(one.latency_ms, name) for one in runs if one.latency_ms is not None]


def _part(runs: list[Rate], name: str) -> str:
    found: list[Percentiles] = [part for one in runs if (part := one.parts_ms[name]) is not None]
    if not found:
        return "–"
    return f"{statistics.median(one.p50 for one in found):.1f} / {statistics.median(one.p99 for one in found):.1f}"


def _means(runs: list[Rate], name: str) -> str:
    names = list(dict.fromkeys(key for one in runs for key in getattr(one, name)))
    means = {key: statistics.fmean(getattr(one, name).get(key, 0.0) for one in runs) for key in names}
    return ", ".join(f"{key} {value:.2f}" for key, value in sorted(means.items(), key=lambda pair: -pair[1])) or "–"
