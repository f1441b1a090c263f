"""A network as a torch.fx graph that changes nothing: no module, no tensor, no generator of the user's.

What is traced is a copy of the modules around the same parameters, in eval mode, without dropout and
without forward hooks; in-place operations are rewritten, and remembered, so that whoever reads the
changed tensor later can be given the result.
"""

from __future__ import annotations

import copy
import inspect
import operator
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from klrp.errors import KlrpError
from klrp.meanings import find_module

_IN_PLACE = {
    operator.iadd: operator.add, operator.isub: operator.sub, operator.imul: operator.mul,
    operator.itruediv: operator.truediv,
}  # fmt: skip


class Network(NamedTuple):
    """A traced network: its nodes in order, its modules by path, and which nodes matter.

    ``call(node, args, kwargs)`` computes a node; ``needed`` are those that the output or an in-place
    operation depends on; ``in_place`` those that change their first argument when the user runs them.
    """

    nodes: tuple[fx.Node, ...]
    modules: dict[str, nn.Module]
    call: Callable[[fx.Node, tuple, dict], Any]
    needed: frozenset[fx.Node]
    in_place: frozenset[fx.Node]


def network_of(model: nn.Module) -> Network:
    """Trace ``model``; a KlrpError says why where it cannot be."""
    if not isinstance(model, nn.Module):
        raise KlrpError.type(f"model: got {type(model).__name__}; expected a torch.nn.Module.")
    root = find_module(type(model))
    shadow, changing = _shadow(_Whole(model) if root is not None and root.registered else model)
    graph = _fx_graph(shadow)
    modules = dict(shadow.named_modules(remove_duplicate=False))
    nodes = tuple(graph.nodes)
    in_place = frozenset(node for node in nodes if _made_pure(node, modules, changing))
    needed: set[fx.Node] = set()
    for node in reversed(nodes):
        kept = node.op in ("placeholder", "output") or node in in_place
        if kept or any(user in needed for user in node.users):
            needed.add(node)
    interpreter = fx.Interpreter(shadow, garbage_collect_values=False, graph=graph)

    def call(node: fx.Node, args: tuple, kwargs: dict) -> Any:
        return getattr(interpreter, node.op)(node.target, args, kwargs)

    return Network(nodes, modules, call, frozenset(needed), in_place)


class _Whole(nn.Module):
    """A network that is one registered module: so that it is called, not taken apart."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


def _shadow(model: nn.Module) -> tuple[nn.Module, set[int]]:
    """The copy to trace, and the ids of those of its modules that work in place in the original.

    Parameters are shared, and so are tensors that autograd made, which cannot be copied; buffers are
    copied, in case a module writes to them.
    """
    shared = {}
    for module in model.modules():
        shared.update({id(p): p for p in module.parameters(recurse=False)})
        # A module has a dozen dictionaries without entries, which take deepcopy longer than the rest.
        empty = [v for v in vars(module).values() if isinstance(v, dict) and not v]
        shared.update({id(v): type(v)() for v in empty if type(v) in (dict, OrderedDict)})
        shared.update({id(t): t for t in _tensors(vars(module)) if not t.is_leaf})
    shadow = copy.deepcopy(model, shared).eval()
    changing = set()
    for module in shadow.modules():
        module._forward_hooks.clear()
        module._backward_hooks.clear()
        if getattr(module, "inplace", False):
            module.inplace = False
            changing.add(id(module))
    return shadow, changing


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple | dict):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _tensors(item)


class _Proxy(fx.Proxy):
    """fx takes ``x += y`` for ``x = x + y``; here it is recorded as what it is."""

    def __iadd__(self, other: Any) -> fx.Proxy:
        return self._in_place(operator.iadd, other)

    def __isub__(self, other: Any) -> fx.Proxy:
        return self._in_place(operator.isub, other)

    def __imul__(self, other: Any) -> fx.Proxy:
        return self._in_place(operator.imul, other)

    def __itruediv__(self, other: Any) -> fx.Proxy:
        return self._in_place(operator.itruediv, other)

    def _in_place(self, function: Callable, other: Any) -> fx.Proxy:
        name = function.__name__.removeprefix("i")  # as fx would have called it
        return self.tracer.create_proxy("call_function", function, (self, other), {}, name)


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, qualified_name: str) -> bool:
        return find_module(type(m)) is not None or super().is_leaf_module(m, qualified_name)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)


def _fx_graph(shadow: nn.Module) -> fx.Graph:
    try:
        parameters = list(inspect.signature(shadow.forward).parameters.values())
    except ValueError:
        raise KlrpError.type(
            f"model: {type(shadow).__name__} has no Python forward to trace. Give the network it was compiled from."
        ) from None
    extra = [p for p in parameters[1:] if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    missing = [p.name for p in extra if p.default is p.empty]
    if missing:
        raise KlrpError.type(
            f"model: its forward takes more than one tensor ({', '.join(missing)}). Wrap it in a module whose "
            f"forward takes the one tensor to explain."
        )
    try:
        return _Tracer().trace(shadow, concrete_args={p.name: p.default for p in extra})
    except Exception as error:  # whatever forward() raises when it is given symbols
        raise KlrpError.value(
            f"model: torch.fx cannot trace {type(shadow).__name__}: {first_line(error)} A branch or loop that "
            f"depends on the data cannot be explained as one graph; move it out of forward(), or register the "
            f"module that holds it: klrp.register(TheModule, like=torch.nn.ReLU)."
        ) from error


def first_line(error: Exception) -> str:
    """The first line of an error's text, as a sentence."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].rstrip(" .:") + "."


def _made_pure(node: fx.Node, modules: dict[str, nn.Module], changing: set[int]) -> bool:
    """Rewrite a node that changes its first argument, or draws at random; whether it did the former."""
    if node.op == "call_module":
        return id(modules[node.target]) in changing
    if node.op not in ("call_method", "call_function"):
        return False
    name = node.target if node.op == "call_method" else getattr(node.target, "__name__", "")
    if node.target in _IN_PLACE:
        node.target = _IN_PLACE[node.target]
        return True
    if name.endswith("_") and not name.startswith("_"):
        pure = name[:-1]
        node.target = pure if node.op == "call_method" else getattr(torch, pure, None) or getattr(F, pure)
        return True
    return node.op == "call_function" and _rebound(node)


def _rebound(node: fx.Node) -> bool:
    """Set ``training`` and ``inplace`` of a function to False; whether the latter was True."""
    try:
        bound = inspect.signature(node.target).bind(*node.args, **node.kwargs)
    except (TypeError, ValueError):
        return False
    bound.apply_defaults()
    in_place, training = bound.arguments.get("inplace"), bound.arguments.get("training")
    if in_place is True or training is True and "dropout" in node.target.__name__:
        bound.arguments.update({k: False for k in ("inplace", "training") if k in bound.arguments})
        node.args, node.kwargs = bound.args, bound.kwargs
    return in_place is True
