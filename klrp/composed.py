"""Semirings made from semirings: for and against, two at once, and what lies between a sum and a maximum."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from klrp import conversions, rules
from klrp.conversions import Conversion, Theta, as_conversion
from klrp.errors import KlrpError
from klrp.semirings import Semiring, find_semiring


def signed(semiring: Semiring | str) -> Semiring:
    r"""The semiring :math:`K_±` of pairs (supporting, opposing) over a semiring K.

    .. math::

        (p, n) ⊕ (p', n') &= (p ⊕ p', n ⊕ n') \\
        (p, n) ⊗ (p', n') &= (p ⊗ p' ⊕ n ⊗ n', \\
        & \qquad p ⊗ n' ⊕ n ⊗ p')

    A share d > 0 is (Θ(d), 0), and d < 0 is (0, Θ(−d)): a Θ that klrp.explain is given is one of K. So a path opposes
    where an odd number of its shares is negative. Elements have the shape (2, \*K.shape). The ``score`` is that of what
    supports less that of what opposes, of exponentials where K's scores are logarithms. Its default rule is K's, with
    signs where that is max_share(); a rule without negative shares has nothing that opposes.

    K is any semiring: also a product, one of lists, or one of pairs itself.

    Over the reals p − n is the relevance without pairs, and p + n that of |d|. Pairs of this kind make the integers out
    of the natural numbers; here n is kept, since most semirings have no minus.

    Raises:
        KlrpError: for what is no semiring.

    Example:
        >>> cut = klrp.conversions.threshold(0.003)
        >>> klrp.explain(model, x, semiring=klrp.signed("counting"), theta=cut)
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
        parts=(k,), lift=_LiftedSigns(k),
    )  # fmt: skip


@dataclass(frozen=True)
class _LiftedSigns:
    """A Θ of K as one of pairs; one of pairs stays what it is."""

    part: Semiring

    def __call__(self, theta: Conversion | Theta) -> Conversion:
        given = conversions.without_signs(as_conversion(theta))
        return conversions.signed(given if self.part.lift is None else self.part.lift(given))


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
    what lies between costs two products with the weights: :math:`x ↦ x^p` is an isomorphism to sums of products. Up to p = 4
    that is less than twice LRP-ε; above, in double precision, four to five times. On the way to
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


def product(*semirings: Semiring | str) -> Semiring:
    r"""The product of semirings: one walk answers for all of them. Elements are tuples, ⊕ and ⊗ are taken in each place.

    .. math::

        (x, y) ⊕ (x', y') &= (x ⊕ x', y ⊕ y') \\
        (x, y) ⊗ (x', y') &= (x ⊗ x', y ⊗ y')

    The numbers of the components' elements lie one after the other on a single axis; ``components`` takes them apart. All
    walk along the same shares. A Θ is taken for each component; ``conversions.each`` gives each its own. The default
    exists where the components have the same rule. The ``score`` is that of the first.

    Two copies of the reals hold bounds: with Θ's that give the least and the largest value of a share from 0 up, the pair
    encloses the relevance.

    Raises:
        KlrpError: for fewer than two semirings.

    Example:
        >>> both = klrp.COUNTING * klrp.BOOLEAN  # the same as klrp.product("counting", "boolean")
        >>> r = klrp.explain(model, x, semiring=both).input
        >>> counts, whether = klrp.composed.components(both, r)
    """
    given = [find_semiring(s) for s in semirings]
    parts = tuple(p for k in given for p in (k.parts if k.fused == "product" else (k,)))
    if len(parts) < 2:
        raise KlrpError.value(f"product: got {len(parts)} semiring; expected two or more.")
    flat = lambda which: [v for k in parts for v in torch.as_tensor(getattr(k, which)).flatten().tolist()]  # noqa: E731
    rule, thetas = parts[0].default and parts[0].default[0], [as_conversion(k.default[1]) for k in parts if k.default]
    alike = len(thetas) == len(parts) and all(k.default and k.default[0] == rule for k in parts)
    low, high = zip(*(k.domain for k in parts), strict=True)
    return Semiring(
        " × ".join(k.name for k in parts), flat("zero"), flat("one"), _ProductSum(parts), _ProductOfEach(parts),
        domain=(min(low), max(high)), shape=(len(flat("zero")),), dtype=_common(parts), score=_FirstScore(parts),
        fused="product", default=(rule, conversions.each(*thetas)) if rule and alike else None,
        total="; ".join(k.total for k in parts), parts=parts,
        lift=_LiftedEach(parts),
    )  # fmt: skip


Semiring.__mul__ = product  # type: ignore[attr-defined]  # A * B; semirings.py cannot know what is made from it


def components(semiring: Semiring, x: Tensor) -> tuple[Tensor, ...]:
    """The elements of each component [..., \\*component.shape], in its own dtype, of elements of a ``product``."""
    if semiring.fused != "product":
        raise KlrpError.value(f"semiring: {semiring.name} is no product; make one with klrp.product.")
    return _apart(semiring.parts, x)


def exact(semiring: Semiring, x: Tensor, part: float = 1.0, floating: bool | None = None) -> bool:
    """Whether every element of x is below ``part`` of the limit up to which floats hold each one, in each component.

    ``floating`` says that whole numbers are held by floats, as in a product that has other components.
    """
    floating = x.is_floating_point() if floating is None else floating
    if semiring.fused == "product":
        pieces = zip(semiring.parts, _apart(semiring.parts, x), strict=True)
        return all(exact(k, v, part, floating) for k, v in pieces)
    if semiring.fused == "signed":  # the sum of what supports and what opposes has to be exact too
        (k,) = semiring.parts
        return all(exact(k, side, part / 2, floating) for side in x.unbind(-1 - len(k.shape)))
    limit = 2.0**53 if floating and semiring.dtype == torch.int64 else semiring.exact_below
    return limit is None or not x.numel() or float(x.amax()) < part * limit


def _apart(parts: tuple[Semiring, ...], x: Tensor) -> tuple[Tensor, ...]:
    pieces = x.split([math.prod(k.shape) for k in parts], -1)
    return tuple(v.reshape(*x.shape[:-1], *k.shape).to(k.dtype or x.dtype) for k, v in zip(parts, pieces, strict=True))


def joined(parts: tuple[Semiring, ...], pieces: Iterable[Tensor], dtype: torch.dtype) -> Tensor:
    """Elements of a product from those of its components."""
    flat = (v.reshape(*v.shape[: v.ndim - len(k.shape)], -1).to(dtype) for k, v in zip(parts, pieces, strict=True))
    return torch.cat(list(flat), -1)


def _common(parts: tuple[Semiring, ...]) -> torch.dtype | None:
    """A dtype that holds the elements of all: None, that of the network, where no count is among them."""
    dtypes = {k.dtype for k in parts}
    if len(dtypes) == 1:
        return dtypes.pop()
    if None in dtypes:
        return None if dtypes <= {None, torch.bool} else torch.float64
    return torch.float64 if torch.float64 in dtypes else torch.int64


@dataclass(frozen=True)
class _ProductSum:
    """⊕ in each place."""

    parts: tuple[Semiring, ...]

    def __call__(self, x: Tensor, dim: int) -> Tensor:
        pieces = (k.add(v, dim) for k, v in zip(self.parts, _apart(self.parts, x), strict=True))
        return joined(self.parts, pieces, x.dtype)


@dataclass(frozen=True)
class _ProductOfEach:
    """⊗ in each place."""

    parts: tuple[Semiring, ...]

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        x, y = torch.broadcast_tensors(x, y)
        pairs = zip(self.parts, _apart(self.parts, x), _apart(self.parts, y), strict=True)
        return joined(self.parts, (k.mul(a, b) for k, a, b in pairs), x.dtype)


@dataclass(frozen=True)
class _FirstScore:
    """The score of the first component."""

    parts: tuple[Semiring, ...]

    def __call__(self, x: Tensor) -> Tensor:
        first = self.parts[0]
        assert first.score is not None
        return first.score(_apart(self.parts, x)[0])


@dataclass(frozen=True)
class _LiftedEach:
    """A Θ for each component, as it takes it."""

    parts: tuple[Semiring, ...]

    def __call__(self, theta: Conversion) -> Conversion:
        given = conversions.of_each(theta, len(self.parts))
        return conversions.each(*(t if k.lift is None else k.lift(t) for k, t in zip(self.parts, given, strict=True)))
