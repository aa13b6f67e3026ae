"""The row of counters that item-aggregates writes, packed: one for each item, and for each group and context they add up to.

    version u8 │ state_epoch u64 │ row_no u64 │ window_end_ms i64 │ one u32 a column │ subcategory │ category

Little endian, no gaps. The columns are the registry's (Registry.item_columns), in its order. The two names are a length byte
and that many bytes of UTF-8; length 0 is none, as in every row that is no item's. Windows end at `window_end_ms`, the end of
a 5-minute slice.

    topic `item-features`   key  v<version>|<level>|<name>          value  the row; none once nothing is left to count
    Redis                   see redis_layout
"""

from __future__ import annotations

import struct
from typing import Literal, NamedTuple, get_args

from schemas.features import Registry, registry

Level = Literal["item", "subcategory", "category", "surface", "all", "device", "geo", "hour"]
LEVELS: tuple[str, ...] = get_args(Level)

_U32_MAX = 2**32 - 1
_FIXED = "<BQQq"  # then the columns


class RowError(ValueError):
    """Bytes that are no row of this release's version."""


class RowKey(NamedTuple):
    """What a row counts: an item, a group of items, or a context; `all` has the name ""."""

    level: str
    name: str

    def __str__(self) -> str:
        return f"{self.level}|{self.name}"


ALL = RowKey("all", "")


class ItemRow(NamedTuple):
    """Counts in the order of the registry's columns. (state_epoch, row_no) orders the rows of one key."""

    state_epoch: int
    row_no: int
    window_end_ms: int
    counts: tuple[int, ...]
    subcategory: str | None = None
    category: str | None = None


class RowCodec:
    """Packs and unpacks the rows of one registry; `columns` names its features."""

    def __init__(self, features: Registry) -> None:
        self.version = features.item_row
        self.columns = tuple(one.name for one in features.item_columns())
        self.ids = tuple(one.id for one in features.item_columns())
        # A format and no Struct: operators travel pickled.
        self._format = f"{_FIXED}{len(self.ids)}I"
        self.fixed_size = struct.calcsize(
            self._format
        )  # bytes before the two names: what numpy can read many of at once

    def encode(self, row: ItemRow) -> bytes:
        """A count above 2³² - 1 stays there."""
        if len(row.counts) != len(self.ids):
            raise ValueError(f"a row has {len(self.ids)} columns, not {len(row.counts)}")
        counts = [min(count, _U32_MAX) for count in row.counts]
        fixed = struct.pack(self._format, self.version, row.state_epoch, row.row_no, row.window_end_ms, *counts)
        return fixed + _text(row.subcategory) + _text(row.category)

    def decode(self, raw: bytes) -> ItemRow:
        """Raises RowError."""
        if not raw or raw[0] != self.version:
            raise RowError(
                f"the row has version {raw[0] if raw else 'none'}; this release reads version {self.version}"
            )
        if len(raw) < self.fixed_size + 2:
            raise RowError(f"the row has {len(raw)} bytes; it needs at least {self.fixed_size + 2}: it was cut off")
        _, state_epoch, row_no, window_end_ms, *counts = struct.unpack_from(self._format, raw)
        subcategory, at = _read_text(raw, self.fixed_size)
        category, at = _read_text(raw, at)
        if at != len(raw):
            raise RowError(f"the row has {len(raw)} bytes, and its parts {at}")
        return ItemRow(state_epoch, row_no, window_end_ms, tuple(counts), subcategory, category)

    def record_key(self, key: RowKey) -> bytes:
        return f"v{self.version}|{key}".encode()

    def row_key(self, record_key: bytes | None) -> RowKey | None:
        """What a record of the topic counts; None where it is of another version: two may live side by side.

        Raises RowError for what is no key at all.
        """
        try:
            version, level, name = (record_key or b"").decode().split("|", 2)
        except ValueError as error:  # UnicodeDecodeError as well
            raise RowError("the record's key is not v<version>|<level>|<name>") from error
        if level not in LEVELS or not version.startswith("v"):
            raise RowError("the record's key is not v<version>|<level>|<name>")
        return RowKey(level, name) if version == f"v{self.version}" else None


def row_codec() -> RowCodec:
    """The codec of this release's registry."""
    return RowCodec(registry())


def _text(value: str | None) -> bytes:
    raw = (value or "").encode()
    return bytes([len(raw)]) + raw


def _read_text(raw: bytes, at: int) -> tuple[str | None, int]:
    if at >= len(raw):
        raise RowError("the row ends before its names: it was cut off")
    end = at + 1 + raw[at]
    try:
        return raw[at + 1 : end].decode() or None, end
    except UnicodeDecodeError as error:
        raise RowError("a name of the row is not UTF-8") from error
