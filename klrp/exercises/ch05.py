"""Checkers of chapter 5, counting relevant paths. The networks are small enough to list all of their paths."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise, product
from typing import Any

import torch
from torch import Tensor, nn

from klrp.exercises.ch04 import shares_of
from klrp.exercises.checking import Check, NotYet, function, same, shown, unanswered, value


def coin(a: Tensor) -> float:
    """The law of equation eq-05-law, neuron by neuron: its mean over the active ones."""
    length = math.sqrt(sum(float(v) ** 2 for v in a))
    chances = [0.5 + math.asin(float(v) / length) / math.pi for v in a if v > 0]
    return sum(chances) / len(chances)


def of_activations() -> Iterator[tuple[Tensor]]:
    yield (torch.tensor([3.0, 0.0, 4.0], dtype=torch.float64),)
    draw = torch.Generator().manual_seed(0)
    for _ in range(19):
        yield ((torch.rand(7, generator=draw).double() - 0.4).relu() + torch.eye(7)[0].double(),)


def chances(d: Tensor, R: Tensor, theta: float) -> list[list[float]]:
    """The part of the relevant paths of j that goes on to k; zeros where j has none."""
    ways = [[float(R[k]) if float(d[j, k]) >= theta else 0.0 for k in range(len(R))] for j in range(len(d))]
    return [[w / sum(row) if sum(row) else 0.0 for w in row] for row in ways]


def of_layers() -> Iterator[tuple[Tensor, Tensor, float]]:
    yield torch.tensor([[0.5, 0.25, 0.75], [0.25, 0.5, 0.0], [-0.5, 0.0, 0.25]]), torch.tensor([3.0, 0.0, 1.0]), 0.5
    draw = torch.Generator().manual_seed(1)
    for _ in range(19):
        yield torch.randn(5, 7, generator=draw), torch.randint(0, 4, (7,), generator=draw).float(), 0.3


def networks(sizes: Sequence[int], seeds: int, n: int = 1) -> Iterator[tuple[str, nn.Sequential, Tensor]]:
    """A name for messages, a network, and inputs [n, J] without negative values, some of them 0."""
    from klrp.models import mlp

    draw = torch.Generator().manual_seed(2)
    for seed in range(seeds):
        x = 3 * torch.rand(n, sizes[0], generator=draw).double()
        x = torch.where(x < 0.6, 0, x)
        yield (
            f"klrp.models.mlp({tuple(sizes)}, seed={seed}).double() and x = {shown(x)}",
            mlp(sizes, seed=seed).double(),
            x,
        )


def through(shares: list[Tensor], c: int) -> list[int]:
    """Path by path: how many with positive shares lead through each neuron of the second hidden layer."""
    found = [0] * len(shares[2])
    for path in product(*(range(len(d)) for d in shares)):
        if all(d[e] > 0 for d, e in zip(shares, pairwise([*path, c]), strict=True)):
            found[path[2]] += 1
    return found


def carried(answer: Callable) -> str | None:
    """The checker of ex-05-between."""
    if not callable(answer):
        raise NotYet(f"A function is asked for; your answer is {shown(answer)}.")
    n = 0
    for sizes in ((2, 3, 2, 1), (5, 7, 3, 2)):
        for name, model, x in networks(sizes, 5):
            got = answer(model, x, sizes[-1] - 1)
            if n == 0 and unanswered(got):
                return None
            right = through(shares_of(model, x), sizes[-1] - 1)
            if not same(got, right):
                raise NotYet(f"For {name}, c = {sizes[-1] - 1}: expected {right}, your function gave {shown(got)}.")
            n += 1
    return f"on {n} networks"


def number_of_paths(shares: list[Tensor], c: int, theta: float) -> float:
    R = torch.eye(shares[-1].shape[1], dtype=torch.float64)[c]
    for d in reversed(shares):
        R = (d >= theta).double() @ R
    return float(R.sum())


def most_and_fewest(model: nn.Sequential, x: Tensor, theta: float) -> list[float]:
    """Image by image and class by class: how often the predicted class has the most paths, how often the fewest."""
    hits = [0, 0]
    for one in x.split(1):
        logits, shares = model(one)[0], shares_of(model, one)
        own = int(logits.argmax())
        total = [number_of_paths(shares, c, theta) for c in range(len(logits))]
        others = [total[c] for c in range(len(logits)) if logits[c] > 0]
        hits[0] += all(total[own] >= other for other in others)
        hits[1] += all(total[own] <= other for other in others)
    return [hit / len(x) for hit in hits]


def by_class(answer: Callable) -> str | None:
    """The checker of ex-05-class."""
    if not callable(answer):
        raise NotYet(f"A function is asked for; your answer is {shown(answer)}.")
    n = 0
    for name, model, x in networks((7, 11, 13, 5), 4, 17):
        for theta in (1e-9, 0.1, 0.3):
            got = answer(model, x, theta)
            if n == 0 and unanswered(got):
                return None
            right = most_and_fewest(model, x, theta)
            if not isinstance(got, Sequence | Tensor) or not same([float(v) for v in got], right, 1e-6):
                raise NotYet(f"For {name}, θ = {theta}: expected {shown(right)}, your function gave {shown(got)}.")
            n += 1
    return f"on {n} sets of inputs"


def tower(width: int, hidden: int) -> nn.Sequential:
    """All weights positive: an input has width ** hidden relevant paths."""
    from klrp.models import mlp

    net = mlp([width] * (hidden + 1) + [1]).double().requires_grad_(False)
    for layer in net[1::2]:
        layer.weight.fill_(1 / width)
        layer.bias.zero_()
    return net


def modulo(answer: Callable) -> str | None:
    """The checker of ex-05-modulo: the laws of small moduli, the counts of towers for large ones."""
    from klrp import KlrpError, Semiring, check_laws, explain
    from klrp.conversions import threshold
    from klrp.rules import epsilon

    if not callable(answer):
        raise NotYet(f"A function is asked for; your answer is {shown(answer)}.")
    for m in (7, 2**31 - 1, 2**31):
        K: Any = answer(m)
        if m == 7 and unanswered(K):
            return None
        if not isinstance(K, Semiring):
            raise NotYet(f"For m = {m} a klrp.Semiring is asked for; your function gave {shown(K)}.")
        try:
            check_laws(K, torch.arange(7) if m == 7 else torch.tensor([0, 1, m // 2, m - 1]))
            for width, hidden in ((5, 2), (97, 5)):
                x = torch.ones(1, width).double()
                R = explain(tower(width, hidden), x, 0, semiring=K, rule=epsilon(1e-9), theta=threshold(1e-9))
                if not same(R.input[0, 0], width**hidden % m):
                    raise NotYet(
                        f"For m = {m}: {width} to the power of {hidden} paths leave the remainder {width**hidden % m}, "
                        f"your semiring says {shown(R.input[0, 0])}."
                    )
        except KlrpError as error:
            raise NotYet(f"For m = {m}: {error}") from None
    return "for three moduli"


CHECKS: dict[str, Check] = {
    "ex-05-signs": value(
        "b",
        hints=[
            ("a", "Which layer does not decide which hidden neurons are active?"),
            (
                "c",
                "The weights of the lowest layer decide, by their sizes, which neurons of the first hidden layer are active.",
            ),
            (
                "d",
                "Sizes decide which neurons are active, and with them which paths are left. Not in every layer, though.",
            ),
        ],
    ),
    "ex-05-toy": value(
        [[2, 1], [1, 1]],
        hints=[
            ([[2, 1], [2, 1]], "At (1, 4) one hidden neuron is no longer active."),
            ([[4, 2], [4, 2]], "One neuron of the second hidden layer is not active."),
            ([[3, 2], [1, 1]], "The second neuron of the second hidden layer is not active: its sum is -7."),
        ],
    ),
    "ex-05-half": function(coin, of_activations),
    "ex-05-between": carried,
    "ex-05-draw": function(chances, of_layers),
    "ex-05-class": by_class,
    "ex-05-modulo": modulo,
}
