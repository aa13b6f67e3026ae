"""Per-unit metrics of experiments: from JSON lines, or made of training rows.

Training rows know exposures, clicks and carts; of sessions, revenue and latency they do not tell, so those metrics are left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds

from proof.row_files import cannot_be_read
from schemas.experiment_metrics import UnitMetrics, decode_unit
from schemas.experiments import CROSSED, Experiment

_DAY_MS = 86_400_000


class UnitsError(ValueError):
    """Data that cannot be read; the message says where and what is wrong."""


def read_units(path: Path) -> list[UnitMetrics]:
    """JSON lines of UnitMetrics. Raises UnitsError naming the line."""
    found = []
    try:
        with path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    found.append(_unit(path, number, line))
    except OSError as error:
        raise UnitsError(f"{path} cannot be read: {error.strerror}.") from error
    return found


def _unit(path: Path, number: int, line: bytes) -> UnitMetrics:
    try:
        return decode_unit(line)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UnitsError(f"{path}, line {number}: {error}.") from error


def units_of_rows(folder: Path, of: Experiment) -> Iterator[UnitMetrics]:
    """Of training rows as `riffle training-rows export` writes them, one record per exposure. Raises UnitsError.

    Rows whose click window is open are left out: a young exposure would count as one without a click.
    """
    columns = ["row_id", "revision", "key", "surface", "shown", "arms", "click", "cart"]
    place = folder / "rows" if (folder / "rows").is_dir() else folder
    try:
        table = ds.dataset(place, format="parquet", partitioning="hive").to_table(columns=columns)
    except (pa.ArrowException, OSError) as error:
        raise UnitsError(cannot_be_read(place, error)) from error
    start_ms = _ms(of.start)
    newest: dict[str, int] = {}
    revisions = np.asarray(table["revision"])
    for row, name in enumerate(table["row_id"].to_pylist()):
        if name not in newest or revisions[row] > revisions[newest[name]]:
            newest[name] = row
    for one in table.take(pa.array(sorted(newest.values()), pa.int64())).to_pylist():
        arms = dict(one["arms"] or [])
        if of.name not in arms or one["click"] is None or not of.start <= one["shown"] < of.end:
            continue
        yield UnitMetrics(
            experiment=of.name,
            arm=arms[of.name],
            unit=one["key"],
            day=(_ms(one["shown"]) - start_ms) // _DAY_MS,
            surface=one["surface"],
            exposures=1,
            clicks=int(one["click"]),
            carts=int(bool(one["cart"])),
            crossed=CROSSED in arms,
        )


def _ms(at: datetime) -> int:
    return int(at.timestamp() * 1000)
