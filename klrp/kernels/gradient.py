"""The kernel for the reals and Θ = id: R_j = Σ_t α_t(a_j) · (Jacobian of pair t)ᵀ (R / z), no edge in sight."""

from __future__ import annotations

import torch
from torch import Tensor

from klrp.errors import KlrpError
from klrp.shares import Shares


def contract(shares: Shares, r: Tensor) -> list[Tensor]:
    """R_j [N, *input] for each input of the layer, from R_k [N, *output]."""
    results = [r.new_zeros(shape) for shape in shares.layer.inputs]
    for part in shares.parts:
        s = part.scale * r / part.divisor
        for alphas, omegas in zip(part.alphas, part.omegas, strict=True):
            below = shares.layer.adjoint(s, omegas)
            for result, alpha, c in zip(results, alphas, below, strict=True):
                result += alpha * c
    if not all(bool(torch.isfinite(result.sum())) for result in results):
        raise KlrpError.value(
            "relevance grew beyond what floats hold, since some z_k is almost 0. Use a rule with a stabiliser, such as "
            "klrp.rules.epsilon(1e-6), or double precision."
        )
    return results
