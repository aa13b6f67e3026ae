"""Export: the trained ranker as two ONNX graphs, checked against torch before anyone sees them.

    history.onnx   items (L, D), actions (L,), log_hours (L,)                    -> keys (D + 1, L), values (L, D)
    scorer.onnx    session tokens, history keys and values, rows of the tables   -> logits (C, T)

All that depends on the candidate alone is a row of models/tables.py, so the graphs hold no items: the catalogue may grow
without a new graph. Item vectors are stored as float16; the model is rounded to them first, so that the check of 1e-4 is on
what is stored.
"""

from __future__ import annotations

import io
import warnings
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from models.ranker import TASKS, DualSequenceRanker, pool

OPSET = 17
TOLERANCE = 1e-4
_COLLAPSE = 1e4
_STEEP = 30.0  # a task's gate beyond this is open or shut in float32


class HistoryGraph(nn.Module):
    def __init__(self, ranker: DualSequenceRanker) -> None:
        super().__init__()
        self.stack = ranker.history

    def forward(self, items: Tensor, actions: Tensor, log_hours: Tensor) -> tuple[Tensor, Tensor]:
        keys, values, _ = self.stack(items, actions, log_hours)
        return keys.transpose(-1, -2), values  # keys as the product with the queries wants them


class ScorerGraph(nn.Module):
    """DualSequenceRanker.score in the order that costs least for many candidates: what is linear is applied to the tokens, of
    which there are few, and not to what the candidates pool from them. models/check.py holds it to the ranker's own words.
    """

    def __init__(self, ranker: DualSequenceRanker) -> None:
        super().__init__()
        self.ranker = ranker
        experts, width = ranker.config.experts, ranker.config.expert
        towers = torch.zeros(experts, width, len(TASKS), experts)
        for expert in range(experts):
            towers[expert, :, :, expert] = ranker.towers[:, expert].detach().t()
        self.register_buffer("towers", towers.reshape(experts * width, -1))
        self.register_buffer("per_task", torch.eye(len(TASKS)).repeat_interleave(experts, dim=0))  # (T * E, T)

    def forward(
        self,
        session_items: Tensor,
        session_actions: Tensor,
        session_log_hours: Tensor,
        lengths: Tensor,
        history_keys: Tensor,
        history_values: Tensor,
        queries: Tensor,
        projections: Tensor,
        sizes: Tensor,
        item_part: Tensor,
        counters: Tensor,
        context: Tensor,
    ) -> Tensor:  # shapes: scorer_graph -> (C, T)
        ranker = self.ranker
        keys, values, _ = ranker.session(session_items, session_actions, session_log_hours)
        has_session, has_history = torch.clamp(lengths, max=1.0).split(1)
        values, history_values = values * has_session, history_values * has_history  # an empty side pools to zeros
        of_session = torch.softmax(queries @ keys.transpose(-1, -2), dim=-1)  # (C, L)
        of_history = torch.softmax(queries @ history_keys, dim=-1)
        r_session, r_history = of_session @ values, of_history @ history_values  # (C, D)
        cos_session = cosine(r_session, projections, sizes)  # (C,)
        cos_history = cosine(r_history, projections, sizes)
        numbers = torch.stack((cos_session, cos_history), dim=-1)
        # The gate's weights of lengths, counters and cosines.
        of_lengths, of_counters, of_cosines = ranker.gate_numbers.weight.split((2, ranker.config.counters, 2), dim=1)
        gate = torch.addmm(ranker.gate_session.bias[None], torch.log1p(lengths)[None], of_lengths.t())
        gate = torch.addmm(gate, of_session, values @ ranker.gate_session.weight.t())
        gate = torch.addmm(gate, of_history, history_values @ ranker.gate_history.weight.t())
        gate = torch.addmm(torch.addmm(gate, counters, of_counters.t()), numbers, of_cosines.t())
        # The hard collapse as a bias: in float32 the sigmoid of ±1e4 is 1 or 0.
        collapse = _COLLAPSE * (has_session - has_history)
        g = torch.sigmoid(torch.addmm(ranker.gate_out.bias + collapse, torch.relu(gate), ranker.gate_out.weight.t()))
        u = r_history + g * (r_session - r_history)
        shift, scale = context.split(1)  # (1, W) each
        hidden = torch.addmm(item_part, counters, ranker.head_counters.weight.t())
        hidden = torch.addmm(hidden, u * projections, ranker.head_match.weight.t())
        hidden = torch.relu((hidden + torch.addmm(shift, u, ranker.head_user.weight.t())) * scale)
        # The experts through the towers of all tasks as one product; each task's softmax as sums of its exponentials.
        read = torch.relu(ranker.experts(hidden)) @ self.towers  # (C, T * E)
        gates = torch.exp(torch.clamp(ranker.expert_gate(hidden), -_STEEP, _STEEP))
        out: Tensor = (gates * read) @ self.per_task / (gates @ self.per_task) + ranker.tower_bias
        return out


def cosine(x: Tensor, projections: Tensor, sizes: Tensor) -> Tensor:  # (C, D), (C, D), (C,) -> (C,)
    """models.ranker.norm without the last dimension: ONNX Runtime is slow on columns one wide."""
    length = torch.sqrt((x * x).sum(-1) + 1e-6)
    return (x * projections).sum(-1) / (length * sizes)


class NaiveGraph(nn.Module):
    """For comparison only: the same weights as one graph that encodes both sequences, padded to their caps, and projects every
    candidate at each call."""

    def __init__(self, ranker: DualSequenceRanker, items: Tensor, statics: Tensor) -> None:
        super().__init__()
        self.ranker = ranker
        self.register_buffer("items", items)
        self.register_buffer("statics", statics)

    def forward(
        self,
        history_rows: Tensor,
        history_actions: Tensor,
        history_log_hours: Tensor,
        history_padding: Tensor,
        session_rows: Tensor,
        session_actions: Tensor,
        session_log_hours: Tensor,
        session_padding: Tensor,
        lengths: Tensor,
        rows: Tensor,
        counters: Tensor,
        calendar: Tensor,
    ) -> Tensor:
        ranker = self.ranker
        history = ranker.history(self.items[history_rows], history_actions, history_log_hours, history_padding)[:2]
        session = ranker.session(self.items[session_rows], session_actions, session_log_hours, session_padding)[:2]
        candidates = ranker.candidate_side(self.items[rows], self.statics[rows])
        return ranker.score(session, history, lengths, candidates, counters, ranker.context_side(calendar))


def history_graph(ranker: DualSequenceRanker) -> bytes:
    width = ranker.config.dim
    example = (torch.zeros(3, width), torch.zeros(3, dtype=torch.int64), torch.zeros(3))
    names = ["items", "actions", "log_hours"]
    return _exported(
        HistoryGraph(ranker),
        example,
        names,
        ["keys", "values"],
        {name: {1: "L"} if name == "keys" else {0: "L"} for name in (*names, "keys", "values")},
    )


def scorer_graph(ranker: DualSequenceRanker) -> bytes:
    width, head, n_counters = ranker.config.dim, ranker.config.head, ranker.config.counters
    inputs: dict[str, tuple[Tensor, dict[int, str]]] = {
        "session_items": (torch.zeros(3, width), {0: "S"}),
        "session_actions": (torch.zeros(3, dtype=torch.int64), {0: "S"}),
        "session_log_hours": (torch.zeros(3), {0: "S"}),
        "lengths": (torch.ones(2), {}),
        "history_keys": (torch.zeros(width + 1, 5), {1: "L"}),
        "history_values": (torch.zeros(5, width), {0: "L"}),
        "queries": (torch.zeros(4, width + 1), {0: "C"}),
        "projections": (torch.zeros(4, width), {0: "C"}),
        "sizes": (torch.ones(4), {0: "C"}),
        "item_part": (torch.zeros(4, head), {0: "C"}),
        "counters": (torch.zeros(4, n_counters), {0: "C"}),
        "context": (torch.zeros(2, head), {}),
    }
    axes = {name: dims for name, (_, dims) in inputs.items() if dims} | {"logits": {0: "C"}}
    return _exported(
        ScorerGraph(ranker), tuple(example for example, _ in inputs.values()), list(inputs), ["logits"], axes
    )


def naive_graph(ranker: DualSequenceRanker, items: Tensor, statics: Tensor) -> bytes:
    whole = torch.zeros(3, dtype=torch.int64)
    inputs: dict[str, tuple[Tensor, dict[int, str]]] = {}
    for side in ("history", "session"):
        inputs |= {f"{side}_{name}": (whole, {0: side}) for name in ("rows", "actions")}
        inputs |= {f"{side}_{name}": (torch.zeros(3), {0: side}) for name in ("log_hours", "padding")}
    inputs |= {
        "lengths": (torch.ones(2), {}),
        "rows": (whole, {0: "C"}),
        "counters": (torch.zeros(3, ranker.config.counters), {0: "C"}),
        "calendar": (torch.zeros(4, dtype=torch.int64), {}),
    }
    axes = {name: dims for name, (_, dims) in inputs.items() if dims} | {"logits": {0: "C"}}
    return _exported(
        NaiveGraph(ranker, items, statics),
        tuple(example for example, _ in inputs.values()),
        list(inputs),
        ["logits"],
        axes,
    )


def stored_items(ranker: DualSequenceRanker) -> npt.NDArray[Any]:
    """(N, D) float16: item[x] as it is kept. Everything downstream works from these."""
    with torch.no_grad():
        return ranker.item_table().numpy().astype(np.float16)


def stored_weights(ranker: DualSequenceRanker) -> dict[str, npt.NDArray[Any]]:
    """All weights but those that the item vectors already hold."""
    inside = ("own.", "group.", "content.", "history.is_cart", "session.is_cart")
    return {name: weight.numpy() for name, weight in ranker.state_dict().items() if not name.startswith(inside)}


def stored_config(ranker: DualSequenceRanker) -> dict[str, Any]:
    return asdict(ranker.config)


def _exported(
    graph: nn.Module,
    example: tuple[Tensor, ...],
    inputs: list[str],
    outputs: list[str],
    axes: dict[str, dict[int, str]],
) -> bytes:
    buffer = io.BytesIO()
    graph.eval()
    with warnings.catch_warnings():
        # The exporter by tracing is the one that needs nothing besides `onnx`.
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(
            graph, example, buffer, dynamo=False, opset_version=OPSET, input_names=inputs, output_names=outputs, dynamic_axes=axes
        )  # fmt: skip
    return buffer.getvalue()


__all__ = [
    "OPSET",
    "TOLERANCE",
    "history_graph",
    "naive_graph",
    "pool",
    "scorer_graph",
    "stored_config",
    "stored_items",
    "stored_weights",
]
