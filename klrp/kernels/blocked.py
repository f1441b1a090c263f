"""The generic kernel: any semiring, any Θ, any layer, in blocks of bounded memory.

It is the reference of the others. A block [n, g, k, j, p] of shares goes through Θ, is multiplied with
R_k and added up over k; channels and positions without relevance or activation never enter one.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from klrp.conversions import Conversion, at_least
from klrp.errors import KlrpError
from klrp.network.layers import fold
from klrp.semirings import Semiring
from klrp.shares import Product, Shares, block_edges, products, sample_chunks, tiles


def contract(shares: Shares, r: Tensor, theta: Conversion, semiring: Semiring, memory: int) -> list[Tensor]:
    """R_j [N, *input, *shape] for each input of the layer, from R_k [N, *output, *shape].

    The temporaries of a block take at most ``memory`` bytes, as long as one of a single pair fits; maps
    and weights, and what the rule makes of them, come on top.
    """
    layer, example = shares.layer, shares.parts[0].z
    results = [semiring.full(shape, "zero", r) for shape in layer.inputs]
    zero = semiring.full((), "zero", r)
    bytes_per_edge = 4 * max(example.element_size(), r.element_size() * zero.numel())
    edges = block_edges(memory, bytes_per_edge * (4 if theta.fit else 1), r.device)
    skip = shares.zero_to_zero and _zero_gives_zero(theta, semiring, example)
    for samples in sample_chunks(layer, edges):
        chosen = theta
        if theta.fit:
            found = theta.fit(
                lambda samples=samples: _stream(shares, r, semiring, samples, edges),
                samples.stop - samples.start,
                example.dtype,
            )
            chosen = at_least(found)
        for tap, product in products(shares, r, semiring, samples, skip):
            below = _below(product, chosen, semiring, edges)
            lower = tap.lower(results[tap.source][samples])
            below = product.spread(below, lower.shape[2], product.kept, zero)
            below = fold(below, lower.shape[: lower.ndim - zero.ndim], semiring.sum)
            lower.copy_(semiring.plus(lower, below))
    return results


def _below(product: Product, theta: Conversion, semiring: Semiring, edges: int) -> Tensor:
    """⊕_k Θ(d_jk) ⊗ R_k over one product [n, g, j, p, *shape]."""
    n, g, _, j, p = product.sizes
    below = semiring.full((n, g, j, p), "zero", product.r)
    for (at_g, at_j, at_p), at_ks in tiles(product.sizes, edges):
        for at_k in at_ks:
            elements = _elements(product.d(at_g, at_k, at_j, at_p), theta, semiring)
            added = semiring.sum(semiring.mul(elements, product.r[:, at_g, at_k, :, at_p]), 2)
            target = below[:, at_g, at_j, at_p]
            target.copy_(added if at_k.start == 0 else semiring.plus(target, added))
    return below


def _elements(d: Tensor, theta: Conversion, semiring: Semiring) -> Tensor:
    """Θ(d), if it is one element of the semiring for each share."""
    elements, expected = theta(d, semiring), (*d.shape, *semiring.shape)
    if theta.safe:
        return elements
    if not isinstance(elements, Tensor) or tuple(elements.shape) != expected:
        found = tuple(elements.shape) if isinstance(elements, Tensor) else type(elements).__name__
        raise KlrpError.value(
            f"theta: for shares {tuple(d.shape)} it gave {found}; expected {expected}, one element of "
            f"{semiring.name} for each share. Make it elementwise, with semiring.shape as the last axes."
        )
    return semiring.admit(elements)


def _stream(
    shares: Shares, r: Tensor, semiring: Semiring, samples: slice, edges: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """The shares into relevant neurons, zeros left out, in blocks with the mask that says which are."""
    for _, product in products(shares, r, semiring, samples, shares.zero_to_zero):
        for (at_g, at_j, at_p), at_ks in tiles(product.sizes, edges):
            for at_k in at_ks:
                d = product.d(at_g, at_k, at_j, at_p)
                relevant = ~semiring.is_zero(product.r[:, at_g, at_k, :, at_p])
                yield d, relevant.expand_as(d)


def _zero_gives_zero(theta: Conversion, semiring: Semiring, like: Tensor) -> bool:
    """Whether Θ(0) is zero, so that pairs with the share 0 may be skipped."""
    if theta.fit:
        return True
    try:
        elements = _elements(like.new_zeros(1, 1, 1, 1, 1), theta, semiring)
    except KlrpError:  # not made for 0: then 0 may not be skipped, and is an error where it occurs
        return False
    return bool(semiring.is_zero(elements).all())
