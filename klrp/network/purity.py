"""In-place operations made pure: a function that changes none of its arguments, and the tensor that was to change."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from klrp.network.calls import mapped


def made_pure(func: Callable, name: str, args: tuple, kwargs: dict) -> tuple[Callable | None, tuple, dict, Any]:
    """A function that changes none of its arguments, with its arguments, and the tensor that func changes."""
    if "dropout" in name:  # in evaluation mode it does nothing
        place = _place(func, "inplace")
        in_place = kwargs.get("inplace", place is not None and len(args) > place and args[place])
        x = args[0] if args else kwargs["input"]
        return _identity, (x,), {}, x if in_place or func.__name__.endswith("_") else None
    target = written(func, name, args, kwargs)
    if getattr(func, "__name__", "") == "__set__":
        return None, args, kwargs, None
    if target is None or name in ("embedding", "embedding_bag"):
        return func, args, kwargs, None
    if "out" in kwargs:
        return None, args, kwargs, None
    if func.__name__ == "__setitem__":
        return _with_item, args, kwargs, target
    if not func.__name__.endswith("_"):  # by its argument inplace
        place = _place(func, "inplace")
        if place is not None and len(args) > place:
            args = (*args[:place], False, *args[place + 1 :])
        return func, args, {k: v for k, v in kwargs.items() if k != "inplace"}, target
    pure = next((getattr(home, name) for home in (Tensor, torch, F) if hasattr(home, name)), None)
    return pure, args, kwargs, target


def written(func: Callable, name: str, args: tuple, kwargs: dict) -> Tensor | None:
    """The tensor that a call changes, if it does."""
    plain = getattr(func, "__name__", "")
    first = args[0] if args else kwargs.get("input")
    if isinstance(kwargs.get("out"), Tensor):
        return kwargs["out"]
    if plain == "__setitem__":
        return first
    if (
        plain.endswith("_")
        and (not plain.startswith("_") or plain.startswith("_foreach_"))
        and plain not in ("requires_grad_", "detach_", "share_memory_")
    ):
        return first
    if name in ("embedding", "embedding_bag") and _given(func, "max_norm", args, kwargs) is not None:
        return args[1] if len(args) > 1 else kwargs["weight"]
    return first if _given(func, "inplace", args, kwargs) is True else None


def _given(func: Callable, argument: str, args: tuple, kwargs: dict) -> Any:
    if argument in kwargs:
        return kwargs[argument]
    place = _place(func, argument)
    return args[place] if place is not None and place < len(args) else None


@cache
def _place(func: Callable, argument: str) -> int | None:
    """Where a function of torch.nn.functional takes an argument by position."""
    try:
        names = list(inspect.signature(func).parameters)
    except (TypeError, ValueError):
        return None
    return names.index(argument) if argument in names else None


def on_copies(function: Callable) -> Callable:
    """The function, which may change its arguments, on copies of them."""
    copies = partial(mapped, lambda t: t.detach().clone() if isinstance(t, Tensor) else t)
    return lambda *args, **kwargs: function(*copies(args), **copies(kwargs))


def _with_item(x: Tensor, index: Any, value: Any) -> Tensor:
    """x[index] = value, as a new tensor."""
    x = x.clone()
    x[index] = value
    return x


def _identity(x: Tensor) -> Tensor:
    return x.view_as(x)
