"""trace(model, x): a network as a tuple of steps, in the order of computation, with the values between them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from klrp.errors import KlrpError
from klrp.network.assembly import Assembly
from klrp.network.capture import capture
from klrp.network.shadow import opened
from klrp.network.steps import Trace, checked, copied


def trace(model: nn.Module, x: Tensor) -> Trace:
    """The steps of ``model`` on ``x`` [N, ...], with the values that flow between them.

    Raises:
        KlrpError: for a model that is not one feed-forward graph from one tensor to one tensor [N, C],
            or an operation that has no rule; the message says how to register one.
    """
    with torch.no_grad():
        x = copied(x)
        captured = capture(opened(model), x)
        return checked(Assembly(captured, x).built())


def check_inputs(inputs: Any) -> None:
    """A KlrpError unless the inputs are a tensor [N, ...] of finite numbers."""
    if not isinstance(inputs, Tensor):
        raise KlrpError.type(
            f"inputs: got {type(inputs).__name__}; expected a float tensor [N, ...]. Use torch.as_tensor(inputs)."
        )
    if inputs.ndim == 0:
        raise KlrpError.value("inputs: got a single number; expected [N, ...]. Add the axis of samples.")
    if inputs.layout is not torch.strided:
        raise KlrpError.type(f"inputs: got a {inputs.layout} tensor; expected a dense one. Use inputs.to_dense().")
    if inputs.is_complex():
        raise KlrpError.type(f"inputs: got {inputs.dtype}; expected real floats [N, ...].")
    if inputs.is_floating_point():
        # A sum is quick, and finite unless something in it is not, or all of it is huge.
        if not bool(inputs.sum().isfinite()) and not bool(torch.isfinite(inputs).all()):
            what = "NaN" if bool(torch.isnan(inputs).any()) else "Inf"
            where = (~torch.isfinite(inputs)).nonzero()[0].tolist()
            raise KlrpError.value(f"inputs: {what} at {where}; expected finite numbers. Clean the inputs first.")


def fingerprint(model: nn.Module) -> tuple:
    """What changes when a parameter or a buffer of the model is replaced or written to."""
    if not isinstance(model, nn.Module):
        return ()
    return tuple((id(t), version(t)) for module in model.modules() for t in _held(module))


def _held(module: nn.Module) -> Iterator[Tensor]:
    for tensors in (module._parameters, module._buffers):
        yield from (t for t in tensors.values() if t is not None)


def version(x: Tensor) -> int:
    """How often a tensor was written to; a tensor of inference mode cannot tell."""
    return 0 if x.is_inference() else x._version
