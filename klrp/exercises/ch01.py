"""Checkers of chapter 1, a relevance followed down by hand."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from klrp.exercises.checking import Check, NotYet, function, same, shown, unanswered, value

Layer = tuple[Tensor, Tensor]  # weights [J, K] and biases [K]


def shares(a: Tensor, w: Tensor, b: Tensor) -> Tensor:
    """The definition, share by share: a_j w_jk / z_k, and 0 where z_k is 0."""
    d = torch.zeros_like(w)
    for k in range(w.shape[1]):
        z = sum(a[j] * w[j, k] for j in range(len(a))) + b[k]
        for j in range(len(a)):
            d[j, k] = a[j] * w[j, k] / z if z != 0 else 0.0
    return d


def sum_below(z: Tensor, b: Tensor, R: Tensor) -> float:
    """Neuron by neuron: k hands down the part 1 - b_k / z_k of what it has, and nothing where z_k is 0."""
    return sum(float(R[k] * (1 - b[k] / z[k])) for k in range(len(R)) if z[k] != 0)


def mended(layers: list[Layer], x: Tensor, c: int) -> Tensor:
    """LRP-0 through layers with ReLU between them, from 1 at class c."""
    activations = [x]
    for w, b in layers[:-1]:
        activations.append((activations[-1] @ w + b).relu())
    R = torch.zeros_like(layers[-1][1])
    R[c] = 1
    for (w, b), a in zip(reversed(layers), reversed(activations), strict=True):
        R = (shares(a, w, b) * R).sum(1)
    return R


def start_of(logits: Tensor, answer: int, right: int) -> Tensor:
    """The logit of one class, and minus that of another."""
    start = torch.zeros(1, len(logits), dtype=logits.dtype)
    start[0, answer], start[0, right] = logits[answer], -logits[right]
    return start


def for_negatives(w: Tensor, b: Tensor) -> Layer:
    """Weights and biases that make of 1 - x what w and b make of x."""
    bias = b.clone()
    for k in range(len(b)):
        for j in range(len(w)):
            bias[k] += w[j, k]
    return -w, bias


def of_second_output() -> list[float]:
    """The relevances of the inputs of `klrp.models.toy()`, for its second output."""
    from klrp.models import toy

    network, x = toy()
    layers = [(layer.weight.T, torch.zeros(layer.out_features).to(x)) for layer in network[::2]]
    return mended(layers, x[0], 1).tolist()


def randn(draw: torch.Generator, *size: int) -> Tensor:
    return torch.randn(size, generator=draw, dtype=torch.float64)


def doubles(*values) -> tuple[Tensor, ...]:
    return tuple(torch.tensor(v, dtype=torch.float64) for v in values)


def of_layers() -> list[tuple[Tensor, Tensor, Tensor]]:
    draw = torch.Generator().manual_seed(0)
    small = doubles([1.0, 2.0], [[3.0, 1.0], [1.0, 0.5]], [1.0, 0.0])
    silent = doubles([1.0, 2.0], [[3.0, 1.0], [1.0, -0.5]], [1.0, 0.0])
    return [small, silent, *((randn(draw, 5).relu(), randn(draw, 5, 3), randn(draw, 3)) for _ in range(18))]


def of_sums() -> list[tuple[Tensor, Tensor, Tensor]]:
    draw = torch.Generator().manual_seed(1)
    small = doubles([2.0, 4.0], [0.0, 0.0], [0.5, 0.5]), doubles([2.0, 4.0], [1.0, -1.0], [0.5, 0.5])
    silent = doubles([2.0, 0.0], [1.0, 3.0], [0.5, 0.5])
    return [*small, silent, *((randn(draw, 7), randn(draw, 7), randn(draw, 7)) for _ in range(17))]


def of_networks() -> list[tuple[list[Layer], Tensor, int]]:
    """With a bias; with a sum of zero in a hidden neuron, and in the output; and random ones."""
    draw = torch.Generator().manual_seed(2)
    upper = doubles([[1.0, -1.0], [1.0, 2.0]], [1.0, 0.0])
    small = [doubles([[1.0, 0.0], [0.0, 1.0]], [0.0, 0.0]), upper], *doubles([1.0, 2.0]), 0
    hidden = [doubles([[1.0, 1.0], [1.0, -0.5]], [0.0, 0.0]), doubles([[1.0], [1.0]], [0.0])], *doubles([1.0, 2.0]), 0
    output = [doubles([[1.0, 0.0], [0.0, 1.0]], [0.0, 0.0]), doubles([[2.0], [-1.0]], [0.0])], *doubles([1.0, 2.0]), 0
    random = []
    for n in range(10):
        layers = [(randn(draw, j, k), randn(draw, k)) for j, k in pairwise((5, 7, 3, 2))]
        random.append((layers, randn(draw, 5).abs(), n % 2))
    return [small, hidden, output, *random]


def of_logits() -> list[tuple[Tensor, int, int]]:
    draw = torch.Generator().manual_seed(3)
    small = (*doubles([0.5, 3.0, 2.0]), 1, 2)
    return [small, *((randn(draw, 5), n % 5, (n + 2) % 5) for n in range(9))]


def of_first_layers() -> list[Layer]:
    draw = torch.Generator().manual_seed(4)
    small = doubles([[1.0, -2.0], [3.0, 0.5]], [0.5, 0.0])
    return [small, *((randn(draw, 7, 5), randn(draw, 5)) for _ in range(9))]


def some_networks() -> dict[str, tuple[nn.Module, Tensor]]:
    """By what a message calls them: networks of linear layers, convolutions, ReLUs and max-pools, and batches."""
    from klrp.models import mlp

    draw = torch.Generator().manual_seed(5)
    torch_state = torch.get_rng_state()
    torch.manual_seed(5)
    convolutional = nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(3 * 2 * 3, 7)
    )
    torch.set_rng_state(torch_state)
    named = {
        "klrp.models.mlp((5, 3, 2)) and one input": (mlp((5, 3, 2)), randn(draw, 1, 5)),
        "klrp.models.mlp((7, 5, 3)) and a batch of 3 inputs": (mlp((7, 5, 3)), randn(draw, 3, 7)),
        "a small convolutional network and a batch of 2 pictures": (convolutional, randn(draw, 2, 1, 5, 7)),
    }
    return {name: (net.double(), x) for name, (net, x) in named.items()}


def gradient_times_input(answer) -> str | None:
    """An LRP-0 map that starts with the largest logit of each sample, on networks where it is gradient times input."""
    from klrp import explain, rules

    if not callable(answer):
        raise NotYet(f"A function is asked for; your answer is {shown(answer)}.")
    for name, (net, x) in some_networks().items():
        got, right = answer(net, x), explain(net, x, rule=rules.lrp0(), start="logit").input
        if unanswered(got):
            return None
        if not same(got, right, 1e-6):
            raise NotYet(f"For {name}: expected {shown(right)}, your function gave {shown(got)}.")
    return "on 3 networks"


CHECKS: dict[str, Check] = {
    "ex-1-other": value(
        of_second_output,
        within=0.005,
        hints=[
            ([1.134, -0.134], "That explains the first output."),
            ([1.03, -0.03, 1.0], "Only the two relevances, without their sum."),
            ([-1.440, 0.042], "That starts with the logit; start with 1."),
            ([-1.030, 0.030], "Divide by the output with its sign: two negative numbers make a positive share."),
        ],
    ),
    "ex-1-predict": value(
        "d",
        hints=[
            ("a", "Look at the sign of the bias in the equation: 1 - b/z, and b is negative."),
            ("b", "That would be so without a bias."),
            ("c", "The right direction. Now put in the numbers: which logit stands in the denominator?"),
        ],
    ),
    "ex-1-shares": function(shares, of_layers),
    "ex-1-sum": function(sum_below, of_sums),
    "ex-1-debug": function(mended, of_networks),
    "ex-1-mistake": function(start_of, of_logits),
    "ex-1-own": gradient_times_input,
    "ex-1-negative": function(for_negatives, of_first_layers),
}
