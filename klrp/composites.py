"""Composites: which rule and which Θ each layer gets, as an ordered list of rows; the first match wins.

The presets at the end are composites from the literature: for VGG-16, and for any convolutional network.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from klrp import conversions, rules
from klrp.conversions import Conversion, as_conversion
from klrp.errors import KlrpError
from klrp.network.layers import Affine, Layer
from klrp.network.moves import Winner
from klrp.network.steps import Step
from klrp.network.tracing import check_inputs, trace
from klrp.network.vocabulary import ADD
from klrp.rules import Rule
from klrp.semirings import (
    BOOLEAN,
    COUNTING,
    COUNTING_INT,
    FUZZY,
    LOG,
    LUKASIEWICZ,
    MAX_PLUS,
    REAL,
    TROPICAL,
    VITERBI,
    Semiring,
    find_semiring,
)  # fmt: skip
from klrp.tables import Table

__all__ = [
    "ADD", "ANY", "BOOLEAN_THRESHOLDS", "COUNTING_THRESHOLDS", "Composite", "FIRST", "epsilon_alpha2_beta1",
    "epsilon_gamma_box", "epsilon_plus_flat", "vgg16_boolean", "vgg16_counting", "vgg16_montavon",
]  # fmt: skip


class FIRST:
    """Selects each layer that takes shares and that the input reaches without crossing another.

    A network that shifts and scales its input by constants is looked through: the layer behind them is
    the first, and bounds of ``zbox`` are those of what arrives there.
    """


class ANY:
    """Selects every layer."""


Row = tuple[Any, Rule | None, Any]
Assignment = dict[str, tuple[Rule, Conversion]]

_TINY = 1e-9
_DEFAULTS: dict[Semiring, tuple[Rule, Conversion]] = {
    REAL: (rules.epsilon(), conversions.identity()),
    BOOLEAN: (rules.epsilon(), conversions.threshold(_TINY)),
    COUNTING: (rules.epsilon(), conversions.threshold(_TINY)),
    COUNTING_INT: (rules.epsilon(), conversions.threshold(_TINY)),
    VITERBI: (rules.max_share(), conversions.identity()),
    FUZZY: (rules.max_share(), conversions.identity()),
    LUKASIEWICZ: (rules.max_share(), conversions.identity()),
    MAX_PLUS: (rules.max_share(), conversions.log()),
    TROPICAL: (rules.max_share(), conversions.neglog()),
    LOG: (rules.zplus(), conversions.log()),
}


@dataclass(frozen=True)
class Composite:
    """An ordered list of rows (selector, rule, theta); the first row that matches a layer decides.

    A selector is a step's name or a glob over names, a module type (``F.relu`` counts as ``nn.ReLU``),
    ``klrp.ADD``, ``klrp.FIRST`` or ``klrp.ANY``. None for a rule or a Θ means the semiring's default, and
    so does no match.

    Example:
        >>> klrp.Composite([
        ...     (klrp.FIRST, klrp.rules.zbox(-1.0, 1.0), None),
        ...     ("features.*", klrp.rules.gamma(0.25), None),
        ...     (torch.nn.MaxPool2d, klrp.rules.as_average(), None),
        ... ])
    """

    rows: tuple[Row, ...]

    def __init__(self, rows: Iterable[Row]):
        if not isinstance(rows, Iterable) or isinstance(rows, str):
            raise KlrpError.type(f"composite: got {rows!r}; expected a list of rows (selector, rule, theta).")
        checked = tuple(_checked(row, number) for number, row in enumerate(rows))
        object.__setattr__(self, "rows", checked)

    def describe(self, model: nn.Module, inputs: Tensor, semiring: Semiring | str = REAL) -> Table:
        """The table of what each layer of ``model`` gets: step, kind, rule, Θ."""
        check_inputs(inputs)
        semiring = find_semiring(semiring)
        steps = trace(model, inputs).steps
        assigned = assign(steps, self, semiring)
        return Table(
            ("step", "kind", "rule", "theta"),
            tuple((s.name, s.kind.__name__, *map(repr, assigned[s.name])) for s in steps if s.name in assigned),
        )


def _checked(row: Any, number: int) -> Row:
    if not isinstance(row, Sequence) or isinstance(row, str) or len(row) != 3:
        raise KlrpError.type(f"composite: row {number} is {row!r}; expected (selector, rule, theta).")
    selector, rule, theta = row
    if not isinstance(selector, str | type):
        raise KlrpError.type(
            f"composite: row {number} has the selector {selector!r}; expected a name or glob, a module type, "
            f"klrp.ADD, klrp.FIRST or klrp.ANY."
        )
    check_rule(rule, f"composite: row {number}")
    return selector, rule, None if theta is None else as_conversion(theta)


def check_rule(rule: Any, where: str) -> None:
    """A KlrpError unless ``rule`` is None or a Rule."""
    if rule is not None and not isinstance(rule, Rule):
        hint = f" Call it: klrp.rules.{rule.__name__}(...)." if callable(rule) else ""
        raise KlrpError.type(f"{where}: got the rule {rule!r}; expected one of klrp.rules.{hint}")


def first_steps(steps: Sequence[Step]) -> tuple[set[str], set[str]]:
    """The layers that the input reaches without crossing another, and the steps that read nothing else.

    Adding or multiplying by constants does not count as a layer: it only moves the input's scale.
    """
    open_to_input, first, purely = {"input"}, set(), set()
    for step in steps:
        if not any(source in open_to_input for source in step.sources):
            continue
        if all(source in open_to_input for source in step.sources):
            purely.add(step.name)
        if isinstance(step.operation, Layer) and not _is_rescaling(step):
            first.add(step.name)
        else:
            open_to_input.add(step.name)
    return first, purely


def _is_rescaling(step: Step) -> bool:
    alone = isinstance(step.operation, Affine) and len(step.operation.inputs) == 1
    return alone and not issubclass(step.like, _BatchNorm)


def assign(steps: Sequence[Step], composite: Composite, semiring: Semiring) -> Assignment:
    """The rule and the Θ of each layer that takes shares, max-pools under ``as_average`` among them."""
    first, purely = first_steps(steps)
    _check_selectors(steps, composite)
    assigned: Assignment = {}
    for step in steps:
        selector, rule, theta = next(
            (row for row in composite.rows if _matches(row[0], step, first)), (ANY, None, None)
        )
        if isinstance(step.operation, Winner):
            if rule is None or not rule.pools:
                continue  # the winner takes it all, whatever the row says to other layers
        elif not isinstance(step.operation, Layer):
            continue
        rule, theta = _completed(rule, theta, semiring, step.name)
        if rule.pools and not isinstance(step.operation, Winner):
            raise KlrpError.value(
                f"composite: {rule!r} was given to {step.name} ({step.kind.__name__}); it is for max-pools. "
                f"Select them by type, torch.nn.MaxPool2d."
            )
        if rule.first_only and step.name not in purely:
            raise KlrpError.value(
                f"composite: {rule!r} was given to {step.name}; its bounds hold for the input only. Select "
                f"klrp.FIRST: here {', '.join(sorted(first & purely))}."
            )
        assigned[step.name] = rule, theta
    return assigned


def _matches(selector: Any, step: Step, first: set[str]) -> bool:
    if selector is ANY:
        return True
    if selector is FIRST:
        return step.name in first
    if isinstance(selector, type):
        return issubclass(step.kind, selector) or issubclass(step.like, selector)
    return any(fnmatchcase(name, selector) for name in (step.name, *step.aliases))


def _check_selectors(steps: Sequence[Step], composite: Composite) -> None:
    names = [name for step in steps for name in (step.name, *step.aliases)]
    for selector, _, _ in composite.rows:
        if isinstance(selector, str) and not any(fnmatchcase(name, selector) for name in names):
            raise KlrpError.value(
                f"composite: the selector {selector!r} matches no step. The steps are: {', '.join(names)}."
            )


def _completed(rule: Rule | None, theta: Conversion | None, semiring: Semiring, name: str) -> tuple[Rule, Conversion]:
    default_rule, default_theta = _DEFAULTS.get(semiring, (None, None))
    rule = rule or default_rule
    theta = theta or default_theta
    if rule is None or theta is None:
        missing = " and ".join(what for what, value in (("rule", rule), ("theta", theta)) if value is None)
        raise KlrpError.value(
            f"{missing}: {name} has none, and the semiring {semiring.name!r} has no default. Give rule= and "
            f"theta=, such as rule=klrp.rules.max_share(), theta=klrp.conversions.identity()."
        )
    return rule, theta


# --- presets for VGG-16 ---------------------------------------------------------------------------------

_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean and deviation by colour

# The paper's thresholds for VGG-16, one for each convolution and linear layer from the input up.
BOOLEAN_THRESHOLDS = (
    0.05, 0.05, 0.05, 0.05, 0.05, 0.05, 0.06, 0.06, 0.06, 0.1, 0.09, 0.025, 0.3, 0.043, 0.0145, 0.0145,
)  # fmt: skip
COUNTING_THRESHOLDS = (
    0.01, 0.01, 0.015, 0.02, 0.02, 0.02, 0.03, 0.03, 0.03, 0.06, 0.05, 0.01, 0.3, 0.043, 0.0145, 0.0145,
)  # fmt: skip


def vgg16_montavon(model: nn.Module) -> Composite:
    """Classical LRP for a VGG-16: z^B at the pixels, then γ, ε and LRP-0 (Montavon et al. 2019).

    =========  =====================================================
    layers     rule
    =========  =====================================================
    1          zbox, for pixels in [0, 1] normalised as for ImageNet
    2 to 7     gamma(0.25)
    8 to 13    epsilon(1e-9, std=0.25)
    14 to 16   lrp0
    max-pools  as_average
    =========  =====================================================

    The layers are the convolutions and linear layers in the order of ``model.modules()``. So it fits a
    VGG-16 with or without BatchNorm, and of any width. Other layers, and every Θ, are left to the semiring's
    default. The mean of ``std`` is taken for each sample, and max-pools have no ε.

    Raises:
        KlrpError: for a model that has not 16 such layers.

    Example:
        >>> composite = klrp.composites.vgg16_montavon(model)
        >>> klrp.explain(model, klrp.data.imagenet_normalise(photo.image), composite=composite)
    """
    mean, std = torch.tensor(_IMAGENET, dtype=torch.float64)[..., None, None]
    first = rules.zbox(-mean / std, (1 - mean) / std)
    rows = _vgg16_rows("vgg16_montavon", model, first, rules.lrp0(), (None,) * 16)
    return Composite([*rows, (nn.MaxPool2d, rules.as_average(), None)])


def vgg16_boolean(model: nn.Module, thresholds: Sequence[float] = BOOLEAN_THRESHOLDS) -> Composite:
    """The paper's rules and thresholds for a VGG-16 over the Booleans (Groudiev and Maniu 2024).

    =========  =======================  ================================
    layers     rule                     θ of magnitude
    =========  =======================  ================================
    1          epsilon(1e-9)            .05
    2 to 7     gamma(0.25)              .05, .05, .05, .05, .05, .06
    8 to 13    epsilon(1e-9, std=0.25)  .06, .06, .1, .09, .025, .3
    14 to 16   epsilon(1e-9)            .043, .0145, .0145
    max-pools  as_average               Θ is positive, and has none
    =========  =======================  ================================

    The layers are those of ``vgg16_montavon``. Other ``thresholds`` are 16 numbers, from the input up.
    The paper's were found by hand, for one photograph and torchvision's weights.

    Raises:
        KlrpError: for a model that has not 16 such layers, or for other than 16 thresholds.

    Example:
        >>> composite = klrp.composites.vgg16_boolean(model)
        >>> klrp.explain(model, x, semiring="boolean", composite=composite)
    """
    return _vgg16_thresholds("vgg16_boolean", model, thresholds)


def vgg16_counting(model: nn.Module, thresholds: Sequence[float] = COUNTING_THRESHOLDS) -> Composite:
    """The rows of ``vgg16_boolean`` with the lower thresholds that the paper has for counting.

    =========  =======================  ================================
    layers     rule                     θ of magnitude
    =========  =======================  ================================
    1          epsilon(1e-9)            .01
    2 to 7     gamma(0.25)              .01, .015, .02, .02, .02, .03
    8 to 13    epsilon(1e-9, std=0.25)  .03, .03, .06, .05, .01, .3
    14 to 16   epsilon(1e-9)            .043, .0145, .0145
    max-pools  as_average               Θ is positive, and has none
    =========  =======================  ================================

    Source and errors are those of ``vgg16_boolean``.

    Example:
        >>> composite = klrp.composites.vgg16_counting(model)
        >>> klrp.explain(model, x, semiring="counting", composite=composite)
    """
    return _vgg16_thresholds("vgg16_counting", model, thresholds)


def _vgg16_thresholds(caller: str, model: nn.Module, thresholds: Sequence[float]) -> Composite:
    if not isinstance(thresholds, Sequence) or len(thresholds) != 16:
        raise KlrpError.value(
            f"{caller}: got thresholds = {thresholds!r}; expected a list of 16 numbers, one for each convolution and "
            f"linear layer from the input up."
        )
    thetas = [conversions.magnitude(t) for t in thresholds]
    rows = _vgg16_rows(caller, model, rules.epsilon(1e-9), rules.epsilon(1e-9), thetas)
    return Composite([*rows, (nn.MaxPool2d, rules.as_average(), conversions.positive())])


def _vgg16_rows(
    caller: str, model: nn.Module, first: Rule, top: Rule, thetas: Sequence[Conversion | None]
) -> list[Row]:
    """A row for each of the 16 layers, by name; γ up to the seventh, ε up to the last convolution."""
    if not isinstance(model, nn.Module):
        raise KlrpError.type(f"{caller}: got {type(model).__name__}; expected a torch.nn.Module.")
    names = [name for name, m in model.named_modules() if isinstance(m, _ConvNd | nn.Linear)]
    if len(names) != 16:
        raise KlrpError.value(
            f"{caller}: the model has {len(names)} convolutions and linear layers; expected the 16 of a VGG-16. For "
            f"another network write the rows yourself: klrp.Composite([(selector, rule, theta), ...])."
        )
    lower, middle = rules.gamma(0.25), rules.epsilon(1e-9, std=0.25)
    chosen = [first, *[lower] * 6, *[middle] * 6, *[top] * 3]
    return list(zip(names, chosen, thetas, strict=True))


# --- presets for any convolutional network --------------------------------------------------------------


def epsilon_plus_flat() -> Composite:
    """z⁺ for convolutions, ε for what is left, flat at the input: zennit's EpsilonPlusFlat.

    ==================================  ==============
    layers                              rule
    ==================================  ==============
    klrp.FIRST                          flat
    convolutions                        zplus
    the rest, such as linear layers     epsilon(1e-6)
    ==================================  ==============

    From Kohlbrenner et al. 2020 and Anders et al. 2021. Every Θ is left to the semiring's default.

    Example:
        >>> klrp.explain(model, x, composite=klrp.composites.epsilon_plus_flat())
    """
    return _epsilon_and(rules.zplus(), first=rules.flat())


def epsilon_gamma_box(low: float | Tensor, high: float | Tensor) -> Composite:
    """γ for convolutions, ε for what is left, z^B at the input: zennit's EpsilonGammaBox.

    ==================================  ================
    layers                              rule
    ==================================  ================
    klrp.FIRST                          zbox(low, high)
    convolutions                        gamma(0.25)
    the rest, such as linear layers     epsilon(1e-6)
    ==================================  ================

    ``low`` and ``high`` bound the inputs, as in ``klrp.rules.zbox``. From Anders et al. 2021. In zennit the
    first *convolution* has z^B, and γ differs where a convolution's output is negative and yet relevant,
    as in front of a residual add. Every Θ is left to the semiring's default.

    Raises:
        KlrpError: for bounds that are no numbers or tensors, or out of order.

    Example:
        >>> klrp.explain(model, x, composite=klrp.composites.epsilon_gamma_box(-1.0, 1.0))
    """
    return _epsilon_and(rules.gamma(0.25), first=rules.zbox(low, high))


def epsilon_alpha2_beta1() -> Composite:
    """αβ with α = 2 and β = 1 for convolutions, ε for what is left: zennit's EpsilonAlpha2Beta1.

    ==================================  =================
    layers                              rule
    ==================================  =================
    convolutions                        alpha_beta(2, 1)
    the rest, such as linear layers     epsilon(1e-6)
    ==================================  =================

    From Kohlbrenner et al. 2020 and Anders et al. 2021. Every Θ is left to the semiring's default.

    Example:
        >>> klrp.explain(model, x, composite=klrp.composites.epsilon_alpha2_beta1())
    """
    return _epsilon_and(rules.alpha_beta(2, 1))


def _epsilon_and(convolutions: Rule, first: Rule | None = None) -> Composite:
    rows = [(_ConvNd, convolutions, None), (ANY, rules.epsilon(1e-6), None)]
    return Composite(rows if first is None else [(FIRST, first, None), *rows])
