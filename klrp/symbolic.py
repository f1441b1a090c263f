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

from klrp.arguments import Plan, plan_for
from klrp.composites import Composite
from klrp.errors import KlrpError
from klrp.explain import task_at, walk_back
from klrp.kernels.blocked import edges
from klrp.network.steps import Step
from klrp.rules import Rule
from klrp.semirings import REAL

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
    _check_size(plan)
    walk, shapes = _Walk(plan, theta, zero, add, mul), {step.name: step.shape[1:] for step in plan.network.steps}
    shapes["input"] = inputs.shape[1:]
    start = walk.zeros(plan.start[0].numel())
    start[int(plan.target[0])] = one
    maps = {"output": start.reshape(plan.start.shape[1:])}
    network = plan.network
    blank = lambda name: walk.zeros(shapes[name].numel())  # noqa: E731
    for name, r in walk_back(network.steps, {network.output: start}, walk.down, walk.join, blank):
        maps[name] = r.reshape(shapes[name])
    return SymbolicRelevance(int(plan.target[0]), maps)


def needed(
    model: nn.Module,
    inputs: Tensor,
    target: int | None = None,
    *,
    theta: Callable[[float, Edge], bool] = lambda d, edge: d >= 1e-9,
    rule: Rule | None = None,
    composite: Composite | None = None,
) -> SymbolicRelevance:
    """The neurons that every relevant path to a neuron goes through: without any one of them no relevance arrives.

    An element is a set of neurons (step, k), k being the flat index in what a weighted step outputs, or None where there
    is no path: ⊕ is ∩, ⊗ is ∪, 0 is None and 1 the empty set. Each is a cut of the graph of relevant connections by a
    single neuron, a dominator in the words of flow graphs (Lowry and Medlock 1969); the explained class is one of them.

    Args:
        model, inputs, target, rule, composite: as in ``explain``.
        theta: ``theta(d, edge)`` says whether a connection is relevant; the default is that of the Boolean semiring.

    Raises:
        KlrpError: as ``explain``.

    Example:
        >>> klrp.symbolic.needed(model, x, target=0).input[0]
        frozenset({("2", 0), ("0", 4)})
    """
    through = lambda d, edge: frozenset([(edge.step, edge.k)]) if theta(d, edge) else None  # noqa: E731
    return explain(
        model, inputs, target, theta=through, zero=None, one=frozenset(), add=_in_both, mul=_in_either, rule=rule,
        composite=composite,
    )  # fmt: skip


def _in_both(x: frozenset | None, y: frozenset | None) -> frozenset | None:
    """∩, where None, no path, is neutral."""
    return y if x is None else x if y is None else x & y


def _in_either(x: frozenset | None, y: frozenset | None) -> frozenset | None:
    """∪, where None, no path, absorbs."""
    return None if x is None or y is None else x | y


def _check_size(plan: Plan) -> None:
    """A KlrpError if some layer has too many edges to walk one by one, or several rows for the one sample."""
    for step in plan.network.steps:
        if step.shape[0] != len(plan.start):
            raise KlrpError.value(f"model: {step.name} has several rows for a sample. Use klrp.explain.")
        task, _ = task_at(step, plan)
        edges = step.shape[1:].numel() if task is None else task.layer.edges()
        if edges > LARGEST:
            raise KlrpError.value(
                f"model: {step.name} has {edges} edges, more than the {LARGEST} that can be walked one by one. Use "
                f"klrp.explain with a klrp.Semiring."
            )


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

    def down(self, step: Step, r: np.ndarray) -> list[np.ndarray]:
        """What each source of a step gets from r, flat."""
        (task, shared), network = task_at(step, self.plan), self.plan.network
        below = [self.zeros(network.value(source)[0].numel()) for source in step.sources]
        if task is None:
            values = [network.value(source) for source in step.sources] if step.operation.reads_values else []
            for array, (at_j, at_k) in zip(below, step.operation.pairs(values), strict=True):
                first = at_k < len(r)  # of the one sample, where two were run in its place
                for j, k in zip(at_j[first].tolist(), at_k[first].tolist(), strict=True):
                    array[j] = self.add(array[j], r[k])
            return below
        for number, at_j, at_k, d in edges(task.shares):
            array, name = below[shared[number]], step.sources[shared[number]]
            for j, k, share in zip(at_j.tolist(), at_k.tolist(), d.tolist(), strict=True):
                element = self.theta(share, Edge(step.name, name, j, k))
                array[j] = self.add(array[j], self.mul(element, r[k]))
        return below
