"""The k best weights and the spread of paths, against the list of the weights of all paths."""

import math
import pickle

import oracle
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from test_laws import graphs, loop
from test_paths import all_paths, made, shares
from torch import nn

import klrp
from klrp import aggregates, conversions, rules

ALL = oracle.PySemiring([], [1.0], lambda x, y: x + y, lambda x, y: [a * b for a in x for b in y])


def largest(weights, k):
    return (sorted(weights, reverse=True) + [0.0] * k)[:k]


def pair(weights):
    return [math.fsum(weights), math.fsum(w * math.log(w) for w in weights)]


def spread(weights):
    total = math.fsum(weights)
    return -math.fsum(w / total * math.log(w / total) for w in weights) if weights else -math.inf


def assert_close(found, expected):
    assert torch.allclose(found, torch.tensor(expected, dtype=found.dtype).reshape(found.shape), rtol=1e-9, atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(graphs(), st.integers(0, 2), st.integers(1, 7))
def test_on_random_graphs_they_say_what_the_list_of_all_paths_says(graph, target, k):
    net, widths = graph
    x = torch.randn(2, widths[0], dtype=torch.float64)
    best = klrp.explain(net, x, target, semiring=aggregates.kbest(k)).input
    spreads = klrp.explain(net, x, target, semiring=aggregates.expectation()).input
    for i in range(2):
        with torch.no_grad():
            count = loop(net, widths, x[i], target, oracle.SEMIRINGS["counting"], oracle.max_share(), lambda d: 1)
            assume(sum(count) < 20_000)
            weights, shared = (
                loop(net, widths, x[i], target, ALL, rule, lambda d: [d] if d > 0 else [])
                for rule in (oracle.max_share(), oracle.zplus())
            )
        assert_close(best[i], [largest(w, k) for w in weights])
        assert_close(spreads[i], [pair(w) for w in shared])
        assert_close(aggregates.entropy(spreads[i]), [spread(w) for w in shared])


@pytest.mark.parametrize("net", ["cnn", "grouped", "residual", "shared"])
def test_convolutions_pools_forks_and_layers_that_are_called_twice(net):
    model, x = made(net)
    best = klrp.explain(model, x[:1], 1, semiring=aggregates.kbest(3)).input
    spreads = klrp.explain(model, x[:1], 1, semiring=aggregates.expectation()).input
    paths, shared = (all_paths(model, x[:1], 1, rule) for rule in (rules.max_share(), rules.zplus()))
    assert max(map(len, paths)) > 3
    assert_close(best, [largest([math.prod(shares(p)) for p in some], 3) for some in paths])
    assert_close(spreads, [pair([math.prod(shares(p)) for p in some]) for some in shared])


@settings(max_examples=40, deadline=None)
@given(st.data(), st.integers(1, 5))
def test_the_laws(data, k):
    lists = st.lists(st.floats(0, 1), min_size=k, max_size=k).map(lambda x: sorted(x, reverse=True))
    members = data.draw(st.lists(lists, min_size=1, max_size=4))
    klrp.check_laws(aggregates.kbest(k), torch.tensor(members, dtype=torch.float64))
    pairs = data.draw(st.lists(st.tuples(st.integers(0, 50), st.integers(-50, 50)), min_size=1, max_size=4))
    klrp.check_laws(aggregates.expectation(), torch.tensor(pairs, dtype=torch.float64))


@settings(max_examples=60, deadline=None)
@given(st.data(), st.integers(1, 11))
def test_the_k_largest_products_are_among_the_pairs_that_are_looked_at(data, k):
    lists = st.lists(st.floats(0, 1), min_size=k, max_size=k).map(lambda x: sorted(x, reverse=True))
    x, y = data.draw(lists), data.draw(lists)
    found = aggregates.kbest(k).mul(*(torch.tensor(v, dtype=torch.float64) for v in (x, y)))
    assert found.tolist() == largest([a * b for a in x for b in y], k)


def test_one_best_is_viterbi_and_equal_paths_are_two():
    model, x = made("cnn")
    best, viterbi = (klrp.explain(model, x, semiring=s) for s in (aggregates.kbest(1), klrp.VITERBI))
    assert all(torch.allclose(best[name][..., 0], viterbi[name], rtol=1e-12, atol=0) for name in viterbi)
    twins = nn.Sequential(nn.Linear(1, 2, bias=False), nn.Linear(2, 1, bias=False))
    for layer in twins:
        nn.init.ones_(layer.weight)
    assert klrp.explain(twins, torch.ones(1, 1), semiring=aggregates.kbest(3)).input.tolist() == [[[1, 1, 0]]]


def test_a_theta_is_one_of_the_numbers():
    model, x = made("mlp")
    cut, f = conversions.threshold(0.05), conversions.mass(0.8)
    for theta in (cut, f):
        counts = klrp.explain(model, x, semiring="counting", rule=rules.zplus(), theta=theta).input
        spreads = klrp.explain(model, x, semiring=aggregates.expectation(), theta=theta).input
        best = klrp.explain(model, x, semiring=aggregates.kbest(4), rule=rules.zplus(), theta=theta).input
        assert torch.equal(spreads[..., 0], counts) and not spreads[..., 1].any()
        assert torch.equal(best.sum(-1), counts.clamp_max(4)) and 0 < counts.max()
        assert torch.allclose(aggregates.entropy(spreads).exp(), counts)
    kept = klrp.explain(model, x, semiring=aggregates.kbest(2), theta=conversions.keep(0.3)).input
    expected = [
        largest([math.prod(shares(p)) for p in some if min(shares(p)) >= 0.3], 2)
        for sample in x
        for some in all_paths(model, sample[None], int(model(sample).argmax()), rules.max_share())
    ]
    assert_close(kept, expected)


def test_negative_shares_are_refused_with_a_way_out():
    model, x = made("mlp")
    with pytest.raises(klrp.KlrpError, match="domain of expectation.*zplus"):
        klrp.explain(model, x, semiring=aggregates.expectation(), rule=rules.epsilon())
    with pytest.raises(klrp.KlrpError, match="domain of 2 best.*max_share"):
        klrp.explain(model, x, semiring=aggregates.kbest(2), rule=rules.epsilon())


@pytest.mark.parametrize("k", [0, -1, 1.5, True, "2"])
def test_k_is_a_whole_number(k):
    with pytest.raises(klrp.KlrpError, match="kbest: got k = .*from 1 up"):
        aggregates.kbest(k)


@pytest.mark.parametrize("elements", [torch.ones(3), torch.tensor(1.0), [1.0, 2.0]], ids=str)
def test_entropy_is_of_pairs(elements):
    with pytest.raises(klrp.KlrpError, match=r"elements: got .*pairs \[..., 2\]"):
        aggregates.entropy(elements)


@pytest.mark.parametrize("semiring", [aggregates.kbest(3), aggregates.expectation()], ids=str)
def test_they_are_pickled_and_have_edges_and_totals(semiring):
    model, x = made("mlp")
    found = klrp.explain(model, x, semiring=semiring)
    again = pickle.loads(pickle.dumps(found))
    assert torch.equal(again.input, found.input)
    assert torch.equal(again.input, klrp.explain(model, x, semiring=again.semiring).input)
    step = list(found)[-2]
    assert_close(semiring.sum(found.edges(step), 1), found.input.tolist())
    assert_close(found.conservation()["input"].total, semiring.sum(found.input, 1).tolist())


def test_a_single_precision_network_keeps_its_precision():
    model, x = made("mlp")
    double = klrp.explain(model, x, semiring=aggregates.expectation()).input
    single = klrp.explain(model.float(), x.float(), semiring=aggregates.expectation()).input
    assert single.dtype == torch.float32 and torch.allclose(single.double(), double, rtol=1e-3, atol=1e-5)
