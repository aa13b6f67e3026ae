"""Off-policy evaluation on the project's own training rows, which carry the probability that each item had of being shown.

    training rows (parquet) ─ newest revision, window closed ─┐
    target's probabilities, per list and place ───────────────┴─► proof.off_policy

The target is a table of list_id, rank, item_id, probability: for each place of each list, every item that the target would show
there given the items placed above it, and with which probability. Two readings of a list (`SLATES`):

    independent  a place earns what it earns whatever stands above it; weight = target / logged of that place (Li and others 2018)
    cascade      it depends on what stands above it; weights multiply from the top down (McInerney and others 2020)

Rows of one user are resampled together. What has no known probability is not guessed: it refuses the whole.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from proof.off_policy import Floats, Ints, Logged, Report, evaluate, item_rates, refuse
from proof.row_files import cannot_be_read
from schemas.training import KINDS

SLATES = ("independent", "cascade")
_ROW_COLUMNS = ("row_id", "revision", "key", "list_id", "rank", "item_id")
_TARGET_COLUMNS = ("list_id", "rank", "item_id", "probability")
_SUMS_TO_ONE = 1e-3


class RowsError(ValueError):
    """Rows or targets that cannot be read; the message says which file and what to do."""


def evaluate_rows(
    folder: Path, target: Path, outcome: str, slate: str, clip: float | None, seed: int = 0
) -> tuple[Report, list[str]]:
    """The report and notes on what was left out. Raises RowsError."""
    if outcome not in KINDS:
        raise RowsError(f"Outcome {outcome} is unknown: it is {', '.join(KINDS)}.")
    rows, notes = read_rows(folder, outcome)
    if not rows.num_rows:
        return refuse("no_rows", f"No row whose window for {outcome} has closed."), notes
    return evaluate_tables(rows, read_target(target), outcome, slate, clip, seed), notes


def evaluate_tables(
    rows: pa.Table, target: pa.Table, outcome: str, slate: str, clip: float | None, seed: int = 0
) -> Report:
    """The report on rows as `read_rows` gives them. Raises RowsError where a place's probabilities do not sum to one."""
    count = rows.num_rows
    items, item_of = _codes(rows["item_id"], target["item_id"])
    places, place_of = _codes(_place(rows), _place(target))
    item, place = item_of[:count], place_of[:count]
    chance = np.asarray(target["probability"].cast(pa.float64()), dtype=np.float64)
    target_item, target_place = item_of[count:], place_of[count:]
    total = np.bincount(target_place, weights=chance, minlength=places)
    listed = np.bincount(target_place, minlength=places) > 0
    if not (np.isfinite(chance).all() and (chance >= 0).all()):
        raise RowsError("The target has a probability that is no number from 0 on.")
    off = np.flatnonzero(listed & (np.abs(total - 1) > _SUMS_TO_ONE))
    if len(off):
        at = target.slice(int(np.argmax(target_place == off[0])), 1).to_pylist()[0]
        raise RowsError(
            f"The target's probabilities sum to {total[off[0]]:.4f} at place {at['rank']} of list {at['list_id']} "
            f"(and {len(off) - 1} others); they must sum to 1."
        )
    unlisted = int(np.count_nonzero(~listed[place]))
    if unlisted:
        sentence = f"The target says nothing of {unlisted} of {count} shown places: list them, or leave out those rows."
        return refuse("unknown_target", sentence, count)
    reward = np.asarray(rows[outcome].cast(pa.float64()), dtype=np.float64)
    user = _codes(rows["key"])[1]
    of_shown = _of_shown(place, item, target_place, target_item, chance, items)
    model = item_rates(item, reward, user, items, seed)
    q_target = np.empty(count)
    for fold in range(len(model.rates)):
        by_place = np.bincount(target_place, weights=chance * model.rates[fold, target_item], minlength=places)
        chosen = model.fold == fold
        q_target[chosen] = by_place[place[chosen]]
    propensity = (
        np.asarray(rows["propensity"].cast(pa.float64()).fill_null(float("nan")), dtype=np.float64)
        if "propensity" in rows.column_names
        else np.full(count, np.nan)
    )
    if slate == "cascade":
        of_shown, propensity, above = _down_the_list(rows, of_shown, propensity)
        q_target = q_target * above
    # Which items the logs show at all says nothing here: a catalogue has more items than any log shows. The mean weight does.
    return evaluate(Logged(reward, propensity, of_shown, model.of(item), q_target, user), clip, seed)


def _of_shown(place: Ints, item: Ints, target_place: Ints, target_item: Ints, chance: Floats, items: int) -> Floats:
    """(n,) the target's probability of the item at its place; 0 where the target lists the place without the item."""
    wanted, listed = place * items + item, target_place * items + target_item
    order = np.argsort(listed, kind="stable")
    at = np.minimum(np.searchsorted(listed[order], wanted), len(listed) - 1)
    found = listed[order][at] == wanted
    return np.where(found, chance[order][at], 0.0)


def _down_the_list(rows: pa.Table, target: Floats, propensity: Floats) -> tuple[Floats, Floats, Floats]:
    """Products from the top of each list, NaN from the first place on of which no row tells; and the weight of the places above."""
    lists = _codes(rows["list_id"])[1]
    rank = np.asarray(rows["rank"].cast(pa.int64()), dtype=np.int64)
    order = np.lexsort((rank, lists))
    both = np.stack([target, propensity])[:, order]
    above = np.empty(len(order))
    previous, place, product, before = -1, 0, np.ones(2), np.ones(2)
    for column, (of_list, at) in enumerate(zip(lists[order], rank[order])):
        if of_list != previous:
            previous, place, product, before = of_list, 0, np.ones(2), np.ones(2)
        if at != place - 1:  # else an impression that came twice
            # A place that was never seen breaks the product.
            before, product = product, product * (both[:, column] if at == place else np.nan)
        place = int(at) + 1
        both[:, column] = product
        above[column] = before[0] / before[1]
    out, weight = np.empty_like(both), np.empty_like(above)
    out[:, order], weight[order] = both, above
    return np.nan_to_num(out[0]), out[1], np.nan_to_num(weight)


# ── files ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def read_rows(folder: Path, outcome: str) -> tuple[pa.Table, list[str]]:
    """The newest revision of each row whose window for the outcome has closed, or whose outcome is known. Raises RowsError."""
    place = folder / "rows" if (folder / "rows").is_dir() else folder
    try:
        data = ds.dataset(place, format="parquet", partitioning="hive", exclude_invalid_files=False)
        missing = [name for name in (*_ROW_COLUMNS, outcome) if name not in data.schema.names]
        if missing:
            raise RowsError(f"{place} holds no training rows: column {missing[0]} is missing.")
        known = [name for name in ("propensity", "fallback") if name in data.schema.names]
        table = data.to_table(columns=[*_ROW_COLUMNS, outcome, *known])
    except (pa.ArrowException, OSError) as error:
        raise RowsError(cannot_be_read(place, error)) from error
    if not table.num_rows:
        return table, ["No rows."]
    row, revision = _codes(table["row_id"])[1], np.asarray(table["revision"].cast(pa.int64()))
    order = np.lexsort((revision, row))
    last = np.append(np.diff(row[order]) != 0, True)
    newest = table.take(pa.array(np.sort(order[last])))
    closed = newest.filter(newest[outcome].is_valid())
    notes = [
        f"{newest.num_rows} exposures; {newest.num_rows - closed.num_rows} left out, whose window for {outcome} is still open."
    ]
    if "propensity" not in closed.column_names:
        notes.append("The rows carry no propensities: they were exported before lists had them.")
    return closed, notes


def read_target(path: Path) -> pa.Table:
    """Of a parquet or CSV file. Raises RowsError."""
    try:
        table = pq.read_table(path) if path.suffix == ".parquet" else pc.read_csv(path)
    except (pa.ArrowException, OSError) as error:
        raise RowsError(f"{path} cannot be read as a target: {str(error).splitlines()[0]} Write it again.") from error
    missing = [name for name in _TARGET_COLUMNS if name not in table.column_names]
    if missing:
        raise RowsError(f"{path} has no column {missing[0]}: a target has {', '.join(_TARGET_COLUMNS)}.")
    if not table.num_rows:
        raise RowsError(f"{path} holds no rows.")
    return table.select(list(_TARGET_COLUMNS))


def _place(table: pa.Table) -> pa.ChunkedArray:
    lists, ranks = table["list_id"].cast(pa.string()).to_pylist(), table["rank"].cast(pa.int64()).to_pylist()
    return pa.chunked_array([[f"{one}\0{rank}" for one, rank in zip(lists, ranks)]])


def _codes(*columns: Any) -> tuple[int, npt.NDArray[np.int64]]:
    """How many different values there are, and their numbers, all columns one after the other."""
    chunks = [chunk for column in columns for chunk in column.cast(pa.string()).chunks]
    encoded = pa.chunked_array(chunks, type=pa.string()).combine_chunks().dictionary_encode()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.combine_chunks()
    return len(encoded.dictionary), np.asarray(encoded.indices, dtype=np.int64)
