"""riffle dead-letters: what was rejected, why, and putting it back once it is repaired."""

from __future__ import annotations

import sys
from datetime import datetime, timezone
from itertools import islice
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.table import Table
from rich.text import Text

from cli.connecting import connections, err, fail, out, plainly
from client.dead_letters import DeadLetter, find_letter, letters, printable, repaired
from client.errors import InvalidArgument, InvalidEvent
from client.replay import Replayer
from client.scan import Limits, Scanner
from schemas.connections import Connections

app = typer.Typer(help="Rejected records: list them, look at one, put it back after a fix.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Reason = Annotated[str | None, typer.Option(help="Only this reason code, such as missing_field.")]
Limit = Annotated[float, typer.Option("--limit-s", help="How long to read.", min=1)]
Name = Annotated[str, typer.Argument(metavar="LETTER", help="<partition>:<offset>, as `list` prints it.")]


@app.command("list")
def list_letters(
    reason: Reason = None,
    contains: Annotated[str | None, typer.Option(help="Only where the original contains this text.")] = None,
    count: Annotated[int, typer.Option("-n", help="How many at most.", min=1)] = 20,
    limit_s: Limit = 30.0,
    json: Json = False,
) -> None:
    """List dead letters, roughly newest first.

    Example:

        riffle dead-letters list --reason missing_field -n 50
    """
    with plainly(), _scanner(connections(), limit_s) as scanner:
        wanted = contains.encode(errors="surrogateescape") if contains else None
        found = list(islice(letters(scanner, reason, wanted), count))
        unfinished = bool(scanner.cut_short)
    if json:
        out.print_json(msgspec.json.encode([_plain(letter) for letter in found]).decode())
    else:
        table = Table("letter", "rejected", "reason", "detail", "original")
        for letter in found:
            texts = (letter.name, _when(letter.append_ms), letter.reason, letter.detail)
            table.add_row(*(Text(printable(text.encode(), 200)) for text in texts), Text(printable(letter.value, 60)))
        out.print(table)
    if unfinished:
        err.print("The time limit ended the search: there may be more.")


@app.command()
def show(
    name: Name,
    raw: Annotated[
        bool, typer.Option("--raw", help="Write the original bytes to standard output, and nothing else.")
    ] = False,
    json: Json = False,
) -> None:
    """Show why one record was rejected, and the original, escaped so that it cannot harm a terminal.

    Examples:

        riffle dead-letters show 3:17

        riffle dead-letters show 3:17 --raw > fixed.json
    """
    with plainly(), _scanner(connections(), 30.0) as scanner:
        letter = _find(scanner, name)
    if raw:
        sys.stdout.buffer.write(letter.value)
        return
    if json:
        out.print_json(msgspec.json.encode(_plain(letter)).decode())
        return
    stood = f"{letter.origin_topic} {letter.origin_partition}:{letter.origin_offset}"
    for title, text in (
        ("reason", letter.reason),
        ("detail", letter.detail),
        ("stood on", f"{stood}, appended {_when(letter.origin_append_ms)}"),
        ("rejected", _when(letter.append_ms)),
        ("key", letter.key),
    ):
        out.print(f"{title:<9}{printable(text.encode())}", markup=False, highlight=False, soft_wrap=True)
    out.print("original", markup=False)
    out.print(printable(letter.value, 64 * 1024), markup=False, highlight=False, soft_wrap=True)


@app.command()
def replay(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[LETTER]...", help="Which; or --reason for all of a kind.")
    ] = None,
    fix: Annotated[
        str | None, typer.Option(help="A file with the repaired JSON of one letter, or - for standard input.")
    ] = None,
    reason: Reason = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be put back.")] = False,
    limit_s: Limit = 60.0,
    json: Json = False,
) -> None:
    """Put dead letters back on `events`, with the place and time of the original, so that lateness is judged by those.

    With --fix the repaired JSON is sent; without, the original, for when the engine was fixed. What would be rejected
    again is not sent. Replaying twice is harmless: the second is dropped as a duplicate.

    Examples:

        riffle dead-letters replay 3:17 --fix fixed.json

        riffle dead-letters replay --reason unknown_version
    """
    with plainly():
        if bool(names) == bool(reason):
            raise InvalidArgument("Name the letters to replay, or the --reason of all of them: one of the two.")
        if fix is not None and len(names or ()) != 1:
            raise InvalidArgument("--fix repairs one letter: name exactly one.")
        fixed = None if fix is None else _read(fix)
        where = connections()
        with _scanner(where, limit_s) as scanner:
            chosen = [_find(scanner, name) for name in names] if names else list(letters(scanner, reason))
            unfinished = bool(scanner.cut_short)
        refused = _replay(where, chosen, fixed, dry_run=dry_run)
    done = len(chosen) - len(refused)
    if json:
        out.print_json(msgspec.json.encode({"replayed": done, "refused": refused}).decode())
    else:
        out.print(f"{done} {'would be ' if dry_run else ''}put back on events, {len(refused)} refused.")
        for sentence in list(refused.values())[:20]:
            err.print(printable(sentence.encode()), markup=False, highlight=False, soft_wrap=True)
    if unfinished:
        fail("The time limit ended the search before all were found: run it again with a longer --limit-s.")
    if refused:
        raise typer.Exit(1)


def _replay(where: Connections, chosen: list[DeadLetter], fixed: bytes | None, *, dry_run: bool) -> dict[str, str]:
    """Send what can be sent; the refused by name, with the reason."""
    records, refused = [], {}
    for letter in chosen:
        try:
            records.append(repaired(letter, fixed))
        except (InvalidEvent, InvalidArgument) as error:
            refused[letter.name] = str(error)
    if records and not dry_run:
        with Replayer(where) as replayer:
            replayer.put_back(records)
    return refused


def _find(scanner: Scanner, name: str) -> DeadLetter:
    letter = find_letter(scanner, name)
    if letter is None:
        raise InvalidArgument(f"There is no dead letter {name}: it never was, or is older than events-dlq keeps.")
    return letter


def _scanner(where: Connections, limit_s: float) -> Scanner:
    return Scanner(where, Limits(seconds=limit_s))


def _plain(letter: DeadLetter) -> dict[str, object]:
    """As JSON: the original as text where it is UTF-8, and always as base64."""
    found = msgspec.to_builtins(letter)
    try:
        text: str | None = letter.value.decode()
    except UnicodeDecodeError:
        text = None
    value = found.pop("value")
    return {"letter": letter.name, **found, "value_text": text, "value_base64": value}


def _read(fix: str) -> bytes:
    try:
        return sys.stdin.buffer.read() if fix == "-" else Path(fix).read_bytes()
    except OSError as error:
        raise InvalidArgument(f"{fix} cannot be read: {error.strerror}.") from error


def _when(ms: int | None) -> str:
    return (
        "unknown"
        if ms is None
        else datetime.fromtimestamp(ms / 1000, tz=timezone.utc).isoformat(timespec="milliseconds")
    )
