"""What a step does that has no weights: it moves relevance."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from klrp.network.layers import AdaptiveWindows, Layer, Pool, Read, Shape, Windows, window, window_sizes
from klrp.semirings import Semiring

Layered = tuple[Layer, tuple[int, ...]]  # a layer, and which of a step's sources it reads


class Move:
    """A step that only moves relevance. ``reads_values`` says that where to depends on the values that it reads."""

    reads_values = False

    def hand_down(self, r: Tensor, semiring: Semiring, values: Sequence[Tensor] = ()) -> tuple[Tensor | None, ...]:
        """What each input that depends on the network's gets, from r [N, *output, *shape]; None is nothing."""
        raise NotImplementedError

    def pairs(self, values: Sequence[Tensor] = ()) -> list[tuple[Tensor, Tensor]]:
        """(j, k) for each input: neuron j gets what arrives at k; flat indices over all samples."""
        raise NotImplementedError

    def above(self, number: int, j: int, values: Sequence[Tensor] = ()) -> Tensor:
        """The neurons k that neuron j of one of the inputs hands on to."""
        at_j, at_k = self.pairs(values)[number]
        return at_k[at_j == j]

    def lost(self, r: Tensor, values: Sequence[Tensor] = ()) -> Tensor:
        """How much of r [N, *output] goes to constants [N]."""
        return r.new_zeros(len(r))


class Linearised(Move):
    """A step that may be a layer for the values that it reads: by which ``choices`` of a rule, and its ``usual`` one,
    None where relevance only moves."""

    choices: ClassVar[tuple[str, ...]] = ()
    usual: ClassVar[str | None] = None

    def choice(self, wanted: str) -> str | None:
        """The way that is taken where a rule wants one of its own."""
        return wanted if wanted in self.choices else self.usual

    def layer(self, choice: str, values: Sequence[Tensor]) -> Layered:
        """The layer that it is for these values."""
        raise NotImplementedError

    def finite(self, read: Read) -> Read:
        """What it reads, without infinite numbers whose weights are 0."""
        return read


@dataclass(frozen=True, eq=False)
class Held(Move):
    """A statistic, such as a norm or a deviation, that is held constant: relevance that arrives ends here."""

    input: Shape

    def hand_down(self, r: Tensor, semiring: Semiring, values: Sequence[Tensor] = ()) -> tuple[None]:
        return (None,)

    def pairs(self, values: Sequence[Tensor] = ()) -> list[tuple[Tensor, Tensor]]:
        nothing = torch.zeros(0, dtype=torch.long)
        return [(nothing, nothing)]

    def lost(self, r: Tensor, values: Sequence[Tensor] = ()) -> Tensor:
        return r.reshape(len(r), -1).sum(1)


@dataclass(frozen=True, eq=False)
class Winner(Linearised):
    """A max-pool: its relevance goes to the winner of each window. ``pool`` gives (values, indices in the plane)."""

    pool: Callable[[Tensor], tuple[Tensor, Tensor]]
    windows: Windows | AdaptiveWindows
    input: Shape
    output: Shape
    reads_values = True
    choices: ClassVar[tuple[str, ...]] = ("average",)

    def hand_down(self, r: Tensor, semiring: Semiring, values: Sequence[Tensor] = ()) -> tuple[Tensor]:
        """R_j = ⊕ of R_k over the windows that j wins."""
        _, indices = self.pool(values[0])
        spatial, ndim = self._spatial, len(self.output)
        if isinstance(self.windows, Windows) and self.windows.apart and not semiring.shape:
            result = semiring.full((*self.input[:-spatial], math.prod(self.input[-spatial:])), "zero", r)
            result.scatter_(-1, indices.flatten(-spatial), r.flatten(-spatial))
            return (result.reshape(self.input),)
        plane = torch.arange(math.prod(self.input[-spatial:]), device=r.device)
        plane = plane.reshape(*(1,) * (ndim - spatial), *self.input[-spatial:])
        result, zero = semiring.full(self.input, "zero", r), semiring.full((), "zero", r)
        trailing = (...,) + (None,) * len(semiring.shape)
        for _, lower, upper in self.windows.offsets(self.input[-spatial:], self.output[-spatial:]):
            at, k = window(lower, ndim), window(upper, ndim)
            wins = (at(plane) == k(indices))[trailing]
            neurons = at(result)
            neurons.copy_(semiring.plus(neurons, torch.where(wins, k(r), zero)))
        return (result,)

    def pairs(self, values: Sequence[Tensor] = ()) -> list[tuple[Tensor, Tensor]]:
        _, indices = self.pool(values[0])
        size = math.prod(self.input[-self._spatial :])
        k = torch.arange(indices.numel())
        return [(indices.flatten() + k // math.prod(self.output[-self._spatial :]) * size, k)]

    def layer(self, choice: str, values: Sequence[Tensor]) -> Layered:
        """The average pool over the same windows and the real neurons in them."""
        counts = window_sizes(self.windows, self.input[-self._spatial :], self.output[-self._spatial :])
        return Pool((1 / counts.to(values[0]),), None, (self.input,), self.output, self.windows), (0,)

    @property
    def _spatial(self) -> int:
        return len(self.output) - 2


@dataclass(frozen=True)
class Unpool(Move):
    """What undoes a max-pool: the value at each of its indices goes there, and the rest of the plane is zero. Where windows
    overlap, the last of those with the same index counts."""

    input: Shape
    output: Shape
    reads_values = True

    def hand_down(self, r: Tensor, semiring: Semiring, values: Sequence[Tensor] = ()) -> tuple[Tensor | None, ...]:
        result = semiring.full((math.prod(self.input),), "zero", r)
        (j, k), _ = self.pairs(values)
        result[j] = r.reshape(-1, *semiring.shape)[k]
        return result.reshape(*self.input, *semiring.shape), None

    def pairs(self, values: Sequence[Tensor] = ()) -> list[tuple[Tensor, Tensor]]:
        planes, spatial = math.prod(self.input[:2]), len(self.input) - 2
        indices, size = values[1].reshape(planes, -1), math.prod(self.output[-spatial:])
        k = (indices + torch.arange(planes, device=indices.device)[:, None] * size).flatten()
        j = torch.arange(len(k), device=k.device)
        last = torch.zeros(planes * size, dtype=j.dtype, device=k.device).scatter_reduce(0, k, j, "amax")[k] == j
        nothing = j[:0]
        return [(j[last], k[last]), (nothing, nothing)]

    def lost(self, r: Tensor, values: Sequence[Tensor] = ()) -> Tensor:
        (_, k), _ = self.pairs(values)
        constant = torch.ones(r.numel(), dtype=torch.bool, device=r.device).index_fill_(0, k, False)
        return torch.where(constant.reshape(r.shape), r, 0).reshape(len(r), -1).sum(1)


@dataclass(frozen=True)
class Extreme(Move):
    """The largest (``sign`` 1) or smallest (−1) over the axes ``dims``: relevance goes to the first that is it."""

    input: Shape
    dims: tuple[int, ...]
    sign: int
    reads_values = True

    def hand_down(self, r: Tensor, semiring: Semiring, values: Sequence[Tensor] = ()) -> tuple[Tensor]:
        result = semiring.full((math.prod(self.input),), "zero", r)
        ((j, _),) = self.pairs(values)
        result[j] = r.reshape(len(j), *semiring.shape)
        return (result.reshape(*self.input, *semiring.shape),)

    def pairs(self, values: Sequence[Tensor] = ()) -> list[tuple[Tensor, Tensor]]:
        others = [axis for axis in range(len(self.input)) if axis not in self.dims]
        lined = lambda x: x.permute(*others, *self.dims).flatten(len(others))  # noqa: E731
        winner = (self.sign * lined(values[0])).argmax(-1, keepdim=True)
        numbers = torch.arange(math.prod(self.input), device=winner.device).reshape(self.input)
        j = lined(numbers).gather(-1, winner).flatten()
        return [(j, torch.arange(len(j), device=j.device))]


@dataclass(frozen=True)
class Pass(Move):
    """An activation or a reshape: relevance is handed on unchanged, in the input's shape."""

    input: Shape

    def hand_down(self, r: Tensor, semiring: Semiring, values: Sequence[Tensor] = ()) -> tuple[Tensor]:
        return (r.reshape(*self.input, *semiring.shape),)

    def pairs(self, values: Sequence[Tensor] = ()) -> list[tuple[Tensor, Tensor]]:
        k = torch.arange(math.prod(self.input))
        return [(k, k)]

    def above(self, number: int, j: int, values: Sequence[Tensor] = ()) -> Tensor:
        return torch.tensor([j])


@dataclass(frozen=True)
class Concat(Move):
    """Concatenation along ``dim``; an input that is not ``live`` is a constant, whose relevance is lost."""

    dim: int
    inputs: tuple[Shape, ...]
    live: tuple[bool, ...]

    def hand_down(self, r: Tensor, semiring: Semiring, values: Sequence[Tensor] = ()) -> tuple[Tensor, ...]:
        return tuple(piece for piece, live in zip(self._pieces(r), self.live, strict=True) if live)

    def lost(self, r: Tensor, values: Sequence[Tensor] = ()) -> Tensor:
        dead = (piece for piece, live in zip(self._pieces(r), self.live, strict=True) if not live)
        return sum((piece.flatten(1).sum(1) for piece in dead), start=r.new_zeros(len(r)))

    def pairs(self, values: Sequence[Tensor] = ()) -> list[tuple[Tensor, Tensor]]:
        size = sum(shape[self.dim] for shape in self.inputs)
        output = [size if axis == self.dim else n for axis, n in enumerate(self.inputs[0])]
        pieces = self._pieces(torch.arange(math.prod(output)).reshape(output))
        found = (piece.flatten() for piece, live in zip(pieces, self.live, strict=True) if live)
        return [(torch.arange(len(k)), k) for k in found]

    def _pieces(self, r: Tensor) -> tuple[Tensor, ...]:
        return r.split([shape[self.dim] for shape in self.inputs], self.dim)


@dataclass(frozen=True)
class Permute(Move):
    """The axes in another ``order``, that of the samples first: axis i of the output is axis order[i] of the input."""

    input: Shape
    order: tuple[int, ...]

    def hand_down(self, r: Tensor, semiring: Semiring, values: Sequence[Tensor] = ()) -> tuple[Tensor]:
        back = [self.order.index(axis) for axis in range(len(self.order))]
        return (r.permute(*back, *range(len(back), r.ndim)),)

    def pairs(self, values: Sequence[Tensor] = ()) -> list[tuple[Tensor, Tensor]]:
        k = torch.arange(math.prod(self.input))
        return [(k.reshape(self.input).permute(self.order).flatten(), k)]


@dataclass(frozen=True)
class Pad(Move):
    """Constants around, or with negative ``widths`` a border cut off: (before, after) for each axis."""

    input: Shape
    widths: tuple[tuple[int, int], ...]

    def hand_down(self, r: Tensor, semiring: Semiring, values: Sequence[Tensor] = ()) -> tuple[Tensor]:
        shown, kept = self._slices()
        if all(width >= 0 for pair in self.widths for width in pair):
            return (r[shown],)
        result = semiring.full(self.input, "zero", r)
        result[kept] = r[shown]
        return (result,)

    def pairs(self, values: Sequence[Tensor] = ()) -> list[tuple[Tensor, Tensor]]:
        shown, kept = self._slices()
        output = [n + sum(pair) for n, pair in zip(self.input, self.widths, strict=True)]
        numbers = (torch.arange(math.prod(shape)).reshape(shape) for shape in (self.input, output))
        j, k = (x[at].flatten() for x, at in zip(numbers, (kept, shown), strict=True))
        return [(j, k)]

    def lost(self, r: Tensor, values: Sequence[Tensor] = ()) -> Tensor:
        shown, _ = self._slices()
        around = r.clone()
        around[shown] = 0
        return around.reshape(len(r), -1).sum(1)

    def _slices(self) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
        """Where the output shows neurons of the input, and which those are."""
        axes = list(zip(self.input, self.widths, strict=True))
        sizes = [n + min(before, 0) + min(after, 0) for n, (before, after) in axes]
        shown = tuple(slice(max(b, 0), max(b, 0) + size) for size, (b, _) in zip(sizes, self.widths, strict=True))
        kept = tuple(slice(max(-b, 0), max(-b, 0) + size) for size, (b, _) in zip(sizes, self.widths, strict=True))
        return shown, kept


@dataclass(frozen=True, eq=False)
class Rearrange(Move):
    """Any operation that only moves, repeats or drops neurons: ``origin`` [*output] holds, for each output neuron,
    1 + the flat index of the input neuron it shows, the inputs laid one after the other, or 0 for a constant."""

    inputs: tuple[Shape, ...]
    origin: Tensor

    @cached_property
    def _sorted(self) -> tuple[Tensor, Tensor]:
        """(k, j) for each output neuron k that shows an input neuron j, in the order of j."""
        origin = self.origin.flatten()
        k = (origin > 0).nonzero()[:, 0]
        j, order = (origin[k] - 1).sort(stable=True)
        return k[order], j

    def hand_down(self, r: Tensor, semiring: Semiring, values: Sequence[Tensor] = ()) -> tuple[Tensor, ...]:
        sizes = [math.prod(shape) for shape in self.inputs]
        result = semiring.full((sum(sizes),), "zero", r)
        k, j = self._sorted
        r = r.reshape(-1, *semiring.shape)[k]
        # Neighbours with the same j are joined two by two until each j stands once: linear work, few rounds.
        while len(j) and bool((again := j[1:] == j[:-1]).any()):
            place = torch.arange(len(j), device=j.device)
            first = torch.where(torch.cat([again.new_zeros(1), again]), 0, place).cummax(0).values
            even = (place - first) % 2 == 0
            paired = even[:-1] & again
            joined = semiring.plus(r[:-1][paired], r[1:][paired])
            r = r.masked_scatter(_widened(torch.cat([paired, paired.new_zeros(1)]), r), joined)
            r, j = r[even], j[even]
        result[j] = r
        pieces = result.split(sizes)
        return tuple(x.reshape(*shape, *semiring.shape) for x, shape in zip(pieces, self.inputs, strict=True))

    def pairs(self, values: Sequence[Tensor] = ()) -> list[tuple[Tensor, Tensor]]:
        k, j = self._sorted
        found, start = [], 0
        for shape in self.inputs:
            stop = start + math.prod(shape)
            here = (j >= start) & (j < stop)
            found.append((j[here] - start, k[here]))
            start = stop
        return found

    def lost(self, r: Tensor, values: Sequence[Tensor] = ()) -> Tensor:
        return torch.where(self.origin == 0, r, 0).reshape(len(r), -1).sum(1)


def _widened(mask: Tensor, like: Tensor) -> Tensor:
    """A mask [m] over elements [m, *shape]."""
    return mask.reshape(-1, *(1,) * (like.ndim - 1)).expand_as(like)


@dataclass(frozen=True)
class Embedding(Move):
    """An embedding or a one-hot code: a token's relevance is the ⊕ of that of its vector's components."""

    output: Shape
    axis: int

    def hand_down(self, r: Tensor, semiring: Semiring, values: Sequence[Tensor] = ()) -> tuple[Tensor]:
        return (semiring.sum(r, self.axis),)

    def pairs(self, values: Sequence[Tensor] = ()) -> list[tuple[Tensor, Tensor]]:
        tokens, size = math.prod(self.output[: self.axis]), self.output[self.axis]
        k = torch.arange(tokens * size)
        return [(k // size, k)]
