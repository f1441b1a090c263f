"""⊕_k Θ(d_jk) ⊗ R_k by the fastest kernel that can: the one place that chooses.

Each kernel is a module with two functions, ``why_not(task)``, empty where it can, and ``contract(task, r)``, None
where the numbers leave its range. ``blocked`` takes everything and is the reference of the others.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import partial
from types import ModuleType

import torch
from torch import Tensor

from klrp.conversions import Conversion, at_least
from klrp.errors import KlrpError
from klrp.kernels.cache import Cache
from klrp.network.layers import Layer, Read
from klrp.rules import Rule
from klrp.semirings import Semiring
from klrp.shares import PartShares, Shares, shares_of

__all__ = ["KERNELS", "Cache", "Kernel", "Task", "chosen", "column", "contract", "edges", "fitted", "only", "task_for"]


# The semirings that compiled code knows, by their hints, and what it then does with a share d and R_k.
REACH, COUNT, MAX, MINIMUM, BOUNDED, EXPONENTIAL, BALANCE = range(7)
KINDS = {"any,and": REACH, "count": COUNT, "max,mul": MAX, "max,min": MINIMUM, "max,bounded": BOUNDED}
# Of logarithms: the form of Θ, and the sign with which they grow.
LOGARITHMS = {"max,add": ("log", 1), "min,add": ("neglog", -1)}
# exp(−600) times the smallest share of single precision is still a normal float64.
SPREAD = 600.0
EXACT = 2.0**53  # below it float64 holds every integer


@dataclass(frozen=True, eq=False)
class Task:
    """All that a kernel may look at: the shares of a layer, Θ, the semiring, and how much memory there is.

    ``memory`` are the bytes for a block of shares and what is made of it; ``cache`` keeps packed weights.
    """

    shares: Shares
    theta: Conversion
    semiring: Semiring
    memory: int
    cache: Cache | None = None

    @property
    def layer(self) -> Layer:
        """The layer whose shares they are."""
        return self.shares.layer

    @property
    def rule(self) -> Rule:
        """The rule that gave them."""
        return self.shares.rule

    @property
    def device(self) -> torch.device:
        """Where the layer's weights are."""
        return self.layer.weights[0].device


def task_for(
    layer: Layer,
    rule: Rule,
    reads: Sequence[Read],
    theta: Conversion,
    semiring: Semiring,
    memory: int,
    value: Tensor | None = None,
    cache: Cache | None = None,
) -> Task:
    """The task of a layer that reads ``reads`` and computed ``value``, if that is known."""
    shares = shares_of(layer, rule, reads, partial(largest, memory=memory, cache=cache), value)
    return Task(shares, theta, semiring, memory, cache)


class Kernel(str):
    """A kernel's name; ``why`` says why it is not a faster one, and is empty where there is none."""

    why: str

    def __new__(cls, name: str, why: str = "") -> Kernel:
        kernel = super().__new__(cls, name)
        kernel.why = why
        return kernel

    def __repr__(self) -> str:
        return f"{str(self)!r} ({self.why})" if self.why else repr(str(self))


def chosen(task: Task) -> Kernel:
    """Which kernel a task gets, by the name that users know: "gradient", "lists", "loops", "norms" or "blocked"."""
    if task.theta.fit:
        task = replace(task, theta=at_least(torch.ones(task.layer.output[0])))
    kernel, why = first(task)
    if kernel is None:
        raise _none_left(why)
    return Kernel(kernel.NAME, why) if kernel.NAME else chosen(kernel.stand_in(task))


def contract(task: Task, r: Tensor) -> list[Tensor]:
    """R_j for each input of the layer [N, *input, *shape], from R_k [N, *output, *shape]."""
    shapes = (*task.layer.inputs, task.layer.output)
    if not all(math.prod(shape) for shape in shapes):  # a layer of no neurons
        return [task.semiring.full(shape, "zero", r) for shape in task.layer.inputs]
    task, objections = fitted(task, r), []
    for kernel in _allowed():
        objection = kernel.why_not(task)
        passed = None if objection else kernel.contract(task, r)
        if passed is not None:
            return passed
        objections.append(objection or f"the numbers leave the range of {kernel.NAME or 'logarithms'}")
    raise _none_left("; ".join(objections))


def column(task: Task, number: int, j: int) -> Iterator[tuple[Tensor, Tensor]]:
    """(k, d_jk) for the upper neurons k of neuron j of one of the layer's inputs; flat indices over all samples."""
    return blocked.column(task.shares, number, j, partial(largest, memory=task.memory, cache=task.cache))


def edges(task: Task, r: Tensor) -> Tensor:
    """Θ(d_jk) ⊗ R_k for each weight of the layer [N, *weight, *shape], from R_k [N, *output, *shape]; see
    klrp.Relevance.edges."""
    return blocked.by_weight(fitted(task, r), r)


_ONLY: ContextVar[frozenset[str] | None] = ContextVar("only", default=None)


@contextmanager
def only(*names: str) -> Iterator[None]:
    """Inside, in this thread, only the kernels of these names work: "gradient", "lists", "loops", "norms", "blocked".

    A task that none of them takes is a KlrpError.

    Example:
        >>> with klrp.kernels.only("blocked"):
        ...     slow = klrp.explain(model, x, semiring="boolean")
    """
    known = {kernel.NAME for kernel in KERNELS} - {""}
    if wrong := set(names) - known:
        raise KlrpError.value(f"only: there is no kernel {', '.join(sorted(wrong))}; there are {', '.join(known)}.")
    token = _ONLY.set(frozenset(names))
    try:
        yield
    finally:
        _ONLY.reset(token)


# ------------------------------------------------------------------ for the kernels


def first(task: Task) -> tuple[ModuleType | None, str]:
    """The first kernel that takes a task, if any does, and the objections of those before it."""
    objections, stranger = {}, unknown(task.semiring)
    for kernel in _allowed():
        objection = kernel.why_not(task)
        if not objection:
            break
        objections[objection] = None  # each once, in this order
    else:
        kernel = None
    told = [objection for objection in objections if objection != stranger]
    return kernel, "; ".join(told) or (stranger if kernel is blocked and _ONLY.get() is None else "")


def unknown(semiring: Semiring) -> str:
    """The objection of a kernel to a semiring whose operations it does not know."""
    return f"none is known for the semiring {semiring.name}"


def single_product_objection(task: Task, kinds: Mapping[str | None, int] = KINDS) -> str:
    """Why a loop over the edges cannot do with one product each, for the semirings of ``kinds``; empty if it can.

    Shares are compared with a threshold, or they are in [0, 1] and Θ is the identity, or their logarithm.
    """
    kind = kinds.get(task.semiring.fused)
    if kind is None or task.semiring.shape:
        return unknown(task.semiring)
    cuts, (form, cut) = kind in (REACH, COUNT, BALANCE), task.theta.form
    whole, _ = LOGARITHMS.get(task.semiring.fused, ("identity", 1))
    forms = ("threshold", "magnitude", "positive") if cuts else (whole,)
    if form not in forms:
        return f"with {task.semiring.name} there is one for Θ = {' or '.join(forms)}"
    if form in ("threshold", "magnitude") and not bool(torch.as_tensor(cut > 0).all()):
        return "the threshold is not positive"
    if not cuts and not task.rule.shares_in_unit_interval:
        return f"the shares of {task.rule.name} may leave [0, 1]"
    if len(task.shares.parts) > 1 or max(len(part.pairs) for part in task.shares.parts) > 1:
        return f"a share of {task.rule.name} is more than one product here"
    return ""


def compiled_objection(device: torch.device) -> str:
    """Why compiled code does not run there; empty if it does."""
    if not threads.AVAILABLE:
        return "Numba is not installed (pip install klrp[fast])"
    return "" if device.type == "cpu" else f"it is compiled for the CPU, not for {device.type}"


def inexact(r: Tensor, found: Tensor) -> bool:
    """Whether R_k are integers, and ``found`` holds some that float64 does not hold exactly."""
    whole = not (r.is_floating_point() or r.dtype == torch.bool)
    return whole and bool(found.numel()) and float(found.amax()) >= EXACT


def broadcast_samples(values: Tensor, map: Tensor) -> Tensor:
    """One value for each sample [N] as [N, 1, ...], in the precision of a map [N, ...]."""
    return values.to(map.dtype).reshape(-1, *(1,) * (map.ndim - 1))


def largest(part: PartShares, wanted: Tensor | None = None, *, memory: int, cache: Cache | None = None) -> Tensor:
    """max_j Σ_t α_t(a_j) ω_t(w_jk) [N, *output], the denominator of some rules, by the fastest that can; anything where
    it is not ``wanted``."""
    found = lists.largest(part, cache, wanted) if lists in _allowed() else None
    found = loops.largest(part) if found is None and loops in _allowed() else found
    return blocked.largest(part, memory) if found is None else found


def fitted(task: Task, r: Tensor) -> Task:
    """The task with the thresholds that an automatic Θ finds.

    A threshold found is itself a share. Kernels round it differently, by 5 half units at most, so that it is
    lowered by 8: whatever the kernel, that share reaches it.
    """
    if not task.theta.fit:
        return task
    found = blocked.thresholds(task, r)
    found = found * (1 - 4 * torch.finfo(task.shares.parts[0].denominator.dtype).eps)
    return replace(task, theta=at_least(found))


def _allowed() -> list[ModuleType]:
    """The kernels that may be chosen; who hands on to another is asked in any case."""
    names = _ONLY.get()
    return [kernel for kernel in KERNELS if names is None or not kernel.NAME or kernel.NAME in names]


def _none_left(why: str) -> KlrpError:
    return KlrpError.value(f"only: none of the kernels {', '.join(_ONLY.get() or ())} takes this layer: {why}.")


from klrp.kernels import blocked, gradient, lists, loops, paired, pnorm, powers, several, threads, transport  # noqa: E402  they import what stands above

# The first without an objection works: the fast ones before the others.
KERNELS = (gradient, powers, lists, several, transport, paired, loops, pnorm, blocked)
