"""Builders of what is linear only for given values: products, quotients, normalisations, softmax; see
klrp.network.linearised. They are called as those of klrp.network.builders."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from klrp.errors import KlrpError
from klrp.network.builders import (
    Built,
    Traced,
    activation,
    axes_of,
    batch_norm,
    check_batched,
    linear,
    linear_sum,
    shape_of,
)  # fmt: skip
from klrp.network.factors import MatMul
from klrp.network.layers import Shape
from klrp.network.linearised import Norm, Product, Softmax
from klrp.network.moves import Held


def mul(a, b) -> Built:
    if isinstance(a, Traced) and isinstance(b, Traced):
        return activation(a) if a.key == b.key else _product(a, b)
    return linear_sum([(a, b) if isinstance(a, Traced) else (b, a)])


def div(a, b, *, rounding_mode=None) -> Built:
    if rounding_mode is not None:
        raise KlrpError.value("it rounds a quotient, and no rule shares that")
    if isinstance(b, Traced):
        return _product(a, b, quotient=True) if isinstance(a, Traced) else activation(b)  # 1 / b acts on each neuron
    if isinstance(b, Tensor) and a.dtype.is_floating_point:
        b = b.to(a.dtype)  # 1 / b of whole numbers or of lower precision would be rounded
    return linear_sum([(a, 1 / b)])


def matmul(a, b) -> Built:
    shapes = shape_of(a), shape_of(b)
    if min(map(len, shapes)) < 2:
        raise KlrpError.value("it multiplies by a vector; give it a second axis: (x @ v[:, None]).squeeze(-1)")
    if isinstance(a, Traced) and isinstance(b, Traced):
        return _product(a, b, matrix=True)
    x, w, side = (a, b, 0) if isinstance(a, Traced) else (b, a, 1)
    if side == 0 and w.ndim == 2:
        return linear(a, w.mT)
    more = len(x.shape) - w.ndim
    if len(x.shape) < 3 or more < 0 or (not more and w.shape[0] not in (1, x.shape[0])):
        raise KlrpError.value("it mixes or broadcasts samples: the first axis is theirs")
    w = w.to(x.dtype).reshape(*(1,) * more, *w.shape)
    between = x.shape[1:-2]
    if torch.broadcast_shapes(w.shape[1:-2], between) != between:
        raise KlrpError.value(f"it broadcasts {tuple(x.shape)} to more matrices; expand it first: x.expand(...)")
    w = w.expand(w.shape[0], *between, *w.shape[-2:])
    output = (*x.shape[:-1], w.shape[-1]) if side == 0 else (*x.shape[:-2], w.shape[-2], x.shape[-1])
    return MatMul((w,), None, (tuple(x.shape),), output, (side,)), [x]


def _product(a: Traced, b: Traced, **kind: bool) -> Built:
    shapes = tuple(a.shape), tuple(b.shape)
    if len(shapes[0]) != len(shapes[1]) or shapes[0][0] != shapes[1][0]:
        raise KlrpError.value("it broadcasts a value along a new leading axis, which is the samples'")
    if not kind.get("matrix"):
        return Product(shapes, tuple(torch.broadcast_shapes(*shapes)), **kind), [a, b]
    if len(shapes[0]) < 3 or shapes[0][:-2] != shapes[1][:-2]:
        raise KlrpError.value(
            "it multiplies matrices [N, ..., I, J] and [N, ..., J, K] of other axes; expand them first"
        )
    return Product(shapes, (*shapes[0][:-1], shapes[1][-1]), **kind), [a, b]


def rdiv(a, b) -> Built:
    return div(b, a)


def _rows(shape: Shape, groups: Shape) -> Shape:
    """[N, G, J] for groups along the first axes."""
    return shape[0], math.prod(groups), math.prod(shape[1:]) // max(1, math.prod(groups))


def layer_norm(x, normalized_shape, weight=None, bias=None, eps=1e-5, cudnn_enable=True) -> Built:
    shape, count = tuple(x.shape), 1 if isinstance(normalized_shape, int) else len(normalized_shape)
    check_batched(x, count < len(shape))
    return Norm(shape, _rows(shape, shape[1 : len(shape) - count]), weight, bias, eps), [x]


def rms_norm(x, normalized_shape, weight=None, eps=None) -> Built:
    eps = torch.finfo(x.dtype).eps if eps is None else eps
    norm, sources = layer_norm(x, normalized_shape, weight, None, eps)
    return replace(norm, centred=False), sources


def group_norm(x, num_groups, weight=None, bias=None, eps=1e-5, cudnn_enabled=True) -> Built:
    shape = tuple(x.shape)
    weight, bias = (None if v is None else v.reshape(1, -1, *(1,) * (len(shape) - 2)) for v in (weight, bias))
    return Norm(shape, _rows(shape, (num_groups,)), weight, bias, eps), [x]


def instance_norm(x, running_mean=None, running_var=None, weight=None, bias=None, use_input_stats=True, momentum=0.1,
                  eps=1e-5, cudnn_enabled=True) -> Built:  # fmt: skip
    if not use_input_stats:
        return batch_norm(x, running_mean, running_var, weight, bias, eps=eps)
    return group_norm(x, x.shape[1], weight, bias, eps)


def statistic(place: int) -> Callable[..., Built]:
    """A norm, a variance or a deviation over axes that stand at a ``place`` among the arguments."""

    def build(x, *args, dim=None, **kwargs):
        dim = args[place] if dim is None and len(args) > place and not isinstance(args[place], bool) else dim
        axes_of(dim, len(x.shape))
        return Held(tuple(x.shape)), [x]

    return build


def softmax(sign: int = 1, logarithm: bool = False) -> Callable[..., Built]:
    """softmax(sign · x) over an axis other than the samples', or its logarithm."""

    def build(x, dim=None, *args, **kwargs):
        if dim is None or dim % len(x.shape) == 0:
            raise KlrpError.value("it joins the samples, or names no axis; give dim")
        return Softmax(tuple(x.shape), dim % len(x.shape), sign, logarithm), [x]

    return build
