"""Composites: which rule and which Θ each layer gets, as an ordered list of rows; the first match wins."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from klrp.conversions import Conversion, as_conversion
from klrp.errors import KlrpError
from klrp.network.layers import Affine, Layer
from klrp.network.linearised import Norm, Product
from klrp.network.moves import Linearised
from klrp.network.steps import Step
from klrp.network.tracing import checked_inputs, trace
from klrp.rules import Rule
from klrp.semirings import REAL, Semiring, find_semiring
from klrp.tables import Table


class FIRST:
    """Selects each layer that takes shares and that the input reaches without crossing another.

    A network that shifts and scales its input by constants is looked through: the layer behind them is
    the first, and bounds of ``zbox`` are those of what arrives there.
    """


class PRODUCT:
    """Selects every product of two values that depend on the input, and every quotient."""


class ATTENTION:
    """Selects the products of a softmax's output with values."""


class NORM:
    """Selects every LayerNorm, GroupNorm, InstanceNorm and RMSNorm, which statistics of the sample itself normalise."""


class ANY:
    """Selects every layer."""


Row = tuple[Any, Rule | None, Any]
Assignment = dict[str, tuple[Rule, Conversion]]


@dataclass(frozen=True)
class Composite:
    """An ordered list of rows (selector, rule, theta); the first row that matches a layer decides.

    A selector is a step's name or a glob over names, a module type (``F.relu`` counts as ``nn.ReLU``),
    ``klrp.ADD``, ``klrp.PRODUCT``, ``klrp.ATTENTION``, ``klrp.NORM``, ``klrp.FIRST`` or ``klrp.ANY``. None for a rule or
    a Θ means the semiring's default, and so does no match.

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

    def describe(self, model: nn.Module, inputs: Tensor | Sequence[Tensor], semiring: Semiring | str = REAL) -> Table:
        """The table of what each layer of ``model`` gets: step, kind, rule, Θ."""
        semiring, steps = find_semiring(semiring), trace(model, checked_inputs(inputs)).steps
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
    names = {step.name for step in steps}
    open_to_input, first, purely = {s for step in steps for s in step.sources if s not in names}, set(), set()
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


_PRODUCTS = "products of two activations. Select them by klrp.PRODUCT or klrp.ATTENTION"
_NORMS = "normalisations. Select them by klrp.NORM"
# What the rules are for that say which way a step takes.
_MEANT = {
    "average": "max-pools. Select them by type, torch.nn.MaxPool2d", "taylor": "softmax. Select it by torch.nn.Softmax",
    "identity": _NORMS, "centre": _NORMS,
} | dict.fromkeys(("auto", "left", "right", "half"), _PRODUCTS)  # fmt: skip


def assign(steps: Sequence[Step], composite: Composite, semiring: Semiring) -> Assignment:
    """The rule and the Θ of each layer that takes shares, max-pools under ``as_average`` among them."""
    first, purely = first_steps(steps)
    _check_selectors(steps, composite)
    assigned: Assignment = {}
    for step in steps:
        selector, rule, theta = next(
            (row for row in composite.rows if _matches(row[0], step, first)), (ANY, None, None)
        )
        operation = step.operation
        if isinstance(operation, Linearised):
            if operation.choice(rule.choice if rule else "") is None:
                continue  # relevance only moves, whatever the row says to other layers
        elif not isinstance(operation, Layer):
            continue
        if (
            rule is not None
            and rule.choice
            and not (isinstance(operation, Linearised) and rule.choice in operation.choices)
        ):
            raise KlrpError.value(
                f"composite: {rule!r} was given to {step.name} ({step.kind.__name__}); it is for {_MEANT[rule.choice]}."
            )
        rule, theta = _completed(rule, theta, semiring, step.name)
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
    if selector is NORM:
        return isinstance(step.operation, Norm)
    if selector in (PRODUCT, ATTENTION):
        return isinstance(step.operation, Product) and (selector is PRODUCT or step.operation.attention)
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
    default_rule, default_theta = semiring.default or (None, None)
    if rule is not None and not rule.parts and default_rule is not None:  # it says which way, and the semiring how
        rule = replace(default_rule, name=f"{rule.name} {default_rule.name}", choice=rule.choice)
    rule = rule or default_rule
    theta = theta if theta is not None or default_theta is None else as_conversion(default_theta)
    if rule is None or theta is None:
        missing = " and ".join(what for what, value in (("rule", rule), ("theta", theta)) if value is None)
        raise KlrpError.value(
            f"{missing}: {name} has none, and the semiring {semiring.name!r} has no default. Give rule= and "
            f"theta=, such as rule=klrp.rules.max_share(), theta=klrp.conversions.identity()."
        )
    return rule, theta if semiring.lift is None else semiring.lift(theta)
