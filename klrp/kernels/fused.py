"""Fused kernels: one product and one comparison for an edge, for semirings and Θ whose names they know.

Where the shares of a layer are a single product, d_jk = a_j w_jk / z_k, all that belongs to j or k alone is
taken out of the loop over the edges:

    Boolean    R_j = [ a_j max_k w_jk (R_k / z_k) ≥ θ ]
    counting   R_j = Σ_k [ w_jk / z_k ≥ θ / a_j ] R_k
    max, ×     R_j = a_j max_k w_jk (R_k / z_k)
    max, +     R_j = log a_j + max_k ( log w_jk + R_k − log z_k )

What remains runs over sparse lists. Results are those of the generic kernel but for rounding at d = θ.
"""

from __future__ import annotations

import torch
from torch import Tensor

from klrp.conversions import Conversion
from klrp.kernels import lists, sparse
from klrp.operations import Layer
from klrp.rules import Rule
from klrp.semirings import Semiring
from klrp.shares import Shares

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
    return sparse.fits(layer, layer.weights[0].device)


def contract(shares: Shares, r: Tensor, theta: Conversion, semiring: Semiring) -> list[Tensor]:
    """R_j [N, *input] from R_k [N, *output]."""
    (part,), layer = shares.parts, shares.layer
    alpha, omega = part.single()
    a = sparse.sites(layer, alpha)
    s = sparse.sites(layer, part.scale / part.divisor)
    r = sparse.sites(layer, r)
    form, cut = theta.form
    if form in _CUTS:
        if form == "magnitude":
            a, omega, s = a.abs(), omega.abs(), s.abs()
        below = _cut(layer, a, omega, s, r, cut or torch.finfo(a.dtype).tiny, semiring)
    elif form == "identity":
        below = _product(layer, a, omega, s, r, semiring)
    else:
        below = _logarithm(layer, a, omega, s, r, -1 if form == "neglog" else 1)
    return [sparse.map_of(layer, below, layer.inputs[0])]


def _cut(layer: Layer, a: Tensor, w: Tensor, s: Tensor, r: Tensor, cut: float, semiring: Semiring) -> Tensor:
    """⊕ over the relevant edges, of ⊤ or of R_k."""
    whether = semiring.fused == "any,and"
    kind, out = (lists.REACH, torch.bool) if whether else (lists.COUNT, torch.float64)
    weight = None if whether else r.to(torch.float64)
    found = lists.lists_of(s.abs(), s, weight, (r != 0) & (s != 0))
    cut = torch.full_like(a, cut)
    below = sparse.downward(layer, kind, found, w, torch.where(a > 0, cut / a, torch.inf), out)
    if bool((a < 0).any()):  # then w s has to be negative too
        turned = found._replace(value=-found.value)
        other = sparse.downward(layer, kind, turned, w, torch.where(a < 0, -cut / a, torch.inf), out)
        below = below | other if whether else below + other
    return below if whether else below.clamp_max(torch.finfo(torch.float64).max).to(r.dtype)


def _product(layer: Layer, a: Tensor, w: Tensor, s: Tensor, r: Tensor, semiring: Semiring) -> Tensor:
    if semiring.fused == "max,mul":
        value = r * s
        found = lists.lists_of(value, value, None, value != 0)
        return a * sparse.downward(layer, lists.MAX, found, w, a, r.dtype)
    kind = lists.MINIMUM if semiring.fused == "max,min" else lists.BOUNDED
    found = lists.lists_of(r, s, r, (r != 0) & (s != 0))
    return sparse.downward(layer, kind, found, w, a, r.dtype)


def _logarithm(layer: Layer, a: Tensor, w: Tensor, s: Tensor, r: Tensor, sign: int) -> Tensor:
    value = sign * r + s.log()
    found = lists.lists_of(value, value, None, value > -torch.inf)
    best = sparse.downward(layer, lists.PLUS, found, w.log(), a, r.dtype)
    nothing = (best <= torch.finfo(best.dtype).min) | (a == 0)
    return sign * torch.where(nothing, -torch.inf, best + a.log())
