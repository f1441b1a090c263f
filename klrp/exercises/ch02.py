"""Checkers of chapter 2, the rules."""

from collections.abc import Callable
from itertools import pairwise, product
from math import prod

import torch
from torch import Tensor, nn

from klrp.exercises.checking import Check, NotYet, function, same, shown, unanswered, value

Layer = tuple[Tensor, Tensor]  # weights [J, K] and biases [K]


def nearest_root(a: Tensor, w: Tensor, b: float) -> Tensor:
    """The point of the plane w · x + b = 0 where one arrives straight along its normal."""
    z = sum(float(a[j] * w[j]) for j in range(len(a))) + b
    length = sum(float(w[j]) ** 2 for j in range(len(a)))
    return torch.stack([a[j] - z / length * w[j] for j in range(len(a))])


def part_of_the_way(a: Tensor, w: Tensor, b: float, low: float, high: float) -> float:
    """Where a sum that falls linearly, from that at a to that in the corner, is zero."""
    z = sum(float(a[j] * w[j]) for j in range(len(a))) + b
    corner = sum(float(w[j]) * (low if w[j] > 0 else high) for j in range(len(a))) + b
    return z / (z - corner)


def limit_map(layers: list[Layer], x: Tensor, c: int) -> Tensor:
    """Path by path: on every edge the activation below it times its weight."""
    activations = [x]
    for w, b in layers[:-1]:
        activations.append((activations[-1] @ w + b).relu())
    R = torch.zeros_like(x)
    for path in product(*(range(len(a)) for a in activations)):
        edges = zip(layers, activations, pairwise([*path, c]), strict=True)
        R[path[0]] += prod(float(a[j] * w[j, k]) for (w, _), a, (j, k) in edges)
    return R


def zplus_eps(a: Tensor, w: Tensor, b: Tensor, R: Tensor) -> Tensor:
    """z⁺ through one layer, with ε = 0.25 times the root mean square of its sums, contribution by contribution."""
    m = [[max(0.0, float(a[j] * w[j, k])) for k in range(len(b))] for j in range(len(a))]
    z = [sum(m[j][k] for j in range(len(a))) + max(0.0, float(b[k])) for k in range(len(b))]
    eps = 0.25 * (sum(v * v for v in z) / len(z)) ** 0.5
    return torch.tensor([sum(m[j][k] / (z[k] + eps) * float(R[k]) for k in range(len(b))) for j in range(len(a))]).to(a)


def randn(draw: torch.Generator, *size: int) -> Tensor:
    return torch.randn(size, generator=draw, dtype=torch.float64)


def doubles(*values) -> tuple[Tensor, ...]:
    return tuple(torch.tensor(v, dtype=torch.float64) for v in values)


def of_neurons() -> list[tuple[Tensor, Tensor, float]]:
    draw = torch.Generator().manual_seed(0)
    small = (*doubles([3.0, 1.0], [1.0, 1.0]), 0.0)
    cases = [(randn(draw, 7), randn(draw, 7), 0.5 - n % 2) for n in range(60)]
    return [small, *[(a, w, b) for a, w, b in cases if a @ w + b > 0][:19]]


def of_layers() -> list[tuple[Tensor, ...]]:
    """Activations, weights, biases and relevances: without signs, with them, and random ones."""
    draw = torch.Generator().manual_seed(4)
    small = doubles([1.0, 2.0], [[3.0, 1.0], [1.0, -0.5]], [0.0, 0.0], [1.0, 0.0])
    signed = doubles([-1.0, 2.0], [[-3.0, 1.0], [1.0, -0.5]], [1.0, -1.0], [1.0, 1.0])
    return [small, signed, *((randn(draw, 5), randn(draw, 5, 3), randn(draw, 3), randn(draw, 3)) for _ in range(5))]


def in_boxes() -> list[tuple[Tensor, Tensor, float, float, float]]:
    """Active neurons whose inputs lie in a box."""
    draw = torch.Generator().manual_seed(1)
    cases = [(*doubles([0.5, 1.0], [2.0, 1.0]), 0.0, 0.0, 1.0), (*doubles([0.75, 0.5], [2.0, -1.0]), 0.5, 0.0, 1.0)]
    cases.append((*doubles([0.5, 1.0], [2.0, 1.0]), 0.5, 0.0, 1.0))  # no root in the box
    while len(cases) < 20:
        low, high = (0.0, 1.0) if len(cases) % 2 else (-1.0, 2.0)
        a, w = low + (high - low) * torch.rand(7, generator=draw, dtype=torch.float64), randn(draw, 7)
        if a @ w > 0:
            cases.append((a, w, 0.1, low, high))
    return cases


def of_networks() -> list[tuple[list[Layer], Tensor, int]]:
    """Networks of three layers, and of two, with a class whose logit is positive."""
    draw = torch.Generator().manual_seed(2)
    upper = doubles([[1.0, 0.0], [-1.0, 3.0]], [0.0, 0.0])
    cases = [([doubles([[1.0, 0.0], [0.0, 1.0]], [0.0, 0.0]), upper], *doubles([2.0, 1.0]), 0)]
    while len(cases) < 8:
        sizes = (5, 7, 3, 2) if len(cases) % 2 else (7, 5, 3)
        layers, x = [(randn(draw, j, k), randn(draw, k)) for j, k in pairwise(sizes)], randn(draw, sizes[0]).abs()
        a = x
        for w, b in layers:
            a = a.relu() @ w + b
        if a.max() > 0:
            cases.append((layers, x, int(a.argmax())))
    return cases


def contrast(answer: Callable) -> str | None:
    """The z⁺ map of the likeliest class minus that of the runner-up, for each sample of a batch."""
    from klrp import explain, rules
    from klrp.models import mlp

    if not callable(answer):
        raise NotYet(f"A function is asked for; your answer is {shown(answer)}.")
    draw = torch.Generator().manual_seed(3)
    for sizes, n in (((2, 3, 2), 1), ((7, 5, 3), 1), ((3, 7, 5), 11)):
        model, x = mlp(sizes, seed=1).double(), 3 * randn(draw, n, sizes[0])
        got, top = answer(model, x), model(x).topk(2).indices
        if unanswered(got):
            return None
        first, second = (explain(model, x, top[:, i], rule=rules.zplus()).input for i in range(2))
        if not same(got, first - second, 1e-6):
            raise NotYet(
                f"For klrp.models.mlp({sizes}, seed=1) and x = {shown(x)}: expected {shown(first - second)}, your "
                f"function gave {shown(got)}."
            )
    return "on 3 networks"


def own_rule(answer) -> str:
    """A rule that shares as z⁺ does, with a stabiliser relative to z⁺."""
    from klrp import explain, rules

    if not isinstance(answer, rules.Rule):
        raise NotYet(f"A klrp.rules.Rule is asked for; your answer is {shown(answer)}.")
    for a, w, b, R in of_layers():
        layer = nn.Linear(*w.shape).double()
        layer.load_state_dict({"weight": w.T, "bias": b})
        got = explain(layer, a[None], 0, rule=answer, start=R[None]).input[0]
        if not same(got, right := zplus_eps(a, w, b, R), 1e-5):
            raise NotYet(
                f"For a = {shown(a)}, w = {shown(w)}, b = {shown(b)} and the relevances {shown(R)} above: expected "
                f"{shown(right)}, your rule gives {shown(got)}."
            )
    return "on 7 layers"


def without_biases(sizes: tuple[int, ...], seed: int) -> nn.Sequential:
    from klrp.models import mlp

    model = mlp(sizes, seed=seed, dtype=torch.float64).requires_grad_(False)
    for layer in model[1::2]:
        layer.bias.zero_()
    return model


def one_neuron() -> tuple[nn.Sequential, Tensor]:
    """Three inputs -1, 0.5 and 0 of one active neuron with the weights 1, -1 and 0.5, and two layers above it."""
    model = without_biases((3, 1, 1, 1), 0)
    for layer, weights, bias in zip(model[1::2], ([[1.0, -1.0, 0.5]], [[1.0]], [[1.0]]), (2.0, 0.0, 0.0), strict=True):
        layer.weight.copy_(*doubles(weights))
        layer.bias.fill_(bias)
    return model, torch.tensor([[-1.0, 0.5, 0.0]], dtype=torch.float64)


def likeness(composite) -> float:
    """The mean correlation of the pixels' maps of two classes, on 30 random networks without biases."""
    from klrp import explain

    draw, found = torch.Generator().manual_seed(5), []
    for seed in range(30):
        model = without_biases((47, 31, 17, 5), seed)
        x = 2 * torch.rand(1, 47, generator=draw, dtype=torch.float64) - 1
        first, second = (explain(model, x, int(c), composite=composite).input[0] for c in model(x)[0].topk(2).indices)
        found.append(torch.corrcoef(torch.stack([first, second]))[0, 1])
    return float(torch.stack(found).mean())


def chosen(answer: Callable) -> str | None:
    """A composite that meets the four wishes of the exercise."""
    from klrp import Composite, explain

    composite = answer() if callable(answer) else answer
    if unanswered(composite):
        return None
    if not isinstance(composite, Composite):
        raise NotYet(f"A function that gives a klrp.Composite is asked for; it gave {shown(composite)}.")
    model, x = one_neuron()
    R = explain(model, x, 0, composite=composite)
    if not same(R.input[0] / R.input.sum(), [0.0, 0.5, 0.5], 1e-6):
        raise NotYet(
            "Wishes 1 and 2: a neuron has the inputs -1, 0.5 and 0, and the weights 1, -1 and 0.5. Measured against the "
            f"end of the range that speaks least for it, their shares are 0, 0.5 and 0.5. Yours are {shown(R.input[0])}."
        )
    model = without_biases((7, 5, 3, 2), 0)
    total = explain(model, x.new_ones(1, 7), None, composite=composite).input.sum()
    if not same(total, 1.0, 1e-6):
        raise NotYet(f"Wish 3: in a network without biases the map adds up to {shown(total)} in place of 1.")
    if (found := likeness(composite)) > 0.45:
        raise NotYet(f"Wish 4: on 30 networks the maps of two classes have the correlation {found:.2f}, in the mean.")
    return "it meets all four wishes"


CHECKS: dict[str, Check] = {
    "ex-02-byhand": value(
        [0.593, 0.756],
        within=0.002,
        hints=[
            ([1.0, 1.0], "That is LRP-0. Add 1 to every sum."),
            ([0.593, 0.593], "The lower layer has a stabiliser, too."),
            ([0.593, 0.351], "Each hidden neuron has its own sum, and so its own factor; 0.593 is that of the output."),
        ],
    ),
    "ex-02-predict": value(
        "b",
        hints=[
            ("a", "One of the four compares z with a number that does not grow with it."),
            ("c", "One of the two does: but γ stands at the weights, and a factor of all weights cancels."),
            ("d", "Write down a share of LRP-0 with 2w in place of w."),
        ],
    ),
    "ex-02-choose": chosen,
    "ex-02-contrast": contrast,
    "ex-02-own": own_rule,
    "ex-02-wsquare": function(nearest_root, of_neurons),
    "ex-02-zbox": function(part_of_the_way, in_boxes),
    "ex-02-limit": function(limit_map, of_networks),
}
