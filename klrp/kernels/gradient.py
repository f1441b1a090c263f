"""The kernel for the reals and Θ = id: R_j = Σ_t α_t(a_j) · (Jacobian of pair t)ᵀ (R / z), no edge in sight."""

from __future__ import annotations

from torch import Tensor

from klrp.shares import Shares


def contract(shares: Shares, r: Tensor) -> list[Tensor]:
    """R_j [N, *input] for each input of the layer, from R_k [N, *output]."""
    results = [r.new_zeros(shape) for shape in shares.layer.inputs]
    for part in shares.parts:
        s = part.scale * r / part.divisor
        for alphas, omegas in zip(part.alphas, part.omegas, strict=True):
            for result, alpha, c in zip(
                results, alphas, shares.layer.adjoint(s, list(omegas)), strict=True
            ):
                result += alpha * c
    return results
