"""Products of semirings: one contraction for each component."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from torch import Tensor

from klrp import kernels
from klrp.composed import components, joined
from klrp.conversions import of_each
from klrp.kernels import Task, unknown

NAME = ""  # users see the kernel that does the work


def why_not(task: Task) -> str:
    """Why it cannot take this task."""
    return "" if task.semiring.fused == "product" else unknown(task.semiring)


def stand_in(task: Task) -> Task:
    """The first contraction."""
    return next(_each(task))


def contract(task: Task, r: Tensor) -> list[Tensor]:
    """The tuples [N, *input, m] for each input of the layer, from [N, *output, m]."""
    parts = task.semiring.parts
    found = (
        kernels.contract(t, piece.contiguous())
        for t, piece in zip(_each(task), components(task.semiring, r), strict=True)
    )
    return [joined(parts, pieces, r.dtype) for pieces in zip(*found, strict=True)]


def _each(task: Task) -> Iterator[Task]:
    parts = task.semiring.parts
    for part, theta in zip(parts, of_each(task.theta, len(parts)), strict=True):
        yield replace(task, semiring=part, theta=theta)
