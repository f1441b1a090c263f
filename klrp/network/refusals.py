"""What klrp says of a network that it cannot explain."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from klrp.errors import KlrpError
from klrp.network.calls import Call, Frame, first_line, line_of_user


def described(call: Call) -> str:
    """A module of torch by its path; a function with the module it is in."""
    path, kind = call.frame.path, call.frame.kind
    if path and (call.module is not None or kind.__module__.startswith("torch.nn.")):
        return f"{path} ({kind.__name__})"
    return f"{call.name} in {path} ({kind.__name__})" if path else call.name


def without_rule(call: Call) -> KlrpError:
    kind, home = call.frame.kind, getattr(call.function, "__module__", None)
    if call.frame.path and kind.__module__.startswith("torch.nn."):
        like = f"klrp.register({kind.__name__}, like=torch.nn.ReLU)"
    else:
        like = (
            f"klrp.register({home}.{call.name}, like=torch.relu)"
            if home
            else f"klrp.register({call.name!r}, like='relu')"
        )
        like += f", or the whole of {kind.__name__}, the module it is in" if call.frame.path else ""
    output = call.outputs[0]
    alone = {source.shape for source in call.sources} == {output.shape} and len(call.outputs) == 1
    alone = alone and output.dtype.is_floating_point  # a comparison is no activation
    hint = (
        f"If it acts on each neuron by itself, as an activation does, say so: {like}. Otherwise klrp"
        if alone
        else "klrp"
    )
    return KlrpError.value(
        f"model: {described(call)} has no rule, at {call.where}. {hint} cannot explain this network yet."
    )


def depends_on_data(name: str) -> KlrpError:
    """A value becomes a number of Python."""
    return KlrpError.value(
        f"model: a branch depends on the data: {name.strip('_')}() of a value that depends on the input, at "
        f"{line_of_user()}. Move it out of forward(), or register the module that holds it: "
        f"klrp.register(TheModule, like=torch.nn.ReLU)."
    )


def cannot_follow(name: str) -> KlrpError:
    """A function that writes to a tensor, and has no pure form."""
    return KlrpError.value(
        f"model: {name} writes to a tensor in place, at {line_of_user()}, and klrp cannot follow what it changes. Write it "
        f"without changing its argument."
    )


def shares_memory(name: str) -> KlrpError:
    """A constant is written to that a value of the network shares."""
    return KlrpError.value(
        f"model: {name} works in place on memory that a value of the network shares, at {line_of_user()}. Write it "
        f"without changing its argument: y = f(x) in place of f_(x)."
    )


def not_a_tensor(value: Any) -> str:
    kind = next((t for t in (dict, list, tuple) if isinstance(value, t)), type(value))
    key = repr(next(iter(value))) if kind is dict and value else "0"
    return (
        f"model: it returns a {kind.__name__}; expected one tensor [N, C]. Pick it with "
        f"klrp.explain(..., output=lambda y: y[{key}]), or wrap it:\n"
        f"    class Logits(torch.nn.Module):\n"
        f"        def __init__(self, model):\n"
        f"            super().__init__()\n"
        f"            self.model = model\n"
        f"        def forward(self, x):\n"
        f"            return self.model(x)[{key}]  # wherever the logits are"
    )


def cannot_pick(returned: Any, error: Exception) -> KlrpError:
    """The argument ``output`` failed on what the model returned."""
    keys = f" with {', '.join(map(repr, returned))}" if isinstance(returned, dict) else ""
    shape = f" {tuple(returned.shape)}" if isinstance(returned, Tensor) else ""
    return KlrpError.value(
        f"output: it failed with: {first_line(error)} The model returned a {type(returned).__name__}{shape}{keys}."
    )


def cannot_run(network: nn.Module, xs: Sequence[Tensor], frame: Frame, error: Exception) -> KlrpError:
    """The network failed on its input, in a module call."""
    missing = _missing(network, len(xs)) if isinstance(error, TypeError) and not frame.path else []
    if missing:
        return KlrpError.type(
            f"model: its forward takes more than it was given ({', '.join(missing)}). Give several inputs as a tuple, "
            f"klrp.explain(model, (x, y)), or wrap it in a module that knows the rest."
        )
    place = f"{frame.path} ({frame.kind.__name__})" if frame.path else frame.kind.__name__
    if not all(x.is_floating_point() for x in xs) and not isinstance(error, IndexError):
        return KlrpError.type(
            f"inputs: got {' and '.join(str(x.dtype) for x in xs)}; expected floats [N, ...], or whole numbers where the network begins with "
            f"an nn.Embedding: {place} failed with: {first_line(error)} Convert them: inputs.float()."
        )
    return KlrpError.value(
        f"inputs: the network cannot run on {' and '.join(f'{tuple(x.shape)} of {x.dtype}' for x in xs)}: {place} failed with: "
        f"{first_line(error)} Give inputs [N, ...] of the shape, dtype and device that the network was made for; a "
        f"sample alone is inputs[None]."
    )


def _missing(module: nn.Module, given: int) -> list[str]:
    """The arguments of forward beyond the given ones that have no default."""
    parameters = list(inspect.signature(type(module).forward).parameters.values())[1 + given :]
    return [p.name for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
