"""Sparse lists, compiled by Numba: what is left of a layer's edges when zeros are skipped.

For each upper position there is a list of the upper neurons k that have relevance, largest key first.
Each lower position goes through the lists of its window with a block of channels side by side, one in
each lane of the vector unit: one product and one comparison for an edge. It leaves a list as soon as
nothing further in it can change a lane.

Numba is the extra ``fast``; without it the generic kernel does the same work.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
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


def lists_of(key: Tensor, value: Tensor, weight: Tensor | None, present: Tensor) -> Lists:
    """One list for each row of ``value`` [rows, k]: the places where ``present``, by falling ``key``.

    ``bound`` at a place is no less than any key from there on. The order is that of the half octave.
    """
    value = value.contiguous().numpy()
    key, present = key.contiguous().numpy(), present.contiguous().numpy()
    weight = value if weight is None else weight.contiguous().numpy()
    count, fill = _builders()
    starts = np.zeros(len(value) + 1, np.int64)
    count(present, starts)
    np.cumsum(starts, out=starts)
    index, bound = np.empty(starts[-1], np.int32), np.empty(starts[-1], key.dtype)
    listed = np.empty(starts[-1], value.dtype), np.empty(starts[-1], weight.dtype)
    bits = key.view(np.int32 if key.dtype == np.float32 else np.int64)
    shift = 22 if key.dtype == np.float32 else 51
    fill(bits, shift, value, weight, present, starts, index, *listed, bound.view(bits.dtype))
    return Lists(starts, index, *listed, bound)


class Weights(NamedTuple):
    """Weights with the target's channels last, in blocks of ``lanes``: flat, with the strides of
    (group, block, offset, source channel), and the largest |w| of each (group, block, offset)."""

    flat: np.ndarray
    strides: tuple[int, int, int, int]
    largest: np.ndarray
    lanes: int


def pack(w: Tensor) -> Weights:
    """Weights [groups, source channels, target channels, offsets] for the kernels."""
    g, k, c, o = w.shape
    lanes = 64 if c > 16 else 16
    blocks = -(-c // lanes)
    if c % lanes:
        w = torch.nn.functional.pad(w, (0, 0, 0, blocks * lanes - c))
    w = w.reshape(g, k, blocks, lanes, o)
    if o > 1 or g > 1 or not w.is_contiguous():
        w = w.permute(0, 2, 4, 1, 3).contiguous()
        strides = tuple(w.stride())[:4]
    else:  # a row of a dense matrix holds its blocks one after the other
        w = w.permute(0, 2, 4, 1, 3)
        strides = (0, lanes, 0, blocks * lanes)
    low, high = torch.aminmax(w.flatten(3), dim=3)
    largest = torch.maximum(-low, high).contiguous()
    flat = w.as_strided((w.numel(),), (1,), w.storage_offset())
    return Weights(flat.numpy(), strides, largest.numpy(), lanes)


def run(
    kind: int,
    lists: Lists,
    weights: Weights,
    per_lane: Tensor,
    rows: np.ndarray,
    columns: np.ndarray,
    source: tuple[int, int],
    out: torch.dtype,
) -> Tensor:
    """⊕ over the lists for each target [n, y, x, groups, channels], whose ``per_lane`` numbers steer it.

    ``rows`` [y, kernel rows] and ``columns`` [x, kernel columns] say which of the ``source`` positions an
    offset leads to, −1 for none. What ``per_lane`` means depends on the kind:

    * REACH: out = whether any w·value ≥ per_lane; ∞ is never.
    * COUNT: out = Σ of the weights where w·value ≥ per_lane; ∞ is never.
    * MAX: out = max(0, w·value) where per_lane ≠ 0.
    * MINIMUM, BOUNDED: out = max of min(x, weight), of x + weight − 1, with x = per_lane·w·value.
    * PLUS: out = max of w + value, from the lowest finite number up; w are logarithms.
    """
    n, y, x, g, c = per_lane.shape
    lanes = weights.lanes
    padded = -(-c // lanes) * lanes
    if padded != c:
        idle = math.inf if kind in (REACH, COUNT) else 0.0
        per_lane = torch.nn.functional.pad(per_lane, (0, padded - c), value=idle)
    result = torch.empty(per_lane.shape, dtype=out)
    view = result.view(torch.uint8) if out == torch.bool else result
    arguments = per_lane.contiguous().numpy(), weights.flat, np.array(weights.strides)
    walk = _walker(kind, lanes)
    with _threads():
        walk(*lists, *arguments, weights.largest, rows, columns, *source, view.numpy())
    return result[..., :c] if padded != c else result


class _threads:
    """Numba uses as many threads as torch does."""

    def __enter__(self) -> None:
        import numba

        self.before = numba.get_num_threads()
        numba.set_num_threads(min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS))

    def __exit__(self, *_: object) -> None:
        import numba

        numba.set_num_threads(self.before)


@cache
def _builders() -> tuple[Callable, Callable]:
    from numba import njit, prange

    @njit(parallel=True, cache=True, nogil=True)
    def count(present, starts):
        for i in prange(present.shape[0]):
            starts[i + 1] = present[i].sum()

    @njit(parallel=True, cache=True, nogil=True)
    def fill(
        bits, shift, value, weight, present, starts, index, listed, listed_weight, bound
    ):
        for i in prange(value.shape[0]):
            if starts[i + 1] > starts[i]:
                places = np.zeros(LEVELS + 1, np.int64)
                top = 0
                for k in range(value.shape[1]):
                    if present[i, k]:
                        top = max(top, bits[i, k] >> shift)
                for k in range(value.shape[1]):
                    if present[i, k]:
                        places[min(top - (bits[i, k] >> shift), LEVELS - 1) + 1] += 1
                for level in range(LEVELS):
                    places[level + 1] += places[level]
                for k in range(value.shape[1]):
                    if present[i, k]:
                        level = min(top - (bits[i, k] >> shift), LEVELS - 1)
                        at = starts[i] + places[level]
                        places[level] += 1
                        index[at] = k
                        listed[at] = value[i, k]
                        listed_weight[at] = weight[i, k]
                        bound[at] = max(top - level + 1, 0) << shift

    return count, fill


@cache
def _walker(kind: int, lanes: int) -> Callable:
    """The compiled walk for one kind and one block size."""
    from numba import njit, prange

    # Constants of the compiled code: what does not belong to the kind is compiled away.
    reach, maximum, count = kind == REACH, kind == MAX, kind == COUNT
    minimum, bounded = kind == MINIMUM, kind == BOUNDED
    stops = kind in (REACH, COUNT)
    ordered = kind != PLUS

    @njit(cache=True, inline="always")
    def row_of(w, at):
        """The lanes from ``at`` on, as an array of its own: its index never wraps round."""
        return w[at : at + lanes]

    @njit(cache=True, inline="always")
    def slack(d, r):
        """max(0, d + r − 1) but for the 0, rounded once: d + r would lose what is small."""
        return min(d, r) - (1 - max(d, r))

    @njit(parallel=True, cache=True, nogil=True, fastmath=FAST, error_model="numpy")
    def walk(
        starts, index, value, weight, bound, per_lane, w, strides, largest, rows, columns, height, width, out
    ):  # fmt: skip
        samples, ys, xs, groups, channels = per_lane.shape
        blocks = channels // lanes
        never = per_lane.dtype.type(np.inf)
        nothing, unit = per_lane.dtype.type(0), per_lane.dtype.type(1)
        lowest = np.finfo(per_lane.dtype).min
        # A block of weights stays in the cache for all positions of a sample.
        for task in prange(groups * blocks * samples * ys):
            y = task % ys
            n = task // ys % samples
            b = task // (ys * samples) % blocks
            g = task // (ys * samples * blocks)
            start = b * lanes
            # Local copies: the compiler then knows that lanes lie side by side.
            steer = np.empty(lanes, per_lane.dtype)
            best = np.empty(lanes, per_lane.dtype)
            total = np.empty(lanes, np.float64 if count else np.int8)
            for x in range(xs):
                floor = never
                for lane in range(lanes):
                    steer[lane] = per_lane[n, y, x, g, start + lane]
                    if stops:
                        best[lane] = nothing
                        floor = min(floor, steer[lane])
                    elif ordered:  # a lane that needs nothing never holds the others up
                        best[lane] = nothing if steer[lane] != 0 else never
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
                                w0 = row_of(w, base + index[i] * strides[3])
                                w1 = row_of(w, base + index[i + 1] * strides[3])
                                w2 = row_of(w, base + index[i + 2] * strides[3])
                                w3 = row_of(w, base + index[i + 3] * strides[3])
                                v0, v1, v2, v3 = value[i], value[i + 1], value[i + 2], value[i + 3]
                                r0, r1, r2, r3 = weight[i], weight[i + 1], weight[i + 2], weight[i + 3]
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
                                    if bounded:
                                        e0, e1 = slack(t * e0, r0), slack(t * e1, r1)
                                        e2, e3 = slack(t * e2, r2), slack(t * e3, r3)
                                    best[lane] = max(best[lane], max(max(e0, e1), max(e2, e3)))
                                i += 4
                            while i < stop:
                                w0 = row_of(w, base + index[i] * strides[3])
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
                                        e0 = slack(t * e0, r0)
                                    best[lane] = max(best[lane], e0)
                                i += 1
                            if reach:
                                floor = never
                                for lane in range(lanes):
                                    floor = min(floor, never if best[lane] >= steer[lane] else steer[lane])
                            elif ordered and not count:
                                floor = never
                                for lane in range(lanes):
                                    floor = min(floor, best[lane])
                for lane in range(lanes):
                    if reach:
                        out[n, y, x, g, start + lane] = best[lane] >= steer[lane]
                    elif count:
                        out[n, y, x, g, start + lane] = total[lane]
                    elif ordered and steer[lane] == 0:
                        out[n, y, x, g, start + lane] = nothing
                    else:
                        out[n, y, x, g, start + lane] = best[lane]

    return walk
