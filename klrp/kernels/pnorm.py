"""Boolean explanations by ordinary convolutions: for machines without Numba, and for other devices.

Whether a share of j reaches θ is a question about a maximum over k, and a p-norm encloses the maximum
of n terms:

    n^(−1/p) · ‖w_j s‖_p  ≤  max_k w_jk s_k  ≤  ‖w_j s‖_p    with s_k = c / z_k where k is relevant.

The p-th power of the norm is a sum of w^p s^p. For p = 64, and the 4608 terms of a large convolution, its
bounds lie 14 % apart; the few neurons whose threshold is between them have their edges looked at.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from klrp.kernels import Task, single_product_objection, unknown
from klrp.kernels.blocks import block_edges
from klrp.network.layers import Conv, Linear, Shape
from klrp.rules import Map
from klrp.shares import PartShares

NAME = "norms"

DOUBLINGS = 6  # p = 2^6
# The p-th power of a number in single precision is wrong by p · 1e-7; there are several.
SLACK = 1e-3
SMALLEST = 1e-300  # below it a power may have lost terms
# Samples of a dense matrix for which the powers of all weights take longer than the edges of what is relevant. With
# 4096 x 4096 weights and half of the neurons relevant that is so for 1 sample; with fewer relevant, for more.
FEW = 8


def why_not(task: Task) -> str:
    """Why it cannot take this task."""
    layer, semiring = task.layer, task.semiring
    if semiring.fused != "any,and" or semiring.shape:
        return unknown(semiring)
    if why := single_product_objection(task):
        return why
    if layer.weights_per_sample:
        return "its weights depend on the sample"
    if isinstance(layer, Linear):
        few = math.prod(layer.output[:-1]) < FEW
        return "the powers of a matrix do not pay for few samples" if few else ""
    if isinstance(layer, Conv) and layer.groups == 1:
        return ""
    return "only linear layers and convolutions without groups have norms"


def contract(task: Task, r: Tensor) -> list[Tensor]:
    """Whether a share of j in a relevant neuron satisfies Θ [N, *input], for R_k [N, *output]."""
    (part,), (form, cut) = task.shares.parts, task.theta.form
    ((read,), omega), relevant = part.single(), r.bool()
    w, cuts = omega(part.layer.weights[0]), torch.as_tensor(cut, device=r.device).expand(len(r))
    a, s = read.activations, torch.where(relevant, part.scale / part.denominator, 0)
    result = torch.zeros(a.shape, dtype=torch.bool, device=a.device)
    for active, agree in _sides(a, form):
        if form == "positive":
            result |= (_sum(part, s, agree, _whether, _whether) > 0.5) & (active > 0)
            continue
        reached, unsure = _enclosed(part, active, w, s, agree, cuts)
        result |= reached
        cells = (unsure & ~result).nonzero()
        if len(cells):
            result[tuple(cells.T)] = _looked_at(task, a, w, relevant, cells, cuts)
    return [result.to(r.dtype)]


def _sides(a: Tensor, form: str) -> Iterator[tuple[Tensor, int]]:
    """|a| where a share can count, and the sign that w s must have there; 0 for either."""
    if form == "magnitude":
        yield a.abs(), 0
        return
    for sign in (1, -1):
        active = (sign * a).clamp_min(0)
        if bool(active.any()):
            yield active, sign


def _sum(part: PartShares, s: Tensor, agree: int, of_s: Map, of_w: Map) -> Tensor:
    """Σ of_w(|w_jk|) of_s(|s_k|) over the k where w s has the sign ``agree`` [N, *input]."""
    ((_, omega),), layer = part.pairs, part.layer
    if not agree:
        return layer.adjoint(of_s(s.abs()), lambda w: of_w(omega(w).abs()))[0]
    total = s.new_zeros(())
    for sign in (1, -1):
        one, other = (sign * s).clamp_min(0), sign * agree
        if bool(one.any()):
            found = layer.adjoint(of_s(one), lambda w: of_w((other * omega(w)).clamp_min(0)))  # noqa: B023
            total = found[0] + total
    return total


def _whether(x: Tensor) -> Tensor:
    return (x > 0).to(x.dtype)


def _enclosed(
    part: PartShares, active: Tensor, w: Tensor, s: Tensor, agree: int, cuts: Tensor
) -> tuple[Tensor, Tensor]:
    """Where the largest share surely reaches the threshold, and where its bounds do not tell [N, *input]."""
    lead = (-1,) + (1,) * (s.ndim - 1)
    top_s = s.abs().flatten(1).amax(1).double().clamp_min(SMALLEST).reshape(lead)
    top_w = w.abs().amax().double().clamp_min(SMALLEST)
    norm = _sum(part, s, agree, lambda x: _power(x / top_s), lambda x: _power(x / top_w))
    cuts, tops = (v.double().reshape(-1, *(1,) * (active.ndim - 1)) for v in (cuts, top_s * top_w))
    limit = _power(cuts / (active * tops))
    terms = w.numel() // w.shape[1]
    reached = (norm >= (1 + SLACK) * terms * limit) & (norm >= SMALLEST)
    return reached, ~reached & ~(norm < (1 - SLACK) * limit) & (active > 0)


def _power(x: Tensor) -> Tensor:
    """x^p for x from 0 up, in double precision."""
    x = x.double()
    for _ in range(DOUBLINGS):
        x = x.square_()
    return x


def _looked_at(task: Task, a: Tensor, w: Tensor, r: Tensor, cells: Tensor, cuts: Tensor) -> Tensor:
    """Whether a share of each of the neurons ``cells`` [m, axes] in a relevant neuron satisfies Θ [m]."""
    (part,), layer, form = task.shares.parts, task.layer, task.theta.form[0]
    cuts = cuts.to(a.dtype)
    channel = 1 if isinstance(layer, Conv) else a.ndim - 1

    def plane(shape: Shape) -> list[int]:
        return [1 if axis in (0, channel) else size for axis, size in enumerate(shape)]

    # The upper neurons of a position side by side, [N, positions, k].
    z, r = (x.movedim(channel, -1).reshape(len(x), -1, len(w)) for x in (part.denominator, r))
    upper = torch.arange(z.shape[1], device=a.device).reshape(plane(layer.output))
    found = torch.zeros(len(cells), dtype=torch.bool, device=a.device)
    size = max(1, block_edges(task.memory, 8 * w.element_size(), a.device) // len(w))
    for tap in layer.taps():
        above = torch.full(plane(a.shape), -1, device=a.device)  # the position that each one leads to
        tap.lower(above).copy_(tap.upper(upper))
        for start in range(0, len(cells), size):
            some = cells[start : start + size]
            active, (n, j), place = a[tuple(some.T)], some[:, [0, channel]].T, some.clone()
            place[:, [0, channel]] = 0
            at = above[tuple(place.T)]
            d = active[:, None] * tap.weight(w)[0, 0, :, j].flatten(1).T / z[n, at] * part.scale
            d = d.abs() if form == "magnitude" else d
            reached = (d >= cuts[n, None]) & r[n, at] & (at >= 0)[:, None]
            found[start : start + size] |= reached.any(1)
    return found
