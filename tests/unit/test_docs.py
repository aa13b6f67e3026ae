"""README and docs say what the code does: topics, event types, reasons, fallbacks, counters, links and commands."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.main import get_command

from cli.main import app
from jobs.experiments import TOPICS as EXPERIMENT_TOPICS
from jobs.personalise import RANKED_TOPICS, RECORDS_TOPICS
from jobs.training_log import TOPICS as TRAINING_TOPICS
from schemas import topics
from schemas.event import EVENT_TYPES, Reason
from schemas.user_state import ACTIONS
from udfs.logic import attribution, records, sessions
from udfs.logic.when_to_rank import DEFAULT_POLICY
from udfs.outputs import BUCKETS_MS, EXACTLY_ONCE_TOPICS
from udfs.rank_candidates import SUMMED, TIMED

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text() for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
}
CONTRACTS, METRICS = PAGES["docs/contracts.md"], PAGES["docs/metrics.md"]
DAY_MS = 86_400_000

# Counters whose names are put together at run time: the expression in the code -> the names in the docs.
FAMILIES = {
    "{self.kind}_stored": {"lists_stored", "rows_stored", "arms_stored"},
    "{self.kind}_failed": {"lists_failed", "rows_failed", "arms_failed"},
    "events_{applied.reason}": {f"events_{reason}" for reason in (sessions.DUPLICATE, sessions.LATE)},
    "events_{note}": {"events_clamped", "events_out_of_order", "events_closed_session", "events_flood"}
    | {"events_no_personalisation", "events_no_training"},
    "events_{via}": {f"events_{via}" for via in (records.REROUTE, records.ALIAS)},
    "rejected_{rejected.reason.value}": {"rejected_<reason>"},
    "fallback_{fallback}": {"fallback_<name>"},
    "unmatched_{found.reason}": {"unmatched_<reason>"},
    "interactions_{level}": {"interactions_late", "interactions_flagged", "interactions_unreadable"},
    "choices_{kind}": {"choices_late", "choices_flagged", "choices_not_allowed"},
    "feature_nulls_{name}": {"feature_nulls_<name>"},
}


def section(page: str, heading: str) -> str:
    found = re.search(rf"^(#+) {re.escape(heading)}\n(.*?)(?=^#{{1,6}} |\Z)", page, flags=re.M | re.S)
    assert found, f"no section {heading}"
    return found[2]


def rows(text: str) -> list[list[str]]:
    """The cells of the text's table rows, without head and rule."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    return [row for row in cells[2:] if not set("".join(row)) <= set("-")]


def codes(text: str) -> set[str]:
    return set(re.findall(r"`([^`\n]+)`", text))


def unwrapped(text: str) -> str:
    return " ".join(text.split())


def parsed(path: str) -> ast.Module:
    return ast.parse((ROOT / path).read_text())


# ── contracts ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_table_of_topics_is_the_code() -> None:
    guarantees = dict.fromkeys((*RANKED_TOPICS, *RECORDS_TOPICS), "at least once")
    guarantees |= dict.fromkeys((*EXACTLY_ONCE_TOPICS, *TRAINING_TOPICS), "exactly once")
    guarantees |= dict.fromkeys((topics.ITEM_FEATURES, topics.TOP_LISTS, topics.BELIEFS), "at least once")
    guarantees |= dict.fromkeys(EXPERIMENT_TOPICS, "at least once")
    wanted = []
    for spec in topics.TOPICS:
        days = None if spec.retention_ms is None else spec.retention_ms // DAY_MS
        kept = "compacted" if spec.compacted else "1 day" if days == 1 else f"{days} days"
        assert spec.compacted == (days is None), "the page says that compacted topics have no time limit"
        size = f"{spec.max_message_bytes >> 20} MiB"
        wanted.append([spec.name, str(spec.partitions), kept, size, spec.compression, guarantees.get(spec.name, "–")])
    assert [[row[0].strip("`"), *row[1:-1]] for row in rows(section(CONTRACTS, "Topics"))] == wanted


def test_the_table_of_events_is_the_code() -> None:
    table = {row[0].strip("`"): row for row in rows(section(CONTRACTS, "Events"))}
    assert tuple(table) == EVENT_TYPES
    assert {name for name, row in table.items() if row[3].startswith("yes")} == set(ACTIONS)
    assert {name for name, row in table.items() if row[4] == "yes"} == DEFAULT_POLICY.at_once
    assert [row[4] for row in table.values() if "dwell" in row[4]] == [
        f"from {DEFAULT_POLICY.view_ms // 1000} s of dwell"
    ]


def test_the_reason_codes_are_the_code() -> None:
    text = unwrapped(section(CONTRACTS, "Events"))
    rejected = text.partition("Reason codes of rejected records:")[2].partition(", see Keys")[0]
    assert codes(rejected) == {reason.value for reason in Reason} | {records.UNROUTABLE}
    unapplied = text.partition("Not rejected, yet not applied:")[2]
    assert codes(unapplied) == {sessions.LATE, sessions.DUPLICATE, records.MOVED}


def test_the_fallbacks_are_the_code() -> None:
    text = unwrapped(section(CONTRACTS, "Freshness"))
    readers, lists = text.partition("What a read of the client answers")[2].split(
        "What stands in a list's own `fallback`"
    )
    constants = [
        node.value.value
        for node in parsed("client/feed_core.py").body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    ]
    assert len(constants) > 3
    assert codes(readers) - {"fallback"} == set(constants)
    tree = parsed("udfs/rank_candidates.py")
    assigned = [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "reason"
    ]
    returned = [
        node.value.elts[1]
        for node in ast.walk(tree)
        if isinstance(node, ast.Return)
        and isinstance(node.value, ast.Tuple)
        and re.search("_fall_back|without_ranker", ast.unparse(node.value.elts[0]))
    ]
    reasons = {node.value for node in [*assigned, *returned] if isinstance(node, ast.Constant)}
    assert len(reasons) > 3
    assert {code for code in codes(lists) if code.startswith("model_")} == reasons


def test_the_reasons_of_what_cannot_be_joined_are_the_code() -> None:
    table = {row[0].strip("`") for row in rows(section(PAGES["docs/training-rows.md"], "What cannot be joined"))}
    logic = {attribution.NO_EXPOSURE, attribution.UNKNOWN_LIST, attribution.NOT_IN_LIST, attribution.TOO_MANY}
    assert table == {*logic, "unreadable"}


# ── metrics ───────────────────────────────────────────────────────────────────────────────────────────────────────


def counted() -> Iterator[str]:
    """The first argument of every call that counts by name, in the operators and their logic."""
    for path in sorted((ROOT / "udfs").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "watch" and len(node.args) == 3:
                yield from _names(node.args[1])
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args):
                continue
            if node.func.attr == "count" or ast.unparse(node.func).endswith("_counters.add"):
                yield from _names(node.args[0])


def _names(node: ast.expr) -> Iterator[str]:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.JoinedStr):
        yield ast.unparse(node)[2:-1]
    elif isinstance(node, ast.IfExp):
        yield from _names(node.body)
        yield from _names(node.orelse)


def test_every_counter_is_explained() -> None:
    documented = [
        name.strip("`")
        for part in (
            "update-user-state",
            "rank-candidates",
            "update-training-log",
            "update-experiment-metrics",
            "aggregate-arms and store-arm-metrics",
            "aggregate-items and aggregate-groups",
            "store-item-features",
            "update-top-lists",
            "store-top-lists",
            "update-beliefs",
        )
        for row in rows(section(METRICS, part))
        for name in row[0].split(", ")
    ]
    in_code: set[str] = set()
    for name in counted():
        in_code |= FAMILIES[name] if "{" in name else {name}
    assert set(documented) == in_code


def test_every_stage_that_is_timed_is_explained() -> None:
    found = {name: row[2] for row in rows(section(METRICS, "Stages")) for name in codes(row[0])}
    assert found == {**dict.fromkeys(TIMED, "buckets, sum"), **dict.fromkeys(SUMMED, "sum")}
    bounds = f"({', '.join(map(str, BUCKETS_MS))}, and `+Inf` for all)"
    assert bounds in unwrapped(section(METRICS, "Stages"))


# ── links, commands, dependencies ────────────────────────────────────────────────────────────────────────────────────


def anchors(page: str) -> set[str]:
    """As GitHub makes them: lower case, punctuation dropped, blanks to hyphens."""
    found = re.findall(r"^#+ (.+)$", page, flags=re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


@pytest.mark.parametrize("name", PAGES)
def test_every_link_leads_somewhere(name: str) -> None:
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", PAGES[name]):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = ((ROOT / name).parent / path).resolve() if path else ROOT / name
        if not target.exists() or (anchor and anchor not in anchors(target.read_text())):
            broken.append(link)
    assert not broken


def spoken(page: str) -> str:
    """What stands in code: between backticks and in fenced blocks."""
    fenced = re.findall(r"^```.*?\n(.*?)^```", page, flags=re.M | re.S)
    rest = re.sub(r"^```.*?^```", "", page, flags=re.M | re.S)
    return "\n".join([*fenced, *re.findall(r"`([^`\n]+)`", rest)])


@pytest.mark.parametrize("name", PAGES)
def test_every_make_target_exists(name: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), flags=re.M))
    assert "run" in targets
    assert set(re.findall(r"(?<![\w-])make ([a-z]+)", spoken(PAGES[name]))) <= targets


@pytest.mark.parametrize("name", PAGES)
def test_every_riffle_command_and_option_exists(name: str) -> None:
    wrong = []
    for line in spoken(PAGES[name]).splitlines():
        for words in re.findall(r"(?<![\w/-])riffle ((?:[\w<>:./…-]+ ?)+)", line.partition(" #")[0]):
            command, given = get_command(app), words.split()
            while given and hasattr(command, "commands"):  # a group may be named alone
                command = command.commands.get(given.pop(0))
            options = {
                option
                for parameter in getattr(command, "params", [])
                for option in (*parameter.opts, *parameter.secondary_opts)
            }
            if command is None or not {word for word in given if word.startswith("-")} <= options:
                wrong.append(words)
    assert not wrong


def test_the_readme_names_every_command() -> None:
    def paths(command: object, before: str = "") -> Iterator[str]:
        for name, child in command.commands.items():  # type: ignore[attr-defined]
            if hasattr(child, "commands"):
                yield from paths(child, f"{before}{name} ")
            else:
                yield f"riffle {before}{name}"

    table = section(PAGES["README.md"], "Command line")
    named = {code for row in rows(table) for code in codes(row[0])}
    assert named == set(paths(get_command(app)))


def test_every_dependency_has_its_reason() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = [name for group in project["project"]["optional-dependencies"].values() for name in group]
    wanted = [
        *project["project"]["dependencies"],
        *extras,
        *project["dependency-groups"]["dev"],
        *project["build-system"]["requires"],
    ]
    reasons = section(PAGES["docs/decisions.md"], "2026-11-22 · Dependencies")
    named = set(re.findall(r"[\w-]+", " ".join(row[0] for row in rows(reasons))))
    assert [one for one in wanted if re.match(r"[\w-]+", one)[0] not in named] == []  # type: ignore[index]
