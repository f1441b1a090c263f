"""Checkers of the page on silent mistakes: blocks as nested lists, and single adds."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import torch
from torch import Tensor

from klrp.exercises.checking import Check, function

Blocks = list  # of residual blocks in a row; each is the list of the blocks in its branch


def ways(blocks: Blocks) -> list[tuple]:
    """Every way through blocks in a row, spelled out: past a block, or through its branch."""
    return list(product(*([("past",), *(("through", *way) for way in ways(branch))] for branch in blocks)))


def total(blocks: Blocks) -> int:
    return len(ways(blocks))


def networks() -> Iterator[tuple[Blocks]]:
    for blocks in ([[]], [[], [], []], [], [[[]]], [[[]], []], [[[], []], [[[]]]], [[], [[], [[]]], [[]]]):
        yield (blocks,)


def gap_of_halves(x: Tensor, f: Tensor, R: Tensor) -> float:
    """Add by add: both parts under LRP-0, and the half that each gets instead."""
    off = size = 0.0
    for a, b, r in zip(x.tolist(), f.tolist(), R.tolist(), strict=True):
        for part in (a, b):
            right = r * part / (a + b)
            off, size = off + abs(r / 2 - right), size + abs(right)
    return off / size


def adds() -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    yield torch.tensor([3.0, 1.0]).double(), torch.tensor([1.0, 1.0]).double(), torch.tensor([0.5, 0.5]).double()
    draw = torch.Generator().manual_seed(0)
    for _ in range(6):
        x, f, R = torch.randn(3, 7, generator=draw, dtype=torch.float64)
        yield x, f + 0.1, R


CHECKS: dict[str, Check] = {
    "ex-silent-double": function(total, networks),
    "ex-silent-halves": function(gap_of_halves, adds, within=1e-6),
}
