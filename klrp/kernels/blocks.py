"""The shares of a layer in blocks [n, g, k, j, p] of bounded size: what the generic kernel computes with.

A tap is one dense product over groups g, upper neurons k, lower neurons j and positions p. A Product is a tap for some
samples n; ``tiles`` cuts it into blocks, of which one at a time is in memory:

                 k, upper neurons
              +---------+---------+       the pairs (j, k) of one sample, group and position; a block holds some
            j |  block  |         |       j and k of some samples, groups and positions, and
      lower   +---------+---------+       d = Σ over parts of c · Σ_t α_t(a_j) ω_t(w_jk) / (z_k ± ε)
    neurons   |         |         |       is one tensor for all of it
              +---------+---------+
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from klrp.network.layers import Layer, Shape, Tap
from klrp.semirings import Semiring
from klrp.shares import Shares

# Pairs in a block on a CPU: its temporaries, 1 MB of float32, then stay in the cache of one core. Measured on a
# convolution 256 -> 256 at 28 x 28 with 2 MB of L2: half as many pairs take 1.2 times as long, 7 MB 1.6 times.
CPU_BLOCK = 1 << 18
# Positions in a row of a block, measured there too: shorter rows leave vector units idle.
ROW = 512
# Upper neurons in a block: some at once make the ⊕ over them worth its call.
UPPER = 32


@dataclass(frozen=True, eq=False)
class Product:
    """One tap for some samples, its positions flattened: what is left of it when zeros are skipped.

    ``parts`` holds, for each part, its scale, α [n, g, 1, j, p] and ω [1 or n, g, k, j, p or 1] of each
    pair, and the denominator [n, g, k, 1, p] or None; ``r`` is [n, g, k, 1, p, *shape]. ``kept`` are the indices of the
    groups, upper and lower neurons and positions that remain, None for a whole axis; ``positions`` is the shape
    that the flat positions had.
    """

    parts: list[tuple[float, list[Tensor], list[Tensor], Tensor | None]]
    r: Tensor | None
    whole: tuple[int, int, int, int, int]
    positions: Shape
    kept: tuple[Tensor | None, ...] = (None,) * 4

    @property
    def sizes(self) -> tuple[int, int, int, int, int]:
        """How many n, g, k, j, p there are."""
        alpha, omega = self.parts[0][1][0], self.parts[0][2][0]
        return alpha.shape[0], alpha.shape[1], omega.shape[2], alpha.shape[3], alpha.shape[4]

    def d(self, g: slice, k: slice, j: slice, p: slice) -> Tensor:
        """The shares on a block [n, g, k, j, p]; without denominators, their numerators."""
        total = None
        for scale, alphas, omegas, denominator in self.parts:
            share = None
            for alpha, omega in zip(alphas, omegas, strict=True):
                term = alpha[:, g, :, j, p] * omega[:, g, k, j, p if omega.shape[4] > 1 else slice(None)]
                share = term if share is None else share.add_(term)
            share = share if denominator is None else share.div_(denominator[:, g, k, :, p])
            share = share if scale == 1 else share.mul_(scale)
            total = share if total is None else total.add_(share)
        return total

    def scatter(self, x: Tensor, channels: int, kept: tuple[Tensor | None, ...], zero: Tensor) -> Tensor:
        """x [n, g, c, p, *shape] back at its places in [n, G, channels, *positions, *shape], zero elsewhere."""
        n, groups, trailing = self.whole[0], self.whole[1], x.shape[4:]
        sizes = (groups, channels, math.prod(self.positions))
        if any(index is not None for index in kept):
            g, c, p = (torch.arange(m, device=x.device) if i is None else i for m, i in zip(sizes, kept, strict=True))
            full = zero.expand(n, *sizes, *trailing).clone()
            full[:, g[:, None, None], c[None, :, None], p[None, None, :]] = x
            x = full
        return x.reshape(n, groups, channels, *self.positions, *trailing)

    def placed(self, x: Tensor, zero: Tensor) -> Tensor:
        """x of pairs [n, g, k, j, p or 1, *shape] back at its places in [n, G, K, J, *positions or 1s, *shape]."""
        n, groups, upper, lower, positions = self.whole
        shared = x.shape[4] == 1
        kept = (*self.kept[:3], None if shared else self.kept[3])
        sizes = (groups, upper, lower, 1 if shared else positions)
        if any(index is not None for index in kept):
            g, k, j, p = (
                torch.arange(m, device=x.device) if i is None else i for m, i in zip(sizes, kept, strict=True)
            )
            full = zero.expand(n, *sizes, *x.shape[5:]).clone()
            full[:, g[:, None, None, None], k[:, None, None], j[:, None], p] = x
            x = full
        return x.reshape(n, *sizes[:3], *((1,) * len(self.positions) if shared else self.positions), *x.shape[5:])


def products(
    shares: Shares, r: Tensor, semiring: Semiring, samples: slice, skip_inactive: bool
) -> Iterator[tuple[Tap, Product]]:
    """The taps of some samples, without what has no relevance and, on demand, no activation."""
    parts = shares_by_part(shares)
    for tap in shares.layer.taps():
        whole = product_of(tap, parts, samples, r, len(semiring.shape))
        product = without_zeros(whole, semiring, skip_inactive)
        if product is not None:
            yield tap, product


def shares_by_part(shares: Shares) -> list[tuple]:
    """What ``product_of`` takes."""
    return [(p.scale, p.alphas, p.omegas, p.denominator) for p in shares.parts]


def product_of(
    tap: Tap,
    parts: Sequence[tuple[float, Sequence, Sequence, Tensor | None]],
    samples: slice,
    r: Tensor | None = None,
    rank: int = 0,
) -> Product:
    """The whole of a tap for some samples.

    ``parts`` are (scale, α for each pair and input, ω for each pair and input, denominator or None); the elements of
    ``r`` have ``rank`` axes.
    """
    views = [
        (
            scale,
            [tap.lower(pair[tap.source][samples]) for pair in alphas],
            [_of_samples(tap.weight(pair[tap.source]), samples) for pair in omegas],
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
    flattened = [
        (
            scale,
            [x.expand(n, g, j, *positions).reshape(n, g, 1, j, p) for x in xs],
            [_flat_weight(w, (g, k, j), positions) for w in ws],
            None if z is None else z.expand(n, g, k, *positions).reshape(n, g, k, 1, p),
        )
        for scale, xs, ws, z in views
    ]
    if r is not None:
        trailing = r.shape[r.ndim - rank :]
        r = r.expand(n, g, k, *positions, *trailing).reshape(n, g, k, 1, p, *trailing)
    return Product(flattened, r, (n, g, k, j, p), tuple(positions))


def _of_samples(weight: Tensor, samples: slice) -> Tensor:
    """The weights of some samples, where each has its own."""
    return weight[samples] if weight.shape[0] > 1 else weight


def _flat_weight(w: Tensor, sizes: tuple[int, int, int], positions: Shape) -> Tensor:
    """ω [1 or n, g, k, j, *positions] with its positions on one axis, of size 1 if they all share it."""
    if all(size == 1 for size in w.shape[4:]):
        return w.reshape(w.shape[0], *sizes, 1)
    return w.expand(w.shape[0], *sizes, *positions).reshape(w.shape[0], *sizes, math.prod(positions))


def without_zeros(product: Product, semiring: Semiring | None, skip_inactive: bool) -> Product | None:
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
    return replace(product, parts=parts, r=cut(product.r), kept=tuple(at))


def _any_over(mask: Tensor, *axes: int) -> Tensor:
    return mask.view(torch.uint8).amax(axes) > 0


def tiles(
    sizes: tuple[int, int, int, int, int], edges: int
) -> Iterator[tuple[tuple[slice, slice, slice], list[slice]]]:
    """Cut [n, g, k, j, p] into blocks of at most ``edges`` pairs: ((g, j, p), the k of each block)."""
    n, g, k, j, p = sizes
    edges = max(1, edges // max(1, n))
    size_p = min(p, max(ROW, edges // (g * j * k)), edges)
    size_j = min(j, max(1, edges // (size_p * min(k, UPPER))))
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
