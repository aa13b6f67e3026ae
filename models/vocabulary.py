"""Vocabulary: ids of the stream to rows of a bundle's tables, with the cold-start chain.

    row 0        padding
    row 1        global: stands in for what is not known at all
    rows 2 ..    categories, then subcategories, then items

An unknown item goes down the chain item → subcategory → category → global (SPEC R12). Follow targets go to the row of
what they name; search queries to the subcategory that their words name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from schemas.items import Item
from schemas.user_state import QUERY_MARK, TARGET_MARK

Rows = npt.NDArray[np.int32]
# What the shop says about an item the bundle does not know: (subcategory, category), either may be None.
Describe = Callable[[str], "tuple[str | None, str | None] | None"]

PADDING, GLOBAL = 0, 1
LEVELS = ("item", "subcategory", "category", "global")

# A title's word names a subcategory when this share of its uses is there.
_WORD_SHARE = 0.6
_LONGEST_PHRASE = 3
_KNOWN_QUERIES = 4_096


class VocabularyData(msgspec.Struct, frozen=True):
    """What is stored: names in order of row. `category_of` holds category numbers, `subcategory_of` subcategory numbers."""

    categories: list[str]
    subcategories: list[str]
    category_of: list[int]  # per subcategory
    items: list[str]
    subcategory_of: list[int]  # per item
    lexicon: dict[str, int]  # phrase of a query -> row


class Vocabulary:
    """Rows by id. Lookups are dictionary reads: 0.1 µs each."""

    def __init__(self, data: VocabularyData) -> None:
        self.data = data
        n_categories, n_subcategories = len(data.categories), len(data.subcategories)
        self.first_subcategory = 2 + n_categories
        self.first_item = self.first_subcategory + n_subcategories
        self.size = self.first_item + len(data.items)
        self.ids: list[str] = ["<padding>", "<global>", *data.categories, *data.subcategories, *data.items]
        self._items = {item_id: self.first_item + number for number, item_id in enumerate(data.items)}
        # A subcategory wins where it and a category share their name.
        self._targets = {name: 2 + number for number, name in enumerate(data.categories)}
        self._targets |= {name: self.first_subcategory + number for number, name in enumerate(data.subcategories)}
        self._queries: dict[str, int] = {}
        of_item = np.array(data.subcategory_of, dtype=np.int32)
        category_of = np.array(data.category_of, dtype=np.int32)
        # (size,) the row of each row's subcategory and category; PADDING where it has none
        self.subcategory_row = np.zeros(self.size, dtype=np.int32)
        self.subcategory_row[self.first_subcategory : self.first_item] = np.arange(
            self.first_subcategory, self.first_item
        )
        self.subcategory_row[self.first_item :] = self.first_subcategory + of_item
        self.category_row = np.zeros(self.size, dtype=np.int32)
        self.category_row[2 : self.first_subcategory] = np.arange(2, self.first_subcategory)
        self.category_row[self.first_subcategory : self.first_item] = 2 + category_of
        self.category_row[self.first_item :] = 2 + category_of[of_item]
        # (size,) the group that speaks for a row: its subcategory, else its category
        self.group_row = np.where(self.subcategory_row > 0, self.subcategory_row, self.category_row)
        # (rows before the first item, rows before the first subcategory) 1 where a group is of the category, or is it
        groups = self.category_row[: self.first_item, None] == np.arange(self.first_subcategory)[None, :]
        self.in_category = (groups & (np.arange(self.first_subcategory) > GLOBAL)).astype(np.float32)

    def row(self, token: str, describe: Describe | None = None) -> int:
        """The row of an item id, follow target or query; never PADDING."""
        found = self._items.get(token)
        if found is not None:
            return found
        mark = token[:1]
        if mark == TARGET_MARK:
            return self._targets.get(token[1:], GLOBAL)
        if mark == QUERY_MARK:
            return self._query_row(token[1:])
        known = describe(token) if describe is not None else None
        if known is None:
            return GLOBAL
        return self.group_of(*known)

    def group_of(self, subcategory: str | None, category: str | None) -> int:
        """The row that stands in for an unknown item of these groups."""
        return self._targets.get(subcategory or "") or self._targets.get(category or "") or GLOBAL

    def unknown(self, tokens: Iterable[str]) -> list[str]:
        """Those that are ids of items without a row."""
        known = self._items
        return [one for one in tokens if one not in known and one[:1] not in (TARGET_MARK, QUERY_MARK)]

    def rows(self, tokens: Iterable[str], describe: Describe | None = None) -> Rows:
        """(n,) rows of ids, one each."""
        found = list(map(self._items.get, listed := list(tokens)))
        if None in found:
            found = [self.row(token, describe) if row is None else row for row, token in zip(found, listed)]
        return np.array(found, dtype=np.int32)

    def speak_for_groups(self, vectors: npt.NDArray[Any]) -> None:
        """Of (rows, …), in place: the row of a subcategory or category, and the global one, get the mean of their items, and
        padding zeros. What stands in for an unknown item is an average one of its group (SPEC R12)."""
        items = vectors[self.first_item :]
        for groups in (self.subcategory_row[self.first_item :], self.category_row[self.first_item :]):
            for row in np.unique(groups).tolist():
                vectors[row] = items[groups == row].mean(axis=0)
        vectors[1] = items.mean(axis=0)
        vectors[0] = 0

    def is_item(self, row: int) -> bool:
        return row >= self.first_item

    def level(self, row: int) -> str:
        """Which level of the cold-start chain the row is: one of LEVELS."""
        if row >= self.first_item:
            return "item"
        return "subcategory" if row >= self.first_subcategory else "category" if row > GLOBAL else "global"

    def _query_row(self, query: str) -> int:
        known = self._queries.get(query)
        if known is None:
            known = _longest_phrase(words_of(query), self.data.lexicon)
            if len(self._queries) >= _KNOWN_QUERIES:
                self._queries.clear()
            self._queries[query] = known
        return known


def words_of(text: str) -> list[str]:
    """Lower-case words of letters and digits: `Running-Shoes!` and `running shoes` are the same."""
    return "".join(char if char.isalnum() else " " for char in text.casefold()).split()


def _longest_phrase(words: Sequence[str], lexicon: dict[str, int]) -> int:
    for length in range(min(_LONGEST_PHRASE, len(words)), 0, -1):
        for start in range(len(words) - length + 1):
            row = lexicon.get(" ".join(words[start : start + length]))
            if row is not None:
                return row
    return GLOBAL


def build_vocabulary(items: Iterable[Item]) -> Vocabulary:
    """From a catalogue. An item without a subcategory gets one named like its category, else `other`."""
    category_no: dict[str, int] = {}
    subcategory_no: dict[str, int] = {}
    category_of: list[int] = []
    ids: list[str] = []
    subcategory_of: list[int] = []
    uses: dict[str, dict[int, int]] = {}
    for item in items:
        category = item.category or "other"
        subcategory = item.subcategory or category
        if subcategory not in subcategory_no:
            subcategory_no[subcategory] = len(subcategory_no)
            category_of.append(category_no.setdefault(category, len(category_no)))
        number = subcategory_no[subcategory]
        ids.append(item.item_id)
        subcategory_of.append(number)
        for word in set(words_of(item.title or "")):
            counts = uses.setdefault(word, {})
            counts[number] = counts.get(number, 0) + 1
    first_subcategory = 2 + len(category_no)
    lexicon: dict[str, int] = {}
    for word, counts in uses.items():
        number = max(counts, key=counts.__getitem__)
        if counts[number] >= _WORD_SHARE * sum(counts.values()):
            lexicon[word] = first_subcategory + number
    lexicon |= {" ".join(words_of(name)): 2 + number for name, number in category_no.items()}
    lexicon |= {" ".join(words_of(name)): first_subcategory + number for name, number in subcategory_no.items()}
    return Vocabulary(
        VocabularyData(list(category_no), list(subcategory_no), category_of, ids, subcategory_of, lexicon)
    )


def encode_vocabulary(vocabulary: Vocabulary) -> bytes:
    return msgspec.msgpack.encode(vocabulary.data)


def decode_vocabulary(blob: bytes) -> Vocabulary:
    data: Any = msgspec.msgpack.decode(blob, type=VocabularyData)
    return Vocabulary(data)
