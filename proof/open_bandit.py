"""Open Bandit files: logs of a fashion shop's two policies, with propensities (Saito and others 2021, arXiv:2008.07146).

    <logs>_<campaign>_<campaign>.csv[.gz]  or  <logs>/<campaign>/<campaign>.csv[.gz]    item_id, position, click, propensity_score
    … item_context.csv[.gz] beside it                                                   one row per item: how many there are

Target `uniform` shows every item with the same probability. Target `bts` is Thompson sampling as it was run: on its own logs its
probabilities are those logged. On the random logs they are not known, and are estimated as how often the `bts` file shows each item
at each position. The mean of the logged propensities would be too high for what was shown while it was likely.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.csv as pc

from proof.off_policy import Floats, Ints, Logged, Report, evaluate, item_rates, refuse

LOGS = ("bts", "random")
TARGETS = ("uniform", "bts")
_NEEDED = ("item_id", "click")
_COLUMNS = (*_NEEDED, "propensity_score", "position")


class FileError(ValueError):
    """A file that is missing or cannot be read as Open Bandit data; the message says what and where."""


class Impressions(NamedTuple):
    """Rows of one file, (n,) each. `item` counts from 0; `position` is an index into the positions that occur."""

    item: Ints
    position: Ints
    click: Floats
    propensity: Floats  # NaN where it is missing or no number
    items: int  # how many there are to show, shown or not
    positions: tuple[str, ...]
    notes: list[str]


class Answer(NamedTuple):
    """`reference`: mean click of the target's own logs, where they are in the folder: what the estimate should come near."""

    report: Report
    reference: float | None
    notes: list[str]


def evaluate_files(folder: Path, campaign: str, logs: str, target: str, clip: float | None, seed: int = 0) -> Answer:
    """Raises FileError."""
    shown = read(folder, logs, campaign)
    own = "random" if target == "uniform" else "bts"
    measured = shown if own == logs else _read_where_present(folder, own, campaign)
    reference = float(measured.click.mean()) if measured is not None and len(measured.click) else None
    notes = list(shown.notes)
    if not len(shown.item):
        return Answer(refuse("no_rows", "The logs hold no rows."), reference, notes)
    bad = int(np.count_nonzero(~np.isfinite(shown.click)))
    if bad:
        sentence = f"{bad} of {len(shown.click)} rows have no number as click: mend the file."
        return Answer(refuse("unreadable_rewards", sentence, len(shown.click)), reference, notes)
    if target == "bts" and logs != "bts":
        if measured is None:
            raise FileError(
                f"Target bts on {logs} logs needs the file bts_{campaign}_{campaign}.csv in {folder} as well: "
                "its propensities are estimated from it."
            )
        notes.append(
            f"The probabilities of bts are estimated: how often each item is shown at each position of {len(measured.item)} rows."
        )
        logged = _towards_estimated(shown, measured, seed)
    else:
        logged = _towards_known(shown, target, seed)
    return Answer(evaluate(logged, clip, seed), reference, notes)


def _towards_known(shown: Impressions, target: str, seed: int) -> Logged:
    """Target uniform, or bts on its own logs."""
    model = item_rates(shown.item, shown.click, np.arange(len(shown.item)), shown.items, seed)
    q_shown = model.of(shown.item)
    seen = np.bincount(shown.item, minlength=shown.items) > 0
    if target == "uniform":
        chances = np.full((1, shown.items), 1.0 / shown.items)
        return Logged(
            shown.click,
            shown.propensity,
            np.full(len(shown.item), 1.0 / shown.items),
            q_shown,
            model.over(chances)[model.fold, 0],
            np.arange(len(shown.item)),
            unseen=float(1.0 - seen.mean()),
        )
    # What bts would have shown instead is not logged: the model adds nothing, and every weight is 1.
    return Logged(shown.click, shown.propensity, shown.propensity, q_shown, q_shown, np.arange(len(shown.item)))


def _towards_estimated(shown: Impressions, other: Impressions, seed: int) -> Logged:
    """Target: the policy of `other`, by how often it shows each item at each position."""
    places = list(dict.fromkeys((*shown.positions, *other.positions)))
    items = max(shown.items, other.items)
    ours, theirs = (np.array([places.index(name) for name in one.positions], dtype=np.int64) for one in (shown, other))
    at, other_at = ours[shown.position], theirs[other.position]
    counts = np.bincount(other_at * items + other.item, minlength=len(places) * items).reshape(len(places), items)
    of_place = counts.sum(axis=1, keepdims=True)
    chances = counts / np.maximum(of_place, 1)  # (places, items)
    rows = np.bincount(at, minlength=len(places))
    seen = np.bincount(at * items + shown.item, minlength=len(places) * items).reshape(chances.shape) > 0
    # A position that the other file does not have is unseen as a whole.
    unseen = np.where(of_place[:, 0] > 0, (chances * ~seen).sum(axis=1), 1.0) @ rows / rows.sum()
    model = item_rates(shown.item, shown.click, np.arange(len(at)), items, seed)
    return Logged(
        shown.click,
        shown.propensity,
        chances[at, shown.item],
        model.of(shown.item),
        model.over(chances)[model.fold, at],
        np.arange(len(at)),
        unseen=float(unseen),
        target_error=_target_error(chances, of_place[:, 0], rows / rows.sum(), model.rates.mean(axis=0)),
    )


def _target_error(chances: Floats, rows: Ints, share: Floats, rates: Floats) -> float:
    """Delta method: per position, the variance of an item's rate under the target, over the rows that its chances come from."""
    mean = chances @ rates
    variance = chances @ np.square(rates) - np.square(mean)
    return float(np.sqrt(np.sum(np.square(share) * variance / np.maximum(rows, 1))))


# ── files ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def read(folder: Path, logs: str, campaign: str) -> Impressions:
    """One file. Raises FileError."""
    path = _find(folder, logs, campaign)
    table = _table(path)
    missing = [name for name in _NEEDED if name not in table.column_names]
    if missing:
        raise FileError(
            f"{path} has no column {' and no column '.join(missing)} (it has {', '.join(map(str, table.column_names[:8]))} …): "
            "it is no Open Bandit file of impressions."
        )
    notes: list[str] = []
    item = _numbers(table["item_id"])
    whole = np.isfinite(item) & (item >= 0) & (item == np.floor(item))
    if not whole.all():
        raise FileError(
            f"{path}: item_id is no number from 0 on in {np.count_nonzero(~whole)} rows, "
            f"first in data row {int(np.argmin(whole)) + 1}."
        )
    items = _items(path, item, notes)
    propensity = np.full(len(item), np.nan)
    if "propensity_score" in table.column_names:
        propensity = _numbers(table["propensity_score"])
    else:
        notes.append(f"{path.name} has no column propensity_score.")
    position = np.zeros(len(item), dtype=np.int64)
    positions: tuple[str, ...] = ("all",)
    if "position" in table.column_names:
        named = table["position"].cast(pa.string()).fill_null("").combine_chunks().dictionary_encode()
        positions, position = tuple(named.dictionary.to_pylist()), np.asarray(named.indices, dtype=np.int64)
    return Impressions(item.astype(np.int64), position, _numbers(table["click"]), propensity, items, positions, notes)


def _read_where_present(folder: Path, logs: str, campaign: str) -> Impressions | None:
    return read(folder, logs, campaign) if any(path.is_file() for path in _places(folder, logs, campaign)) else None


def _places(folder: Path, logs: str, campaign: str) -> list[Path]:
    names = (f"{logs}_{campaign}_{campaign}.csv", f"{logs}/{campaign}/{campaign}.csv", f"{logs}_{campaign}.csv")
    return [folder / f"{name}{ending}" for name in names for ending in ("", ".gz")]


def _find(folder: Path, logs: str, campaign: str) -> Path:
    if not folder.is_dir():
        raise FileError(f"{folder} is no folder.")
    places = _places(folder, logs, campaign)
    for path in places:
        if path.is_file():
            return path
    raise FileError(
        f"{folder} has no logs of {logs} for campaign {campaign}: "
        f"looked for {', '.join(str(path.relative_to(folder)) for path in places)}."
    )


def _table(path: Path) -> pa.Table:
    try:
        with pc.open_csv(path) as reader:
            names = reader.schema.names
        wanted = [name for name in names if name in _COLUMNS]
        if not wanted:
            return pa.table({name: [] for name in names})
        return pc.read_csv(path, convert_options=pc.ConvertOptions(include_columns=wanted))
    except (pa.ArrowInvalid, OSError, EOFError) as error:
        raise FileError(f"{path} cannot be read as CSV: {str(error).splitlines()[0]}") from error


def _items(path: Path, item: Floats, notes: list[str]) -> int:
    """How many items there are: by the item context, else by the columns of affinities, else by what was shown."""
    highest = int(item.max(initial=-1)) + 1
    stem = path.name.partition(".")[0]
    logs, _, campaign = stem.partition("_")
    names = (f"{logs}_{campaign.partition('_')[0]}_item_context.csv", "item_context.csv")
    for context in (path.parent / f"{name}{ending}" for name in names for ending in ("", ".gz")):
        if context.is_file():
            listed = _context_items(context)
            if highest > listed:
                raise FileError(f"{path} shows item {highest - 1}, and {context.name} lists {listed} items only.")
            return listed
    affinities = sum(name.startswith("user-item_affinity_") for name in _header(path))
    if affinities >= highest and affinities:
        return affinities
    notes.append(f"No item context beside {path.name}: taken are the {highest} items up to the highest number shown.")
    return highest


def _header(path: Path) -> list[str]:
    with pc.open_csv(path) as reader:
        return [str(name) for name in reader.schema.names]


def _context_items(path: Path) -> int:
    try:
        return int(pc.read_csv(path).num_rows)
    except (pa.ArrowInvalid, OSError, EOFError) as error:
        raise FileError(f"{path} cannot be read as CSV: {str(error).splitlines()[0]}") from error


def _numbers(column: Any) -> Floats:
    """As floats; NaN for what is empty or no number."""
    if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
        if pa.types.is_boolean(column.type):
            column = column.cast(pa.int8())
        else:
            return np.array([_number(value) for value in column.to_pylist()], dtype=np.float64)
    return np.asarray(column.cast(pa.float64()).fill_null(float("nan")).to_numpy(), dtype=np.float64)


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return float("nan")
