"""Checkers of chapter 13, masks over a data set: truth values and small random images in place of digits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from klrp.exercises.checking import Check, NotYet, function, shown, value


def of_three(answer: Any) -> str:
    """Truth values [4, 3] of three neurons in four images; what happens from the first two images to all four."""
    try:
        maps = torch.as_tensor(answer, dtype=torch.bool)
    except (TypeError, ValueError, RuntimeError) as error:
        raise NotYet(f"Truth values [4, 3], four rows of three, are asked for; yours: {shown(answer)}.") from error
    if maps.shape != (4, 3):
        raise NotYet(f"Truth values [4, 3], four rows of three, are asked for; yours are {list(maps.shape)}.")
    first, every = (joined(maps[:n]) for n in (2, 4))
    wanted = (
        ("neuron 0 leaves the and, and stays in the or", first[0][:2] == (True, True) and every[0][:2] == (False, True)),
        ("neuron 1 joins the or", not first[1][1] and every[1][1]),
        ("neuron 2 stays as it is in both, and its fraction grows", first[2][:2] == every[2][:2] and first[2][2] < every[2][2]),
    )  # fmt: skip
    for j, (text, holds) in enumerate(wanted):
        if not holds:
            told = "; ".join(
                f"{n} images: and {a}, or {o}, fraction {f:g}"
                for n, (a, o, f) in (("two", first[j]), ("four", every[j]))
            )
            raise NotYet(f"Asked for: {text}. Yours: {told}.")
    return "for all three neurons"


def joined(maps: Tensor) -> list[tuple[bool, bool, float]]:
    """For each neuron the and, the or and the fraction of truth values [n, J]."""
    return [(all(column), any(column), sum(column) / len(column)) for column in maps.T.tolist()]


def quantile(R: Tensor, q: float) -> list[bool]:
    """The definition: the smallest truth value that at least the fraction q of the maps does not exceed."""
    n, columns = len(R), R.T.tolist()
    return [next(v for v in (False, True) if sum(r <= v for r in column) >= q * n) for column in columns]


def truths() -> Iterator[tuple[Tensor, float]]:
    columns = [[True, True, True, True], [True, True, False, False], [True, False, False, False], [False] * 4]
    for q in (0.5, 0.25, 1.0, 0.75):
        yield torch.tensor(columns).T, q
    draw = torch.Generator().manual_seed(0)
    for n in range(12):
        yield torch.rand(7 if n % 2 else 8, 5, generator=draw) < 0.6, (0.25, 0.5, 0.75, 1.0)[n % 4]


def moved(images: Tensor, by: Tensor) -> Tensor:
    """Pixel (r, s) goes to row r + by[i, 0] and column s + by[i, 1], counted round the border."""
    there = torch.zeros_like(images)
    height, width = images.shape[2:]
    for i, (down, right) in enumerate(by.tolist()):
        for r in range(height):
            for s in range(width):
                there[i, :, (r + down) % height, (s + right) % width] = images[i, :, r, s]
    return there


def images_to_move() -> Iterator[tuple[Tensor, Tensor]]:
    yield torch.tensor([[[[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]]]]), torch.tensor([[1, -1]])
    draw = torch.Generator().manual_seed(0)
    for _ in range(5):
        yield torch.rand(3, 1, 5, 7, generator=draw), torch.randint(-2, 3, (3, 2), generator=draw)


def spread_and_weight(images: Tensor, weight: Tensor) -> Tensor:
    """Pixel by pixel: the standard deviation over the images, times the mean size of the weights that leave it."""
    height, width = images.shape[2:]
    scores = torch.zeros(1, height, width, dtype=images.dtype)
    for r in range(height):
        for s in range(width):
            ink, sizes = images[:, 0, r, s].tolist(), weight[:, r * width + s].abs().tolist()
            mean = sum(ink) / len(ink)
            variance = sum((v - mean) ** 2 for v in ink) / (len(ink) - 1)
            scores[0, r, s] = variance**0.5 * sum(sizes) / len(sizes)
    return scores


def inked() -> Iterator[tuple[Tensor, Tensor]]:
    images = torch.tensor([[[[0.0, 1.0, 0.5]]], [[[1.0, 1.0, 0.0]]]]).double()
    yield images, torch.tensor([[1.0, 5.0, -2.0], [-3.0, 5.0, 2.0]]).double()
    draw = torch.Generator().manual_seed(0)
    for _ in range(5):
        images = torch.rand(11, 1, 3, 5, generator=draw, dtype=torch.float64)
        yield images, torch.randn(7, 15, generator=draw, dtype=torch.float64)


def own_and_all(says: Tensor, truth: Tensor) -> list[float]:
    """The mean over the classes of the hits, and of the balanced accuracy."""
    hits, balanced = [], []
    for c, answers in enumerate(says.tolist()):
        pairs = list(zip(answers, truth.tolist(), strict=True))
        h = [s == c for s, y in pairs if y == c]
        e = [s == c for s, y in pairs if y != c]
        hits.append(sum(h) / len(h))
        balanced.append((hits[-1] + 1 - sum(e) / len(e)) / 2)
    return [sum(hits) / len(hits), sum(balanced) / len(balanced)]


def answers_of_networks() -> Iterator[tuple[Tensor, Tensor]]:
    """What a network says under the mask of each class [C, n], and the labels [n], in which each class occurs."""
    yield torch.tensor([[0, 0, 1], [1, 1, 1]]), torch.tensor([0, 1, 1])
    draw = torch.Generator().manual_seed(0)
    for _ in range(5):
        labels = torch.cat([torch.arange(3), torch.randint(0, 3, (8,), generator=draw)])
        yield torch.randint(0, 3, (3, 11), generator=draw), labels


CHECKS: dict[str, Check] = {
    "ex-13-always": value(
        [1.0, 0.5],
        within=1e-6,
        hints=[
            ([0.1, 0.5], "The first number: an image of a 3 gets the mask of 3, and then the network says 3."),
            ([1.0, 0.1], "The second number is no accuracy over ten classes: it is the mean of h and 1 − e for one class."),
            ([1.0, 1.0], "The second number: under this mask every other digit is called a c as well, so e = 1."),
            ([1.0, 0.55], "The second number weighs the class and the other nine alike: h and 1 − e each count one half."),
        ],
    ),
    "ex-13-more": of_three,
    "ex-13-quantile": function(quantile, truths),
    "ex-13-baseline": function(spread_and_weight, inked),
    "ex-13-second": function(own_and_all, answers_of_networks),
    "ex-13-shift": function(moved, images_to_move),
}  # fmt: skip
