"""explain(...) -> Relevance: the recursion over the steps of a network, from the output to the input."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from klrp import contraction
from klrp.composites import ANY, Assignment, Composite, assign, check_rule
from klrp.conservation import Balance, Conservation, balance, totals
from klrp.conversions import Theta
from klrp.errors import KlrpError
from klrp.graph import Step, Trace, check_inputs, trace
from klrp.operations import Winner
from klrp.rules import Rule
from klrp.semirings import COUNTING, REAL, Semiring, find_semiring
from klrp.shares import Shares, shares_of
from klrp.tracing import first_line

EXACT = (
    2.0**53
)  # below it float64 holds every integer; a sum that arrives there may have been rounded


@dataclass(frozen=True, eq=False)
class Relevance(Mapping[str, Tensor]):
    """The relevance of every neuron: a read-only mapping from step names, output to input.

    ``relevance["features.28"]`` is the map [N, *shape of that step's output, *semiring.shape];
    ``relevance.input`` that of the network's input. ``target`` [N] are the explained classes, ``logits``
    [N, C] the network's output. ``exact`` is False where a count reached 2^53 and float64 began to round.
    """

    semiring: Semiring
    target: Tensor
    logits: Tensor
    exact: bool
    maps: Mapping[str, Tensor] = field(repr=False)
    aliases: Mapping[str, str] = field(repr=False)
    balances: Mapping[str, Balance] | None = field(repr=False)

    @property
    def input(self) -> Tensor:
        """The relevance of the input [N, *input, *semiring.shape]."""
        return self["input"]

    def __getitem__(self, name: str) -> Tensor:
        found = self.maps.get(self.aliases.get(name, name))
        if found is None:
            raise _NoSuchStep(self._missing(name))
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self.maps)

    def __len__(self) -> int:
        return len(self.maps)

    def __repr__(self) -> str:
        maps = ", ".join(f"{name} {list(r.shape)}" for name, r in self.maps.items())
        return f"<Relevance {self.semiring.name}: {maps}>"

    def _missing(self, name: str) -> str:
        known = [*self.maps, *self.aliases]
        calls = [k for k in known if k.startswith(f"{name}@")]
        if calls:
            return f"step: {name!r} is called {len(calls)} times; name one of its calls: {', '.join(calls)}."
        return f"step: there is no map {name!r}. The maps kept are: {', '.join(known)}."

    def conservation(self) -> Conservation:
        """Where relevance went, step by step.

        For the reals: received = passed + bias + stabiliser + lost, each [N], where lost is what went to
        neurons with z = 0, what Θ changed, and what constants received. For other semirings the ⊕ over
        each map [N, *shape]: how much is relevant, which a semiring need not conserve.
        """
        if self.semiring is not REAL:
            return totals(self.maps, self.semiring)
        if self.balances is None:
            raise KlrpError.value('keep: conservation() needs every map; explain with keep="all".')
        return Conservation(self.balances)


class _NoSuchStep(KlrpError, KeyError):
    """A step name that a Relevance does not have; also a KeyError, as a Mapping must raise."""

    __str__ = Exception.__str__


@torch.no_grad()
def explain(
    model: nn.Module,
    inputs: Tensor,
    target: int | Tensor | None = None,
    *,
    semiring: Semiring | str = REAL,
    composite: Composite | None = None,
    rule: Rule | None = None,
    theta: Theta | None = None,
    start: str | Tensor = "one",
    keep: str | Iterable[str] = "all",
    memory: int = 64 << 20,
) -> Relevance:
    r"""Propagate relevance from one logit of each sample back to the input.

    .. math:: R_j = \bigoplus_k Θ(d_{jk}) ⊗ R_k, \qquad R_i = 1 \text{ if } i = y \text{ else } 0
        \text{ at the output.}

    Args:
        model: a network that torch.fx can trace, from one tensor to logits [N, C] or [N]. It is explained
            in eval mode and left as it was.
        inputs: floats [N, ...] (integers where the network begins with an nn.Embedding).
        target: the class to explain: an int, a LongTensor [N], or None for each sample's top logit.
        semiring: a klrp.Semiring or the name of a shipped one.
        composite: which layer gets which rule and Θ; or ``rule`` and ``theta``, one of each for all
            layers. What is left open takes the semiring's default.
        start: ``"one"``, ``"logit"`` (reals only: classical LRP), or elements [N, C, *semiring.shape].
        keep: which maps to keep: ``"all"``, ``"input"``, or names of steps.
        memory: bytes for a block of shares and what is made of it; maps and weights come on top.

    Raises:
        KlrpError: for whatever of these does not fit; the message says what to do.

    Example:
        >>> relevance = klrp.explain(torchvision.models.vgg16().eval(), images, semiring="boolean")
        >>> relevance.input.shape
        torch.Size([8, 3, 224, 224])
    """
    semiring = find_semiring(semiring)
    if (
        isinstance(inputs, Tensor) and inputs.ndim and not len(inputs)
    ):  # for the shapes, a blank sample
        blank = inputs.new_zeros(1, *inputs.shape[1:])
        settings = {"semiring": semiring, "composite": composite, "rule": rule, "theta": theta}
        return _without_samples(
            explain(model, blank, keep=keep, memory=memory, **settings), target, start
        )
    plan = _plan(model, inputs, target, semiring, composite, rule, theta, start, keep, memory)
    network, everything = plan.network, isinstance(keep, str) and keep == "all"
    arriving = {network.output: plan.first.reshape(*network.output_shape, *semiring.shape)}
    maps, balances, largest = {"output": plan.first}, {}, 0.0
    for step in reversed(network.steps):
        r = arriving.pop(step.name, None)
        if r is None:  # it feeds nothing relevant
            r = semiring.full(tuple(step.value.shape), "zero", plan.first)
        with _about(step, plan):
            shares, passed = _pass_down(step, r, plan)
            for source, relevance in zip(step.sources, passed, strict=True):
                known = arriving.get(source)
                arriving[source] = relevance if known is None else semiring.plus(known, relevance)
        if everything and semiring is REAL:
            linear = step.name not in plan.decided or plan.decided[step.name][1].identical
            balances[step.name] = balance(step.operation, shares, r, passed, linear)
        largest = max(largest, _largest(r, semiring))
        if step.name in plan.wanted:
            maps[step.name] = r
    maps["input"] = arriving.get("input", semiring.full(tuple(inputs.shape), "zero", plan.first))
    exact = max(largest, _largest(maps["input"], semiring)) < EXACT
    maps = {name: r for name, r in maps.items() if name in plan.wanted}
    aliases = {alias: s.name for s in network.steps if s.name in maps for alias in s.aliases}
    kept = balances if everything else None
    return Relevance(semiring, plan.target, network.logits, exact, maps, aliases, kept)


def explain_many(
    model: nn.Module, loader: Iterable[Any], target: int | str | None = None, **settings: Any
) -> Iterator[Relevance]:
    """Explain batch after batch in constant memory: yields a Relevance for each batch of ``loader``.

    A batch is the inputs, or a tuple or list that begins with them. ``target`` is an int, None for the top
    logits, or ``"labels"`` for the second item of each batch. The rest is as in klrp.explain.

    Example:
        >>> for relevance in tqdm(klrp.explain_many(model, loader, "labels", semiring="counting")):
        ...     total += relevance.input.sum(0)
    """
    if not isinstance(settings.get("keep", "all"), str):
        settings["keep"] = list(settings["keep"])  # every batch reads it
    for number, batch in enumerate(loader):
        inputs, *rest = batch if isinstance(batch, tuple | list) else (batch,)
        chosen = target
        if isinstance(target, str):
            if target != "labels" or not rest:
                raise KlrpError.value(
                    f"target: got {target!r} for batch {number} of {1 + len(rest)} items; expected an int, None, or "
                    f'"labels" with batches (inputs, labels).'
                )
            chosen = rest[0]
        yield explain(model, inputs, chosen, **settings)


def kernel_for(
    model: nn.Module,
    inputs: Tensor,
    target: int | Tensor | None = None,
    *,
    semiring: Semiring | str = REAL,
    composite: Composite | None = None,
    rule: Rule | None = None,
    theta: Theta | None = None,
    start: str | Tensor = "one",
    keep: str | Iterable[str] = "all",
    memory: int = 64 << 20,
) -> dict[str, str]:
    """Which kernel each step would get from klrp.explain with the same arguments: {step: kernel}.

    ``"gradient"`` and ``"blocked"`` are klrp.kernels; ``"move"`` is no kernel: relevance only moves. The
    errors are those of klrp.explain.

    Example:
        >>> klrp.kernel_for(torch.nn.Linear(3, 2), torch.rand(5, 3), semiring="boolean")
        {'linear': 'blocked'}
    """
    plan = _plan(
        model, inputs, target, find_semiring(semiring), composite, rule, theta, start, keep, memory
    )
    return {
        step.name: contraction.kernel_name(plan.decided[step.name][1], plan.semiring)
        if step.name in plan.decided
        else "move"
        for step in plan.network.steps
    }


class _Plan(NamedTuple):
    """All that is decided before relevance moves."""

    network: Trace
    semiring: Semiring
    decided: Assignment
    target: Tensor
    first: Tensor
    wanted: set[str]
    memory: int


def _plan(
    model: Any, inputs: Any, target: Any, semiring: Semiring, composite: Any, rule: Any, theta: Any, start: Any,
    keep: Any, memory: Any,
) -> _Plan:  # fmt: skip
    check_inputs(inputs)
    _check_memory(memory)
    network = trace(model, inputs)
    decided = assign(network.steps, _composite(composite, rule, theta), semiring)
    target = _targets(target, network.logits)
    first = _start(start, semiring, target, network.logits)
    return _Plan(network, semiring, decided, target, first, _wanted(keep, network.steps), memory)


def _pass_down(step: Step, r: Tensor, plan: _Plan) -> tuple[Shares | None, list[Tensor]]:
    """What a step hands to each of its sources; its shares too, if it takes some."""
    if step.name not in plan.decided:
        return None, list(step.operation.hand_down(r, plan.semiring))
    rule, theta = plan.decided[step.name]
    layer = step.operation
    if isinstance(layer, Winner):
        layer = layer.average(step.value.dtype)
    activations = [plan.network.value(source) for source in step.sources]
    shares = shares_of(layer, rule, activations, plan.memory)
    return shares, contraction.contract(shares, r, theta, plan.semiring, plan.memory)


@contextmanager
def _about(step: Step, plan: _Plan) -> Iterator[None]:
    """Errors from inside a step say which step it was, and under which settings."""
    settings = "".join(
        f", {what} {value!r}"
        for what, value in zip(("rule", "Θ"), plan.decided.get(step.name, ()), strict=False)
    )
    where = f"{step.name} ({step.kind.__name__}, output {tuple(step.value.shape)}){settings}, semiring {plan.semiring.name}"
    try:
        yield
    except KlrpError as error:
        raise KlrpError.value(f"{where}: {error}") from None
    except (
        RuntimeError,
        TypeError,
        IndexError,
        AttributeError,
    ) as error:  # the user's add, mul or Θ
        raise KlrpError.value(
            f"{where}: an operation failed with: {first_line(error)} Check add and mul of the semiring with "
            f"klrp.check_laws."
        ) from error


# --- what the arguments mean ----------------------------------------------------------------------------


def _check_memory(memory: Any) -> None:
    if isinstance(memory, bool) or not isinstance(memory, int) or memory <= 0:
        raise KlrpError.value(
            f"memory: got {memory!r}; expected a number of bytes above 0, such as 64 << 20."
        )


def _composite(composite: Composite | None, rule: Rule | None, theta: Theta | None) -> Composite:
    if composite is None:
        check_rule(rule, "rule")
        if rule is not None and rule.pools:
            raise KlrpError.value(
                "rule: as_average() is for max-pools alone; put it in a klrp.Composite."
            )
        return Composite([(ANY, rule, theta)])
    if not isinstance(composite, Composite):
        raise KlrpError.type(
            f"composite: got {type(composite).__name__}; expected a klrp.Composite."
        )
    if rule is not None or theta is not None:
        raise KlrpError.value(
            "composite: it was given together with rule or theta. Put them in its last row: (klrp.ANY, rule, theta)."
        )
    return composite


def _targets(target: Any, logits: Tensor) -> Tensor:
    """The explained classes [N]."""
    n, classes = logits.shape
    if target is None:
        return logits.argmax(1)
    if hasattr(target, "__index__") and not isinstance(target, bool | Tensor):
        target = operator.index(target)
        _check_class(target, classes)
        target = torch.full((n,), target)
    if not isinstance(target, Tensor) or target.is_floating_point() or target.dtype == torch.bool:
        raise KlrpError.type(f"target: got {target!r}; expected an int, a LongTensor [N], or None.")
    if tuple(target.shape) != (n,):
        raise KlrpError.value(
            f"target: got shape {tuple(target.shape)} for {n} samples; expected ({n},)."
        )
    target = target.to(logits.device, torch.int64)
    for wrong in target[(target < 0) | (target >= classes)].tolist():
        _check_class(wrong, classes)
    return target


def _check_class(target: int, classes: int) -> None:
    if not 0 <= target < classes:
        raise KlrpError.value(
            f"target: class {target} is out of range; the network has {classes} logits, 0 to {classes - 1}."
        )


def _start(start: Any, semiring: Semiring, targets: Tensor, logits: Tensor) -> Tensor:
    """The relevance of the logits [N, C, *shape]."""
    shape = (*logits.shape, *semiring.shape)
    dtype = semiring.dtype_for(logits.dtype)
    if isinstance(start, Tensor):
        if tuple(start.shape) != shape:
            raise KlrpError.value(
                f"start: got shape {tuple(start.shape)}; expected {shape}, [N, C, *semiring.shape]."
            )
        return semiring.admit(start.detach().to(logits.device), "start").to(dtype)
    if start not in ("one", "logit"):
        raise KlrpError.value(
            f'start: got {start!r}; expected "one", "logit" or a tensor of elements {shape}.'
        )
    if start == "logit" and semiring is not REAL:
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


def _largest(r: Tensor, semiring: Semiring) -> float:
    """The largest count, where counts are floats."""
    return float(r.amax()) if semiring is COUNTING and r.numel() else 0.0


def _without_samples(relevance: Relevance, target: Any, start: Any) -> Relevance:
    """The Relevance of an empty batch, from that of one sample; its arguments are checked all the same."""
    targets = _targets(target, relevance.logits[:0])
    _start(start, relevance.semiring, targets, relevance.logits[:0])
    balances = relevance.balances
    if balances is not None:
        balances = {name: Balance(*(v[:0] for v in entry)) for name, entry in balances.items()}
    return replace(
        relevance,
        target=targets,
        logits=relevance.logits[:0],
        maps={name: r[:0] for name, r in relevance.maps.items()},
        balances=balances,
    )
