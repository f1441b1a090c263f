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
    alpha, w = part.single()
    dtype, (form, cut) = r.dtype, theta.form
    a, z, r = (sparse.sites(layer, x) for x in (alpha, part.divisor, r))
    if form == "magnitude":
        a, w, z = a.abs(), w.abs(), z.abs()
    elif form not in _CUTS and bool((a < 0).any()):  # z⁺ where all are negative: a⁻ w⁻
        a, w = a.abs(), w.abs()
    if form in _CUTS:
        below = _cut(layer, a, w, z, part.scale, r, cut or torch.finfo(a.dtype).tiny, semiring)
    else:
        kind, sign = _WALKS[semiring.fused]
        r = r.to(a.dtype)
        found = lists.lists_of(kind, sign * r, z, sign * semiring.zero, part.scale)
        w = w.log() if kind == lists.PLUS else w
        below = sign * sparse.downward(layer, kind, a, w, found, a.dtype)
    return [sparse.map_of(layer, below.to(dtype), layer.inputs[0])]


_WALKS = {
    "max,mul": (lists.MAX, 1),
    "max,min": (lists.MINIMUM, 1),
    "max,bounded": (lists.BOUNDED, 1),
    "max,add": (lists.PLUS, 1),
    "min,add": (lists.PLUS, -1),
}


def _cut(
    layer: Layer,
    a: Tensor,
    w: Tensor,
    z: Tensor,
    scale: float,
    r: Tensor,
    cut: float,
    semiring: Semiring,
) -> Tensor:
    """⊕ over the relevant edges, of ⊤ or of R_k."""
    whether = semiring.fused == "any,and"
    kind, out = (lists.REACH, torch.bool) if whether else (lists.COUNT, torch.float64)
    found = lists.lists_of(kind, r if whether else r.to(out), z, 0, scale)
    below = sparse.downward(layer, kind, a, w, found, out, cut)
    if bool((a < 0).any()):  # there a positive share has w / z negative
        turned = found._replace(value=-found.value)
        other = sparse.downward(layer, kind, -a, w, turned, out, cut)
        below = below | other if whether else below + other
    return below if whether else below.clamp_max(torch.finfo(out).max)
