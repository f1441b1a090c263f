"""⊕_k Θ(d_jk) ⊗ R_k: the one place that chooses a kernel."""

from __future__ import annotations

from torch import Tensor

from klrp.conversions import Conversion
from klrp.kernels import blocked, gradient
from klrp.semirings import REAL, Semiring
from klrp.shares import Shares


def kernel_name(theta: Conversion, semiring: Semiring) -> str:
    """Which kernel a layer gets: "gradient" or "blocked"."""
    if semiring is REAL and theta.identical:
        return "gradient"
    return "blocked"


def contract(
    shares: Shares, r: Tensor, theta: Conversion, semiring: Semiring, memory: int
) -> list[Tensor]:
    """R_j for each input of the layer [N, *input, *shape], from R_k [N, *output, *shape]."""
    if kernel_name(theta, semiring) == "gradient":
        return gradient.contract(shares, r)
    return blocked.contract(shares, r, theta, semiring, memory)
