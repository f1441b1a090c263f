"""The laws of a semiring, checked on elements, and whether its hint for fast kernels is true."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from klrp.errors import KlrpError
from klrp.semirings import Semiring

_SHORT = (torch.float32, torch.float16, torch.bfloat16)


def check_laws(semiring: Semiring, samples: Tensor) -> None:
    """Check every law of a semiring, and its ``fused`` hint, on all triples of the samples, zero and one.

    Args:
        samples: elements [m, *semiring.shape]; zero and one are added to them. Floats are compared in
            the semiring's dtype, in float64 where that is None, there to a relative 1e-9.

    Raises:
        KlrpError: on the first law that fails. Its ``law`` names the law, its ``counterexample`` holds
            the elements x, y, z. So it is where ``fused`` names other operations than ``add`` and ``mul``; a hint
            that no kernel knows is refused with those that are known.

    Example:
        >>> SIGNED = klrp.Semiring("max-times", 0., 1., add=lambda x, dim: x.amax(dim), mul=torch.mul)
        >>> klrp.check_laws(SIGNED, torch.tensor([-1., 2.]))
        Traceback (most recent call last):
        klrp.errors.KlrpValueError: semiring 'max-times': the law 'zero is neutral for add' fails ...
    """
    members, shape = _members(semiring, samples), semiring.shape
    m = len(members)
    rtol = 64 * torch.finfo(dtype).eps if (dtype := members.dtype) in _SHORT else 1e-9
    # Every triple at once: x varies along axis 0, y along 1, z along 2.
    x, y, z = (
        members.reshape(*(m if axis == i else 1 for i in range(3)), *shape).expand(m, m, m, *shape) for axis in range(3)
    )
    for law, left, right in _computed(itertools.chain(_laws(semiring, x, y, z), _hint(semiring, x, y, z)), semiring):
        if left.shape != x.shape:
            law = f"{law} (it returned the shape {tuple(left.shape)} for {tuple(x.shape)})"
            fails = torch.ones(m, m, m, dtype=torch.bool)
        elif left.is_floating_point():
            fails = ~torch.isclose(left, right, rtol=rtol, atol=rtol * 1e-3)
        else:
            fails = left != right
        where = fails.nonzero()
        if len(where):
            raise _law_error(semiring, law, [members[i].tolist() for i in where[0, :3]])


def _members(semiring: Semiring, samples: Tensor) -> Tensor:
    """Zero, one and the samples [m + 2, *shape], in the precision in which they are compared."""
    samples, shape = torch.as_tensor(samples), semiring.shape
    if samples.ndim != len(shape) + 1 or tuple(samples.shape[1:]) != shape:
        raise KlrpError.value(
            f"samples: got shape {tuple(samples.shape)}; expected m elements of {semiring.name}, that is "
            f"[m, {', '.join(map(str, shape))}]."
        )
    neutral = torch.stack([torch.as_tensor(semiring.zero), torch.as_tensor(semiring.one)])
    return torch.cat([neutral.to(samples.device), samples]).to(semiring.dtype or torch.float64)


def _computed(laws: Iterator, semiring: Semiring) -> Iterator:
    """The laws one by one; what add or mul raise becomes a KlrpError."""
    try:
        yield from laws
    except KlrpError:
        raise
    except Exception as error:  # whatever a user's function raises
        raise KlrpError.value(
            f"semiring {semiring.name!r}: add or mul failed with {type(error).__name__}: {error}. add(x, dim) "
            f"reduces one axis of a tensor to a tensor, such as x.sum(dim); mul(x, y) multiplies two tensors."
        ) from error


def _laws(semiring: Semiring, x: Tensor, y: Tensor, z: Tensor) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Each law with its two sides, computed only when it is reached."""
    plus, times = semiring.plus, semiring.mul
    zero, one = (semiring.full(x.shape[:3], which, x) for which in ("zero", "one"))
    for name, result in (("samples", x), ("add", plus(x, y)), ("mul", times(x, y))):
        inside = semiring.inside(result)
        yield f"closure: {name} stays in the domain", inside, torch.ones_like(inside)
    yield "commutativity of add", plus(x, y), plus(y, x)
    yield "associativity of add", plus(plus(x, y), z), plus(x, plus(y, z))
    yield "zero is neutral for add", plus(x, zero), x
    yield "associativity of mul", times(times(x, y), z), times(x, times(y, z))
    yield "one is neutral for mul, from the right", times(x, one), x
    yield "one is neutral for mul, from the left", times(one, x), x
    yield "zero absorbs in mul, from the right", times(x, zero), zero
    yield "zero absorbs in mul, from the left", times(zero, x), zero
    left, right = "distributivity of mul over add, from the left", "distributivity, from the right"
    yield left, times(x, plus(y, z)), plus(times(x, y), times(x, z))
    yield right, times(plus(x, y), z), plus(times(x, z), times(y, z))
    agreement = "add over an axis agrees with pairwise add, in any order"
    for order in itertools.permutations((x, y, z)):
        yield agreement, semiring.add(torch.stack(order), 0), plus(plus(x, y), z)
    yield agreement, semiring.add(torch.stack([x, y, z], 2), 2), plus(plus(x, y), z)


def _hint(semiring: Semiring, x: Tensor, y: Tensor, z: Tensor) -> Iterator[tuple[str, Tensor, Tensor]]:
    """What ``fused`` says of add and mul, beside what they give; both in double precision."""
    if semiring.fused is None or semiring.parts:  # of what is made of others, theirs are checked
        return
    if semiring.fused not in HINTS and not semiring.fused.startswith("norm "):
        raise KlrpError.value(
            f"semiring {semiring.name!r}: no kernel knows fused = {semiring.fused!r}; expected None or one of "
            f"{', '.join(map(repr, HINTS))}."
        )
    add, mul = HINTS.get(semiring.fused, (partial(_norm, semiring.fused), torch.mul))
    triple = torch.stack([x, y, z])
    yield f"fused = {semiring.fused!r}: add is its ⊕", semiring.add(triple, 0).double(), add(triple.double(), 0)
    yield f"fused = {semiring.fused!r}: mul is its ⊗", semiring.mul(x, y).double(), mul(x.double(), y.double())


def _any(x: Tensor, dim: int) -> Tensor:
    return (x != 0).any(dim).double()


def _and(x: Tensor, y: Tensor) -> Tensor:
    return ((x != 0) & (y != 0)).double()


def _bounded(x: Tensor, y: Tensor) -> Tensor:
    return (torch.minimum(x, y) - (1 - torch.maximum(x, y))).clamp_min(0)


def _norm(fused: str, x: Tensor, dim: int) -> Tensor:
    p = float(fused.removeprefix("norm ").removesuffix(",mul"))
    return x.pow(p).sum(dim).pow(1 / p)


# What kernels take ⊕ and ⊗ to be, by the name in ``fused``.
HINTS: dict[str, tuple[Callable[[Tensor, int], Tensor], Callable[[Tensor, Tensor], Tensor]]] = {
    "sum,mul": (torch.sum, torch.mul),
    "any,and": (_any, _and),
    "count": (torch.sum, torch.mul),
    "max,mul": (torch.amax, torch.mul),
    "max,min": (torch.amax, torch.minimum),
    "max,bounded": (torch.amax, _bounded),
    "max,add": (torch.amax, torch.add),
    "min,add": (torch.amin, torch.add),
    "logsumexp,add": (torch.logsumexp, torch.add),
}


def _law_error(semiring: Semiring, law: str, elements: list) -> KlrpError:
    named = ", ".join(f"{letter} = {e}" for letter, e in zip("xyz", elements, strict=True))
    error: Any = KlrpError.value(f"semiring {semiring.name!r}: the law {law!r} fails for {named}.")
    error.law, error.counterexample = law, tuple(elements)
    return error
