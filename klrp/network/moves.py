"""What a step does that has no weights: it moves relevance."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from klrp.network.layers import AdaptiveWindows, Pool, Shape, Windows, window, window_sizes
from klrp.semirings import Semiring


class Move:
    """A step that only moves relevance."""

    def hand_down(self, r: Tensor, semiring: Semiring) -> tuple[Tensor, ...]:
        """What each input that depends on the network's gets, from r [N, *output, *shape]."""
        raise NotImplementedError

    def lost(self, r: Tensor) -> Tensor:
        """How much of r [N, *output] goes to constants [N]."""
        return r.new_zeros(len(r))


@dataclass(frozen=True, eq=False)
class Winner(Move):
    """A max-pool: its relevance goes to the winner of each window, ``indices`` in the input's plane."""

    windows: Windows | AdaptiveWindows
    indices: Tensor
    input: Shape
    output: Shape

    def hand_down(self, r: Tensor, semiring: Semiring) -> tuple[Tensor]:
        """R_j = ⊕ of R_k over the windows that j wins."""
        spatial, ndim = self._spatial(), len(self.output)
        if isinstance(self.windows, Windows) and self.windows.apart and not semiring.shape:
            result = semiring.full((*self.input[:-spatial], math.prod(self.input[-spatial:])), "zero", r)
            result.scatter_(-1, self.indices.flatten(-spatial), r.flatten(-spatial))
            return (result.reshape(self.input),)
        plane = torch.arange(math.prod(self.input[-spatial:]), device=r.device)
        plane = plane.reshape(*(1,) * (ndim - spatial), *self.input[-spatial:])
        result, zero = semiring.full(self.input, "zero", r), semiring.full((), "zero", r)
        trailing = (...,) + (None,) * len(semiring.shape)
        for _, lower, upper in self.windows.offsets(self.input[-spatial:], self.output[-spatial:]):
            at, k = window(lower, ndim), window(upper, ndim)
            wins = (at(plane) == k(self.indices))[trailing]
            neurons = at(result)
            neurons.copy_(semiring.plus(neurons, torch.where(wins, k(r), zero)))
        return (result,)

    def average(self, dtype: torch.dtype) -> Pool:
        """The average pool over the same windows and the real neurons in them."""
        inputs, outputs = self.input[-self._spatial() :], self.output[-self._spatial() :]
        counts = window_sizes(self.windows, inputs, outputs).to(self.indices.device, dtype)
        return Pool((1 / counts,), None, (self.input,), self.output, self.windows)

    def _spatial(self) -> int:
        return self.indices.ndim - 2


@dataclass(frozen=True)
class Pass(Move):
    """An activation or a reshape: relevance is handed on unchanged, in the input's shape."""

    input: Shape

    def hand_down(self, r: Tensor, semiring: Semiring) -> tuple[Tensor]:
        return (r.reshape(*self.input, *semiring.shape),)


@dataclass(frozen=True)
class Concat(Move):
    """Concatenation along ``dim``; None stands for a constant, whose relevance is lost."""

    dim: int
    inputs: tuple[Shape, ...]
    live: tuple[bool, ...]

    def hand_down(self, r: Tensor, semiring: Semiring) -> tuple[Tensor, ...]:
        pieces = r.split([shape[self.dim] for shape in self.inputs], self.dim)
        return tuple(piece for piece, live in zip(pieces, self.live, strict=True) if live)

    def lost(self, r: Tensor) -> Tensor:
        pieces = r.split([shape[self.dim] for shape in self.inputs], self.dim)
        dead = [p for p, live in zip(pieces, self.live, strict=True) if not live]
        return sum((p.flatten(1).sum(1) for p in dead), start=r.new_zeros(len(r)))


@dataclass(frozen=True, eq=False)
class Rearrange(Move):
    """Any operation that only moves, repeats or drops neurons: ``origin`` [*output] holds, for each
    output neuron, 1 + the flat index of the input neuron it shows, or 0 for a constant."""

    input: Shape
    origin: Tensor

    def hand_down(self, r: Tensor, semiring: Semiring) -> tuple[Tensor]:
        result = semiring.full((math.prod(self.input),), "zero", r)
        origin = self.origin.flatten()
        r = r.reshape(-1, *semiring.shape)[origin > 0]
        origin, order = (origin[origin > 0] - 1).sort(stable=True)
        r = r[order]
        while len(origin):  # each round takes the first of every run of equal origins
            first = torch.ones_like(origin, dtype=torch.bool)
            first[1:] = origin[1:] != origin[:-1]
            result[origin[first]] = semiring.plus(result[origin[first]], r[first])
            origin, r = origin[~first], r[~first]
        return (result.reshape(*self.input, *semiring.shape),)

    def lost(self, r: Tensor) -> Tensor:
        return torch.where(self.origin == 0, r, 0).reshape(len(r), -1).sum(1)


@dataclass(frozen=True)
class Lookup(Move):
    """An embedding: a token's relevance is the ⊕ of that of its vector's components."""

    axis: int

    def hand_down(self, r: Tensor, semiring: Semiring) -> tuple[Tensor]:
        return (semiring.sum(r, self.axis),)
