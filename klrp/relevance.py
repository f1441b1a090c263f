"""explain(...) -> Relevance: the recursion over the steps of a network, from the output to the input."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from klrp import contraction
from klrp.composites import Composite
from klrp.conservation import Balance, Conservation, balance, totals
from klrp.conversions import Conversion, Theta
from klrp.errors import KlrpError
from klrp.graph import Step
from klrp.network.layers import Layer, Read
from klrp.network.moves import Winner
from klrp.plan import Plan, plan_for, start_for, targets_for
from klrp.rules import Rule
from klrp.semirings import REAL, Semiring, find_semiring
from klrp.shares import Shares, shares_of
from klrp.tracing import first_line


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
            raise KlrpError.key(self._missing(name))
        return found

    # Maps are tensors: two explanations are the same only if they are one object.
    __eq__, __hash__ = object.__eq__, object.__hash__

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
        if not self.semiring.linear:
            return totals(self.maps, self.semiring)
        if self.balances is None:
            raise KlrpError.value('keep: conservation() needs every map; explain with keep="all".')
        return Conservation(self.balances)


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
    if isinstance(inputs, Tensor) and inputs.ndim and not len(inputs):
        # A blank sample gives the shapes.
        blank = inputs.new_zeros(1, *inputs.shape[1:])
        settings = {"semiring": semiring, "composite": composite, "rule": rule, "theta": theta}
        return _without_samples(explain(model, blank, keep=keep, memory=memory, **settings), target, start)
    plan = plan_for(model, inputs, target, semiring, composite, rule, theta, start, keep, memory)
    network, everything = plan.network, isinstance(keep, str) and keep == "all"
    arriving = {network.output: plan.first.reshape(*network.output_shape, *semiring.shape)}
    maps, balances, largest = {"output": plan.first}, {}, 0.0
    for step in reversed(network.steps):
        r = arriving.pop(step.name, None)
        if r is None:  # it feeds nothing relevant
            r = semiring.full(tuple(step.shape), "zero", plan.first)
        with _about(step, plan):
            passed, account = _pass_down(step, r, plan, everything)
            for source, relevance in zip(step.sources, passed, strict=True):
                known = arriving.get(source)
                arriving[source] = relevance if known is None else semiring.plus(known, relevance)
        if account is not None:
            balances[step.name] = account
        largest = max(largest, _largest(r, semiring))
        if step.name in plan.wanted:
            maps[step.name] = r.contiguous()  # a kernel may have its channels last
        network.forget(step.name)
    blank = semiring.full(tuple(inputs.shape), "zero", plan.first)
    maps["input"] = arriving.get("input", blank).contiguous()
    exact = max(largest, _largest(maps["input"], semiring)) < (semiring.exact_below or math.inf)
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

    ``"gradient"``, ``"lists"``, ``"norms"`` (Boolean without Numba) and ``"blocked"`` (any semiring) are kernels;
    the ``why`` of the last two says what keeps the layer from a faster one. ``"move"`` is no kernel: relevance
    only moves. The errors are those of klrp.explain.

    Example:
        >>> klrp.kernel_for(torch.nn.Linear(3, 2), torch.rand(5, 3), semiring="boolean")
        {'linear': 'lists'}
    """
    plan = plan_for(model, inputs, target, find_semiring(semiring), composite, rule, theta, start, keep, memory)
    return {
        step.name: contraction.kernel_name(*_layer_at(step, plan), plan.semiring)
        if step.name in plan.decided
        else contraction.Kernel("move")
        for step in plan.network.steps
    }


def shares_at(step: Step, plan: Plan) -> Shares | None:
    """The shares of a step that takes some."""
    if step.name not in plan.decided:
        return None
    layer, rule, reads, _ = _layer_at(step, plan)
    return shares_of(layer, rule, reads, plan.memory, plan.network.value(step.name))


def _layer_at(step: Step, plan: Plan) -> tuple[Layer, Rule, list[Read], Conversion]:
    """The layer of a step that takes shares, what it reads, and what was decided for it."""
    layer = step.operation
    if isinstance(layer, Winner):
        layer = layer.average(step.dtype)
    rule, theta = plan.decided[step.name]
    return layer, rule, [Read(*plan.network.before_relu(s)) for s in step.sources], theta


def _pass_down(step: Step, r: Tensor, plan: Plan, accounts: bool) -> tuple[list[Tensor], Balance | None]:
    """What a step hands to each of its sources; for the reals, on demand, the account of it too."""
    shares, linear = shares_at(step, plan), True
    if shares is None:
        passed = list(step.operation.hand_down(r, plan.semiring))
    else:
        theta = plan.decided[step.name][1]
        passed = contraction.contract(shares, r, theta, plan.semiring, plan.memory)
        linear = theta.identical
    if not accounts or not plan.semiring.linear:
        return passed, None
    return passed, balance(step.operation, shares, r, passed, linear)


@contextmanager
def _about(step: Step, plan: Plan) -> Iterator[None]:
    """Errors from inside a step say which step it was, and under which settings."""
    settings = "".join(
        f", {what} {value!r}" for what, value in zip(("rule", "Θ"), plan.decided.get(step.name, ()), strict=False)
    )
    where = f"{step.name} ({step.kind.__name__}, output {tuple(step.shape)}){settings}, semiring {plan.semiring.name}"
    try:
        yield
    except KlrpError as error:
        raise KlrpError.value(f"{where}: {error}") from None
    except (RuntimeError, TypeError, IndexError, AttributeError) as error:  # the user's add, mul or Θ
        raise KlrpError.value(
            f"{where}: an operation failed with: {first_line(error)} Check add and mul of the semiring with "
            f"klrp.check_laws."
        ) from error


def _largest(r: Tensor, semiring: Semiring) -> float:
    """The largest count, where counts are floats that end up rounded."""
    return float(r.amax()) if semiring.exact_below and r.numel() else 0.0


def _without_samples(relevance: Relevance, target: Any, start: Any) -> Relevance:
    """The Relevance of an empty batch, from that of one sample; its arguments are checked all the same."""
    targets = targets_for(target, relevance.logits[:0])
    start_for(start, relevance.semiring, targets, relevance.logits[:0])
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
