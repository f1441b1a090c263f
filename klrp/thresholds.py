"""Thresholds that a network and its inputs choose: for a walk, so that maps are equally large; at the gate, by its size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from klrp import conversions
from klrp.composites import ANY, Composite
from klrp.conversions import Theta
from klrp.errors import KlrpError
from klrp.explain import explain
from klrp.network.layers import Pool, Reduce
from klrp.network.steps import Step
from klrp.network.tracing import checked_inputs, trace
from klrp.rules import Rule
from klrp.semirings import FUZZY


def even(
    model: nn.Module, inputs: Tensor, part: float = 0.1, *, target: Any = None, rule: Rule | None = None
) -> Composite:
    r"""The composite under which ``part`` of each input is relevant over the Booleans: a threshold for each sample.

    One walk over the fuzzy semiring finds all Boolean maps at once, for

    .. math:: R_j^{\text{fuzzy}} ≥ θ \iff R_j^{𝔹, θ} = 1

    when Θ is the same threshold at every layer: the largest θ at which a path of shares d ≥ θ is left. So θ_n is that
    quantile of the fuzzy map of sample n. With several channels [n, c, ...] a place counts once, by its best channel.
    Where several places share the θ found, all of them are relevant, and the part is larger; an input from which fewer
    places are reached has fewer. It is for semirings whose Θ is a threshold: ``"boolean"``, ``"counting"``.

    Args:
        part: of the places that are to be relevant, above 0 and at most 1.
        target: as in klrp.explain; explain the same class with the composite, and the same inputs.
        rule: of all layers, with shares in [0, 1]; by default that of the fuzzy semiring.

    Raises:
        KlrpError: for a part outside, and whatever klrp.explain raises.

    Example:
        >>> klrp.explain(model, x, semiring="boolean", composite=klrp.thresholds.even(model, x))
    """
    if not isinstance(part, int | float) or not 0 < part <= 1:
        raise KlrpError.value(f"even: part is {part!r}; expected a fraction above 0 and at most 1.")
    assert FUZZY.default is not None
    rule = rule or FUZZY.default[0]
    fuzzy = explain(model, inputs, target, semiring=FUZZY, rule=rule, theta=conversions.identity(), keep="input").input
    places = (fuzzy.amax(1) if fuzzy.ndim > 2 else fuzzy).flatten(1)
    count = max(1, math.floor(part * places.shape[1] + 1e-9))
    # A θ found is itself a share, which other kernels and other batches round differently. What no path reaches has 0,
    # and stays outside: the smallest θ is the smallest number above.
    numbers = torch.finfo(fuzzy.dtype)
    found = places.topk(count, 1).values[:, -1] * (1 - 16 * numbers.eps)
    found = found.clamp(min=numbers.smallest_normal)
    return Composite([(ANY, rule, conversions.at_least(found))])


def gate(
    model: nn.Module,
    inputs: Tensor | Sequence[Tensor],
    factor: float = 2.0,
    *,
    rule: Rule | None = None,
    theta: Theta | None = None,
    cut: str = "keep",
) -> Composite:
    r"""The composite that drops small shares at the gate, the last pooling over places, and nowhere else.

    .. math:: Θ(d) = d \text{ if } d ≥ c / S \text{ else } 0

    with c the ``factor`` and S the number of places that one neuron of the pooling averages, so that c is in units of
    the mean share of a positive map. Below the gate every place has a network of its own; above it the places are one
    sum. So this is where places are chosen. An object that fills the part p of the places has shares near 1 / (p S)
    there: choose c below 1 / p. With 2, the default, an object may fill half of the picture; 4 suits one that fills a
    quarter, and leaves the maps of larger ones empty. It is meant for rules whose shares add up to one; under max_share the largest
    share is one, and hardly any is below the cut.

    Args:
        inputs: as for klrp.explain; only their size matters.
        rule, theta: of all layers, the gate's rule among them; None is the semiring's default.
        cut: ``"keep"``, as above, or ``"threshold"``, Θ(d) = 1 where d ≥ c / S, for semirings whose elements are no shares.

    Raises:
        KlrpError: for a network without such a pooling, or another ``cut``.

    Example:
        >>> klrp.explain(model, x, composite=klrp.thresholds.gate(model, x, rule=klrp.rules.zplus()), start="logit")
    """
    if cut not in ("keep", "threshold"):
        raise KlrpError.value(f"gate: cut is {cut!r}; expected 'keep' or 'threshold'.")
    network = trace(model, checked_inputs(inputs))
    shapes = {step.name: tuple(step.shape) for step in network.steps}
    shapes |= {name: tuple(network.value(name).shape) for name in network.inputs}
    sizes = {step.name: _averaged(step, shapes) for step in network.steps}
    name = next((name for name in reversed(sizes) if sizes[name] > 1), None)
    if name is None:
        raise KlrpError.value(
            "gate: the network has no average pooling, nor a mean over places; choose Θ for a layer by its name."
        )
    drop = conversions.keep if cut == "keep" else conversions.threshold
    return Composite([(name, rule, drop(factor / sizes[name])), (ANY, rule, theta)])


def _averaged(step: Step, shapes: dict[str, tuple[int, ...]]) -> float:
    """How many neurons each neuron of an average pooling, or of a mean, reads; 0 for other steps."""
    if not isinstance(step.operation, Pool | Reduce):
        return 0
    return math.prod(shapes[step.sources[0]]) / math.prod(step.shape)
