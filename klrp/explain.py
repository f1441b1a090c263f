"""explain(...) -> Relevance: the recursion over the steps of a network, from the output to the input."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from klrp import kernels
from klrp.arguments import Kept, Plan, plan_for
from klrp.composed import exact
from klrp.composites import Composite
from klrp.conservation import Balance, balance
from klrp.conversions import Theta
from klrp.errors import KlrpError
from klrp.network.calls import first_line
from klrp.network.layers import Layer, Pool, Read
from klrp.network.moves import Linearised, Move
from klrp.network.steps import Step
from klrp.relevance import Relevance
from klrp.rules import Rule
from klrp.semirings import REAL, Semiring, find_semiring

R = TypeVar("R")


def walk_back(
    steps: Sequence[Step], starts: Mapping[str, R], pass_down: Callable[[Step, R], Iterable[R | None]],
    join: Callable[[R, R], R], blank: Callable[[str], R], admit: Callable[[str, R], R] = lambda name, r: r,
    inputs: Iterable[str] = ("input",),
) -> Iterator[tuple[str, R]]:  # fmt: skip
    """The recursion R_j = ⊕_k Θ(d_jk) ⊗ R_k: (step, the relevance of what it outputs), from the last step to the inputs.

    It is the same for maps of numbers, of formulas, or of anything else: ``pass_down`` gives what a step hands to each
    of its sources, None where nothing passes, ``join`` is ⊕ at a fork, ``blank`` the map of a step that feeds nothing
    relevant, and ``admit`` what of a map is let through. It begins at the steps of ``starts``.
    """
    arriving = dict(starts)
    for step in reversed(steps):
        r = arriving.pop(step.name, None)
        r = None if r is None else admit(step.name, r)
        yield step.name, blank(step.name) if r is None else r
        if r is None:
            continue
        for source, below in zip(step.sources, pass_down(step, r), strict=True):
            if below is None:  # a factor that is held constant
                continue
            known = arriving.pop(source, None)
            arriving[source] = below if known is None else join(known, below)
            del known, below
    for name in inputs:
        r = arriving.pop(name, None)
        yield name, blank(name) if r is None else admit(name, r)


def explain(
    model: nn.Module,
    inputs: Tensor | Sequence[Tensor],
    target: int | Sequence[int] | Tensor | None = None,
    *,
    semiring: Semiring | str = REAL,
    composite: Composite | None = None,
    rule: Rule | None = None,
    theta: Theta | None = None,
    start: str | Tensor | Mapping[str, Tensor] = "one",
    through: Mapping[str, Tensor] | None = None,
    output: Callable[[Any], Tensor] | None = None,
    keep: str | Iterable[str] = "all",
    memory: int = 64 << 20,
) -> Relevance:
    r"""Propagate relevance from one logit of each sample back to the input.

    .. math:: R_j = \bigoplus_k Θ(d_{jk}) ⊗ R_k, \qquad R_i = 1 \text{ if } i = y \text{ else } 0
        \text{ at the output.}

    Args:
        model: a network from one tensor, or several, to logits [N, C] or [N]. It is run once, in eval mode, on a copy that
            shares its parameters, and left as it was. A softmax or sigmoid at its end is looked behind.
        inputs: floats [N, ...] (integers where the network begins with an nn.Embedding), or a tuple of such, with which
            the model is called; ``relevance.inputs`` are then their maps, and their names "input.0", "input.1", ...
        target: the class to explain: an int, a LongTensor [N] or a list of ints, or None for each sample's top logit.
        semiring: a klrp.Semiring or the name of a shipped one.
        composite: which layer gets which rule and Θ; or ``rule`` and ``theta``, one of each for all
            layers. What is left open takes the semiring's default.
        start: ``"one"``, ``"logit"`` (reals only: classical LRP), elements [N, C, *semiring.shape], or, to begin at
            hidden neurons, {step: elements [N, *shape, *semiring.shape]} of one or more steps.
        through: {step: mask}: relevance goes on only where the Boolean mask is True, which broadcasts to the step's
            map [N, *shape]. With one mask for each concept this is concept-conditional relevance (Achtibat et al. 2023).
        output: picks logits [N, C] or [N] from what the model returns: ``lambda y: y["out"][:, :, 10, 20]`` is one
            place of a segmentation. It is captured with the model, by klrp.explain_many for each batch anew.
        keep: which maps to keep: ``"all"``, ``"input"``, which is all inputs, or names of steps.
        memory: bytes for a block of shares and what is made of it; maps and weights come on top.

    Raises:
        KlrpError: for whatever of these does not fit; the message says what to do.

    Example:
        >>> relevance = klrp.explain(torchvision.models.vgg16().eval(), images, semiring="boolean")
        >>> relevance.input.shape
        torch.Size([8, 3, 224, 224])
    """
    settings: dict[str, Any] = dict(
        composite=composite, rule=rule, theta=theta, start=start, through=through, output=output, memory=memory
    )
    keep = keep if isinstance(keep, str) or not isinstance(keep, Iterable) else list(keep)
    return _explain(model, inputs, target, semiring=find_semiring(semiring), keep=keep, **settings)


def explain_many(
    model: nn.Module, loader: Iterable[Any], target: int | str | None = None, **settings: Any
) -> Iterator[Relevance]:
    """Explain batch after batch in constant memory: yields a Relevance for each batch of ``loader``.

    The network is captured once for each shape of inputs, and its steps are computed again for the others; after a
    change of its parameters or buffers it is captured anew. Weights that a kernel packs are kept for the next batches,
    within ``memory``.

    A batch is the inputs, or a tuple or list that begins with them: ((x, y), labels) for a network with two. ``target``
    is an int, None for the top logits, or ``"labels"`` for the second item of each batch. The rest is as in klrp.explain.

    Example:
        >>> for relevance in tqdm(klrp.explain_many(model, loader, "labels", semiring="counting")):
        ...     total += relevance.input.sum(0)
    """
    if not isinstance(settings.get("keep", "all"), str):
        settings["keep"] = list(settings["keep"])  # every batch reads it
    settings["semiring"] = find_semiring(settings.get("semiring", REAL))
    kept = Kept()
    for number, batch in enumerate(loader):
        inputs, *rest = batch if isinstance(batch, tuple | list) and batch else (batch,)
        chosen = target
        if isinstance(target, str):
            if target != "labels" or not rest:
                raise KlrpError.value(
                    f"target: got {target!r} for batch {number} of {1 + len(rest)} items; expected an int, None, or "
                    f'"labels" with batches (inputs, labels).'
                )
            chosen = rest[0]
        yield _explain(model, inputs, chosen, kept=kept, **settings)


def kernel_for(
    model: nn.Module,
    inputs: Tensor | Sequence[Tensor],
    target: int | Sequence[int] | Tensor | None = None,
    *,
    semiring: Semiring | str = REAL,
    composite: Composite | None = None,
    rule: Rule | None = None,
    theta: Theta | None = None,
    start: str | Tensor | Mapping[str, Tensor] = "one",
    through: Mapping[str, Tensor] | None = None,
    output: Callable[[Any], Tensor] | None = None,
    keep: str | Iterable[str] = "all",
    memory: int = 64 << 20,
) -> dict[str, str]:
    """Which kernel each step would get from klrp.explain with the same arguments: {step: kernel}.

    ``"gradient"``, ``"lists"``, ``"loops"`` (of few pairs for a neuron), ``"norms"`` (Boolean without Numba) and
    ``"blocked"`` (any semiring) are kernels; the ``why`` of the last three says what keeps the layer from a faster
    one. ``"move"`` is no kernel: relevance only moves. The errors are those of klrp.explain.

    Example:
        >>> klrp.kernel_for(torch.nn.Linear(3, 2), torch.rand(5, 3), semiring="boolean")
        {'linear': 'lists'}
    """
    given = find_semiring(semiring), composite, rule, theta, start, keep, memory
    with _computing(inputs):
        plan = plan_for(model, inputs, target, *given, through=through, output=output)
        return {
            step.name: kernels.Kernel("move") if (task := task_at(step, plan)[0]) is None else kernels.chosen(task)
            for step in plan.network.steps
        }


@contextmanager
def _computing(inputs: Any) -> Iterator[None]:
    """Without gradients, and in the precision of the inputs: autocast would compute shares in half of it."""
    first = inputs[0] if isinstance(inputs, tuple | list) and inputs else inputs
    device = first.device.type if isinstance(first, Tensor) else "cpu"
    with torch.no_grad(), torch.autocast(device, enabled=False):
        yield


def _explain(
    model: Any, inputs: Any, target: Any = None, *, semiring: Semiring, composite: Any = None, rule: Any = None,
    theta: Any = None, start: Any = "one", through: Any = None, output: Any = None, keep: Any = "all",
    memory: Any = 64 << 20, kept: Kept | None = None,
) -> Relevance:  # fmt: skip
    given = semiring, composite, rule, theta, start, keep, memory
    again = partial(plan_for, model, inputs, target, *given, kept=kept, through=through, output=output)
    with _computing(inputs):
        plan = again()
        relevance = _walked(plan)
        if relevance.maps.keys() - plan.network.inputs:
            account = partial(_account, again, relevance.logits) if semiring.linear and keep == "all" else None
            connections = partial(_edges, again, relevance.logits)
            replay = partial(_repeated, again, relevance.logits)
            relevance = replace(relevance, account=account, connections=connections, replay=replay)
        return relevance if plan.samples == len(relevance.logits) else relevance.first(plan.samples)


def _walked(plan: Plan) -> Relevance:
    """The recursion over maps of semiring elements."""
    network, semiring = plan.network, plan.semiring
    maps, held = ({"output": plan.start} if "output" in plan.keep else {}), True
    aliases = {alias: s.name for s in network.steps if s.name in plan.keep for alias in s.aliases}
    logits = network.logits
    for name, r in _walk(plan, lambda step, r: _pass_down(step, r, plan)[0]):
        held = held and exact(semiring, r)
        if name in plan.keep:
            maps[name] = r.contiguous()  # a kernel may have its channels last
        del r
    return Relevance(semiring, plan.target, logits, held, network.network.behind, network.inputs, maps, aliases)


def _walk(plan: Plan, pass_down: Callable[[Step, Tensor], list[Tensor | None]]) -> Iterator[tuple[str, Tensor]]:
    network, semiring = plan.network, plan.semiring
    shapes = {step.name: tuple(step.shape) for step in network.steps}
    shapes |= {name: tuple(network.value(name).shape) for name in network.inputs}

    def passed(step: Step, r: Tensor) -> list[Tensor | None]:
        with _about(step, plan):
            below = pass_down(step, r)
        network.forget(step.name)
        return below

    def blank(name: str) -> Tensor:
        network.forget(name)
        return semiring.full(shapes[name], "zero", plan.start)

    def admit(name: str, r: Tensor) -> Tensor:
        mask = plan.through.get(name)
        return r if mask is None else torch.where(mask, r, semiring.full((), "zero", r))

    return walk_back(network.steps, plan.starts, passed, semiring.plus, blank, admit, network.inputs)


@contextmanager
def _repeated(again: Callable[[], Plan], logits: Tensor) -> Iterator[Plan]:
    """The plan of an explanation once more; ``logits`` are those of the first."""
    with _computing(logits):
        plan = again()
        if not torch.equal(plan.network.logits, logits):
            raise KlrpError.value("relevance: the model or the inputs have changed since; explain them again.")
        yield plan


def _account(again: Callable[[], Plan], logits: Tensor) -> Mapping[str, Balance]:
    """The account of each step, by a second explanation that keeps it."""
    balances = {}
    with _repeated(again, logits) as plan:

        def pass_down(step: Step, r: Tensor) -> list[Tensor | None]:
            passed, task = _pass_down(step, r, plan)
            shares, linear = (None, True) if task is None else (task.shares, task.theta.identical)
            balances[step.name] = balance(step.operation, shares, r, passed, linear, len(logits), _values(step, plan))
            return passed

        for _ in _walk(plan, pass_down):
            pass
        nothing = Balance(*[plan.start.new_zeros(len(logits))] * len(Balance._fields))
    return {step.name: balances.get(step.name, nothing) for step in reversed(plan.network.steps)}


def _edges(again: Callable[[], Plan], logits: Tensor, name: str, r: Tensor) -> Tensor:
    """Θ(d_jk) ⊗ R_k for each weight of a step [N, *weight], from R_k [N, *output]; the steps' values are computed anew."""
    with _repeated(again, logits) as plan:
        steps = {step.name: step for step in plan.network.steps}
        task = task_at(steps[name], plan)[0] if name in steps else None
        if task is None or len(task.layer.weights) > 1 or isinstance(task.layer, Pool):
            raise KlrpError.value(f"step: {name} has no weights; edges are those of a layer, such as torch.nn.Linear.")
        with _about(steps[name], plan):
            found = kernels.edges(task, r)
        if len(found) == len(logits):
            return found
        return plan.semiring.sum(found.reshape(len(logits), -1, *found.shape[1:]), 1)  # a sample has several rows


def task_at(step: Step, plan: Plan) -> tuple[kernels.Task | None, tuple[int, ...]]:
    """What a step that takes shares asks of the kernels, and which of its sources it shares with."""
    if step.name not in plan.assignment:
        return None, ()
    (rule, theta), network, layer = plan.assignment[step.name], plan.network, step.operation
    reads, shared = [Read(*network.before_relu(source)) for source in step.sources], tuple(range(len(step.sources)))
    if isinstance(layer, Linearised):
        operation, values = layer, [read.activations for read in reads]
        layer, shared = operation.layer(operation.choice(rule.choice) or "", values)
        reads = [operation.finite(reads[i]) for i in shared]
    assert isinstance(layer, Layer)  # nothing else is assigned a rule
    value = network.value(step.name)
    return kernels.task_for(layer, rule, reads, theta, plan.semiring, plan.memory, value, plan.cache), shared


def _pass_down(step: Step, r: Tensor, plan: Plan) -> tuple[list[Tensor | None], kernels.Task | None]:
    """What a step hands to each of its sources, and the task that it was, if it takes shares."""
    task, shared = task_at(step, plan)
    if task is not None:
        below = dict(zip(shared, kernels.contract(task, r), strict=True))
        return [below.get(i) for i in range(len(step.sources))], task
    move = step.operation
    assert isinstance(move, Move)
    return list(move.hand_down(r, plan.semiring, _values(step, plan))), None


def _values(step: Step, plan: Plan) -> list[Tensor]:
    """What a move reads, if where it moves relevance depends on it."""
    reads = isinstance(step.operation, Move) and step.operation.reads_values
    return [plan.network.value(source) for source in step.sources] if reads else []


@contextmanager
def _about(step: Step, plan: Plan) -> Iterator[None]:
    """Errors from inside a step say which step it was, and under which settings."""
    try:
        yield
    except KlrpError as error:
        raise KlrpError.value(f"{_where(step, plan)}: {error}") from None
    except (RuntimeError, TypeError, IndexError, AttributeError) as error:  # the user's add, mul or Θ
        raise KlrpError.value(
            f"{_where(step, plan)}: an operation failed with: {first_line(error)} Check add and mul of the semiring with "
            f"klrp.check_laws."
        ) from error


def _where(step: Step, plan: Plan) -> str:
    settings = "".join(
        f", {what} {value!r}" for what, value in zip(("rule", "Θ"), plan.assignment.get(step.name, ()), strict=False)
    )
    return f"{step.name} ({step.kind.__name__}, output {tuple(step.shape)}){settings}, semiring {plan.semiring.name}"
