"""Checkers of chapter 18, what semirings are good for: small perceptrons, and lists of numbers in place of the table."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import combinations
from typing import Any

import torch
from torch import Tensor, nn

from klrp.exercises.checking import Check, NotYet, called, function, same, shown, unanswered, value


class Small(nn.Sequential):
    """A network that prints as the call that makes it."""

    call = ""

    def __repr__(self) -> str:
        return self.call or super().__repr__()


def small(sizes: tuple[int, ...], seed: int) -> Small:
    from klrp.models import mlp

    model = Small(*mlp(sizes, seed=seed).double().requires_grad_(False))
    model.call = f"klrp.models.mlp({sizes}, seed={seed}).double()"
    return model


def changes(net: nn.Sequential, k: int, x: Tensor, out: Tensor) -> list[list[float]]:
    """Image by image, layer by layer: how the two largest logits change when neurons behind net[:k] are put to zero."""
    found = []
    for i in range(len(x)):
        h = before = x[i : i + 1]
        for layer, module in enumerate(net):
            before, h = module(before), module(h)
            if layer == k - 1:
                h = torch.where(out[i], 0.0, h)
        two = sorted(range(before.shape[1]), key=lambda c: -float(before[0, c]))[:2]
        found.append([float(h[0, c] - before[0, c]) for c in two])
    return found


def cuts() -> Iterator[tuple[nn.Sequential, int, Tensor, Tensor]]:
    draw = torch.Generator().manual_seed(0)
    for seed in (8, 3, 4, 5, 6, 7):
        images, sizes = (1, (3, 2, 2)) if seed == 8 else (5, (7, 11, 13, 5))
        k = 3 if seed in (3, 5, 8) else 5
        x = torch.rand(images, sizes[0], generator=draw, dtype=torch.float64)
        out = torch.rand(images, sizes[(k - 1) // 2], generator=draw) < 0.5
        yield small(sizes, seed), k, x, torch.tensor([[True, False]]) if seed == 8 else out


def growing(answer: Any) -> str:
    """Shares [2, J] for which the set of the class alone has more neurons at θ = 0.1 than at 0.02."""
    try:
        shares = torch.as_tensor(answer, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise NotYet(f"Shares [2, J], two rows, are asked for; yours: {shown(answer)}.") from error
    if shares.ndim != 2 or len(shares) != 2:
        raise NotYet(f"Shares [2, J], two rows, are asked for; yours are {list(shares.shape)}.")
    if not same(shares.sum(1), [1.0, 1.0], 1e-6):
        raise NotYet(f"The shares of a logit add up to 1; yours add up to {shown(shares.sum(1))}.")
    sizes = [int(((shares[0] >= theta) & ~(shares[1] >= theta)).sum()) for theta in (0.02, 0.1)]
    if sizes[1] <= sizes[0]:
        raise NotYet(
            f"The set of the class alone has {sizes[0]} neurons at θ = 0.02 and {sizes[1]} at 0.1: it does not grow."
        )
    return f"from {sizes[0]} to {sizes[1]} neurons"


def interval(one: Tensor, other: Tensor) -> Tensor:
    """The ends of the middle 95 % of the mean differences over 20000 sets of questions, drawn with replacement."""
    lead = one.double() - other.double()
    draws = torch.randint(0, len(lead), (20000, len(lead)), generator=torch.Generator().manual_seed(0))
    return lead[draws].mean(1).quantile(torch.tensor([0.025, 0.975]).double())


def paired(answer: Callable) -> str | None:
    """The interval of a mean difference of pairs; a bootstrap is random, so a tenth of the width is allowed."""
    if not callable(answer):
        raise NotYet(f"A function is asked for; your answer is {shown(answer)}.")
    draw = torch.Generator().manual_seed(0)
    for n in range(5):
        questions = torch.rand(41, generator=draw)  # some are harder for every method
        one = questions + 0.1 * torch.rand(41, generator=draw) + 0.02 * n
        got = called(answer, interval, (one, questions))
        if n == 0 and unanswered(got):
            return None
        ends, right = torch.as_tensor([float(v) for v in got]).double(), interval(one, questions)
        if len(ends) != 2 or (ends - right).abs().max() > 0.1 * (right[1] - right[0]):
            text = f"{shown(right[0])} to {shown(right[1])}"
            raise NotYet(
                f"For the pairs number {n} (41 of them): expected about {text}, your function gave {shown(ends)}."
            )
    return "on 5 sets of pairs"


def tau(a: list[float], b: list[float]) -> float:
    """Pair by pair: 1 where both lists have the same order, −1 where they have not."""
    pairs = list(combinations(range(len(a)), 2))
    return sum(1 if (a[i] < a[j]) == (b[i] < b[j]) else -1 for i, j in pairs) / len(pairs)


def two_lists() -> Iterator[tuple[list[float], list[float]]]:
    yield [0.3, 0.2, 0.1], [0.9, 0.5, 0.7]
    draw = torch.Generator().manual_seed(0)
    for n in (2, 3, 5, 7, 11):
        yield torch.rand(n, generator=draw).tolist(), torch.randn(n, generator=draw).tolist()


def contrast(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Image by image: the Viterbi map of the class less that of the highest of the other classes, [n, h, w]."""
    from klrp import explain

    maps = []
    for image, c in zip(x, y.tolist(), strict=True):
        logits = model(image[None])[0].tolist()
        other = max((k for k in range(len(logits)) if k != c), key=lambda k: logits[k])
        one, two = (explain(model, image[None], k, semiring="viterbi").input[0, 0] for k in (c, other))
        maps.append((one - two).double())
    return torch.stack(maps)


def images_and_classes() -> Iterator[tuple[nn.Module, Tensor, Tensor]]:
    """The predicted class, and at the end the runner-up: a method is asked for both."""
    draw = torch.Generator().manual_seed(0)
    for seed in (2, 0, 4):
        n, height, width = (1, 2, 3) if seed == 2 else (3, 3, 5)
        x = torch.rand(n, 1, height, width, generator=draw, dtype=torch.float64)
        net = small((height * width, 5, 4, 3), seed)
        yield net, x, net(x).topk(2).indices[:, int(seed == 4)]


CHECKS: dict[str, Check] = {
    "ex-18-question": value(
        {1: "boolean", 2: "counting", 3: "viterbi", 4: "fuzzy", 5: "real"},
        hints=[
            (
                {1: "fuzzy", 2: "counting", 3: "viterbi", 4: "boolean", 5: "real"},
                "One walk gives yes or no for one θ; the other one gives the θ up to which it is yes.",
            ),
            (
                {1: "boolean", 2: "counting", 3: "fuzzy", 4: "viterbi", 5: "real"},
                "The product along a path, or the smallest share of it: which of the two does a threshold look at?",
            ),
        ],
    ),
    "ex-18-theta": growing,
    "ex-18-layer": function(changes, cuts),
    "ex-18-paired": paired,
    "ex-18-tau": function(tau, two_lists),
    "ex-18-own": function(contrast, images_and_classes),
}
