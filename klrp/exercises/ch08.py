"""Checkers of chapter 8, convolutions as taps. Every reference visits one edge after another."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from klrp.exercises.checking import Check, NotYet, function, same, shown, unanswered, value

Pair = tuple[int, list[int], list[int]]  # an offset, the lower places and the upper ones


def as_kernel(W: Tensor, size: tuple[int, int, int]) -> Tensor:
    """Weight by weight: what lies on channel c, row i, column j of the picture is where `Flatten` puts that neuron."""
    C, rows, columns = size
    kernel = torch.zeros(len(W), C, rows, columns, dtype=W.dtype)
    for k, c, i, j in product(range(len(W)), range(C), range(rows), range(columns)):
        kernel[k, c, i, j] = W[k, (c * rows + i) * columns + j]
    return kernel


def linear_layers() -> Iterator[tuple[Tensor, tuple[int, int, int]]]:
    yield torch.arange(6.0).reshape(1, 6), (1, 2, 3)
    draw = torch.Generator().manual_seed(0)
    for size in ((1, 5, 7), (2, 3, 5), (3, 2, 7)):
        yield torch.randn(11, size[0] * size[1] * size[2], generator=draw), size


def back(s: Tensor, w: Tensor, padding: int) -> Tensor:
    """Edge by edge: what lies at k + u - padding gets w_u s_k."""
    n = len(w)
    rows, columns = (m + n - 1 - 2 * padding for m in s.shape)
    below = torch.zeros(rows, columns, dtype=s.dtype)
    for k, u in product(product(*map(range, s.shape)), product(range(n), range(n))):
        i, j = k[0] + u[0] - padding, k[1] + u[1] - padding
        if 0 <= i < rows and 0 <= j < columns:
            below[i, j] += w[u] * s[k]
    return below


def kernels_and_paddings() -> Iterator[tuple[Tensor, Tensor, int]]:
    yield torch.tensor([[1.0, 0.0, 0.0]] * 3), torch.arange(9.0).reshape(3, 3), 1
    draw = torch.Generator().manual_seed(1)
    for n, padding in ((3, 1), (3, 0), (5, 2), (5, 1), (4, 1), (2, 0)):
        yield torch.randn(5, 7, generator=draw), torch.randn(n, n, generator=draw), padding


def folded(w: Tensor, b: Tensor, kappa: Tensor, tau: Tensor) -> tuple[Tensor, Tensor]:
    """Weight by weight: the convolution of κ a + τ, channel by channel, as one of a."""
    weight, bias = w.clone(), b.clone()
    for k, c, i, j in product(*map(range, w.shape)):
        weight[k, c, i, j] = kappa[c] * w[k, c, i, j]
        bias[k] += tau[c] * w[k, c, i, j]
    return weight, bias


def normalised_in_front() -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    yield torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]]), torch.tensor([0.5]), torch.tensor([2.0]), torch.tensor([-1.0])
    draw = torch.Generator().manual_seed(2)
    for C in (2, 3):
        yield (
            torch.randn(5, C, 3, 2, generator=draw),
            torch.randn(5, generator=draw),
            torch.randn(C, generator=draw),
            torch.randn(C, generator=draw),
        )


def zplus_shares(conv: nn.Conv2d, a: Tensor, R: Tensor) -> Tensor:
    """The z⁺ step of one picture, [C, rows, columns] from R [K, rows, columns], edge by edge; no activation is negative."""
    stride, padding = conv.stride[0], int(conv.padding[0])  # the same in both directions
    below, w = torch.zeros_like(a), conv.weight.clamp_min(0)
    for k, y, x in product(*map(range, R.shape)):
        edges = [
            ((c, i, j), a[c, i, j] * w[k, c, u, v])
            for c, u, v in product(*map(range, w.shape[1:]))
            if 0 <= (i := stride * y + u - padding) < a.shape[1] and 0 <= (j := stride * x + v - padding) < a.shape[2]
        ]
        z = sum(m for _, m in edges) + (0.0 if conv.bias is None else conv.bias[k].clamp_min(0))
        for at, m in edges:
            below[at] += m / z * R[k, y, x] if z > 0 else 0.0
    return below


def convolutions() -> Iterator[tuple[str, nn.Conv2d, Tensor, Tensor]]:
    """What a message calls it, the convolution, an input with black pixels, and a relevance; some sums are 0."""
    from klrp.models.training import seeded

    settings = (1, 1, 2, 1, 0, False), (2, 3, 3, 1, 1, True), (3, 2, 2, 2, 0, True)
    for seed, (C, K, n, stride, padding, bias) in enumerate(settings):
        with seeded(seed):
            conv = nn.Conv2d(C, K, n, stride=stride, padding=padding, bias=bias).double().requires_grad_(False)
            a = torch.rand(1, C, 5, 7, dtype=torch.float64)
        a[..., 3:] = 0
        z = conv(a)
        yield f"nn.Conv2d({C}, {K}, {n}, stride={stride}, padding={padding}, bias={bias})", conv, a, z.abs() + 1


def repaired(answer: Any) -> str | None:
    """The checker of ex-08-debug: a z⁺ step that is right, and leaves the network as it is."""
    if not callable(answer):
        raise NotYet(f"A function is asked for; your answer is {shown(answer)}.")
    for name, conv, a, R in convolutions():
        before = copy.deepcopy(conv.state_dict())
        got = answer(conv, a.clone(), R.clone())
        if unanswered(got):
            return None
        changed = [key for key, was in before.items() if not torch.equal(conv.state_dict()[key], was)]
        if changed:
            raise NotYet(f"The step has changed the {' and the '.join(changed)} of {name}. A map must not do that.")
        conv.load_state_dict(before)
        right = zplus_shares(conv, a[0], R[0])[None]
        if not same(got, right, 1e-6):
            raise NotYet(f"For {name} and an input whose right half is black: {differ(got, right)}")
    return "on 3 convolutions"


def differ(got: Any, right: Tensor) -> str:
    if not isinstance(got, Tensor) or got.shape != right.shape:
        return f"a tensor {list(right.shape)} was expected, your function gave {shown(got)}."
    if got.isnan().any():
        return f"{int(got.isnan().sum())} of {got.numel()} pixels got nan."
    at = (got - right).abs().flatten().argmax()
    where = [int(i) for i in torch.unravel_index(at, right.shape)]
    return f"pixel {where} should get {right.flatten()[at]:.4g}, your function gave {got.flatten()[at]:.4g}."


def upsampled(a: Tensor, w: Tensor, R: Tensor, stride: int, padding: int) -> Tensor:
    """Edge by edge: place j feeds place k = stride j + u - padding; the strongest contribution to each k has the share 1."""
    edges = [
        (j, k, float((a[j] * w[u]).abs()))
        for j, u in product(range(len(a)), range(len(w)))
        if 0 <= (k := stride * j + u - padding) < len(R)
    ]
    top = {k: max(m for _, upper, m in edges if upper == k) for _, k, _ in edges}
    below = torch.zeros_like(a)
    for j, k, m in edges:
        below[j] = max(float(below[j]), m / top[k] * float(R[k]) if top[k] > 0 else 0.0)
    return below


def transposed() -> Iterator[tuple[Tensor, Tensor, Tensor, int, int]]:
    yield torch.tensor([1.0, 2.0]), torch.tensor([3.0, -1.0, 1.0]), torch.tensor([1.0, 0.5, 0.25, 0.125, 0.0]), 2, 0
    draw = torch.Generator().manual_seed(3)
    for n, kernel, stride, padding in ((7, 3, 2, 1), (5, 4, 2, 1), (5, 2, 3, 0), (7, 3, 1, 1)):
        m = stride * (n - 1) + kernel - 2 * padding
        a = torch.randn(n, generator=draw).relu()
        yield a, torch.randn(kernel, generator=draw), torch.rand(m, generator=draw), stride, padding


CHECKS: dict[str, Check] = {
    "ex-08-edges": value(
        [121, 400],
        hints=[
            ([144, 576], "That counts the windows whole. Some of them stick out of the picture."),
            ([121, 484], "The first one is right. With dilation 2 the offsets are −2, 0 and 2."),
            ([11, 20], "Along one axis that is right. Now two axes."),
        ],
    ),
    "ex-08-two": value(
        [3, 6, 9, 6, 3],
        hints=[
            ([1, 2, 3, 2, 1], "These are the numbers along one axis. How many ways are there for the rows?"),
            ([9, 9, 9, 9, 9], "The pixels at the side are met by fewer pairs of offsets."),
            ([5, 5, 5, 5, 5], "Count pairs of offsets, one for each of the two kernels."),
        ],
    ),
    "ex-08-linear": function(as_kernel, linear_layers),
    "ex-08-debug": repaired,
    "ex-08-before": function(folded, normalised_in_front, within=1e-5),
    "ex-08-flip": function(back, kernels_and_paddings, within=1e-5),
    "ex-08-transposed": function(upsampled, transposed, within=1e-5),
}
