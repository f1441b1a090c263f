"""Checkers of chapter 9, a VGG-16. They use small networks: no photograph and no trained weight is needed."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from klrp.exercises.checking import Check, NotYet, called, function, shown, unanswered, value

LOW, HIGH = -2.0, 2.0  # of the pixels that small_vgg takes
SMALL_WIDTHS = (3, 8, 16, 16, 16)


def small_vgg() -> nn.Sequential:
    """A network of four convolutions and two linear layers: pictures [n, 3, 20, 20] with pixels from −2 to 2, four classes.

    It is in double precision, has random weights and no biases, so that all relevance can arrive at the pixels.
    """
    from klrp.models.training import seeded

    layers: list[nn.Module] = []
    with seeded(22):
        for i, (lower, upper) in enumerate(itertools.pairwise(SMALL_WIDTHS)):
            layers += [nn.Conv2d(lower, upper, 3, padding=1, bias=False), nn.ReLU()]
            layers += [nn.MaxPool2d(2)] if i % 2 else []
        layers += [nn.Flatten(), nn.Linear(400, 16, bias=False), nn.ReLU(), nn.Linear(16, 4, bias=False)]
        network = nn.Sequential(*layers)
        for weight in network.parameters():
            nn.init.kaiming_normal_(weight)
    return network.double().eval().requires_grad_(False)


def small_pictures() -> Tensor:
    """Two pictures of noise for `small_vgg` [2, 3, 20, 20]."""
    draw = torch.Generator().manual_seed(1)
    return torch.randn(2, 3, 20, 20, generator=draw, dtype=torch.float64).clamp(LOW, HIGH)


def part_apart(A: Tensor, B: Tensor) -> float:
    """Each map divided by its sum; then what A has more than B, place by place. What B has more is as much."""
    a, b = A.double().flatten().tolist(), B.double().flatten().tolist()
    return sum(max(0.0, p / sum(a) - q / sum(b)) for p, q in zip(a, b, strict=True))


def pairs_of_maps() -> Iterator[tuple[Tensor, Tensor]]:
    yield torch.tensor([[1.0, 3.0], [0.0, 0.0]]), torch.tensor([[2.0, 2.0], [2.0, 2.0]])
    draw = torch.Generator().manual_seed(0)
    for _ in range(9):
        yield torch.rand(5, 7, generator=draw), 3 * torch.rand(5, 7, generator=draw)


@dataclass(frozen=True)
class Method:
    """A map [n, H, W] of pictures [n, 3, H, W]: how far a pixel is above a part of its right neighbour."""

    part: float

    def __call__(self, x: Tensor) -> Tensor:
        return (x - self.part * x.roll(-1, 3)).relu().sum(1)

    def __repr__(self) -> str:
        return f"(lambda x: (x - {self.part:g} * x.roll(-1, 3)).relu().sum(1))"


def mirror_likeness(map_of: Callable[[Tensor], Tensor], x: Tensor) -> float:
    """Pearson's correlation of the mirrored map with the map of the mirrored picture, over all pixels."""
    one = [row[::-1] for row in map_of(x)[0].tolist()]
    turned = torch.tensor([[row[::-1] for row in channel] for channel in x[0].tolist()], dtype=x.dtype)
    a, b = torch.tensor(one).double().flatten(), map_of(turned[None])[0].double().flatten()
    a, b = a - a.mean(), b - b.mean()
    return float((a * b).sum() / (a.square().sum() * b.square().sum()).sqrt())


def methods() -> Iterator[tuple[Method, Tensor]]:
    yield Method(1.0), torch.tensor([[[[1.0, 3.0, 0.0], [2.0, 0.0, 5.0]]] * 3])
    draw = torch.Generator().manual_seed(0)
    for part in (0.2, 0.5, 1.5):
        yield Method(part), torch.rand(1, 3, 5, 7, generator=draw)


def in_blocks(answer: Any) -> str | None:
    """The checker of ex-09-own: which rule each layer of a VGG-16 gets."""
    from klrp.composites import Composite
    from klrp.models import vgg16_half

    composite = called(answer, wanted_rule, (-1.5, 2.5))
    if unanswered(composite):
        return None
    if not isinstance(composite, Composite):
        raise NotYet(f"A klrp.Composite is asked for; your function gave {shown(composite)}.")
    network = vgg16_half().eval()
    given = {row[0]: row[2] for row in composite.describe(network, torch.zeros(1, 3, 32, 32)).rows}
    asked = [n for n, m in network.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    for name in asked:
        if given[name] != wanted_rule(-1.5, 2.5, name):
            told = f"{name} gets {given[name]}; expected {wanted_rule(-1.5, 2.5, name)}"
            raise NotYet(f"For low = -1.5, high = 2.5: {told}. The first row that matches a layer decides.")
    return f"in {len(asked)} layers"


def wanted_rule(low: float, high: float, name: str = "") -> str:
    """The rule of a layer of a VGG-16 by its name, as text."""
    if name == "features.0":
        return f"zbox({low:g}, {high:g})"
    if name.startswith("classifier"):
        return "epsilon(1e-06)"
    return "gamma(0.25)" if name in ("features.34", "features.37", "features.40") else "zplus()"


def chosen(answer: Any) -> str:
    """The checker of ex-09-choose: what a composite does to the two highest classes of two pictures."""
    from klrp.composites import Composite

    if not isinstance(answer, Composite):
        raise NotYet(f"A klrp.Composite is asked for; your answer is {shown(answer)}.")
    for number, x in enumerate(small_pictures()):
        classes, totals, sizes, r = measured(answer, x[None])
        where = f"Picture {number}, classes {classes}:"
        if (worst := max(totals, key=lambda t: abs(t - 1))) < 0.99 or worst > 1.01:
            raise NotYet(f"{where} a map adds up to {worst:.3f} of its logit; 0.99 to 1.01 is asked for (1).")
        if max(sizes) > 4:
            raise NotYet(f"{where} the sum of |R| is {max(sizes):.2f} times the logit; at most 4 is asked for (2).")
        if r > 0.7:
            raise NotYet(f"{where} the two maps have the correlation {r:.2f}; at most 0.7 is asked for (3).")
    return "for 2 pictures and 2 classes of each"


def measured(composite: Any, x: Tensor) -> tuple[list[int], list[float], list[float], float]:
    """What a composite does to a picture [1, 3, 20, 20] in `small_vgg`, for the two classes with the highest logits.

    The classes; for each the sum of R over the logit; the sum of |R| over the logit's size; the correlation of both maps.
    """
    import klrp

    network = small_vgg()
    logits, classes = network(x)[0].topk(2)
    R = klrp.explain(network, x.expand(2, -1, -1, -1), classes, composite=composite, start="logit").input
    totals, sizes = R.sum((1, 2, 3)) / logits, R.abs().sum((1, 2, 3)) / logits.abs()
    r = float(torch.corrcoef(R.sum(1).flatten(1))[0, 1])
    return classes.tolist(), totals.tolist(), sizes.tolist(), r


CHECKS: dict[str, Check] = {
    "ex-09-cam": value(
        [[1, 0], [0, 7]],
        hints=[
            ([[1, -1], [-2, 7]], "Grad-CAM keeps only what is positive."),
            ([[4, 0], [0, 28]], "The weight of a channel is the mean of its gradients, not their sum."),
            (
                [[1, 2], [0, 9]],
                "The second channel has a negative weight. The cut at 0 comes after the sum over channels.",
            ),
        ],
    ),
    "ex-09-decide": function(part_apart, pairs_of_maps, within=1e-5),
    "ex-09-shift": function(mirror_likeness, methods, within=1e-4),
    "ex-09-pools": value(
        [4, 1024],
        hints=[
            ([2, 32], "A 2 × 2 pool has four inputs."),
            ([4, 20], "On a path the shares are multiplied."),
            ([1, 1], "That is the pool whose winner takes all; here the four inputs share."),
        ],
    ),
    "ex-09-own": in_blocks,
    "ex-09-choose": chosen,
}
