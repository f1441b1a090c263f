"""Weights in the order in which the walk reads them: the target's channels side by side, in blocks.

    target channels    0 ... 63                 64 ... 127
    offset 0           source 0: 64 weights     source 0: 64 weights
                       source 1: 64 weights     source 1: 64 weights
                       ...                      ...
    offset 1           source 0: 64 weights     ...

A block of target channels has all its offsets one after the other: 64 x 9 x 512 float32, 1.2 MB, for the largest
convolution of VGG-16, which stay in L2 while all positions of a sample go by.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from klrp.kernels.cache import Cache
from klrp.kernels.threads import FAST, flat, parallel_for
from klrp.rules import Map

NARROW, WIDE = 16, 64  # target channels side by side: one and four vector registers of AVX-512
# What a weight is taken to be at most where finding the largest one would not pay.
ASSUMED = 2.0**64


class Weights(NamedTuple):
    """Blocks of ``lanes`` target channels, flat, with the strides of (group, block, offset, source channel).

    ``maxima`` and its strides hold the largest |w| of each (group, block, offset, source channel), ``largest``
    that of each (group, block, offset), and ``peak`` that of all.
    """

    flat: np.ndarray
    strides: tuple[int, ...]
    maxima: np.ndarray
    maxima_strides: tuple[int, ...]
    largest: np.ndarray
    lanes: int
    peak: float


def packed(
    cache: Cache | None, weight: Tensor, omega: Map, arrange: Callable[[Tensor], Tensor], layout: Hashable, often: bool
) -> Weights:
    """ω(w), arranged as [groups, source channels, target channels, offsets] and packed; from the cache if it is there.

    ``layout`` says what ``arrange`` does.
    """

    def make() -> tuple[Weights, int]:
        found = pack(arrange(omega(weight).detach()), often)
        same = np.may_share_memory(found.flat, flat(weight).values)  # no copy, so that it takes no memory
        return found, found.maxima.nbytes + found.largest.nbytes + (0 if same else found.flat.nbytes)

    return make()[0] if cache is None else cache.get(weight, ("lists", omega, layout, often), make)


def pack(w: Tensor, often: bool = True) -> Weights:
    """Weights [groups, source channels, target channels, offsets] for the walk.

    ``often`` says that they are used for several samples. To find the largest weights of a dense matrix
    for one sample alone takes as long as to use them all.
    """
    groups, sources, targets, offsets = w.shape
    dense = groups == offsets == 1 and w.stride(2) == 1
    fits = targets % WIDE != 0 and targets % NARROW == 0
    # For a single use a copy costs more than narrow blocks.
    lanes = NARROW if targets <= NARROW or dense and fits and not often else WIDE
    blocks = -(-targets // lanes)
    if dense and targets % lanes == 0:
        # A row of a dense matrix holds its blocks one after the other: no copy.
        values, (_, stride, _, _) = flat(w)
        strides = 0, lanes, 0, stride
        if often:
            rows = w.reshape(sources, blocks, lanes)  # torch's norm for infinity takes twenty times as long
            maxima = torch.maximum(rows.amax(2), -rows.amin(2)).T.reshape(1, blocks, 1, sources).contiguous()
        else:
            maxima = w.new_tensor(torch.finfo(w.dtype).max).expand(1, blocks, 1, sources)
    else:
        often, copy = True, w.new_empty(groups, blocks, offsets, sources, lanes)
        maxima = w.new_empty(groups, blocks, offsets, sources)
        sizes = sources, targets, offsets
        parallel_for(_packer(), groups * blocks, sizes, *flat(w), copy.numpy(), maxima.numpy())
        values, strides = copy.flatten().numpy(), tuple(copy.stride())[:4]
    largest = maxima.amax(3)
    peak = float(largest.amax()) if often and largest.numel() else ASSUMED
    return Weights(values, strides, *flat(maxima), largest.numpy(), lanes, peak)


@cache
def _packer() -> Callable:
    from numba import njit

    @njit(cache=True, nogil=True, fastmath=FAST)
    def fill(first, last, sizes, w, strides, packed, maxima):
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
                    maxima[g, b, u, k] = top

    return fill
