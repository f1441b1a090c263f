"""The kernel for the reals and Θ = id: R_j = Σ_t α_t(a_j) · (Jacobian of pair t)ᵀ (R / z), no edge in sight.

It serves sums of logarithms too: log Σ_k d_jk exp R_k.
"""

from __future__ import annotations

import torch
from torch import Tensor

from klrp.errors import KlrpError
from klrp.kernels.logs import along, tops
from klrp.shares import Shares


def contract(shares: Shares, r: Tensor) -> list[Tensor]:
    """R_j [N, *input] for each input of the layer, from R_k [N, *output], in the precision of R_k."""
    results = [None] * len(shares.layer.inputs)
    for part in shares.parts:
        s = part.quotient(r)
        for alpha, omega in part.pairs:
            below = shares.layer.adjoint(s, omega)
            for i, (read, c) in enumerate(zip(part.reads, below, strict=True)):
                c = c.mul_(alpha(read.activations))
                results[i] = c if results[i] is None else results[i].add_(c)
    if not all(bool(torch.isfinite(result.sum())) for result in results):
        raise KlrpError.value(
            "relevance grew beyond what floats hold, since some z_k is almost 0. Use a rule with a stabiliser, such as "
            "klrp.rules.epsilon(1e-6), or double precision."
        )
    return results


def contract_logs(shares: Shares, r: Tensor) -> list[Tensor] | None:
    """log Σ_k d_jk exp R_k [N, *input] for shares from 0 up; None where the R_k lie too far apart.

    It is computed in double precision, each sample relative to its largest R_k.
    """
    top = tops(r)
    if top is None:
        return None
    found = contract(shares, (r - along(top, r)).double().exp_())
    return [(logs := _log(x, r.dtype)).add_(along(top, logs)) for x in found]


def _log(x: Tensor, dtype: torch.dtype) -> Tensor:
    """log x in the given precision; taken there too, if it holds every x, since that is several times as fast."""
    smallest = torch.where(x > 0, x, 1).amin() if x.numel() else 1
    return (x.to(dtype) if smallest > torch.finfo(dtype).tiny else x).log().to(dtype)
