"""The generic kernel: any semiring, any Θ, any layer, in blocks of bounded memory. It is the reference of the others.

For each tap, and as many samples at once as fit into a block:

    block of shares d [n, g, k, j, p]  ->  Θ(d)  ->  Θ(d) ⊗ R_k  ->  ⊕ over k  ->  joined to R_j [n, g, j, p]

Channels and positions without relevance, or without activation where that means a share of 0, never enter a block.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from klrp.conversions import Conversion, of_samples
from klrp.errors import KlrpError
from klrp.kernels import Task, blocks
from klrp.kernels.blocks import Product, block_edges, product_of, sample_chunks, tiles
from klrp.network.layers import fold
from klrp.semirings import Semiring
from klrp.shares import PartShares, Shares

NAME = "blocked"


def why_not(task: Task) -> str:
    """It takes everything."""
    return ""


def contract(task: Task, r: Tensor) -> list[Tensor]:
    """R_j [N, *input, *shape] for each input of the layer, from R_k [N, *output, *shape].

    The temporaries of a block take at most ``memory`` bytes, as long as one of a single pair fits; maps
    and weights, and what the rule makes of them, come on top.
    """
    layer, shares, semiring = task.layer, task.shares, task.semiring
    example = shares.parts[0].denominator
    results = [semiring.full(shape, "zero", r) for shape in layer.inputs]
    zero = semiring.full((), "zero", r)
    edges = _edges(task, r)
    skip = shares.vanishes_at_zero and _zero_gives_zero(task.theta, semiring, example)
    for samples in sample_chunks(layer, edges):
        theta = of_samples(task.theta, samples)
        for tap, product in blocks.products(shares, r, semiring, samples, skip):
            below = _below(product, theta, semiring, edges)
            lower = tap.lower(results[tap.source][samples])
            at_g, _, at_j, at_p = product.kept
            below = product.scatter(below, lower.shape[2], (at_g, at_j, at_p), zero)
            below = fold(below, lower.shape[: lower.ndim - zero.ndim], semiring.sum)
            lower.copy_(semiring.plus(lower, below))
    return results


def by_weight(task: Task, r: Tensor) -> Tensor:
    """Θ(d_jk) ⊗ R_k [N, *weight, *shape], the ⊕ of it where a weight connects several pairs.

    Each weight belongs to one tap. Where weights depend on the sample, *weight is that of one.
    """
    layer, semiring, edges = task.layer, task.semiring, _edges(task, r)
    zero, samples_first = semiring.full((), "zero", r), layer.weights_have_samples
    shape = (1, *layer.weights[0].shape[1:]) if samples_first else tuple(layer.weights[0].shape)
    result = semiring.full((layer.output[0], *shape), "zero", r)
    # The numbers of an element in front: taps view weights, not weights of elements.
    numbers = result.reshape(len(result), *shape, zero.numel()).movedim(-1, 1).contiguous()
    skip = task.shares.vanishes_at_zero and _zero_gives_zero(task.theta, semiring, task.shares.parts[0].denominator)
    for samples in sample_chunks(layer, edges):
        theta = of_samples(task.theta, samples)
        for tap, product in blocks.products(task.shares, r, semiring, samples, skip):
            views = [[tap.weight(of_one) for of_one in of_sample] for of_sample in numbers[samples]]
            size = views[0][0].shape[1:]
            found = _by_pair(product, theta, semiring, edges, shared=math.prod(size[3:]) == 1)
            found = fold(product.placed(found, zero), (len(views), *size), semiring.sum)
            for view, of_sample in zip(views, found.reshape(len(views), *size, zero.numel()), strict=True):
                for to, of_one in zip(view, of_sample.unbind(-1), strict=True):
                    to[0].copy_(of_one)
    result = numbers.movedim(1, -1).reshape(result.shape)
    return result.squeeze(1) if samples_first else result


def _by_pair(product: Product, theta: Conversion, semiring: Semiring, edges: int, shared: bool) -> Tensor:
    """Θ(d_jk) ⊗ R_k over one product [n, g, k, j, p, *shape]; with ``shared`` the ⊕ of it over p [n, g, k, j, 1, *shape]."""
    n, g, k, j, p = product.sizes
    found = semiring.full((n, g, k, j, 1 if shared else p), "zero", product.r)
    for (at_g, at_j, at_p), at_ks in tiles(product.sizes, edges):
        for at_k in at_ks:
            elements = _elements(product.d(at_g, at_k, at_j, at_p), theta, semiring)
            passed = semiring.mul(elements, product.r[:, at_g, at_k, :, at_p])
            target = found[:, at_g, at_k, at_j, slice(1) if shared else at_p]
            target.copy_(semiring.plus(target, semiring.sum(passed, 4).unsqueeze(4)) if shared else passed)
    return found


def thresholds(task: Task, r: Tensor) -> Tensor:
    """What an automatic Θ finds for each sample [N], from the shares into relevant neurons."""
    example, edges = task.shares.parts[0].denominator, _edges(task, r, 16)
    found = [
        task.theta.fit(
            lambda samples=samples: _stream(task, r, samples, edges), samples.stop - samples.start, example.dtype
        )
        for samples in sample_chunks(task.layer, edges)
    ]
    return torch.cat(found) if found else torch.zeros(0, dtype=torch.float64)


def largest(part: PartShares, memory: int) -> Tensor:
    """max_j Σ_t α_t(a_j) ω_t(w_jk) over the connected pairs [N, *output], for terms from 0 up."""
    layer, alphas, omegas = part.layer, part.alphas, part.omegas
    z = alphas[0][0].new_zeros(layer.output)
    edges = block_edges(memory, 4 * z.element_size(), z.device)
    for samples in sample_chunks(layer, edges):
        for tap in layer.taps():
            product = blocks.without_zeros(product_of(tap, [(1.0, alphas, omegas, None)], samples), None, True)
            if product is None:
                continue
            n, g, k, _, p = product.sizes
            best = z.new_zeros(n, g, k, p)
            for (at_g, at_j, at_p), at_ks in tiles(product.sizes, edges):
                for at_k in at_ks:
                    target = best[:, at_g, at_k, at_p]
                    torch.maximum(target, product.d(at_g, at_k, at_j, at_p).amax(3), out=target)
            upper = tap.upper(z[samples])
            at_g, _, _, at_p = product.kept
            found = product.scatter(best, k, (at_g, None, at_p), z.new_zeros(()))
            torch.maximum(upper, fold(found, upper.shape, torch.amax), out=upper)
    return z


def edges(shares: Shares) -> Iterator[tuple[int, Tensor, Tensor, Tensor]]:
    """Every connected pair of the first sample, tap by tap: (source, j, k, d_jk), the last three [m].

    j and k are flat indices of the source's input and of the output.
    """
    layer, whole = shares.layer, slice(None)
    above = torch.arange(math.prod(layer.output[1:])).reshape(1, *layer.output[1:])
    for tap in layer.taps():
        inputs = layer.inputs[tap.source][1:]
        below = torch.arange(math.prod(inputs)).reshape(1, *inputs)
        product = product_of(tap, blocks.shares_by_part(shares), slice(0, 1))
        n, g, k, j, p = product.sizes
        at_j = tap.lower(below).expand(n, g, j, *product.positions).reshape(n, g, 1, j, p)
        at_k = tap.upper(above).expand(n, g, k, *product.positions).reshape(n, g, k, 1, p)
        d = product.d(whole, whole, whole, whole)
        yield tap.source, at_j.expand_as(d).flatten(), at_k.expand_as(d).flatten(), d.flatten()


def column(
    shares: Shares, number: int, j: int, largest: Callable[[PartShares, Tensor], Tensor]
) -> Iterator[tuple[Tensor, Tensor]]:
    """The shares of one lower neuron, tap by tap: (k, d_jk), both [m].

    j is the flat index of a neuron of the layer's input ``number``, k that of its output, over all samples. ``largest``
    gives the denominators of a rule that divides by a maximum, where a mask [N, *output] wants them.
    """
    layer, everything = shares.layer, slice(None)
    blank = torch.empty(layer.inputs[number], dtype=torch.bool)
    upper = torch.arange(math.prod(layer.output)).reshape(layer.output)
    found = [(t, at) for t in layer.taps() if t.source == number for at in _places(t.lower(blank), j)]
    wanted = torch.zeros(layer.output, dtype=torch.bool)
    for tap, (n, g, _, *place) in found:
        _placed(tap.upper(wanted), n, (g, everything), place).fill_(True)
    parts = shares.parts
    if shares.rule.normaliser == "max":
        parts = tuple(replace(part, known=largest(part, wanted)) for part in parts)
    for tap, (n, g, at_j, *place) in found:
        k, d = _placed(tap.upper(upper), n, (g, everything), place), torch.zeros(())
        for part in parts:
            share = sum(
                _placed(tap.lower(alpha[number]), n, (g, at_j), place)
                * omega(_placed(tap.weight(layer.weights[number]), n, (g, everything, at_j), place))
                for alpha, (_, omega) in zip(part.alphas, part.pairs, strict=True)
            )
            d = d + share / _placed(tap.upper(part.denominator), n, (g, everything), place) * part.scale
        k, d = torch.broadcast_tensors(k, d)
        yield k.flatten(), d.flatten()


def _places(view: Tensor, j: int) -> list[list[int]]:
    """Where a tap's view of a contiguous tensor has the number j of it: nowhere, or at one place for each repetition.

    A view made of slices and axes in another order has strides each of which is larger than all that the smaller ones
    can add up to, so that they are taken off one by one.
    """
    rest, at = j - view.storage_offset(), [0] * view.ndim
    for axis in sorted((a for a, n in enumerate(view.shape) if n > 1), key=view.stride, reverse=True):
        at[axis], rest = divmod(rest, view.stride(axis))
        if not 0 <= at[axis] < view.shape[axis]:
            return []
    return [at] if rest == 0 else []


def _placed(view: Tensor, n: int, at: tuple, place: list[int]) -> Tensor:
    """A tap's view of one sample, at a group and its channels, and at a place along those axes that it has."""
    positions = [p if size > 1 else 0 for p, size in zip(place, view.shape[1 + len(at) :], strict=True)]
    return view[(n if len(view) > 1 else 0, *at, *positions)]


def _edges(task: Task, r: Tensor, temporaries: int = 4) -> int:
    """How many pairs a block may have, where so many temporaries of it live at once."""
    example, numbers = task.shares.parts[0].denominator, math.prod(task.semiring.shape)
    return block_edges(task.memory, temporaries * max(example.element_size(), r.element_size() * numbers), r.device)


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


def _stream(task: Task, r: Tensor, samples: slice, edges: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The shares into relevant neurons, zeros left out, in blocks with the mask that says which are."""
    semiring = task.semiring
    for _, product in blocks.products(task.shares, r, semiring, samples, task.shares.vanishes_at_zero):
        for (at_g, at_j, at_p), at_ks in tiles(product.sizes, edges):
            for at_k in at_ks:
                d = product.d(at_g, at_k, at_j, at_p)
                relevant = ~semiring.is_zero(product.r[:, at_g, at_k, :, at_p])
                yield d, relevant.expand_as(d)


def _zero_gives_zero(theta: Conversion, semiring: Semiring, like: Tensor) -> bool:
    """Whether Θ(0) is zero, so that pairs with the share 0 may be skipped."""
    samples = len(theta.form[1]) if isinstance(theta.form[1], Tensor) else 1
    try:
        elements = _elements(like.new_zeros(samples, 1, 1, 1, 1), theta, semiring)
    except KlrpError:  # not made for 0: then 0 may not be skipped, and is an error where it occurs
        return False
    return bool(semiring.is_zero(elements).all())
