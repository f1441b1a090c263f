"""Laws over whole networks: homomorphisms, and random small graphs against the loop."""

import math

import oracle
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import klrp
from klrp import conversions, rules

THETA = 0.0731


class Graph(nn.Module):
    """A random feed-forward graph; ``plan`` lists (operation, indices of the nodes it reads)."""

    def __init__(self, plan, widths, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.plan = plan
        self.layers = nn.ModuleDict(
            {str(n): nn.Linear(widths[reads[0]], widths[n + 1]) for n, (op, reads) in enumerate(plan) if op == "linear"}
        )

    def forward(self, x):
        values = [x]
        for n, (operation, reads) in enumerate(self.plan):
            a = [values[i] for i in reads]
            if operation == "linear":
                values.append(self.layers[str(n)](a[0]))
            elif operation == "relu":
                values.append(torch.relu(a[0]))
            elif operation == "add":
                values.append(a[0] + a[1])
            else:
                values.append(torch.cat(a, 1))
        return values[-1]


@st.composite
def graphs(draw):
    widths, plan = [draw(st.sampled_from([2, 3, 5]))], []
    for _ in range(draw(st.integers(1, 6))):
        operation = draw(st.sampled_from(["linear", "relu", "add", "cat"]))
        reads = [draw(st.integers(0, len(widths) - 1))]
        if operation == "add":
            same = [i for i, w in enumerate(widths) if w == widths[reads[0]]]
            reads.append(draw(st.sampled_from(same)))
        if operation == "cat":
            reads.append(draw(st.integers(0, len(widths) - 1)))
        width = {"linear": draw(st.sampled_from([2, 3, 5])), "cat": sum(widths[i] for i in reads)}.get(
            operation, widths[reads[0]]
        )
        plan.append((operation, tuple(reads)))
        widths.append(width)
    plan.append(("linear", (len(widths) - 1,)))
    widths.append(3)
    seed = draw(st.integers(0, 2**16))
    return Graph(plan, widths, seed).double(), widths


def loop(net, widths, x, target, semiring, rule, theta):
    """The recursion, node by node, on one sample."""
    values = [x]
    for n, (operation, reads) in enumerate(net.plan):
        a = [values[i] for i in reads]
        values.append({
            "linear": lambda a=a, n=n: net.layers[str(n)](a[0]),
            "relu": lambda a=a: a[0].clamp_min(0),
            "add": lambda a=a: a[0] + a[1],
            "cat": lambda a=a: torch.cat(a),
        }[operation]())  # fmt: skip
    relevance = [[semiring.zero] * w for w in widths]
    relevance[-1][target] = semiring.one

    def join(i, below):
        relevance[i] = [semiring.add(old, new) for old, new in zip(relevance[i], below, strict=True)]

    for n in reversed(range(len(net.plan))):
        operation, reads = net.plan[n]
        r = relevance[n + 1]
        if operation == "relu":
            join(reads[0], r)
        elif operation == "cat":
            join(reads[0], r[: widths[reads[0]]])
            join(reads[1], r[widths[reads[0]] :])
        elif operation == "linear":
            layer = net.layers[str(n)]
            d = oracle.shares(rule, values[reads[0]].tolist(), oracle.linear_pairs(layer.weight), layer.bias.tolist())
            join(reads[0], oracle.propagate(d, r, widths[reads[0]], semiring, theta))
        else:  # the two terms of a sum are the lower neurons
            a, b = values[reads[0]].tolist(), values[reads[1]].tolist()
            width = len(a)
            layer = {k: [(k, 1.0), (width + k, 1.0)] for k in range(width)}
            d = oracle.shares(rule, a + b, layer, [0.0] * width)
            below = oracle.propagate(d, r, 2 * width, semiring, theta)
            join(reads[0], below[:width])
            join(reads[1], below[width:])
    return relevance[0]


SETTINGS = {
    klrp.REAL: (rules.epsilon(0.01), oracle.epsilon(0.01), conversions.identity(), lambda d: d),
    klrp.BOOLEAN: (rules.epsilon(), oracle.epsilon(1e-9), conversions.threshold(THETA), lambda d: d >= THETA),
    klrp.COUNTING: (rules.zplus(), oracle.zplus(), conversions.threshold(THETA), lambda d: int(d >= THETA)),
    klrp.VITERBI: (rules.max_share(), oracle.max_share(), conversions.identity(), lambda d: d),
    klrp.LUKASIEWICZ: (rules.max_share(), oracle.max_share(), conversions.identity(), lambda d: d),
    klrp.LOG: (rules.zplus(), oracle.zplus(), conversions.log(), lambda d: math.log(d) if d > 0 else -math.inf),
}


@settings(max_examples=60, deadline=None)
@given(graphs(), st.sampled_from(list(SETTINGS)), st.integers(0, 2))
def test_on_random_graphs_explain_equals_the_loop(graph, semiring, target):
    net, widths = graph
    rule, py_rule, theta, py_theta = SETTINGS[semiring]
    x = torch.randn(2, widths[0], dtype=torch.float64)
    found = klrp.explain(net, x, target, semiring=semiring, rule=rule, theta=theta).input
    for i in range(2):
        with torch.no_grad():
            expected = loop(net, widths, x[i], target, oracle.SEMIRINGS[semiring.name], py_rule, py_theta)
        expected = torch.tensor(expected, dtype=found.dtype)
        finite = expected.isfinite() if found.is_floating_point() else expected == expected
        assert torch.equal(found[i][~finite], expected[~finite])
        scale = max(1.0, float(expected[finite].double().abs().max())) if finite.any() else 1.0
        assert torch.allclose(found[i][finite].double(), expected[finite].double(), rtol=1e-9, atol=1e-9 * scale)


@settings(max_examples=40, deadline=None)
@given(graphs(), st.floats(1e-9, 0.5))
def test_counting_above_zero_is_boolean(graph, theta):
    net, widths = graph
    x = torch.randn(3, widths[0], dtype=torch.float64)
    with_theta = {"theta": conversions.threshold(theta)}
    counts = klrp.explain(net, x, semiring="counting", **with_theta)
    truth = klrp.explain(net, x, semiring="boolean", **with_theta)
    whole = klrp.explain(net, x, semiring="counting_int", **with_theta)
    for name in truth:
        assert torch.equal(counts[name] > 0, truth[name])
        assert torch.equal(counts[name].long(), whole[name])


@settings(max_examples=40, deadline=None)
@given(graphs())
def test_the_exponential_of_max_plus_is_viterbi_and_of_minus_tropical_too(graph):
    net, widths = graph
    x = torch.randn(3, widths[0], dtype=torch.float64)
    best = klrp.explain(net, x, semiring="viterbi")
    logs = klrp.explain(net, x, semiring="max_plus")
    costs = klrp.explain(net, x, semiring="tropical")
    for name in best:
        assert torch.allclose(logs[name].exp(), best[name], rtol=1e-12)
        assert torch.allclose((-costs[name]).exp(), best[name], rtol=1e-12)


@settings(max_examples=40, deadline=None)
@given(graphs())
def test_the_exponential_of_log_is_the_reals_under_zplus(graph):
    net, widths = graph
    x = torch.randn(3, widths[0], dtype=torch.float64)
    logs = klrp.explain(net, x, semiring="log")
    reals = klrp.explain(net, x, rule=rules.zplus())
    for name in reals:
        assert torch.allclose(logs[name].exp(), reals[name], rtol=1e-9, atol=1e-12)


@settings(max_examples=30, deadline=None)
@given(graphs())
def test_the_reals_balance_at_every_step(graph):
    net, widths = graph
    x = torch.randn(3, widths[0], dtype=torch.float64)
    for rule in (rules.lrp0(), rules.epsilon(0.1, std=0.2), rules.gamma(0.3), rules.alpha_beta(2, 1)):
        for entry in klrp.explain(net, x, rule=rule).conservation().values():
            scale = 1 + sum(v.abs() for v in entry).max()
            assert bool((entry.error.abs() <= 1e-9 * scale).all())
