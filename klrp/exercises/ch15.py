"""Checkers of chapter 15, perturbation: small scores of a few pixels, on which every order can be followed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from klrp.exercises.checking import Check, NotYet, called, function, shown, unanswered, value


@dataclass(frozen=True)
class Score:
    """A score of images [m, J], one number for each: a linear part, and a bend where ``bend`` is not 0."""

    w: tuple[float, ...]
    bend: float = 0.0

    def __call__(self, x: Tensor) -> Tensor:
        z = x @ torch.tensor(self.w, dtype=x.dtype)
        return z + self.bend * z.relu() ** 2

    def __repr__(self) -> str:
        linear = f"x @ tensor({list(self.w)})"
        return (
            f"(lambda x: {linear})" if not self.bend else f"(lambda x: {linear} + {self.bend} * ({linear}).relu() ** 2)"
        )


def between(f: Callable, x: Tensor, noisy: Tensor, R: Tensor) -> float:
    """The area between the curves, pixel after pixel: the trapezoids of both, over fractions from 0 to 1."""
    J, areas = len(x), []
    for falling in (True, False):
        image, curve = x.clone(), [float(f(x[None])[0])]
        for j in sorted(range(J), key=lambda j: float(R[j]), reverse=falling):
            image[j] = noisy[j]
            curve.append(float(f(image[None])[0]))
        areas.append(sum((a + b) / 2 for a, b in zip(curve, curve[1:], strict=False)) / J)
    return areas[1] - areas[0]


def images_to_flip() -> Iterator[tuple[Score, Tensor, Tensor, Tensor]]:
    x = torch.tensor([3.0, 1.0, 0.0]).double()
    yield Score((1.0, 2.0, -4.0)), x, torch.tensor([0.0, 0.0, 1.0]).double(), torch.tensor([3.0, 2.0, 4.0]).double()
    draw = torch.Generator().manual_seed(0)
    for n in range(6):
        w = tuple(round(v, 2) for v in torch.randn(7, generator=draw).tolist())
        x, noisy, R = torch.randn(3, 7, generator=draw, dtype=torch.float64)
        yield Score(w, 0.5 * (n % 2)), x, noisy, R


TIED = torch.tensor([1.0, 2.0, 1.0, 0.0, 2.0, 1.0])  # places 1 and 4 are tied, and so are 0, 2 and 5
DRAWS = 300


def drawn(R: Tensor, seed: int) -> Tensor:
    """What is asked for; here it only names the arguments."""
    raise NotImplementedError


def in_random_order(answer: Callable) -> str | None:
    """An order by relevance, in which equal pixels stand in an order of their own for each seed."""
    if not callable(answer):
        raise NotYet(f"A function is asked for; your answer is {shown(answer)}.")
    found = []
    for seed in range(DRAWS):
        got = called(answer, drawn, (TIED, seed))
        if seed == 0 and unanswered(got):
            return None
        order = got.tolist() if isinstance(got, Tensor) else got
        text = f"For R = {shown(TIED)}, seed = {seed}: your order is {shown(order)}"
        if not isinstance(order, list) or sorted(order) != list(range(6)):
            raise NotYet(f"{text}; expected the numbers from 0 to 5, each of them once.")
        if [TIED[j] for j in order] != sorted(TIED, reverse=True):
            raise NotYet(f"{text}, of relevances {shown(TIED[order])}; expected the largest first.")
        found.append(tuple(order))
    again = [tuple(torch.as_tensor(answer(TIED.clone(), seed)).tolist()) for seed in range(10)]
    if other := [seed for seed in range(10) if again[seed] != found[seed]]:
        told = f"{found[other[0]]}, and {again[other[0]]} at the next call"
        raise NotYet(f"For seed = {other[0]} your function gave {told}; expected the same.")
    orders = Counter(found)  # two orders of one tie, six of the other
    if len(orders) < 12 or max(orders.values()) > 3 * DRAWS / 12:
        most, n = orders.most_common(1)[0]
        raise NotYet(
            f"Of {DRAWS} seeds {n} gave {most}, and {12 - len(orders)} of the 12 orders never came; they are alike."
        )
    return f"for {DRAWS} seeds"


def black_in_all(images: Tensor) -> Tensor:
    """1 where a pixel is 0 in all images, else 0."""
    height, width = images.shape[2:]
    return torch.tensor([[float(not images[:, :, r, s].any()) for s in range(width)] for r in range(height)])


def images_with_paper() -> Iterator[Tensor]:
    yield torch.tensor([[[[0.0, 0.5], [0.0, 0.0]]], [[[0.0, 1.0], [0.2, 0.0]]]])
    draw = torch.Generator().manual_seed(0)
    for _ in range(5):
        images = torch.rand(3, 1, 5, 7, generator=draw)
        yield torch.where(images < 0.6, 0.0, images)


def never_lit(answer: Callable) -> str | None:
    """A map of two values, whatever they are: the larger one where a pixel is black in all images."""
    if not callable(answer):
        raise NotYet(f"A function is asked for; your answer is {shown(answer)}.")
    n = 0
    for n, images in enumerate(images_with_paper(), 1):
        got, right = called(answer, black_in_all, (images,)), black_in_all(images)
        if n == 1 and unanswered(got):
            return None
        if not isinstance(got, Tensor) or got.shape != right.shape:
            raise NotYet(f"For images = {shown(images)}: a map {list(right.shape)} is asked for, it gave {shown(got)}.")
        values = got.double().unique()
        if len(values) != 2 or not torch.equal(got.double() == values[-1], right > 0):
            raise NotYet(f"For images = {shown(images)}: expected a map like {shown(right)}, it gave {shown(got)}.")
    return f"on {n} sets of images"


def scored(logits: Tensor, labels: Tensor, kind: str) -> list[float]:
    """Image by image: whether the label is the largest logit, its softmax, or its logit."""
    found = []
    for row, y in zip(logits.double().tolist(), labels.tolist(), strict=True):
        exps = torch.tensor(row, dtype=torch.float64).exp().tolist()
        right = float(row[y] == max(row))
        found.append({"accuracy": right, "probability": exps[y] / sum(exps), "logit": row[y]}[kind])
    return found


def logits_and_kinds() -> Iterator[tuple[Tensor, Tensor, str]]:
    draw = torch.Generator().manual_seed(0)
    for kind in ("accuracy", "probability", "logit"):
        yield torch.tensor([[2.0, 1.0, 0.0], [0.0, 3.0, 0.5]]), torch.tensor([0, 2]), kind
        for _ in range(3):
            yield torch.randn(7, 5, generator=draw), torch.randint(0, 5, (7,), generator=draw), kind


CHECKS: dict[str, Check] = {
    "ex-15-nothing": value(
        [0.9, 0.0],
        within=1e-6,
        hints=[
            ([0.9, 0.9], "The area between two curves that are one?"),
            ([0.45, 0.0], "At the right end all pixels are replaced, by themselves: the curve does not fall."),
            ([1.0, 0.0], "The first number: nine images in ten are right, before and after."),
        ],
    ),
    "ex-15-sign": value(
        [-0.3, 0.3, 0.3],
        within=1e-6,
        hints=[
            ([0.3, 0.3, 0.3], "The first one: which pixel is now attacked first?"),
            ([-0.3, 0.6, 0.3], "The second one: flipping knows a map by its order alone."),
            ([-0.3, 1.6, 0.3], "The second one: flipping knows a map by its order alone."),
        ],
    ),
    "ex-15-hand": value(
        [4 / 3, -2 / 3],
        within=0.01,
        hints=[
            ([4, -2], "The way from no pixel to all has the width 1: each step is a third."),
            ([-2 / 3, 4 / 3], "The first number is for the first order."),
            ([4 / 3, 4 / 3], "The second map ranks pixel 3 last: x is 0 there."),
            ([4 / 3, 2 / 3], "The second one: which of the two curves lies below?"),
        ],
    ),
    "ex-15-flip": function(between, images_to_flip),
    "ex-15-ties": in_random_order,
    "ex-15-never": never_lit,
    "ex-15-probability": function(scored, logits_and_kinds, within=1e-5),
}  # fmt: skip
