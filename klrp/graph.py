"""trace(model, x): a feed-forward network as a tuple of steps, in the order of computation.

Every node of the traced network that depends on the input becomes a step with an operation of
klrp.network.layers; a BatchNorm behind its layer is folded into that layer's weights.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from klrp.errors import KlrpError
from klrp.meanings import CONSTANTS, RANDOM, REARRANGE, Entry, Live, Operation, find_function, find_module
from klrp.network.layers import Affine, Conv, Layer, Linear
from klrp.network.moves import Concat, Pass, Rearrange
from klrp.tracing import Network, first_line, network_of


@dataclass(frozen=True, eq=False)
class Step:
    """One operation of a traced network.

    ``name`` is unique, ``aliases`` are further names of the same output. ``kind`` is the module type and
    ``like`` the one that klrp treats it as; a selector matches either. ``sources`` are the steps it
    reads ("input" among them); what it outputs has that ``shape`` and ``dtype``.
    """

    name: str
    aliases: tuple[str, ...]
    kind: type
    like: type
    operation: Operation
    sources: tuple[str, ...]
    shape: torch.Size
    dtype: torch.dtype


class Again(NamedTuple):
    """A value that is computed again from that of ``source`` whenever it is asked for, by a ReLU perhaps."""

    source: str
    function: Callable[[Tensor], Tensor]
    relu: bool


class Trace(NamedTuple):
    """The steps of a network, what flows between them, the name of the step that outputs the logits [N, C].

    ``values`` holds what each step outputs; activations cost little to compute again, and half of the memory
    to keep.
    """

    steps: tuple[Step, ...]
    values: dict[str, Tensor | Again]
    output: str
    output_shape: torch.Size
    logits: Tensor

    def value(self, name: str) -> Tensor:
        """What the step of that name, or "input", outputs."""
        found = self.values[name]
        return found.function(self.value(found.source)) if isinstance(found, Again) else found

    def before_relu(self, name: str) -> tuple[Tensor, bool]:
        """What the step reads if it is a ReLU, else what it outputs; and which of the two that is."""
        found = self.values[name]
        relu = isinstance(found, Again) and found.relu
        return self.value(found.source if relu else name), relu

    def forget(self, name: str) -> None:
        """Let a value go, and its memory: nothing reads it any more."""
        del self.values[name]


def trace(model: nn.Module, x: Tensor) -> Trace:
    """The steps of ``model`` on ``x`` [N, ...], with the values that flow between them.

    Raises:
        KlrpError: for a model that is not one feed-forward graph from one tensor to one tensor [N, C],
            or an operation that has no rule; the message says how to register one.
    """
    with torch.no_grad():
        # A copy, in case a module writes to it; in rows, since channels_last cannot be viewed flat.
        x = x.detach().clone(memory_format=torch.contiguous_format)
        return _Run(network_of(model), x).run()


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
    if inputs.is_floating_point():
        # A sum is quick, and finite unless something in it is not, or all of it is huge.
        if not bool(inputs.sum().isfinite()) and not bool(torch.isfinite(inputs).all()):
            what = "NaN" if bool(torch.isnan(inputs).any()) else "Inf"
            where = (~torch.isfinite(inputs)).nonzero()[0].tolist()
            raise KlrpError.value(f"inputs: {what} at {where}; expected finite numbers. Clean the inputs first.")


class _Run:
    """One pass through the graph: computes every node and turns those that depend on x into steps."""

    def __init__(self, network: Network, x: Tensor):
        self.network, self.x = network, x
        self.values: dict[fx.Node, Any] = {}
        self.live: dict[fx.Node, Live] = {}
        self.steps: dict[str, Step] = {}
        self.outputs: dict[str, Tensor | Again] = {"input": x}
        self.replayed: set[fx.Node] = set()
        self.calls = Counter(n.target for n in network.nodes if n.op == "call_module")
        self.seen: Counter[str] = Counter()
        self.place = {node: number for number, node in enumerate(network.nodes)}

    def run(self) -> Trace:
        for node in self.network.nodes:
            if node not in self.network.needed:
                continue
            if node.op == "placeholder":
                self._begin(node)
            elif node.op == "output":
                return self._finish(node.args[0])
            else:
                self.values[node] = self._compute(node)
                if any(n in self.live for n in node.all_input_nodes):
                    self._enter(node)
                if node in self.network.in_place:
                    self._rebind(node)
                self._release(node)
        raise KlrpError.value("model: its forward returns nothing.")

    # --- values ---------------------------------------------------------------------------------------

    def _begin(self, node: fx.Node) -> None:
        if self.live:  # an argument with a default
            self.values[node] = node.args[0] if node.args else None
            return
        if not self.x.is_floating_point():
            entries = [self._entry(user) for user in node.users if user.op != "output"]
            if not any(entry is not None and entry.kind is nn.Embedding for entry in entries):
                raise KlrpError.type(
                    f"inputs: got {self.x.dtype}; expected floats [N, ...], since the network does not begin "
                    f"with an nn.Embedding. Convert them: inputs.float()."
                )
        self.values[node], self.live[node] = self.x, Live("input", self.x)

    def _release(self, node: fx.Node) -> None:
        """Let go of what the node was the last one to read."""
        for source in {node, *node.all_input_nodes} - self.replayed:
            if not self._read_later(source, node):
                self.values.pop(source, None)
                self.live.pop(source, None)

    def _compute(self, node: fx.Node) -> Any:
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), self.values.__getitem__)
        try:
            return self.network.call(node, args, kwargs)
        except Exception as error:
            raise KlrpError.value(
                f"inputs: the network cannot run on {tuple(self.x.shape)} of {self.x.dtype}: "
                f"{self._describe(node)} failed with: {first_line(error)} Give inputs [N, ...] of the shape, "
                f"dtype and device that the network was made for."
            ) from error

    def _describe(self, node: fx.Node) -> str:
        if node.op == "call_module":
            return f"{node.target} ({type(self.network.modules[node.target]).__name__})"
        return f"{node.name} ({getattr(node.target, '__name__', node.target)})"

    def _rebind(self, node: fx.Node) -> None:
        """After an in-place operation, its first argument is the result, under whatever name."""
        changed = node.args[0] if node.args else node.kwargs["input"]
        old = self.values[changed]
        if not isinstance(old, Tensor) or self.values[node] is old:
            return  # a number that goes on, or an operation that did nothing
        for other, value in list(self.values.items()):
            if value is old:
                self.values[other] = self.values[node]
                self.live.pop(other, None)
                if node in self.live:
                    self.live[other] = self.live[node]
            elif self._read_later(other, node) and _share_memory(old, value):
                raise KlrpError.value(
                    f"model: {self._describe(node)} works in place on a view of a tensor that is read again later. "
                    f"Write it without changing its argument: y = f(x) in place of f_(x)."
                )

    def _read_later(self, node: fx.Node, than: fx.Node) -> bool:
        return any(self.place[user] > self.place[than] for user in node.users if user in self.network.needed)

    # --- steps ----------------------------------------------------------------------------------------

    def _entry(self, node: fx.Node) -> Entry | None:
        if node.op == "call_module":
            return find_module(type(self.network.modules[node.target]))
        return find_function(node.target)

    def _enter(self, node: fx.Node) -> None:
        value, entry = self.values[node], self._entry(node)
        several = isinstance(value, tuple | list) and any(isinstance(v, Tensor) for v in value)
        if not several and not isinstance(value, Tensor):
            return  # sizes and the like carry no relevance
        if getattr(node.target, "__name__", node.target) in CONSTANTS:
            return
        if entry is None:
            raise self._without_rule(node)
        first = next(n for n in node.all_input_nodes if n in self.live)
        if several and entry.build is REARRANGE:
            # chunk and split: a piece becomes a step when it is taken
            self.live[node] = Live(self.live[first].source, value, self._taken(node, first))
            self.replayed |= {node, *node.all_input_nodes}
        elif self.live[first].pool and isinstance(value, Tensor):  # max-pool's (values, indices)[i]
            if value.is_floating_point():
                self.live[node] = Live(self.live[first].source, value)
        else:
            self._step(node, entry, value[0] if several else value)
            if several:
                self.live[node] = Live(self.live[node].source, value, pool=True)

    def _without_rule(self, node: fx.Node) -> KlrpError:
        module = node.op == "call_module"
        what = type(self.network.modules[node.target]) if module else node.target
        name, home = getattr(what, "__name__", repr(what)), getattr(what, "__module__", None)
        if not module and not isinstance(what, str):  # built-in functions of torch name no home
            name = f"{'operator' if home == '_operator' else home or 'torch'}.{name}"
        like = "torch.nn.ReLU" if module else "torch.relu" if callable(what) else "'relu'"
        inside = list(node.meta.get("nn_module_stack", {}).values())
        owner = inside[-1][1] if inside and not module else None
        hint = f", or the whole of {getattr(owner, '__name__', owner)}, the module it is in" if owner else ""
        return KlrpError.value(
            f"model: {self._describe(node)} has no rule. If it acts on each neuron by itself, as an activation does, "
            f"say so: klrp.register({name}, like={like}){hint}. Otherwise klrp cannot explain this network yet."
        )

    def _verify(self, node: fx.Node, operation: Operation, sources: list[Live], value: Tensor) -> None:
        """A KlrpError if what was registered computes something else than what it was said to be like."""
        if isinstance(operation, Pass):
            x = sources[0].value
            fits = value.shape == x.shape
            if fits:  # an activation leaves a neuron alone when only the others change
                others = torch.arange(x.numel(), device=x.device).reshape(x.shape) % 2 == 1
                source = next(n for n in node.all_input_nodes if n in self.live)
                moved = self._taken(node, source)(x + others.to(x.dtype))
                fits = torch.allclose(moved[~others], value[~others], rtol=1e-3, atol=1e-5, equal_nan=True)
        elif isinstance(operation, Layer):
            z = operation.linear([live.value for live in sources], lambda w: w)
            z = z if operation.bias is None else z + operation.bias
            fits = z.shape == value.shape and torch.allclose(z, value, rtol=1e-3, atol=1e-3 * float(value.abs().amax()))
        else:
            return
        if not fits:
            raise KlrpError.value("it was registered like something that computes something else; it has no rule")

    def _step(self, node: fx.Node, entry: Entry, value: Tensor) -> None:
        try:
            operation, sources = self._build(node, entry, value)
            if entry.registered:
                self._verify(node, operation, sources, value)
        except KlrpError as error:
            text = f"{str(error).rstrip('.')}."
            about_inputs = text.startswith("inputs:")
            raise KlrpError.value(text if about_inputs else f"model: {self._describe(node)}: {text}") from None
        except (TypeError, AttributeError, RuntimeError) as error:
            raise KlrpError.value(
                f"model: {self._describe(node)} is called in a way that has no rule: {first_line(error)} Call it as "
                f"its documentation does."
            ) from error
        if value.ndim == 0 or value.shape[0] != self.x.shape[0] or _mixes_samples(operation, len(value)):
            raise KlrpError.value(
                f"model: {self._describe(node)} mixes or merges samples: {tuple(value.shape)} from {self.x.shape[0]} "
                f"of them. Inputs are [N, ...]: where the axis of samples is missing, add it, inputs[None]."
            )
        kind = type(self.network.modules[node.target]) if node.op == "call_module" else entry.kind
        name, sources = self._name(node), tuple(live.source for live in sources)
        step = Step(name, (), kind, entry.kind, operation, sources, value.shape, value.dtype)
        previous = self._foldable(node, entry)
        if previous is not None:
            step = replace(
                previous, aliases=(*previous.aliases, name), operation=_folded(previous.operation, operation)
            )
            del self.steps[previous.name]
        self.steps[step.name], self.outputs[step.name] = step, value
        if isinstance(operation, Pass) and self._repeatable(node, entry):
            first = next(n for n in node.all_input_nodes if n in self.live)
            again = self._taken(node, first)
            self.outputs[step.name] = Again(sources[0], again, kind is entry.kind is nn.ReLU)
            self.replayed |= {*node.all_input_nodes} - {first}
        self.live[node] = Live(step.name, value)

    def _repeatable(self, node: fx.Node, entry: Entry) -> bool:
        """Whether the node gives the same value whenever it is computed: no dice, no code of the user's."""
        hooked = node.op == "call_module" and self.network.modules[node.target]._forward_pre_hooks
        return not (entry.registered or hooked or entry.kind in RANDOM)

    def _build(self, node: fx.Node, entry: Entry, value: Tensor) -> tuple[Operation, list[Live]]:
        several = [n for n in node.all_input_nodes if n in self.live and not isinstance(self.values[n], Tensor)]
        if entry.build is REARRANGE or (several and entry.kind is Concat):
            return self._rearrange(node, value)
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda n: self.live.get(n, self.values[n]))
        kwargs = dict(kwargs)
        for keyword, position in (("input", 0), ("other", 1)):  # torch's names of the operands
            if keyword in kwargs and len(args) == position:
                args = (*args, kwargs.pop(keyword))
        extra = entry.arguments(self.network.modules[node.target]) if node.op == "call_module" else ()
        return entry.build(*args, *extra, **kwargs)

    def _taken(self, node: fx.Node, source: fx.Node) -> Callable[[Tensor], Any]:
        """The node as a function of the step it reads: itself replayed after what led to its source."""
        before = self.live[source].taken or (lambda on: on)

        def replay(on: Tensor) -> Any:
            on = before(on)
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda n: on if n is source else self.values[n])
            return self.network.call(node, args, kwargs)

        return replay

    def _rearrange(self, node: fx.Node, value: Tensor) -> tuple[Operation, list[Live]]:
        source = next(n for n in node.all_input_nodes if n in self.live)
        live, taken = self.live[source], self._taken(node, source)
        step = self.steps.get(live.source)
        shape = tuple(self.x.shape if step is None else step.shape)
        module = self.network.modules.get(node.target) if node.op == "call_module" else None
        name = getattr(node.target, "__name__", node.target)
        if live.taken is None and (name in _KEEP_ORDER or isinstance(module, nn.Flatten | nn.Unflatten)):
            return Pass(shape), [live]
        # Float indices, exact to 2^53, since padding runs on floats; doubled, only constants stay put.
        index = torch.arange(1, math.prod(shape) + 1, dtype=torch.float64, device=value.device).reshape(shape)
        once, twice = taken(index), taken(2 * index)
        return Rearrange(shape, torch.where(once == twice, 0, once).long()), [live]

    def _foldable(self, node: fx.Node, entry: Entry) -> Step | None:
        """The layer in front of a BatchNorm that nobody else reads."""
        if not issubclass(entry.kind, _BatchNorm):
            return None
        source = next(n for n in node.all_input_nodes if n in self.live)
        step = self.steps.get(self.live[source].source)
        if step is None or len([u for u in source.users if u in self.network.needed]) > 1:
            return None
        linear = isinstance(step.operation, Linear) and len(step.shape) == 2
        return step if linear or isinstance(step.operation, Conv) else None

    def _name(self, node: fx.Node) -> str:
        if node.op == "call_module":
            self.seen[node.target] += 1
            twice = self.calls[node.target] > 1 or node.target in ("input", "output")
            return f"{node.target}@{self.seen[node.target]}" if twice else node.target
        name = node.name
        while name in self.calls or name in self.steps:  # a module has that name
            name += "_"
        return name

    def _finish(self, returned: Any) -> Trace:
        value = self.values.get(returned) if isinstance(returned, fx.Node) else returned
        if not isinstance(value, Tensor):
            raise KlrpError.type(_not_a_tensor(value))
        n = self.x.shape[0]
        if value.ndim not in (1, 2) or value.shape[0] != n or not value.is_floating_point():
            raise KlrpError.value(
                f"model: it returns {tuple(value.shape)} of {value.dtype} for {n} samples; expected floating "
                f"logits [N, C] or [N]. Flatten or select them in a wrapper."
            )
        if not bool(value.isfinite().all()):
            raise KlrpError.value("model: its logits are not finite (NaN or Inf). Look at its weights and its inputs.")
        if returned not in self.live:
            raise KlrpError.value("model: its output does not depend on the input; there is nothing to explain.")
        logits = value if value.ndim == 2 else value[:, None]
        source = self.live[returned].source
        return Trace(tuple(self.steps.values()), self.outputs, source, value.shape, logits)


_KEEP_ORDER = {"flatten", "reshape", "view", "squeeze", "unsqueeze", "unflatten"}


def _mixes_samples(operation: Operation, n: int) -> bool:
    if not isinstance(operation, Rearrange) or not n:
        return False
    origin = operation.origin.reshape(n, -1)
    sample = (origin - 1) // math.prod(operation.input[1:])
    own = torch.arange(n, device=origin.device)[:, None]
    return bool(((sample != own) & (origin > 0)).any())


def _share_memory(x: Tensor, other: Any) -> bool:
    if isinstance(other, tuple | list):
        return any(_share_memory(x, o) for o in other)
    if not isinstance(other, Tensor):
        return False
    return x.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()


def _not_a_tensor(value: Any) -> str:
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


def _folded(layer: Layer, norm: Affine) -> Layer:
    """BatchNorm after a linear layer: w' = w s, b' = b s + t, with the norm's scale s and shift t."""
    scale, shift = norm.weights[0][0], norm.bias[0]
    weight = layer.weights[0] * scale.reshape(-1, *(1,) * (layer.weights[0].ndim - 1))
    bias = shift if layer.bias is None else layer.bias * scale + shift
    return replace(layer, weights=(weight,), bias=bias)
