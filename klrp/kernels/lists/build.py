"""Sparse lists: for each upper position the neurons k that have relevance, the largest key first.

Maps come as tensors [samples, y, x, groups, channels] in any order in memory. Of one with five channels, of which
neurons with R_k = 0 are marked by a dot, the lists of three positions are

    k        0    1    2    3    4              starts   0       3   4       6
    p = 0    .7   .    .1   .    .9             index    4 0 2   3   1 4         and a last entry, index 0
    p = 1    .    .    .    .4   .              value   .9 .7 .1 .4 .8 .2        and value 0, which is neutral
    p = 2    .    .8   .    .    .2             bound   1. .75 .13 .5 1. .25     no less than any key from there on

They are made in strips of positions, each by a counting sort on the half octave (x ... √2 x) of the key.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from klrp.kernels import BALANCE, BOUNDED, COUNT, EXPONENTIAL, MAX, MINIMUM
from klrp.kernels.threads import flat, parallel_for

# Neurons that are sorted at once: 128 KB of float32, and as much again for their levels and positions, stay in L2.
STRIP = 1 << 15
LEVELS = 64  # half octaves below the largest key of a strip: the last one takes what lies below 2^-32 of it


class Lists(NamedTuple):
    """The upper neurons with relevance: list i is the slice starts[i]:starts[i + 1] of the other arrays.

    ``share`` is the largest |c / z| or |r c / z| that went into values, ``z`` the largest |z|, ``spread`` the largest
    |r − best|.
    """

    starts: np.ndarray
    index: np.ndarray
    value: np.ndarray
    weight: np.ndarray
    bound: np.ndarray
    share: float
    z: float
    spread: float


def sparse_lists(
    kind: int, r: Tensor, z: Tensor, zero: float, margin: Tensor, scale: float = 1.0, best: Tensor | None = None
) -> Lists:
    """One list for each position and group of the maps r and z: what is left where r is ``zero``.

    ``margin`` [samples, positions] is the stabiliser ε: z stands for z ± ε, with the sign of z, and for ∞ where that
    is too small for a normal float. What a list holds, and the key by which it falls, depend on the kind:

    * REACH, COUNT, BALANCE: values scale / z, weights r; by the size of scale / z.
    * MAX: values r · scale / z, in the higher precision of the two; by the value.
    * EXPONENTIAL: values exp(−|r − best|) · scale / z, in double precision, where ``best`` [samples, positions] is the
      largest r of the sample, or the least; by the value.
    * MINIMUM, BOUNDED: values scale / z, weights r; by the weight.

    ``bound`` at a place is no less than any key from there on. The order is that of the half octave.
    """
    count, fill = _builders(kind)
    r, z = _flat_plane(r), _flat_plane(z)
    n, positions, groups, channels = z.shape
    number = flat(z).values.dtype.type
    strip = min(positions, max(16, STRIP // channels))
    strips = -(-positions // strip)
    sizes = strip, strips, positions, groups, channels
    (r_at, r_strides), (z_at, z_strides) = flat(r), flat(z)
    marks, mark_strides = flat(r if r.dtype == torch.bool else r != zero)
    starts = np.zeros(n * positions * groups + 1, np.int64)
    parallel_for(count, n * strips, sizes, marks, mark_strides, starts)
    np.cumsum(starts, out=starts)
    length = starts[-1] + 1  # the last entry is neutral
    index = np.empty(length, np.int32)
    higher = {MAX: r_at.dtype, EXPONENTIAL: np.float64}.get(kind, z_at.dtype)
    value = np.empty(length, np.promote_types(higher, z_at.dtype))
    weight = np.empty(length, r_at.dtype) if kind in (COUNT, BALANCE, MINIMUM, BOUNDED) else value
    bound = np.empty(length, value.dtype)
    index[-1] = value[-1] = weight[-1] = bound[-1] = 0
    extremes = np.zeros((n * strips * groups, 3), value.dtype)
    # Half octaves: the exponent and the first bit behind it.
    shift, bits = (22, np.int32) if value.itemsize == 4 else (51, np.int64)
    limits = number(scale), number(torch.finfo(z.dtype).tiny)
    parallel_for(
        fill, n * strips, sizes, marks, mark_strides, r_at, r_strides, z_at, z_strides, *flat(margin.to(z.dtype)),
        *flat(margin if best is None else best), *limits, shift, starts, index, value, weight, bound.view(bits), extremes,
    )  # fmt: skip
    return Lists(starts, index, value, weight, bound, *extremes.max(0, initial=0).tolist())


def _flat_plane(x: Tensor) -> Tensor:
    """A map [samples, y, x, groups, channels] with the positions of the plane on one axis."""
    n, ys, xs, groups, channels = x.shape
    return x.reshape(n, ys * xs, groups, channels)  # a view, unless the map has gaps


@cache
def _builders(kind: int) -> tuple[Callable, Callable]:
    from numba import njit

    exponential, product = kind == EXPONENTIAL, kind == MAX
    by_weight, weighted = kind in (MINIMUM, BOUNDED), kind in (COUNT, BALANCE, MINIMUM, BOUNDED)

    # A task is a strip of positions: along it memory is read in one direction, whatever the order of the axes.
    @njit(cache=True, nogil=True)
    def count(first, last, sizes, marks, strides, starts):
        strip, strips, positions, groups, channels = sizes
        found = np.empty(strip, np.int32)
        for task in range(first, last):
            n, p0 = task // strips, task % strips * strip
            size = min(strip, positions - p0)
            for g in range(groups):
                found[:] = 0
                base = n * strides[0] + p0 * strides[1] + g * strides[2]
                for k in range(channels):
                    at = base + k * strides[3]
                    if strides[1] == 1:
                        for p in range(size):
                            found[p] += marks[at + p]
                    else:
                        for p in range(size):
                            found[p] += marks[at + p * strides[1]]
                for p in range(size):
                    starts[(n * positions + p0 + p) * groups + g + 1] = found[p]

    @njit(cache=True, nogil=True, error_model="numpy")
    def fill(
        first, last, sizes, marks, mark_strides, r, r_strides, z, z_strides, margin, margin_strides,
        best, best_strides, scale, tiny, shift, starts, index, value, weight, bound, extremes,
    ):  # fmt: skip
        strip, strips, positions, groups, channels = sizes
        # The entries of a strip, in the order of k; one more place takes what is left out.
        position = np.empty(strip * channels + 1, np.int32)
        share, key = np.empty(strip * channels, value.dtype), np.empty(1, value.dtype)
        weights = np.empty(strip * channels if weighted else 0, r.dtype)
        level, ends = np.empty(strip * channels, np.int32), np.empty(channels, np.int64)
        places, bits = np.empty((strip, LEVELS), np.int32), key.view(bound.dtype)
        for task in range(first * groups, last * groups):
            g, n, p0 = task % groups, task // groups // strips, task // groups % strips * strip
            r_base = n * r_strides[0] + p0 * r_strides[1] + g * r_strides[2]
            m_base = n * mark_strides[0] + p0 * mark_strides[1] + g * mark_strides[2]
            z_base = n * z_strides[0] + p0 * z_strides[1] + g * z_strides[2]
            here = min(strip, positions - p0)
            origin = starts[(n * positions + p0) * groups + g]
            begin, size, top = 0, 0, 0
            largest_share = spread = abs(value[-1])
            largest_total = abs(z.dtype.type(0))
            for k in range(channels):
                r_k, z_k = r_base + k * r_strides[3], z_base + k * z_strides[3]
                m_k = m_base + k * mark_strides[3]
                for p in range(here):  # without a branch: half of them would be guessed wrong
                    position[size] = p
                    size += marks[m_k + p * mark_strides[1]]
                for e in range(begin, size):
                    relevance = r[r_k + position[e] * r_strides[1]]
                    total = z[z_k + position[e] * z_strides[1]]
                    at = p0 + position[e]
                    epsilon = margin[n * margin_strides[0] + at * margin_strides[1]]
                    total = total - epsilon if total < 0 else total + epsilon
                    dead = abs(total) < tiny
                    if exponential:
                        below = abs(value.dtype.type(relevance) - best[n * best_strides[0] + at * best_strides[1]])
                        spread = max(spread, below)
                        share[e] = 0 if dead else np.exp(-below) * (scale / total)
                    elif product:
                        share[e] = 0 if dead else relevance * (scale / total)
                    else:
                        share[e] = 0 if dead else scale / total
                    key[0] = relevance if by_weight else abs(share[e])
                    largest_share = max(largest_share, abs(share[e]))
                    largest_total = max(largest_total, abs(total))
                    if weighted:
                        weights[e] = relevance
                    level[e] = bits[0] >> shift
                    top = max(top, level[e])
                begin = ends[k] = size
            extremes[task, 0], extremes[task, 1], extremes[task, 2] = largest_share, largest_total, spread
            # Then a counting sort of all lists of the strip at once.
            places[:] = 0
            for e in range(size):
                level[e] = min(top - level[e], LEVELS - 1)
                places[position[e], level[e]] += 1
            for p in range(here):
                at = starts[(n * positions + p0 + p) * groups + g] - origin
                for d in range(LEVELS):
                    found = places[p, d]
                    places[p, d] = at
                    at += found
            e = 0
            for k in range(channels):
                while e < ends[k]:
                    d, p = level[e], position[e]
                    at = origin + places[p, d]
                    places[p, d] += 1
                    index[at], value[at] = k, share[e]
                    bound[at] = max(top - d + 1, 0) << shift
                    if weighted:
                        weight[at] = weights[e]
                    e += 1

    return count, fill
