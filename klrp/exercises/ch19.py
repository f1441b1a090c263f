"""Checkers of chapter 19, paths, signs, and what is read off them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise, product
from typing import Any

import torch
from torch import Tensor, nn

from klrp.exercises.checking import Check, NotYet, copies, function, same, shown, unanswered, value

Path = tuple[int, ...]  # a neuron of each layer, from the input up


def small_networks() -> Iterator[tuple[str, nn.Sequential, Tensor]]:
    from klrp.models import mlp

    draw = torch.Generator().manual_seed(0)
    for sizes in ((5, 3, 2), (5, 7, 3, 2)):
        yield f"klrp.models.mlp({sizes})", mlp(sizes).double(), torch.rand(1, sizes[0], generator=draw).double()


def three_best(net: nn.Sequential, x: Tensor) -> list[list[float]]:
    """For each input the three largest of all paths' weights under max share, with 0 where there are fewer."""
    from klrp.rules import max_share
    from klrp.symbolic import explain

    all_of_them = explain(
        net, x, 0, rule=max_share(), zero=[], one=[1.0], theta=lambda d, edge: [d] if d > 0 else [],
        mul=lambda s, t: [v * w for v in s for w in t],
    ).input.ravel()  # fmt: skip
    return [sorted([*weights, 0.0, 0.0, 0.0], reverse=True)[:3] for weights in all_of_them]


def first_alone(d: Tensor) -> Tensor:
    """The list (d, 0, 0)."""
    return torch.nn.functional.pad(d[..., None], (0, 2))


def lists_of_three(answer: Any) -> str:
    """The checker of ex-19-kbest: a semiring of the three largest weights."""
    from klrp import KlrpError, Semiring, check_laws, explain
    from klrp.rules import max_share

    if not isinstance(answer, Semiring):
        raise NotYet(f"A klrp.Semiring is asked for; your answer is {shown(answer)}.")
    if answer.name == "3 best":
        raise NotYet("That is the semiring of the package; write one of your own.")
    draw = torch.Generator().manual_seed(1)
    samples = torch.rand(6, 3, generator=draw, dtype=torch.float64).sort(descending=True).values
    try:
        check_laws(answer, samples)
        for name, net, x in small_networks():
            R = explain(net, x, 0, semiring=answer, theta=first_alone, rule=max_share()).input[0].tolist()
            if not same(R, right := three_best(net, x), 1e-6):
                raise NotYet(f"For {name}, class 0: the lists of the inputs are {shown(right)}, yours are {shown(R)}.")
    except KlrpError as error:
        raise NotYet(f"{error}") from None
    return "by all paths of 2 networks"


def front(strength: Tensor, number: Tensor) -> list[int]:
    """Neuron by neuron: those that no other beats, which is as good in both and better in one; the strongest first."""
    pairs = list(zip(strength.tolist(), number.tolist(), strict=True))
    beaten = lambda p: any(q != p and q[0] >= p[0] and q[1] >= p[1] for q in pairs)  # noqa: E731
    return sorted((i for i, p in enumerate(pairs) if not beaten(p)), key=lambda i: (-pairs[i][0], i))


def neurons() -> Iterator[tuple[Tensor, Tensor]]:
    """With ties in one of the two; with two equal neurons; then random ones with many ties."""
    yield torch.tensor([0.9, 0.5, 0.5, 0.1]), torch.tensor([1.0, 3.0, 2.0, 3.0])
    yield torch.tensor([0.2, 0.8, 0.2]), torch.tensor([4.0, 1.0, 4.0])
    draw = torch.Generator().manual_seed(2)
    for n in (7, 11, 23, 41):
        yield (10 * torch.rand(n, generator=draw)).ceil() / 10, torch.randint(0, 9, (n,), generator=draw).float()


def needed(d: list[Tensor], theta: float) -> list[list[tuple[int, int]] | None]:
    """Path by path: what all relevant ones of an input have in common, as (layer, neuron); the input is left out."""
    sizes = [layer.shape[1] for layer in d]
    found: list[list[tuple[int, int]] | None] = []
    for j in range(len(d[0])):
        paths = [(j, *rest) for rest in product(*map(range, sizes))]
        relevant = [p for p in paths if all(float(m[p[i], p[i + 1]]) >= theta for i, m in enumerate(d))]
        sets = [set(enumerate(p[1:])) for p in relevant]
        found.append(sorted(set.intersection(*sets)) if sets else None)
    return found


def layers_of_shares() -> Iterator[tuple[list[Tensor], float]]:
    yield [torch.tensor([[0.8, 0.9], [0.9, 0.0], [0.1, 0.1]]), torch.tensor([[0.5], [0.5]])], 0.3
    draw = torch.Generator().manual_seed(3)
    for theta in (0.3, 0.5, 0.7, 0.8):
        yield [torch.rand(j, k, generator=draw) for j, k in pairwise((7, 5, 3, 1))], theta


def agreement(likeness: Tensor, labels: Tensor, mixed: Tensor) -> float:
    """Pair of classes by pair of classes, then the correlation of the ranks."""
    C, n = len(mixed), len(labels)
    alike, taken = [], []
    for a in range(C):
        for b in range(a + 1, C):
            pairs = [float(likeness[i, j]) for i in range(n) for j in range(n) if labels[i] == a and labels[j] == b]
            alike.append(sum(pairs) / len(pairs))
            taken.append(float(mixed[a, b] + mixed[b, a]))
    ranks = [[float(sum(other < v for other in values)) for v in values] for values in (alike, taken)]
    return float(torch.corrcoef(torch.tensor(ranks, dtype=torch.float64))[0, 1])


def of_classes() -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    draw = torch.Generator().manual_seed(4)
    for C, n in ((3, 5), (5, 11), (5, 17), (7, 23)):
        labels = torch.arange(n) % C
        likeness = torch.rand(n, n, generator=draw)
        yield likeness + likeness.T, labels[torch.randperm(n, generator=draw)], torch.rand(C, C, generator=draw)


def cut(weights: list[Tensor], paths: list[Path]) -> list[Tensor]:
    """Weight by weight: those of the neurons that are on a path, 0 where no path has the edge."""
    kept = [sorted({path[i] for path in paths}) for i in range(len(weights) + 1)]
    small = []
    for i, w in enumerate(weights):
        edges = {(path[i], path[i + 1]) for path in paths}
        rows = [[float(w[k, j]) if (j, k) in edges else 0.0 for j in kept[i]] for k in kept[i + 1]]
        small.append(torch.tensor(rows, dtype=w.dtype))
    return small


def bundles() -> Iterator[tuple[list[Tensor], list[Path]]]:
    draw = torch.Generator().manual_seed(5)
    yield [torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]), torch.tensor([[7.0, 8.0]])], [(2, 0, 0), (0, 1, 0)]
    for sizes, n in (((7, 5, 2), 3), ((11, 7, 5, 3), 6), ((11, 7, 5, 3), 12)):
        weights = [torch.randn(k, j, generator=draw) for j, k in pairwise(sizes)]
        top = int(torch.randint(sizes[-1], (1,), generator=draw))
        yield weights, [(*(int(torch.randint(m, (1,), generator=draw)) for m in sizes[:-1]), top) for _ in range(n)]


def network_of_paths(answer: Any) -> str | None:
    """The checker of ex-19-formula: small weights, and the large ones as they were."""
    if not callable(answer):
        raise NotYet(f"A function is asked for; your answer is {shown(answer)}.")
    for n, (weights, paths) in enumerate(bundles()):
        before, right = list(copies(tuple(weights))), cut(weights, paths)
        got = answer(weights, list(paths))
        if n == 0 and unanswered(got):
            return None
        where = f"For weights of the sizes {[list(w.shape) for w in weights]} and paths = {shown(paths)}:"
        if not same(weights, before):
            raise NotYet(f"{where} your function has written into the weights that it got.")
        if not same(got, right, 1e-6):
            raise NotYet(f"{where} expected {shown(right)}, your function gave {shown(got)}.")
    return "on 4 inputs"


CHECKS: dict[str, Check] = {
    "ex-19-minus": value(
        [10, 11],
        hints=[
            ([6, 4], "Each part of the lower pair meets each part of the upper one."),
            ([11, 10], "Against what speaks against is for: 1 · 4 belongs to the paths for."),
            ([10, 10], "What is for below and against above: 2 · 4. And the other way round?"),
        ],
    ),
    "ex-19-boolean": value(
        "c",
        hints=[
            ("a", "Of the hundreds of relevant paths to a pixel, only one on each side is needed."),
            ("b", "The counts of the chapter are about as many for as against. What does one of each need?"),
        ],
    ),
    "ex-19-kbest": lists_of_three,
    "ex-19-pareto": function(front, neurons),
    "ex-19-needed": function(needed, layers_of_shares),
    "ex-19-confused": function(agreement, of_classes, within=1e-5),
    "ex-19-formula": network_of_paths,
}
