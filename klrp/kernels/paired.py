"""Pairs of supporting and opposing relevance, by contractions of the semiring that the pairs are of.

    p_j = ⊕_k Θ(d⁺) ⊗ p_k ⊕ Θ(d⁻) ⊗ n_k,    n_j = ⊕_k Θ(d⁺) ⊗ n_k ⊕ Θ(d⁻) ⊗ p_k,    d = d⁺ − d⁻

are four contractions. Where ⊕ is a sum there is a shorter way by u = p + n and v = p − n, of which |d| passes on the one
and d the other; it is two.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import reduce

import torch
from torch import Tensor

from klrp import kernels, rules
from klrp.conversions import Conversion, at_least, magnitude, threshold
from klrp.kernels import Task, unknown
from klrp.rules import Map, Part
from klrp.semirings import Semiring
from klrp.shares import Shares, active_pairs

NAME = ""  # users see the kernel that does the work

CUTS = ("threshold", "magnitude", "positive")
WHOLE = ("identity", "log", "neglog")
# Sums of whole numbers of either sign, in which a share of at most −t subtracts.
DIFFERENCES = Semiring(
    "differences", 0.0, 1.0, lambda x, dim: x.sum(dim), torch.mul, dtype=torch.float64, fused="balance"
)


def why_not(task: Task) -> str:
    """Why it cannot take this task."""
    if task.semiring.fused != "signed":
        return unknown(task.semiring)
    form, t = _inner(task).form
    if form not in CUTS + WHOLE:
        return f"with {task.semiring.name} there is one for Θ = {' or '.join(CUTS + WHOLE)}"
    if form in CUTS and form != "positive" and not bool(torch.as_tensor(t > 0).all()):
        return "the threshold is not positive"
    if form in WHOLE and not task.rule.shares_in_unit_interval:
        (part, *others), linear = task.shares.parts, task.semiring.parts[0].linear
        if others or len(part.pairs) > 1:
            return f"a share of {task.rule.name} is more than one product here"
        if not linear and task.rule.normaliser != "max":
            return f"the shares of {task.rule.name} may leave [−1, 1]"
    kernel, why = kernels.first(stand_in(task))
    return "" if kernel is not None and kernel.NAME != "blocked" else why or unknown(task.semiring)


def stand_in(task: Task) -> Task:
    """One of the contractions."""
    return _of_sizes(task) if _adds(task) and not task.rule.shares_in_unit_interval else _sides(task, 1)[0]


def contract(task: Task, r: Tensor) -> list[Tensor]:
    """The pairs [N, *input, 2, *shape] for each input of the layer, from [N, *output, 2, *shape]."""
    k, axis = task.semiring.parts[0], -1 - len(task.semiring.parts[0].shape)
    p, n = (side.contiguous() for side in r.unbind(axis))
    if task.rule.shares_in_unit_interval:  # nothing opposes
        pairs = list(zip(*(_by_sign(task, 1, side) for side in (p, n)), strict=True))
    elif _adds(task):
        sums, differences = kernels.contract(_of_sizes(task), p + n), kernels.contract(_balanced(task), p - n)
        pairs = [((u + v) / 2, (u - v) / 2) for u, v in zip(sums, differences, strict=True)]
        low, _ = k.domain  # a count above 2^53 is rounded, and may come to less than nothing
        pairs = [(a.clamp_min(low), b.clamp_min(low)) for a, b in pairs]
    else:
        straight, turned = ([_by_sign(task, sign, side) for side in (p, n)] for sign in (1, -1))
        joined = (list(map(k.plus, one, other)) for one, other in zip(straight, reversed(turned), strict=True))
        pairs = list(zip(*joined, strict=True))
    return [torch.stack(pair, axis) for pair in pairs]


def _inner(task: Task) -> Conversion:
    """The Θ of the semiring that the pairs are of."""
    return task.theta.apply.theta  # type: ignore[attr-defined]


def _cut(task: Task) -> float | Tensor:
    """The threshold; in the place of d > 0, the least normal number."""
    form, t = _inner(task).form
    return torch.finfo(task.layer.weights[0].dtype).tiny if form == "positive" else t


def _adds(task: Task) -> bool:
    """Whether ⊕ is a sum in which u and v can be added and subtracted."""
    k, form = task.semiring.parts[0], _inner(task).form[0]
    if k.fused != "count" or k.dtype != torch.float64 or form not in CUTS:
        return k.linear and form == "identity"
    kernel, _ = kernels.first(_balanced(task))
    return kernel is not None and kernel.NAME != "blocked"


def _of_sizes(task: Task) -> Task:
    """The contraction of |d|."""
    k, theta = task.semiring.parts[0], _inner(task)
    if not theta.identical:
        t = _cut(task)
        return replace(task, semiring=k, theta=at_least(t, size=True) if isinstance(t, Tensor) else magnitude(t))
    (part,) = task.shares.parts
    pairs = tuple((_after(torch.abs, alpha), _after(torch.abs, omega)) for alpha, omega in part.pairs)
    sizes = replace(part, part=replace(part.part, scale=abs(part.scale)), pairs=pairs, known=part.z.abs())
    return replace(task, semiring=k, theta=theta, shares=replace(task.shares, parts=(sizes,)))


def _balanced(task: Task) -> Task:
    """The contraction of d with its sign."""
    k, theta = task.semiring.parts[0], _inner(task)
    if theta.identical:
        return replace(task, semiring=k, theta=theta)
    t = _cut(task)
    return replace(task, semiring=DIFFERENCES, theta=Conversion("differences", _Differences(t), form=("threshold", t)))


@dataclass(frozen=True, eq=False)
class _Differences:
    """1 where d ≥ t, −1 where d ≤ −t, and 0 elsewhere."""

    t: float | Tensor

    def __call__(self, d: Tensor, semiring: Semiring) -> Tensor:
        t = self.t.to(d).reshape(-1, *(1,) * (d.ndim - 1)) if isinstance(self.t, Tensor) else self.t
        return ((d >= t).to(torch.float64) - (d <= -t).to(torch.float64)).to(semiring.dtype)

    def of_samples(self, samples: slice) -> _Differences:
        return _Differences(self.t[samples]) if isinstance(self.t, Tensor) else self


def _by_sign(task: Task, sign: int, r: Tensor) -> list[Tensor]:
    """The contraction of the shares of one sign, by their size."""
    plus = task.semiring.parts[0].plus
    return reduce(lambda x, y: list(map(plus, x, y)), (kernels.contract(side, r) for side in _sides(task, sign)))


def _sides(task: Task, sign: int) -> list[Task]:
    """The tasks whose ⊕ is the contraction of the shares of one sign: one, or one for each sign of the activations."""
    k, theta = task.semiring.parts[0], _inner(task)
    if task.rule.shares_in_unit_interval:
        return [replace(task, semiring=k, theta=theta)]
    if theta.form[0] in CUTS:
        t = _cut(task)
        cut = at_least(t) if isinstance(t, Tensor) else threshold(t)
        parts = tuple(
            replace(part, part=replace(part.part, scale=sign * part.scale), known=part.z) for part in task.shares.parts
        )
        return [replace(task, semiring=k, theta=cut, shares=replace(task.shares, parts=parts))]
    (part,) = task.shares.parts
    ((alpha, omega),) = part.pairs
    weights = (_positive, _negative)[::sign]
    pairs = tuple((_after(a, alpha), _after(w, omega)) for a, w in zip((_positive, _negative), weights, strict=True))
    one = Part(pairs, scale=part.scale, vanishes_at_zero=part.part.vanishes_at_zero)
    sided = replace(part, rule=rules.max_share(), part=one, known=part.z)
    return [
        replace(task, semiring=k, theta=theta, shares=Shares(task.layer, sided.rule, (replace(sided, pairs=(pair,)),)))
        for pair in active_pairs(one, part.reads)
    ]


def _positive(x: Tensor) -> Tensor:
    return x.clamp_min(0)


def _negative(x: Tensor) -> Tensor:
    """The size of what is negative."""
    return (-x).clamp_min(0)


@dataclass(frozen=True)
class _After:
    """outer(inner(x)), equal to another that is made of the same, so that a cache finds it."""

    outer: Map
    inner: Map

    def __call__(self, x: Tensor) -> Tensor:
        return self.outer(self.inner(x))


def _after(outer: Map, inner: Map) -> Map:
    return outer if inner is rules.same else _After(outer, inner)
