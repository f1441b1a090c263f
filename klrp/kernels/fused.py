"""Fused kernels: one product and one comparison for an edge, for semirings and Θ whose names they know.

Where the shares of a layer are a single product, d_jk = a_j w_jk / z_k, all that belongs to j or k alone is
taken out of the loop over the edges:

    Boolean    R_j = [ a_j max_k w_jk (R_k / z_k) ≥ θ ]
    counting   R_j = Σ_k [ w_jk / z_k ≥ θ / a_j ] R_k
    max, ×     R_j = a_j max_k w_jk (R_k / z_k)
    max, +     R_j = top + log ( a_j max_k w_jk exp(R_k − top) / z_k )

What remains runs over sparse lists. Results are those of the generic kernel but for rounding at d = θ.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from klrp.conversions import Conversion
from klrp.kernels import compiled, lists, sparse
from klrp.kernels.logs import along, tops
from klrp.network.layers import Layer, Read
from klrp.rules import Rule
from klrp.semirings import Semiring
from klrp.shares import Shares

# Below it float64 holds every integer.
EXACT = 2.0**53
# What a semiring's hint is called, and the forms of Θ that go with it.
_CUTS = ("threshold", "magnitude", "positive")
FORMS = {
    "any,and": _CUTS,
    "count": _CUTS,
    "max,mul": ("identity",),
    "max,min": ("identity",),
    "max,bounded": ("identity",),
    "max,add": ("log",),
    "min,add": ("neglog",),
}


def refusal(layer: Layer, rule: Rule, pairs: int, theta: Conversion, semiring: Semiring) -> str:
    """Why no fused kernel takes this layer; empty if one does. ``pairs``: how many pairs have activations."""
    forms = FORMS.get(semiring.fused)
    if forms is None or semiring.shape:
        return f"none is known for the semiring {semiring.name}"
    form, cut = theta.form
    if form not in forms:
        return f"with {semiring.name} there is one for Θ = {' or '.join(forms)}"
    if form in ("threshold", "magnitude") and cut <= 0:
        return "the threshold is not positive"
    if form not in _CUTS and not rule.unit:
        return f"the shares of {rule.name} may leave [0, 1]"
    if len(rule.parts) > 1 or pairs > 1:
        return f"a share of {rule.name} is more than one product here"
    return ""


def contract(shares: Shares, r: Tensor, theta: Conversion, semiring: Semiring) -> list[Tensor] | None:
    """R_j [N, *input] from R_k [N, *output]; None where they leave what float64 holds: exact integers, and
    exponentials of logarithms."""
    kind = _WALKS[semiring.fused]
    whole = not (r.is_floating_point() or r.dtype == torch.bool)
    if whole and r.numel() and int(r.amax()) >= EXACT:
        return None
    with compiled.crew():
        passed = (_cut if kind in (lists.REACH, lists.COUNT) else _best)(shares, r, theta, semiring)
        if passed is None:
            return None
        if whole and passed.numel() and float(passed.amax()) >= EXACT:
            return None
        return [passed.to(r.dtype)]


_WALKS = {
    "any,and": lists.REACH,
    "count": lists.COUNT,
    "max,mul": lists.MAX,
    "max,min": lists.MINIMUM,
    "max,bounded": lists.BOUNDED,
    "max,add": lists.LOGS,
    "min,add": lists.LOGS,
}


def _best(shares: Shares, r: Tensor, theta: Conversion, semiring: Semiring) -> Tensor | None:
    """max over the relevant edges; the shares are in [0, 1], so that their signs do not matter."""
    (part,), layer = shares.parts, shares.layer
    kind = _WALKS[semiring.fused]
    read, w = part.single(torch.abs)
    z, r, zero = _normaliser(shares, r != semiring.zero), r.to(w.dtype), semiring.zero
    if kind != lists.LOGS:
        found = _lists(shares, kind, r, z, zero)
        return sparse.downward(layer, kind, read, w, found, w.dtype)[0]
    costs = semiring.fused == "min,add"  # the least of them is the largest of their negatives
    r, zero = (-r, -zero) if costs else (r, zero)
    top = tops(r)
    if top is None:
        return None
    found = _lists(shares, kind, r, z, zero, top)
    below, _ = sparse.downward(layer, kind, read, w, found, w.dtype)
    below += along(top, below)
    return below.neg_() if costs else below


def _normaliser(shares: Shares, relevant: Tensor) -> Tensor:
    """z_k before the stabiliser; a largest product only where there is relevance."""
    (part,), layer = shares.parts, shares.layer
    if shares.rule.normaliser != "max":
        return part.total
    read, w = part.single(torch.abs)
    return sparse.largest(layer, read.activations.abs(), w, relevant)


def _lists(shares: Shares, kind: int, r: Tensor, z: Tensor, zero: float, top: Tensor | None = None) -> lists.Lists:
    (part,), layer = shares.parts, shares.layer
    epsilon = sparse.spread(layer, shares.rule.margin(z))
    top = None if top is None else sparse.spread(layer, top)
    r, z = sparse.sites(layer, r), sparse.sites(layer, z)
    return lists.lists_of(kind, r, z, zero, epsilon, part.scale, top)


def _cut(shares: Shares, r: Tensor, theta: Conversion, semiring: Semiring) -> Tensor:
    """⊕ over the edges whose share reaches the threshold, of ⊤ or of R_k."""
    (part,), layer = shares.parts, shares.layer
    kind = _WALKS[semiring.fused]
    whether, (form, cut) = kind == lists.REACH, theta.form
    z = _normaliser(shares, r != semiring.zero)
    if form == "magnitude":
        read, w = part.single(torch.abs)
        read, w = Read(read.activations.abs()), w.abs()
        z = shares.rule.stabilise(z).abs()
        shares = replace(shares, rule=replace(shares.rule, eps=0.0, std=0.0))
    else:
        read, w = part.single()
    out = torch.bool if whether else torch.float64
    cut = cut or torch.finfo(w.dtype).tiny
    found = _lists(shares, kind, r if whether else r.to(out), z, semiring.zero)
    below, others = sparse.downward(layer, kind, read, w, found, out, cut)
    if others:  # where a < 0, a positive share has w / z negative
        turned = found._replace(value=-found.value)
        other, _ = sparse.downward(layer, kind, read, w, turned, out, cut, sign=-1)
        below = below | other if whether else (below + other).clamp_max(torch.finfo(out).max)
    return below
