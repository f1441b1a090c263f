"""trace(model, x): a feed-forward network as a tuple of steps, through torch.fx.

The model is never touched: a copy of its modules that shares the parameters is set to eval mode, made
free of in-place operations and traced. Every node that depends on the input becomes a step with an
operation of klrp.operations; a BatchNorm behind its layer is folded into that layer's weights.
"""

from __future__ import annotations

import copy
import inspect
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from klrp.errors import KlrpError
from klrp.meanings import FUNCTIONS, IN_PLACE, REARRANGE, Entry, Live, Operation, find_module
from klrp.operations import Conv, Layer, Linear, Pass, Rearrange, Sum


@dataclass(frozen=True, eq=False)
class Step:
    """One operation of a traced network.

    ``name`` is unique, ``aliases`` are further names of the same output, ``kind`` is the module type that
    a selector matches, ``sources`` the steps it reads ("input" among them), ``value`` what it outputs.
    """

    name: str
    aliases: tuple[str, ...]
    kind: type
    operation: Operation
    sources: tuple[str, ...]
    value: Tensor


class Trace(NamedTuple):
    """The steps of a network in the order of computation, its input and its logits [N, C]."""

    steps: tuple[Step, ...]
    input: Tensor
    output: str
    logits: Tensor

    def value(self, name: str) -> Tensor:
        """What the step of that name, or "input", outputs."""
        return (
            self.input if name == "input" else next(s.value for s in self.steps if s.name == name)
        )


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, qualified_name: str) -> bool:
        return find_module(type(m)) is not None or super().is_leaf_module(m, qualified_name)


def _shadow(model: nn.Module) -> nn.Module:
    """A copy of the modules, in eval mode and not in place, around the same tensors."""
    tensors = {}
    for module in model.modules():
        for held in (module._parameters, module._buffers, vars(module)):
            tensors.update({id(t): t for t in held.values() if isinstance(t, Tensor)})
    shadow = copy.deepcopy(model, dict(tensors)).eval()
    for module in shadow.modules():
        if getattr(module, "inplace", False):
            module.inplace, module._klrp_inplace = False, True
    return shadow


def _fx_graph(shadow: nn.Module) -> fx.Graph:
    parameters = list(inspect.signature(shadow.forward).parameters.values())
    plain = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    extra = [p for p in parameters[1:] if p.kind in plain or p.kind == p.KEYWORD_ONLY]
    missing = [p.name for p in extra if p.default is p.empty]
    if missing:
        raise KlrpError.type(
            f"model: its forward takes more than one tensor ({', '.join(missing)}). Wrap it in a module whose forward "
            f"takes the one tensor to explain."
        )
    try:
        return _Tracer().trace(shadow, concrete_args={p.name: p.default for p in extra})
    except Exception as error:  # whatever forward() raises when it is given symbols
        raise KlrpError.value(
            f"model: torch.fx cannot trace {type(shadow).__name__}: {str(error).splitlines()[0]} A branch or loop that "
            f"depends on the data cannot be explained as one graph; move it out of forward(), or register the "
            f"module that holds it: klrp.register(TheModule, like=torch.nn.ReLU)."
        ) from error


def _in_place(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    """Whether the node changes its first argument; if so it is rewritten not to."""
    if node.op == "call_module":
        return getattr(modules[node.target], "_klrp_inplace", False)
    if node.op == "call_method" and node.target.endswith("_") and not node.target.endswith("__"):
        node.target = node.target[:-1]
        return True
    if node.op != "call_function":
        return False
    if node.target in IN_PLACE:
        node.target = IN_PLACE[node.target]
        return True
    name = getattr(node.target, "__name__", "")
    if name.endswith("_") and not name.startswith("_"):
        node.target = getattr(torch, name[:-1], None) or getattr(F, name[:-1])
        return True
    try:
        bound = inspect.signature(node.target).bind(*node.args, **node.kwargs)
    except (TypeError, ValueError):
        return False
    if not bound.arguments.get("inplace"):
        return False
    bound.arguments["inplace"] = False
    node.args, node.kwargs = bound.args, bound.kwargs
    return True


def _out_of_place(graph: fx.Graph, modules: dict[str, nn.Module]) -> None:
    """Rewrite in-place operations: whoever reads the changed value later reads the result."""
    nodes = list(graph.nodes)
    for position, node in enumerate(nodes):
        if not _in_place(node, modules):
            continue
        later = set(nodes[position + 1 :])
        node.args[0].replace_all_uses_with(
            node, delete_user_cb=lambda user, later=later: user in later
        )
    graph.eliminate_dead_code()


def trace(model: nn.Module, x: Tensor) -> Trace:
    """The steps of ``model`` on ``x`` [N, ...], with the values that flow between them.

    Raises:
        KlrpError: for a model that is not one feed-forward graph from one tensor to one tensor [N, C],
            or an operation that has no rule; the message says how to register one.
    """
    if not isinstance(model, nn.Module):
        raise KlrpError.type(f"model: got {type(model).__name__}; expected a torch.nn.Module.")
    shadow = _shadow(model)
    traced = fx.GraphModule(shadow, _fx_graph(shadow))
    modules = dict(shadow.named_modules(remove_duplicate=False))
    _out_of_place(traced.graph, modules)
    with torch.no_grad():
        return _Run(traced, modules, x).run()


class _Run:
    """One pass through the graph: computes every node and turns those that depend on x into steps."""

    def __init__(self, traced: fx.GraphModule, modules: dict[str, nn.Module], x: Tensor):
        self.graph, self.modules, self.x = traced.graph, modules, x
        self.interpreter = fx.Interpreter(traced, garbage_collect_values=False)
        self.values: dict[fx.Node, Any] = {}
        self.live: dict[fx.Node, Live] = {}
        self.steps: dict[str, Step] = {}
        self.calls = Counter(node.target for node in self.graph.nodes if node.op == "call_module")
        self.seen: Counter[str] = Counter()

    def run(self) -> Trace:
        for node in self.graph.nodes:
            if node.op == "placeholder":
                first = not self.live
                self.values[node] = self.x if first else (node.args[0] if node.args else None)
                if first:
                    self.live[node] = Live("input", self.x)
                    self._check_dtype(node)
            elif node.op == "output":
                return self._finish(node.args[0])
            else:
                self.values[node] = self._compute(node)
                if any(n in self.live for n in node.all_input_nodes):
                    self._enter(node)
        raise KlrpError.value("model: its forward returns nothing.")

    def _check_dtype(self, node: fx.Node) -> None:
        """Integers are tokens: they are for networks that begin with an embedding."""
        embedded = all(self._entry(user)[0].kind is nn.Embedding for user in node.users)
        if not self.x.is_floating_point() and not embedded:
            raise KlrpError.type(
                f"inputs: got {self.x.dtype}; expected floats [N, ...], since the network does not begin with an "
                f"nn.Embedding. Convert them: inputs.float()."
            )

    def _compute(self, node: fx.Node) -> Any:
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), self.values.__getitem__)
        try:
            return getattr(self.interpreter, node.op)(node.target, args, kwargs)
        except Exception as error:
            raise KlrpError.value(
                f"inputs: the network cannot run on {tuple(self.x.shape)} of {self.x.dtype}: {self._describe(node)} "
                f"failed with: {str(error).splitlines()[0]} Give inputs [N, ...] of the shape, dtype and "
                f"device that the network was made for."
            ) from error

    def _describe(self, node: fx.Node) -> str:
        if node.op == "call_module":
            return f"{node.target} ({type(self.modules[node.target]).__name__})"
        return f"{node.name} ({getattr(node.target, '__name__', node.target)})"

    def _enter(self, node: fx.Node) -> None:
        value = self.values[node]
        if not isinstance(value, Tensor):
            if isinstance(value, tuple | list) and any(isinstance(v, Tensor) for v in value):
                self._take_apart(node, value)
            return  # sizes and the like carry no relevance
        entry, arguments = self._entry(node)
        args, kwargs = fx.node.map_arg(
            (node.args, node.kwargs), lambda n: self.live.get(n, self.values[n])
        )
        try:
            if entry.build is REARRANGE:
                operation, sources = self._rearrange(node, value)
            else:
                operation, sources = entry.build(*args, *arguments(), **kwargs)
        except KlrpError as error:
            raise KlrpError.value(f"model: {self._describe(node)}: {error}.") from None
        except (TypeError, AttributeError) as error:
            raise KlrpError.value(
                f"model: {self._describe(node)} is called in a way that has no rule: {error}"
            ) from error
        self._step(node, entry.kind, operation, [s.source for s in sources], value)

    def _entry(self, node: fx.Node) -> tuple[Entry, Callable[[], tuple]]:
        if node.op == "call_module":
            module = self.modules[node.target]
            entry = find_module(type(module))
            arguments = (lambda: entry.arguments(module)) if entry else tuple
        else:
            entry, arguments = FUNCTIONS.get(node.target), tuple
        if entry is None:
            what = type(self.modules[node.target]) if node.op == "call_module" else node.target
            name = getattr(what, "__name__", what)
            raise KlrpError.value(
                f"model: {self._describe(node)} has no rule. If relevance passes through it unchanged, or it "
                f"behaves like an operation that klrp knows, say so: klrp.register({name}, "
                f"like={'torch.nn.ReLU' if node.op == 'call_module' else 'torch.relu'})."
            )
        return entry, arguments

    def _replay(self, node: fx.Node, source: fx.Node, on: Tensor) -> Any:
        """The node's operation, on another tensor in the place of its live input."""
        args, kwargs = fx.node.map_arg(
            (node.args, node.kwargs), lambda n: on if n is source else self.values[n]
        )
        return getattr(self.interpreter, node.op)(node.target, args, kwargs)

    def _take_apart(self, node: fx.Node, value: Any) -> None:
        """chunk and split: nothing is a step until one piece is taken by getitem."""
        self._entry(node)
        source = next(n for n in node.all_input_nodes if n in self.live)
        live = self.live[source]
        self.live[node] = Live(live.source, live.value, lambda on: self._replay(node, source, on))

    def _rearrange(self, node: fx.Node, value: Tensor) -> tuple[Operation, list[Live]]:
        source = next(n for n in node.all_input_nodes if n in self.live)
        live = self.live[source]
        shape = tuple(live.value.shape)
        keeps_order = {"flatten", "reshape", "view", "squeeze", "unsqueeze", "unflatten"}
        name = getattr(node.target, "__name__", node.target)
        flattens = node.op == "call_module" and isinstance(
            self.modules[node.target], nn.Flatten | nn.Unflatten
        )
        if (name in keeps_order or flattens) and live.taken is None:
            return Pass(shape), [live]
        # Float indices, exact to 2^53, so that every kind of padding runs on them.
        index = torch.arange(
            1, live.value.numel() + 1, dtype=torch.float64, device=value.device
        ).reshape(shape)
        taken = index if live.taken is None else live.taken(index)
        return Rearrange(shape, self._replay(node, source, taken).long()), [live]

    def _step(
        self, node: fx.Node, kind: type, operation: Operation, sources: list[str], value: Tensor
    ) -> None:
        name, aliases = self._name(node), ()
        previous = self._foldable(node, operation)
        if previous is not None:
            operation, kind, sources = (
                _folded(previous, operation),
                previous.kind,
                list(previous.sources),
            )
            name, aliases = previous.name, (name,)
            del self.steps[previous.name]
        self.steps[name] = Step(name, aliases, kind, operation, tuple(sources), value)
        self.live[node] = Live(name, value)

    def _foldable(self, node: fx.Node, operation: Operation) -> Step | None:
        """The layer in front of a BatchNorm that nobody else reads."""
        is_norm = node.op == "call_module" and isinstance(
            self.modules[node.target], nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d
        )
        if not is_norm or len(node.all_input_nodes[0].users) > 1:
            return None
        step = self.steps.get(self.live[node.all_input_nodes[0]].source)
        folds = step is not None and (
            isinstance(step.operation, Conv)
            or isinstance(step.operation, Linear)
            and step.value.ndim == 2
        )
        return step if folds else None

    def _name(self, node: fx.Node) -> str:
        if node.op != "call_module":
            return node.name
        self.seen[node.target] += 1
        twice = self.calls[node.target] > 1 or node.target in ("input", "output")
        return f"{node.target}@{self.seen[node.target]}" if twice else node.target

    def _finish(self, returned: Any) -> Trace:
        value = self.values.get(returned) if isinstance(returned, fx.Node) else returned
        if not isinstance(value, Tensor):
            raise KlrpError.type(
                f"model: it returns a {type(value).__name__}; expected one tensor [N, C]. Wrap it:\n"
                f"    class Logits(torch.nn.Module):\n"
                f"        def __init__(self, model):\n"
                f"            super().__init__()\n"
                f"            self.model = model\n"
                f"        def forward(self, x):\n"
                f"            return self.model(x)[0]  # or the key of the logits"
            )
        n = self.x.shape[0]
        if value.ndim not in (1, 2) or value.shape[0] != n or not value.is_floating_point():
            raise KlrpError.value(
                f"model: it returns {tuple(value.shape)} of {value.dtype} for {n} samples; expected floating logits "
                f"[N, C] or [N]. Flatten or select them in a wrapper."
            )
        if returned not in self.live:
            raise KlrpError.value(
                "model: its output does not depend on the input; there is nothing to explain."
            )
        logits = value if value.ndim == 2 else value[:, None]
        return Trace(tuple(self.steps.values()), self.x, self.live[returned].source, logits)


def _folded(step: Step, norm: Sum) -> Layer:
    """BatchNorm after a linear layer: w' = w s, b' = b s + t, with the norm's scale s and shift t."""
    scale, shift = norm.weights[0][0], norm.bias[0]
    layer = step.operation
    weight = layer.weights[0] * scale.reshape(-1, *(1,) * (layer.weights[0].ndim - 1))
    bias = shift.squeeze(0) if shift.ndim == 0 else shift
    bias = bias if layer.bias is None else layer.bias * scale + bias
    return replace(layer, weights=(weight,), bias=bias)
