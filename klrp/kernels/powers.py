"""Sums of p-th powers: the dial between sum and maximum, by the convolutions of the layer with |w|^p.

    R_j^p = |a_j|^p Σ_k |w_jk|^p R_k^p / Σ_j |a_j w_jk|^p

A sample's activations and relevance are taken relative to their largest, and so are the weights. What is smaller than a
ten-billionth of that may be lost: 1e-38, the least of single precision, is (3e-10)^4, and 1e-308 is (2e-10)^32.
"""

from __future__ import annotations

import torch
from torch import Tensor

from klrp.kernels import Task, broadcast_samples, unknown
from klrp.shares import power_, root_

NAME = "gradient"  # as for the reals: two products with the weights

SINGLE = 4.0  # up to this power single precision does


def why_not(task: Task) -> str:
    """Why it cannot take this task."""
    semiring, rule = task.semiring, task.rule
    if not (semiring.fused or "").startswith("norm "):
        return unknown(semiring)
    if semiring.fused != f"norm {rule.power:g},mul" or rule.normaliser != "norm":
        return f"with {semiring.name} there is one for the rule that has its power"
    return "" if task.theta.identical else f"with {semiring.name} there is one for Θ = identity"


def contract(task: Task, r: Tensor) -> list[Tensor]:
    """R_j [N, *input] for each input of the layer, from R_k [N, *output]."""
    (part,), p = task.shares.parts, task.rule.power
    dtype = torch.float32 if p <= SINGLE and r.dtype != torch.float64 else torch.float64
    xs, omega, _ = part.powers(dtype)
    top = r.flatten(1).amax(1)
    top = torch.where(top > 0, top, 1).to(dtype)
    total = task.layer.linear(xs, omega)
    s = power_(r.to(dtype) / broadcast_samples(top, total), p).div_(total)
    s = torch.where(total > 0, s, 0)
    below = task.layer.adjoint(s, omega)
    return [root_(c.mul_(x), p).mul_(broadcast_samples(top, x)).to(r.dtype) for c, x in zip(below, xs, strict=True)]
