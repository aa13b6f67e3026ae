"""docs/features-list.md and schemas/features.lock, written from schemas/features.toml.

python -m schemas.features_page      writes them; tests/unit/test_features.py fails where they are out of date
"""

from __future__ import annotations

import sys
from pathlib import Path

from schemas.features import DEFINITIONS, LOCK, RECORD_COMMAND, Feature, FeatureError, Registry, parse, recorded_lock

PAGE = Path(__file__).resolve().parents[1] / "docs" / "features-list.md"

_ENTITIES = {
    "item": "Items",
    "user": "Users",
    "user_item": "A user and an item",
    "user_group": "A user and an item's group",
    "context": "The request",
}
_HEAD = f"""# Features

Every feature, from [schemas/features.toml](../schemas/features.toml) by `{RECORD_COMMAND}`: edit there, not here. How to
add one: [features.md](features.md). A value that is missing or older than its time to live is served as the default, and
counted.
"""


def page(loaded: Registry) -> str:
    """The page, the same text on every run."""
    parts = [_HEAD]
    for entity, title in _ENTITIES.items():
        rows = [_row(one) for one in loaded.features if one.entity == entity]
        parts.append(
            "\n".join(
                [
                    f"## {title}",
                    "",
                    "| Feature | Type | From | Window | Kept | Default | Made by | Owner | Says |",
                    "|---|---|---|---|---|---|---|---|---|",
                    *rows,
                    "",
                ]
            )
        )
    return "\n".join(parts)


def _row(one: Feature) -> str:
    shape = f" × {' × '.join(map(str, one.shape))}" if one.shape else ""
    sources = ", ".join(f"`{source}`" for source in one.sources) or "–"
    default = f"`{one.default!r}`" if one.default != "" else "none"
    cells = [
        f"`{one.id}`",
        one.type + shape,
        sources,
        one.window,
        one.ttl,
        default,
        one.made_by,
        one.owner,
        one.description,
    ]
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def main() -> None:
    """Record what is new and write the page, or end with the sentence that says what is wrong."""
    try:
        loaded = parse(DEFINITIONS.read_text())
        lock = recorded_lock(loaded, LOCK.read_text() if LOCK.exists() else "")
    except FeatureError as error:
        sys.exit(str(error))
    LOCK.write_text(lock)
    PAGE.write_text(page(loaded))
    sys.stdout.write(f"{len(loaded.features)} features written to {LOCK} and {PAGE}\n")


if __name__ == "__main__":
    main()
