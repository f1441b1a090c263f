"""Sparse lists for a layer: which of its weights and positions the compiled walk needs, and in what order.

The axes of the tensors that go in and out here are [samples, y, x, groups, channels]: ``sites`` brings a
layer's maps there, and ``map_of`` back.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from klrp.kernels import compiled, lists, walk
from klrp.kernels.packing import pack
from klrp.operations import Conv, Layer, Linear, Windows

# So few rows use a dense matrix too little to pay for another copy of it, or for a look at its largest entry.
FEW = 3
POINT = Windows((1, 1), (1, 1), ((0, 0), (0, 0)), (1, 1))


def fits(layer: Layer, device: torch.device) -> str:
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
        return x.reshape(-1, 1, 1, 1, x.shape[-1])
    x = x.unsqueeze(2) if x.ndim == 3 else x
    return x.permute(0, 2, 3, 1).unflatten(3, (layer.groups, -1))


def margins(layer: Layer, epsilon: Tensor) -> Tensor:
    """ε of each sample [N] for each of the samples that ``sites`` makes."""
    if not isinstance(layer, Linear):
        return epsilon
    between = (1,) * (len(layer.output) - 2)
    return epsilon.reshape(-1, *between).expand(layer.output[:-1]).flatten()


def downward(
    layer: Layer,
    kind: int,
    a: Tensor,
    w: Tensor,
    found: lists.Lists,
    out: torch.dtype,
    cut: float = 0.0,
    sign: int = 1,
) -> tuple[Tensor, bool]:
    """What each neuron of the input [N, *input] gets from the lists of the upper ones, and whether an
    activation has the other sign."""
    windows, lower, upper = _planes(layer)
    tables = [_table(_upper_of(windows, axis, lower[axis]), upper[axis]) for axis in range(2)]
    result, at = torch.empty(layer.inputs[0], dtype=out), sites(layer, a)
    packed = pack(_weights(layer, w), often=len(at) >= FEW)
    others = walk.run(kind, found, packed, at, *tables, upper, sites(layer, result), cut, sign)
    return result, others


def largest(layer: Layer, x: Tensor, w: Tensor, wanted: Tensor | None = None) -> Tensor:
    """max_j |x_j w_jk| [N, *output]; 0 where it is not ``wanted`` [N, *output]."""
    at = sites(layer, x)
    result = x.new_empty(layer.output)
    wanted = torch.ones_like(result, dtype=torch.bool) if wanted is None else wanted
    if isinstance(layer, Linear) and len(at) < FEW:
        wanted = wanted.reshape(len(at), -1)
        return walk.row_maximum(at.flatten(1), w, wanted).reshape(layer.output)
    windows, lower, upper = _planes(layer)
    tables = [_table(_lower_of(windows, axis, upper[axis]), lower[axis]) for axis in range(2)]
    one = x.new_ones(()).expand(at.shape)
    found = lists.lists_of(lists.MAX, at.abs(), one, 0.0, x.new_zeros(len(at)))
    packed = pack(_weights(layer, w).transpose(1, 2))
    wanted = sites(layer, wanted.to(x.dtype))
    walk.run(lists.MAX, found, packed, wanted, *tables, lower, sites(layer, result))
    return result


def _planes(layer: Layer) -> tuple[Windows, tuple[int, int], tuple[int, int]]:
    """The windows over two axes, and how many positions the input and the output have along them."""
    if isinstance(layer, Linear):
        return POINT, (1, 1), (1, 1)
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


def _upper_of(windows: Windows, axis: int, positions: int) -> Iterator[list[float]]:
    """For each lower position the upper one that each offset leads to; a fraction where there is none."""
    kernel, stride = windows.kernel[axis], windows.stride[axis]
    left, dilation = windows.padding[axis][0], windows.dilation[axis]
    for y in range(positions):
        yield [(y + left - u * dilation) / stride for u in range(kernel)]


def _lower_of(windows: Windows, axis: int, positions: int) -> Iterator[list[float]]:
    kernel, stride = windows.kernel[axis], windows.stride[axis]
    left, dilation = windows.padding[axis][0], windows.dilation[axis]
    for y in range(positions):
        yield [y * stride + u * dilation - left for u in range(kernel)]


def _table(rows: Iterator[list[float]], size: int) -> np.ndarray:
    table = np.array(list(rows), dtype=np.float64)
    valid = (table >= 0) & (table < size) & (table == np.floor(table))
    return np.where(valid, table, -1).astype(np.int32)
