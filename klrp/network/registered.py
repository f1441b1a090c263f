"""Whether what was registered computes what it was said to be like."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from klrp.errors import KlrpError
from klrp.network.builders import Operation
from klrp.network.calls import Call
from klrp.network.layers import Layer
from klrp.network.moves import Pass


def verify(call: Call, operation: Operation, inputs: Sequence[Tensor], value: Tensor) -> None:
    """A KlrpError if the call, which made ``value`` of ``inputs``, computes something else than the operation."""
    if isinstance(operation, Pass):
        fits = value.shape == inputs[0].shape and _acts_alone(call, inputs[0], value)
    elif isinstance(operation, Layer):
        z = operation.linear(inputs, lambda w: w)
        z = z if operation.bias is None else z + operation.bias
        fits = z.shape == value.shape and torch.allclose(z, value, rtol=1e-3, atol=1e-3 * float(value.abs().amax()))
    else:
        return
    if not fits:
        raise KlrpError.value("it was registered like something that computes something else; it has no rule")


def _acts_alone(call: Call, x: Tensor, value: Tensor) -> bool:
    """Whether a neuron is left alone where only others change: tried with random sets of others."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(6):
        others = (torch.rand(x.shape, generator=generator) < 0.5).to(x.device)
        change = (torch.rand(x.shape, generator=generator) + 0.5).to(x)
        changed = torch.where(others, x + change, x)
        moved = call.again(lambda source: changed)  # noqa: B023
        if not torch.allclose(moved[~others], value[~others], rtol=1e-3, atol=1e-5, equal_nan=True):
            return False
    return True
