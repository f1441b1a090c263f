"""Sparse lists, compiled by Numba: what is left of a layer's edges when zeros are skipped.

For each upper position there is a list of the upper neurons k that have relevance, largest key first.
Each lower position goes through the lists of its window with a block of channels side by side, one in
each lane of the vector unit: one product and one comparison for an edge. It leaves a list as soon as
nothing further in it can change a lane.

Numba is the extra ``fast``; without it the generic kernel does the same work.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib.util import find_spec
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

AVAILABLE = find_spec("numba") is not None
# NaN never enters and the sign of a zero does not matter; sums keep their order.
FAST = {"nnan", "nsz"}
LEVELS = 64  # half octaves below the largest key of a list
REACH, MAX, COUNT, MINIMUM, BOUNDED, PLUS = range(6)


class Lists(NamedTuple):
    """The upper neurons with relevance: list i is the slice starts[i]:starts[i + 1] of the others."""

    starts: np.ndarray
    index: np.ndarray
    value: np.ndarray
    weight: np.ndarray
    bound: np.ndarray


def lists_of(kind: int, r: Tensor, z: Tensor, zero: float, scale: float = 1.0) -> Lists:
    """One list for each row of r and z [..., k]: what is left where r is ``zero`` or z infinite.

    What a list holds, and the key by which it falls, depend on the kind of walk:

    * REACH, COUNT: values scale / z, weights r; by the size of scale / z.
    * MAX: values r · scale / z; by the value.
    * MINIMUM, BOUNDED: values scale / z, weights r; by the weight.
    * PLUS: values r − log(z / scale), in no order.

    ``bound`` at a place is no less than any key from there on. The order is that of the half octave.
    """
    r, z = (x.flatten(0, -2).contiguous().numpy() for x in (r, z))
    count, fill = _builders(kind)
    starts = np.zeros(len(z) + 1, np.int64)
    zero = r.dtype.type(zero)
    _shared(count, len(z), r, z, zero, starts)
    np.cumsum(starts, out=starts)
    index, value = np.empty(starts[-1], np.int32), np.empty(starts[-1], z.dtype)
    weight = np.empty(starts[-1], r.dtype) if kind in (COUNT, MINIMUM, BOUNDED) else value
    bound = np.empty(starts[-1], z.dtype)
    # Half octaves: the exponent and the first bit behind it.
    shift = 22 if z.dtype == np.float32 else 51
    bits = np.int32 if z.dtype == np.float32 else np.int64
    scale = z.dtype.type(scale)
    bound_bits = bound.view(bits)
    _shared(fill, len(z), r, z, zero, scale, shift, starts, index, value, weight, bound_bits)
    return Lists(starts, index, value, weight, bound)


class Weights(NamedTuple):
    """Weights with the target's channels last, in blocks of ``lanes``: flat, with the strides of
    (group, block, offset, source channel), and the largest |w| of each (group, block, offset)."""

    flat: np.ndarray
    strides: tuple[int, int, int, int]
    largest: np.ndarray
    lanes: int


def pack(w: Tensor, often: bool = True) -> Weights:
    """Weights [groups, source channels, target channels, offsets] for the kernels.

    ``often`` says that they are used for several samples. To find the largest weight of a dense matrix for
    one sample alone takes as long as to use them all.
    """
    g, k, c, o = w.shape
    lanes = 64 if c > 16 else 16
    blocks = -(-c // lanes)
    if c % lanes:
        w = torch.nn.functional.pad(w, (0, 0, 0, blocks * lanes - c))
    w = w.reshape(g, k, blocks, lanes, o)
    if o > 1 or g > 1 or not w.is_contiguous():
        w = w.permute(0, 2, 4, 1, 3).contiguous()
        strides = tuple(w.stride())[:4]
        largest = torch.stack(torch.aminmax(w.flatten(3), dim=3)).abs().amax(0)
    else:  # a row of a dense matrix holds its blocks one after the other: no copy
        strides = (0, lanes, 0, blocks * lanes)
        top = torch.stack(torch.aminmax(w)).abs().amax() if often else w.new_tensor(torch.inf)
        largest = top.repeat(1, blocks, 1)
    return Weights(w.flatten().numpy(), strides, largest.numpy(), lanes)


def run(
    kind: int,
    lists: Lists,
    weights: Weights,
    a: Tensor,
    rows: np.ndarray,
    columns: np.ndarray,
    source: tuple[int, int],
    out: torch.dtype,
    cut: float = 0.0,
) -> Tensor:
    """⊕ over the lists for each target [n, y, x, groups, channels], whose activations are ``a``.

    ``rows`` [y, kernel rows] and ``columns`` [x, kernel columns] say which of the ``source`` positions an
    offset leads to, −1 for none. What comes out depends on the kind; a target with a ≤ 0 gets zero:

    * REACH: whether a w·value ≥ cut for any entry.
    * COUNT: Σ of the weights where a w·value ≥ cut.
    * MAX: a · max(0, w·value).
    * MINIMUM, BOUNDED: max of min(d, weight), of d + weight − 1, with d = a w·value.
    * PLUS: log a + max of w + value, where w are logarithms.
    """
    c, lanes = a.shape[-1], weights.lanes
    if c % lanes:
        a = torch.nn.functional.pad(a, (0, -c % lanes))
    a, result = a.contiguous(), torch.empty(a.shape, dtype=out)
    cut = a.numpy().dtype.type(cut)
    n, y, _, g, padded = a.shape
    _shared(
        _walker(kind, lanes), g * (padded // lanes) * n * y,
        *lists, a.numpy(), cut, weights.flat, np.array(weights.strides), weights.largest,
        rows, columns, *source, result.numpy(),
    )  # fmt: skip
    return result[..., :c]


def row_maximum(x: Tensor, w: Tensor) -> Tensor:
    """max_j x_j w_kj [n, k], for x [n, j] and w [k, j] from 0 up."""
    result = torch.empty(len(x), len(w), dtype=x.dtype)
    arrays = x.contiguous().numpy(), w.contiguous().numpy(), result.numpy()
    _shared(_row_walker(), len(w), *arrays)
    return result


def _shared(work: Callable, tasks: int, *arguments: object) -> None:
    """work(first, last, ...) over all tasks, by as many threads as torch has; the result is the same.

    Numba's own threads would double the time to compile, and may not be entered from two threads at once.
    """
    threads = torch.get_num_threads()
    if threads == 1 or tasks < threads:
        work(0, tasks, *arguments)
        return
    pieces = min(tasks, 4 * threads)
    ends = [tasks * i // pieces for i in range(pieces + 1)]
    with ThreadPoolExecutor(threads) as pool:
        for piece in [pool.submit(work, *span, *arguments) for span in pairwise(ends)]:
            piece.result()


@cache
def _builders(kind: int) -> tuple[Callable, Callable]:
    from numba import njit

    product, logs = kind == MAX, kind == PLUS
    by_weight, weighted = kind in (MINIMUM, BOUNDED), kind in (COUNT, MINIMUM, BOUNDED)

    @njit(cache=True, nogil=True)
    def count(first, last, r, z, zero, starts):
        for i in range(first, last):
            found = 0
            for k in range(z.shape[1]):
                found += r[i, k] != zero and z[i, k] != np.inf
            starts[i + 1] = found

    @njit(cache=True, nogil=True, error_model="numpy")
    def fill(first, last, r, z, zero, scale, shift, starts, index, value, weight, bound):
        for i in range(first, last):
            start, size = starts[i], starts[i + 1] - starts[i]
            if size == 0:
                continue
            # The entries in the order of k, with their keys; then a counting sort by level.
            where, values = np.empty(size, np.int32), np.empty(size, z.dtype)
            keys = np.ones(size, z.dtype)
            at = 0
            for k in range(z.shape[1]):
                if r[i, k] != zero and z[i, k] != np.inf:
                    where[at] = k
                    if logs:
                        values[at] = r[i, k] - np.log(z[i, k] / scale)
                    elif product:
                        values[at] = r[i, k] * (scale / z[i, k])
                        keys[at] = abs(values[at])
                    else:
                        values[at] = scale / z[i, k]
                        keys[at] = r[i, k] if by_weight else abs(values[at])
                    at += 1
            bits = keys.view(bound.dtype)
            top, places = 0, np.zeros(LEVELS + 1, np.int64)
            for e in range(size):
                top = max(top, bits[e] >> shift)
            for e in range(size):
                places[min(top - (bits[e] >> shift), LEVELS - 1) + 1] += 1
            for level in range(LEVELS):
                places[level + 1] += places[level]
            for e in range(size):
                level = min(top - (bits[e] >> shift), LEVELS - 1)
                at = start + places[level]
                places[level] += 1
                index[at], value[at] = where[e], values[e]
                bound[at] = max(top - level + 1, 0) << shift
                if weighted:
                    weight[at] = r[i, where[e]]

    return count, fill


@cache
def _row_walker() -> Callable:
    from numba import njit

    @njit(cache=True, nogil=True, fastmath=FAST)
    def walk(first, last, x, w, out):
        for k in range(first, last):
            row = w[k]
            for n in range(x.shape[0]):
                entry, best = x[n], x.dtype.type(0)
                for j in range(row.shape[0]):
                    best = max(best, entry[j] * row[j])
                out[n, k] = best

    return walk


@cache
def _walker(kind: int, lanes: int) -> Callable:
    """The compiled walk for one kind and one block size."""
    from numba import njit

    # Constants of the compiled code: what does not belong to the kind is compiled away.
    reach, maximum, count = kind == REACH, kind == MAX, kind == COUNT
    minimum, bounded = kind == MINIMUM, kind == BOUNDED
    stops = kind in (REACH, COUNT)
    ordered = kind != PLUS

    @njit(cache=True, nogil=True, fastmath=FAST, error_model="numpy")
    def walk(
        first, last, starts, index, value, weight, bound, a, cut, w, strides, largest,
        rows, columns, height, width, out,
    ):  # fmt: skip
        samples, ys, xs, groups, channels = a.shape
        blocks = channels // lanes
        never, lowest = a.dtype.type(np.inf), a.dtype.type(-np.inf)
        nothing, unit = a.dtype.type(0), a.dtype.type(1)
        # Local copies: the compiler then knows that lanes lie side by side.
        steer = np.empty(lanes, a.dtype)
        best = np.empty(lanes, a.dtype)
        total = np.empty(lanes, np.float64 if count else np.int8)
        # A block of weights stays in the cache for all positions of a sample.
        for task in range(first, last):
            y = task % ys
            n = task // ys % samples
            b = task // (ys * samples) % blocks
            g = task // (ys * samples * blocks)
            start = b * lanes
            for x in range(xs):
                floor = never
                for lane in range(lanes):
                    activation = a[n, y, x, g, start + lane]
                    # A lane without activation never holds the others up.
                    if stops:
                        steer[lane] = cut / activation if activation > 0 else never
                        best[lane] = nothing
                        floor = min(floor, steer[lane])
                    elif ordered:
                        steer[lane] = activation
                        best[lane] = nothing if activation > 0 else never
                        floor = min(floor, best[lane])
                    else:
                        best[lane] = lowest
                    if count:
                        total[lane] = 0
                offset = -1
                for u in range(rows.shape[1]):
                    for v in range(columns.shape[1]):
                        offset += 1
                        p, q = rows[y, u], columns[x, v]
                        if p < 0 or q < 0 or (floor == never and ordered):
                            continue
                        row = ((n * height + p) * width + q) * groups + g
                        i, end = starts[row], starts[row + 1]
                        top = largest[g, b, offset] if reach or maximum or count else unit
                        base = g * strides[0] + b * strides[1] + offset * strides[2]
                        while i < end:
                            reachable = bound[i] * top
                            if (stops and reachable < floor) or (
                                ordered and not stops and reachable <= floor
                            ):
                                break
                            stop = min(i + 8, end)
                            while i + 4 <= stop:
                                w0 = w[base + index[i] * strides[3] :][:lanes]
                                w1 = w[base + index[i + 1] * strides[3] :][:lanes]
                                w2 = w[base + index[i + 2] * strides[3] :][:lanes]
                                w3 = w[base + index[i + 3] * strides[3] :][:lanes]
                                v0, v1, v2, v3 = value[i], value[i + 1], value[i + 2], value[i + 3]
                                r0, r1, r2, r3 = (
                                    weight[i],
                                    weight[i + 1],
                                    weight[i + 2],
                                    weight[i + 3],
                                )
                                for lane in range(lanes):
                                    if ordered:
                                        e0, e1 = v0 * w0[lane], v1 * w1[lane]
                                        e2, e3 = v2 * w2[lane], v3 * w3[lane]
                                    else:
                                        e0, e1 = v0 + w0[lane], v1 + w1[lane]
                                        e2, e3 = v2 + w2[lane], v3 + w3[lane]
                                    t = steer[lane]
                                    if count:
                                        c0, c1 = (r0 if e0 >= t else 0.0), (r1 if e1 >= t else 0.0)
                                        c2, c3 = (r2 if e2 >= t else 0.0), (r3 if e3 >= t else 0.0)
                                        total[lane] += (c0 + c1) + (c2 + c3)
                                        continue
                                    if minimum:
                                        e0, e1 = min(t * e0, r0), min(t * e1, r1)
                                        e2, e3 = min(t * e2, r2), min(t * e3, r3)
                                    if bounded:  # d + r − 1, rounded once
                                        d0, d1, d2, d3 = t * e0, t * e1, t * e2, t * e3
                                        e0 = min(d0, r0) - (unit - max(d0, r0))
                                        e1 = min(d1, r1) - (unit - max(d1, r1))
                                        e2 = min(d2, r2) - (unit - max(d2, r2))
                                        e3 = min(d3, r3) - (unit - max(d3, r3))
                                    best[lane] = max(best[lane], max(max(e0, e1), max(e2, e3)))
                                i += 4
                            while i < stop:
                                w0 = w[base + index[i] * strides[3] :][:lanes]
                                v0, r0 = value[i], weight[i]
                                for lane in range(lanes):
                                    e0 = v0 * w0[lane] if ordered else v0 + w0[lane]
                                    t = steer[lane]
                                    if count:
                                        total[lane] += r0 if e0 >= t else 0.0
                                        continue
                                    if minimum:
                                        e0 = min(t * e0, r0)
                                    if bounded:
                                        d0 = t * e0
                                        e0 = min(d0, r0) - (unit - max(d0, r0))
                                    best[lane] = max(best[lane], e0)
                                i += 1
                            if reach:
                                floor = never
                                for lane in range(lanes):
                                    floor = min(
                                        floor, never if best[lane] >= steer[lane] else steer[lane]
                                    )
                            elif ordered and not count:
                                floor = never
                                for lane in range(lanes):
                                    floor = min(floor, best[lane])
                for lane in range(lanes):
                    activation = a[n, y, x, g, start + lane]
                    if reach:
                        out[n, y, x, g, start + lane] = best[lane] >= steer[lane]
                    elif count:
                        out[n, y, x, g, start + lane] = total[lane]
                    elif ordered:
                        found = activation * best[lane] if maximum else best[lane]
                        out[n, y, x, g, start + lane] = found if activation > 0 else nothing
                    else:
                        found = best[lane] + np.log(activation) if activation > 0 else lowest
                        out[n, y, x, g, start + lane] = found

    return walk
