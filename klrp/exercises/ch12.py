"""Checkers of chapter 12, speed."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from klrp.exercises.checking import Check, NotYet, function, numeric, shown, value


def stays_inside(answer: Any) -> str:
    """The checker of ex-12-fuzzy: numbers for which a_j may not leave the loop of the fuzzy semiring."""
    told = "A number a and two lists of the same length, w and R, are asked for"
    if not isinstance(answer, tuple | list) or len(answer) != 3:
        raise NotYet(f"{told}; your answer is {shown(answer)}.")
    if not all(isinstance(v, Tensor) or numeric([v]) for v in answer):
        raise NotYet(f"{told}; your answer is {shown(answer)}.")
    a, w, R = (torch.as_tensor(v).double().flatten() for v in answer)
    if len(a) != 1 or len(w) != len(R) or not len(w):
        raise NotYet(f"{told}; your answer is {shown(answer)}.")
    if not all(bool(((v >= 0) & (v <= 1)).all()) for v in (a, w, R)):
        raise NotYet("All numbers must lie between 0 and 1.")
    true = float(torch.minimum(a * w, R).amax())
    inner = torch.minimum(w, R).amax()
    for name, out in (
        ("a · max min(w, R)", float(a * inner)),
        ("min(a, max min(w, R))", float(torch.minimum(a, inner))),
    ):
        if math.isclose(true, out, abs_tol=1e-6):
            raise NotYet(f"For your numbers max min(a w, R) = {true:.4g}, and so is {name}. Both must differ from it.")
    return ""


def edge_by_edge(a: Tensor, w: Tensor, z: Tensor, R: Tensor, theta: float) -> tuple[Tensor, Tensor]:
    """The sum of R_k over the shares of at least θ, and how many k a neuron visits before the bound ends its walk."""
    top = float(w.abs().max())
    keys = {k: abs(1 / float(z[k])) for k in range(len(z)) if float(R[k]) != 0}
    sums, visited = torch.zeros_like(a), torch.zeros_like(a)
    for j in range(len(a)):
        for k in sorted(keys, key=lambda k: -keys[k]) if float(a[j]) > 0 else ():
            if keys[k] * top < theta / float(a[j]):
                break
            visited[j] += 1
            sums[j] += R[k] if float(w[j, k] / z[k]) >= theta / float(a[j]) else 0
    return sums, visited


def counted() -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor, float]]:
    small = [[1.0, 0.0, 2.0], [[1.0, -3.0, 2.0], [1.0, 1.0, 1.0], [1.0, 2.0, 0.5]], [8.0, -2.0, 40.0], [2.0, 5.0, 1.0]]
    yield *(torch.tensor(v, dtype=torch.float64) for v in small), 0.2
    draw = torch.Generator().manual_seed(0)
    for _ in range(10):
        a, z = torch.randn(7, generator=draw).relu(), torch.randn(11, generator=draw)
        R = torch.randint(0, 4, (11,), generator=draw)
        yield a.double(), torch.randn(7, 11, generator=draw).double(), z.double(), R.double(), 0.8


def in_order(a: Tensor, w: Tensor, s: Tensor, order: Tensor) -> tuple[Tensor, int]:
    """The largest w s of each active j, and the edges visited: the bound is the largest key from here on, times W."""
    top, total, found = float(w.max()), 0, torch.zeros_like(a)
    for j in range(len(a)):
        for n in range(len(order)):
            bound = max(float(s[k]) for k in order[n:]) * top
            if float(a[j]) == 0 or bound <= float(found[j]):
                break
            total += 1
            found[j] = max(found[j], w[j, order[n]] * s[order[n]])
    return found, total


def keyed() -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Activations [J], sizes of weights [J, K] and keys [K], some of them 0."""
    small = [1.0, 0.0, 2.0], [[0.1, 0.9, 0.5], [1.0, 1.0, 1.0], [1.0, 0.3, 1.0]], [0.5, 0.4, 0.9]
    yield tuple(torch.tensor(v, dtype=torch.float64) for v in small)
    draw = torch.Generator().manual_seed(0)
    for _ in range(10):
        w = torch.rand(7, 23, generator=draw)
        s = (torch.randn(23, generator=draw) - 0.5).exp() * (torch.rand(23, generator=draw) < 0.8)
        yield torch.randn(7, generator=draw).relu().double(), w.double(), s.double()


def shuffles() -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    draw = torch.Generator().manual_seed(1)
    for n, (a, w, s) in enumerate(keyed()):
        order = torch.randperm(len(s), generator=draw) if n else torch.tensor([0, 1, 2])
        yield a, w, s, order


def by_octaves(a: Tensor, w: Tensor, s: Tensor) -> tuple[Tensor, int]:
    """The largest w s of each active j, and the edges visited: keys in half octaves, whose upper ends are in the bound."""
    top, total, found = float(w.max()), 0, torch.zeros_like(a)
    octaves = {k: math.floor(2 * math.log2(float(s[k]))) for k in range(len(s)) if float(s[k]) > 0}
    for j in range(len(a)):
        for k in sorted(octaves, key=lambda k: -octaves[k]):
            if float(a[j]) == 0 or 2 ** ((octaves[k] + 1) / 2) * top <= float(found[j]):
                break
            total += 1
            found[j] = max(found[j], w[j, k] * s[k])
    return found, total


def far_from_theta(a: Tensor, w: Tensor, z: Tensor, theta: float) -> list[float]:
    """For the float32 triples that the two conditions decide differently: |d / θ − 1|, with d in double precision."""
    found = []
    for one in zip(a, w, z, strict=True):
        if bool(one[0] * one[1] / one[2] >= theta) != bool(one[1] / one[2] >= theta / one[0]):
            x, y, t = (float(v) for v in one)
            found.append(abs(x * y / t / theta - 1))
    return found


def on_the_edge(n: int, seed: int) -> tuple[Tensor, Tensor, Tensor, float]:
    """Triples in float32 whose share is 0.01 to within a millionth."""
    draw = torch.Generator().manual_seed(seed)
    a, z, t = torch.rand(3, n, generator=draw) + 0.5
    return a, 0.01 * z / a * (1 + 1e-6 * (t - 1)), z, 0.01


def triples() -> Iterator[tuple[Tensor, Tensor, Tensor, float]]:
    a, w, z, theta = on_the_edge(2000, 0)
    odd = (a * w / z >= theta) != (w / z >= theta / a)
    few = torch.cat([odd.nonzero()[:2, 0], (~odd).nonzero()[:1, 0]])  # two that differ, and one that does not
    yield a[few], w[few], z[few], theta
    yield from (on_the_edge(n, n) for n in (101, 211, 307))


CHECKS: dict[str, Check] = {
    "ex-12-walk": value(
        [0.45, 2],
        within=1e-9,
        hints=[
            ([0.45, 3], "The third entry can bring no more than 0.4 · 1."),
            ([0.36, 1], "The second entry may still bring 0.5 · 1."),
            ([0.4, 3], "Take the largest product of a weight and a key."),
        ],
    ),
    "ex-12-fuzzy": stays_inside,
    "ex-12-count": function(edge_by_edge, counted, within=1e-9),
    "ex-12-order": function(in_order, shuffles, within=1e-9),
    "ex-12-octaves": function(by_octaves, keyed, within=1e-9),
    "ex-12-ties": function(far_from_theta, triples, within=1e-12),
}
