"""riffle policy: check a slate policy, see what it would change, publish it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.table import Table
from rich.text import Text

from cli.cluster import publish
from cli.connecting import connections, err, fail, out, plainly
from client.decisions import newest_decisions, published_policies, recent_decisions
from client.scan import Limits, Scanner
from models.bundle import BundleError, latest, read_manifest
from models.replaying import Bundles
from models.retrieval import SOURCES
from models.store import SHIPPED
from schemas import topics
from schemas.control import PublishPolicy, control_record
from schemas.decision import Decision, DecisionError
from schemas.items import Item, decode_item
from schemas.policy import Policy, PolicyError, check_names, parse_policy
from schemas.ranking import DEFAULT_SURFACE
from udfs.logic.replay import CannotReplay
from udfs.logic.slate import CALLER, PINNED_SOURCE, World

app = typer.Typer(help="Slate policies: check, compare on real lists, publish.", no_args_is_help=True)

_SCAN_S = 60.0

File = Annotated[Path, typer.Argument(metavar="FILE", help="A policy, in TOML.", exists=True, dir_okay=False)]
Folder = Annotated[str, typer.Option("--bundles", help="Folder of model bundles; default: the shipped ones.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


class Changed(msgspec.Struct, frozen=True):
    """What policy B would have made of one user's newest list that policy A would not."""

    user: str
    list_id: str
    places_changed: int
    items_new: list[str]
    items_gone: list[str]
    removed: dict[str, tuple[int, int]]  # by rule: what A and B take out


@app.command()
def check(file: File, bundles: Folder = "") -> None:
    """Say what is wrong with a policy, or that nothing is. Exit code 1 where it is not accepted.

    Example:

        riffle policy check home.toml
    """
    policy = _read(file, bundles)
    slots = len(policy.slot_at())
    err.print(f"{file.name} is accepted: {len(policy.rules)} rules, {slots} places that are not the best item's.")


@app.command("publish")
def publish_(
    file: File,
    bundles: Folder = "",
    for_experiments: Annotated[
        bool, typer.Option("--for-experiments", help="Known to the job, and used only by arms that name it.")
    ] = False,
) -> None:
    """Put a policy in force on its surface: the running job takes it up within two seconds, without a restart.

    To go back, publish the file of the policy before: every version stays known.

    Example:

        riffle policy publish home.toml
    """
    policy = _read(file, bundles)
    with plainly():
        where = connections()
        with Scanner(where, Limits(seconds=_SCAN_S)) as scanner:
            known = published_policies(scanner).get(policy.version)
        if known is not None and known != policy:
            fail(
                f"Version {policy.version} is published with other content, and lists name it: give the file another version."
            )
        publish(where, topics.CONTROL, [control_record(PublishPolicy(policy, in_force=not for_experiments))])
    err.print(
        f"Published {policy.version} for {'the arms that name it' if for_experiments else policy.surface}; the receipt of each "
        "list names the policy that made it."
    )


@app.command()
def diff(
    a: Annotated[str, typer.Argument(metavar="A", help="A policy file, or a published version.")],
    b: Annotated[str, typer.Argument(metavar="B", help="Likewise.")],
    users: Annotated[str, typer.Option(help="User ids, with commas; default: the last users on the surface.")] = "",
    surface: Annotated[str, typer.Option(help="Whose lists are looked at.")] = DEFAULT_SURFACE,
    count: Annotated[int, typer.Option(help="How many users, where none are named.", min=1, max=1_000)] = 20,
    bundles: Folder = "",
    json: Json = False,
) -> None:
    """Show what policy B would change against policy A, on users' newest lists: same candidates, same scores.

    Example:

        riffle policy diff 1 home.toml --users alice,bob
    """
    with plainly(), Scanner(connections(), Limits(seconds=_SCAN_S)) as scanner:
        published = published_policies(scanner)
        first, second = (_named(name, published, bundles) for name in (a, b))
        try:
            wanted = {f"u:{user.strip()}" for user in users.split(",") if user.strip()}
            found = newest_decisions(scanner, wanted, surface) if wanted else recent_decisions(scanner, surface, count)
        except DecisionError as error:
            fail(f"A record on {topics.RANKINGS_LOG} cannot be used: {error}.")
        if not found:
            fail(f"There is no decision record of these users on {surface}: lists of the last day have one.")
        catalogue = read_catalogue(scanner)
    changed, skipped = [], []
    store = Bundles(bundles)
    for decision in found.values():
        try:
            changed.append(_changed(decision, first, second, catalogue, store))
        except (CannotReplay, BundleError) as error:
            skipped.append(str(error))
    if json:
        out.print_json(msgspec.json.encode({"lists": changed, "skipped": skipped}).decode())
        return
    out.print(_view(first, second, changed))
    for why in skipped:
        out.print(f"left out: {why}", markup=False)


def _read(file: Path, bundles: str) -> Policy:
    folder = Path(bundles) if bundles else SHIPPED
    try:
        policy = parse_policy(file.read_text(), file.name)
        tasks = read_manifest(folder / latest(folder)).tasks
        check_names(policy, sources=[*SOURCES, CALLER, PINNED_SOURCE], tasks=tasks)
    except (PolicyError, BundleError, UnicodeDecodeError) as error:
        fail(str(error))
    return policy


def _named(name: str, published: dict[str, Policy], bundles: str) -> Policy:
    if Path(name).is_file():
        return _read(Path(name), bundles)
    if name not in published:
        fail(f"{name} is neither a file nor a published version: there are {', '.join(published)}.")
    return published[name]


def read_catalogue(scanner: Scanner) -> dict[str, Item]:
    """The items by id, as they are now; what cannot be read is passed over."""
    found: dict[str, Item] = {}
    for record in scanner.everything(topics.ITEMS):
        try:
            item = decode_item(record.value) if record.value else None
        except (msgspec.DecodeError, UnicodeDecodeError):
            continue
        if item is None:
            found.pop((record.key or b"").decode(errors="replace"), None)
        else:
            found[item.item_id] = item
    return found


def _changed(decision: Decision, a: Policy, b: Policy, catalogue: dict[str, Item], store: Bundles) -> Changed:
    unavailable = {one.item_id for one in catalogue.values() if one.stock == 0}
    before, after = (
        store.with_policy(decision, World(unavailable, catalogue, policy=policy, seed=decision.seed))
        for policy in (a, b)
    )
    old, new = ([item.item_id for item in slate.items] for slate in (before, after))
    reasons = sorted({name for slate in (before, after) for name in slate.counts if name.startswith("removed_")})
    return Changed(
        decision.key.removeprefix("u:"),
        decision.list_id,
        sum(one != other for one, other in zip(old, new)) + abs(len(old) - len(new)),
        [one for one in new if one not in old],
        [one for one in old if one not in new],
        {name.removeprefix("removed_"): (before.counts.get(name, 0), after.counts.get(name, 0)) for name in reasons},
    )


def _view(a: Policy, b: Policy, changed: list[Changed]) -> Table:
    table = Table(title=Text(f"{b.version} against {a.version}, {len(changed)} lists"), title_justify="left")
    for name in ("user", "places changed", "new in the list", "gone", "taken out by rules"):
        table.add_column(name)
    for one in changed:
        rules = ", ".join(f"{name} {was} → {now}" for name, (was, now) in one.removed.items() if was != now)
        new, gone = (", ".join(ids[:5]) + (" …" if len(ids) > 5 else "") for ids in (one.items_new, one.items_gone))
        table.add_row(Text(one.user), str(one.places_changed), Text(new), Text(gone), rules or "the same")
    return table
