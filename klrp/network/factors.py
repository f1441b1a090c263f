"""Layers whose weights are the other factor of a product, or another value of the sample: products and Jacobians."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from klrp.network.layers import Affine, Layer, Map, Shape, Tap, View


class Multiply(Affine):
    """y = a · b, element by element, as a linear layer in each factor: its weights are the other one.

    Σ_j a_j w_jk is then 2 a b, so that each factor takes half. A factor that is held constant makes it an Affine.
    """

    @property
    def computes_forward(self) -> bool:
        return len(self.inputs) == 1


@dataclass(frozen=True, eq=False)
class MatMul(Layer):
    """y = q v over the last two axes, for each sample and each place of the axes between, which q and v share.

    ``sides`` says which factor each input is: 0 is q [N, *B, I, J], 1 is v [N, *B, J, K]; its weights are the other
    factor. With both of them Σ_j a_j w_jk is 2 q v, so that each takes half; one alone is an ordinary layer whose
    weights depend on the sample.
    """

    sides: tuple[int, ...] = (0, 1)
    weights_have_samples = True

    @property
    def computes_forward(self) -> bool:
        return len(self.sides) == 1

    def taps(self) -> Iterator[Tap]:
        between = len(self.output) - 3
        for source, side in enumerate(self.sides):

            def view(x: Tensor, transposed: bool = side == 0) -> Tensor:
                """[N, *B, rows, columns] as [N, G, rows, columns], or with the columns first."""
                x = x.flatten(1, between) if between else x.unsqueeze(1)
                return x.transpose(2, 3) if transposed else x

            yield Tap(source, view, view, lambda w, view=view: view(w).unsqueeze(4))

    def linear(self, xs: Sequence[Tensor], omega: Map) -> Tensor:
        weights = self._mapped(omega, xs[0].dtype)
        products = (x @ w if side == 0 else w @ x for x, w, side in zip(xs, weights, self.sides, strict=True))
        return sum(products)

    def adjoint(self, s: Tensor, omega: Map) -> list[Tensor]:
        weights = self._mapped(omega, s.dtype)
        return [s @ w.mT if side == 0 else w.mT @ s for w, side in zip(weights, self.sides, strict=True)]


@dataclass(frozen=True, eq=False)
class Dense(Layer):
    """y = W x + b for each sample, among the J neurons that ``view`` brings together: [N, *input] as [N, G, J, *P]; the
    weight is [N, G, K, J, *P]."""

    view: View
    weights_have_samples = True

    def taps(self) -> Iterator[Tap]:
        yield Tap(0, self.view, self.view, lambda w: w)


class Deferred(Sequence):
    """The one weight of a layer, made when it is asked for."""

    def __init__(self, make: Callable[[], Tensor]):
        self._make = make

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index):
        return self._made[index]

    @cached_property
    def _made(self) -> tuple[Tensor]:
        return (self._make(),)


@dataclass(frozen=True, eq=False)
class Centring(Dense):
    """y_k = f_k (x_k − mean x) among J neurons: w_jk = f_k (δ_jk − 1/J), for the ``factor`` f [N, G, J].

    Two numbers for each k are all its weights, f_k (1 − 1/J) where j = k and −f_k/J elsewhere. Sums are made with these;
    the J² weights are there for kernels that go through pairs.
    """

    factor: Tensor

    @classmethod
    def of(cls, factor: Tensor, bias: Tensor | None, shape: Shape, view: View) -> Centring:
        """The layer among the neurons that ``view`` brings together, for inputs and outputs of this shape."""
        centring = torch.eye(factor.shape[2], dtype=factor.dtype, device=factor.device) - 1 / factor.shape[2]
        return cls(Deferred(lambda: factor.unsqueeze(3) * centring), bias, (shape,), shape, view, factor)

    def linear(self, xs: Sequence[Tensor], omega: Map) -> Tensor:
        own, others = self._two(omega, xs[0].dtype)
        x = self.view(xs[0])
        return ((own - others) * x + others * x.sum(2, keepdim=True)).reshape(self.output)

    def adjoint(self, s: Tensor, omega: Map) -> list[Tensor]:
        own, others = self._two(omega, s.dtype)
        s = self.view(s)
        return [((own - others) * s + (others * s).sum(2, keepdim=True)).reshape(self.inputs[0])]

    def _two(self, omega: Map, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """ω(w_kk) and ω(w_jk) for j ≠ k."""
        part = 1 / self.factor.shape[2]
        return omega(self.factor * (1 - part)).to(dtype), omega(self.factor * -part).to(dtype)
