"""The compiled walk: each lower position goes through the lists of its window, many channels side by side.

    lower row y, block of 64 channels        a strip of the vector unit's lanes for each position x
    for each position x of it
        for each offset of the kernel        the list of the upper position that it leads to
            for each entry (k, value)        lane j:  e = value · w[block, offset, k, j]   one product, one comparison
    the row of results, written back

It leaves a list as soon as nothing further in it can change a lane: bound · largest |w| of the block says so.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from torch import Tensor

from klrp.kernels import BALANCE, BOUNDED, COUNT, EXPONENTIAL, MAX, MINIMUM, REACH
from klrp.kernels.lists.build import Lists
from klrp.kernels.lists.pack import Weights
from klrp.kernels.threads import FAST, flat, parallel_for

# Positions whose channels are gathered at once where channels do not lie side by side in memory: 256 positions of
# 64 channels are 64 KB of float32.
STRIP = 256


def run(
    kind: int,
    lists: Lists,
    weights: Weights,
    a: Tensor,
    tables: tuple[np.ndarray, np.ndarray],
    source: tuple[int, int],
    out: Tensor,
    limits: np.ndarray,
    relu: bool = False,
    sign: int = 1,
) -> bool:
    """Write ⊕ over the lists to each target of ``out``, whose activations are ``a``; both have channels last.

    With ``relu`` the activations are what is positive of ``a``. ``out`` may be the memory of ``a``. ``tables`` [y,
    kernel rows] and [x, kernel columns] say which of the ``source`` positions an offset leads to, −1 for none.
    ``limits`` [samples · y] holds a number for each row. What is written depends on the kind; d = a w·value is a share:

    * REACH: whether d ≥ limit for any entry, where sign · a > 0.
    * COUNT: Σ of the weights where d ≥ limit, where sign · a > 0; BALANCE: less those where d ≤ −limit.
    * MAX, MINIMUM, BOUNDED: max of |d|, of min(|d|, weight), of |d| + weight − 1, and at most limit.
    * EXPONENTIAL: limit + sign · log max |d|, where that is at most 1.

    It returns whether there was an activation of the other sign, which REACH and COUNT leave out.
    """
    (a_at, a_strides), (out_at, out_strides) = flat(a), flat(out)
    number = a_at.dtype.type
    others = np.zeros(1, np.bool_)
    samples, ys, _, groups, channels = a.shape
    blocks = -(-channels // weights.lanes)
    parallel_for(
        _walker(kind, weights.lanes), groups * blocks * samples * ys,
        *lists[:5], tuple(a.shape), a_at, a_strides, number(0 if relu else -np.inf), number(sign),
        limits.astype(lists.value.dtype), *weights[:5], *tables, *source, out_at, out_strides, others,
    )  # fmt: skip
    return bool(others[0])


def row_maximum(x: Tensor, w: Tensor, wanted: Tensor) -> Tensor:
    """max_j |x_j w_kj| [n, k], for x [n, j] from 0 up and w [k, j]; 0 where it is not ``wanted`` [n, k]."""
    result = torch.empty(wanted.shape, dtype=x.dtype)
    arrays = (v.contiguous().numpy() for v in (x, w.detach(), wanted))
    parallel_for(_row_walker(), len(w), *arrays, result.numpy())
    return result


@cache
def _row_walker() -> Callable:
    from numba import njit

    @njit(cache=True, nogil=True, fastmath=FAST)
    def walk(first, last, x, w, wanted, out):
        for k in range(first, last):
            row = w[k]
            for n in range(x.shape[0]):
                entry, best = x[n], x.dtype.type(0)
                if wanted[n, k]:
                    for j in range(row.shape[0]):
                        best = max(best, entry[j] * abs(row[j]))
                out[n, k] = best

    return walk


@cache
def _walker(kind: int, lanes: int) -> Callable:
    """The compiled walk for one kind and one block size."""
    from numba import njit

    # Constants of the compiled code: what does not belong to the kind is compiled away.
    reach, exponential, balance = kind == REACH, kind == EXPONENTIAL, kind == BALANCE
    count = balance or kind == COUNT
    maximum = exponential or kind == MAX
    minimum, bounded = kind == MINIMUM, kind == BOUNDED
    stops = reach or count
    bounds = stops or maximum  # whose keys times weights bound what an entry can bring
    picks = reach or maximum
    # Entries between two looks at the lanes: a Boolean lane is often settled by the first few.
    chunk = 8 if reach else 32
    # The first entries of every list bring lanes so far up that few of the others matter.
    phases = 2 if maximum else 1

    @njit(cache=True, nogil=True, fastmath=FAST, error_model="numpy")
    def walk(
        first, last, starts, index, value, weight, bound, sizes, a, a_strides, low, sign, limits,
        w, w_strides, maxima, maxima_strides, largest, rows, columns, height, width, out, out_strides, others,
    ):  # fmt: skip
        samples, ys, xs, groups, channels = sizes
        blocks = (channels + lanes - 1) // lanes
        never, neutral = a.dtype.type(np.inf), value.shape[0] - 1
        nothing, unit = a.dtype.type(0), a.dtype.type(1)
        most = np.finfo(np.float64).max
        # limit / a must not come to 0, which a product of 0 would reach.
        least_cut = np.nextafter(nothing, unit)
        # A row of activations and of results, channels side by side whatever the order of the tensors.
        active = np.zeros((xs, lanes), a.dtype)
        found = np.zeros((xs, lanes), out.dtype)
        # Local copies: the compiler then knows that lanes lie side by side.
        steer = np.empty(lanes, value.dtype)
        best = np.empty(lanes, value.dtype)
        total = np.empty(lanes, np.float64 if count else np.int8)
        pick = np.empty(chunk + 3, np.int64)
        # A block of weights stays in the cache for all positions of a sample.
        for task in range(first, last):
            y = task % ys
            n = task // ys % samples
            b = task // (ys * samples) % blocks
            g = task // (ys * samples * blocks)
            limit = limits[n * ys + y]
            ceiling = value.dtype.type(1) if exponential else limit
            filled = min(lanes, channels - b * lanes)
            a_base = n * a_strides[0] + y * a_strides[1] + g * a_strides[3]
            least = nothing
            for x0 in range(0, xs, STRIP):
                for lane in range(filled):
                    at = a_base + (b * lanes + lane) * a_strides[4]
                    for x in range(x0, min(x0 + STRIP, xs)):
                        activation = max(a[at + x * a_strides[2]], low)
                        activation = sign * activation if stops else abs(activation)
                        least = min(least, activation)
                        active[x, lane] = activation
            if least < 0:
                others[0] = True
            for x in range(xs):
                # A lane without activation is settled from the start.
                floor = never
                for lane in range(lanes):
                    activation = active[x, lane] if lane < filled else nothing
                    if stops:
                        steer[lane] = max(limit / activation, least_cut) if activation > 0 else never
                        best[lane] = nothing
                        floor = min(floor, steer[lane])
                    else:
                        steer[lane] = activation
                        best[lane] = nothing if activation > 0 else never
                        floor = min(floor, best[lane])
                    if count:
                        total[lane] = 0
                for phase in range(phases):
                    offset = -1
                    for u in range(rows.shape[1]):
                        for v in range(columns.shape[1]):
                            offset += 1
                            p, q = rows[y, u], columns[x, v]
                            if p < 0 or q < 0 or floor == never:
                                continue
                            row = ((n * height + p) * width + q) * groups + g
                            i, end = starts[row], starts[row + 1]
                            if phases == 2:
                                middle = min(i + chunk, end)
                                i, end = (i, middle) if phase == 0 else (middle, end)
                            top = largest[g, b, offset] if bounds else unit
                            peak = g * maxima_strides[0] + b * maxima_strides[1] + offset * maxima_strides[2]
                            base = g * w_strides[0] + b * w_strides[1] + offset * w_strides[2]
                            while i < end:
                                reachable = bound[i] * top
                                if reachable < floor or (not stops and reachable == floor):
                                    break
                                stop, chosen = min(i + chunk, end), 0
                                for e in range(i, stop):  # without a branch: many are left out
                                    pick[chosen] = e
                                    if picks:
                                        reachable = abs(value[e]) * maxima[peak + index[e] * maxima_strides[3]]
                                        chosen += reachable >= floor if reach else reachable > floor
                                    else:
                                        chosen += 1
                                i = stop
                                if chosen == 0:
                                    continue
                                pick[chosen : chosen + 3] = neutral
                                for c in range(0, chosen, 4):
                                    i0, i1, i2, i3 = pick[c], pick[c + 1], pick[c + 2], pick[c + 3]
                                    w0 = w[base + index[i0] * w_strides[3] :][:lanes]
                                    w1 = w[base + index[i1] * w_strides[3] :][:lanes]
                                    w2 = w[base + index[i2] * w_strides[3] :][:lanes]
                                    w3 = w[base + index[i3] * w_strides[3] :][:lanes]
                                    v0, v1, v2, v3 = value[i0], value[i1], value[i2], value[i3]
                                    r0, r1, r2, r3 = weight[i0], weight[i1], weight[i2], weight[i3]
                                    for lane in range(lanes):
                                        if stops:
                                            e0, e1 = v0 * w0[lane], v1 * w1[lane]
                                            e2, e3 = v2 * w2[lane], v3 * w3[lane]
                                        else:
                                            e0, e1 = v0 * abs(w0[lane]), v1 * abs(w1[lane])
                                            e2, e3 = v2 * abs(w2[lane]), v3 * abs(w3[lane])
                                        t = steer[lane]
                                        if count:
                                            c0, c1 = ((r0 if e0 >= t else 0.0), (r1 if e1 >= t else 0.0))
                                            c2, c3 = ((r2 if e2 >= t else 0.0), (r3 if e3 >= t else 0.0))
                                            if balance:
                                                c0, c1 = c0 - (r0 if -e0 >= t else 0.0), c1 - (r1 if -e1 >= t else 0.0)
                                                c2, c3 = c2 - (r2 if -e2 >= t else 0.0), c3 - (r3 if -e3 >= t else 0.0)
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
                                if reach:
                                    floor = never
                                    for lane in range(lanes):
                                        floor = min(floor, never if best[lane] >= steer[lane] else steer[lane])
                                elif not count:
                                    floor = never
                                    for lane in range(lanes):
                                        floor = min(floor, best[lane])
                for lane in range(filled):
                    activation = active[x, lane]
                    if reach:
                        found[x, lane] = best[lane] >= steer[lane]
                    elif count:
                        found[x, lane] = min(total[lane], most)
                    else:
                        largest_found = activation * best[lane] if maximum else best[lane]
                        largest_found = min(largest_found, ceiling) if activation > 0 else nothing
                        found[x, lane] = limit + sign * np.log(largest_found) if exponential else largest_found
            out_base = n * out_strides[0] + y * out_strides[1] + g * out_strides[3]
            for x0 in range(0, xs, STRIP):
                for lane in range(filled):
                    at = out_base + (b * lanes + lane) * out_strides[4]
                    for x in range(x0, min(x0 + STRIP, xs)):
                        out[at + x * out_strides[2]] = found[x, lane]

    return walk
