"""Tastes: factors that say who likes what within a group, and what an item is worth to everybody. Fitted on recorded lists.

    visits ─ shown places ─ P(click) = σ(worth)·σ(setting)·σ(place)   worth = quality_c + a_user·s_c
                         └─ log dwell = α + β·worth + γ·setting       of what was viewed after its click
    histories ─ pull and weight of each action, so that the regression of models/featurise.py finds a_user from tokens

`setting` is hindsight: how often the visit clicked in the item's group and elsewhere, whether a search or follow named the group,
whether the item was clicked or bought before. It takes up what the visit was about, so that quality and factors do not. Shown
items are not a sample of all: without it, what is shown to the right people looks good (click models: Richardson et al., 2007).

Fitted on other shoppers than the ranker learns from, so that no list's own outcome is in its features. Needs torch.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from models.dataset import padded
from models.featurise import ACTION_CODES, PRICE_LEVEL, Floats, Tastes
from models.hindsight import SETTINGS, ClickModel, setting_of
from models.traffic import LIST_SIZE, Examples, shop_items
from models.vocabulary import Vocabulary, build_vocabulary
from schemas.event import Follow, Search, View
from schemas.user_state import QUERY_MARK, TARGET_MARK

Array = npt.NDArray[Any]

# Columns of what was shown, one row a place.
COLUMNS = ("shopper", "visit", "row", "place", "clicked", "dwell_ms", "named", "acted", "bought")
FACTORS = 8
_SPREAD = {"factors": 0.4, "quality": 0.8, "groups": 0.5, "settings": 3.0}  # standard deviations of the priors


def collect_shown(shop: str, shoppers: range, days: int, seed: int) -> Array:
    """Play these shoppers' visits and keep what was shown: (M, COLUMNS). A worker's whole task."""
    visits = importlib.import_module(f"{shop}.offline").visits
    return shown(visits(shoppers, days=days, seed=seed), build_vocabulary(shop_items(shop)))


def shown(logs: Iterable[Any], vocabulary: Vocabulary) -> Array:
    """(M, COLUMNS) int32: every shown place of visits, in order of time."""
    found: list[tuple[int, ...]] = []
    bought: dict[int, set[str]] = {}
    for visit, log in enumerate(logs):
        owned = bought.setdefault(log.shopper.number, set())
        views = [event for event in log.events if isinstance(event, View)]
        dwell_ms = {(event.props.list_id, event.item_id): event.props.dwell_ms for event in views}
        acted = {event.item_id for event in views if event.props.list_id is None}
        named = {vocabulary.row(QUERY_MARK + event.props.query) for event in log.events if isinstance(event, Search)}
        named |= {vocabulary.row(TARGET_MARK + event.props.target) for event in log.events if isinstance(event, Follow)}
        named |= {int(vocabulary.group_row[vocabulary.row(item_id)]) for item_id in acted}  # came for it, from outside
        for one in log.exposures:
            items = one.items[:LIST_SIZE]
            for place, (item_id, row) in enumerate(zip(items, vocabulary.rows(items).tolist())):
                found.append((
                    log.shopper.number, visit, row, place, one.clicked[place], dwell_ms.get((one.list_id, item_id)) or 0,
                    vocabulary.group_row[row] in named, item_id in acted, item_id in owned,
                ))  # fmt: skip
            acted |= {item_id for item_id, hit in zip(items, one.clicked) if hit}
            owned |= {item_id for item_id, hit in zip(items, one.bought) if hit}
    return np.array(found, np.int32).reshape(-1, len(COLUMNS))


def joined_shown(parts: list[Array]) -> Array:
    """Of several workers as one: visits are numbered on."""
    first = np.cumsum([0] + [int(part[:, 1].max(initial=-1)) + 1 for part in parts])
    for part, number in zip(parts, first):
        part[:, 1] += number
    return np.concatenate(parts)


def settings(places: Array, vocabulary: Vocabulary) -> Array:
    """(M,) which of the settings each shown place was in."""
    _, visit, row, _, clicked, _, named, acted, bought = places.astype(np.int64).T
    group = visit * vocabulary.first_item + vocabulary.group_row[row]
    in_group = np.bincount(group, clicked)[group].astype(np.int64) - clicked
    elsewhere = np.bincount(visit, clicked)[visit].astype(np.int64) - clicked - in_group
    return setting_of(in_group, elsewhere, named, acted, bought)


class _Clicks(nn.Module):
    """Users are parameters here; what comes of it are the items' factors and quality, and what a setting and a place do."""

    def __init__(self, users: int, vocabulary: Vocabulary, content: Floats) -> None:
        super().__init__()
        level = torch.from_numpy(content[:, PRICE_LEVEL])
        self.register_buffer("prices", torch.stack((level, level.abs()), dim=1))
        self.register_buffer("group", torch.from_numpy(vocabulary.group_row.astype(np.int64)))
        self.user = nn.Parameter(0.1 * torch.randn(users, FACTORS))
        self.item = nn.Parameter(0.1 * torch.randn(vocabulary.size, FACTORS))
        self.price = nn.Parameter(0.1 * torch.randn(2, FACTORS))
        self.level = nn.Parameter(torch.tensor(-2.0))
        self.quality = nn.Parameter(torch.zeros(vocabulary.size))
        self.of_group = nn.Parameter(torch.zeros(vocabulary.first_item))
        self.of_price = nn.Parameter(torch.zeros(2))
        self.setting = nn.Parameter(torch.zeros(SETTINGS))
        self.place = nn.Parameter(torch.zeros(LIST_SIZE))
        self.dwell = nn.Parameter(torch.tensor([2.5, 0.5, 0.5, -0.7]))  # α, β, γ, log of the noise

    def factors(self) -> Tensor:
        return self.item + self.prices @ self.price

    def worth(self) -> Tensor:
        return self.level + self.quality + self.of_group[self.group] + self.prices @ self.of_price

    def log_chance(self, worth: Tensor, setting: Tensor) -> Tensor:
        """log P(click) but for the place; below 0, so that 1 − P has a logarithm."""
        return functional.logsigmoid(worth) + functional.logsigmoid(self.setting[setting])

    def places(self) -> Tensor:
        """(P,) log of the chance to be looked at, against the first place."""
        return functional.logsigmoid(self.place - self.place[0] + 4.0)

    def loss(self, of: dict[str, Tensor], users: int) -> Tensor:
        """Mean over shown places, and the priors' share of it."""
        worth = self.worth()[of["row"]] + (self.user[of["user"]] * self.factors()[of["row"]]).sum(-1)
        log_chance = self.log_chance(worth, of["setting"]) + self.places()[of["place"]]
        alpha, beta, gamma, noise = self.dwell.unbind()
        off = (of["log_dwell"] - alpha - beta * worth - gamma * self.setting[of["setting"]]) / noise.exp()
        viewed = of["viewed"] * (0.5 * off**2 + noise)
        prior = (self.user**2).sum() + (self.item**2).sum() / _SPREAD["factors"] ** 2
        prior = prior + (self.quality**2).sum() / _SPREAD["quality"] ** 2
        prior = prior + (self.of_group**2).sum() / _SPREAD["groups"] ** 2
        prior = prior + (self.setting**2).sum() / _SPREAD["settings"] ** 2
        return _click_loss(log_chance, of["clicked"]).mean() + viewed.mean() + 0.5 * prior / users


def _click_loss(log_chance: Tensor, clicked: Tensor) -> Tensor:
    log_chance = log_chance.clamp(max=-1e-4)
    return -(clicked * log_chance + (1 - clicked) * torch.log1p(-log_chance.exp()))


def fit(
    places: Array,
    data: Examples,
    vocabulary: Vocabulary,
    content: Floats,
    seed: int,
    epochs: int = 20,
    steps: int = 200,
) -> ClickModel:
    """Tastes from shown places (M, COLUMNS); pull and weight of actions from the lists of `data`, of other shoppers.
    And (N,) what an item is worth: quality and group."""
    torch.manual_seed(seed)
    is_item = places[:, 2] >= vocabulary.first_item
    places = places[is_item]
    _, user = np.unique(places[:, 0], return_inverse=True)
    columns = {
        "user": user, "row": places[:, 2], "place": places[:, 3], "setting": settings(places, vocabulary),
        "clicked": places[:, 4], "viewed": places[:, 5] > 0, "log_dwell": np.log(np.maximum(places[:, 5], 300) / 1000),
    }  # fmt: skip
    whole = {"user", "row", "place", "setting"}
    of = {
        name: torch.from_numpy(column.astype(np.int64 if name in whole else np.float32))
        for name, column in columns.items()
    }
    clicks = _Clicks(int(user.max()) + 1, vocabulary, content)
    optimiser = torch.optim.Adam(clicks.parameters())
    batch = 16_384
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, 0.1, total_steps=epochs * -(-len(places) // batch) + 10, pct_start=0.1
    )
    for _ in range(epochs):
        order = torch.randperm(len(places))
        for at in range(0, len(places), batch):
            chosen = order[at : at + batch]
            loss = clicks.loss({name: column[chosen] for name, column in of.items()}, len(places))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    with torch.no_grad():
        items = torch.arange(vocabulary.size) >= vocabulary.first_item
        factors, worth = _centred(clicks.factors(), clicks.group, items), clicks.worth()
        quality = (clicks.quality + clicks.prices @ clicks.of_price) * items
        # A group's row is an average item of the group.
        worth = torch.where(items, worth, clicks.level + clicks.of_group[clicks.group])
    pull, weight = _actions(factors, quality, worth, clicks, data, seed, steps)
    tastes = Tastes(*(one.numpy().astype(np.float32) for one in (factors, quality, pull, weight)))
    return ClickModel(tastes, *(one.detach().numpy().astype(np.float32) for one in (worth, clicks.setting)))


def _centred(factors: Tensor, group: Tensor, items: Tensor) -> Tensor:
    """Less the mean of the item's group: which groups a user likes is told by other features, and would drown the rest."""
    of = group * items  # row 0 collects what is no item
    count = torch.bincount(of, minlength=len(of)).clamp(min=1)[:, None]
    mean = torch.zeros_like(factors).index_add_(0, of, factors) / count
    return (factors - mean[of]) * items[:, None]


def _actions(
    factors: Tensor, quality: Tensor, worth: Tensor, clicks: _Clicks, data: Examples, seed: int, steps: int
) -> tuple[Tensor, Tensor]:
    """(A,) pull and weight of each action, by how well users found from their tokens explain the clicks that come next."""
    pull, raw = nn.Parameter(torch.full((ACTION_CODES,), 0.3)), nn.Parameter(torch.full((ACTION_CODES,), -1.0))
    setting = nn.Parameter(
        torch.zeros(2)
    )  # in-session acts on the item's group are not known here: one level, one slope
    optimiser = torch.optim.Adam([pull, raw, setting], lr=0.03)
    rng = np.random.Generator(np.random.PCG64(seed))
    known = np.flatnonzero(data.histories.lengths()[data.history] >= 10)
    places = clicks.places().detach()
    for _ in range(steps if len(known) else 0):
        chosen = rng.choice(known, 256)
        sequences = padded(data.histories, data.history[chosen], rng, 0.0), padded(data.sessions, chosen, rng, 0.0)
        rows, actions, padding = (
            torch.cat([getattr(one, name) for one in sequences], 1) for name in ("rows", "actions", "padding")
        )
        weight = functional.softplus(raw)[actions] * (padding == 0)
        pulls = pull[actions] * (padding == 0) - weight * quality[rows]
        of = factors[rows]  # (E, L, F)
        gram = torch.einsum("elf,el,elg->efg", of, weight, of) + torch.eye(FACTORS)
        user = torch.linalg.solve(gram, torch.einsum("elf,el->ef", of, pulls))
        items = torch.from_numpy(data.items[chosen].astype(np.int64))
        clicked = torch.from_numpy(data.clicked[chosen].astype(np.float32))
        # What else the visit clicked stands for what it is about.
        about = setting[0] + setting[1] * torch.log1p(clicked.sum(1, keepdim=True) - clicked)
        log_chance = functional.logsigmoid(worth[items] + (user[:, None] * factors[items]).sum(-1))
        loss = _click_loss(log_chance + functional.logsigmoid(about) + places, clicked).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return pull.detach(), functional.softplus(raw).detach()
