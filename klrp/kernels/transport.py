"""Logarithms through exp: a sum of numbers becomes a product, for which there are fast kernels.

    LOG        log Σ_k d_jk exp R_k           by the kernel of sums of products
    MAX_PLUS   log max_k d_jk exp R_k         by that of maxima of products
    TROPICAL   −log max_k d_jk exp(−R_k)      likewise: the least cost is the largest exp of its negative

It is computed in double precision, each sample relative to its largest R_k, for shares in [0, 1]. The kernel of lists
takes the exponentials of what it lists by itself, and comes before.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from klrp import kernels
from klrp.conversions import identity
from klrp.kernels import LOGARITHMS, SPREAD, Task, broadcast_samples, unknown
from klrp.semirings import Semiring

NAME = ""  # users see the kernel that does the work

_NUMBERS = {"zero": 0.0, "one": 1.0, "domain": (0, float("inf")), "dtype": torch.float64, "mul": torch.mul}
SUMS = Semiring("sums of exponentials", add=lambda x, dim: x.sum(dim), fused="sum,mul", **_NUMBERS)
MAXIMA = Semiring("maxima of exponentials", add=lambda x, dim: x.amax(dim), fused="max,mul", **_NUMBERS)
# A semiring's hint: where its exponentials live, the form of its Θ, and the sign of a logarithm.
HINTS = {"logsumexp,add": (SUMS, "log", 1)} | {hint: (MAXIMA, *rest) for hint, rest in LOGARITHMS.items()}


def why_not(task: Task) -> str:
    """Why it cannot take this task."""
    semiring = task.semiring
    if semiring.fused not in HINTS or semiring.shape:
        return unknown(semiring)
    _, form, _ = HINTS[semiring.fused]
    if task.theta.form[0] != form:
        return f"with {semiring.name} there is one for Θ = {form}"
    if not task.rule.shares_in_unit_interval:
        return f"the shares of {task.rule.name} may leave [0, 1]"
    kernel, why = kernels.first(stand_in(task))
    return "" if kernel is not None and kernel.NAME != "blocked" else why or unknown(semiring)


def stand_in(task: Task) -> Task:
    """The same contraction of the exponentials."""
    numbers, _, _ = HINTS[task.semiring.fused]
    return replace(task, semiring=numbers, theta=identity())


def contract(task: Task, r: Tensor) -> list[Tensor] | None:
    """R_j [N, *input] from R_k [N, *output]; None where the R_k of a sample lie too far apart."""
    _, _, sign = HINTS[task.semiring.fused]
    top = sample_maxima(r if sign == 1 else -r)
    if top is None:
        return None
    # Maps of double precision are the largest that there are: each is changed in place.
    relative = r.to(torch.float64, copy=True)
    relative = relative if sign == 1 else relative.neg_()
    passed = kernels.contract(stand_in(task), relative.sub_(broadcast_samples(top, relative)).exp_())
    del relative
    logs = [_log(x, r.dtype) for x in passed]
    logs = [x.add_(broadcast_samples(top, x)) for x in logs]
    return logs if sign == 1 else [x.neg_() for x in logs]


def sample_maxima(r: Tensor) -> Tensor | None:
    """The largest R of each sample [N] of a map [N, ...], and 0 where there is none above −∞.

    None if a finite R lies so far below that exp(R − top) is no number of double precision.
    """
    flat = r.unsqueeze(-1).flatten(1)
    top = flat.amax(1)
    top = torch.where(top == -torch.inf, torch.zeros_like(top), top)
    far = (flat < (top - SPREAD)[:, None]) & (flat > -torch.inf)
    return None if bool(far.any()) else top


def _log(x: Tensor, dtype: torch.dtype) -> Tensor:
    """log x in the given precision; taken there too, if it holds every x, since that is several times as fast."""
    lost = (x > 0) & (x < torch.finfo(dtype).tiny)
    return (x if bool(lost.any()) else x.to(dtype)).log_().to(dtype)
