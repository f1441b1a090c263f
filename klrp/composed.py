"""Semirings made from semirings: for and against, two at once, and what lies between a sum and a maximum."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from klrp import conversions, rules
from klrp.semirings import Semiring, find_semiring


def signed(semiring: Semiring | str) -> Semiring:
    r"""The semiring :math:`K_±` of pairs (supporting, opposing) over a semiring K.

    .. math:: (p, n) ⊕ (p', n') = (p ⊕ p', n ⊕ n'), \qquad
        (p, n) ⊗ (p', n') = (p ⊗ p' ⊕ n ⊗ n', \; p ⊗ n' ⊕ n ⊗ p')

    A share d > 0 is (Θ(d), 0), and d < 0 is (0, Θ(−d)): a Θ that klrp.explain is given is one of K. So a path opposes
    where an odd number of its shares is negative. Elements have the shape (2, \*K.shape). The ``score`` is that of what
    supports less that of what opposes, of exponentials where K's scores are logarithms. Its default rule is K's, with
    signs where that is max_share(); a rule without negative shares has nothing that opposes.

    Over the reals p − n is the relevance without pairs, and p + n that of |d|. Pairs of this kind make the integers out
    of the natural numbers; here n is kept, since most semirings have no minus.

    Raises:
        KlrpError: for what is no semiring.

    Example:
        >>> klrp.explain(model, x, semiring=klrp.signed("counting"), theta=klrp.conversions.threshold(0.003))
    """
    k = find_semiring(semiring)
    default = k.default and (
        rules.max_share(signed=True) if k.default[0] == rules.max_share() else k.default[0],
        k.default[1],
    )
    return Semiring(
        f"signed {k.name}", [k.zero, k.zero], [k.one, k.zero], k.add, _SignedProduct(k), domain=k.domain,
        shape=(2, *k.shape), dtype=k.dtype, score=_Net(k), fused="signed", default=default,
        total=f"what supports, and what opposes: each {k.total}",
        exact_below=k.exact_below and k.exact_below / 2,  # the sum of both has to be exact too
        parts=(k,), lift=conversions.signed,
    )  # fmt: skip


@dataclass(frozen=True)
class _SignedProduct:
    """⊗ of pairs."""

    part: Semiring

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        k, axis = self.part, -1 - len(self.part.shape)
        (p, n), (q, m) = x.unbind(axis), y.unbind(axis)
        supporting = k.plus(k.mul(p, q), k.mul(n, m))
        return torch.stack([supporting, k.plus(k.mul(p, m), k.mul(n, q))], axis)


@dataclass(frozen=True)
class _Net:
    """The score of what supports less that of what opposes."""

    part: Semiring

    def __call__(self, x: Tensor) -> Tensor:
        k = self.part
        assert k.score is not None
        p, n = (k.score(side) for side in x.unbind(-1 - len(k.shape)))
        return p.exp() - n.exp() if k.logarithmic else p - n


def dial(p: float) -> Semiring:
    r"""The semiring between a sum (p = 1) and a maximum (p = ∞): [0, ∞) with

    .. math:: x ⊕ y = (x^p + y^p)^{1/p}, \qquad x ⊗ y = x y

    Its default rule is ``rules.norm_share(p)``, whose shares have the p-norm 1: so Σ_j R_j^p is the same in each layer but
    for what neurons without any contribution drop. p = 1 is LRP on the sizes of contributions, p = ∞ is VITERBI, and
    what lies between costs about as much as the reals: :math:`x ↦ x^p` is an isomorphism to sums of products. On the way to
    the maximum it is the softened one of annealing; with logarithms, the log-sum-exp at the temperature 1/p.

    Args:
        p: from 1 to 32, or math.inf.

    Raises:
        KlrpError: for another p.

    Example:
        >>> klrp.explain(model, x, semiring=klrp.dial(4))
    """
    rule = rules.norm_share(p)
    if rule.normaliser == "max":
        return find_semiring("viterbi")
    total = "the p-norm of the weights of all paths from the output to the map"
    return Semiring(
        f"dial {rule.power:g}", 0.0, 1.0, _Norm(rule.power), torch.mul, domain=(0, math.inf),
        fused=f"norm {rule.power:g},mul", default=(rule, conversions.identity()), total=total,
    )  # fmt: skip


@dataclass(frozen=True)
class _Norm:
    """The p-norm over an axis, relative to its largest, whose powers are then in [0, 1]."""

    p: float

    def __call__(self, x: Tensor, dim: int) -> Tensor:
        top = x.amax(dim, keepdim=True)
        powers = (x / torch.where(top > 0, top, 1)).pow(self.p).sum(dim)
        return top.squeeze(dim) * powers.pow(1 / self.p)
