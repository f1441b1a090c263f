"""Sparse lists for a layer: which of its weights and positions the compiled walk needs, and in what order.

``sites`` shows a layer's maps with the axes [samples, y, x, groups, channels].
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from klrp.kernels import compiled, lists, walk
from klrp.kernels.packing import pack
from klrp.network.layers import Conv, Layer, Linear, Read, Windows

# Fewer samples use a dense matrix too little to pay for another copy of it, or for a look at its largest
# entries; the more so the larger it is.
FEW, LARGE = 3, 1 << 20
POINT = Windows((1, 1), (1, 1), ((0, 0), (0, 0)), (1, 1))


def refusal(layer: Layer, device: torch.device) -> str:
    """Why the compiled walk cannot take this layer; empty if it can."""
    if not compiled.AVAILABLE:
        return "Numba is not installed (pip install klrp[fast])"
    if device.type != "cpu":
        return f"it is compiled for the CPU, not for {device.type}"
    if isinstance(layer, Linear):
        return ""
    if not isinstance(layer, Conv):
        return "only linear layers and convolutions have one"
    if len(layer.windows.kernel) > 2:
        return "the convolution has three axes"
    if layer.weights[0].shape[1] < 4 <= layer.groups:
        return "a depthwise convolution has too few channels side by side"
    return ""


def sites(layer: Layer, x: Tensor) -> Tensor:
    """A map of the layer's input or output as [samples, y, x, groups, channels]."""
    if isinstance(layer, Linear):
        return x.reshape(1, -1, 1, 1, x.shape[-1])
    x = x.unsqueeze(2) if x.ndim == 3 else x
    return x.permute(0, 2, 3, 1).unflatten(3, (layer.groups, -1))


def spread(layer: Layer, values: Tensor) -> Tensor:
    """One value for each sample [N] at each position of ``sites`` [samples, positions]."""
    between = (1,) * (len(layer.output) - 2)
    if isinstance(layer, Linear):
        return values.reshape(-1, *between).expand(layer.output[:-1]).reshape(1, -1)
    return values[:, None].expand(-1, math.prod(layer.output[2:]))


def downward(
    layer: Layer,
    kind: int,
    read: Read,
    w: Tensor,
    found: lists.Lists,
    out: torch.dtype,
    cut: float = 0.0,
    sign: int = 1,
) -> tuple[Tensor, bool]:
    """What each neuron of the input [N, *input] gets from the lists of the upper ones, and whether an
    activation has the other sign."""
    windows, lower, upper = _planes(layer)
    tables = [_upper_of(windows, axis, lower[axis], upper[axis]) for axis in range(2)]
    result, at = torch.empty(layer.inputs[0], dtype=out), sites(layer, read.value)
    packed = pack(_weights(layer, w), often=not _few(at, w))
    to = sites(layer, result)
    others = walk.run(kind, found, packed, at, *tables, upper, to, read.relu, cut, sign)
    return result, others


def largest(layer: Layer, x: Tensor, w: Tensor, wanted: Tensor | None = None) -> Tensor:
    """max_j |x_j w_jk| [N, *output], for x from 0 up; 0 where it is not ``wanted`` [N, *output]."""
    at = sites(layer, x)
    if wanted is None:
        wanted = torch.ones(layer.output, dtype=torch.bool)
    if isinstance(layer, Linear) and _few(at, w):
        wanted = wanted.reshape(at.shape[1], -1)
        return walk.row_maximum(at.reshape(at.shape[1], -1), w, wanted).reshape(layer.output)
    windows, lower, upper = _planes(layer)
    tables = [_lower_of(windows, axis, lower[axis], upper[axis]) for axis in range(2)]
    one = x.new_ones(()).expand(at.shape)
    none = x.new_zeros(()).expand(len(at), at.shape[1:3].numel())
    found = lists.lists_of(lists.MAX, at, one, 0.0, none)
    packed = pack(_weights(layer, w).transpose(1, 2))
    result = wanted.to(x.dtype)  # read where it is wanted, and then written over
    walk.run(lists.MAX, found, packed, sites(layer, result), *tables, lower, sites(layer, result))
    return result


def _few(at: Tensor, w: Tensor) -> bool:
    """Whether the sites use a matrix of weights only a few times."""
    return at.shape[:3].numel() < FEW + w.numel() // LARGE


def _planes(layer: Layer) -> tuple[Windows, tuple[int, int], tuple[int, int]]:
    """The windows over two axes, and how many positions the input and the output have along them."""
    if isinstance(layer, Linear):
        samples = math.prod(layer.output[:-1])
        return POINT, (samples, 1), (samples, 1)
    w, lower, upper = layer.windows, layer.inputs[0][2:], layer.output[2:]
    if len(w.kernel) == 1:
        w = Windows((1, *w.kernel), (1, *w.stride), ((0, 0), *w.padding), (1, *w.dilation))
        lower, upper = (1, *lower), (1, *upper)
    return w, tuple(lower), tuple(upper)


def _weights(layer: Layer, weight: Tensor) -> Tensor:
    """The weights as [groups, upper channels, lower channels, offsets]."""
    if isinstance(layer, Linear):
        return weight[None, :, :, None]
    return weight.flatten(2).unflatten(0, (layer.groups, -1))


def _upper_of(windows: Windows, axis: int, lower: int, upper: int) -> np.ndarray:
    """[lower positions, offsets]: the upper position that each leads to, −1 where there is none."""
    offset = np.arange(windows.kernel[axis]) * windows.dilation[axis] - windows.padding[axis][0]
    whole, rest = np.divmod(np.arange(lower)[:, None] - offset, windows.stride[axis])
    return np.where((rest == 0) & (whole >= 0) & (whole < upper), whole, -1).astype(np.int32)


def _lower_of(windows: Windows, axis: int, lower: int, upper: int) -> np.ndarray:
    """[upper positions, offsets]: the lower position that each leads to, −1 where there is none."""
    offset = np.arange(windows.kernel[axis]) * windows.dilation[axis] - windows.padding[axis][0]
    found = np.arange(upper)[:, None] * windows.stride[axis] + offset
    return np.where((found >= 0) & (found < lower), found, -1).astype(np.int32)
