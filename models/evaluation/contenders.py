"""The models that `riffle evaluate` knows, by name. Each is imported when it is asked for: most need the extra `train`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from models.baselines.contract import NextItem, Reranker


def next_item(name: str) -> Callable[[int], NextItem]:
    """Seed -> a model that is not fitted. Raises KeyError, or ModuleNotFoundError where torch is not installed."""
    return _NEXT_ITEM[name]()


def reranker(name: str) -> Callable[[int], Reranker]:
    """Seed -> a model that is not fitted. Raises KeyError, or ModuleNotFoundError where a package is not installed."""
    return _RERANKERS[name]()


def _popularity() -> Callable[[int], NextItem]:
    from models.baselines.popularity import Popularity

    return lambda _seed: Popularity()


def _last_in_session() -> Callable[[int], NextItem]:
    from models.baselines.popularity import LastInteracted

    return lambda _seed: LastInteracted()


def _item_knn() -> Callable[[int], NextItem]:
    from models.baselines.knn import ItemKNN

    return lambda _seed: ItemKNN()


def _v_sknn() -> Callable[[int], NextItem]:
    from models.baselines.tuning import TunedVSKNN

    return lambda _seed: TunedVSKNN()


def _gru4rec() -> Callable[[int], NextItem]:
    from models.baselines.gru4rec import GRU4Rec

    return lambda seed: GRU4Rec(seed=seed)


def _sasrec() -> Callable[[int], NextItem]:
    from models.baselines.sasrec import SASRec

    return lambda seed: SASRec(seed=seed)


def _dual_next_item() -> Callable[[int], NextItem]:
    from models.dual.next_item import DualSequence

    return lambda seed: DualSequence(seed=seed)


def _as_displayed() -> Callable[[int], Reranker]:
    from models.baselines.orders import AsDisplayed

    return lambda _seed: AsDisplayed()


def _most_clicked() -> Callable[[int], Reranker]:
    from models.baselines.orders import MostClicked

    return lambda _seed: MostClicked()


def _last_in_list() -> Callable[[int], Reranker]:
    from models.baselines.orders import LastInteracted

    return lambda _seed: LastInteracted()


def _lightgbm() -> Callable[[int], Reranker]:
    from models.baselines.trees import LambdaMART

    return lambda seed: LambdaMART(seed=seed)


def _dual_reranker() -> Callable[[int], Reranker]:
    from models.dual.rerank import DualSequence

    return lambda seed: DualSequence(seed=seed)


def _dual_without(**off: Any) -> Callable[[], Callable[[int], Reranker]]:
    """For the ablation: the dual-sequence ranker with one part off."""

    def known() -> Callable[[int], Reranker]:
        from models.dual.ranker import DualSettings
        from models.dual.rerank import DualSequence

        return lambda seed: DualSequence(DualSettings()._replace(**off), seed)

    return known


_NEXT_ITEM = {
    "dual_sequence": _dual_next_item,
    "sasrec": _sasrec,
    "gru4rec": _gru4rec,
    "v_sknn": _v_sknn,
    "item_knn": _item_knn,
    "last_interacted": _last_in_session,
    "popularity": _popularity,
}
_RERANKERS = {
    "dual_sequence": _dual_reranker,
    "dual_without_sequences": _dual_without(sequences=False),
    "dual_without_bins": _dual_without(bins_on=False),
    "dual_of_one_member": _dual_without(members=1),
    "dual_untaught": _dual_without(taught=0.0),
    "lightgbm": _lightgbm,
    "last_interacted": _last_in_list,
    "popularity": _most_clicked,
    "as_displayed": _as_displayed,
}
NEXT_ITEM, RERANKERS = tuple(_NEXT_ITEM), tuple(_RERANKERS)
