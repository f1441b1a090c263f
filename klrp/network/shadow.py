"""A copy of a network that can be run without changing it: what a forward writes to is written to the copy."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from functools import partial
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, nn

from klrp.errors import KlrpError

_HOOKS_OF_GRADIENTS = ("_backward_hooks", "_backward_pre_hooks")
_PLAIN = (int, float, complex, str, bytes, bool, type(None), type, FunctionType, BuiltinFunctionType, torch.dtype)
_CONTAINERS = (list, tuple, dict)
_REFUSED = {
    torch.jit.ScriptModule: "is scripted, and its operations cannot be seen. Give the network it was scripted from"
}


def opened(model: Any) -> nn.Module:
    """The network inside DataParallel, torch.compile, AveragedModel and their like."""
    if not isinstance(model, nn.Module):
        raise KlrpError.type(f"model: got {type(model).__name__}; expected a torch.nn.Module.")
    return opened(_inner(model)) if _inner(model) is not model else model


def _inner(module: nn.Module) -> nn.Module:
    wrappers = (nn.DataParallel, nn.parallel.DistributedDataParallel, torch.optim.swa_utils.AveragedModel)
    if isinstance(module, wrappers):
        return module.module
    return module._orig_mod if type(module).__name__ == "OptimizedModule" else module  # of torch.compile


def shadow_of(model: nn.Module, share: bool) -> tuple[nn.Module, list[Tensor]]:
    """A copy of ``model``: parameters are other objects over the same memory (copies of it unless ``share``), buffers
    and what else it holds are copies; what cannot be copied, such as a lock or an open file, is the same object. With it come the tensors
    it holds."""
    memo: dict[int, Any] = {}
    modules = list(_reachable(model))
    for module in modules:
        for kind, why in _REFUSED.items():
            if isinstance(module, kind):
                raise KlrpError.type(f"model: {type(module).__name__} {why}.")
        if type(module).__module__.startswith("torch.ao.nn.") and "quant" in type(module).__module__:
            raise KlrpError.type(f"model: {type(module).__name__} is quantised; give the network in floats.")
    if any(nn.parameter.is_lazy(x) for x in tensors_in(model)):
        raise KlrpError.value("model: it has lazy modules that were never run; run it once: model(inputs).")
    for module in modules:
        inner = _inner(module)
        memo[id(module)] = object.__new__(type(module)) if inner is module else None
    for module in modules:  # a wrapper inside stands for what it wraps
        if memo[id(module)] is None:
            memo[id(module)] = memo[id(opened(module))]
    for module in modules:
        if _inner(module) is module:
            _fill(vars(memo[id(module)]), module, memo, share)
    return memo[id(model)], [x for x in memo.values() if isinstance(x, Tensor)]


class Entered:
    """The forward of a module of the shadow, recorded; a copy that the network makes of the module has its own."""

    def __init__(self, run: Callable, module: nn.Module):
        self.run, self.module = run, module

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.run(*args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Callable:
        module = copy.deepcopy(self.module, memo)
        return MethodType(type(module).forward, module)


def tensors_in(model: nn.Module) -> Iterator[Tensor]:
    """The parameters and buffers of a network, those of modules in plain lists too."""
    for module in _reachable(model):
        for tensors in (module._parameters, module._buffers):
            yield from (x for x in tensors.values() if x is not None)


def _reachable(model: nn.Module) -> Iterator[nn.Module]:
    """Every module once, those in plain lists and dictionaries too."""
    seen, waiting = set(), [model]
    while waiting:
        holder = waiting.pop()
        if id(holder) in seen:
            continue
        seen.add(id(holder))
        if isinstance(holder, nn.Module):
            yield holder
            holder = vars(holder)
        items = holder.values() if isinstance(holder, dict) else holder
        waiting += [x for x in items if isinstance(x, nn.Module) or (isinstance(x, _CONTAINERS) and len(x))]


def _fill(state: dict[str, Any], module: nn.Module, memo: dict[int, Any], share: bool) -> None:
    for name, value in vars(module).items():
        if name == "_parameters":
            state[name] = {key: _parameter(p, memo, share) for key, p in value.items()}
        elif name == "_buffers":
            state[name] = {key: _tensor(b, memo) for key, b in value.items()}
        elif name == "_modules":
            state[name] = {key: None if m is None else memo[id(m)] for key, m in value.items()}
        elif name == "_compiled_call_impl" or name in _HOOKS_OF_GRADIENTS:
            state[name] = None if name == "_compiled_call_impl" else type(value)()
        elif name.endswith("hooks") or "_hooks_" in name:
            items = value.items() if isinstance(value, dict) else ()
            state[name] = (
                type(value)((key, _hook(hook, memo)) for key, hook in items) if isinstance(value, dict) else value
            )
        else:
            state[name] = _copied(value, memo, share)


def _hook(hook: Any, memo: dict[int, Any]) -> Any:
    """A hook that is a method of a module, of that module's copy."""
    if isinstance(hook, MethodType):
        return MethodType(hook.__func__, memo.get(id(hook.__self__), hook.__self__))
    if type(hook) is partial:
        args = [_hook(memo.get(id(arg), arg), memo) for arg in hook.args]
        return partial(_hook(hook.func, memo), *args, **{k: memo.get(id(v), v) for k, v in hook.keywords.items()})
    return hook


def _parameter(p: Tensor | None, memo: dict[int, Any], share: bool) -> Tensor | None:
    if p is not None and id(p) not in memo:
        plain = p.detach() if share else p.detach().clone()
        memo[id(p)] = nn.Parameter(plain, p.requires_grad) if isinstance(p, nn.Parameter) else plain
    return None if p is None else memo[id(p)]


def _tensor(x: Tensor | None, memo: dict[int, Any]) -> Tensor | None:
    if x is not None and id(x) not in memo:
        memo[id(x)] = x.detach().clone()
    return None if x is None else memo[id(x)]


def _copied(value: Any, memo: dict[int, Any], share: bool) -> Any:
    """A copy of what a module holds, with the copies of modules and tensors in their place."""
    if isinstance(value, _PLAIN):
        return value
    if id(value) in memo:
        return memo[id(value)]
    if isinstance(value, nn.Parameter):
        return _parameter(value, memo, share)
    if isinstance(value, Tensor):
        return _tensor(value, memo)
    if isinstance(value, MethodType):
        return MethodType(value.__func__, memo.get(id(value.__self__), value.__self__))
    if type(value) in (list, set, dict):  # several modules may share one, and it may hold itself
        held = memo[id(value)] = type(value)()
        if isinstance(value, list):
            held.extend(_copied(item, memo, share) for item in value)
        else:
            items = value.items() if isinstance(value, dict) else value
            held.update(
                [(k, _copied(v, memo, share)) for k, v in items]
                if isinstance(value, dict)
                else [_copied(v, memo, share) for v in items]
            )
        return held
    if type(value) is tuple:
        return tuple([_copied(item, memo, share) for item in value])
    try:
        return copy.deepcopy(value, memo)
    except Exception:  # a lock, a file, a generator: whatever deepcopy raises
        return value
