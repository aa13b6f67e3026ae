"""A baseline as a bundle: trained on a shop's visits, with the catalogue and the tables of a bundle that is there.

    the shop's visits ─ users' acts on items ─ sessions ─ fit ─ files ─ bundle
    python -m models.baselines.bundle sasrec models/bundles/demo-6 --version demo-sasrec

It ranks in a job like any other bundle. gru4rec and sasrec need the extra `train` to be made, not to be served.
"""

from __future__ import annotations

import argparse
import importlib
import io
import sys
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from models.assemble import manifest
from models.baseline_scorers import NEWEST
from models.baselines.contract import unwatched
from models.bundle import (
    COVISITATION,
    ENCODER_GRAPH,
    GRU4REC,
    ITEMS,
    LAST_INTERACTED,
    POPULARITY,
    RETRIEVAL,
    SASREC,
    SESSIONS,
    V_SKNN,
    VOCABULARY,
    WEIGHTS,
    Bundle,
    BundleError,
    packed,
    write_bundle,
)
from models.evaluation.session_files import Sessions
from models.vocabulary import Vocabulary

KINDS = (POPULARITY, COVISITATION, LAST_INTERACTED, V_SKNN, GRU4REC, SASREC)
_ACTS = frozenset(("click", "view", "add_to_cart", "purchase"))
_SHOPPERS, _DAYS = 300, 28
_OPSET = 17


def sessions_of(logs: Iterable[Any], vocabulary: Vocabulary) -> Sessions:
    """Each visit's acts on items that the vocabulary knows, in order of time; visits by their start."""
    items, times, starts = list[int](), list[float](), [0]
    for log in sorted(logs, key=lambda one: one.start_ms):
        for event in log.events:
            row = vocabulary.row(event.item_id) if event.event_type in _ACTS and event.item_id else 0
            if row >= vocabulary.first_item:
                items.append(row - vocabulary.first_item)
                times.append(event.ts_ms / 1000)
        if len(items) > starts[-1]:
            starts.append(len(items))
    return Sessions(
        np.array(items, np.int64), np.array(times), np.array(starts, np.int64), vocabulary.size - vocabulary.first_item
    )


def files_of(kind: str, source: Bundle, sessions: Sessions | None) -> dict[str, bytes]:
    """What the bundle holds. `sessions` are needed by v_sknn, gru4rec and sasrec."""
    files = {name: (source.path / name).read_bytes() for name in (VOCABULARY, RETRIEVAL)}
    embedding = np.zeros((source.vocabulary.size, 0), np.float16)
    if kind == V_SKNN:
        assert sessions is not None
        narrow = sessions.items.astype(np.int32), sessions.starts.astype(np.int32)
        files[SESSIONS] = packed(items=narrow[0], times=sessions.times, starts=narrow[1])
    elif kind in (GRU4REC, SASREC):
        assert sessions is not None
        embedding, bias, files[ENCODER_GRAPH] = _encoder(kind, source.vocabulary, sessions)
        files[WEIGHTS] = packed(bias=bias)
    files[ITEMS] = packed(embedding=embedding, statics=source.statics, popularity=source.popularity)
    return files


def _encoder(kind: str, vocabulary: Vocabulary, sessions: Sessions) -> tuple[Any, Any, bytes]:
    """(N, D) item vectors, (N,) their bias, and the graph. A row that stands in for many has their mean."""
    import torch

    from models.baselines.gru4rec import GRU4Rec
    from models.baselines.sasrec import SASRec

    torch.set_num_threads(1)
    model: Any = GRU4Rec() if kind == GRU4REC else SASRec()
    model.fit(sessions, unwatched)
    net = model._net.eval()
    first = vocabulary.first_item
    vectors, bias = net.items.weight[:-1].detach().numpy(), net.bias.weight[:-1, 0].detach().numpy()
    rows = np.concatenate((np.zeros((first, vectors.shape[1] + 1)), np.column_stack((vectors, bias))), axis=0)
    vocabulary.speak_for_groups(rows)
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter by tracing is the one that needs nothing besides `onnx`
        torch.onnx.export(
            net, (torch.zeros(1, NEWEST, vectors.shape[1]),), buffer, dynamo=False, opset_version=_OPSET,
            input_names=["items"], output_names=["states"],
        )  # fmt: skip
    return rows[:, :-1].astype(np.float16), rows[:, -1].astype(np.float32), buffer.getvalue()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m models.baselines.bundle",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument(
        "source", type=Path, help="a bundle's folder: catalogue, popularity and tables are taken from it"
    )
    parser.add_argument("--version", required=True, help="of the new bundle, beside it")
    parser.add_argument("--shop", default="demo", help="package with `offline` (default demo)")
    parser.add_argument("--shoppers", type=int, default=_SHOPPERS, help=f"default {_SHOPPERS}")
    options = parser.parse_args(arguments)
    try:
        source = Bundle.load(options.source)
        sessions = None
        if options.kind in (V_SKNN, GRU4REC, SASREC):
            visits = importlib.import_module(f"{options.shop}.offline").visits
            sessions = sessions_of(visits(range(options.shoppers), days=_DAYS), source.vocabulary)
        files = files_of(options.kind, source, sessions)
        made = manifest(
            options.version, options.kind, surfaces=source.manifest.surfaces, training={"of": source.version}
        )
        folder = options.source.parent / options.version
        write_bundle(folder, made, files)
    except (BundleError, FileExistsError, ImportError) as error:
        sys.exit(str(error))
    print(folder)


if __name__ == "__main__":
    main()
