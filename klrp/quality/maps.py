"""What is said of maps alone: where their relevance lies, how concentrated it is, how alike two of them are."""

from __future__ import annotations

import torch
from torch import Tensor

from klrp.errors import KlrpError


def inside(maps: Tensor, mask: Tensor, top: float | None = None) -> Tensor:
    r"""The part [n] of the positive relevance of ``maps`` [n, h, w] inside ``mask`` ([h, w] or [n, h, w], torch.bool).

    .. math:: \sum_{i ∈ M} R_i^+ \big/ \sum_i R_i^+

    It is the relevance mass accuracy of Arras et al. (2022). With ``top`` it is the part of the strongest pixels, that
    fraction of all, which asks for their order only; where several are as strong as the weakest of them, all count
    alike. A map without positive relevance has 0.
    """
    if mask.dtype != torch.bool or tuple(mask.shape[-2:]) != tuple(maps.shape[-2:]):
        raise KlrpError.value(
            f"mask: got {mask.dtype} {tuple(mask.shape)}; expected torch.bool, the shape of the maps {tuple(maps.shape)}."
        )
    flat = maps.double().flatten(1)
    chosen = mask.expand_as(maps).flatten(1)
    weights = flat.clamp(min=0) if top is None else _strongest(flat, top)
    total = weights.sum(1)
    return torch.where(total > 0, (weights * chosen).sum(1) / total.where(total > 0, torch.ones(())), 0.0)


def _strongest(flat: Tensor, top: float) -> Tensor:
    """1 for the strongest pixels [n, p], 0 for the others, and a part for those that tie for the last places."""
    if not 0 < top <= 1:
        raise KlrpError.value(f"top: got {top}; expected a fraction above 0 and at most 1.")
    count = max(1, round(top * flat.shape[1]))
    last = flat.topk(count, 1).values[:, -1:]
    above, level = flat > last, flat == last
    return above.double() + level * (count - above.sum(1, keepdim=True)) / level.sum(1, keepdim=True)


def concentration(maps: Tensor) -> Tensor:
    r"""The Gini coefficient [n] of |R|, from 0 for a constant map to almost 1 for a single pixel.

    .. math:: \sum_i (2 i - p - 1)\, |R|_{(i)} \big/ \big(p \sum_i |R|_i\big)

    for the p pixels in rising order (Chalasani et al. 2020, who call it sparseness). An empty map has 0.
    """
    sizes = maps.double().abs().flatten(1).sort(1).values
    p = sizes.shape[1]
    places = torch.arange(1, p + 1, dtype=torch.float64, device=sizes.device)
    total = sizes.sum(1)
    gini = sizes @ (2 * places - p - 1) / (p * total.where(total > 0, torch.ones(())))
    return torch.where(total > 0, gini, 0.0)


def entropy(maps: Tensor, bins: int = 100) -> Tensor:
    """The entropy [n], in nats, of the histogram of each map's values between its extremes: its complexity."""
    flat = maps.double().flatten(1)
    low, high = flat.amin(1, keepdim=True), flat.amax(1, keepdim=True)
    width = (high - low).where(high > low, torch.ones(()))
    cells = ((flat - low) / width * bins).long().clamp(max=bins - 1)
    counts = torch.zeros(len(flat), bins, dtype=torch.float64, device=flat.device)
    parts = counts.scatter_add_(1, cells, torch.ones_like(flat)) / flat.shape[1]
    return torch.special.entr(parts).sum(1)


def correlation(maps: Tensor, others: Tensor) -> Tensor:
    """Pearson's r [n] of two maps of each image: 1 where both are constant, 0 where one of them is."""
    a, b = (m.double().flatten(1) for m in (maps, others))
    a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
    sizes = a.norm(dim=1), b.norm(dim=1)
    both, one = (sizes[0] == 0) & (sizes[1] == 0), (sizes[0] == 0) | (sizes[1] == 0)
    r = (a * b).sum(1) / (sizes[0] * sizes[1]).masked_fill(one, 1.0)
    return r.masked_fill(one, 0.0).masked_fill(both, 1.0)


def rank_correlation(maps: Tensor, others: Tensor) -> Tensor:
    """Spearman's ρ [n] of two maps of each image: `correlation` of the ranks, ties having their mean rank."""
    return correlation(_ranks(maps), _ranks(others))


def _ranks(maps: Tensor) -> Tensor:
    flat = maps.double().flatten(1).contiguous()
    ordered = flat.sort(1).values
    below, to = (torch.searchsorted(ordered, flat, right=right) for right in (False, True))
    return (below + to - 1).double() / 2
