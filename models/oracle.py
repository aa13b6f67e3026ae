"""Oracle: the ranker's formulas (SPEC) once more, in slow plain numpy, one candidate at a time, from a bundle's weights.

It shares no line with ranker.py or the graphs, so that the tests can hold the graphs to the formulas without torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from models.bundle import Bundle
from models.featurise import Calendar, Tokens

Array = npt.NDArray[np.float64]
_ADD_TO_CART = 3


class Oracle:
    def __init__(self, bundle: Bundle) -> None:
        self._bundle, self._config = bundle, bundle.manifest.config
        self._weights = {name: array.astype(np.float64) for name, array in bundle.weights.items()}

    def logits(
        self, session: Tokens, history: Tokens, row: int, counters: npt.NDArray[Any], moment: Calendar, surface: int
    ) -> Array:
        """(T,) of one candidate."""
        item = self._bundle.embedding[row].astype(np.float64)
        query, projection = self._linear("query", item), self._linear("projection", item)
        r_session = self._pooled("session", session, query) if session.length else None
        r_history = self._pooled("history", history, query) if history.length else None
        user = self._fused(r_session, r_history, session.length, history.length, projection, counters)
        static = self._bundle.statics[row].astype(np.float64)
        first = self._linear("head_user", user) + self._linear("head_match", user * projection)
        first += (
            self._linear("head_item", projection)
            + self._linear("head_static", static)
            + self._linear("head_counters", counters)
        )
        for name, index in (
            ("hour", moment.hour),
            ("weekday", moment.weekday),
            ("week", moment.week),
            ("surface", surface),
        ):
            first += self._weights[f"{name}.weight"][index]
        return self._tasks(relu(first * (1 + self._weights["surface_scale.weight"][surface])))

    def _tasks(self, hidden: Array) -> Array:
        """Each task: Σ gate_e · (tower · expert_e) + bias."""
        towers = self._weights["towers"]
        n_tasks, n_experts, width = towers.shape
        experts = relu(self._linear("experts", hidden)).reshape(n_experts, width)
        gates = self._linear("expert_gate", hidden).reshape(n_tasks, n_experts)
        found = self._weights["tower_bias"].copy()
        for task in range(n_tasks):
            share = softmax(gates[task])
            for expert in range(n_experts):
                found[task] += share[expert] * (towers[task, expert] @ experts[expert])
        return found

    def _fused(
        self,
        r_session: Array | None,
        r_history: Array | None,
        n_session: int,
        n_history: int,
        projection: Array,
        counters: Any,
    ) -> Array:
        """u = g·r_S + (1 − g)·r_H with the hard collapse."""
        if r_session is None and r_history is None:
            return np.zeros_like(projection)
        if r_session is None or r_history is None:
            only = r_session if r_history is None else r_history
            assert only is not None
            return only
        numbers = [
            np.log1p(n_session),
            np.log1p(n_history),
            *counters,
            cosine(r_session, projection),
            cosine(r_history, projection),
        ]
        hidden = self._linear("gate_session", r_session) + self._linear("gate_history", r_history)
        hidden += self._linear("gate_numbers", np.array(numbers))
        g = 1 / (1 + np.exp(-self._linear("gate_out", relu(hidden))))
        return np.asarray(g * r_session + (1 - g) * r_history)

    def _pooled(self, stack: str, tokens: Tokens, query: Array) -> Array:
        """Σ weight_i v_i, weight_i ∝ exp(q·k_i / √d − decay(a)·log(1 + Δh_i) + repeat_boost·[a is add-to-cart])."""
        encoded = self._encoded(stack, tokens)
        keys, values = self._linear(f"{stack}.key", encoded), self._linear(f"{stack}.value", encoded)
        logits = []
        for key, action, log_hours in zip(keys, tokens.actions, tokens.log_hours):
            decay = np.log1p(np.exp(self._weights[f"{stack}.decay.weight"][action, 0]))
            boost = self._weights[f"{stack}.repeat_boost"][0] if action & 15 == _ADD_TO_CART else 0.0
            logits.append(query @ key / np.sqrt(len(query)) - decay * log_hours + boost)
        return np.asarray(softmax(np.array(logits)) @ values)

    def _encoded(self, stack: str, tokens: Tokens) -> Array:
        hours = tokens.log_hours[:, None].astype(np.float64)
        x = (
            self._bundle.embedding[tokens.rows].astype(np.float64)
            + self._weights[f"{stack}.action.weight"][tokens.actions]
        )
        x = x + self._linear(f"{stack}.time_out", relu(self._linear(f"{stack}.time_in", hours)))
        for layer in range(self._config[f"{stack}_layers"]):
            name = f"{stack}.blocks.{layer}"
            x = x + self._attention(name, self._normed(f"{name}.norm_attention", x))
            inner = relu(self._linear(f"{name}.ffn_in", self._normed(f"{name}.norm_ffn", x)))
            x = x + self._linear(f"{name}.ffn_out", inner)
        return self._normed(f"{stack}.norm", x)

    def _attention(self, name: str, x: Array) -> Array:
        q, k, v = np.split(self._linear(f"{name}.qkv", x), 3, axis=1)
        width = x.shape[1] // self._config["heads"]
        heads = []
        for at in range(0, x.shape[1], width):
            part = slice(at, at + width)
            rows = [softmax(one @ k[:, part].T / np.sqrt(width)) @ v[:, part] for one in q[:, part]]
            heads.append(np.stack(rows))
        return self._linear(f"{name}.out", np.concatenate(heads, axis=1))

    def _normed(self, name: str, x: Array) -> Array:
        centred = x - x.mean(axis=-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-5)
        return np.asarray(scaled * self._weights[f"{name}.weight"] + self._weights[f"{name}.bias"])

    def _linear(self, name: str, x: Any) -> Array:
        return linear(x, self._weights, name)


def linear(x: Any, weights: Mapping[str, Array], name: str) -> Array:
    product = x @ weights[f"{name}.weight"].T
    return np.asarray(product + weights[f"{name}.bias"] if f"{name}.bias" in weights else product)


def relu(x: Array) -> Array:
    return np.maximum(x, 0)


def softmax(x: Array) -> Array:
    exponents = np.exp(x - x.max())
    return np.asarray(exponents / exponents.sum())


def cosine(a: Array, b: Array) -> float:
    """As in the ranker: each length is bounded away from 0 by 1e-6 under the root."""
    return float(a @ b / (np.sqrt(a @ a + 1e-6) * np.sqrt(b @ b + 1e-6)))
