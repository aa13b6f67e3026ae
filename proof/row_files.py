"""Which of a folder's parquet files cannot be read: an estimate on the rest would be of other exposures than were asked for."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

_NAMED = 3  # damaged files in a message


def cannot_be_read(place: Path, error: Exception) -> str:
    """The sentence for a folder of training rows that pyarrow stopped at: how many of its files are damaged, the first by name,
    and what to do."""
    first = str(error).splitlines()[0]
    files = [place] if place.is_file() else [path for path in sorted(place.rglob("*")) if _is_read(path, place)]
    damaged = [f"{path.relative_to(place.parent)} ({why})" for path in files if (why := _damage(path)) is not None]
    if not damaged:
        return f"{place} cannot be read as training rows: {first}"
    exported = place.parent if place.name == "rows" else place
    more = f" and {len(damaged) - _NAMED} more" if len(damaged) > _NAMED else ""
    return (
        f"{place}: {len(damaged)} of {len(files)} files cannot be read: {', '.join(damaged[:_NAMED])}{more}. "
        f"`riffle training-rows check {exported} --repair` puts them aside, and the next export writes them again; or take "
        "them out of the folder, and do without their rows."
    )


def _is_read(path: Path, place: Path) -> bool:
    """As pyarrow.dataset passes over what begins with a dot or an underscore."""
    return path.is_file() and not any(part[0] in "._" for part in path.relative_to(place).parts)


def _damage(path: Path) -> str | None:
    """Why the file cannot be read; None where it can, to its end."""
    try:
        with pq.ParquetFile(path) as file:
            for _ in file.iter_batches():
                pass
    except (pa.ArrowException, OSError) as error:
        return str(error).splitlines()[0].rstrip(".")
    return None
