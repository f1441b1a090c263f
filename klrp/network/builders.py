"""Builders: what a call of a function of torch does, as an operation.

A builder takes the arguments of the function it stands for, with a Traced in the place of every value that depends
on the network's input, and gives the operation and the Traced values it reads.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from klrp.errors import KlrpError, SampleAxisError
from klrp.network.layers import (
    AdaptiveWindows,
    Affine,
    Conv,
    ConvTranspose,
    Layer,
    Linear,
    Pool,
    Reduce,
    Shape,
    Windows,
    window_sizes,
)  # fmt: skip
from klrp.network.moves import Concat, Embedding, Extreme, Move, Pass, Unpool, Winner

Operation = Layer | Move


class Traced(NamedTuple):
    """A value that depends on the input: the ``item``-th output of a call, and what is known of it without it."""

    call: int
    item: int
    shape: torch.Size
    dtype: torch.dtype
    device: torch.device

    @property
    def key(self) -> tuple[int, int]:
        """What names the value."""
        return self.call, self.item


Built = tuple[Operation, Sequence[Traced]]


def rearrange(*args: Any, **kwargs: Any) -> Built:
    """Marks what only moves neurons: it is replayed on their indices."""
    raise NotImplementedError


# --- layers -------------------------------------------------------------------------------------------------


def linear(x: Traced, weight: Tensor, bias: Tensor | None = None) -> Built:
    check_batched(x, x.dtype.is_floating_point and len(x.shape) >= 2)
    return Linear((weight,), bias, (tuple(x.shape),), (*x.shape[:-1], weight.shape[0])), [x]


def conv(spatial: int) -> Callable[..., Built]:
    def build(x, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
        check_batched(x, len(x.shape) == spatial + 2)
        kernel, dilation = tuple(weight.shape[2:]), _tuple(dilation, spatial)
        if padding == "same":
            total = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
            pads = tuple((t // 2, t - t // 2) for t in total)
        else:
            pads = tuple((p, p) for p in _tuple(0 if padding == "valid" else padding, spatial))
        windows, inputs = Windows(kernel, _tuple(stride, spatial), pads, dilation), tuple(x.shape)
        output = (inputs[0], len(weight), *windows.outputs(inputs[2:]))
        bias = None if bias is None else bias.reshape(-1, *(1,) * spatial)
        return Conv((weight,), bias, (inputs,), output, windows, groups), [x]

    return build


def conv_transpose(spatial: int) -> Callable[..., Built]:
    def build(x, weight, bias=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1):
        check_batched(x, len(x.shape) == spatial + 2)
        kernel, stride, dilation = tuple(weight.shape[2:]), _tuple(stride, spatial), _tuple(dilation, spatial)
        padding, more = _tuple(padding, spatial), _tuple(output_padding, spatial)
        axes = zip(x.shape[2:], kernel, stride, padding, dilation, more, strict=True)
        sizes = [(i - 1) * step - 2 * p + d * (k - 1) + m + 1 for i, k, step, p, d, m in axes]
        output = (x.shape[0], weight.shape[1] * groups, *sizes)
        windows = Windows(kernel, stride, tuple((p, p) for p in padding), dilation)
        bias = None if bias is None else bias.reshape(-1, *(1,) * spatial)
        return ConvTranspose((weight,), bias, (tuple(x.shape),), output, windows, groups), [x]

    return build


def avg_pool(spatial: int) -> Callable[..., Built]:
    pool = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[spatial - 1]

    def build(x, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True, divisor_override=None):
        check_batched(x, len(x.shape) == spatial + 2)
        windows, inputs = _pool_windows(spatial, kernel_size, stride, padding, 1), tuple(x.shape)
        extra = () if divisor_override is None else (divisor_override,)
        ones = torch.ones(1, 1, *inputs[-spatial:], dtype=x.dtype, device=x.device)
        share = pool(
            ones, windows.kernel, windows.stride, _tuple(padding, spatial), ceil_mode, count_include_pad, *extra
        )
        share = share[0, 0]  # real neurons in the window / its divisor
        weight = share / window_sizes(windows, inputs[-spatial:], tuple(share.shape)).to(share)
        return Pool((weight,), None, (inputs,), (*inputs[:-spatial], *share.shape), windows), [x]

    return build


def adaptive_avg_pool(spatial: int) -> Callable[..., Built]:
    def build(x, output_size):
        check_batched(x, len(x.shape) == spatial + 2)
        inputs, outputs, windows = _adaptive(x, output_size, spatial)
        weight = 1 / window_sizes(windows, inputs[-spatial:], outputs).to(x.device, x.dtype)
        return Pool((weight,), None, (inputs,), (*inputs[:-spatial], *outputs), windows), [x]

    return build


def batch_norm(x, running_mean, running_var, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5):
    if training and running_mean is not None:
        raise KlrpError.value(
            "a BatchNorm in training mode makes a sample depend on its batch; call eval() on its module"
        )
    if running_mean is None:
        raise KlrpError.value(
            "a BatchNorm without running statistics makes a sample depend on its batch. Use track_running_stats=True."
        )
    scale = (running_var + eps).rsqrt() * (1 if weight is None else weight)
    shift = -running_mean * scale + (0 if bias is None else bias)
    weight, bias = (v.reshape(1, -1, *(1,) * (len(x.shape) - 2)) for v in (scale, shift))
    return Affine((weight,), bias, (tuple(x.shape),), tuple(x.shape)), [x]


def add(a, b, *, alpha=1) -> Built:
    return linear_sum([(a, 1), (b, alpha)])


def sub(a, b, *, alpha=1) -> Built:
    return linear_sum([(a, 1), (b, -alpha)])


def rsub(a, b, *, alpha=1) -> Built:
    return linear_sum([(a, -alpha), (b, 1)])


def neg(a) -> Built:
    return linear_sum([(a, -1)])


def linear_sum(terms: list[tuple[Any, Any]]) -> Built:
    """Σ factor · term: the traced terms are the inputs, the constant ones the bias."""
    live = [(x, factor) for x, factor in terms if isinstance(x, Traced)]
    first = live[0][0]
    numbers = [x for pair in terms for x in pair]
    fractions = any(isinstance(x, float) or getattr(x, "dtype", torch.long).is_floating_point for x in numbers)
    if len(terms) > 1 and fractions and not all(x.dtype.is_floating_point for x, _ in live):
        raise KlrpError.value("it adds fractions to whole numbers; convert these first: x.float()")
    if not first.dtype.is_floating_point and len(live) == 1:
        return Pass(tuple(first.shape)), [first]  # integers are tokens: another number for the same token
    shapes = [shape_of(x) for x, _ in terms]
    shape = torch.broadcast_shapes(*shapes, *(shape_of(factor) for _, factor in terms))
    if any(len(x.shape) != len(shape) for x, _ in live):
        raise KlrpError.value("it broadcasts a value along a new leading axis, which is the samples'")

    def aligned(value: Any) -> Tensor:
        value = torch.as_tensor(value, dtype=first.dtype, device=first.device)
        return value.reshape(*(1,) * (len(shape) - value.ndim), *value.shape)

    weights = tuple(aligned(factor) for _, factor in live)
    constants = [aligned(x) * factor for x, factor in terms if not isinstance(x, Traced)]
    inputs = tuple(tuple(x.shape) for x, _ in live)
    return Affine(weights, sum(constants) if constants else None, inputs, tuple(shape)), [x for x, _ in live]


def reduce(average: bool) -> Callable[..., Built]:
    """The mean or the sum over axes other than the samples'."""

    def build(x, dim=None, keepdim=False, *, dtype=None):
        shape = tuple(x.shape)
        dims = axes_of(dim, len(shape))
        kept = tuple(1 if axis in dims else n for axis, n in enumerate(shape))
        output = kept if keepdim else tuple(n for axis, n in enumerate(shape) if axis not in dims)
        weight = 1 / math.prod(shape[d] for d in dims) if average else 1.0
        weight = torch.tensor(weight, dtype=x.dtype, device=x.device)
        return Reduce((weight,), None, (shape,), output, kept), [x]

    return build


# --- moves --------------------------------------------------------------------------------------------------


def max_pool(spatial: int) -> Callable[..., Built]:
    pool = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[spatial - 1]

    def build(x, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False):
        check_batched(x, len(x.shape) == spatial + 2)
        w = _pool_windows(spatial, kernel_size, stride, padding, dilation)
        settings = dict(padding=_tuple(padding, spatial), dilation=w.dilation, ceil_mode=ceil_mode)
        winners = partial(pool, kernel_size=w.kernel, stride=w.stride, return_indices=True, **settings)
        output = winners(torch.empty(x.shape, device="meta"))[0].shape
        return Winner(winners, w, tuple(x.shape), tuple(output)), [x]

    return build


def adaptive_max_pool(spatial: int) -> Callable[..., Built]:
    pool = (F.adaptive_max_pool1d, F.adaptive_max_pool2d, F.adaptive_max_pool3d)[spatial - 1]

    def build(x, output_size, return_indices=False):
        check_batched(x, len(x.shape) == spatial + 2)
        inputs, outputs, windows = _adaptive(x, output_size, spatial)
        winners = partial(pool, output_size=outputs, return_indices=True)
        return Winner(winners, windows, inputs, (*inputs[:-spatial], *outputs)), [x]

    return build


def max_unpool(spatial: int) -> Callable[..., Built]:
    def build(x, indices, kernel_size, stride=None, padding=0, output_size=None):
        if not isinstance(x, Traced) or not isinstance(indices, Traced):
            raise KlrpError.value("it is explained for values and indices that both depend on the input")
        w = _pool_windows(spatial, kernel_size, stride, padding, 1)
        axes = zip(x.shape[-spatial:], w.kernel, w.stride, w.padding, strict=True)
        plane = [(n - 1) * step - 2 * p + k for n, k, step, (p, _) in axes]
        plane = plane if output_size is None else list(output_size)[-spatial:]
        return Unpool(tuple(x.shape), (*x.shape[:-spatial], *plane)), [x, indices]

    return build


def extreme(sign: int) -> Callable[..., Built]:
    """The largest or smallest over axes other than the samples'; two values, element by element, are no rule's."""

    def build(x, dim=None, keepdim=False):
        if isinstance(dim, Tensor | Traced):
            raise KlrpError.value("it takes the larger or smaller of two values, and no rule shares that")
        return Extreme(tuple(x.shape), axes_of(dim, len(x.shape)), sign), [x]

    return build


def cat(tensors, dim=0) -> Built:
    shapes = tuple(shape_of(t) for t in tensors)
    dim %= len(shapes[0])
    if dim == 0:
        raise KlrpError.value("it concatenates along the axis of the samples")
    live = tuple(isinstance(t, Traced) for t in tensors)
    return Concat(dim, shapes, live), [t for t in tensors if isinstance(t, Traced)]


def embedding(x, weight, *args, **kwargs) -> Built:
    return Embedding((*x.shape, weight.shape[1]), len(x.shape)), [x]


def one_hot(x, num_classes=-1) -> Built:
    if num_classes < 0:
        raise KlrpError.value("it takes the number of classes from the values; name it: one_hot(x, num_classes)")
    return Embedding((*x.shape, num_classes), len(x.shape)), [x]


def activation(x, *args, **kwargs) -> Built:
    if not isinstance(x, Traced):
        raise KlrpError.value("its first argument is a constant, and another one depends on the input")
    return Pass(tuple(x.shape)), [x]


# --- shapes -------------------------------------------------------------------------------------------------


def check_batched(x: Traced, batched: bool) -> None:
    if not batched:
        raise SampleAxisError(
            f"inputs: a layer got {tuple(x.shape)}; expected [N, ...]. Add the axis of samples: inputs[None]"
        )


def _tuple(value: Any, n: int) -> tuple[int, ...]:
    if isinstance(value, int):
        return (value,) * n
    return tuple(value) * n if len(value) == 1 else tuple(value)


def axes_of(dim: Any, rank: int) -> tuple[int, ...]:
    """The axes that an argument ``dim`` names, which may not be all, or that of the samples."""
    dims = () if dim is None else tuple(d % rank for d in ([dim] if isinstance(dim, int) else dim))
    if not dims or 0 in dims:
        raise KlrpError.value("it joins the samples; name the other axes")
    return dims


def shape_of(x: Any) -> Shape:
    return tuple(x.shape) if isinstance(x, Tensor | Traced) else ()


def _pool_windows(spatial: int, kernel: Any, stride: Any, padding: Any, dilation: Any) -> Windows:
    kernel = _tuple(kernel, spatial)
    stride = kernel if stride is None or stride == [] else _tuple(stride, spatial)
    return Windows(kernel, stride, tuple((p, p) for p in _tuple(padding, spatial)), _tuple(dilation, spatial))


def _adaptive(x: Traced, output_size: Any, spatial: int) -> tuple[Shape, Shape, Windows | AdaptiveWindows]:
    """Equal windows side by side where they divide the input: fewer, larger taps."""
    inputs = tuple(x.shape)
    size = (output_size,) * spatial if isinstance(output_size, int | None) else output_size
    outputs = tuple(n if o is None else o for o, n in zip(size, inputs[-spatial:], strict=True))
    pairs = list(zip(inputs[-spatial:], outputs, strict=True))
    if any(n % o for n, o in pairs) or math.prod(outputs) <= 1:
        return inputs, outputs, AdaptiveWindows()
    kernel = tuple(n // o for n, o in pairs)
    return inputs, outputs, Windows(kernel, kernel, ((0, 0),) * spatial, (1,) * spatial)
