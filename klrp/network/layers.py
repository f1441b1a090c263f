"""Weighted layers as bundles of taps.

A tap is one dense product over G groups, K upper neurons, J lower neurons and positions P, given as views:
``lower`` maps a layer's input [N, *input] to [N, G, J, *P], ``upper`` its output to [N, G, K, *P], and
``weight`` its weights to [1, G, K, J, *P], or [N, G, K, J, *P] where they depend on the sample; axes of size 1
broadcast. Linear is one tap; a convolution has
one for each position of its kernel, a shifted and strided view, so that padding is no neuron and a pair
outside the window is absent. The views leave trailing axes alone: they work on tensors of semiring
elements too, and they can be written to.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

Shape = tuple[int, ...]
Map = Callable[[Tensor], Tensor]
View = Callable[[Tensor], Tensor]

SLAB = 1 << 20  # numbers that a layer makes at once where it need not make them all


class Read(NamedTuple):
    """What a layer reads [N, *input]: a value, or with ``relu`` what is positive of it.

    Maps are large, and a kernel can do a ReLU where it reads.
    """

    value: Tensor
    relu: bool = False

    @property
    def activations(self) -> Tensor:
        """The activations a_j, made anew if there is a ReLU."""
        return self.value.relu() if self.relu else self.value


@dataclass(frozen=True)
class Tap:
    """One dense product between the ``source``-th input of a layer and its output."""

    source: int
    lower: View
    upper: View
    weight: View


@dataclass(frozen=True, eq=False)
class Layer:
    """A weighted layer: one weight tensor for each input, a bias that broadcasts to the output, taps."""

    weights: tuple[Tensor, ...]
    bias: Tensor | None
    inputs: tuple[Shape, ...]
    output: Shape
    weights_have_samples: ClassVar[bool] = (
        False  # whether the first axis of a weight is the samples', of size 1 if shared
    )

    @property
    def computes_forward(self) -> bool:
        """Whether Σ_j a_j w_jk + b_k is what the step computes."""
        return True

    @property
    def weights_per_sample(self) -> bool:
        """Whether each sample has weights of its own; a single sample's are as good as everyone's."""
        tap = next(self.taps(), None)
        return tap is not None and tap.weight(self.weights[tap.source]).shape[0] > 1

    def taps(self) -> Iterator[Tap]:
        """The taps that together hold each connected pair once."""
        raise NotImplementedError

    def edges(self) -> int:
        """How many connected pairs one sample has."""
        blank = self.weights[0].new_zeros(())
        upper, count = blank.expand(1, *self.output[1:]), 0
        for tap in self.taps():
            lower, weight = blank.expand(1, *self.inputs[tap.source][1:]), tap.weight(self.weights[tap.source])
            positions = torch.broadcast_shapes(tap.lower(lower).shape[3:], tap.upper(upper).shape[3:])
            count += math.prod(weight.shape[1:4]) * math.prod(positions)
        return count

    def linear(self, xs: Sequence[Tensor], omega: Map) -> Tensor:
        """Σ_j x_j ω(w_jk) [N, *output], without bias."""
        z, weights = xs[0].new_zeros(self.output), self._mapped(omega, xs[0].dtype)
        for tap in self.taps():
            x, w = tap.lower(xs[tap.source]), tap.weight(weights[tap.source])
            upper = tap.upper(z)
            upper += fold((x.unsqueeze(2) * w).sum(3), upper.shape, torch.sum)
        return z

    def adjoint(self, s: Tensor, omega: Map) -> list[Tensor]:
        """Σ_k ω(w_jk) s_k for each input [N, *input]: the vector-Jacobian product of ``linear``."""
        cs, weights = [s.new_zeros(shape) for shape in self.inputs], self._mapped(omega, s.dtype)
        for tap in self.taps():
            lower, w = tap.lower(cs[tap.source]), tap.weight(weights[tap.source])
            lower += fold((tap.upper(s).unsqueeze(3) * w).sum(2), lower.shape, torch.sum)
        return cs

    def _mapped(self, omega: Map, dtype: torch.dtype) -> list[Tensor]:
        return [omega(w).to(dtype) for w in self.weights]


def fold(x: Tensor, shape: Shape, add: Callable[[Tensor, int], Tensor]) -> Tensor:
    """x with the axes along which ``shape`` has size 1 joined by ``add``, and kept as size 1."""
    for axis, size in enumerate(shape):
        if size == 1 and x.shape[axis] != 1:
            x = add(x, axis).unsqueeze(axis)
    return x


class Linear(Layer):
    """y = x Wᵀ + b over the last axis; the axes between are positions."""

    def taps(self) -> Iterator[Tap]:
        axis = len(self.output) - 1
        ones = (1,) * (axis - 1)

        def features_first(x: Tensor) -> Tensor:
            return x.movedim(axis, 1).unsqueeze(1)

        yield Tap(0, features_first, features_first, lambda w: w.reshape(1, 1, *w.shape, *ones))

    def linear(self, xs: Sequence[Tensor], omega: Map) -> Tensor:
        (x,) = xs
        return torch.cat([F.linear(x, w) for _, w in self._slabs(omega, x.dtype)], -1)

    def adjoint(self, s: Tensor, omega: Map) -> list[Tensor]:
        parts = (s[..., rows] @ w for rows, w in self._slabs(omega, s.dtype))
        return [sum(parts, start=s.new_zeros(self.inputs[0]))]

    def _slabs(self, omega: Map, dtype: torch.dtype) -> Iterator[tuple[slice, Tensor]]:
        """ω of some rows at a time: the first matrix of VGG-16 is too large to have twice."""
        (w,) = self.weights
        step = max(1, SLAB // max(1, w.shape[1]))
        for start in range(0, len(w), step):
            rows = slice(start, start + step)
            yield rows, omega(w[rows]).to(dtype)


@dataclass(frozen=True)
class Windows:
    """Where the windows of a convolution or a pooling lie, axis by axis."""

    kernel: Shape
    stride: Shape
    padding: tuple[tuple[int, int], ...]
    dilation: Shape

    def outputs(self, inputs: Shape) -> Shape:
        """How many whole windows there are along each axis."""
        spans = [(k - 1) * d + 1 for k, d in zip(self.kernel, self.dilation, strict=True)]
        padded = [i + sum(p) for i, p in zip(inputs, self.padding, strict=True)]
        steps = zip(padded, spans, self.stride, strict=True)
        return tuple((i - span) // step + 1 for i, span, step in steps)

    @property
    def apart(self) -> bool:
        """Whether no two windows share a position."""
        axes = zip(self.kernel, self.dilation, self.stride, strict=True)
        return all(step >= (k - 1) * d + 1 for k, d, step in axes)

    def offsets(self, inputs: Shape, outputs: Shape) -> Iterator[tuple[Shape, tuple, tuple]]:
        """(offset in the kernel, slices of the input, slices of the output) that meet in it."""
        for offset in itertools.product(*(range(k) for k in self.kernel)):
            lower, upper = [], []
            for axis, t in enumerate(offset):
                shift = t * self.dilation[axis] - self.padding[axis][0]
                step = self.stride[axis]
                first = max(0, -(shift // step))
                last = min(outputs[axis] - 1, (inputs[axis] - 1 - shift) // step)
                if last < first:
                    break
                lower.append(slice(first * step + shift, last * step + shift + 1, step))
                upper.append(slice(first, last + 1))
            else:
                yield offset, tuple(lower), tuple(upper)


@dataclass(frozen=True)
class AdaptiveWindows:
    """The windows of adaptive pooling: one offset for each output cell, its window whole."""

    def offsets(self, inputs: Shape, outputs: Shape) -> Iterator[tuple[Shape, tuple, tuple]]:
        for cell in itertools.product(*(range(o) for o in outputs)):
            lower = tuple(
                slice(c * i // o, -(-(c + 1) * i // o)) for c, i, o in zip(cell, inputs, outputs, strict=True)
            )
            yield cell, lower, tuple(slice(c, c + 1) for c in cell)


@dataclass(frozen=True, eq=False)
class Conv(Layer):
    """A convolution over 1, 2 or 3 spatial axes, weight [out, in / groups, *kernel]."""

    windows: Windows
    groups: int

    def taps(self) -> Iterator[Tap]:
        g, spatial = self.groups, len(self.windows.kernel)
        ones = (1,) * spatial

        def at(slices: tuple) -> View:
            return lambda x: x[(slice(None), slice(None), *slices)].unflatten(1, (g, -1))

        def weight(offset: Shape) -> View:
            return lambda w: w[(..., *offset)].unflatten(0, (g, -1)).reshape(1, g, -1, w.shape[1], *ones)

        for offset, lower, upper in self.windows.offsets(self.inputs[0][2:], self.output[2:]):
            yield Tap(0, at(lower), at(upper), weight(offset))

    def _pads(self) -> tuple[list[int], Shape]:
        """Padding to be done beforehand, where the two sides differ, and by the convolution."""
        if all(left == right for left, right in self.windows.padding):
            return [], tuple(left for left, _ in self.windows.padding)
        return [p for pair in reversed(self.windows.padding) for p in pair], (0,) * len(self.windows.kernel)

    def linear(self, xs: Sequence[Tensor], omega: Map) -> Tensor:
        (weight,), (before, padding) = self._mapped(omega, xs[0].dtype), self._pads()
        x, w, still = F.pad(xs[0], before) if before else xs[0], self.windows, (0,) * len(padding)
        return torch.convolution(x, weight, None, w.stride, padding, w.dilation, False, still, self.groups)

    def adjoint(self, s: Tensor, omega: Map) -> list[Tensor]:
        (weight,), (before, padding) = self._mapped(omega, s.dtype), self._pads()
        w, still = self.windows, (0,) * len(padding)
        blank = s.new_zeros(1).expand(self.inputs[0])  # only its shape is read
        padded = F.pad(blank, before) if before else blank

        def below(at: slice) -> Tensor:
            c, _, _ = torch.ops.aten.convolution_backward(
                s,
                padded[:, at],
                weight[:, at],
                None,
                w.stride,
                padding,
                w.dilation,
                False,
                still,
                self.groups,
                (True, False, False),
            )
            return c

        first, *others = self._slabs(s)
        c = below(first)
        if others:
            c = torch.cat([c, *map(below, others)], 1)
        return [F.pad(c, [-p for p in before]) if before else c]

    def _slabs(self, s: Tensor) -> list[slice]:
        """Channels of the input at a time: in double precision torch holds a number for each channel, place
        of the kernel and position of s."""
        step = channels = self.inputs[0][1]
        if s.dtype == torch.float64 and s.device.type == "cpu" and self.groups == 1:
            step = max(1, SLAB // (math.prod(self.windows.kernel) * s[:, 0].numel()))
        return [slice(start, start + step) for start in range(0, channels, step)]


@dataclass(frozen=True, eq=False)
class ConvTranspose(Layer):
    """A transposed convolution, weight [in, out / groups, *kernel]: a convolution with its ends changed over, so that
    ``windows`` lie on the output."""

    windows: Windows
    groups: int

    def taps(self) -> Iterator[Tap]:
        g, ones = self.groups, (1,) * len(self.windows.kernel)

        def at(slices: tuple) -> View:
            return lambda x: x[(slice(None), slice(None), *slices)].unflatten(1, (g, -1))

        def weight(offset: Shape) -> View:
            return lambda w: w[(..., *offset)].unflatten(0, (g, -1)).mT.reshape(1, g, w.shape[1], -1, *ones)

        for offset, above, below in self.windows.offsets(self.output[2:], self.inputs[0][2:]):
            yield Tap(0, at(below), at(above), weight(offset))

    def linear(self, xs: Sequence[Tensor], omega: Map) -> Tensor:
        w, padding = self.windows, tuple(left for left, _ in self.windows.padding)
        axes = zip(self.output[2:], self.inputs[0][2:], w.kernel, w.stride, padding, w.dilation, strict=True)
        more = [o - ((i - 1) * step - 2 * p + d * (k - 1) + 1) for o, i, k, step, p, d in axes]
        (weight,) = self._mapped(omega, xs[0].dtype)
        return torch.convolution(xs[0], weight, None, w.stride, padding, w.dilation, True, more, self.groups)

    def adjoint(self, s: Tensor, omega: Map) -> list[Tensor]:
        (weight,), w, still = self._mapped(omega, s.dtype), self.windows, (0,) * len(self.windows.kernel)
        padding = tuple(left for left, _ in w.padding)
        return [torch.convolution(s, weight, None, w.stride, padding, w.dilation, False, still, self.groups)]


@dataclass(frozen=True, eq=False)
class Pool(Layer):
    """Average pooling: weight [*output positions], 1 / the window's divisor."""

    windows: Windows | AdaptiveWindows

    @property
    def computes_forward(self) -> bool:
        """It may stand for a max-pool."""
        return False

    def taps(self) -> Iterator[Tap]:
        spatial = self.weights[0].ndim
        lead = (1,) * (len(self.output) + 3 - spatial)
        for _, lower, upper in self.windows.offsets(self.inputs[0][-spatial:], self.output[-spatial:]):
            yield Tap(
                0,
                window(lower, len(self.output)),
                window(upper, len(self.output)),
                lambda w, upper=upper: w[upper].reshape(*lead, *w[upper].shape),
            )


def window(slices: tuple, ndim: int) -> View:
    """x [N, ..., *spatial] at the slices of its last axes, as [N, 1, 1, ..., *positions]."""
    index = (*(slice(None),) * (ndim - len(slices)), *slices)
    return lambda x: x[index][:, None, None]


class Affine(Layer):
    """y = Σ_i w_i x_i + b, element by element: residual add, a BatchNorm that stands alone, a factor.

    A weight is [1, *input], or [N, *input] where it depends on the sample.
    """

    weights_have_samples = True

    def taps(self) -> Iterator[Tap]:
        for source in range(len(self.inputs)):
            yield Tap(source, _alone, _alone, lambda w: w[:, None, None, None])


def _alone(x: Tensor) -> Tensor:
    return x[:, None, None]


@dataclass(frozen=True, eq=False)
class Reduce(Layer):
    """The mean, or the sum, over some axes; ``kept`` is the output's shape with those axes left in as 1."""

    kept: Shape

    def taps(self) -> Iterator[Tap]:
        outer, ones = len(self.output), (1,) * (len(self.kept) + 3)

        def upper(y: Tensor) -> Tensor:
            return y.reshape(y.shape[0], *self.kept[1:], *y.shape[outer:])[:, None, None]

        yield Tap(0, _alone, upper, lambda w: w.reshape(ones))


def window_sizes(windows: Windows | AdaptiveWindows, inputs: Shape, outputs: Shape) -> Tensor:
    """How many real neurons each window holds [*outputs]."""
    sizes = torch.zeros(outputs)
    for _, lower, upper in windows.offsets(inputs, outputs):
        pairs = math.prod(len(range(*s.indices(n))) for s, n in zip(lower, inputs, strict=True))
        sizes[upper] += pairs / sizes[upper].numel()
    return sizes
