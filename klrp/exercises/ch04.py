"""Checkers of chapter 4, Boolean relevance."""

import torch
from torch import Tensor

from klrp.exercises.checking import Check, function


def step_down(d: Tensor, R: Tensor, theta: float) -> list[bool]:
    """The definition, neuron by neuron: j is relevant where one k is relevant and d_jk is at least theta."""
    return [any(bool(R[k]) and float(d[j, k]) >= theta for k in range(len(R))) for j in range(len(d))]


def layers() -> list[tuple[Tensor, Tensor, float]]:
    draw = torch.Generator().manual_seed(0)
    small = (torch.tensor([[0.5, 0.2], [0.3, 0.9], [0.1, -0.7]]), torch.tensor([True, False]), 0.3)
    random = [(torch.randn(5, 7, generator=draw), torch.rand(7, generator=draw) < 0.5, 0.3) for _ in range(19)]
    return [small, *random]


CHECKS: dict[str, Check] = {"ex-04-step": function(step_down, layers)}
