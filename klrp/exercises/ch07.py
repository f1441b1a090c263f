"""Checkers of chapter 7, semirings of one's own. The networks are small enough to list all of their paths."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from klrp.exercises.checking import Check, NotYet, function, same, shown, unanswered, value

Factors = list[tuple[float, ...]]  # of one path: what stands on each of its edges
NETWORKS = {(5, 3, 2): 5, (5, 7, 3, 2): 4}  # sizes, and seeds with which most inputs have paths of positive shares
TOO_SMALL = 1e-12  # a share that is zero but for rounding


def hamacher(x: Tensor, y: Tensor) -> Tensor:
    """Number by number: 1 / (1/x + 1/y - 1), and 0 where x or y is 0."""
    pairs = zip(x.flatten().tolist(), y.flatten().tolist(), strict=True)
    return torch.tensor([0.0 if min(p) == 0 else 1 / (1 / p[0] + 1 / p[1] - 1) for p in pairs]).reshape(x.shape)


def truths() -> Iterator[tuple[Tensor, Tensor]]:
    yield torch.tensor([0.5]), torch.tensor([0.5])
    yield torch.tensor([0.0, 0.0, 1.0, 1.0]), torch.tensor([0.0, 0.5, 0.0, 1.0])
    draw = torch.Generator().manual_seed(0)
    for _ in range(8):
        yield torch.rand(5, 7, generator=draw), torch.rand(5, 7, generator=draw)


def count_widest(d: list[Tensor]) -> list[tuple[float, int]]:
    """Path by path: the largest of the smallest shares, and how many paths have it; (0, 0) where no path is left."""
    sizes = [len(layer) for layer in d[1:]] + [1]
    found = []
    for j in range(len(d[0])):
        paths = [(j, *rest) for rest in itertools.product(*map(range, sizes))]
        widths = [min(float(m[p[i], p[i + 1]]) for i, m in enumerate(d)) for p in paths]
        found.append((max(widths), widths.count(max(widths)) if max(widths) > 0 else 0))
    return found


def layers_in_eighths() -> Iterator[tuple[list[Tensor]]]:
    """In the first, a path that is the weaker one above ties below; then random layers with zeros."""
    yield ([torch.tensor([[0.25]]), torch.tensor([[0.5, 0.25]]), torch.tensor([[1.0], [1.0]])],)
    draw = torch.Generator().manual_seed(1)
    for _ in range(9):
        sizes = itertools.pairwise((7, 5, 3, 1))
        yield ([(8 * torch.rand(j, k, generator=draw) - 2).clamp_min(0).round() / 8 for j, k in sizes],)


def small_networks() -> Iterator[tuple[str, nn.Sequential, Tensor]]:
    from klrp.models import mlp

    draw = torch.Generator().manual_seed(2)
    for sizes, seed in NETWORKS.items():
        net = mlp(sizes, seed=seed, dtype=torch.float64)
        name = f"klrp.models.mlp({sizes}, seed={seed}, dtype=torch.float64)"
        yield name, net, torch.rand(1, sizes[0], generator=draw, dtype=torch.float64)


def paths_by_input(net: nn.Sequential, x: Tensor, rule: Any, of: Callable[[float], tuple]) -> list[list[Factors]]:
    """For each input all paths to class 0 on which no share is 0, each as the list of what ``of`` makes of its shares."""
    from klrp.symbolic import explain

    return explain(
        net, x, 0, rule=rule, zero=[], one=[[]],
        theta=lambda d, edge: [[of(d)]] if abs(d) > TOO_SMALL else [],
        mul=lambda s, t: [v + w for v in s for w in t],
    ).input.ravel().tolist()  # fmt: skip


def walked(answer: Any, samples: Tensor, rule: Any) -> Iterator[tuple[str, nn.Sequential, Tensor, Tensor]]:
    """The laws of an answer (semiring, theta), then its elements at the inputs [inputs, *shape] of each small network."""
    from klrp import KlrpError, Semiring, check_laws, explain

    if not (isinstance(answer, tuple | list) and len(answer) >= 2 and isinstance(answer[0], Semiring)):
        raise NotYet(f"A klrp.Semiring and its Θ are asked for, as a tuple; your answer is {shown(answer)}.")
    semiring, theta, *_ = answer
    try:
        check_laws(semiring, samples)
        for name, net, x in small_networks():
            R = explain(net, x, 0, semiring=semiring, theta=theta, rule=rule).input
            yield name, net, x, R[0].detach()
    except KlrpError as error:
        raise NotYet(f"{error}") from None


def compared(name: str, got: Any, right: Any, what: str) -> None:
    if not same(got, right, 1e-6):
        raise NotYet(f"For {name}, class 0 and random inputs: {what} are {shown(right)}, yours are {shown(got)}.")


def both_signs(answer: Any) -> str:
    """The checker of ex-07-signs: pairs of the strongest path against and for."""
    from klrp.rules import epsilon

    samples = torch.rand(8, 2, generator=torch.Generator().manual_seed(3)).double() * torch.tensor([-3.0, 3.0])
    for name, net, x, R in walked(answer, samples, epsilon(1e-9)):
        by_input = paths_by_input(net, x, epsilon(1e-9), lambda d: (d,))
        weights = [[math.prod(d for (d,) in path) for path in paths] for paths in by_input]
        right = [[min([0.0, *w]), max([0.0, *w])] for w in weights]
        compared(name, R.tolist(), right, "the pairs (l, h) of the inputs")
    return f"by all paths of {len(NETWORKS)} networks"


def bounds(answer: Any) -> str:
    """The checker of ex-07-intervals: what the relevance is at least, and at most."""
    from klrp.rules import zplus

    samples = torch.rand(8, 2, generator=torch.Generator().manual_seed(4)).double().sort(1).values
    for name, net, x, R in walked(answer, samples, zplus()):
        by_input = paths_by_input(net, x, zplus(), lambda d: (max(d - 0.002, 0.0), d + 0.002))
        right = [[sum(math.prod(f[end] for f in path) for path in paths) for end in (0, 1)] for paths in by_input]
        compared(name, R.tolist(), right, "the bounds of the inputs")
    return f"by all paths of {len(NETWORKS)} networks"


def scatter(answer: Any) -> str:
    """The checker of ex-07-variance: (semiring, theta, finish), where finish makes variances of elements."""
    from klrp.rules import zplus

    if not (isinstance(answer, tuple | list) and len(answer) == 3):
        raise NotYet(f"A tuple of semiring, theta and finish is asked for; your answer is {shown(answer)}.")
    shape = getattr(answer[0], "shape", ())
    samples = torch.randn(5, *shape, generator=torch.Generator().manual_seed(5)).double()
    for name, net, x, R in walked(answer, samples, zplus()):
        got = answer[2](R)
        if unanswered(got):
            raise NotYet("finish returns nothing.")
        by_input = paths_by_input(net, x, zplus(), lambda d: (d,))
        reached = [i for i, paths in enumerate(by_input) if paths]
        right = [variance(by_input[i]) for i in reached]
        compared(name, torch.as_tensor(got)[reached].tolist(), right, f"the variances at the inputs {reached}")
    return f"by all paths of {len(NETWORKS)} networks"


def variance(paths: list[Factors]) -> float:
    """Of -log P over the paths, each with its own P as the weight."""
    P = [math.prod(d for (d,) in path) for path in paths]
    mean = sum(p * -math.log(p) for p in P) / sum(P)
    return sum(p * (-math.log(p) - mean) ** 2 for p in P) / sum(P)


CHECKS: dict[str, Check] = {
    "ex-07-letters": value(
        7 / 2 ** (4 / 7),
        within=0.002,
        hints=[
            (5, "All five paths are there, but are they equally strong?"),
            (4.33, "That is the number for $x_1 = 3$."),
            (1 / (2 * (2 / 7) ** 2 + 3 * (1 / 7) ** 2), "That is one over the sum of squares, not e to the entropy."),
            (4 / 7 * math.log(7 / 2) + 3 / 7 * math.log(7), "That is the entropy H; the number is its exponential."),
        ],
    ),
    "ex-07-hamacher": function(hamacher, truths, within=1e-5),
    "ex-07-first": value(
        "b",
        hints=[
            ("a", "Which laws does the formula with the paths ask for? A neutral one from the left is not among them."),
            ("c", "And if the neuron above is not relevant itself? Then y is 0."),
            ("d", "That keeps all shares of the path; here x ⊗ y forgets how large y is."),
        ],
    ),
    "ex-07-signs": both_signs,
    "ex-07-bottleneck": function(count_widest, layers_in_eighths),
    "ex-07-intervals": bounds,
    "ex-07-variance": scatter,
}
