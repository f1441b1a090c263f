"""Weights in the order in which the walk reads them: the target's channels side by side, in blocks."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from klrp.kernels.compiled import FAST, flat, shared

NARROW, WIDE = 16, 64  # target channels side by side


class Weights(NamedTuple):
    """Blocks of ``lanes`` target channels, flat, with the strides of (group, block, offset, source channel).

    ``tops`` and its strides hold the largest |w| of each (group, block, offset, source channel), and
    ``largest`` that of each (group, block, offset).
    """

    flat: np.ndarray
    strides: tuple[int, ...]
    tops: np.ndarray
    top_strides: tuple[int, ...]
    largest: np.ndarray
    lanes: int


def pack(w: Tensor, often: bool = True) -> Weights:
    """Weights [groups, source channels, target channels, offsets] for the walk.

    ``often`` says that they are used for several samples. To find the largest weights of a dense matrix
    for one sample alone takes as long as to use them all.
    """
    groups, sources, targets, offsets = w.shape
    lanes = NARROW if targets <= NARROW else WIDE
    blocks = -(-targets // lanes)
    if groups == offsets == 1 and targets % lanes == 0 and w.stride(2) == 1:
        # A row of a dense matrix holds its blocks one after the other: no copy.
        values, (_, stride, _, _) = flat(w)
        strides = 0, lanes, 0, stride
        if often:
            tops = torch.linalg.vector_norm(w.reshape(sources, blocks, lanes), torch.inf, dim=2)
            tops = tops.T.reshape(1, blocks, 1, sources).contiguous()
        else:
            tops = w.new_tensor(torch.finfo(w.dtype).max).expand(1, blocks, 1, sources)
    else:
        packed = w.new_empty(groups, blocks, offsets, sources, lanes)
        tops = w.new_empty(groups, blocks, offsets, sources)
        sizes = sources, targets, offsets
        shared(_packer(), groups * blocks, sizes, *flat(w), packed.numpy(), tops.numpy())
        values, strides = packed.flatten().numpy(), tuple(packed.stride())[:4]
    return Weights(values, strides, *flat(tops), tops.amax(3).numpy(), lanes)


@cache
def _packer() -> Callable:
    from numba import njit

    @njit(cache=True, nogil=True, fastmath=FAST)
    def fill(first, last, sizes, w, strides, packed, tops):
        sources, targets, offsets = sizes
        blocks, lanes = packed.shape[1], packed.shape[4]
        for task in range(first, last):
            g, b = task // blocks, task % blocks
            for k in range(sources):
                for lane in range(lanes):
                    j = b * lanes + lane
                    at = g * strides[0] + k * strides[1] + j * strides[2]
                    for u in range(offsets):
                        value = w[at + u * strides[3]] if j < targets else w.dtype.type(0)
                        packed[g, b, u, k, lane] = value
                for u in range(offsets):
                    top = w.dtype.type(0)
                    for lane in range(lanes):
                        top = max(top, abs(packed[g, b, u, k, lane]))
                    tops[g, b, u, k] = top

    return fill
