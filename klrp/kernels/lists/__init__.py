"""The kernel of sparse lists: one product and one comparison for an edge, for the semirings that can do with those.

Where the shares of a layer are a single product, d_jk = a_j w_jk / z_k, all that belongs to j or k alone is
taken out of the loop over the edges:

    Boolean    R_j = [ a_j max_k w_jk (R_k / z_k) ≥ θ ]
    counting   R_j = Σ_k [ w_jk / z_k ≥ θ / a_j ] R_k, less those ≤ −θ / a_j in the balance of signed counting
    max, ×     R_j = a_j max_k w_jk (R_k / z_k)
    max, +     R_j = log a_j max_k w_jk (exp R_k / z_k), relative to the sample's largest R_k; min, + likewise

What remains runs over sparse lists: ``build`` makes them, ``pack`` arranges the weights, and ``walk`` goes through
them; ``layout`` says how maps look to these, and ``threads`` shares the work out. Results are those of the generic
kernel but for rounding at d = θ.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from klrp.kernels import (
    BALANCE,
    COUNT,
    EXPONENTIAL,
    KINDS,
    LOGARITHMS,
    MAX,
    REACH,
    SPREAD,
    Task,
    compiled_objection,
    inexact,
    single_product_objection,
    threads,
)
from klrp.kernels.cache import Cache
from klrp.kernels.lists import layout, walk
from klrp.kernels.lists.build import Lists, sparse_lists
from klrp.kernels.lists.pack import Weights, packed
from klrp.network.layers import Layer, Linear, Read
from klrp.rules import Map
from klrp.shares import PartShares

NAME = "lists"
TAKEN = KINDS | dict.fromkeys(LOGARITHMS, EXPONENTIAL) | {"balance": BALANCE}

# Fewer samples, and one more for each 2^20 weights, use a dense matrix too little to pay for another copy of it, or for
# a look at its largest entries. Measured for Boolean and Viterbi: with 1024 x 1024 weights 8 samples take 1.6 and 3.8
# ms without and 4.7 and 9.1 with them, 32 take 4.4 and 14 or 6 and 12; with 4096 x 4096 they pay from 32 on.
FEW, LARGE = 16, 1 << 20
# Values 1/z or R/z that are so small may have lost digits: 2^26 above the smallest normal number.
ROOM = 2.0**26


def why_not(task: Task) -> str:
    """Why it cannot take this task."""
    return single_product_objection(task, TAKEN) or _machine_objection(task.layer, task.device)


def contract(task: Task, r: Tensor) -> list[Tensor] | None:
    """R_j [N, *input] from R_k [N, *output]; None where they leave what it computes exactly: integers above 2^53, and
    quotients of numbers that are very small or large."""
    kind = TAKEN[task.semiring.fused]
    if inexact(r, r):
        return None
    with threads.torch_on_one_thread():
        passed = (_cut if kind in (REACH, COUNT, BALANCE) else _best)(task, kind, r)
        return None if passed is None or inexact(r, passed) else [passed.to(r.dtype)]


def largest(part: PartShares, cache: Cache | None, wanted: Tensor | None = None) -> Tensor | None:
    """max_j |α(a_j) ω(w_jk)| [N, *output], 0 where it is not ``wanted``; None where lists cannot tell.

    It is the contraction of the layer turned round: the lower neurons are in the lists, and the targets are the
    upper ones.
    """
    layer = part.layer
    if len(part.pairs) != 1 or len(part.reads) != 1 or _machine_objection(layer, layer.weights[0].device):
        return None
    (read,), omega = part.single(torch.abs)
    x, weight = layout.channels_last(layer, read.activations.abs()), layer.weights[0]
    if wanted is None:
        wanted = torch.ones(layer.output, dtype=torch.bool)
    if isinstance(layer, Linear) and _few(x, weight):
        wanted = wanted.reshape(x.shape[1], -1)
        return walk.row_maximum(x.reshape(x.shape[1], -1), omega(weight), wanted).reshape(layer.output)
    windows, lower, upper = layout.planes(layer)
    tables = tuple(layout.lower_positions(windows, axis, lower[axis], upper[axis]) for axis in range(2))
    one = x.new_ones(()).expand(x.shape)
    none = x.new_zeros(()).expand(len(x), x.shape[1:3].numel())
    found = sparse_lists(MAX, x, one, 0.0, none)
    # Read where it is wanted, and then written over: through views of it, so that its axes have to lie in order.
    result = wanted.to(x.dtype, memory_format=torch.contiguous_format)
    targets = layout.channels_last(layer, result)
    unlimited = torch.full((targets.shape[0] * targets.shape[1],), torch.inf).numpy()
    weights = packed(cache, weight, omega, lambda w: layout.arranged(layer, w).transpose(1, 2), "turned", True)
    walk.run(MAX, found, weights, targets, tables, lower, targets, unlimited)
    return result


def _machine_objection(layer: Layer, device: torch.device) -> str:
    if not all(layer.weights[0].shape):
        return "the layer has no neurons"
    if layer.weights_per_sample:
        return layout.layer_objection(layer)
    return compiled_objection(device) or layout.layer_objection(layer)


def _few(at: Tensor, w: Tensor) -> bool:
    """Whether the positions use a matrix of weights only a few times."""
    return at.shape[:3].numel() < FEW + w.numel() // LARGE


def _best(task: Task, kind: int, r: Tensor) -> Tensor | None:
    """max over the relevant edges; the shares are in [0, 1], so that their signs do not matter."""
    (part,) = task.shares.parts
    (read,), omega = part.single(torch.abs)
    z = _z(task, r)
    r = r.to(torch.promote_types(r.dtype, z.dtype))
    weights = _weights(task, read, omega)
    _, sign = LOGARITHMS.get(task.semiring.fused, ("", 1))
    each = r.unsqueeze(-1).flatten(1)
    best = each.amax(1) if sign == 1 else each.amin(1)
    best = best.masked_fill(best == task.semiring.zero, 0)  # of a sample without relevance
    found = _lists(task, kind, r, z, task.rule.margin(z), best)
    if not _in_range(found, weights, z.dtype):
        return None
    # Shares of at most 1 make no more of R_k; what rounding adds is cut off.
    result, _ = _walk(task.layer, kind, found, weights, read, r.dtype, best, sign)
    return result


def _cut(task: Task, kind: int, r: Tensor) -> Tensor | None:
    """⊕ over the edges whose share reaches the threshold, of ⊤ or of R_k."""
    (part,), (form, cut) = task.shares.parts, task.theta.form
    whether, ((read,), omega) = kind == REACH, part.single()
    z = _z(task, r)
    margin = task.rule.margin(z)
    if form == "magnitude":
        z, margin = task.rule.stabilise(z).abs(), torch.zeros_like(margin)
        read, omega = Read(read.activations.abs()), _Magnitude(omega)
    elif form == "positive":
        cut = torch.finfo(z.dtype).tiny
    out = torch.bool if whether else torch.float64
    weights = _weights(task, read, omega)
    found = _lists(task, kind, r if whether else r.to(out), z, margin)
    if not _in_range(found, weights, z.dtype):
        return None
    cuts = torch.as_tensor(cut, dtype=z.dtype).expand(task.layer.output[:1])
    below, others = _walk(task.layer, kind, found, weights, read, out, cuts)
    if others:  # where a < 0, a positive share has w / z negative
        turned = found._replace(value=-found.value)
        other, _ = _walk(task.layer, kind, turned, weights, read, out, cuts, sign=-1)
        below = below | other if whether else (below + other).clamp_max(torch.finfo(out).max)
    return below


class _Magnitude(tuple):
    """|ω|, equal to every other |ω| of the same ω, so that a cache finds it."""

    def __new__(cls, omega: Map) -> _Magnitude:
        return super().__new__(cls, (omega,))

    def __call__(self, w: Tensor) -> Tensor:
        return self[0](w).abs()


def _z(task: Task, r: Tensor) -> Tensor:
    """z_k before the stabiliser; a largest product only where there is relevance."""
    (part,) = task.shares.parts
    if task.rule.normaliser != "max" or part.known is not None:
        return part.z
    return largest(part, task.cache, r != task.semiring.zero)


def _lists(task: Task, kind: int, r: Tensor, z: Tensor, margin: Tensor, best: Tensor | None = None) -> Lists:
    (part,), layer = task.shares.parts, task.layer
    epsilon = layout.per_position(layer, margin)
    best = None if best is None else layout.per_position(layer, best)
    r, z = layout.channels_last(layer, r), layout.channels_last(layer, z)
    return sparse_lists(kind, r, z, task.semiring.zero, epsilon, part.scale, best)


def _weights(task: Task, read: Read, omega: Map) -> Weights:
    layer, (weight,) = task.layer, task.layer.weights
    often = not _few(layout.channels_last(layer, read.value), weight)
    return packed(task.cache, weight, omega, lambda w: layout.arranged(layer, w), "straight", often)


def _in_range(found: Lists, weights: Weights, dtype: torch.dtype) -> bool:
    """Whether no product of a value and a weight overflows, and no value has lost digits to a large z or is exp of a
    number too far below 0."""
    largest = float(np.finfo(found.value.dtype).max)
    kept = found.z < 1 / (torch.finfo(dtype).tiny * ROOM) and found.spread <= SPREAD
    return kept and found.share * weights.peak < largest


def _walk(
    layer: Layer, kind: int, found: Lists, weights: Weights, read: Read, out: torch.dtype, limits: Tensor, sign: int = 1
) -> tuple[Tensor, bool]:
    """What each neuron of the input [N, *input] gets from the lists of the upper ones, and whether an
    activation has the other sign; ``limits`` [N]."""
    windows, lower, upper = layout.planes(layer)
    tables = tuple(layout.upper_positions(windows, axis, lower[axis], upper[axis]) for axis in range(2))
    result, at = torch.empty(layer.inputs[0], dtype=out), layout.channels_last(layer, read.value)
    to, rows = layout.channels_last(layer, result), layout.per_row(layer, limits)
    others = walk.run(kind, found, weights, at, tables, upper, to, rows, read.relu, sign)
    return result, others
