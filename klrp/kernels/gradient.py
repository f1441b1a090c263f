"""The kernel for sums of products and Θ = id: R_j = Σ_t α_t(a_j) · (Jacobian of pair t)ᵀ (R / z), no edge in sight."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from klrp.errors import KlrpError
from klrp.kernels import Task, unknown

NAME = "gradient"


def why_not(task: Task) -> str:
    """Why it cannot take this task: it is for a semiring whose hint says "sum,mul", as the reals' does."""
    semiring, dtype = task.semiring, task.semiring.dtype
    if semiring.fused != "sum,mul" or semiring.shape or (dtype is not None and not dtype.is_floating_point):
        return unknown(semiring)
    if not task.theta.identical:
        return f"with {semiring.name} there is one for Θ = identity"
    low, high = semiring.domain
    everything = low == -math.inf and high == math.inf
    if not everything and not (task.rule.shares_in_unit_interval and low <= 0 and high >= 1):
        return f"the shares of {task.rule.name} may leave the domain of {semiring.name}"
    return ""


def contract(task: Task, r: Tensor) -> list[Tensor]:
    """R_j [N, *input] for each input of the layer, from R_k [N, *output], in the precision of R_k."""
    layer, dtype = task.layer, task.semiring.dtype
    results = [None] * len(layer.inputs)
    for part in task.shares.parts:
        s = part.quotient(r)
        for alpha, omega in part.pairs:
            below = layer.adjoint(s, omega)
            for i, (read, c) in enumerate(zip(part.reads, below, strict=True)):
                c = c.mul_(alpha(read.activations))
                results[i] = c if results[i] is None else results[i].add_(c)
    if not all(bool(torch.isfinite(result.sum())) for result in results):
        raise KlrpError.value(
            "relevance grew beyond what floats hold, since some z_k is almost 0. Use a rule with a stabiliser, such as "
            "klrp.rules.epsilon(1e-6), or double precision."
        )
    return results if dtype is None else [result.to(dtype) for result in results]
