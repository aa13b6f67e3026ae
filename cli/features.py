"""riffle features: the registry of features, and what is served of an item or a user right now."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import typer
from rich.table import Table
from rich.text import Text

from cli.connecting import connections, err, fail, out, plainly, redis_nodes
from client.features import read_rows, read_user
from schemas.features import (
    DEFINITIONS,
    LOCK,
    RECORD_COMMAND,
    FeatureError,
    Registry,
    changed_definition,
    parse,
    read_lock,
    registry,
)
from schemas.features_row import ALL, LEVELS, ItemRow, RowError, RowKey, row_codec
from schemas.keys import user_key
from udfs.logic.item_rates import rates, window_share

app = typer.Typer(help="Features: what is defined, and what is served.", no_args_is_help=True)
_NOTHING = ItemRow(0, 0, 0, ())
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.callback()
def _group() -> None:
    """Features: what is defined, and what is served."""


@app.command("list")
def list_features(json: Json = False) -> None:
    """List every feature: docs/features-list.md in short.

    Example:

        riffle features list
    """
    defined = _registry().features
    if json:
        out.print_json(msgspec.json.encode(defined).decode())
        return
    table = Table()
    for name in ("feature", "of", "type", "window", "made by", "owner"):
        table.add_column(name)
    for one in defined:
        shape = "".join(f"[{size}]" for size in one.shape)
        table.add_row(*map(Text, (one.id, one.entity, one.type + shape, one.window, one.made_by, one.owner)))
    out.print(table)


@app.command()
def show(name: Annotated[str, typer.Argument(help="A feature's name, without version.")], json: Json = False) -> None:
    """Show the definition of a feature, every version of it.

    Example:

        riffle features show clicks_2h
    """
    loaded = _registry()
    try:
        loaded.get(name)
    except FeatureError as error:
        fail(str(error))
    versions = [one for one in loaded.features if one.name == name]
    if json:
        out.print_json(msgspec.json.encode(versions).decode())
        return
    for one in versions:
        table = Table(title=Text(one.id), title_justify="left", show_header=False)
        for field, value in {**msgspec.to_builtins(one), "fingerprint": one.fingerprint}.items():
            table.add_row(field, Text(", ".join(map(str, value)) if isinstance(value, list) else str(value)))
        out.print(table)


@app.command()
def get(
    name: Annotated[str, typer.Argument(help="An item id; or what --of says.")],
    of: Annotated[str, typer.Option(help=f"What NAME is: user, {', '.join(LEVELS)}.")] = "item",
    json: Json = False,
) -> None:
    """Show the features that Redis holds of an item, a user, a group of items or a context.

    An item's rates are computed as the ranker computes them, from its row and those of its groups.

    Examples:

        riffle features get shoe-7

        riffle features get alice --of user

        riffle features get mobile --of device
    """
    if of == "user":
        found = _user(name)
    elif of in LEVELS:
        found = _row(RowKey(of, "" if of == ALL.level else name))
    else:
        fail(f"--of {of} is unknown: it is user, {', '.join(LEVELS)}.")
    if json:
        out.print_json(msgspec.json.encode(found).decode())
        return
    table = Table(title=Text(f"{of} {name}"), title_justify="left", show_header=False)
    for field, value in found.items():
        table.add_row(field, Text(f"{value:.5g}" if isinstance(value, float) else str(value)))
    out.print(table)


@app.command()
def diff() -> None:
    """Compare the definitions with what was published; exit code 1 where something has to be recorded or put right.

    Example:

        riffle features diff
    """
    try:
        defined = parse(DEFINITIONS.read_text()).published()
        recorded = read_lock(LOCK.read_text())
    except FeatureError as error:
        fail(str(error))
    new = [name for name in defined if name not in recorded]
    changed = [name for name, fingerprint in defined.items() if recorded.get(name, fingerprint) != fingerprint]
    retired = [name for name in recorded if name not in defined]
    for title, names in (("new", new), ("changed", changed), ("retired", retired)):
        for name in names:
            out.print(f"{title:8} {name}", markup=False, highlight=False)
    if changed:
        fail(changed_definition(changed[0]))
    if new:
        fail(f"Not recorded yet: run `{RECORD_COMMAND}` and commit {LOCK.name}.")
    err.print(f"{len(defined) - 1} features and the item row are as published.")


def _registry() -> Registry:
    try:
        return registry()
    except FeatureError as error:
        fail(str(error))


def _user(name: str) -> dict[str, Any]:
    with plainly():
        where = connections()
        nodes = redis_nodes(where)
        features = read_user(nodes, where.redis_namespace, user_key(name, None))
        nodes.close()
    if features is None:
        fail("Redis holds no features of this user: did they act in the last 7 days?")
    found: dict[str, Any] = msgspec.to_builtins(features)
    return found


def _row(key: RowKey) -> dict[str, Any]:
    """The counters of a row; of an item, its groups and its rates as well."""
    codec = row_codec()
    hours = [RowKey("hour", f"{hour:02d}") for hour in range(24)]
    try:
        with plainly():
            where = connections()
            nodes = redis_nodes(where)
            row = read_rows(nodes, where.redis_namespace, codec, [key]).get(key)
            if row is None:
                fail(f"Redis holds no counters of {key.level} {key.name}: does the job item-aggregates run?")
            groups = _groups(row) if key.level == "item" else []
            around = read_rows(nodes, where.redis_namespace, codec, [*groups, *hours])
            nodes.close()
    except RowError as error:
        fail(f"Redis holds a row that cannot be read: {error}.")
    found: dict[str, Any] = {"window_end_ms": row.window_end_ms, **dict(zip(codec.ids, row.counts))}
    if key.level != "item":
        return found
    chain = [around.get(group, _NOTHING) for group in groups]
    by_name = [dict(zip(codec.columns, one.counts or [0] * len(codec.columns))) for one in (*chain, row)]
    by_hour = [dict(zip(codec.columns, around[hour].counts))["clicks_28d"] if hour in around else 0 for hour in hours]
    computed = rates(by_name, window_share(by_hour, row.window_end_ms))
    return {"subcategory": row.subcategory, "category": row.category, **found, **computed}


def _groups(row: ItemRow) -> list[RowKey]:
    """The levels above an item, the widest first."""
    above = [ALL]
    above += [RowKey("category", row.category)] if row.category else []
    above += [RowKey("subcategory", row.subcategory)] if row.subcategory else []
    return above
