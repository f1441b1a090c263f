"""Checkers of chapter 10, the choice of a threshold."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from klrp.exercises.checking import Check, NotYet, called, numeric, same, shown, unanswered, value


def twenty_pass(answer: Any) -> str:
    """The checker of ex-10-gate: exactly 20 of 100 numbers have a share of 0.05 or more in their average."""
    if not isinstance(answer, Tensor) and not (isinstance(answer, list | tuple) and numeric(answer)):
        raise NotYet(f"100 numbers are asked for, as a list or a tensor; your answer is {shown(answer)}.")
    numbers = torch.as_tensor(answer).detach().double().flatten()
    if len(numbers) != 100:
        raise NotYet(f"100 numbers are asked for; your answer has {len(numbers)}.")
    if bool((numbers < 0).any()) or not bool(numbers.sum() > 0):
        raise NotYet("The numbers must not be negative, and their sum must be positive.")
    passed = int((numbers / numbers.sum() >= 0.05 * (1 - 1e-6)).sum())  # rounding shall not decide
    if passed != 20:
        raise NotYet(f"Of your numbers {passed} have a share of 0.05 or more; 20 are asked for.")
    return ""


def without_both() -> list[float]:
    """The correlations of the Boolean table with a layer's own and the next layer's kernel, without layers 28 and 31."""
    from klrp.composites import BOOLEAN_THRESHOLDS

    own = [3.0] * 13 + [7.0, 1.0, 1.0]
    rows = list(zip(BOOLEAN_THRESHOLDS, own, [*own[1:], own[-1]], strict=True))
    kept = torch.tensor([row for i, row in enumerate(rows) if i not in (12, 13)], dtype=torch.float64)
    return torch.corrcoef(kept.T)[0, 1:].tolist()


Layers = list[tuple[Tensor, Tensor]]  # weights [K, J] and biases [K], from the input up


def example(*weights: list[list[float]]) -> Layers:
    return [(torch.tensor(w), torch.zeros(len(w))) for w in weights]


def random_layers(seed: int, sizes: tuple[int, ...] = (11, 7, 5, 3)) -> Layers:
    draw = torch.Generator().manual_seed(seed)
    pairs = zip(sizes[1:], sizes[:-1], strict=True)
    return [(torch.randn(k, j, generator=draw), 0.3 * torch.randn(k, generator=draw)) for k, j in pairs]


def network(layers: Layers) -> nn.Sequential:
    """Linear, ReLU, Linear, ..., Linear."""
    modules: list[nn.Module] = []
    for w, b in layers:
        linear = nn.Linear(w.shape[1], w.shape[0])
        linear.weight.data, linear.bias.data = w.clone(), b.clone()
        modules += [linear, nn.ReLU()]
    return nn.Sequential(*modules[:-1]).requires_grad_(False)


def activations(layers: Layers, x: Tensor) -> list[tuple[Tensor, Tensor]]:
    """For each layer what it reads [J], and its sums before the ReLU [K]."""
    found, a = [], x[0]
    for w, b in layers:
        found.append((a, w @ a + b))
        a = found[-1][1].clamp(min=0)
    return found


def bottleneck(layers: Layers, x: Tensor, k: int, shares: Callable[[Tensor, Tensor, Tensor], list]) -> Tensor:
    """Fuzzy relevance [1, J] of output ``k``, edge by edge: the best over the paths of the least share, from 0 to 1.

    ``shares`` is a function from one neuron's inputs [J], weights [J] and sum to its shares.
    """
    R = [float(i == k) for i in range(len(layers[-1][0]))]
    for (w, _), (a, z) in zip(reversed(layers), reversed(activations(layers, x)), strict=True):
        d = [shares(a, row, total) for row, total in zip(w, z, strict=True)]
        R = [max(min(d[k][j], R[k]) for k in range(len(R))) for j in range(len(a))]
    return torch.tensor([R])


def positive_ranks(a: Tensor, w: Tensor, z: Tensor) -> list[float]:
    parts = [max(0.0, float(p)) for p in a * w]
    return [p / max(parts) if max(parts) > 0 else 0.0 for p in parts]


def clamped_shares(a: Tensor, w: Tensor, z: Tensor) -> list[float]:
    return [min(1.0, max(0.0, float(p) / float(z))) for p in a * w]


def cases(small: Layers, x: list[float]) -> Iterator[tuple[Layers, Tensor, int]]:
    """Layers, an input [1, J] and a class: the small one, and six random ones."""
    yield small, torch.tensor([x]), 0
    for seed in range(6):
        draw = torch.Generator().manual_seed(seed)
        yield random_layers(seed), torch.rand(1, 11, generator=draw), seed % 3


def compared(got: Any, right: Tensor, layers: Layers, x: Tensor, k: int) -> None:
    if not same(got, right, 1e-4):
        matrices = ", ".join(shown(w) for w, _ in layers)
        biases = ", ".join(shown(b) for _, b in layers)
        where = f"weights {matrices}, biases {biases}, input {shown(x)} and output {k}"
        raise NotYet(
            f"For linear layers (with a ReLU between them) of {where}: expected {shown(right)}, got {shown(got)}."
        )


def ranks_evidence_for(answer: Any) -> str | None:
    """The checker of ex-10-signed: what the rule does to fuzzy relevance in small networks."""
    import klrp

    rule = called(answer, lambda: None, ())
    if unanswered(rule):
        return None
    if not isinstance(rule, klrp.rules.Rule):
        raise NotYet(f"A klrp.rules.Rule is asked for; your function gave {shown(rule)}.")
    tried = list(cases(example([[2.0, -4.0, 1.0]]), [1.0, 1.0, 1.0]))
    for layers, x, k in tried:
        got = klrp.explain(network(layers), x, k, semiring="fuzzy", rule=rule).input
        compared(got, bottleneck(layers, x, k, positive_ranks), layers, x, k)
    return f"in {len(tried)} networks"


def one_walk(answer: Any) -> str | None:
    """The checker of ex-10-bottleneck: the largest θ ≤ 1 at which an input is relevant, 0 where there is none."""
    small = example([[2.0, -1.0, 0.0], [1.0, 1.0, 2.0]], [[1.0, 1.0]])
    for n, (layers, x, k) in enumerate(cases(small, [1.0, 1.0, 1.0])):
        got = called(answer, lambda model, x, k: None, (network(layers), x.clone(), k))
        if n == 0 and unanswered(got):
            return None
        compared(got, bottleneck(layers, x, k, clamped_shares), layers, x, k)
    return f"in {n + 1} networks"


def bisects(answer: Any) -> str | None:
    """The checker of ex-10-flower: the largest θ at which a map covers anything, to 2 %, in at most 30 maps."""
    for ends in (0.042, 0.011, 0.3, 0.97, *(10 ** (-2 * i / 7) for i in range(1, 7))):
        asked: list[float] = []

        def covered(theta: float, ends: float = ends, asked: list[float] = asked) -> float:
            asked.append(float(theta))
            return max(0.08, 1 - theta / ends) if theta <= ends else 0.0

        got = called(answer, lambda covered, low, high: None, (covered, 0.01, 1.0))
        if not asked and unanswered(got):
            return None
        where = f"For a map that covers something up to θ = {ends:.4g}, low = 0.01 and high = 1"
        if not isinstance(got, int | float | Tensor) or math.isnan(float(got)):
            raise NotYet(f"{where}: a number is asked for, your function gave {shown(got)}.")
        if not ends / 1.02 * (1 - 1e-6) <= float(got) <= ends:
            wanted = f"a number from {ends / 1.02:.4g} to {ends:.4g} is expected, where the map is not yet empty"
            raise NotYet(f"{where}: {wanted}; your function gave {float(got):.4g}.")
        if len(asked) > 30:
            raise NotYet(f"{where}: your function asked for {len(asked)} maps; bisection needs fewer than 30.")
    return "for 10 maps"


CHECKS: dict[str, Check] = {
    "ex-10-gate": twenty_pass,
    "ex-10-both": value(
        without_both,
        within=0.006,
        hints=[
            ([0.09, 0.88], "These are the correlations of the whole table. Leave out two layers."),
            ([0.0908, 0.8813], "These are the correlations of the whole table. Leave out two layers."),
        ],
    ),
    "ex-10-signed": ranks_evidence_for,
    "ex-10-bottleneck": one_walk,
    "ex-10-flower": bisects,
}
