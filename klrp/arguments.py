"""What the arguments of klrp.explain mean: all that is decided, and checked, before relevance moves."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from klrp.composites.assignment import ANY, Assignment, Composite, assign, check_rule
from klrp.conversions import Theta
from klrp.errors import KlrpError
from klrp.kernels import Cache
from klrp.network.steps import Network, Trace
from klrp.network.tracing import State, checked_inputs, trace
from klrp.rules import Rule
from klrp.semirings import Semiring

GRAPHS = 4  # shapes of inputs whose graphs are kept: that of the batches, that of the last one


class Plan(NamedTuple):
    """All that is decided before relevance moves; of the samples the first ``samples`` are the caller's."""

    network: Trace
    semiring: Semiring
    assignment: Assignment
    target: Tensor | None
    start: Tensor
    keep: set[str]
    memory: int
    cache: Cache | None
    starts: Mapping[str, Tensor]
    through: Mapping[str, Tensor]
    samples: int


class Kept:
    """What klrp.explain_many keeps from batch to batch: graphs by (shape, dtype, device) of the inputs, with what each
    step gets, and packed weights. All of it goes when the model has changed."""

    def __init__(self) -> None:
        self.state: State | None = None
        self.graphs: dict[tuple, tuple[Network, Assignment]] = {}
        self.cache: Cache | None = None

    def renew(self, model: Any, memory: int) -> None:
        """Forget what belongs to a model as it was."""
        state = State(model)
        if self.state is None or state != self.state:
            self.state, self.graphs, self.cache = state, {}, Cache(memory)


def plan_for(
    model: Any, inputs: Any, target: Any, semiring: Semiring, composite: Any, rule: Any, theta: Any, start: Any,
    keep: Any, memory: Any, kept: Kept | None = None, through: Any = None, output: Any = None,
) -> Plan:  # fmt: skip
    """Check the arguments of klrp.explain, whose names these are, and decide what they leave open.

    ``kept`` holds what is known of the model from earlier batches: a graph depends on the model and on shapes alone.
    """
    xs = checked_inputs(inputs)
    _check_memory(memory)
    if kept is not None:
        kept.renew(model, memory)
    if output is not None and not callable(output):
        raise KlrpError.type(f"output: got {output!r}; expected a function of what the model returns.")
    network, assignment = _traced(model, xs, _composite(composite, rule, theta), semiring, kept, output)
    n, logits, free = len(xs[0]), network.logits, isinstance(start, Tensor | Mapping)
    if len(logits) != n and n:  # two samples were run in the place of one
        target, start = _twice(target), _twice(start)
    elif not n:  # and two blank ones in the place of none
        start_for(start, semiring, targets_for(target, logits[:0]), logits[:0])
        for argument, given in (("start", start), ("through", through)):
            list(_by_step(argument, given if isinstance(given, Mapping) else {}, network))
        target, start, through = None, "one", None
    chosen = targets_for(target, logits)
    first = start_for(start, semiring, chosen, logits)
    if isinstance(start, Mapping):
        starts = _elements_of(start, network, semiring)
    else:
        starts = {network.output: first.reshape(*network.value(network.output).shape, *semiring.shape)}
    cache, names, masks = (
        None if kept is None else kept.cache,
        _names(keep, network),
        _masks(through, network, semiring),
    )
    asked = None if free else chosen
    return Plan(network, semiring, assignment, asked, first, names, memory, cache, starts, masks, n)


def _traced(
    model: Any, xs: tuple[Tensor, ...], composite: Composite, semiring: Semiring, kept: Kept | None,
    output: Callable | None,
) -> tuple[Trace, Assignment]:  # fmt: skip
    kept = kept if output is None else None  # what a function closes over may change between batches
    key = tuple((x.shape, x.dtype, x.device) for x in xs)
    if kept is not None and key in kept.graphs:
        network, assignment = kept.graphs[key]
        return network.run(xs), assignment
    found = trace(model, xs, output)
    assignment = assign(found.steps, composite, semiring)
    if kept is not None and found.network.replayable and len(found.logits) == len(xs[0]):
        while len(kept.graphs) >= GRAPHS:
            del kept.graphs[next(iter(kept.graphs))]
        kept.graphs[key] = found.network, assignment
    return found, assignment


def _check_memory(memory: Any) -> None:
    if isinstance(memory, bool) or not isinstance(memory, int) or memory <= 0:
        raise KlrpError.value(f"memory: got {memory!r}; expected a number of bytes above 0, such as 64 << 20.")


def _composite(composite: Composite | None, rule: Rule | None, theta: Theta | None) -> Composite:
    if composite is None:
        check_rule(rule, "rule")
        if rule is not None and rule.choice:
            raise KlrpError.value(f"rule: {rule!r} is for some layers alone; put it in a klrp.Composite.")
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
    given, many = target, isinstance(target, Sequence) and not isinstance(target, str)
    try:
        if many or isinstance(target, np.ndarray):
            target = torch.as_tensor(target)
            target = target if target.numel() else target.long()
        elif not isinstance(target, Tensor | bool | np.bool_):
            target = torch.tensor(operator.index(target))
    except (TypeError, ValueError, RuntimeError):
        raise _no_target(given) from None
    if (
        not isinstance(target, Tensor)
        or target.is_floating_point()
        or target.is_complex()
        or target.dtype == torch.bool
    ):
        raise _no_target(given)
    if target.ndim == 0:
        _check_class(int(target), classes)
        target = target.expand(n)
    if tuple(target.shape) != (n,):
        raise KlrpError.value(f"target: got shape {tuple(target.shape)} for {n} samples; expected ({n},).")
    target = target.to(logits.device, torch.int64)
    for wrong in target[(target < 0) | (target >= classes)].tolist():
        _check_class(wrong, classes)
    return target.clone()


def _no_target(target: Any) -> KlrpError:
    return KlrpError.type(f"target: got {target!r}; expected an int, a LongTensor [N] or a list of ints, or None.")


def _check_class(target: int, classes: int) -> None:
    if not 0 <= target < classes:
        raise KlrpError.value(
            f"target: class {target} is out of range; the network has {classes} logits, 0 to {classes - 1}."
        )


def start_for(start: Any, semiring: Semiring, targets: Tensor, logits: Tensor) -> Tensor:
    """The relevance of the logits [N, C, *shape]."""
    shape = (*logits.shape, *semiring.shape)
    dtype = semiring.dtype_for(logits.dtype)
    if isinstance(start, Mapping):
        return semiring.full(logits.shape, "zero", logits)
    if isinstance(start, Tensor):
        if tuple(start.shape) != shape:
            raise KlrpError.value(f"start: got shape {tuple(start.shape)}; expected {shape}, [N, C, *semiring.shape].")
        return semiring.admit(start.detach().to(logits.device), "start").to(dtype)
    if not isinstance(start, str) or start not in ("one", "logit"):
        raise KlrpError.value(
            f'start: got {start!r}; expected "one", "logit", a tensor of elements {shape}, or a dict of steps.'
        )
    if start == "logit" and not semiring.linear:
        raise KlrpError.value(
            f'start: "logit" is a real number, and the semiring is {semiring.name}. Use start="one", or a tensor of '
            f"its elements {shape}."
        )
    chosen = torch.zeros_like(logits, dtype=torch.bool).scatter_(1, targets[:, None], True)
    one, zero = (semiring.full((), which, logits) for which in ("one", "zero"))
    one = logits if start == "logit" else one
    return torch.where(chosen.reshape(*logits.shape, *(1,) * len(semiring.shape)), one, zero)


def _elements_of(start: Mapping, network: Trace, semiring: Semiring) -> dict[str, Tensor]:
    """Where relevance begins, for each step of ``start``."""
    found = {}
    for name, elements in _by_step("start", start, network):
        value = network.value(name)
        shape = (*value.shape, *semiring.shape)
        if not isinstance(elements, Tensor) or tuple(elements.shape) != shape:
            given = tuple(elements.shape) if isinstance(elements, Tensor) else type(elements).__name__
            raise KlrpError.value(f"start: for {name} got {given}; expected elements {shape}.")
        elements = semiring.admit(elements.detach().to(value.device), "start")
        found[name] = elements.to(semiring.dtype_for(network.logits.dtype))
    return found


def _masks(through: Any, network: Trace, semiring: Semiring) -> dict[str, Tensor]:
    """The masks of ``through``, as they are laid over maps of elements."""
    found = {}
    for name, mask in _by_step("through", {} if through is None else through, network):
        value = network.value(name)
        try:
            fits = mask.dtype == torch.bool and torch.broadcast_shapes(mask.shape, value.shape) == value.shape
        except (RuntimeError, AttributeError):
            fits = False
        if not fits:
            given = f"{tuple(mask.shape)} of {mask.dtype}" if isinstance(mask, Tensor) else type(mask).__name__
            raise KlrpError.value(
                f"through: for {name} got {given}; expected a Boolean mask that broadcasts to {tuple(value.shape)}."
            )
        found[name] = mask.to(value.device).reshape((*mask.shape, *(1,) * len(semiring.shape)))
    return found


def _by_step(argument: str, given: Any, network: Trace) -> Iterable[tuple[str, Any]]:
    """The items of a dictionary by the names of steps, their aliases resolved."""
    if not isinstance(given, Mapping):
        raise KlrpError.type(f"{argument}: got {type(given).__name__}; expected a dict from names of steps to tensors.")
    aliases = {alias: step.name for step in network.steps for alias in step.aliases}
    known = {step.name: step.name for step in network.steps} | aliases | {name: name for name in network.inputs}
    for name, item in given.items():
        if name not in known:
            raise KlrpError.value(f"{argument}: there is no step {name!r}. The steps are: {', '.join(known)}.")
        if any(known[name] == known.get(other) and other != name for other in given):
            raise KlrpError.value(f"{argument}: {name!r} is there twice, under another name too. Give it once.")
        yield known[name], item


def _names(keep: Any, network: Trace) -> set[str]:
    """The names of the steps whose maps are kept, "output" and the inputs among them."""
    aliases = {alias: step.name for step in network.steps for alias in step.aliases}
    names = {"output", *network.inputs, *(step.name for step in network.steps)}
    if isinstance(keep, str) and keep == "all":
        return names
    if not isinstance(keep, str | Iterable):
        raise KlrpError.type(f'keep: got {keep!r}; expected "all", "input" or names of steps.')
    if isinstance(keep, str):
        keep = network.inputs if keep == "input" else [keep]
    wanted = {aliases.get(name, name) if isinstance(name, str) else repr(name) for name in keep}
    if unknown := sorted(map(str, wanted - names)):
        raise KlrpError.value(
            f"keep: there is no step {', '.join(unknown)}. The steps are: {', '.join(sorted(names | set(aliases)))}."
        )
    return wanted


def _twice(x: Any) -> Any:
    """What was given for one sample, for two of it."""
    if isinstance(x, Mapping):
        return {name: _twice(elements) for name, elements in x.items()}
    if isinstance(x, int | str | None) or not hasattr(x, "__len__") or (isinstance(x, Tensor) and not x.ndim):
        return x
    return torch.cat([torch.as_tensor(x)] * 2)
