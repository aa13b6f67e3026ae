"""The ranker's losses (SPEC R6, formulas: loss). All take logits over candidates and skip lists without a positive.

in-session listwise   each positive against the list's negatives: viewed, not acted on
sampled softmax       each positive against sampled items, each corrected by log Q of being sampled
weighted BCE          per place; positives weigh 1 + κ·log(1 + repeat_count)
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

_FAR = -1e9


def hard_negatives(positive: Tensor, shown: Tensor, near: int) -> Tensor:  # (E, P), (E, P) -> (E, P)
    """The shown places within `near` of a positive that are none themselves: they were looked at, and passed over."""
    reach = functional.max_pool1d(positive.float()[:, None], 2 * near + 1, stride=1, padding=near)[:, 0] > 0
    return reach & shown & ~positive


def listwise(logits: Tensor, positive: Tensor, shown: Tensor, near: int = 2, extra: float = 1.0) -> Tensor:
    """− log softmax of each positive over itself and the list's negatives; those near it weigh 1 + `extra`."""
    negative = shown & ~positive
    weight = negative.float() + extra * hard_negatives(positive, shown, near).float()
    pressure = torch.logsumexp(
        torch.where(negative, logits + torch.log(weight.clamp(min=1e-9)), _FAR), dim=1, keepdim=True
    )
    loss = functional.softplus(pressure - logits)  # = −log( e^s / (e^s + Σ w e^n) )
    return _mean(loss, positive & negative.any(dim=1, keepdim=True))


def sampled_softmax(positives: Tensor, positive: Tensor, negatives: Tensor, log_q: Tensor, hit: Tensor) -> Tensor:
    """(E, P) logits of shown places, (E, M) logits of sampled items and their log Q; `hit` marks samples that are positives.

    logQ correction: a sampled item's logit less log(M Q), so that the sum estimates the one over all items.
    """
    corrected = torch.where(hit, _FAR, negatives - log_q - torch.log(torch.tensor(float(negatives.shape[1]))))
    pressure = torch.logsumexp(corrected, dim=1, keepdim=True)
    return _mean(functional.softplus(pressure - positives), positive)


def weighted_bce(logits: Tensor, positive: Tensor, shown: Tensor, repeats: Tensor, kappa: float) -> Tensor:
    """`repeats` is log(1 + repeat_count) of the place's item."""
    weight = torch.where(positive, 1 + kappa * repeats, 1.0)
    return _mean(
        weight * functional.binary_cross_entropy_with_logits(logits, positive.float(), reduction="none"), shown
    )


def _mean(values: Tensor, chosen: Tensor) -> Tensor:
    return torch.where(chosen, values, 0.0).sum() / chosen.sum().clamp(min=1)
