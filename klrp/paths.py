"""Paths: the best ones from the class to a neuron, and some by lot, read off the maps of an explanation.

A walk leaves R_k at every neuron. Of the paths that go on from neuron j of a step, those through k weigh Θ(d_jk) ⊗ R_k
together. So from j one goes up without having stored anything on the way down, by the shares of one neuron at a time.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from klrp import kernels
from klrp.arguments import Plan
from klrp.conversions import of_samples
from klrp.errors import KlrpError
from klrp.explain import task_at
from klrp.network.moves import Move
from klrp.network.steps import Step
from klrp.relevance import Relevance

Neuron = int | Sequence[int] | None


@dataclass(frozen=True)
class Path:
    """One path from the class down to a neuron.

    ``neurons`` are (step, index within the sample) from the class down; ``shares`` holds d_jk for each hop, None where
    relevance only moves. ``value`` is the ⊗ of the shares' elements and of the element that the path began with, as a
    number, or a tensor [*semiring.shape]. ``layers`` are the neurons of weighted layers, and the last one.
    """

    neurons: tuple[tuple[str, tuple[int, ...]], ...]
    shares: tuple[float | None, ...]
    value: float | bool | Tensor

    @property
    def layers(self) -> tuple[tuple[str, tuple[int, ...]], ...]:
        """The neurons that relevance is shared among or by: those above a share, and the last one."""
        above = (neuron for neuron, share in zip(self.neurons, self.shares, strict=False) if share is not None)
        return (*above, self.neurons[-1])

    def __repr__(self) -> str:
        hops = " ← ".join(f"{name} {list(index)}" for name, index in self.layers)
        value = self.value if isinstance(self.value, bool | Tensor) else f"{self.value:.4g}"
        return f"<Path {value}: {hops}>"


@torch.no_grad()
def best(relevance: Relevance, neuron: Neuron = None, k: int = 1, *, sample: int = 0, at: str = "input") -> list[Path]:
    r"""The k strongest paths from the class to a neuron, the best first.

    From neuron j the best path goes to that upper k for which

    .. math:: Θ(d_{jk}) ⊗ R_k = R_j

    and a path that has come up to k with the product P can reach P ⊗ R_k, exactly; so the most promising one is extended
    until k have arrived (best-first search with an exact bound; Huang and Chiang 2005 do so in parsing).

    Args:
        relevance: of klrp.explain, with all maps, in a semiring whose ⊕ chooses one of its operands, as a maximum does:
            Viterbi, fuzzy, Łukasiewicz, max-plus, tropical, Boolean, where any relevant path is as good as another.
        neuron: its index in the map ``at`` of the sample, or the flat one; None is the neuron with the largest score.
        k: how many; fewer come back where there are not so many.
        sample: which of the batch.
        at: the step, or "input", to whose neuron the paths lead.

    Raises:
        KlrpError: for a semiring that adds up, maps that were not kept, and where the model or the inputs have changed.

    Example:
        >>> relevance = klrp.explain(model, x, semiring="viterbi")
        >>> klrp.paths.best(relevance)[0]
        <Path 1: 5 [7] ← 3 [17] ← 1 [204] ← input [0, 12, 14]>
    """
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise KlrpError.value(f"k: got {k!r}; expected a number of paths from 1 up.")
    with relevance.replayed() as plan:
        climb = _Climb(relevance, plan)
        start = climb.start(neuron, sample, at)
        order, found = count(), []
        heap = [(-climb.score(climb.element(*start)), next(order), _Beginning(None, (start,), ()))]
        while heap and len(found) < k:
            _, _, way = heapq.heappop(heap)
            if way.ended:
                found.append(climb.path(way))
                continue
            column = climb.column(*way.places[-1])
            for i in climb.strongest(column, k):
                longer = climb.extended(way, column, i)
                whole = climb.times(way.product, column.passed[i])
                if not climb.nothing(whole):
                    heapq.heappush(heap, (-climb.score(whole), next(order), longer))
        return found


@torch.no_grad()
def sample(
    relevance: Relevance, n: int, neuron: Neuron = None, *, sample: int = 0, at: str = "input", seed: int = 0
) -> list[Path]:
    r"""n paths by lot, each with a probability in proportion to its weight.

    .. math:: P(j → k) = \frac{Θ(d_{jk}) ⊗ R_k}{R_j}

    Args:
        relevance: of klrp.explain, with all maps, in a semiring whose ⊕ is a sum: the reals under a rule without negative
            shares, such as z⁺; counting, where all relevant paths are as likely; log.
        n: how many.
        neuron: as for `best`; None draws it too, by the relevance of the map ``at``.
        seed: of the generator.

    Raises:
        KlrpError: for relevance below zero, for a semiring whose ⊕ is no sum, and as `best`.

    Example:
        >>> relevance = klrp.explain(model, x, rule=klrp.rules.zplus())
        >>> drawn = klrp.paths.sample(relevance, 1000)
    """
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise KlrpError.value(f"n: got {n!r}; expected a number of paths from 1 up.")
    generator = torch.Generator().manual_seed(seed)
    with relevance.replayed() as plan:
        climb = _Climb(relevance, plan)
        if neuron is None:
            weights = climb.amounts(climb.of_sample(at, sample), summed=True)
            starts = [climb.start(int(i), sample, at) for i in torch.multinomial(weights, n, True, generator=generator)]
        else:
            starts = [climb.start(neuron, sample, at)] * n
        ways = [_Beginning(None, (start,), ()) for start in starts]
        while not all(way.ended for way in ways):
            here: dict[tuple[str, int], list[int]] = {}
            for number, way in enumerate(ways):
                if not way.ended:
                    here.setdefault(way.places[-1], []).append(number)
            for place, numbers in here.items():
                column = climb.column(*place)
                weights = climb.amounts(column.passed, summed=True)
                drawn = torch.multinomial(weights, len(numbers), True, generator=generator)
                for number, i in zip(numbers, drawn.tolist(), strict=True):
                    ways[number] = climb.extended(ways[number], column, i)
        return [climb.path(way) for way in ways]


class _Beginning(NamedTuple):
    """A path from below that has come up to the last of ``places``; ``product`` is None before the first hop."""

    product: Tensor | None
    places: tuple[tuple[str, int], ...]
    shares: tuple[float | None, ...]
    ended: bool = False


class _Column(NamedTuple):
    """Where one can go from a neuron: to ``upper`` [m], or to an end where ``steps`` is None, by what share and element
    [m, *shape], and what all paths that way come to, ``passed`` [m, *shape]."""

    steps: list[str | None]
    upper: list[int]
    shares: list[float | None]
    elements: Tensor
    passed: Tensor


@dataclass(frozen=True, eq=False)
class _Climb:
    """The way up through the maps of one explanation; flat indices are over all samples."""

    relevance: Relevance
    plan: Plan
    columns: dict[tuple[str, int], _Column] = field(default_factory=dict)
    tasks: dict[str, tuple] = field(default_factory=dict)

    # ------------------------------------------------------------------ elements

    def element(self, name: str, j: int) -> Tensor:
        """R_j [*shape]."""
        return self._flat(name)[j]

    def _flat(self, name: str) -> Tensor:
        names = self.relevance.input_names
        if name == "input" and name not in names:
            raise KlrpError.value(f"at: the network has several inputs; name one of them, {' or '.join(names)}.")
        if name not in self.relevance:
            raise KlrpError.value(
                f'keep: paths need the map of every step, and that of {name} is not there; use keep="all".'
            )
        rank = len(self.plan.semiring.shape)
        r = self.relevance[name]
        return r.reshape(-1, *r.shape[r.ndim - rank :])

    def times(self, x: Tensor | None, y: Tensor) -> Tensor:
        """x ⊗ y, and y where nothing came before."""
        return y if x is None else self.plan.semiring.mul(x, y)

    def score(self, x: Tensor) -> float:
        """The score of an element."""
        return float(self.plan.semiring.score(x))  # type: ignore[misc]

    def nothing(self, x: Tensor) -> bool:
        """Whether an element is zero."""
        return bool(self.plan.semiring.is_zero(x))

    def amounts(self, x: Tensor, summed: bool = False) -> Tensor:
        """Numbers from 0 up [m], in proportion to which paths are drawn."""
        semiring = self.plan.semiring
        values = semiring.score(x).double()  # type: ignore[misc]
        if semiring.logarithmic:
            values = (values - values.max()).exp()
        total = semiring.score(semiring.sum(x, 0)).double()  # type: ignore[misc]
        total = (total - semiring.score(x).double().max()).exp() if semiring.logarithmic else total  # type: ignore[misc]
        if bool((values < 0).any()):
            raise KlrpError.value(
                "rule: some relevance is below zero; draw under a rule without negative shares, as zplus()."
            )
        if summed and not torch.isclose(values.sum(), total, rtol=1e-3):
            raise KlrpError.value(f"semiring: the ⊕ of {semiring.name} is no sum; ask for klrp.paths.best.")
        if not float(values.sum()):
            raise KlrpError.value("neuron: nothing there is relevant; no path leads to it.")
        return values

    # -------------------------------------------------------------------- places

    def of_sample(self, at: str, sample: int) -> Tensor:
        """The elements [m, *shape] of one sample's map, flat."""
        samples = len(self.relevance.logits)
        if not -samples <= sample < samples:
            raise KlrpError.value(f"sample: got {sample}; there are {samples}.")
        flat = self._flat(at)
        size = len(flat) // samples
        sample %= samples
        return flat[sample * size : (sample + 1) * size]

    def start(self, neuron: Neuron, sample: int, at: str) -> tuple[str, int]:
        """The step and the flat index of a neuron."""
        of_sample, samples = self.of_sample(at, sample), len(self.relevance.logits)
        rank = len(self.plan.semiring.shape)
        shape = self.relevance[at].shape[1 : self.relevance[at].ndim - rank]
        if neuron is None:
            flat = int(self.plan.semiring.score(of_sample).argmax())  # type: ignore[misc]
        elif isinstance(neuron, int | np.integer):
            flat = int(neuron)
        else:
            index = tuple(int(i) for i in neuron)
            fits = len(index) == len(shape) and all(-n <= i < n for i, n in zip(index, shape, strict=False))
            flat = int(np.ravel_multi_index([i % n for i, n in zip(index, shape, strict=True)], shape)) if fits else -1
        if not 0 <= flat < len(of_sample):
            raise KlrpError.value(f"neuron: got {neuron!r}; expected an index in {tuple(shape)}, or a flat one.")
        name = self.relevance.aliases.get(at, at)
        return name, (sample % samples) * len(of_sample) + flat

    def path(self, way: _Beginning) -> Path:
        """The path of one that has ended, from above."""
        neurons = []
        for name, j in reversed(way.places):
            shape = self.plan.network.value(name).shape
            neurons.append((name, tuple(int(i) for i in np.unravel_index(j, shape))[1:]))
        assert way.product is not None
        value = way.product if self.plan.semiring.shape else way.product.item()
        return Path(tuple(neurons), tuple(reversed(way.shares)), value)

    # ------------------------------------------------------------------------ up

    def extended(self, way: _Beginning, column: _Column, i: int) -> _Beginning:
        """A beginning that goes on by the i-th way of a column."""
        product = self.times(way.product, column.elements[i])
        step = column.steps[i]
        if step is None:
            return _Beginning(product, way.places, way.shares, True)
        return _Beginning(product, (*way.places, (step, column.upper[i])), (*way.shares, column.shares[i]))

    def strongest(self, column: _Column, k: int) -> list[int]:
        """The k ways with the largest score, if ⊕ chooses among them."""
        semiring = self.plan.semiring
        if not len(column.passed):
            return []
        scores = semiring.score(column.passed).double()  # type: ignore[misc]
        total = semiring.score(semiring.sum(column.passed, 0)).double()  # type: ignore[misc]
        if not torch.isclose(total, scores.max(), rtol=1e-5):
            raise KlrpError.value(
                f"semiring: the ⊕ of {semiring.name} does not choose one of its operands, so that no path is the best; "
                f"draw paths with klrp.paths.sample."
            )
        return scores.sort(descending=True, stable=True).indices[:k].tolist()

    def column(self, name: str, j: int) -> _Column:
        """All ways up from a neuron that are relevant."""
        if (name, j) not in self.columns:
            self.columns[name, j] = self._column(name, j)
        return self.columns[name, j]

    def _column(self, name: str, j: int) -> _Column:
        semiring, steps, upper, shares, elements, passed = self.plan.semiring, [], [], [], [], []
        if name in self.plan.starts:
            start = self.plan.starts[name]
            first = start.reshape(-1, *start.shape[start.ndim - len(semiring.shape) :])[j][None]
            steps, upper, shares, elements, passed = [None], [j], [None], [first], [first]
        for step in self.plan.network.steps:
            for number, source in enumerate(step.sources):
                if source != name:
                    continue
                for k, d, e in self._hops(step, number, j):
                    r = self._flat(step.name)[k]
                    steps += [step.name] * len(k)
                    upper += k.tolist()
                    shares += [None] * len(k) if d is None else d.tolist()
                    elements.append(e)
                    passed.append(semiring.mul(e, r))
        blank = semiring.full((0,), "zero", self.plan.start)
        ways, each = torch.cat([blank, *passed]), torch.cat([blank, *elements])
        some = (~semiring.is_zero(ways)).nonzero()[:, 0]
        kept = some.tolist()
        return _Column(
            [steps[i] for i in kept], [upper[i] for i in kept], [shares[i] for i in kept], each[some], ways[some]
        )

    def _hops(self, step: Step, number: int, j: int) -> Iterator[tuple[Tensor, Tensor | None, Tensor]]:
        """(k, d_jk or None, elements) from neuron j of a step's source to its output."""
        if step.name not in self.tasks:
            task, shared = task_at(step, self.plan)
            self.tasks[step.name] = (None if task is None else kernels.fitted(task, self.relevance[step.name])), shared
        task, shared = self.tasks[step.name]
        if task is None:
            move = step.operation
            assert isinstance(move, Move)
            values = [self.plan.network.value(source) for source in step.sources] if move.reads_values else []
            k = move.above(number, j, values)
            yield k, None, self.plan.semiring.full((len(k),), "one", self.plan.start)
        elif number in shared:
            for k, d in kernels.column(task, shared.index(number), j):
                sample = j // math.prod(task.layer.inputs[shared.index(number)][1:])
                theta = of_samples(task.theta, slice(sample, sample + 1))
                yield k, d, theta(d[None], self.plan.semiring)[0]
