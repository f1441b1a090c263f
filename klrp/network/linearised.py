"""Steps that are linear only for given values: products of two activations, normalisations, softmax, max-pools.

A factor that is held constant makes a product an ordinary layer, whose weights depend on the sample. So does the
Jacobian at the values at hand for what is not linear:

    a ⊙ b, b held              z_k = Σ_j a_j w_jk    with w_jk = b_k where j = k
    A V, A held                z_ik = Σ_j A_ij V_jk
    y = γ (x − mean x) / σ + β, σ held     w_jk = γ_k (δ_jk − 1/J) / σ
    s = softmax(x)             w_jk = s_k (δ_jk − s_j), with what is left of s_k as a bias

A rule says which of the ways it takes (Rule.choice); without one each operation has its usual way.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from klrp.network.factors import Centring, Dense, MatMul, Multiply
from klrp.network.layers import Affine, Read, Shape
from klrp.network.moves import Held, Layered, Linearised
from klrp.semirings import Semiring


@dataclass(frozen=True, eq=False)
class Product(Linearised):
    """a ⊙ b with broadcasting, a / b, or the matrix product a b, of two activations; ``gates`` are the factors that come
    out of a sigmoid, a softmax or a norm, and "auto" holds one that stands alone, or lets both share."""

    inputs: tuple[Shape, ...]
    output: Shape
    matrix: bool = False
    quotient: bool = False
    gates: tuple[int, ...] = ()
    attention: bool = False  # whether a gate is a softmax's
    choices: ClassVar[tuple[str, ...]] = ("auto", "left", "right", "half")
    usual: ClassVar[str | None] = "auto"

    def layer(self, choice: str, values: Sequence[Tensor]) -> Layered:
        a, b = values
        if self.quotient:  # a divisor is no summand: it is always held
            b, choice = 1 / b, "right"
        if choice == "auto":
            choice = ("left", "right")[self.gates[0]] if len(self.gates) == 1 else "half"
        kind = MatMul if self.matrix else Multiply
        if choice == "half":
            return kind((b, a), None, self.inputs, self.output), (0, 1)
        live, held = (1, a) if choice == "left" else (0, b)
        layer = kind((held,), None, (self.inputs[live],), self.output)
        return (replace(layer, sides=(live,)) if isinstance(layer, MatMul) else layer), (live,)


@dataclass(frozen=True, eq=False)
class Norm(Linearised):
    """y = γ (x − mean x) / σ + β over J neurons at a time; ``rows`` views x as [N, G, J]. Without ``centred`` the mean
    stays, and σ is the root of the mean square. ``scale`` and ``shift`` broadcast to x, or are None."""

    input: Shape
    rows: Shape
    scale: Tensor | None
    shift: Tensor | None
    eps: float
    centred: bool = True
    choices: ClassVar[tuple[str, ...]] = ("identity", "centre")

    def choice(self, wanted: str) -> str | None:
        return "centre" if wanted == "centre" else None

    def hand_down(self, r: Tensor, semiring: Semiring, values: Sequence[Tensor] = ()) -> tuple[Tensor]:
        return (r,)

    def pairs(self, values: Sequence[Tensor] = ()) -> list[tuple[Tensor, Tensor]]:
        k = torch.arange(math.prod(self.input))
        return [(k, k)]

    def layer(self, choice: str, values: Sequence[Tensor]) -> Layered:
        (x,), shape = values, self.input
        rows = x.reshape(self.rows)
        mean = rows.mean(2, keepdim=True) if self.centred else 0
        factor = ((rows - mean).square().mean(2, keepdim=True) + self.eps).rsqrt().expand(self.rows)
        factor = factor.reshape(shape) if self.scale is None else factor.reshape(shape) * self.scale
        if not self.centred:
            return Affine((factor,), self.shift, (shape,), shape), (0,)

        def view(x: Tensor) -> Tensor:
            return x.reshape(len(x), *self.rows[1:], *x.shape[len(shape) :])

        return Centring.of(factor.reshape(self.rows), self.shift, shape, view), (0,)


@dataclass(frozen=True, eq=False)
class Softmax(Held, Linearised):
    """softmax(sign · x) over an axis, or its logarithm. It is held constant: no relevance passes, unless by a rule."""

    axis: int
    sign: int = 1
    logarithm: bool = False
    choices: ClassVar[tuple[str, ...]] = ("taylor",)

    def finite(self, read: Read) -> Read:
        """Without what a mask hides: −∞ there, and a weight of 0."""
        return Read(read.activations.masked_fill(read.activations.isinf(), 0))

    def layer(self, choice: str, values: Sequence[Tensor]) -> Layered:
        (x,), shape, axis = values, self.input, self.axis
        s = (self.sign * x).softmax(axis)

        def view(x: Tensor) -> Tensor:
            return x.movedim(axis, 1).unsqueeze(1)

        at_k, at_j = view(s).unsqueeze(3), view(s).unsqueeze(2)
        same = torch.eye(shape[axis], dtype=x.dtype, device=x.device)
        same = same.reshape(1, 1, *same.shape, *(1,) * (len(shape) - 2))
        jacobian = same - at_j if self.logarithm else at_k * (same - at_j)
        layer = Dense((self.sign * jacobian,), None, (shape,), shape, view)
        value = s.log() if self.logarithm else s
        return replace(layer, bias=value - layer.linear([x.masked_fill(x.isinf(), 0)], lambda w: w)), (0,)
