"""What the arguments of klrp.explain mean: all that is decided, and checked, before relevance moves."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from klrp.composites import ANY, Assignment, Composite, assign, check_rule
from klrp.conversions import Theta
from klrp.errors import KlrpError
from klrp.graph import Step, Trace, check_inputs, trace
from klrp.rules import Rule
from klrp.semirings import Semiring


class Plan(NamedTuple):
    """All that is decided before relevance moves."""

    network: Trace
    semiring: Semiring
    decided: Assignment
    target: Tensor
    first: Tensor
    wanted: set[str]
    memory: int


def plan_for(
    model: Any, inputs: Any, target: Any, semiring: Semiring, composite: Any, rule: Any, theta: Any, start: Any,
    keep: Any, memory: Any,
) -> Plan:  # fmt: skip
    """Check the arguments of klrp.explain, whose names these are, and decide what they leave open."""
    check_inputs(inputs)
    _check_memory(memory)
    network = trace(model, inputs)
    decided = assign(network.steps, _composite(composite, rule, theta), semiring)
    target = targets_for(target, network.logits)
    first = start_for(start, semiring, target, network.logits)
    return Plan(network, semiring, decided, target, first, _wanted(keep, network.steps), memory)


def _check_memory(memory: Any) -> None:
    if isinstance(memory, bool) or not isinstance(memory, int) or memory <= 0:
        raise KlrpError.value(f"memory: got {memory!r}; expected a number of bytes above 0, such as 64 << 20.")


def _composite(composite: Composite | None, rule: Rule | None, theta: Theta | None) -> Composite:
    if composite is None:
        check_rule(rule, "rule")
        if rule is not None and rule.pools:
            raise KlrpError.value("rule: as_average() is for max-pools alone; put it in a klrp.Composite.")
        return Composite([(ANY, rule, theta)])
    if not isinstance(composite, Composite):
        raise KlrpError.type(f"composite: got {type(composite).__name__}; expected a klrp.Composite.")
    if rule is not None or theta is not None:
        raise KlrpError.value(
            "composite: it was given together with rule or theta. Put them in its last row: (klrp.ANY, rule, theta)."
        )
    return composite


def targets_for(target: Any, logits: Tensor) -> Tensor:
    """The explained classes [N]."""
    n, classes = logits.shape
    if target is None:
        return logits.argmax(1)
    if not isinstance(target, bool | Tensor):
        try:
            target = operator.index(target)
        except TypeError:
            hint = " Use torch.as_tensor(target)." if hasattr(target, "__len__") else ""
            raise KlrpError.type(f"target: got {target!r}; expected an int, a LongTensor [N], or None.{hint}") from None
        _check_class(target, classes)
        target = torch.full((n,), target)
    if not isinstance(target, Tensor) or target.is_floating_point() or target.dtype == torch.bool:
        raise KlrpError.type(f"target: got {target!r}; expected an int, a LongTensor [N], or None.")
    if tuple(target.shape) != (n,):
        raise KlrpError.value(f"target: got shape {tuple(target.shape)} for {n} samples; expected ({n},).")
    target = target.to(logits.device, torch.int64)
    for wrong in target[(target < 0) | (target >= classes)].tolist():
        _check_class(wrong, classes)
    return target


def _check_class(target: int, classes: int) -> None:
    if not 0 <= target < classes:
        raise KlrpError.value(
            f"target: class {target} is out of range; the network has {classes} logits, 0 to {classes - 1}."
        )


def start_for(start: Any, semiring: Semiring, targets: Tensor, logits: Tensor) -> Tensor:
    """The relevance of the logits [N, C, *shape]."""
    shape = (*logits.shape, *semiring.shape)
    dtype = semiring.dtype_for(logits.dtype)
    if isinstance(start, Tensor):
        if tuple(start.shape) != shape:
            raise KlrpError.value(f"start: got shape {tuple(start.shape)}; expected {shape}, [N, C, *semiring.shape].")
        return semiring.admit(start.detach().to(logits.device), "start").to(dtype)
    if start not in ("one", "logit"):
        raise KlrpError.value(f'start: got {start!r}; expected "one", "logit" or a tensor of elements {shape}.')
    if start == "logit" and not semiring.linear:
        raise KlrpError.value(
            f'start: "logit" is a real number, and the semiring is {semiring.name}. Use start="one", or a tensor of '
            f"its elements {shape}."
        )
    chosen = torch.zeros_like(logits, dtype=torch.bool).scatter_(1, targets[:, None], True)
    one, zero = (semiring.full((), which, logits) for which in ("one", "zero"))
    one = logits if start == "logit" else one
    return torch.where(chosen.reshape(*logits.shape, *(1,) * len(semiring.shape)), one, zero)


def _wanted(keep: Any, steps: Iterable[Step]) -> set[str]:
    """The names of the steps whose maps are kept, "output" and "input" among them."""
    aliases = {alias: step.name for step in steps for alias in step.aliases}
    names = {"output", "input", *(step.name for step in steps)}
    if isinstance(keep, str) and keep == "all":
        return names
    if not isinstance(keep, str | Iterable):
        raise KlrpError.type(f'keep: got {keep!r}; expected "all", "input" or names of steps.')
    if isinstance(keep, str):
        keep = [keep]
    wanted = {aliases.get(name, name) for name in keep}
    if unknown := sorted(map(str, wanted - names)):
        raise KlrpError.value(
            f"keep: there is no step {', '.join(unknown)}. The steps are: {', '.join(sorted(names | set(aliases)))}."
        )
    return wanted
