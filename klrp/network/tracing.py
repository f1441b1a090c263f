"""trace(model, x): a network as a tuple of steps, in the order of computation, with the values between them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from klrp.errors import KlrpError, SampleAxisError
from klrp.network.assembly import Assembly
from klrp.network.capture import capture
from klrp.network.shadow import opened
from klrp.network.steps import Trace, checked, copied

NUMBERS = 8  # of each tensor that are looked at, to see whether it was changed


def trace(model: nn.Module, xs: Tensor | Sequence[Tensor], output: Callable | None = None) -> Trace:
    """The steps of ``model`` on its inputs [N, ...], with the values that flow between them; ``output`` picks the logits
    from what it returns.

    Of one sample alone it cannot always be told which axis is the samples', as after squeeze(), and of none nothing can:
    then two are run in its place.

    Raises:
        KlrpError: for a model that is not one feed-forward graph from tensors to one tensor [N, C],
            or an operation that has no rule; the message says how to register one.
    """
    xs = [xs] if isinstance(xs, Tensor) else xs
    if len(xs[0]):
        try:
            return _traced(model, xs, output)
        except SampleAxisError:
            if len(xs[0]) > 1:
                raise
            return _traced(model, [torch.cat([x, x]) for x in xs], output)
    return _traced(model, [x.new_zeros(2, *x.shape[1:]) for x in xs], output)


def _traced(model: nn.Module, xs: Sequence[Tensor], output: Callable | None) -> Trace:
    with torch.no_grad():
        xs = [copied(x) for x in xs]
        return checked(Assembly(capture(opened(model), xs, output), xs).built())


def checked_inputs(inputs: Any) -> tuple[Tensor, ...]:
    """The inputs as a tuple; a KlrpError unless they are tensors [N, ...] of finite numbers, of one N."""
    xs = tuple(inputs) if isinstance(inputs, tuple | list) else (inputs,)
    if not xs or not all(isinstance(x, Tensor) for x in xs):
        raise KlrpError.type(
            f"inputs: got {type(inputs).__name__}; expected a float tensor [N, ...], or a tuple of tensors for a "
            f"network with several inputs. Use torch.as_tensor(inputs)."
        )
    for x in xs:
        _check_numbers(x)
    if len({len(x) for x in xs}) > 1:
        raise KlrpError.value(
            f"inputs: got {' and '.join(str(len(x)) for x in xs)} samples; expected the same number of each input."
        )
    return xs


def _check_numbers(inputs: Tensor) -> None:
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


class State:
    """A model at one moment: its modules with what they hold, how often tensors were written to, and some numbers of its
    parameters and buffers, since a write through ``.data`` is counted nowhere."""

    def __init__(self, model: Any):
        modules = list(model.modules()) if isinstance(model, nn.Module) else []
        held = (t for m in modules for kept in (m._parameters, m._buffers) for t in kept.values() if t is not None)
        tensors = (t.detach() for t in held if t.layout is torch.strided and not is_lazy(t))
        self.held = tuple((id(module), type(module), *_held(module)) for module in modules)
        self.numbers = [t.contiguous().view(-1)[:NUMBERS].clone() for t in tensors]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, State) or self.held != other.held:
            return False
        return all(torch.equal(x, y) for x, y in zip(self.numbers, other.numbers, strict=True))

    __hash__ = object.__hash__


def _held(module: nn.Module) -> Iterator[Any]:
    for value in vars(module).values():
        # Of what it holds in a dictionary, parameters, buffers and hooks are the most of it.
        for held in value.values() if isinstance(value, dict) else (value,):
            if isinstance(held, Tensor) and not is_lazy(held):
                yield id(held), 0 if held.is_inference() else held._version, held.data_ptr()
            else:
                yield _told(held)
                yield from map(_told, held if isinstance(held, list) else ())


def _told(held: Any) -> Any:
    return held if isinstance(held, int | float | str) else id(held)
