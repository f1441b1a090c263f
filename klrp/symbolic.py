"""The same recursion over Python objects: formulas, polynomials, sets, or a class with + and * of its own.

It walks edge by edge, one sample at a time, for layers of up to some hundred thousand edges. What it
computes, klrp.explain computes for semirings over tensors, many thousand times as fast.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from klrp.composites import Composite
from klrp.errors import KlrpError
from klrp.graph import Step
from klrp.kernels.blocked import edges
from klrp.plan import Plan, plan_for
from klrp.relevance import task_at
from klrp.rules import Rule
from klrp.semirings import REAL, Semiring

LARGEST = 200_000  # edges of a layer that is still walked in seconds


class Edge(NamedTuple):
    """A connection: neuron j of what ``source`` outputs feeds neuron k of ``step``, by flat indices."""

    step: str
    source: str
    j: int
    k: int


@dataclass(frozen=True, eq=False)
class SymbolicRelevance(Mapping[str, np.ndarray]):
    """One object for each neuron of one sample: a read-only mapping from step names, output to input.

    Each map is a numpy array of objects, shaped as what the step outputs for one sample.
    """

    target: int
    maps: Mapping[str, np.ndarray]

    @property
    def input(self) -> np.ndarray:
        """The relevance of the input's neurons."""
        return self.maps["input"]

    def __getitem__(self, name: str) -> np.ndarray:
        return self.maps[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.maps)

    def __len__(self) -> int:
        return len(self.maps)


@torch.no_grad()
def explain(
    model: nn.Module,
    inputs: Tensor,
    target: int | None = None,
    *,
    theta: Callable[[float, Edge], Any],
    zero: Any,
    one: Any,
    add: Callable[[Any, Any], Any] = operator.add,
    mul: Callable[[Any, Any], Any] = operator.mul,
    rule: Rule | None = None,
    composite: Composite | None = None,
) -> SymbolicRelevance:
    """R_j = ⊕_k Θ(d_jk) ⊗ R_k over any Python objects, from one logit of one sample.

    Args:
        model, target, rule, composite: as in klrp.explain; the default rule is that of the reals. A Θ in
            the composite is not used.
        inputs: one sample, [1, ...].
        theta: ``theta(d, edge)`` gives the element for a share; ``edge`` says which connection it is, so
            that each may get a variable of its own.
        zero, one: the neutral elements.
        add, mul: ⊕ and ⊗; by default ``+`` and ``*`` of the objects.

    Raises:
        KlrpError: for more than one sample, a network with too many edges, and as klrp.explain.

    Example:
        >>> relevance = klrp.symbolic.explain(  # which sets of hidden neurons lead to each input?
        ...     model, x, zero=frozenset(), one=frozenset([frozenset()]),
        ...     theta=lambda d, edge: frozenset([frozenset([edge.k])]) if d > 0 else frozenset(),
        ...     add=frozenset.union, mul=lambda x, y: frozenset(p | q for p in x for q in y))
    """
    if not isinstance(inputs, Tensor) or len(inputs) != 1:
        raise KlrpError.value(
            f"inputs: got {tuple(getattr(inputs, 'shape', ()))}; expected one sample, [1, ...]. Take inputs[:1]."
        )
    plan = plan_for(model, inputs, target, REAL, composite, rule, None, "one", "all", 64 << 20)
    walk = _Walk(plan, theta, zero, add, mul)
    arriving = {plan.network.output: walk.zeros(plan.first[0].numel())}
    arriving[plan.network.output][int(plan.target)] = one
    maps = {"output": arriving[plan.network.output].reshape(plan.first.shape[1:])}
    for step in reversed(plan.network.steps):
        shape = step.shape[1:]
        r = arriving.pop(step.name, None)
        r = walk.zeros(shape.numel()) if r is None else r
        maps[step.name] = r.reshape(shape)
        for source, below in walk.down(step, r):
            known = arriving.get(source)
            arriving[source] = below if known is None else walk.join(known, below)
    shape = inputs.shape[1:]
    maps["input"] = arriving.get("input", walk.zeros(shape.numel())).reshape(shape)
    return SymbolicRelevance(int(plan.target), maps)


@dataclass(frozen=True)
class _Walk:
    plan: Plan
    theta: Callable[[float, Edge], Any]
    zero: Any
    add: Callable[[Any, Any], Any]
    mul: Callable[[Any, Any], Any]

    def zeros(self, n: int) -> np.ndarray:
        array = np.empty(n, dtype=object)
        for i in range(n):  # not array[:] = zero, which would spread a zero that is a sequence
            array[i] = self.zero
        return array

    def join(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        joined = self.zeros(len(x))
        for i in range(len(x)):
            joined[i] = self.add(x[i], y[i])
        return joined

    def down(self, step: Step, r: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
        """What each source of a step gets from r, flat."""
        task = task_at(step, self.plan)
        sizes = [self.plan.network.value(s)[0].numel() for s in step.sources]
        below = [self.zeros(n) for n in sizes]
        if task is None:
            for array, (at_j, at_k) in zip(below, _moves(step), strict=True):
                for j, k in zip(at_j, at_k, strict=True):
                    array[j] = self.add(array[j], r[k])
        else:
            walked = 0
            for source, at_j, at_k, d in edges(task.shares):
                walked += len(d)
                if walked > LARGEST:
                    raise KlrpError.value(
                        f"model: {step.name} has more than {LARGEST} edges, too many to walk one by one. Use "
                        f"klrp.explain with a klrp.Semiring."
                    )
                array, name = below[source], step.sources[source]
                for j, k, share in zip(at_j.tolist(), at_k.tolist(), d.tolist(), strict=True):
                    element = self.theta(share, Edge(step.name, name, j, k))
                    array[j] = self.add(array[j], self.mul(element, r[k]))
        yield from zip(step.sources, below, strict=True)


def _moves(step: Step) -> Iterator[tuple[list[int], list[int]]]:
    """Which j of each source gets what arrives at which k: the step itself, asked with sets of k."""
    n = step.shape[1:].numel()
    sets = Semiring(
        "sets", [False] * n, [True] * n, lambda x, dim: x.any(dim), torch.logical_and,
        domain=(0, 1), shape=(n,), dtype=torch.bool,
    )  # fmt: skip
    alone = torch.eye(n, dtype=torch.bool).reshape(1, *step.shape[1:], n)
    for received in step.operation.hand_down(alone, sets):
        at_j, at_k = received.reshape(-1, n).nonzero().T.tolist()
        yield at_j, at_k
