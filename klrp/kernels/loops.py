"""The kernel of plain loops: one product, one quotient and one comparison for every pair, compiled.

It is for layers with few pairs for each neuron, or with weights of each sample's own, where sparse lists do not pay:
depthwise convolutions, gates, products of matrices, sums, pools. For a sample and a group

    tap by tap, upper neuron k by upper neuron k
        row of positions of it          z_k ± ε and R_k side by side; left out where there is no relevance
            lower neuron j              its row of R_j is joined with Θ(a_j w_jk / (z_k ± ε)) ⊗ R_k, in place

A share is rounded as the generic kernel rounds it, so that a threshold cuts the same pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from itertools import islice
from operator import mul
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from klrp.kernels import (
    COUNT,
    KINDS,
    MAX,
    MINIMUM,
    REACH,
    Task,
    compiled_objection,
    inexact,
    single_product_objection,
    threads,
)
from klrp.network.layers import Conv, Layer, Read, Tap
from klrp.rules import same
from klrp.shares import PartShares

NAME = "loops"

TOP = -1  # the kind of ``largest``
PIECE = 512  # positions of a row at once
SOME = 8  # neurons of the target that are a task, where there are no groups
BLOCK, SHORT, FEW = 128, 32, 16  # groups side by side in a row; rows of positions and of groups that are too short


def why_not(task: Task) -> str:
    """Why it cannot take this task."""
    return single_product_objection(task) or compiled_objection(task.device)


def contract(task: Task, r: Tensor) -> list[Tensor] | None:
    """R_j [N, *input] for each input of the layer, from R_k [N, *output]; None for integers from 2^53 up."""
    kind, (form, cut), (part,) = KINDS[task.semiring.fused], task.theta.form, task.shares.parts
    if inexact(r, r):
        return None
    z, by_size = part.denominator, kind not in (REACH, COUNT) or form == "magnitude"
    arriving = r if kind == REACH else r.to(torch.float64 if kind == COUNT else torch.promote_types(r.dtype, z.dtype))
    # In place of d > 0: the least number above 0.
    cuts = torch.nextafter(*z.new_tensor([0, 1])) if form == "positive" else torch.as_tensor(cut, dtype=z.dtype)
    cuts = cuts.expand(len(z))
    passed = []
    with threads.torch_on_one_thread():
        for shape, (taps, read, w) in zip(task.layer.inputs, _sources(part, by_size), strict=True):
            below = _zeros(task.layer, shape, arriving.dtype)
            maps = (*_arranged(task.layer, (read.value, w, z, arriving)), below)
            _run(kind, by_size, task.layer, taps, maps, read.relu, cuts, part.scale)
            passed.append(below.clamp_(max=torch.finfo(below.dtype).max) if kind == COUNT else below)
        if any(inexact(r, below) for below in passed):
            return None
        # In rows, once: several steps may read it so, and it may be kept.
        return [below.to(r.dtype, memory_format=torch.contiguous_format) for below in passed]


def largest(part: PartShares) -> Tensor | None:
    """max_j |α(a_j) ω(w_jk)| over the connected pairs [N, *output]; None where there is no such loop."""
    if len(part.pairs) != 1 or compiled_objection(part.layer.weights[0].device):
        return None
    z = _zeros(part.layer, part.layer.output, part.reads[0].value.dtype)
    with threads.torch_on_one_thread():
        for taps, read, w in _sources(part, True):
            a, w = _arranged(part.layer, (read.value, w))
            _run(TOP, True, part.layer, taps, (a, w, z, z, z), read.relu, z.new_zeros(len(z)))
    return z


def _sources(part: PartShares, by_size: bool) -> Iterator[tuple[list[Tap], Read, Tensor]]:
    """For each input of the layer its taps, what is read of it, and ω(w); |·| is left to the loop.

    Of a convolution it is the first tap alone: the others are like it.
    """
    layer, (reads, omega) = part.layer, part.single(torch.abs if by_size else same)
    for source, (read, w) in enumerate(zip(reads, layer.weights, strict=True)):
        taps = islice(layer.taps(), 1) if isinstance(layer, Conv) else layer.taps()
        yield [tap for tap in taps if tap.source == source], read, omega(w)


def _run(
    kind: int, by_size: bool, layer: Layer, taps: list[Tap], maps: Sequence[Tensor], relu: bool, cuts: Tensor,
    scale: float = 1.0,
) -> None:  # fmt: skip
    """Join Θ(d_jk) ⊗ R_k to R_j, for the maps a, w, z ± ε, R_k and R_j; with TOP, |a_j w_jk| to z_k, the last of them.

    With ``relu`` a is what is positive of the first map; ``by_size`` takes |d|.
    """
    if not taps:
        return
    views = [_views(tap, maps, kind == TOP) for tap in taps]
    seen = _shifted(layer, maps, views[0], kind == TOP) if isinstance(layer, Conv) else map(_seen, views)
    sizes, strides, starts = _layout(seen)
    steps = strides[sizes[:, -1] > 1, :, -1]
    even = next((s for s in (0, 1) if (steps == (1, s, 1, 1, 1)).all()), -1)
    arrays = [_memory(view) for view in views[0]]
    samples, groups, uppers, lowers = views[0][0].shape[:4]
    number = arrays[2].dtype.type
    threads.parallel_for(
        _looper(kind, by_size, even), samples * groups, (groups, uppers, lowers), sizes, strides, starts,
        *arrays, number(0 if relu else -np.inf), cuts.numpy(), number(scale),
    )  # fmt: skip


def _groups_last(layer: Layer) -> bool:
    """Whether it pays to have the groups of a convolution side by side in memory, and not its positions: where there
    are many, and rows of positions are short or have gaps."""
    if not isinstance(layer, Conv) or layer.groups < FEW:
        return False
    return layer.output[-1] < SHORT or layer.windows.stride[-1] > 1


def _arranged(layer: Layer, maps: tuple[Tensor, ...]) -> list[Tensor]:
    """The maps a, w, ... of a layer; those of a convolution have their positions or their groups side by side."""
    if not _groups_last(layer):
        return [x.contiguous() for x in maps] if isinstance(layer, Conv) else list(maps)
    axes = (0 if x is maps[1] else 1 for x in maps)
    return [x.movedim(axis, -1).contiguous().movedim(-1, axis) for axis, x in zip(axes, maps, strict=True)]


def _zeros(layer: Layer, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """A map [N, C, ...] of zeros, arranged like the others."""
    if not _groups_last(layer):
        return torch.zeros(shape, dtype=dtype)
    return torch.zeros((shape[0], *shape[2:], shape[1]), dtype=dtype).movedim(-1, 1)


def _views(tap: Tap, maps: Sequence[Tensor], upwards: bool) -> list[Tensor]:
    """a, w, z, R_k and the target as the tap sees them, all [N, G, K, J, *P]; a layer with several taps must give
    views of its maps, no copies."""
    a, w, z, r, target = maps
    to = tap.upper(target).unsqueeze(3) if upwards else tap.lower(target).unsqueeze(2)
    views = [tap.lower(a).unsqueeze(2), tap.weight(w), tap.upper(z).unsqueeze(3), tap.upper(r).unsqueeze(3), to]
    shape = [max(sizes) for sizes in zip(*(v.shape for v in views), strict=True)]
    views = [v.expand(shape) for v in views]
    if to.stride(1) == 1 < to.shape[1]:  # then a row is a block of groups
        block = max(size for size in range(1, min(BLOCK, shape[1] // 2) + 1) if shape[1] % size == 0)
        return [v.unflatten(1, (-1, shape[1] if block < FEW else block)).movedim(2, -1) for v in views]
    axis = 2 if upwards else 3
    if shape[1] == 1 < shape[axis]:  # then some neurons of the target are a group
        size = max(size for size in range(1, min(shape[axis], SOME + 1)) if shape[axis] % size == 0)
        return [v.squeeze(1).unflatten(axis - 1, (-1, size)).movedim(axis - 1, 1) for v in views]
    # Where all neurons are positions, each first index of them is a group by itself: work for another thread.
    if shape[1:4] == [1, 1, 1] and len(shape) > 4 and 1 < to.shape[4] == shape[4] == target.shape[1]:
        views = [v.transpose(1, 4) for v in views]
    return views


class _Seen(NamedTuple):
    """A tap in numbers: the sizes of its axes of positions, and of each view the strides of all axes and its start."""

    sizes: Sequence[int]
    strides: tuple[tuple[int, ...], ...]
    starts: Sequence[int]


def _seen(views: Sequence[Tensor]) -> _Seen:
    return _joined(views[0].shape[4:], [v.stride() for v in views])._replace(starts=[v.storage_offset() for v in views])


def _shifted(layer: Conv, maps: Sequence[Tensor], views: Sequence[Tensor], upwards: bool) -> Iterator[_Seen]:
    """All taps of a convolution from the views of the first: they differ in how many positions they have, and where
    they begin. A network of depthwise convolutions has hundreds of them, and to make the views takes as long as the loop.
    """
    axes, step = len(layer.windows.kernel), layer.windows.stride
    rest, one = views[0].shape[4 + axes :], (1,) * axes
    scales = step, (0,) * axes, one, one, one if upwards else step
    strides = [  # of positions from the maps: where the first tap has one position alone, its view may say anything
        (*v.stride()[:4], *map(mul, x.stride()[2:], scale), *v.stride()[4 + axes :])
        for v, x, scale in zip(views, maps, scales, strict=True)
    ]
    joined = cache(lambda sizes: _joined((*sizes, *rest), strides))  # few differ
    origins = [(x.storage_offset(), x.stride()[2:]) for x in maps]
    for offset, lower, upper in layer.windows.offsets(layer.inputs[0][2:], layer.output[2:]):
        low, up = ([s.start for s in slices] for slices in (lower, upper))
        places = zip(origins, (low, offset, up, up, up if upwards else low), strict=True)
        starts = [origin + sum(map(mul, place, steps)) for (origin, steps), place in places]
        yield joined(tuple([s.stop - s.start for s in upper]))._replace(starts=starts)


def _layout(taps: Iterable[_Seen]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each tap the sizes of its axes of positions [taps, axes], the strides of each view [taps, 5, 4 + axes], and
    where it begins [taps, 5]."""
    sizes, strides, starts = zip(*taps, strict=True)
    axes = max(map(len, sizes))
    padded = [(*(1,) * (axes - len(s)), *s) for s in sizes]
    widened = cache(lambda tap: np.array([(*v[:4], *(0,) * (axes + 4 - len(v)), *v[4:]) for v in tap]))
    return np.array(padded), np.stack([widened(tap) for tap in strides]), np.array(starts)


def _joined(shape: Sequence[int], strides: Sequence[tuple[int, ...]]) -> _Seen:
    """Sizes and strides with axes whose positions lie one after the other in every view as one axis."""
    sizes, steps = [], []
    for size, *step in zip(shape, *(v[4:] for v in strides), strict=True):
        if sizes and steps[-1] == [size * s for s in step]:
            sizes[-1], steps[-1] = sizes[-1] * size, step
        elif size > 1:
            sizes.append(size)
            steps.append(step)
    sizes, steps = sizes or [1], steps or [[0] * len(strides)]
    return _Seen(sizes, tuple((*v[:4], *step) for v, step in zip(strides, zip(*steps, strict=True), strict=True)), ())


def _memory(x: Tensor) -> np.ndarray:
    """All the memory behind a view; Booleans as bytes."""
    dtype = torch.uint8 if x.dtype == torch.bool else x.dtype
    return torch.empty(0, dtype=dtype).set_(x.detach().untyped_storage()).numpy()


@cache
def _looper(kind: int, by_size: bool, even: int) -> Callable:
    """The compiled loop for one kind; ``even`` is the weights' stride along rows where that of all maps is 1, or −1."""
    from numba import njit

    # Constants of the compiled code: what does not belong to the kind is compiled away.
    top, reach, count, maximum, minimum = (kind == k for k in (TOP, REACH, COUNT, MAX, MINIMUM))

    @njit(cache=True, nogil=True, error_model="numpy")
    def loop(first, last, shape, sizes, strides, starts, a, w, z, r, out, low, cuts, scale):
        groups, uppers, lowers = shape
        taps, axes = sizes.shape
        at = np.empty(5, np.int64)
        unit, none = z.dtype.type(1), r.dtype.type(0)
        for task in range(first, last):
            n, g = task // groups, task % groups
            cut = cuts[n]
            for t in range(taps):
                # A row of positions, the rows of a plane, and what planes there are.
                length, lines, planes = sizes[t, axes - 1], sizes[t, axes - 2] if axes > 1 else 1, 1
                for axis in range(axes - 2):
                    planes *= sizes[t, axis]
                la, lw, lz, lr, lo = strides[t, :, axes + 2]
                sa, sw, sz, sr, so = strides[t, :, axes + 3]
                if even >= 0:
                    sa, sw, sz, sr, so = 1, even, 1, 1, 1
                for plane in range(planes):
                    rest = plane
                    for m in range(5):
                        at[m] = starts[t, m] + n * strides[t, m, 0] + g * strides[t, m, 1]
                    for axis in range(axes - 3, -1, -1):
                        for m in range(5):
                            at[m] += rest % sizes[t, axis] * strides[t, m, 4 + axis]
                        rest //= sizes[t, axis]
                    for line in range(lines):
                        a0, w0, z0 = at[0] + line * la, at[1] + line * lw, at[2] + line * lz
                        r0, o0 = at[3] + line * lr, at[4] + line * lo
                        # Pieces of a row stay in the cache for all pairs of neurons.
                        for x0 in range(0, length, PIECE):
                            size = min(PIECE, length - x0)
                            for k in range(uppers):
                                total = z[z0 + k * strides[t, 2, 2] + x0 * sz :]
                                relevance = r[r0 + k * strides[t, 3, 2] + x0 * sr :]
                                if lowers > 1 and not top:
                                    some = none
                                    for x in range(size):
                                        some = max(some, relevance[x * sr])
                                    if some == 0:
                                        continue
                                for j in range(lowers):
                                    below = a[a0 + j * strides[t, 0, 3] + x0 * sa :]
                                    weights = w[w0 + k * strides[t, 1, 2] + j * strides[t, 1, 3] + x0 * sw :]
                                    target = out[o0 + k * strides[t, 4, 2] + j * strides[t, 4, 3] + x0 * so :]
                                    for x in range(size):
                                        d = max(below[x * sa], low) * weights[x * sw]
                                        if top:
                                            target[x * so] = max(target[x * so], abs(d))
                                            continue
                                        d, arriving = d / total[x * sz] * scale, relevance[x * sr]
                                        if by_size:
                                            d = abs(d)
                                        if reach:
                                            target[x * so] |= arriving & (d >= cut)
                                        elif count:
                                            target[x * so] += arriving if d >= cut else none
                                        else:
                                            d = min(d, unit)  # rounding may have made more of it
                                            if maximum:
                                                e = d * arriving
                                            elif minimum:
                                                e = min(d, arriving)
                                            else:  # d + r − 1, rounded once
                                                e = min(d, arriving) - (unit - max(d, arriving))
                                            target[x * so] = max(target[x * so], e)

    return loop
