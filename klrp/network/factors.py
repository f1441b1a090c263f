"""Layers whose weights are the other factor of a product, or another value of the sample: products and Jacobians."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from klrp.network.layers import Affine, Layer, Map, Tap, View


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
