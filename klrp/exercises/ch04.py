"""Checkers of chapter 4, Boolean relevance. The networks are small enough to list all of their paths."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import combinations, pairwise, product
from typing import Any

import torch
from torch import Tensor, nn

from klrp.exercises.checking import Check, NotYet, function, same, shown, unanswered, value


def step_down(d: Tensor, R: Tensor, theta: float) -> list[bool]:
    """The definition, neuron by neuron: j is relevant where one k is relevant and d_jk is at least theta."""
    return [any(bool(R[k]) and float(d[j, k]) >= theta for k in range(len(R))) for j in range(len(d))]


def layers() -> list[tuple[Tensor, Tensor, float]]:
    draw = torch.Generator().manual_seed(0)
    small = (torch.tensor([[0.5, 0.2], [0.3, 0.9], [0.1, -0.7]]), torch.tensor([True, False]), 0.3)
    random = [(torch.randn(5, 7, generator=draw), torch.rand(7, generator=draw) < 0.5, 0.3) for _ in range(19)]
    return [small, *random]


def networks(n: int, count: int = 1) -> Iterator[tuple[str, nn.Sequential, Tensor]]:
    """A name for messages, a network, and inputs [count, J] without negative values, some of them 0."""
    from klrp.models import mlp

    draw = torch.Generator().manual_seed(1)
    for seed in range(n):
        sizes = ((3, 2, 2), (7, 5, 3), (5, 7, 3, 2))[min(seed, 1 + seed % 2)]
        x = torch.rand(count, sizes[0], generator=draw).double()
        x = torch.where(x < 0.2, 0, x)
        yield f"klrp.models.mlp({sizes}, seed={seed}).double() and x = {shown(x)}", mlp(sizes, seed=seed).double(), x


@torch.no_grad()
def shares_of(model: nn.Sequential, x: Tensor) -> list[Tensor]:
    """The shares [J, K] of LRP-0 in each linear layer, for one input [1, J]."""
    a, found = x.flatten(), []
    for layer in model[1::2]:
        found.append(a[:, None] * layer.weight.T / (a @ layer.weight.T + layer.bias))
        a = layer(a).relu()
    return found


def widths(shares: list[Tensor], c: int) -> list[float]:
    """For each input the smallest share of a path to c, on the path where that is largest."""
    sizes = [len(d) for d in shares]
    found = [float("-inf")] * sizes[0]
    for path in product(*map(range, sizes)):
        least = min(float(d[e]) for d, e in zip(shares, pairwise([*path, c]), strict=True))
        found[path[0]] = max(found[path[0]], least)
    return found


def first_loss(answer: Callable) -> str | None:
    """The smallest of the largest thresholds of the inputs, to three digits."""
    if not callable(answer):
        raise NotYet(f"A function is asked for; your answer is {shown(answer)}.")
    n = 0
    for name, model, x in networks(12):
        for c in (0, 1):
            right = min((w for w in widths(shares_of(model, x), c) if w >= 1e-9), default=0.0)
            if not 1e-4 < right < 0.9 or n == 6:
                continue
            got = answer(model, x, c)
            if n == 0 and unanswered(got):
                return None
            if not isinstance(got, float | Tensor) or not abs(float(got) / right - 1) < 5e-3:
                raise NotYet(f"For {name}, c = {c}: expected {shown(right)}, your function gave {shown(got)}.")
            n += 1
    return f"on {n} maps"


def masks(answer: Callable) -> str | None:
    """The *or* and the *and* of the Boolean maps of a batch, image by image."""
    if not callable(answer):
        raise NotYet(f"A function is asked for; your answer is {shown(answer)}.")
    n = 0
    for name, model, x in networks(4, 5):
        for c, theta in ((0, 1e-9), (1, 0.2)):
            got = answer(model, x, c, theta)
            if n == 0 and unanswered(got):
                return None
            maps = [[w >= theta for w in widths(shares_of(model, image), c)] for image in x]
            right = [[join(pixel) for pixel in zip(*maps, strict=True)] for join in (any, all)]
            if not isinstance(got, Sequence) or not all(map(same, got, map(torch.tensor, right))) or len(got) != 2:
                raise NotYet(f"For {name}, c = {c}, θ = {theta}: expected {shown(right)}, it gave {shown(got)}.")
            n += 1
    return f"on {n} sets of images"


def most(shares: list[float], f: float) -> float:
    """The largest θ for which the positive shares from θ on carry the part f of all of them."""
    positive = sorted((d for d in shares if d > 0), reverse=True)
    return next(d for i, d in enumerate(positive) if sum(positive[: i + 1]) >= f * sum(positive) - 1e-12)


def by_mass(lower: Tensor, upper: Tensor, f: float) -> list[bool]:
    """Which inputs are relevant, with a threshold for each layer."""
    theta = most(upper.tolist(), f)
    hidden = [k for k in range(len(upper)) if upper[k] >= theta]
    into = [d for k in hidden for d in lower[:, k].tolist()]
    if not any(d > 0 for d in into):
        return [False] * len(lower)
    theta = most(into, f)
    return [any(float(lower[j, k]) >= theta for k in hidden) for j in range(len(lower))]


def returning(answer: Any) -> str:
    """Shares of two layers for which an input is relevant at mass 0.5 and not at mass 0.9."""
    try:
        lower, upper = (torch.as_tensor(part, dtype=torch.float64) for part in answer)
    except (TypeError, ValueError) as error:
        raise NotYet(f"Lower shares [2, 2] and upper shares [2] are asked for; yours: {shown(answer)}.") from error
    if lower.shape != (2, 2) or upper.shape != (2,):
        raise NotYet(f"The sizes [2, 2] and [2] are asked for; yours are {list(lower.shape)} and {list(upper.shape)}.")
    sums = [*lower.sum(0).tolist(), float(upper.sum())]
    if not same(sums, [1.0, 1.0, 1.0], 1e-6):
        raise NotYet(f"The shares in a neuron add up to 1; yours in h1, h2 and y add up to {shown(sums)}.")
    more, less = (by_mass(lower, upper, f) for f in (0.9, 0.5))
    if not any(b and not a for a, b in zip(more, less, strict=True)):
        raise NotYet(f"With your shares x1 and x2 are {more} at f = 0.9, and {less} at f = 0.5: none comes back.")
    return f"x1 and x2 are {more} at f = 0.9, and {less} at f = 0.5"


def parity(answer: Any) -> str:
    """A semiring whose relevance is the number of relevant paths modulo 2."""
    from klrp import KlrpError, Semiring, check_laws, explain
    from klrp.conversions import threshold
    from klrp.rules import epsilon

    if not isinstance(answer, Semiring):
        raise NotYet(f"A klrp.Semiring is asked for; your answer is {shown(answer)}.")
    how = dict(rule=epsilon(1e-9), theta=threshold(1e-9))
    try:
        check_laws(answer, torch.tensor([False, True]))
        for name, model, x in networks(8):
            got, counts = (explain(model, x, 0, semiring=s, **how).input for s in (answer, "counting"))
            if not same(got.bool(), counts % 2 == 1):
                raise NotYet(f"For {name}: the numbers of paths are {shown(counts)}, your relevances {shown(got)}.")
    except KlrpError as error:
        raise NotYet(f"{error}") from None
    return "on 8 networks"


def fewest_to_cut(tables: list[Tensor], j: int, y: int) -> int:
    """The size of the smallest set of edges without which j does not reach y: as large as the paths apart are many."""
    every = [(i, *e) for i, d in enumerate(tables) for e in d.nonzero().tolist()]
    for n in range(len(every) + 1):
        for gone in combinations(every, n):
            reached, left = {j}, set(every) - set(gone)
            for i in range(len(tables)):
                reached = {k for layer, v, k in left if layer == i and v in reached}
            if y not in reached:
                return n
    return len(every)


def of_tables() -> Iterator[tuple[list[Tensor], int, int]]:
    """In the first two paths meet in one edge; in the second the first path found may bar the others; then random ones."""
    yield [torch.tensor(d) > 0 for d in ([[1, 1]], [[1], [1]], [[1]])], 0, 0
    yield [torch.tensor(d) > 0 for d in ([[1, 1]], [[1, 1], [1, 0]], [[1], [1]])], 0, 0
    draw = torch.Generator().manual_seed(2)
    for n in range(10):
        sizes = ((2, 3, 2), (2, 3, 2, 2))[n % 2]
        yield [torch.rand(j, k, generator=draw) < 0.7 for j, k in pairwise(sizes)], n % 2, 1


CHECKS: dict[str, Check] = {
    "ex-04-split": value(
        "b",
        hints=[
            ("a", "The outputs stay the same. But what is the share of one copy in a neuron above?"),
            ("c", "What a share of a copy can do, the share of the neuron itself, twice as large, can do as well."),
            (
                "d",
                "Compare the share of a copy with that of the whole neuron: which of the two passes more thresholds?",
            ),
        ],
    ),
    "ex-04-toy": value(
        [[True, False, True], [True, False]],
        hints=[
            (
                [[1, 3], [1]],
                "Write True or False for each of the three hidden neurons, and for each of the two inputs.",
            ),
            ([[False, True, False], [True, False]], "That explains the first output."),
            ([[False, True, False], [False, True]], "The logit is negative: dividing by it turns the signs around."),
            ([[False, True, False], [False, False]], "The logit is negative: dividing by it turns the signs around."),
            ([[True, True, True], [True, True]], "A negative share does not reach θ, however large it is."),
        ],
    ),
    "ex-04-step": function(step_down, layers),
    "ex-04-masks": masks,
    "ex-04-monotone": returning,
    "ex-04-bisection": first_loss,
    "ex-04-parity": parity,
    "ex-04-apart": function(fewest_to_cut, of_tables),
}
