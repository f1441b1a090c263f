"""The walk over Python objects: equal to explain, and to a polynomial evaluated afterwards."""

import math

import oracle
import pytest
import sympy
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from networks import close, graph, signed
from test_laws import graphs
from torch import nn

import klrp
from klrp import conversions, rules, symbolic

THETA = 0.0731


def log(d):
    return math.log(d) if d > 0 else -math.inf


SETTINGS = {  # rule, Θ of klrp, Θ of the walk
    "real": (rules.epsilon(), conversions.identity(), lambda d: d),
    "boolean": (rules.epsilon(), conversions.threshold(THETA), lambda d: d >= THETA),
    "counting": (rules.zplus(), conversions.threshold(THETA), lambda d: int(d >= THETA)),
    "counting_int": (rules.zplus(), conversions.threshold(THETA), lambda d: int(d >= THETA)),
    "viterbi": (rules.max_share(), conversions.identity(), lambda d: d),
    "fuzzy": (rules.max_share(), conversions.identity(), lambda d: d),
    "lukasiewicz": (rules.max_share(), conversions.identity(), lambda d: d),
    "tropical": (rules.max_share(), conversions.neglog(), lambda d: -log(d)),
    "max_plus": (rules.max_share(), conversions.log(), log),
    "log": (rules.zplus(), conversions.log(), log),
}


def assert_same(found, expected):
    found = torch.tensor(found.flatten().tolist(), dtype=torch.float64)
    expected = expected.flatten().double()
    assert torch.equal(found.isfinite(), expected.isfinite())
    finite = expected.isfinite()
    assert torch.equal(found[~finite], expected[~finite])
    assert torch.allclose(found[finite], expected[finite], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", SETTINGS)
@settings(max_examples=25, deadline=None)
@given(graph=graphs(), target=st.integers(0, 2))
def test_on_random_graphs_symbolic_equals_explain(name, graph, target):
    net, widths = graph
    rule, theta, py_theta = SETTINGS[name]
    semiring = oracle.SEMIRINGS[name]
    x = torch.randn(1, widths[0], dtype=torch.float64)
    fast = klrp.explain(net, x, target, semiring=name, rule=rule, theta=theta)
    slow = symbolic.explain(
        net, x, target, theta=lambda d, edge: py_theta(d), zero=semiring.zero, one=semiring.one,
        add=semiring.add, mul=semiring.mul, rule=rule,
    )  # fmt: skip
    assert list(slow) == list(fast)
    for step in fast:
        assert_same(slow[step], fast[step])


@settings(max_examples=25, deadline=None)
@given(graph=graphs())
def test_a_polynomial_evaluated_is_the_direct_propagation(graph):
    net, widths = graph
    x = torch.randn(1, widths[0], dtype=torch.float64)
    variables, values = {}, {}

    def variable(d, edge):
        if d < THETA:
            return sympy.Integer(0)
        values[variables.setdefault(edge, sympy.Symbol(f"e{len(variables)}"))] = d
        return variables[edge]

    formulas = symbolic.explain(
        net, x, 0, theta=variable, zero=sympy.Integer(0), one=sympy.Integer(1), rule=rules.zplus()
    ).input
    counts = klrp.explain(net, x, 0, semiring="counting", rule=rules.zplus(), theta=conversions.threshold(THETA)).input[
        0
    ]
    kept = klrp.explain(net, x, 0, rule=rules.zplus(), theta=conversions.keep(THETA)).input[0]
    for formula, count, amount in zip(formulas, counts.tolist(), kept.tolist(), strict=True):
        assert float(formula.subs({v: 1 for v in values})) == count
        assert float(formula.subs(values)) == pytest.approx(amount, rel=1e-9, abs=1e-12)


def test_convolutions_pools_and_moves_are_walked_too():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(2, 3, 3, stride=2, padding=1), nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(3, 2, 1),
        nn.AdaptiveAvgPool2d((2, 1)), nn.Flatten(), nn.Linear(6, 5),
    ).double().eval()  # fmt: skip
    x = torch.randn(1, 2, 7, 11, dtype=torch.float64)
    pooled = klrp.Composite([(nn.MaxPool2d, rules.as_average(), None)])
    for composite in (None, pooled):
        fast = klrp.explain(net, x, 1, composite=composite)
        slow = symbolic.explain(net, x, 1, theta=lambda d, edge: d, zero=0.0, one=1.0, composite=composite)
        for step in fast:
            assert slow[step].shape == tuple(fast[step].shape[1:])
            assert_same(slow[step], fast[step])


class Clause(frozenset):
    """A set of sets with + for union and * for pairwise union: why-provenance."""

    def __add__(self, other):
        return Clause(self | other)

    def __mul__(self, other):
        return Clause(x | y for x in self for y in other)


def test_a_class_with_plus_and_times_of_its_own_is_enough():
    net = nn.Sequential(nn.Linear(2, 3, bias=False), nn.ReLU(), nn.Linear(3, 1, bias=False)).double()
    net[0].weight.data = torch.tensor([[1.0, 1.0], [1.0, -1.0], [1.0, 1.0]], dtype=torch.float64)
    net[2].weight.data = torch.tensor([[1.0, 1.0, -1.0]], dtype=torch.float64)
    zero, one = Clause(), Clause([frozenset()])
    why = symbolic.explain(
        net, torch.tensor([[3.0, 1.0]], dtype=torch.float64), zero=zero, one=one,
        theta=lambda d, edge: Clause([frozenset([(edge.step, edge.j, edge.k)])]) if d > 0 else zero,
    ).input  # fmt: skip
    assert why[0] == {frozenset([("0", 0, k), ("2", k, 0)]) for k in (0, 1)}
    assert why[1] == {frozenset([("0", 1, 0), ("2", 0, 0)])}


def ways(net, x, target, rule, theta):
    """For each input neuron the list of its relevant paths, each the set of its neurons."""
    found = symbolic.explain(
        net, x, target, rule=rule, zero=(), one=(frozenset(),), add=lambda a, b: a + b,
        mul=lambda a, b: tuple(p | q for p in a for q in b),
        theta=lambda d, edge: (frozenset([(edge.step, edge.k)]),) if d >= theta else (),
    )  # fmt: skip
    return found.input.ravel()


@settings(max_examples=40, deadline=None)
@given(graph=graphs(), target=st.integers(0, 2), theta=st.sampled_from([1e-9, 0.3, 0.6]))
def test_needed_neurons_are_those_of_all_paths_and_without_them_there_is_none(graph, target, theta):
    net, widths = graph
    x = torch.randn(1, widths[0], dtype=torch.float64)
    rule, cut = rules.max_share(), conversions.threshold(theta)
    counts = klrp.explain(net, x, target, semiring="counting", rule=rule, theta=cut)
    assume(counts.input.sum() < 20_000)
    needed = symbolic.needed(net, x, target, rule=rule, theta=lambda d, edge: d >= theta).input
    paths = ways(net, x, target, rule, theta)
    assert list(needed) == [frozenset.intersection(*some) if some else None for some in paths]
    for step, gone in {neuron for some in paths for way in some for neuron in way}:
        mask = torch.arange(counts[step].shape[1]) != gone
        left = klrp.explain(net, x, target, semiring="boolean", rule=rule, theta=cut, through={step: mask}).input[0]
        for neurons, reached in zip(needed, left.tolist(), strict=True):
            assert reached == (neurons is not None and (step, gone) not in neurons)


def test_the_neurons_needed_by_default_are_those_of_the_boolean_semiring():
    net, x = klrp.models.toy()
    needed, truth = symbolic.needed(net, x, 0), klrp.explain(net, x, 0, semiring="boolean")
    for step in truth:
        assert [neurons is not None for neurons in needed[step].ravel()] == truth[step].flatten().tolist()
    assert list(needed.input) == [{("2", 0), ("0", 1)}, None]  # all shares of the second input are negative


@pytest.mark.parametrize("inputs", [torch.rand(2, 3), torch.rand(0, 3), [1.0]])
def test_one_sample_at_a_time(inputs):
    with pytest.raises(klrp.KlrpError, match=r"inputs: got .*one sample, \[1, ...\]"):
        symbolic.explain(nn.Linear(3, 2), inputs, theta=lambda d, edge: d, zero=0, one=1)


def test_a_network_with_too_many_edges_is_refused():
    with pytest.raises(klrp.KlrpError, match="250000 edges, more than the 200000.*klrp.explain"):
        symbolic.explain(nn.Linear(500, 500), torch.rand(1, 500), theta=lambda d, edge: d, zero=0, one=1)


def test_a_network_that_squeezes_the_axis_of_the_one_sample():
    model = graph(
        lambda n, x: n.second(n.first(x).squeeze().relu()).squeeze(), first=nn.Linear(7, 5), second=nn.Linear(5, 3)
    )
    x = signed(1, 7)
    found = klrp.symbolic.explain(model, x, 1, theta=lambda d, edge: d, zero=0.0, one=1.0)
    close(torch.tensor(found.input.astype(float)), klrp.explain(model, x, 1).input[0])


def test_rows_that_are_folded_into_the_samples_are_refused():
    model = graph(lambda n, x: n.fc(x.flatten(0, 1)).unflatten(0, (-1, 5)).mean(1), fc=nn.Linear(7, 3))
    with pytest.raises(klrp.KlrpError, match="several rows"):
        klrp.symbolic.explain(model, signed(1, 5, 7), 1, theta=lambda d, edge: d, zero=0.0, one=1.0)
