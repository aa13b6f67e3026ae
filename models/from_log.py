"""From a log: a bundle that ranks by covisitation and popularity, counted from somebody's own actions in seconds.

items of the catalogue ─ vocabulary ──┐
actions by user and time ─ sequences ─┴─ popularity, neighbours ─ bundle
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

from models.assemble import ItemKnowledge, manifest, popularity_files
from models.bundle import COVISITATION, LATEST, write_bundle
from models.statistics import STATICS, neighbours
from models.traffic import Ragged
from models.vocabulary import Vocabulary, build_vocabulary
from schemas.items import Item
from schemas.user_state import ACTIONS

VISIT_MS = 30 * 60_000  # the gap of a session; on RetailRocket a day, or no gap at all, found neighbours no better
# How much an action says for an item's popularity; any other says nothing.
WEIGHTS = {"click": 1.0, "view": 1.0, "like": 2.0, "add_to_cart": 3.0, "purchase": 5.0}


class Act(NamedTuple):
    """One action on one item."""

    user: str
    ts_ms: int
    kind: str
    item_id: str


def bundle_from_log(folder: Path, version: str, items: Iterable[Item], acts: Sequence[Act], source: str) -> Path:
    """Write `folder`/`version` and name it in LATEST. `source` says in the manifest what it was counted from."""
    vocabulary = build_vocabulary(items)
    ordered = in_order(acts)
    rows = vocabulary.rows([act.item_id for act in ordered])
    popularity = np.bincount(rows, [WEIGHTS[act.kind] for act in ordered], vocabulary.size)
    knowledge = ItemKnowledge(
        np.zeros((vocabulary.size, len(STATICS))),
        popularity,
        popularity,
        neighbours(sessions_of(ordered, vocabulary), vocabulary),
    )
    described = manifest(version, COVISITATION, surfaces=["home"], training={"log": source, "actions": len(ordered)})
    write_bundle(folder / version, described, popularity_files(vocabulary, knowledge))
    (folder / LATEST).write_text(version + "\n")
    return folder / version


def in_order(acts: Iterable[Act]) -> list[Act]:
    """Those that say something, by user and time."""
    return sorted((act for act in acts if act.kind in WEIGHTS), key=lambda act: (act.user, act.ts_ms))


def sessions_of(acts: Sequence[Act], vocabulary: Vocabulary) -> Ragged:
    """Of acts in order: what was acted on within the same visit."""
    rows = vocabulary.rows([act.item_id for act in acts])
    new = [act.user != before.user or act.ts_ms - before.ts_ms > VISIT_MS for before, act in pairwise(acts)]
    starts = np.concatenate(([0], 1 + np.flatnonzero(new), [len(acts)])) if acts else np.zeros(1, np.int64)
    actions = np.array([ACTIONS[act.kind] for act in acts], dtype=np.int8)
    return Ragged(rows, actions, np.zeros(len(acts), np.float32), starts)
