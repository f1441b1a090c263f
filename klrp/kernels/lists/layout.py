"""How a linear layer or a convolution looks to the walk: maps with channels last, and tables of positions.

    a map                      [samples, y, x, groups, channels]
    of a convolution           [N, height, width, groups, channels of a group]; one axis is a plane of height 1
    of a linear layer          [1, samples and axes between, 1, 1, features]

``upper_positions`` and ``lower_positions`` say, for each position along an axis and each offset of the kernel, which
position of the other map they meet, and −1 where there is none, as at the border.
"""

from __future__ import annotations

import math

import numpy as np
from torch import Tensor

from klrp.network.layers import Conv, Layer, Linear, Windows

# Channels on one side of a pointwise convolution for which a plain loop takes as long as to make and walk lists of which
# half are empty. With 24 channels to 144 it takes a third of the time of full lists, with 160 to 960 twice as long.
FEW = 48
POINT = Windows((1, 1), (1, 1), ((0, 0), (0, 0)), (1, 1))


def layer_objection(layer: Layer) -> str:
    """Why the walk cannot go through this layer; empty if it can."""
    if layer.weights_per_sample:
        return "its weights depend on the sample"
    if isinstance(layer, Linear):
        return ""
    if not isinstance(layer, Conv):
        return "only linear layers and convolutions have one"
    if len(layer.windows.kernel) > 2:
        return "the convolution has three axes"
    (uppers, lowers, *kernel), groups = layer.weights[0].shape, layer.groups
    if lowers <= 4 <= groups:
        return "a depthwise convolution has too few channels side by side"
    point = math.prod(kernel) == max(layer.windows.stride) == 1
    if point and min(uppers // groups, lowers) <= FEW <= math.prod(layer.output[2:]):
        return "a pointwise convolution has too few channels on one side"
    return ""


def channels_last(layer: Layer, x: Tensor) -> Tensor:
    """A map of the layer's input or output as [samples, y, x, groups, channels], a view."""
    if isinstance(layer, Linear):
        return x.reshape(1, -1, 1, 1, x.shape[-1])
    x = x.unsqueeze(2) if x.ndim == 3 else x
    return x.permute(0, 2, 3, 1).unflatten(3, (layer.groups, -1))


def per_position(layer: Layer, values: Tensor) -> Tensor:
    """One value for each sample [N] at each upper position [samples, positions]."""
    between = (1,) * (len(layer.output) - 2)
    if isinstance(layer, Linear):
        return values.reshape(-1, *between).expand(layer.output[:-1]).reshape(1, -1)
    return values[:, None].expand(-1, math.prod(layer.output[2:]))


def per_row(layer: Layer, values: Tensor) -> np.ndarray:
    """One value for each sample [N] at each row y of the lower map [samples · y]."""
    if isinstance(layer, Linear):
        return per_position(layer, values).flatten().numpy()
    rows = layer.inputs[0][2] if len(layer.inputs[0]) > 3 else 1
    return values.repeat_interleave(rows).numpy()


def planes(layer: Layer) -> tuple[Windows, tuple[int, int], tuple[int, int]]:
    """The windows over two axes, and how many positions the input and the output have along them."""
    if isinstance(layer, Linear):
        samples = math.prod(layer.output[:-1])
        return POINT, (samples, 1), (samples, 1)
    w, lower, upper = layer.windows, layer.inputs[0][2:], layer.output[2:]
    if len(w.kernel) == 1:
        w = Windows((1, *w.kernel), (1, *w.stride), ((0, 0), *w.padding), (1, *w.dilation))
        lower, upper = (1, *lower), (1, *upper)
    return w, tuple(lower), tuple(upper)


def arranged(layer: Layer, weight: Tensor) -> Tensor:
    """The weights as [groups, upper channels, lower channels, offsets], a view."""
    if isinstance(layer, Linear):
        return weight[None, :, :, None]
    return weight.flatten(2).unflatten(0, (layer.groups, -1))


def upper_positions(windows: Windows, axis: int, lower: int, upper: int) -> np.ndarray:
    """[lower positions, offsets]: the upper position that each leads to, −1 where there is none."""
    offset = np.arange(windows.kernel[axis]) * windows.dilation[axis] - windows.padding[axis][0]
    whole, rest = np.divmod(np.arange(lower)[:, None] - offset, windows.stride[axis])
    return np.where((rest == 0) & (whole >= 0) & (whole < upper), whole, -1).astype(np.int32)


def lower_positions(windows: Windows, axis: int, lower: int, upper: int) -> np.ndarray:
    """[upper positions, offsets]: the lower position that each leads to, −1 where there is none."""
    offset = np.arange(windows.kernel[axis]) * windows.dilation[axis] - windows.padding[axis][0]
    found = np.arange(upper)[:, None] * windows.stride[axis] + offset
    return np.where((found >= 0) & (found < lower), found, -1).astype(np.int32)
