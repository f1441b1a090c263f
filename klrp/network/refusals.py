"""What klrp says of a network that it cannot explain."""

from __future__ import annotations

from typing import Any

from klrp.errors import KlrpError
from klrp.network.calls import Call


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
    alone = {source.shape for source in call.sources} == {call.outputs[0].shape} and len(call.outputs) == 1
    hint = (
        f"If it acts on each neuron by itself, as an activation does, say so: {like}. Otherwise klrp"
        if alone
        else "klrp"
    )
    return KlrpError.value(
        f"model: {described(call)} has no rule, at {call.where}. {hint} cannot explain this network yet."
    )


def not_a_tensor(value: Any) -> str:
    kind = next((t for t in (dict, list, tuple) if isinstance(value, t)), type(value))
    key = repr(next(iter(value))) if kind is dict and value else "0"
    return (
        f"model: it returns a {kind.__name__}; expected one tensor [N, C]. Wrap it:\n"
        f"    class Logits(torch.nn.Module):\n"
        f"        def __init__(self, model):\n"
        f"            super().__init__()\n"
        f"            self.model = model\n"
        f"        def forward(self, x):\n"
        f"            return self.model(x)[{key}]  # wherever the logits are"
    )
