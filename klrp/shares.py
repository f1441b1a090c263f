"""The lazy matrix of shares d_jk of one layer under one rule, read in blocks of bounded size.

Axes of a block: n samples, g groups, k upper neurons, j lower neurons, p positions.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from klrp.kernels import sparse
from klrp.network.layers import Layer, Pool, Read, Shape, Tap, fold
from klrp.rules import Map, Part, Rule, same
from klrp.semirings import Semiring

# Edges in a block on a CPU: its temporaries then stay in the cache of one core.
CPU_BLOCK = 1 << 18


@dataclass(frozen=True, eq=False)
class PartShares:
    """One part of a rule on one layer: α_t(a) and ω_t(w) for each pair and input, and the denominator.

    ``pairs`` are those that have activations. What is not asked for is never computed: a kernel that
    needs no z does without.
    """

    layer: Layer
    rule: Rule
    part: Part
    pairs: tuple[tuple[Map, Map], ...]
    reads: tuple[Read, ...]
    value: Tensor | None
    memory: int

    @property
    def scale(self) -> float:
        """The factor c of the part."""
        return self.part.scale

    @cached_property
    def alphas(self) -> tuple[tuple[Tensor, ...], ...]:
        """α(a) [N, *input] for each pair and input."""
        activations = [read.activations for read in self.reads]
        return tuple(tuple(alpha(a) for a in activations) for alpha, _ in self.pairs)

    @cached_property
    def omegas(self) -> tuple[tuple[Tensor, ...], ...]:
        """ω(w) for each pair and input."""
        return tuple(tuple(omega(w) for w in self.layer.weights) for _, omega in self.pairs)

    @cached_property
    def bias(self) -> Tensor | None:
        """What the bias adds to z."""
        missing = self.part.bias is None or self.layer.bias is None
        return None if missing else self.part.bias(self.layer.bias)

    @cached_property
    def total(self) -> Tensor:
        """z [N, *output] before the stabiliser."""
        return self._total()

    def contributions(self) -> Tensor:
        """Σ_j Σ_t α_t(a_j) ω_t(w_jk) [N, *output]: z without the bias."""
        total = None
        for alpha, omega in self.pairs:
            term = self.layer.linear([alpha(read.activations) for read in self.reads], omega)
            total = term if total is None else total.add_(term)
        return total

    @cached_property
    def z(self) -> Tensor:
        """The stabilised denominator [N, *output]."""
        return self.rule.stabilise(self.total)

    @cached_property
    def divisor(self) -> Tensor:
        """z with ∞ in the place of 0, so that every share into such a neuron is 0; what is too small for
        a normal float counts as 0."""
        return self._without_zeros(self.z)

    def quotient(self, r: Tensor) -> Tensor:
        """c · R_k / z_k [N, *output], and 0 where z_k is; nothing is kept."""
        z = self._without_zeros(self.rule.stabilise(self._total()))
        s = torch.div(r, z, out=z if z.dtype == r.dtype else None)
        return s if self.scale == 1 else s.mul_(self.scale)

    def _total(self) -> Tensor:
        layer = self.layer
        if self.rule.normaliser == "max":
            return _largest(layer, self.alphas, self.omegas, self.memory)
        if self.value is not None and self.part.plain and not isinstance(layer, Pool):
            return self.value
        total = self.contributions()
        return total if self.bias is None else total.add_(self.bias)

    def _without_zeros(self, z: Tensor) -> Tensor:
        if self.rule.eps >= torch.finfo(z.dtype).tiny:  # the stabiliser keeps z from 0
            return z
        return torch.where(z.abs() < torch.finfo(z.dtype).tiny, torch.inf, z)

    def single(self, outer: Map = same) -> tuple[Read, Tensor]:
        """α(a) and ω(w), where there is one pair and one input, for a kernel that applies ``outer`` itself:
        maps that are nothing but that are left out."""
        ((alpha, omega),), (read,), (w,) = self.pairs, self.reads, self.layer.weights
        applied = (same, outer)
        read = read if alpha in applied else Read(alpha(read.activations))
        return read, w if omega in applied else omega(w)


@dataclass(frozen=True, eq=False)
class Shares:
    """d_jk of a layer: Σ over parts of scale · Σ_t α_t(a_j) ω_t(w_jk) / z_k.

    Every kernel that forms a share rounds in this order: the sum over t, the division, the scale, the sum
    over parts. ``zero_to_zero`` says that a neuron with activation 0 has the share 0 everywhere.
    """

    layer: Layer
    rule: Rule
    parts: tuple[PartShares, ...]
    zero_to_zero: bool


def shares_of(layer: Layer, rule: Rule, reads: list[Read], memory: int, value: Tensor | None = None) -> Shares:
    """The shares of ``layer`` under ``rule`` for what it reads.

    ``value`` [N, *output] is what the layer computed, if that is known: some rules need it. Half precision is computed in float32: 1e-9, the usual ε and θ, is 0 in float16.
    """
    if reads[0].value.dtype in (torch.float16, torch.bfloat16):
        reads = [read._replace(value=read.value.float()) for read in reads]
        bias = None if layer.bias is None else layer.bias.float()
        layer = replace(layer, weights=tuple(w.float() for w in layer.weights), bias=bias)
        value = None
    parts = tuple(
        PartShares(layer, rule, part, active_pairs(part, reads), tuple(reads), value, memory) for part in rule.parts
    )
    return Shares(layer, rule, parts, all(part.zero_to_zero for part in rule.parts))


def active_pairs(part: Part, reads: Sequence[Read]) -> tuple[tuple[Map, Map], ...]:
    """The pairs with an activation: behind a ReLU z⁺ is one product, not two."""
    if len(part.pairs) == 1:
        return part.pairs
    activations = [read.activations for read in reads]
    active = (pair for pair in part.pairs if any(bool(pair[0](a).any()) for a in activations))
    return tuple(active) or part.pairs[:1]


def _largest(layer: Layer, alphas: tuple, omegas: tuple, memory: int) -> Tensor:
    """z_k = max_j Σ_t α_t(a_j) ω_t(w_jk) over the connected pairs [N, *output], for terms from 0 up."""
    if len(alphas) == 1 and not sparse.refusal(layer, alphas[0][0].device):
        return sparse.largest(layer, alphas[0][0].abs(), omegas[0][0])
    z = alphas[0][0].new_zeros(layer.output)
    edges = block_edges(memory, 4 * z.element_size(), z.device)
    for samples in sample_chunks(layer, edges):
        for tap in layer.taps():
            product = _without_zeros(_product(tap, [(1.0, alphas, omegas, None)], samples), None, True)
            if product is None:
                continue
            n, g, k, _, p = product.sizes
            best = z.new_zeros(n, g, k, p)
            for (at_g, at_j, at_p), at_ks in tiles(product.sizes, edges):
                for at_k in at_ks:
                    block = product.d(at_g, at_k, at_j, at_p).amax(3)
                    target = best[:, at_g, at_k, at_p]
                    torch.maximum(target, block, out=target)
            upper = tap.upper(z[samples])
            at_g, _, at_p = product.kept
            found = product.spread(best, k, (at_g, None, at_p), z.new_zeros(()))
            torch.maximum(upper, fold(found, upper.shape, torch.amax), out=upper)
    return z


@dataclass(frozen=True, eq=False)
class Product:
    """One tap for some samples, its positions flattened: what is left of it when zeros are skipped.

    ``parts`` holds, for each part, its scale, α [n, g, 1, j, p] and ω [1, g, k, j, p or 1] of each pair,
    and the divisor [n, g, k, 1, p] or None; ``r`` is [n, g, k, 1, p, *shape]. ``kept`` are the indices of the
    groups, lower neurons and positions that remain, None for a whole axis; ``positions`` is the shape
    that the flat positions had.
    """

    parts: list[tuple[float, list[Tensor], list[Tensor], Tensor | None]]
    r: Tensor | None
    whole: tuple[int, int, int, int, int]
    positions: Shape
    kept: tuple[Tensor | None, Tensor | None, Tensor | None] = (None, None, None)

    @property
    def sizes(self) -> tuple[int, int, int, int, int]:
        """How many n, g, k, j, p there are."""
        alpha, omega = self.parts[0][1][0], self.parts[0][2][0]
        return alpha.shape[0], alpha.shape[1], omega.shape[2], alpha.shape[3], alpha.shape[4]

    def d(self, g: slice, k: slice, j: slice, p: slice) -> Tensor:
        """The shares on a block [n, g, k, j, p]; without divisors, their numerators."""
        total = None
        for scale, alphas, omegas, divisor in self.parts:
            share = None
            for alpha, omega in zip(alphas, omegas, strict=True):
                term = alpha[:, g, :, j, p] * omega[:, g, k, j, p if omega.shape[4] > 1 else slice(None)]
                share = term if share is None else share.add_(term)
            share = share if divisor is None else share.div_(divisor[:, g, k, :, p])
            share = share if scale == 1 else share.mul_(scale)
            total = share if total is None else total.add_(share)
        return total

    def spread(self, x: Tensor, channels: int, kept: tuple[Tensor | None, ...], zero: Tensor) -> Tensor:
        """x [n, g, c, p, *shape] back at its places in [n, G, channels, *positions, *shape], zero elsewhere."""
        n, groups, trailing = self.whole[0], self.whole[1], x.shape[4:]
        sizes = (groups, channels, math.prod(self.positions))
        if any(index is not None for index in kept):
            g, c, p = (torch.arange(m, device=x.device) if i is None else i for m, i in zip(sizes, kept, strict=True))
            full = zero.expand(n, *sizes, *trailing).clone()
            full[:, g[:, None, None], c[None, :, None], p[None, None, :]] = x
            x = full
        return x.reshape(n, groups, channels, *self.positions, *trailing)


def products(
    shares: Shares, r: Tensor, semiring: Semiring, samples: slice, skip_inactive: bool
) -> Iterator[tuple[Tap, Product]]:
    """The taps of some samples, without what has no relevance and, on demand, no activation."""
    parts = [(p.scale, p.alphas, p.omegas, p.divisor) for p in shares.parts]
    for tap in shares.layer.taps():
        whole = _product(tap, parts, samples, r, len(semiring.shape))
        product = _without_zeros(whole, semiring, skip_inactive)
        if product is not None:
            yield tap, product


def edges(shares: Shares) -> Iterator[tuple[int, Tensor, Tensor, Tensor]]:
    """Every connected pair of the first sample, tap by tap: (source, j, k, d_jk), the last three [m].

    j and k are flat indices of the source's input and of the output.
    """
    parts = [(p.scale, p.alphas, p.omegas, p.divisor) for p in shares.parts]
    layer, whole = shares.layer, slice(None)
    above = torch.arange(math.prod(layer.output[1:])).reshape(1, *layer.output[1:])
    for tap in layer.taps():
        inputs = layer.inputs[tap.source][1:]
        below = torch.arange(math.prod(inputs)).reshape(1, *inputs)
        product = _product(tap, parts, slice(0, 1))
        n, g, k, j, p = product.sizes
        at_j = tap.lower(below).expand(n, g, j, *product.positions).reshape(n, g, 1, j, p)
        at_k = tap.upper(above).expand(n, g, k, *product.positions).reshape(n, g, k, 1, p)
        d = product.d(whole, whole, whole, whole)
        yield tap.source, at_j.expand_as(d).flatten(), at_k.expand_as(d).flatten(), d.flatten()


def _product(tap: Tap, parts: list[tuple], samples: slice, r: Tensor | None = None, rank: int = 0) -> Product:
    views = [
        (
            scale,
            [tap.lower(pair[tap.source][samples]) for pair in alphas],
            [tap.weight(pair[tap.source]) for pair in omegas],
            None if z is None else tap.upper(z[samples]),
        )
        for scale, alphas, omegas, z in parts
    ]
    r = None if r is None else tap.upper(r[samples])
    _, (alpha, *_), (omega, *_), z = views[0]
    (n, g, j), k = alpha.shape[:3], omega.shape[2]
    upper = () if z is None else z.shape[3:]
    positions = torch.broadcast_shapes(alpha.shape[3:], omega.shape[4:], upper)
    p = math.prod(positions)

    def flat_weight(w: Tensor) -> Tensor:
        if all(size == 1 for size in w.shape[4:]):
            return w.reshape(w.shape[0], g, k, j, 1)
        return w.expand(w.shape[0], g, k, j, *positions).reshape(w.shape[0], g, k, j, p)

    flattened = [
        (
            scale,
            [x.expand(n, g, j, *positions).reshape(n, g, 1, j, p) for x in xs],
            [flat_weight(w) for w in ws],
            None if z is None else z.expand(n, g, k, *positions).reshape(n, g, k, 1, p),
        )
        for scale, xs, ws, z in views
    ]
    if r is not None:
        trailing = r.shape[r.ndim - rank :]
        r = r.expand(n, g, k, *positions, *trailing).reshape(n, g, k, 1, p, *trailing)
    return Product(flattened, r, (n, g, k, j, p), tuple(positions))


def _without_zeros(product: Product, semiring: Semiring | None, skip_inactive: bool) -> Product | None:
    """The product without the channels and positions that hold nothing but zeros; None if none is left."""
    n, g, k, j, p = product.sizes
    device = product.parts[0][1][0].device
    relevant = torch.ones(1, g, k, 1, p, dtype=torch.bool, device=device)
    if product.r is not None:
        relevant = ~semiring.is_zero(product.r)
    active = torch.ones(1, g, 1, j, p, dtype=torch.bool, device=device)
    if skip_inactive:
        active = sum(x.abs().amax(0, keepdim=True) for _, xs, _, _ in product.parts for x in xs) != 0
    keeps = (
        _any_over(relevant, 0, 2, 3, 4) & _any_over(active, 0, 2, 3, 4),
        _any_over(relevant, 0, 1, 3, 4),
        _any_over(active, 0, 1, 2, 4),
        _any_over(relevant, 0, 1, 2, 3) & _any_over(active, 0, 1, 2, 3),
    )
    at = [None if bool(keep.all()) else keep.nonzero()[:, 0] for keep in keeps]
    if any(index is not None and len(index) == 0 for index in at):
        return None

    def cut(x: Tensor | None) -> Tensor | None:
        for axis, index in enumerate(at, start=1):
            if x is not None and index is not None and x.shape[axis] > 1:
                x = x.index_select(axis, index)
        return x

    parts = [(scale, [cut(x) for x in xs], [cut(w) for w in ws], cut(z)) for scale, xs, ws, z in product.parts]
    return replace(product, parts=parts, r=cut(product.r), kept=(at[0], at[2], at[3]))


def _any_over(mask: Tensor, *axes: int) -> Tensor:
    return mask.view(torch.uint8).amax(axes) > 0


def tiles(
    sizes: tuple[int, int, int, int, int], edges: int
) -> Iterator[tuple[tuple[slice, slice, slice], list[slice]]]:
    """Cut [n, g, k, j, p] into blocks of at most ``edges`` pairs: ((g, j, p), the k of each block)."""
    n, g, k, j, p = sizes
    edges = max(1, edges // max(1, n))
    # Long rows of positions are what vector units like; some k at once make the ⊕ worth its call.
    size_p = min(p, max(512, edges // (g * j * k)), edges)
    size_j = min(j, max(1, edges // (size_p * min(k, 32))))
    size_k = min(k, max(1, edges // (size_p * size_j)))
    size_g = min(g, max(1, edges // (size_p * size_j * size_k)))
    at_k = _slices(k, size_k)
    for at_g in _slices(g, size_g):
        for at_p in _slices(p, size_p):
            for at_j in _slices(j, size_j):
                yield (at_g, at_j, at_p), at_k


def _slices(size: int, step: int) -> list[slice]:
    return [slice(start, min(start + step, size)) for start in range(0, size, step)]


def block_edges(memory: int, bytes_per_edge: int, device: torch.device) -> int:
    """How many pairs a block may have."""
    allowed = max(1, memory // bytes_per_edge)
    return min(allowed, CPU_BLOCK) if device.type == "cpu" else allowed


def sample_chunks(layer: Layer, edges: int) -> list[slice]:
    """Samples that share a block: several where the whole tap of one is smaller than a block."""
    samples = layer.output[0]
    if not samples:
        return []
    tap = next(layer.taps(), None)
    pairs = 1 if tap is None else _pairs(tap, layer)
    return _slices(samples, max(1, edges // pairs))


def _pairs(tap: Tap, layer: Layer) -> int:
    """How many connected pairs one sample has in a tap."""
    weight = tap.weight(layer.weights[tap.source])
    lower = tap.lower(layer.weights[0].new_zeros(()).expand(1, *layer.inputs[tap.source][1:]))
    upper = tap.upper(layer.weights[0].new_zeros(()).expand(1, *layer.output[1:]))
    return math.prod(weight.shape[1:4]) * math.prod(torch.broadcast_shapes(lower.shape[3:], upper.shape[3:]))
