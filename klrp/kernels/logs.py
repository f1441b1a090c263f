"""Logarithms as numbers again, where double precision holds them: a sum becomes a product, which kernels are made for."""

from __future__ import annotations

import torch
from torch import Tensor

# exp(−600) times the smallest share of single precision is still a normal float64.
SPREAD = 600.0


def tops(r: Tensor) -> Tensor | None:
    """The largest R of each sample [N] of a map [N, ...], and 0 where there is none above −∞.

    None if a finite R lies so far below that exp(R − top) is no number of double precision.
    """
    flat = r.flatten(1)
    top = flat.amax(1)
    top = torch.where(top == -torch.inf, torch.zeros_like(top), top)
    far = (flat < (top - SPREAD)[:, None]) & (flat > -torch.inf)
    return None if bool(far.any()) else top


def along(top: Tensor, map: Tensor) -> Tensor:
    """The tops [N] as [N, 1, ...], to be added to a map [N, ...]."""
    return top.to(map.dtype).reshape(-1, *(1,) * (map.ndim - 1))
