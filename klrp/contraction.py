"""⊕_k Θ(d_jk) ⊗ R_k: the one place that chooses a kernel."""

from __future__ import annotations

from torch import Tensor

from klrp.conversions import Conversion
from klrp.kernels import blocked, fused, gradient, norms, sparse
from klrp.network.layers import Layer, Read
from klrp.rules import Rule
from klrp.semirings import Semiring
from klrp.shares import Shares, active_pairs


class Kernel(str):
    """A kernel's name; ``why`` says why it is not a faster one, and is empty where there is none."""

    why: str

    def __new__(cls, name: str, why: str = "") -> Kernel:
        kernel = super().__new__(cls, name)
        kernel.why = why
        return kernel

    def __repr__(self) -> str:
        return f"{str(self)!r} ({self.why})" if self.why else repr(str(self))


def kernel_name(layer: Layer, rule: Rule, reads: list[Read], theta: Conversion, semiring: Semiring) -> Kernel:
    """Which kernel a layer gets: "gradient", "lists", "norms" or "blocked"."""
    pairs = max(len(active_pairs(part, reads)) for part in rule.parts)
    return _choose(layer, rule, pairs, theta, semiring)


def contract(shares: Shares, r: Tensor, theta: Conversion, semiring: Semiring, memory: int) -> list[Tensor]:
    """R_j for each input of the layer [N, *input, *shape], from R_k [N, *output, *shape]."""
    pairs = max(len(part.pairs) for part in shares.parts)
    kernel = _choose(shares.layer, shares.rule, pairs, theta, semiring)
    passed = None
    if kernel == "gradient":
        logs = not semiring.linear
        passed = gradient.contract_logs(shares, r) if logs else gradient.contract(shares, r)
    elif kernel == "lists":
        passed = fused.contract(shares, r, theta, semiring)
    elif kernel == "norms":
        passed = norms.contract(shares, r, theta, memory)
    # What lies beyond the range of a faster kernel, the generic one computes.
    return blocked.contract(shares, r, theta, semiring, memory) if passed is None else passed


def _choose(layer: Layer, rule: Rule, pairs: int, theta: Conversion, semiring: Semiring) -> Kernel:
    if semiring.linear and theta.identical:
        return Kernel("gradient")
    logs = semiring.fused == "logsumexp,add" and not semiring.shape and theta.form[0] == "log"
    if logs and rule.unit:
        return Kernel("gradient")
    why = fused.refusal(layer, rule, pairs, theta, semiring)
    if why:
        return Kernel("blocked", why)
    slow = sparse.refusal(layer, layer.weights[0].device)
    if not slow:
        return Kernel("lists")
    return Kernel("blocked" if norms.refusal(layer, semiring) else "norms", slow)
