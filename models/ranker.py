"""The dual-sequence ranker (SPEC, formulas; source 0), in torch. Reads from top to bottom like the formulas.

    item[x] ─┐                              ┌ keys, values ─ pooling per candidate ─ r_S ─┐
    action  ─┼ token_i ─ session stack  S ──┘                                             ├ gate ─ u ─ head ─ logits
    MLP(log(1 + Δh)) ─── history stack  H ──┐                                             │
                                            └ keys, values ─ pooling per candidate ─ r_H ─┘

Every function takes any leading dimensions: training gives it batches, the export a single request without one.
Names of dimensions: L tokens, C candidates, D width of vectors, W of the head, T tasks, E experts of width V, A action codes,
N rows of the vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.featurise import NUMBERS

# click, cart, purchase: what will be done with it, once shown? next: of all items, which is clicked next?
TASKS = ("click", "cart", "purchase", "next")
_ADD_TO_CART = 3
_FAR = -1e9  # added to the logit of padding; not -inf, which makes a softmax over padding alone not a number


@dataclass(frozen=True)
class RankerConfig:
    """Sizes. Calendar and surface vocabularies are what featurise and the bundle count."""

    rows: int
    subcategories: int
    categories: int
    contents: int  # features in the item embedding: what is known of an item without anyone acting on it
    statics: int  # features in the head: those, and popularity
    surfaces: int = 2
    dim: int = 64
    heads: int = 2
    history_layers: int = 2
    session_layers: int = 1
    ffn: int = 2
    actions: int = 128
    counters: int = NUMBERS  # of featurise: this user and the item, its group, the item and everybody
    gate_hidden: int = 16
    head: int = 64  # width of the head, whatever the vectors' is: of 1,000 candidates it is most of the cost
    experts: int = 3
    dropout: float = 0.1

    @property
    def expert(self) -> int:
        """Width of one expert."""
        return max(4, self.head // 4)


class Block(nn.Module):
    """Pre-norm transformer block. Heads are split by chunk, which exports without a dynamic reshape."""

    def __init__(self, config: RankerConfig) -> None:
        super().__init__()
        dim = config.dim
        self.heads, self.scale = config.heads, (dim // config.heads) ** -0.5
        self.norm_attention, self.norm_ffn = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)
        self.ffn_in, self.ffn_out = nn.Linear(dim, config.ffn * dim), nn.Linear(config.ffn * dim, dim)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, padding: Tensor | None) -> Tensor:  # (…, L, D), (…, 1, L) -> (…, L, D)
        q, k, v = self.qkv(self.norm_attention(x)).chunk(3, dim=-1)
        heads = []
        for qh, kh, vh in zip(q.chunk(self.heads, -1), k.chunk(self.heads, -1), v.chunk(self.heads, -1)):
            logits = (qh * self.scale) @ kh.transpose(-1, -2)  # (…, L, L)
            heads.append(torch.softmax(logits if padding is None else logits + padding, dim=-1) @ vh)
        x = x + self.dropout(self.out(torch.cat(heads, dim=-1)))
        return x + self.dropout(self.ffn_out(torch.relu(self.ffn_in(self.norm_ffn(x)))))


class Stack(nn.Module):
    """One sequence: tokens -> transformer -> keys, values and the candidate-free part of the pooling logits."""

    def __init__(self, config: RankerConfig, layers: int) -> None:
        super().__init__()
        dim = config.dim
        self.action = nn.Embedding(config.actions, dim)
        self.time_in, self.time_out = nn.Linear(1, 32), nn.Linear(32, dim)
        self.blocks = nn.ModuleList(Block(config) for _ in range(layers))
        self.norm = nn.LayerNorm(dim)
        self.key, self.value = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.decay = nn.Embedding(config.actions, 1)  # softplus of it is decay(a) >= 0
        self.repeat_boost = nn.Parameter(torch.zeros(1))
        self.register_buffer("is_cart", (torch.arange(config.actions) % 16 == _ADD_TO_CART).float()[:, None])
        nn.init.normal_(self.action.weight, std=0.05)
        nn.init.constant_(self.decay.weight, -2.0)

    def forward(
        self, items: Tensor, actions: Tensor, log_hours: Tensor, padding: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:  # (…, L, D), (…, L), (…, L), (…, L) -> (…, L, D + 1), (…, L, D), (…, D)
        hours = log_hours[..., None]  # (…, L, 1)
        x = (
            items + self.action(actions) + self.time_out(torch.relu(self.time_in(hours)))
        )  # token_i, no positional index
        for block in self.blocks:
            x = block(x, None if padding is None else padding[..., None, :])
        x = self.norm(x)
        # − decay(a)·log(1 + Δh) + repeat_boost·[a is add-to-cart]
        bias = self.repeat_boost * self.is_cart[actions] - functional.softplus(self.decay(actions)) * hours  # (…, L, 1)
        if padding is not None:
            bias = bias + padding[..., None]
        # The bias rides along as one more dimension of the keys; queries end in 1.
        return torch.cat((self.key(x), bias), dim=-1), self.value(x), x.mean(dim=-2)


def pool(
    queries: Tensor, keys: Tensor, values: Tensor
) -> Tensor:  # (…, C, D + 1), (…, L, D + 1), (…, L, D) -> (…, C, D)
    """Target-aware: weight_i ∝ exp(q(c)·k_i / √d − decay(a)·log(1 + Δh_i) + repeat_boost·[…]); r = Σ weight_i v_i."""
    return torch.softmax(queries @ keys.transpose(-1, -2), dim=-1) @ values


class DualSequenceRanker(nn.Module):
    """All weights. `subcategory_row` and `category_row` are the vocabulary's (N,), `contents` (N, F) standardised."""

    def __init__(self, config: RankerConfig, subcategory_row: Tensor, category_row: Tensor, contents: Tensor) -> None:
        super().__init__()
        self.config, dim = config, config.dim
        self.register_buffer("subcategory_row", subcategory_row, persistent=False)
        self.register_buffer("category_row", category_row, persistent=False)
        self.register_buffer("contents", contents, persistent=False)
        self.own = nn.Embedding(config.rows, dim)
        self.group = nn.Embedding(config.rows, dim)  # only rows of groups are used; row 0 serves those without a group
        self.content = nn.Linear(config.contents, dim, bias=False)
        self.history, self.session = Stack(config, config.history_layers), Stack(config, config.session_layers)
        self.query, self.projection = nn.Linear(dim, dim), nn.Linear(dim, dim)  # q(c) and P c
        self.gate_session = nn.Linear(dim, config.gate_hidden)
        self.gate_history = nn.Linear(dim, config.gate_hidden, bias=False)
        self.gate_numbers = nn.Linear(2 + config.counters + 2, config.gate_hidden, bias=False)
        self.gate_out = nn.Linear(config.gate_hidden, 1)
        head = config.head
        self.head_user, self.head_match = nn.Linear(dim, head, bias=False), nn.Linear(dim, head, bias=False)
        self.head_item, self.head_static = nn.Linear(dim, head), nn.Linear(config.statics, head, bias=False)
        self.head_counters = nn.Linear(config.counters, head, bias=False)
        self.hour, self.weekday = nn.Embedding(24, head), nn.Embedding(7, head)
        self.week, self.surface = nn.Embedding(5, head), nn.Embedding(config.surfaces, head)
        self.surface_scale = nn.Embedding(config.surfaces, head)  # the adapter: scale and shift of the hidden layer
        self.experts = nn.Linear(head, config.experts * config.expert)
        self.expert_gate = nn.Linear(head, len(TASKS) * config.experts)
        self.towers = nn.Parameter(torch.randn(len(TASKS), config.experts, config.expert) * config.expert**-0.5)
        self.tower_bias = nn.Parameter(torch.zeros(len(TASKS)))
        nn.init.normal_(self.own.weight, std=0.02)
        nn.init.normal_(self.group.weight, std=0.4)
        # Begin as nearest neighbours do: a candidate attends to the tokens that are like it, and u ⊙ P c is their likeness.
        # From random projections the ranker spends its first epochs on finding this.
        for linear, share in self._likeness():
            with torch.no_grad():
                linear.weight.mul_(0.3).add_(share * torch.eye(dim))
        nn.init.normal_(self.content.weight, std=0.1)
        nn.init.zeros_(self.surface_scale.weight)
        for embedding in (self.hour, self.weekday, self.week, self.surface):
            nn.init.normal_(embedding.weight, std=0.05)

    def _likeness(self) -> list[tuple[nn.Linear, float]]:
        stacks = [
            (one, share)
            for stack in (self.history, self.session)
            for one, share in ((stack.key, 0.7), (stack.value, 1.0))
        ]
        return [*stacks, (self.query, 0.7), (self.projection, 1.0)]

    def item_table(self, keep_own: Tensor | None = None) -> Tensor:  # (N, 1) -> (N, D)
        """item[x] = own + subcategory + category + content. Training drops `own` now and then, as for an unknown item."""
        own = self.own.weight if keep_own is None else self.own.weight * keep_own
        group = self.group.weight
        groups = group[self.subcategory_row] + group[self.category_row] + group[1]
        table = own * (torch.arange(len(own)) >= self.first_item)[:, None] + groups + self.content(self.contents)
        return table * (torch.arange(len(own)) > 0)[:, None]

    @property
    def first_item(self) -> int:
        return 2 + self.config.categories + self.config.subcategories

    def candidate_side(self, items: Tensor, statics: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What does not depend on the user: queries [q(c) / √d, 1], projections P c, and c's part of the head's first layer."""
        queries = self.query(items) * self.config.dim**-0.5
        queries = torch.cat((queries, torch.ones_like(queries[..., :1])), dim=-1)  # (…, C, D + 1)
        projections = self.projection(items)  # (…, C, D)
        return queries, projections, self.head_item(projections) + self.head_static(statics)

    def context_side(self, calendar: Tensor) -> Tensor:  # (…, 4) hour, weekday, week, surface -> (…, 2, W) shift, scale
        hour, weekday, week, surface = calendar.unbind(-1)
        shift = self.hour(hour) + self.weekday(weekday) + self.week(week) + self.surface(surface)
        return torch.stack((shift, 1 + self.surface_scale(surface)), dim=-2)

    def score(
        self,
        session: tuple[Tensor, Tensor],
        history: tuple[Tensor, Tensor],
        lengths: Tensor,  # (…, 2) of session and history
        candidates: tuple[Tensor, Tensor, Tensor],  # of candidate_side
        counters: Tensor,  # (…, C, NUMBERS) of featurise
        context: Tensor,  # (…, 2, W) of context_side
    ) -> Tensor:  # (…, C, T)
        queries, projections, item_part = candidates
        has = torch.clamp(lengths, max=1.0)[..., None, :]  # (…, 1, 2)
        has_session, has_history = has[..., :1], has[..., 1:]
        r_session = pool(queries, *session) * has_session  # (…, C, D)
        r_history = pool(queries, *history) * has_history
        match_session, match_history = r_session * projections, r_history * projections
        # gate g = sigmoid(MLP(r_S, r_H, log lengths, repeat counts of c, cos(r_S, c), cos(r_H, c)))
        size = norm(projections)
        cos_session = match_session.sum(-1, keepdim=True) / (norm(r_session) * size)
        cos_history = match_history.sum(-1, keepdim=True) / (norm(r_history) * size)
        gate = self.gate_session(r_session) + self.gate_history(r_history)
        numbers = torch.cat((counters, cos_session, cos_history), dim=-1)  # (…, C, NUMBERS + 2)
        gate = gate + functional.linear(numbers, self.gate_numbers.weight[:, 2:])
        gate = gate + functional.linear(torch.log1p(lengths), self.gate_numbers.weight[:, :2])[..., None, :]
        g = torch.sigmoid(self.gate_out(torch.relu(gate)))  # (…, C, 1)
        # Hard collapse: g = 1 without history, 0 without session; without both u = 0 and the head works from c alone.
        g = has_session * (1 - has_history * (1 - g))
        u = r_history + g * (r_session - r_history)  # g·r_S + (1 − g)·r_H
        u_match = u * projections  # u ⊙ P c
        # head: MLP(u, P c, u ⊙ P c, counters, popularity and price, calendar), scaled and shifted for the surface
        shift, scale = context[..., :1, :], context[..., 1:, :]
        hidden = self.head_user(u) + self.head_match(u_match) + item_part + self.head_counters(counters) + shift
        return self.tasks(torch.relu(hidden * scale))

    def tasks(self, hidden: Tensor) -> Tensor:  # (…, C, W) -> (…, C, T)
        """MMoE: each task mixes the experts by a gate of its own and reads the mixture through a tower of its own."""
        experts, width = self.config.experts, self.config.expert
        mixed = torch.relu(self.experts(hidden)).unflatten(-1, (experts, width))  # (…, C, E, V)
        gates = torch.softmax(self.expert_gate(hidden).unflatten(-1, (len(TASKS), experts)), dim=-1)  # (…, C, T, E)
        # A tower is linear: read each expert through it, then mix.
        read = torch.einsum("...ev,tev->...te", mixed, self.towers)
        return (gates * read).sum(-1) + self.tower_bias


def norm(x: Tensor) -> Tensor:  # (…, D) -> (…, 1)
    """Length, bounded away from 0 so that an empty side has the cosine 0."""
    return torch.sqrt((x * x).sum(-1, keepdim=True) + 1e-6)
