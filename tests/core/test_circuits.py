"""Circuits, against formulas as nested tuples that are multiplied out, and against klrp.explain."""

import itertools
import math
from collections import Counter

import numpy as np
import oracle
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from test_paths import made
from torch import nn

import klrp
from klrp import aggregates, conversions, rules, symbolic
from klrp.circuits import Circuit, Operations, derivative, evaluate, how, minimal, which, why, without

NAMES = "abcd"
FORMULAS = st.recursive(
    st.sampled_from([*NAMES, "0", "1"]), lambda inner: st.tuples(st.sampled_from("+*"), inner, inner), max_leaves=9
)


def value(formula, assignment, k):
    """What a formula says, by recursion over its tree."""
    if isinstance(formula, str):
        return {"0": k.zero, "1": k.one}.get(formula, assignment.get(formula))
    operation, left, right = formula
    return {"+": k.add, "*": k.mul}[operation](value(left, assignment, k), value(right, assignment, k))


def polynomial(formula):
    """{sorted monomial: coefficient}, multiplied out."""
    if isinstance(formula, str):
        return Counter({"0": {}, "1": {(): 1}}.get(formula, {(formula,): 1}))
    operation, left, right = formula[0], polynomial(formula[1]), polynomial(formula[2])
    if operation == "+":
        return left + right
    product = Counter()
    for (a, m), (b, n) in itertools.product(left.items(), right.items()):
        product[tuple(sorted(a + b))] += m * n
    return product


def built(formula, circuit=None):
    circuit = Circuit() if circuit is None else circuit
    operations = Operations(circuit.zero, circuit.one)
    return value(formula, {name: circuit.variable(name) for name in NAMES}, operations)


def monomials(gate):
    return {tuple(sorted(monomial)): n for monomial, n in how(gate).items()}


# --- formulas ------------------------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(FORMULAS)
def test_a_circuit_is_its_polynomial(formula):
    gate, expected = built(formula), polynomial(formula)
    assert monomials(gate) == expected and gate.expanded == expected.total()
    sets = {frozenset(monomial) for monomial in expected}
    assert why(gate) == sets
    assert which(gate) == (frozenset().union(*sets) if sets else None)
    assert gate.variables == frozenset().union(*sets)


@settings(max_examples=100, deadline=None)
@given(FORMULAS)
@example(("+", ("*", "a", "b"), ("*", ("*", "b", "c"), ("+", "a", "d"))))
def test_the_minimal_sets_are_those_of_the_truth_table(formula):
    truth = oracle.SEMIRINGS["boolean"]
    subsets = [frozenset(some) for n in range(5) for some in itertools.combinations(NAMES, n)]
    true = [some for some in subsets if value(formula, {name: name in some for name in NAMES}, truth)]
    assert minimal(built(formula)) == {some for some in true if not any(other < some for other in true)}


@pytest.mark.parametrize("name", oracle.SEMIRINGS)
@settings(max_examples=40, deadline=None)
@given(data=st.data(), formula=FORMULAS)
def test_its_value_is_that_of_the_formula_in_every_semiring(name, data, formula):
    k = oracle.SEMIRINGS[name]
    elements = st.floats(-3, 3) if name in ("real", "log", "max_plus", "tropical") else k.elements
    elements = st.integers(0, 9) if name.startswith("counting") else elements
    assignment = {letter: data.draw(elements) for letter in NAMES} if name != "pair" else dict.fromkeys(NAMES, (3, 0.5))
    gate, expected = built(formula), value(formula, assignment, k)
    assert evaluate(gate, assignment, Operations(*k[:4])) == pytest.approx(expected, rel=1e-9, abs=1e-9)
    if name != "pair":
        found = evaluate(gate, assignment, name)
        assert found.shape == () and found.item() == pytest.approx(expected, rel=1e-9, abs=1e-9)


@settings(max_examples=100, deadline=None)
@given(FORMULAS, st.sets(st.sampled_from(NAMES)))
def test_without_some_variables_their_monomials_are_gone(formula, gone):
    expected = {monomial: n for monomial, n in polynomial(formula).items() if not gone & {*monomial}}
    assert monomials(without(built(formula), gone)) == expected


@settings(max_examples=100, deadline=None)
@given(FORMULAS, st.tuples(*[st.integers(0, 5)] * 4))
def test_the_derivative_is_that_of_the_polynomial(formula, numbers):
    gate, assignment = built(formula), dict(zip(NAMES, numbers, strict=True))
    found = derivative(gate, assignment, Operations(0, 1))
    assert found.keys() == gate.variables
    for name in NAMES:
        slope = 0
        for monomial, n in polynomial(formula).items():
            for i, v in enumerate(monomial):  # the product rule: one factor at a time
                slope += n * (v == name) * math.prod(assignment[w] for w in monomial[:i] + monomial[i + 1 :])
        assert found.get(name, 0) == slope


@settings(max_examples=60, deadline=None)
@given(FORMULAS, FORMULAS)
def test_equal_formulas_are_one_gate(first, second):
    circuit = Circuit()
    x, y = built(first, circuit), built(second, circuit)
    assert x + y == y + x and x * y == y * x
    assert x + circuit.zero == x and x * circuit.one == x and x * circuit.zero == circuit.zero
    assert built(first, circuit) == x
    assert len(set(circuit.contents)) == len(circuit.contents)


def test_only_what_holds_in_every_semiring_is_simplified():
    circuit = Circuit()
    x = circuit.variable("x")
    assert x + x != x and x * x != x and circuit.one + circuit.one != circuit.one
    assert how(x * x + x + x + circuit.one) == {("x", "x"): 1, ("x",): 2, (): 1}
    assert repr(x * x + x) == "<Gate 6: 2 gates, 1 variables>"


def test_a_formula_may_be_deeper_than_the_stack():
    circuit, depth = Circuit(), 4_001
    gate = x = circuit.variable("x")
    for _ in range(depth):
        gate = gate * x + x
    assert gate.size == 2 * depth and gate.expanded == depth + 1
    assert evaluate(gate, {"x": 1.0}, "real") == depth + 1 and evaluate(gate, {"x": 0.5}, "viterbi") == 0.5
    assert derivative(gate, {"x": 1}, Operations(0, 1)) == {"x": (depth + 1) * (depth + 2) // 2}
    assert without(gate, ["x"]) == circuit.zero


def test_powers_of_two_are_counted_without_writing_them_down():
    circuit = Circuit()
    gate = circuit.variable("x") + circuit.variable("y")
    for _ in range(7):
        gate = gate * gate
    assert gate.size == 8 and gate.expanded == 2**128
    for expand in (how, why, minimal):
        with pytest.raises(klrp.KlrpError, match="gate: it has more than the 100000 monomials.*evaluate"):
            expand(gate)
    assert which(gate) == {"x", "y"}


def test_many_assignments_at_once():
    gate = built(("+", ("*", "a", "b"), "1"))
    found = evaluate(gate, {"a": torch.tensor([0.0, 1, 2]), "b": torch.tensor([[5.0], [7]])}, "real")
    assert found.tolist() == [[1, 6, 11], [1, 8, 15]] and found.dtype == torch.float64
    gates = np.array([[gate, gate.circuit.zero]])
    assert evaluate(gates, {"a": torch.tensor([0.0, 1, 2]), "b": 5}, "real").tolist() == [[[1, 6, 11], [0, 0, 0]]]
    assert evaluate(gates, {"a": 2, "b": 3}, Operations(0, 1)).tolist() == [[7, 0]]


# --- what is refused -----------------------------------------------------------------------------------------


def test_gates_of_two_circuits_do_not_mix():
    x, y = Circuit().variable("x"), Circuit().variable("x")
    assert x != y
    for join in (lambda: x + y, lambda: x * y):
        with pytest.raises(klrp.KlrpError, match="circuit: got gates of two circuits"):
            join()
    with pytest.raises(klrp.KlrpError, match="gates: they belong to several circuits"):
        evaluate(np.array([x, y]), {"x": 1}, "real")
    with pytest.raises(TypeError):
        x + 1


@pytest.mark.parametrize("gates", [3, [1], np.array([1, 2]), np.array([], dtype=object), None], ids=repr)
def test_what_are_no_gates_is_refused(gates):
    for use in (lambda: evaluate(gates, {}, "real"), lambda: without(gates, [])):
        with pytest.raises(klrp.KlrpError, match="gates: got .*expected a klrp.circuits.Gate"):
            use()


def test_a_value_that_is_missing_or_no_element_is_refused():
    gate = built(("+", "a", "b"))
    with pytest.raises(klrp.KlrpError, match="assignment: the variable 'b' has no value"):
        evaluate(gate, {"a": 1}, "real")
    with pytest.raises(klrp.KlrpError, match=r"assignment: it gave 1.5, but the domain of viterbi is \[0, 1\]"):
        evaluate(gate, {"a": 1.5, "b": 1}, "viterbi")


# --- networks ------------------------------------------------------------------------------------------------


def network(*weights):
    """A network without biases in float64, from rows of weights for each layer."""
    layers = []
    for rows in weights:
        layer = nn.Linear(len(rows[0]), len(rows), bias=False).double()
        layer.weight.data = torch.tensor(rows, dtype=torch.float64)
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers[:-1]).eval()


def xor():
    """x₁ + x₂ less twice what is above 1 of it."""
    model = network([[1, 1], [1, 1]], [[1, -2]])
    model[0].bias = nn.Parameter(torch.tensor([0.0, -1], dtype=torch.float64))
    return model, torch.tensor([[1.0, 0.5]], dtype=torch.float64)


def toy():
    model, x = klrp.models.toy()
    return model.double(), x.double()


NETS = {
    "xor": xor,
    "useless": lambda: (network([[1, 2, 0], [3, 1, 0]], [[1, 1]]), torch.ones(1, 3, dtype=torch.float64)),
    "toy": toy,
    "mlp": lambda: (made("mlp")[0], made("mlp")[1][:1]),
    "cnn": lambda: (made("cnn")[0], made("cnn")[1][:1]),
    "residual": lambda: (made("residual")[0], made("residual")[1][:1]),
}
SEMIRINGS = {
    **{name: (semiring, {}) for name, semiring in klrp.semirings.SEMIRINGS.items()},
    "strongest": (klrp.COUNTING, {"rule": rules.max_share(), "theta": conversions.threshold(0.3)}),
    "kbest": (aggregates.kbest(3), {}),
    "expectation": (aggregates.expectation(), {}),
    "signed real": (klrp.signed("real"), {}),
    "signed viterbi": (klrp.signed("viterbi"), {}),
    "dial": (klrp.dial(3), {}),
}


def formulas(model, x, rule, variable=lambda edge: edge, keep=lambda d: d != 0):
    """The circuit of the input's neurons for class 0, and {variable: share}."""
    circuit, found = Circuit(), {}

    def theta(d, edge):
        found[variable(edge)] = d
        return circuit.variable(variable(edge)) if keep(d) else circuit.zero

    return symbolic.explain(model, x, 0, theta=theta, zero=circuit.zero, one=circuit.one, rule=rule).input, found


def settled(name):
    """A semiring, the rule, Θ, and Θ(d) as an element."""
    semiring, given = SEMIRINGS[name]
    rule, theta = given.get("rule", semiring.default[0]), given.get("theta", semiring.default[1])
    lifted = semiring.lift(theta) if semiring.lift else theta
    return semiring, rule, theta, lambda d: lifted(torch.tensor(d, dtype=torch.float64), semiring)


def assert_same(found, expected):
    assert found.shape == expected.shape and found.dtype == expected.dtype
    assert torch.allclose(found.double(), expected.double(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("name", SEMIRINGS)
def test_a_circuit_evaluated_is_the_explanation_in_every_semiring(name, net):
    model, x = NETS[net]()
    semiring, rule, theta, element = settled(name)
    gates, found = formulas(model, x, rule)
    expected = klrp.explain(model, x, 0, semiring=semiring, rule=rule, theta=theta).input[0]
    assert_same(evaluate(gates, {edge: element(d) for edge, d in found.items()}, semiring), expected)


@pytest.mark.parametrize("net", ["toy", "mlp", "residual"])
@pytest.mark.parametrize("name", SEMIRINGS)
def test_without_a_neuron_it_is_the_explanation_through_the_others(name, net):
    model, x = NETS[net]()
    semiring, rule, theta, element = settled(name)
    gates, found = formulas(model, x, rule)
    elements, changed = {edge: element(d) for edge, d in found.items()}, 0
    whole = evaluate(gates, elements, semiring)
    sizes = {(edge.step, edge.k) for edge in found}
    for step in {step for step, _ in sizes}:
        width = klrp.explain(model, x, 0)[step].shape[1]
        for gone in range(width):
            mask = torch.arange(width) != gone
            expected = klrp.explain(model, x, 0, semiring=semiring, rule=rule, theta=theta, through={step: mask}).input[
                0
            ]
            left = without(gates, [edge for edge in found if (edge.step, edge.k) == (step, gone)])
            assert_same(evaluate(left, elements, semiring), expected)
            changed += not torch.equal(expected, whole)
    assert changed


@pytest.mark.parametrize("net", ["toy", "mlp", "residual"])
@pytest.mark.parametrize("name", SEMIRINGS)
def test_a_variable_times_its_derivative_is_what_goes_through_it(name, net):
    model, x = NETS[net]()
    semiring, rule, _, element = settled(name)
    gates, found = formulas(model, x, rule)
    elements = {edge: element(d) for edge, d in found.items()}
    gate = gates.ravel()[0]
    slopes, whole = derivative(gate, elements, semiring), evaluate(gate, elements, semiring)
    assert slopes.keys() == gate.variables and slopes
    for edge, slope in slopes.items():
        through = semiring.mul(elements[edge], slope)
        assert_same(semiring.plus(through, evaluate(without(gate, [edge]), elements, semiring)), whole)


def test_the_derivative_in_the_reals_is_the_gradient():
    model, x = NETS["residual"]()
    gates, found = formulas(model, x, rules.lrp0())
    gate = gates[1]
    leaves = {edge: torch.tensor(d, dtype=torch.float64, requires_grad=True) for edge, d in found.items()}
    evaluate(gate, leaves, Operations(torch.tensor(0.0), torch.tensor(1.0))).backward()
    for edge, slope in derivative(gate, found, "real").items():
        assert float(slope) == pytest.approx(float(leaves[edge].grad), rel=1e-9, abs=1e-12)


def test_the_network_of_exclusive_or():
    model, x = xor()
    assert model(torch.tensor([[0.0, 0], [0, 1], [1, 0], [1, 1]]).double()).flatten().tolist() == [0, 1, 1, 0]
    gates, _ = formulas(model, x, rules.lrp0(), variable=lambda edge: f"{edge.step}: {edge.j}→{edge.k}")
    assert [how(gate) for gate in gates] == [{("2: 0→0", f"0: {j}→0"): 1, ("2: 1→0", f"0: {j}→1"): 1} for j in range(2)]
    neurons, _ = formulas(model, x, rules.lrp0(), variable=lambda edge: (edge.step, edge.k))
    y, first, second = ("2", 0), ("0", 0), ("0", 1)
    assert why(neurons[0]) == minimal(neurons[0]) == {frozenset([y, first]), frozenset([y, second])}
    assert which(neurons[0]) == {y, first, second}
    supporting, _ = formulas(model, x, rules.lrp0(), variable=lambda edge: (edge.step, edge.k), keep=lambda d: d > 0)
    assert minimal(supporting[0]) == {frozenset([y, first])}


def test_an_input_that_no_weight_reads_has_the_formula_0():
    model, x = NETS["useless"]()
    gates, _ = formulas(model, x, rules.lrp0())
    assert [gate.expanded for gate in gates] == [2, 2, 0]
    assert which(gates[2]) is None and how(gates[2]) == {} and why(gates[2]) == minimal(gates[2]) == frozenset()


def test_an_mlp_that_is_cut_to_its_strongest_edges_has_few_sets():
    model, x = NETS["mlp"]()
    gates, shares = formulas(model, x, rules.max_share(), keep=lambda d: d >= 0.3)
    counts = klrp.explain(
        model, x, 0, semiring="counting", rule=rules.max_share(), theta=conversions.threshold(0.3)
    ).input[0]
    assert [gate.expanded for gate in gates] == [len(why(gate)) for gate in gates] == counts.tolist()
    everything, _ = formulas(model, x, rules.max_share())
    assert 0 < counts.sum() < sum(gate.expanded for gate in everything) and len(shares) > 0


@pytest.mark.parametrize("width", [2, 3, 5])
def test_the_circuit_grows_with_the_depth_and_the_polynomial_with_its_power(width):
    for depth in (1, 2, 3, 7, 31):
        hidden = [[[1.0] * width] * width] * (depth - 1)
        model = network([[1.0] * 2] * width, *hidden, [[1.0] * width])
        gates, _ = formulas(model, torch.ones(1, 2, dtype=torch.float64), rules.lrp0())
        for gate in gates:
            assert gate.expanded == width**depth
            assert gate.size == (depth - 1) * width * (2 * width - 1) + 2 * width - 1
