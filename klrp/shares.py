"""The shares d_jk of one layer under one rule, lazily: z, the stabiliser ε and the denominator of each part."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from klrp.network.layers import Layer, Read
from klrp.rules import Map, Part, Rule, same

# Of products with a sign the largest is that of their sizes.
_PLAIN, _SIZES = ((same, same),), ((torch.abs, torch.abs),)


@dataclass(frozen=True, eq=False)
class PartShares:
    """One part of a rule on one layer: α_t(a) and ω_t(w) for each pair and input, and the denominator.

    ``pairs`` are those that have activations. What is not asked for is never computed: a kernel that
    needs no z does without. ``largest`` gives max_j Σ_t α_t(a_j) ω_t(w_jk) [N, *output], which is a contraction of
    its own, to the rules that divide by it.
    """

    layer: Layer
    rule: Rule
    part: Part
    pairs: tuple[tuple[Map, Map], ...]
    reads: tuple[Read, ...]
    value: Tensor | None
    largest: Callable[[PartShares], Tensor]
    known: Tensor | None = None  # z, where it is not to be computed from the pairs

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
    def z(self) -> Tensor:
        """z [N, *output], to which the stabiliser is still to be added."""
        return self._z()

    def contributions(self) -> Tensor:
        """Σ_j Σ_t α_t(a_j) ω_t(w_jk) [N, *output]: z without the bias."""
        total = None
        for alpha, omega in self.pairs:
            term = self.layer.linear([alpha(read.activations) for read in self.reads], omega)
            total = term if total is None else total.add_(term)
        return total

    @cached_property
    def stabilised(self) -> Tensor:
        """z ± ε [N, *output]."""
        return self.rule.stabilise(self.z)

    @cached_property
    def denominator(self) -> Tensor:
        """z ± ε with ∞ in the place of 0, so that every share into such a neuron is 0; what is too small for
        a normal float counts as 0."""
        return self._without_zeros(self.stabilised)

    def quotient(self, r: Tensor) -> Tensor:
        """c · R_k / (z_k ± ε) [N, *output], and 0 where that is 0; nothing is kept."""
        z = self._without_zeros(self.rule.stabilise(self._z()))
        s = torch.div(r, z, out=z if z.dtype == r.dtype else None)
        return s if self.scale == 1 else s.mul_(self.scale)

    def _z(self) -> Tensor:
        if self.known is not None:
            return self.known
        if self.rule.normaliser == "max":
            return self.largest(self if self.pairs != _PLAIN else replace(self, pairs=_SIZES))
        if self.rule.normaliser == "norm":
            xs, omega, tops = self.powers(torch.float64)
            z = root_(self.layer.linear(xs, omega), self.rule.power) * tops.reshape(
                -1, *(1,) * (len(self.layer.output) - 1)
            )
            return z.to(self.reads[0].value.dtype)
        if self.value is not None and self.part.equals_forward and self.layer.computes_forward:
            return self.value
        z = self.contributions()
        return z if self.bias is None else z.add_(self.bias)

    def _without_zeros(self, z: Tensor) -> Tensor:
        if self.rule.eps >= torch.finfo(z.dtype).tiny:  # the stabiliser keeps z from 0
            return z
        return torch.where(z.abs() < torch.finfo(z.dtype).tiny, torch.inf, z)

    def powers(self, dtype: torch.dtype) -> tuple[list[Tensor], Map, Tensor]:
        """(|a| / a*)^p of each input, w ↦ (|w| / w*)^p, and a* w* [N], where a* [N] and w* are the largest."""
        p, samples = self.rule.power, len(self.reads[0].value)
        sizes = [read.activations.abs().to(dtype) for read in self.reads]
        largest = torch.stack([a.flatten(1).amax(1) if a.numel() else a.new_zeros(samples) for a in sizes]).amax(0)
        weight = max(float(w.abs().amax()) for w in self.layer.weights if w.numel()) or 1.0
        tops = torch.where(largest > 0, largest, 1)
        xs = [power_(a.div_(tops.reshape(-1, *(1,) * (a.ndim - 1))), p) for a in sizes]
        return xs, lambda w: power_(w.abs().to(dtype).div_(weight), p), tops * weight

    def single(self, outer: Map = same) -> tuple[tuple[Read, ...], Map]:
        """What is read as α(a) of each input, and ω, where there is one pair, for a kernel that applies ``outer``
        itself: maps that are nothing but that are left out."""
        ((alpha, omega),), applied = self.pairs, (same, outer)
        reads = self.reads if alpha in applied else tuple(Read(alpha(read.activations)) for read in self.reads)
        return reads, same if omega in applied else omega


def power_(x: Tensor, p: float) -> Tensor:
    """x^p in place, by squares where p is even: they take a tenth of the time."""
    while p % 2 == 0:
        x, p = x.square_(), p / 2
    return x if p == 1 else x.pow_(p)


def root_(x: Tensor, p: float) -> Tensor:
    """x^(1/p) in place."""
    while p % 2 == 0:
        x, p = x.sqrt_(), p / 2
    return x if p == 1 else x.pow_(1 / p)


@dataclass(frozen=True, eq=False)
class Shares:
    """d_jk of a layer: Σ over parts of scale · Σ_t α_t(a_j) ω_t(w_jk) / (z_k ± ε).

    Every kernel that forms a share rounds in this order: the sum over t, the division, the scale, the sum
    over parts.
    """

    layer: Layer
    rule: Rule
    parts: tuple[PartShares, ...]

    @property
    def vanishes_at_zero(self) -> bool:
        """Whether a neuron with activation 0 has the share 0 everywhere."""
        return all(part.part.vanishes_at_zero for part in self.parts)


def shares_of(
    layer: Layer,
    rule: Rule,
    reads: Sequence[Read],
    largest: Callable[[PartShares], Tensor],
    value: Tensor | None = None,
) -> Shares:
    """The shares of ``layer`` under ``rule`` for what it reads; klrp.kernels.task_for supplies ``largest``.

    ``value`` [N, *output] is what the layer computed, if that is known. Half precision is computed in float32: 1e-9,
    the usual ε and θ, is 0 in float16.
    """
    if reads[0].value.dtype in (torch.float16, torch.bfloat16):
        reads = [read._replace(value=read.value.float()) for read in reads]
        bias = None if layer.bias is None else layer.bias.float()
        layer = replace(layer, weights=tuple(w.float() for w in layer.weights), bias=bias)
        value = None
    parts = (
        PartShares(layer, rule, part, active_pairs(part, reads), tuple(reads), value, largest) for part in rule.parts
    )
    return Shares(layer, rule, tuple(parts))


def active_pairs(part: Part, reads: Sequence[Read]) -> tuple[tuple[Map, Map], ...]:
    """The pairs with an activation: behind a ReLU z⁺ is one product, not two."""
    if len(part.pairs) == 1:
        return part.pairs
    activations = [read.activations for read in reads]
    active = (pair for pair in part.pairs if any(bool(pair[0](a).any()) for a in activations))
    return tuple(active) or part.pairs[:1]
