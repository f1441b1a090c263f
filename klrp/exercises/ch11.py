"""Checkers of chapter 11, networks that are no chains."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from klrp.exercises.checking import Check, NotYet, function, same, shown, value

Numbers = tuple[Tensor, Tensor, float, float]
NOWHERE = [math.inf, -math.inf]  # the shortest and the longest of no paths


def both_ways(a: Tensor, w: Tensor, g: float, t: float) -> tuple[Tensor, Tensor]:
    """Under z⁺, neuron by neuron: the shares in g (a · w) + t as one layer, and the products of two shares."""
    c = sum(float(a[j] * w[j]) for j in range(len(a)))
    plus = lambda number: max(0.0, float(number))  # noqa: E731
    once = [plus(a[j] * w[j] * g) for j in range(len(a))]
    below = [plus(a[j] * w[j]) for j in range(len(a))]
    z, upper = sum(once) + plus(t), plus(g * c) + plus(t)
    folded = [m / z if z > 0 else 0.0 for m in once]
    apart = [m / sum(below) * plus(g * c) / upper if sum(below) > 0 and upper > 0 else 0.0 for m in below]
    return torch.tensor(folded), torch.tensor(apart)


def normalised() -> Iterator[Numbers]:
    """One with a positive shift, one with a negative scale, one in which the sum is 0; then random ones."""
    yield torch.tensor([1.0, 2.0]), torch.tensor([3.0, -1.0]), 2.0, 1.0
    yield torch.tensor([1.0, 2.0]), torch.tensor([3.0, -2.0]), -2.0, 0.5
    yield torch.tensor([1.0, 1.0]), torch.tensor([1.0, -1.0]), 1.0, 0.0
    draw = torch.Generator().manual_seed(0)
    for _ in range(9):
        g, t = torch.randn(2, generator=draw).tolist()
        yield torch.rand(5, generator=draw), torch.randn(5, generator=draw), g, t


def subsets(p: Tensor, q: Tensor) -> Tensor:
    """Pair by pair: what comes by A and then by B comes by both, if they have no block in common."""
    r = torch.zeros_like(p)
    for A, B in product(range(16), range(16)):
        if A & B == 0:
            r[..., A | B] += p[..., A] * q[..., B]
    return r


def by_sets() -> Iterator[tuple[Tensor, Tensor]]:
    draw = torch.Generator().manual_seed(1)
    single = lambda S, r: r * (torch.arange(16) == S)  # noqa: E731
    yield single(1, 2.0), single(2, 3.0)  # the lowest block, then the one above
    yield single(1, 2.0), single(1, 3.0)  # twice the same skip
    for _ in range(6):
        yield torch.randn(3, 16, generator=draw), torch.randn(3, 16, generator=draw)


def through_dense(n: int) -> int:
    """Layer by layer: a layer has as many paths as all that it reads have together."""
    paths = [1]
    for _ in range(n):
        paths.append(sum(paths))
    return paths[-1]


class Ladder(nn.Module):
    """Blocks x + f(x), with branches of one to ``blocks`` layers, and a linear layer on top."""

    def __init__(self, n: int, blocks: int) -> None:
        super().__init__()
        made = [[m for _ in range(b + 1) for m in (nn.Linear(n, n), nn.ReLU())] for b in range(blocks)]
        self.branches = nn.ModuleList(nn.Sequential(*layers) for layers in made)
        self.last = nn.Linear(n, 2)

    def forward(self, x: Tensor) -> Tensor:
        for branch in self.branches:
            x = x + branch(x)
        return self.last(x)


class Joined(nn.Module):
    """The input and what a layer makes of it, joined; it is Fork of the chapter, smaller."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 2), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.cat([x, self.first(x).relu()], 1))


def graphs() -> Iterator[tuple[str, nn.Module, Tensor]]:
    """What a message calls it, the network, and an input."""
    from klrp.models.training import seeded

    with seeded(2):
        made = {
            "nn.Sequential(nn.Linear(3, 2))": nn.Sequential(nn.Linear(3, 2)),
            "Fork, with 2 hidden neurons": Joined(),
        }
        made |= {f"a network of {b} blocks x + f(x), with branches of 1 to {b} layers": Ladder(3, b) for b in (2, 3)}
        inputs = [torch.randn(1, 3, dtype=torch.float64) for _ in made]
    for (name, net), x in zip(made.items(), inputs, strict=True):
        yield name, net.double().requires_grad_(False), x


def lengths(net: nn.Module, x: Tensor) -> list[list[float]]:
    """For each input the least and the greatest number of shares on a relevant path to output 0, from the set of all."""
    from klrp.symbolic import explain

    found = explain(
        net, x, 0, zero=frozenset(), one=frozenset([0]),
        theta=lambda d, edge: frozenset([1] if d >= 1e-9 else []),
        add=frozenset.union, mul=lambda s, t: frozenset(a + b for a in s for b in t),
    ).input.ravel()  # fmt: skip
    return [[float(min(s)), float(max(s))] if s else NOWHERE for s in found]


def short_and_long(answer: Any) -> str:
    """The checker of ex-11-lengths: pairs of the shortest and the longest relevant path."""
    from klrp import KlrpError, Semiring, check_laws, explain
    from klrp.rules import epsilon

    if not (isinstance(answer, tuple) and len(answer) == 2 and isinstance(answer[0], Semiring)):
        raise NotYet(f"A klrp.Semiring and its Θ are asked for, as a tuple; your answer is {shown(answer)}.")
    semiring, theta = answer
    samples = torch.tensor([[1.0, 3.0], [2.0, 2.0], [0.0, 5.0], [4.0, 7.0]], dtype=torch.float64)
    try:
        check_laws(semiring, samples)
        for name, net, x in graphs():
            R = explain(net, x, 0, semiring=semiring, theta=theta, rule=epsilon(1e-9)).input[0].tolist()
            if not same(R, right := lengths(net, x)):
                raise NotYet(f"For {name}: the pairs of the inputs are {shown(right)}, yours are {shown(R)}.")
    except KlrpError as error:
        raise NotYet(f"{error}") from None
    return "on 4 networks"


CHECKS: dict[str, Check] = {
    "ex-11-minus": value(
        [6, -5],
        within=1e-3,
        hints=[
            ([0.25, 0.75], "These are the relevances for x + f."),
            ([4, 0.5], "That came by the skip. Each input also collects from the branch."),
            ([2, -5.5], "That came through the branch. Each input also collects from the skip."),
            ([2, 6], "The branch has the contribution −f, so its shares are −1 and 3/2."),
        ],
    ),
    "ex-11-branch": value(
        "b",
        hints=[
            ("a", "No share changes its sign here, and none falls below the threshold."),
            ("c", "The best path of the second input ran through the branch."),
            ("d", "In both sums the skip now has nearly everything. Is that no news for amounts?"),
        ],
    ),
    "ex-11-dense": function(through_dense, [(n,) for n in range(1, 13)]),
    "ex-11-fold": function(both_ways, normalised, within=1e-5),
    "ex-11-sorted": function(subsets, by_sets, within=1e-5),
    "ex-11-lengths": short_and_long,
}
