"""Semirings whose elements keep more than one number of the paths: the k best weights, or what their spread needs."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from klrp import rules
from klrp.conversions import Conversion, Elements, Theta, as_conversion, identity
from klrp.errors import KlrpError
from klrp.semirings import REAL, VITERBI, Semiring

ToElements = Callable[[Tensor, Elements], Tensor]


def kbest(k: int) -> Semiring:
    r"""The semiring of the k largest weights of paths, which are lists :math:`x_1 ≥ … ≥ x_k ≥ 0`, filled up with zeros.

    .. math::

        x ⊕ y &= \text{the } k \text{ largest of } x_1, …, x_k, \\
        & \qquad y_1, …, y_k \\
        x ⊗ y &= \text{the } k \text{ largest of all } x_i y_j

    So :math:`R_j` lists the weights of the k best paths from the output to neuron j; two paths of equal weight are two
    entries, and what is missing is 0. A Θ that klrp.explain is given is one of VITERBI, and d is
    :math:`(Θ(d), 0, …, 0)`. The default rule and Θ are those of VITERBI, to which it is equal for k = 1 (Mohri 2002 for
    shortest distances; Huang and Chiang 2005 for parsing). klrp.paths.best says which paths they are.

    Elements have the shape (k,). A product needs only the pairs with :math:`i j ≤ k`, about k log k of them.

    Raises:
        KlrpError: for a k that is no whole number from 1 up.

    Example:
        >>> second = klrp.explain(model, x, semiring=klrp.kbest(2)).input[..., 1]
    """
    try:
        number = 0 if isinstance(k, bool) else operator.index(k)
    except TypeError:
        number = 0
    if number < 1:
        raise KlrpError.value(f"kbest: got k = {k!r}; expected a whole number from 1 up.")
    rest = [0.0] * (number - 1)
    return Semiring(
        f"{number} best", [0.0, *rest], [1.0, *rest], _Largest(number), _Products(number), domain=VITERBI.domain,
        shape=(number,), default=VITERBI.default, total=f"the weights of the {number} best paths from the output to the map",
        parts=(VITERBI,), lift=partial(_lifted, "kbest", _First()),
    )  # fmt: skip


@dataclass(frozen=True)
class _Largest:
    """⊕: the k largest along ``dim`` and the last axis together."""

    k: int

    def __call__(self, x: Tensor, dim: int) -> Tensor:
        return x.movedim(dim, -2).flatten(-2).topk(self.k).values


@dataclass(frozen=True)
class _Products:
    """⊗: the k largest products. Some i·j products are no smaller than x_i y_j, so that pairs with i·j > k drop out."""

    k: int

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        pairs = [(i, j) for i in range(self.k) for j in range(self.k) if (i + 1) * (j + 1) <= self.k]
        at_x, at_y = torch.tensor(pairs, device=x.device).T
        return (x[..., at_x] * y[..., at_y]).topk(self.k).values


def expectation() -> Semiring:
    r"""The expectation semiring, of pairs :math:`(p, r)`: p is the sum of the weights w of all paths, r that of w log w.

    .. math::

        (p, r) ⊕ (p', r') &= (p + p', r + r') \\
        (p, r) ⊗ (p', r') &= (p p', \; p r' + r p')

    A Θ that klrp.explain is given is one of REAL, and d is :math:`(Θ(d), Θ(d) \log Θ(d))`. Logarithms add up along a path,
    and so do the pairs (Eisner 2002, for any quantity that adds up along it). The default is z⁺ with Θ = id: p is then
    the relevance over the reals, and ``entropy`` says how many paths it comes by. With a threshold all weights are one,
    and p is the number of paths.

    Elements have the shape (2,). A negative Θ(d) has no logarithm and is refused.

    Example:
        >>> r = klrp.explain(model, x, semiring=klrp.expectation()).input
        >>> paths = klrp.entropy(r).exp()
    """
    return Semiring(
        "expectation", [0.0, 0.0], [1.0, 0.0], REAL.add, _product_rule, shape=(2,), default=(rules.zplus(), identity()),
        total="the summed weights w of all paths from the output to the map, and the sum of w log w",
        parts=(REAL,), lift=partial(_lifted, "expectation", _with_logarithm),
    )  # fmt: skip


def entropy(elements: Tensor) -> Tensor:
    r"""How spread relevance is over the paths that reach a neuron, in nats: the entropy of their normalised weights.

    .. math:: H = -\sum_π \frac{w_π}{p} \log \frac{w_π}{p} = \log p - \frac{r}{p}

    Its exponential is an effective number of paths: n for n paths of equal weight, 1 for a single one; less than 1
    (H = −∞, so 0) only where there is no path.

    Args:
        elements: pairs [..., 2] of the semiring ``expectation()``.

    Raises:
        KlrpError: for another shape.
    """
    if not isinstance(elements, Tensor) or elements.ndim == 0 or elements.shape[-1] != 2:
        raise KlrpError.value(
            f"elements: got {tuple(getattr(elements, 'shape', ()))}; expected pairs [..., 2], as in a map of "
            f"klrp.explain(..., semiring=klrp.expectation())."
        )
    p, r = elements.unbind(-1)
    return torch.where(p > 0, (p.log() - r / p).clamp_min(0), -torch.inf)  # 0 but for rounding, for a single path


def _product_rule(x: Tensor, y: Tensor) -> Tensor:
    (p, r), (q, s) = x.unbind(-1), y.unbind(-1)
    return torch.stack([p * q, p * s + r * q], -1)


@dataclass(frozen=True)
class _First:
    """(w, 0, ..., 0) for a weight w, as long as an element is."""

    def __call__(self, w: Tensor, semiring: Elements) -> Tensor:
        return torch.nn.functional.pad(w[..., None], (0, semiring.shape[0] - 1))


def _with_logarithm(w: Tensor, semiring: Elements) -> Tensor:
    return torch.stack([w, torch.special.xlogy(w, w)], -1)


@dataclass(frozen=True)
class _Lifted:
    """A Θ of numbers, and what makes elements of them."""

    theta: Conversion
    to_elements: ToElements

    def __call__(self, d: Tensor, semiring: Elements) -> Tensor:
        (part,) = semiring.parts
        return self.to_elements(self.theta(d, part), semiring)


def _lifted(name: str, to_elements: ToElements, theta: Conversion | Theta) -> Conversion:
    """The Θ of lists or pairs; one that gives only zero and one knows those of every semiring."""
    theta = as_conversion(theta)
    if theta.safe or isinstance(theta.apply, _Lifted):
        return theta
    return Conversion(f"{name}({theta!r})", _Lifted(theta, to_elements))
