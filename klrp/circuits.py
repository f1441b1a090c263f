"""Provenance circuits: formulas whose shared sub-expressions are stored once.

The polynomial of a neuron has a monomial for each path, and a deep network has more paths than could be written down. As a
circuit of ⊕- and ⊗-gates it is no larger than the network, and can be evaluated in every semiring with commutative ⊗,
as often as wanted (Green et al. 2007 for polynomials; Deutch et al. 2014 for circuits). A circuit grows while
klrp.symbolic.explain walks:

    >>> circuit, shares = klrp.circuits.Circuit(), {}
    >>> def theta(d, edge):
    ...     shares[edge] = d
    ...     return circuit.variable(edge) if d > 0 else circuit.zero
    >>> ends = dict(zero=circuit.zero, one=circuit.one)
    >>> formulas = klrp.symbolic.explain(model, x, theta=theta, **ends)
    >>> klrp.circuits.evaluate(formulas.input, shares, "real")
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from klrp.errors import KlrpError
from klrp.semirings import Semiring, find_semiring

LARGEST = 100_000  # monomials that are still multiplied out in seconds

Assignment = Mapping[Hashable, Any] | Callable[[Hashable], Any]


class Operations(NamedTuple):
    """A semiring of Python objects: its neutral elements, ⊕ and ⊗."""

    zero: Any
    one: Any
    add: Callable[[Any, Any], Any] = operator.add
    mul: Callable[[Any, Any], Any] = operator.mul


class Circuit:
    """A growing list of gates, each of them stored once: ``variable`` makes leaves, and + and * of gates inner ones.

    Only what holds in every commutative semiring is simplified: x + 0 = x, x * 1 = x, x * 0 = 0, and the order of two
    operands. Gates of different circuits do not mix.
    """

    def __init__(self) -> None:
        self.contents: list[tuple] = []  # (kind, variable or operands); operands come before
        self._numbers: dict[tuple, int] = {}
        self.zero, self.one = self._gate(("0",)), self._gate(("1",))

    def variable(self, name: Hashable) -> Gate:
        """The leaf of that name."""
        return self._gate(("variable", name))

    def _gate(self, content: tuple) -> Gate:
        number = self._numbers.setdefault(content, len(self.contents))
        if number == len(self.contents):
            self.contents.append(content)
        return Gate(self, number)

    def _joined(self, kind: str, x: Gate, y: Gate) -> Gate:
        if x.circuit is not self or y.circuit is not self:
            raise KlrpError.value(f"circuit: got gates of two circuits for {kind}; build both from one Circuit().")
        neutral = self.zero if kind == "+" else self.one
        if neutral in (x, y):
            return y if x == neutral else x
        if kind == "*" and self.zero in (x, y):
            return self.zero
        return self._gate((kind, *sorted((x.number, y.number))))


@dataclass(frozen=True)
class Gate:
    """One node of a circuit, and with it the formula below it."""

    circuit: Circuit
    number: int

    def __add__(self, other: Gate) -> Gate:
        return self.circuit._joined("+", self, other) if isinstance(other, Gate) else NotImplemented

    def __mul__(self, other: Gate) -> Gate:
        return self.circuit._joined("*", self, other) if isinstance(other, Gate) else NotImplemented

    def __repr__(self) -> str:
        return f"<Gate {self.number}: {self.size} gates, {len(self.variables)} variables>"

    @property
    def size(self) -> int:
        """How many + and * gates the formula has, shared ones counted once."""
        return sum(content[0] in "+*" for _, content in _below([self]))

    @property
    def variables(self) -> frozenset:
        """The variables that occur."""
        return frozenset(content[1] for _, content in _below([self]) if content[0] == "variable")

    @property
    def expanded(self) -> int:
        """How many monomials the polynomial has, as often as their coefficients say: its value for ones, in whole numbers.

        With a variable for each connection that is the number of paths.
        """
        return evaluate(self, lambda name: 1, Operations(0, 1))


def _below(gates: list[Gate]) -> list[tuple[int, tuple]]:
    """(number, content) of what gates of one circuit are made of, operands first."""
    contents, wanted, found = gates[0].circuit.contents, {gate.number for gate in gates}, []
    for number in range(max(wanted), -1, -1):
        if number in wanted:
            kind, *rest = contents[number]
            found.append((number, contents[number]))
            wanted.update(rest if kind in "+*" else ())
    return found[::-1]


def evaluate(gates: Gate | np.ndarray, assignment: Assignment, semiring: Semiring | str | Operations) -> Any:
    r"""The value of formulas in a semiring, where each variable has the value that ``assignment`` gives it.

    This is the homomorphism from polynomials that the assignment determines (Green et al. 2007). Each gate is computed
    once, so the time is that of the circuit's size.

    Args:
        gates: a gate, or an array of them, such as a map of klrp.symbolic.explain.
        assignment: {variable: element}, or a function of the variable. Elements of a klrp.Semiring may have axes in
            front [..., \*semiring.shape], which broadcast: many assignments at once.
        semiring: a klrp.Semiring or its name, or Operations on Python objects. ⊗ has to commute.

    Returns:
        The element of the gate; for an array of gates and a klrp.Semiring a tensor [\*gates.shape, ...,
        \*semiring.shape], else an array of objects.

    Raises:
        KlrpError: for a variable without a value, an element outside the semiring's domain, and for what are no gates.

    Example:
        >>> circuit = klrp.circuits.Circuit()
        >>> x, y = circuit.variable("x"), circuit.variable("y")
        >>> klrp.circuits.evaluate(x * x + y, {"x": 3, "y": 1}, klrp.circuits.Operations(0, 1))
        10
    """
    roots, operations = _gates(gates), _operations(semiring)
    values = _values(roots, _lookup(assignment, semiring), operations)
    found = [values[gate.number] for gate in roots]
    if isinstance(gates, Gate):
        return found[0]
    if not isinstance(semiring, Operations):
        stacked = torch.stack(torch.broadcast_tensors(*found))
        return stacked.reshape(*gates.shape, *stacked.shape[1:])
    array = np.empty(len(found), dtype=object)
    for i, element in enumerate(found):  # not array[:] = found, which would spread elements that are sequences
        array[i] = element
    return array.reshape(gates.shape)


def derivative(gate: Gate, assignment: Assignment, semiring: Semiring | str | Operations) -> dict[Hashable, Any]:
    r"""{variable: the value of the formal derivative by it}, for all variables in one pass from the gate down.

    .. math::

        ∂(f ⊕ g) &= ∂f ⊕ ∂g \\
        ∂(f ⊗ g) &= ∂f ⊗ g ⊕ f ⊗ ∂g

    Where no monomial has a variable twice, as no path has a connection twice,

    .. math:: f = v ⊗ ∂f/∂v \; ⊕ \; f|_{v = 0}

    so that :math:`v ⊗ ∂f/∂v` is the ⊕ of the paths through v, and the second term what is left without it. It is
    reverse-mode differentiation (Baur and Strassen 1983), which no subtraction needs.

    Args:
        gate, assignment, semiring: as in ``evaluate``.
    """
    operations = _operations(semiring)
    values, above = _values(_gates(gate), _lookup(assignment, semiring), operations), {gate.number: operations.one}
    found = {}
    for number, (kind, *rest) in reversed(_below([gate])):
        if kind == "variable":
            found[rest[0]] = above[number]
        elif kind in "+*":
            for operand, other in (rest, rest[::-1]):
                share = above[number] if kind == "+" else operations.mul(above[number], values[other])
                above[operand] = operations.add(above[operand], share) if operand in above else share
    return found


def without(gates: Gate | np.ndarray, variables: Iterable[Hashable]) -> Any:
    """The formulas with some variables at zero, in the same circuit: what is left where those neurons or connections go.

    The other shares stay as they are, as with ``through`` of klrp.explain; a network without the neuron would share anew.

    Raises:
        KlrpError: for what are no gates.
    """
    circuit, gone = _gates(gates)[0].circuit, set(variables)
    kept = lambda name: circuit.zero if name in gone else circuit.variable(name)  # noqa: E731
    return evaluate(gates, kept, Operations(circuit.zero, circuit.one))


def how(gate: Gate) -> dict[tuple, int]:
    """The polynomial: {monomial: coefficient}, a monomial being the tuple of its variables, each as often as its exponent.

    The variables stand in the order in which the circuit met them (how-provenance, Green et al. 2007).

    Raises:
        KlrpError: for more than 100 000 monomials.
    """
    _check_expandable(gate)
    order = {content[1]: number for number, content in _below([gate]) if content[0] == "variable"}

    def add(x: dict, y: dict) -> dict:
        return x | {monomial: x.get(monomial, 0) + n for monomial, n in y.items()}

    def mul(x: dict, y: dict) -> dict:
        product: dict[tuple, int] = {}
        for a, m in x.items():
            for b, n in y.items():
                monomial = tuple(sorted(a + b, key=order.__getitem__))
                product[monomial] = product.get(monomial, 0) + m * n
        return product

    return evaluate(gate, lambda name: {(name,): 1}, Operations({}, {(): 1}, add, mul))


def why(gate: Gate) -> frozenset[frozenset]:
    """The set of the sets of variables that occur together in a monomial (why-provenance, Buneman et al. 2001).

    Raises:
        KlrpError: for more than 100 000 monomials.
    """
    _check_expandable(gate)
    return evaluate(gate, _alone, Operations(frozenset(), frozenset([frozenset()]), frozenset.union, _pairwise))


def minimal(gate: Gate) -> frozenset[frozenset]:
    """The minimal ones among the sets of ``why``: the Boolean formula in its shortest disjunctive form.

    It is true if all variables of one of the sets are. Since x ∨ (x ∧ y) = x, larger sets are absorbed at every gate
    (positive Boolean formulas, Green et al. 2007).

    Raises:
        KlrpError: for more than 100 000 monomials.
    """
    _check_expandable(gate)
    add, mul = (lambda x, y: _antichain(x | y)), (lambda x, y: _antichain(_pairwise(x, y)))
    return evaluate(gate, _alone, Operations(frozenset(), frozenset([frozenset()]), add, mul))


def which(gate: Gate) -> frozenset | None:
    """The set of all variables that occur in a monomial, None for the formula 0 (lineage, Cui et al. 2000)."""
    return None if gate == gate.circuit.zero else gate.variables  # a zero below other gates is simplified away


def _alone(name: Hashable) -> frozenset[frozenset]:
    return frozenset([frozenset([name])])


def _pairwise(x: frozenset, y: frozenset) -> frozenset:
    return frozenset(a | b for a in x for b in y)


def _antichain(sets: frozenset) -> frozenset:
    """Those that contain no other."""
    return frozenset(a for a in sets if not any(b < a for b in sets))


def _check_expandable(gate: Gate) -> None:
    if gate.expanded > LARGEST:
        raise KlrpError.value(
            f"gate: it has more than the {LARGEST} monomials that can be multiplied out. Use klrp.circuits.evaluate, which "
            f"does without."
        )


def _gates(gates: Gate | np.ndarray) -> list[Gate]:
    found = list(gates.ravel()) if isinstance(gates, np.ndarray) else [gates]
    if not found or not all(isinstance(gate, Gate) for gate in found):
        raise KlrpError.type(
            f"gates: got {type(gates).__name__}; expected a klrp.circuits.Gate, or a numpy array of one or more of them, "
            f"such as a map of klrp.symbolic.explain."
        )
    if any(gate.circuit is not found[0].circuit for gate in found):
        raise KlrpError.value("gates: they belong to several circuits; evaluate those of one at a time.")
    return found


def _operations(semiring: Semiring | str | Operations) -> Operations:
    if isinstance(semiring, Operations):
        return semiring
    k = find_semiring(semiring)
    zero, one = (k.full((), which, torch.zeros((), dtype=torch.float64)) for which in ("zero", "one"))
    return Operations(zero, one, k.plus, k.mul)


def _lookup(assignment: Assignment, semiring: Semiring | str | Operations) -> Callable[[Hashable], Any]:
    """The element of a variable; numbers for a klrp.Semiring become tensors, in float64 where its dtype is open."""

    def element(name: Hashable) -> Any:
        if not isinstance(assignment, Mapping):
            value = assignment(name)
        elif name in assignment:
            value = assignment[name]
        else:
            raise KlrpError.key(f"assignment: the variable {name!r} has no value; give it one, such as the zero.")
        if isinstance(semiring, Operations):
            return value
        k, x = find_semiring(semiring), value if isinstance(value, Tensor) else torch.as_tensor(np.asarray(value))
        return k.admit(x.double() if k.dtype is None else x, "assignment")

    return element


def _values(roots: list[Gate], element: Callable[[Hashable], Any], operations: Operations) -> dict[int, Any]:
    """{number: value} of what the gates are made of."""
    values: dict[int, Any] = {}
    for number, (kind, *rest) in _below(roots):
        if kind == "variable":
            values[number] = element(rest[0])
        elif kind in "+*":
            values[number] = (operations.add if kind == "+" else operations.mul)(*(values[x] for x in rest))
        else:
            values[number] = operations.zero if kind == "0" else operations.one
    return values
