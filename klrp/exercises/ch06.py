"""Checkers of chapter 6, best paths. The tables of shares are small enough to list all of their paths."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise, product
from math import inf, prod
from typing import Any

import torch
from torch import Tensor

from klrp.exercises.checking import Check, NotYet, function, shown, unanswered, value


def weights_of(tables: list[Tensor], y: int) -> dict[tuple[int, ...], float]:
    """Every path to y, as its neurons from the input up, and the product of its shares."""
    paths = [(*path, y) for path in product(*(range(len(d)) for d in tables))]
    return {p: prod(float(d[e]) for d, e in zip(tables, pairwise(p), strict=True)) for p in paths}


def best_path(tables: list[Tensor], y: int) -> list[int]:
    weights = weights_of(tables, y)
    return list(max(weights, key=weights.__getitem__))


def without_each(tables: list[Tensor], y: int, layer: int) -> list[float]:
    """For each neuron of a hidden layer the largest weight of a path around it."""
    weights = weights_of(tables, y)
    return [max(w for p, w in weights.items() if p[layer] != k) for k in range(len(tables[layer]))]


def shares(draw: torch.Generator, *sizes: int) -> list[Tensor]:
    return [torch.rand(j, k, generator=draw, dtype=torch.float64) for j, k in pairwise(sizes)]


def of_tables() -> Iterator[tuple[list[Tensor], int]]:
    """In the first the best edge at the top, and the best one at the bottom, are not on the best path."""
    lower, upper = [[0.25, 0.75], [0.5, 0.125]], [[0.75, 0.25], [0.625, 0.75]]
    yield [torch.tensor(d, dtype=torch.float64) for d in (lower, upper)], 0
    yield [torch.tensor(d, dtype=torch.float64) for d in ([[0.25, 0.75], [0.5, 0.125]], [[1.0, 0.5], [0.25, 1.0]])], 0
    draw = torch.Generator().manual_seed(0)
    for n in range(18):
        yield shares(draw, *((7, 5, 3), (5, 7, 3, 2))[n % 2]), n % 2


def of_layers() -> Iterator[tuple[list[Tensor], int, int]]:
    draw = torch.Generator().manual_seed(1)
    small = ([[0.5, 0.25], [0.25, 0.75]], [[1.0, 0.5], [0.5, 1.0]])
    yield [torch.tensor(d, dtype=torch.float64) for d in small], 0, 1
    for n in range(15):
        yield shares(draw, 5, 7, 3, 2), n % 2, 1 + n // 2 % 2


def layers_until(factor: float, smallest: float) -> int:
    """Divide until the number is below the smallest."""
    largest, layers = 1.0, 0
    while largest >= smallest:
        largest, layers = largest / factor, layers + 1
    return layers


def of_factors() -> Iterator[tuple[float, float]]:
    yield 10.0, 0.005
    yield 2.0, 0.25  # equal is not below
    yield 2.0, 2.0**-149
    for factor in (8.2, 4.1, 1.7, 31.0):
        for smallest in (1.4e-45, 5e-324 * 1e20, 0.3):
            yield factor, smallest


def one_edge(answer: Any) -> str | None:
    """The conversion of ex-06-longest, number by number. Infinities are compared exactly."""
    if not callable(answer):
        raise NotYet(f"A function is asked for; your answer is {shown(answer)}.")
    draw = torch.Generator().manual_seed(2)
    cases = [torch.tensor([[0.25, 0.0], [-0.5, 2.0]]), *(torch.randn(5, 7, generator=draw) for _ in range(5))]
    for n, d in enumerate(cases):
        got = answer(d.clone())
        if n == 0 and unanswered(got):
            return None
        right = torch.tensor([1.0 if v > 0 else -inf for v in d.flatten().tolist()]).reshape(d.shape)
        if not isinstance(got, Tensor) or got.shape != d.shape or not bool((got == right).all()):
            raise NotYet(f"For d = {shown(d)}: expected {shown(right)}, your function gave {shown(got)}.")
    return f"on {len(cases)} inputs"


def max_shares(a: Tensor, w: Tensor) -> Tensor:
    sizes = (a[:, None] * w).abs()
    return torch.where(sizes > 0, sizes / sizes.amax(0), 0.0)


def lonely(answer: Any) -> str:
    """A lower layer and an input, whose largest relevance is below 1 and not 0."""
    from klrp.models import toy

    try:
        w, b, x = (torch.as_tensor(part, dtype=torch.float64) for part in answer)
    except (TypeError, ValueError) as error:
        raise NotYet(f"Weights [2, 3], biases [3] and an input [2] are asked for; yours: {shown(answer)}.") from error
    if (w.shape, b.shape, x.shape) != ((2, 3), (3,), (2,)):
        sizes = ", ".join(str(list(part.shape)) for part in (w, b, x))
        raise NotYet(f"Weights [2, 3], biases [3] and an input [2] are asked for; yours have the sizes {sizes}.")
    h = (x @ w + b).relu()
    R1 = max_shares(h, toy()[0][2].weight.detach().double().T)[:, 0]
    R0 = (max_shares(x, w) * R1).amax(1)
    if not 0 < float(R0.max()) < 1 - 1e-6:
        raise NotYet(
            f"The hidden neurons are {shown(h)}, with the relevances {shown(R1)}; those of the inputs are {shown(R0)}. "
            f"Their largest is {shown(float(R0.max()))}."
        )
    return f"the largest relevance of an input is {float(R0.max()):.3f}"


def two_orders(answer: Any) -> str:
    """Three shares of one path and of another: the first is better by its product, the second by its weakest share."""
    try:
        first, second = ([float(v) for v in path] for path in answer)
    except (TypeError, ValueError) as error:
        raise NotYet(f"Two lists of three shares are asked for; your answer is {shown(answer)}.") from error
    if len(first) != 3 or len(second) != 3 or not all(0 <= v <= 1 for v in first + second):
        raise NotYet(f"Two lists of three shares between 0 and 1 are asked for; yours are {first} and {second}.")
    products, weakest = (prod(first), prod(second)), (min(first), min(second))
    if not products[0] > products[1]:
        raise NotYet(
            f"By the product the first should be ahead; yours are {shown(products[0])} and {shown(products[1])}."
        )
    if not weakest[1] > weakest[0]:
        raise NotYet(f"By the weakest share the second should be ahead; yours are {weakest[0]:g} and {weakest[1]:g}.")
    return f"products {products[0]:.3g} and {products[1]:.3g}, weakest shares {weakest[0]:g} and {weakest[1]:g}"


CHECKS: dict[str, Check] = {
    "ex-06-predict": value(
        "b",
        hints=[
            ("a", "Each size is divided by the largest one there is *now*."),
            ("c", "Two of the three inputs are equally strong now."),
            ("d", "That divides by the sum of the sizes."),
        ],
    ),
    "ex-06-toy": value(
        [[0.0172, 0.6639, 1.0], [1.0, 0.0225], 2],
        within=0.0015,
        hints=[
            ([[0.0025, 1.0, 0.8129], [1.0, 0.0338], 2], "That explains the first output."),
            (
                [[0.0172, 0.6639, 1.0], [1.0, 0.0225], 3],
                "The third hidden neuron is the strongest. What is x2's share in it?",
            ),
            ([[0.0172, 0.6639, 1.0], [1.0, 0.0079], 3], "x2 has three paths; compare the three products."),
        ],
    ),
    "ex-06-one": lonely,
    "ex-06-bottleneck": two_orders,
    "ex-06-classes": function(best_path, of_tables),
    "ex-06-underflow": function(layers_until, of_factors),
    "ex-06-longest": one_edge,
    "ex-06-without": function(without_each, of_layers),
}
