"""Tensors that come in from code that cannot be seen: those that depend on the input are told by a run on another one."""

from __future__ import annotations

import torch
from torch import Tensor

from klrp.errors import KlrpError


def changed(x: Tensor) -> Tensor:
    """Another input of the same kind."""
    if x.is_floating_point():
        return x + torch.rand(x.shape, generator=torch.Generator().manual_seed(0)).to(x)
    return x.flip(-1)


def check_constant(unknown: list[tuple[Tensor, str]], others: list[tuple[Tensor, str]]) -> None:
    """A KlrpError if a tensor that no recorded function made depends on the input: unseen code made it."""
    same = len(unknown) == len(others)
    for (tensor, where), (again, _) in zip(unknown, others, strict=False):
        same = same and _equal(tensor, again)
        if not same:
            raise KlrpError.value(
                f"model: at {where} a value comes in that depends on the input and was made by code that klrp cannot "
                f"see, such as a scripted function, an extension or NumPy. Put that code into a module of its own and "
                f"register it: klrp.register(TheModule, like=torch.nn.ReLU)."
            )


def _equal(a: Tensor, b: Tensor) -> bool:
    try:
        return a.shape == b.shape and torch.equal(a, b)
    except RuntimeError:  # what vmap makes cannot be compared
        return False
