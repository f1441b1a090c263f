"""Signed semirings, the dial and paths, against the list of all paths of small networks.

The list comes from klrp.symbolic: an element is the list of all paths from the class to a neuron, a path the tuple of its
hops (step, j, k, share), from below.
"""

import copy
import math
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import klrp
from klrp import conversions, paths, rules

THETA = 0.0531
INF = math.inf


class Residual(nn.Module):
    """A fork that is joined again, by a sum."""

    def __init__(self):
        super().__init__()
        self.first, self.middle, self.last = nn.Linear(5, 7), nn.Linear(7, 7), nn.Linear(7, 3)

    def forward(self, x):
        x = self.first(x).relu()
        return self.last(x + self.middle(x).relu())


class Shared(nn.Module):
    """One layer that is called twice, and a constant that is added."""

    def __init__(self):
        super().__init__()
        self.step, self.last = nn.Linear(5, 5), nn.Linear(5, 3)

    def forward(self, x):
        return self.last(self.step(self.step(x).relu() + 0.25).relu())


def mlp():
    return nn.Sequential(nn.Linear(7, 11), nn.ReLU(), nn.Linear(11, 5), nn.ReLU(), nn.Linear(5, 2))


def cnn():
    return nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(3, 5, 2), nn.ReLU(), nn.AvgPool2d((2, 1)),
        nn.Flatten(), nn.Linear(10, 3),
    )  # fmt: skip


def grouped():
    return nn.Sequential(
        nn.Conv1d(4, 6, 3, groups=2),
        nn.ReLU(),
        nn.MaxPool1d(3, 2),
        nn.ConvTranspose1d(6, 2, 2),
        nn.Flatten(),
        nn.Linear(8, 3),
    )


NETS = {
    "mlp": (mlp, (7,)),
    "cnn": (cnn, (2, 6, 7)),
    "grouped": (grouped, (4, 9)),
    "residual": (Residual, (5,)),
    "shared": (Shared, (5,)),
}


def made(name):
    torch.manual_seed(3)
    make, shape = NETS[name]
    net = make().double().eval()
    for p in net.parameters():
        p.data = torch.randn_like(p) * 0.5
        if p.ndim == 1:
            p.data.abs_().add_(0.5)  # so that neurons are active
    return net, torch.randn(3, *shape, dtype=torch.float64)


def all_paths(net, x, target, rule):
    """For each input neuron the list of its paths."""
    found = klrp.symbolic.explain(
        net, x, target, rule=rule, zero=(), one=((),), add=lambda a, b: a + b,
        mul=lambda a, b: tuple(p + q for p in a for q in b),
        theta=lambda d, edge: (((edge.step, edge.j, edge.k, d),),) if d else (),
    )  # fmt: skip
    return found.input.ravel()


def shares(path):
    return [hop[-1] for hop in path]


# ------------------------------------------------------------------ signed semirings


def joined(name, weights):
    """⊕ of the weights of some paths, each a list of sizes of shares."""
    if name == "boolean":
        return float(any(all(d >= THETA for d in w) for w in weights))
    if name == "counting":
        return float(sum(all(d >= THETA for d in w) for w in weights))
    if name == "real":
        return math.fsum(math.prod(w) for w in weights)
    if name == "viterbi":
        return max((math.prod(w) for w in weights), default=0.0)
    assert name == "fuzzy"
    return max((min(w) for w in weights), default=0.0)


SIGNED = {
    "boolean": (rules.epsilon(), conversions.threshold(THETA)),
    "counting": (rules.epsilon(1e-3), conversions.threshold(THETA)),
    "counting_int": (rules.epsilon(1e-3), conversions.threshold(THETA)),
    "real": (rules.epsilon(1e-2), None),
    "viterbi": (rules.max_share(signed=True), None),
    "fuzzy": (rules.max_share(signed=True), None),
}


@pytest.mark.parametrize("kernels", ["all", "blocked"])
@pytest.mark.parametrize("name", SIGNED)
@pytest.mark.parametrize("net", NETS)
def test_what_supports_and_what_opposes(net, name, kernels):
    model, x = made(net)
    rule, theta = SIGNED[name]
    settings = dict(semiring=klrp.signed(name), rule=rule, theta=theta)
    with klrp.kernels.only(
        *(["blocked"] if kernels == "blocked" else ["gradient", "lists", "loops", "norms", "blocked"])
    ):
        relevance = klrp.explain(model, x, 1, **settings)
    for sample in range(len(x)):
        ways = all_paths(model, x[sample : sample + 1], 1, rule)
        for found, some in zip(relevance.input[sample].reshape(-1, 2), ways, strict=True):
            sides = ([], [])
            for path in some:
                ds = shares(path)
                sides[sum(d < 0 for d in ds) % 2].append([abs(d) for d in ds])
            expected = [joined(name.removesuffix("_int"), side) for side in sides]
            assert found.tolist() == pytest.approx(expected, rel=1e-9, abs=1e-12)


OF_OTHERS = {  # K, its rule and Θ, and the ⊕ in K over the weights of some paths
    "signed": (klrp.signed("counting"), rules.epsilon(1e-3), THETA, lambda ways: [joined("counting", ways), 0.0]),
    "three best": (
        klrp.kbest(3), rules.max_share(signed=True), None,
        lambda ways: (sorted(map(math.prod, ways), reverse=True) + [0.0] * 3)[:3],
    ),
    "product": (
        klrp.COUNTING * klrp.signed("boolean"), rules.epsilon(1e-3), THETA,
        lambda ways: [joined("counting", ways), joined("boolean", ways), 0.0],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", OF_OTHERS)
@pytest.mark.parametrize("net", NETS)
def test_whatever_the_pairs_are_of(net, name):
    """Pairs of pairs, of lists and of products; what is inside sees no negative share, and so nothing that opposes."""
    model, x = made(net)
    k, rule, cut, join = OF_OTHERS[name]
    theta = None if cut is None else conversions.threshold(cut)
    for cuts in (theta, *([] if theta is None else [conversions.signed(theta)])):  # Θ of pairs already
        found = klrp.explain(model, x, 1, semiring=klrp.signed(k), rule=rule, theta=cuts)
        with klrp.kernels.only("blocked"):
            slow = klrp.explain(model, x, 1, semiring=klrp.signed(k), rule=rule, theta=cuts)
        assert torch.allclose(found.input, slow.input, rtol=1e-12) and found.input.shape[x.ndim :] == (2, *k.shape)
    for sample in range(len(x)):
        ways = all_paths(model, x[sample : sample + 1], 1, rule)
        for pair, some in zip(found.input[sample].reshape(-1, 2, *k.shape), ways, strict=True):
            sides = ([], [])
            for path in some:
                sides[sum(d < 0 for d in shares(path)) % 2].append([abs(d) for d in shares(path)])
            assert pair.tolist() == [pytest.approx(join(side), rel=1e-9, abs=1e-12) for side in sides]


def test_the_net_amount_is_lrp_and_the_sum_that_of_sizes():
    model, x = made("cnn")
    rule = rules.epsilon(1e-2)
    pairs = klrp.explain(model, x, semiring=klrp.signed("real"), rule=rule).input
    assert torch.allclose(pairs[..., 0] - pairs[..., 1], klrp.explain(model, x, rule=rule).input)
    counts = klrp.explain(model, x, semiring=klrp.signed("counting"), theta=conversions.threshold(THETA))
    both = klrp.explain(model, x, semiring="counting", theta=conversions.magnitude(THETA)).input
    assert both.amax() > 1 and torch.equal(counts.input.sum(-1), both)


def test_a_net_score_ranks_maps_whatever_the_semiring():
    model, x = made("mlp")
    for name in ("counting", "viterbi", "tropical", "max_plus"):
        semiring = klrp.signed(name)
        relevance = klrp.explain(model, x, semiring=semiring)
        score = semiring.score(relevance.input)
        assert score.shape == x.shape and score.isfinite().all() and bool((score < 0).any())
        assert not semiring.logarithmic


def test_a_rule_without_negative_shares_has_nothing_that_opposes():
    model, x = made("cnn")
    pairs = klrp.explain(model, x, semiring=klrp.signed("log"), rule=rules.zplus()).input
    plain = klrp.explain(model, x, semiring="log", rule=rules.zplus()).input
    assert torch.allclose(pairs[..., 0].exp(), plain.exp()) and bool((pairs[..., 1] == -INF).all())


def test_thresholds_for_each_sample_are_signed_too():
    model, x = made("cnn")
    cuts = torch.tensor([0.02, 0.1, 0.3], dtype=torch.float64)
    settings = dict(semiring=klrp.signed("counting"), rule=rules.epsilon(1e-3))
    together = klrp.explain(model, x, theta=conversions.at_least(cuts), **settings).input
    with klrp.kernels.only("blocked"):
        slow = klrp.explain(model, x, theta=conversions.at_least(cuts), **settings).input
    alone = [
        klrp.explain(model, x[i : i + 1], theta=conversions.threshold(float(t)), **settings).input
        for i, t in enumerate(cuts)
    ]
    assert torch.equal(together, slow) and torch.equal(together, torch.cat(alone))
    assert len({t.sum().item() for t in alone}) == 3


def test_many_batches_and_masks_take_pairs():
    model, x = made("cnn")
    settings = dict(semiring=klrp.signed("counting"), rule=rules.epsilon(1e-3))
    whole = klrp.explain(model, x, **settings).input
    parts = [r.input for r in klrp.explain_many(model, x.split(2), **settings)]
    assert torch.equal(whole, torch.cat(parts))


def test_a_signed_semiring_is_copied_with_what_it_is_made_of():
    semiring = klrp.signed("viterbi")
    for other in (copy.deepcopy(semiring), pickle.loads(pickle.dumps(semiring))):
        assert other.parts == (klrp.VITERBI,) and other.mul == semiring.mul and other.shape == (2,)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 64), st.integers(0, 64)), min_size=1, max_size=4))
def test_laws_of_signed_semirings(pairs):
    for name, scale in (("counting", 1), ("viterbi", 64), ("fuzzy", 64), ("real", 8), ("boolean", 0)):
        elements = torch.tensor(pairs, dtype=torch.float64)
        elements = elements > 32 if name == "boolean" else elements / scale
        klrp.check_laws(klrp.signed(name), elements)


def test_mass_is_refused_with_a_reason():
    model, x = made("mlp")
    with pytest.raises(klrp.KlrpError, match="shares of one sign"):
        klrp.explain(model, x, semiring=klrp.signed("counting"), theta=conversions.mass(0.5))


# ------------------------------------------------------------------------- the dial


@pytest.mark.parametrize("kernels", ["gradient", "blocked"])
@pytest.mark.parametrize("p", [1, 2, 3.5, 8, 32])
@pytest.mark.parametrize("net", NETS)
def test_the_dial_is_the_norm_of_the_weights_of_all_paths(net, p, kernels):
    model, x = made(net)
    with klrp.kernels.only(kernels):
        relevance = klrp.explain(model, x, 1, semiring=klrp.dial(p)).input
    for sample in range(len(x)):
        ways = all_paths(model, x[sample : sample + 1], 1, rules.norm_share(p))
        for found, some in zip(relevance[sample].flatten().tolist(), ways, strict=True):
            assert all(d >= 0 for path in some for d in shares(path))
            expected = sum(math.prod(shares(path)) ** p for path in some) ** (1 / p)
            assert found == pytest.approx(expected, rel=1e-8, abs=1e-9)


@pytest.mark.parametrize("p", [1, 2, 4, 4.5, 16])
def test_the_dial_in_single_precision(p):
    model, x = made("cnn")
    exact = klrp.explain(model, x, semiring=klrp.dial(p)).input
    single = klrp.explain(model.float(), x.float(), semiring=klrp.dial(p)).input
    assert single.dtype == torch.float32 and torch.allclose(single.double(), exact, atol=3e-6)


def test_the_powers_of_a_map_add_up_to_one():
    model, x = made("cnn")
    for p in (1, 2, 8):
        relevance = klrp.explain(model, x, semiring=klrp.dial(p))
        for r in relevance.values():
            assert r.pow(p).flatten(1).sum(1).tolist() == pytest.approx([1.0] * len(x))


def test_at_the_end_of_the_dial_stands_viterbi():
    assert klrp.dial(INF) is klrp.VITERBI and rules.norm_share(INF) == rules.max_share()
    model, x = made("mlp")
    near, far = (
        (klrp.explain(model, x, semiring=klrp.dial(p)).input - klrp.explain(model, x, semiring="viterbi").input)
        .abs()
        .max()
        for p in (32, 1)
    )
    assert near < 0.1 < far


def test_samples_of_the_dial_do_not_depend_on_each_other():
    model, x = made("cnn")
    x[1] *= 1e3
    together = klrp.explain(model, x, semiring=klrp.dial(3)).input
    alone = torch.cat([klrp.explain(model, one[None], semiring=klrp.dial(3)).input for one in x])
    assert torch.allclose(together, alone, rtol=1e-9)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(0, 100), min_size=1, max_size=4), st.sampled_from([1, 2, 3.5, 8, 32]))
def test_laws_of_the_dial(numbers, p):
    klrp.check_laws(klrp.dial(p), torch.tensor(numbers, dtype=torch.float64).round(decimals=3))


@pytest.mark.parametrize("p", [0.5, 33, -1, float("nan"), "two"])
def test_a_wrong_power_is_refused(p):
    with pytest.raises(klrp.KlrpError, match="p = .*expected a number from 1 to 32"):
        klrp.dial(p)


# ------------------------------------------------------------------------ best paths

CHOICES = {
    "viterbi": (rules.max_share(), lambda ds: math.prod(ds)),
    "fuzzy": (rules.max_share(), lambda ds: min(ds)),
    "lukasiewicz": (rules.max_share(), lambda ds: max(0.0, sum(ds) - len(ds) + 1)),
    "max_plus": (rules.max_share(), lambda ds: sum(math.log(d) for d in ds)),
    "tropical": (rules.max_share(), lambda ds: sum(-math.log(d) for d in ds)),
}


@pytest.mark.parametrize("name", CHOICES)
@pytest.mark.parametrize("net", NETS)
def test_the_best_paths_are_the_best_of_all(net, name):
    model, x = made(net)
    rule, weight = CHOICES[name]
    relevance = klrp.explain(model, x, 1, semiring=name)
    zero, sign = relevance.semiring.zero, -1 if name == "tropical" else 1
    for sample in range(len(x)):
        ways = all_paths(model, x[sample : sample + 1], 1, rule)
        scores = relevance.semiring.score(relevance.input[sample]).flatten()
        for j in scores.argsort(descending=True)[:3].tolist():
            weights = sorted((w for w in (weight(shares(p)) for p in ways[j]) if w != zero), key=lambda w: -sign * w)
            found = paths.best(relevance, j, 6, sample=sample)
            assert [p.value for p in found] == pytest.approx(weights[:6], abs=1e-9)
            if weights:
                assert found[0].value == pytest.approx(relevance.input[sample].flatten()[j].item(), abs=1e-9)
            for path in found:
                hops = [d for d in path.shares if d is not None]
                assert weight(hops) == pytest.approx(path.value, abs=1e-9)


def test_paths_are_those_of_the_list_hop_by_hop():
    model, x = made("cnn")
    relevance = klrp.explain(model, x[:1], 1, semiring="viterbi")
    j = int(relevance.input.flatten().argmax())
    (path,) = paths.best(relevance)
    ways = all_paths(model, x[:1], 1, rules.max_share())[j]
    expected = max(ways, key=lambda way: math.prod(shares(way)))
    flat = {(name, int(np.ravel_multi_index(index, relevance[name].shape[1:]))) for name, index in path.neurons}
    assert {(step, k) for step, _, k, _ in expected} <= flat
    assert shares(expected) == pytest.approx([d for d in reversed(path.shares) if d is not None])
    assert path.neurons[-1][0] == "input" and path.neurons[0] == ("7", (1,))
    assert [name for name, _ in path.layers] == ["7", "5", "3", "0", "input"]


def test_every_path_is_found_once():
    model, x = made("residual")
    relevance = klrp.explain(model, x, 1, semiring="viterbi")
    found = paths.best(relevance, 2, 10_000)
    ways = [way for way in all_paths(model, x[:1], 1, rules.max_share())[2] if math.prod(shares(way))]
    assert len(found) == len(ways) == len({path.neurons for path in found})


def test_boolean_paths_are_relevant_from_end_to_end():
    model, x = made("cnn")
    rule, cut = rules.epsilon(), 0.05
    relevance = klrp.explain(model, x[:1], 1, semiring="boolean", rule=rule, theta=conversions.threshold(cut))
    j = int(relevance.input.flatten().nonzero()[0])
    found = paths.best(relevance, j, 1000)
    ways = [way for way in all_paths(model, x[:1], 1, rule)[j] if all(d >= cut for d in shares(way))]
    assert len(found) == len(ways) and all(path.value is True for path in found)


def kbest(k):
    def top(x):
        return x.sort(dim=-1, descending=True).values[..., :k]

    def add(x, dim):
        return top(x.movedim(dim, -1).flatten(-2))

    def mul(x, y):
        return top((x[..., :, None] * y[..., None, :]).flatten(-2))

    return klrp.Semiring("k best", [0.0] * k, [1.0] + [0.0] * (k - 1), add, mul, domain=(0, 1), shape=k)


@pytest.mark.parametrize("net", ["cnn", "residual"])
def test_the_k_best_agree_with_a_semiring_that_keeps_k(net):
    model, x = made(net)
    theta = lambda d: torch.cat([d[..., None], torch.zeros(*d.shape, 4, dtype=d.dtype)], -1)  # noqa: E731
    kept = klrp.explain(model, x, semiring=kbest(5), rule=rules.max_share(), theta=theta).input
    relevance = klrp.explain(model, x, semiring="viterbi")
    for sample in range(len(x)):
        j = int(relevance.input[sample].flatten().argmax())
        found = [path.value for path in paths.best(relevance, j, 5, sample=sample)]
        expected = [v for v in kept[sample].reshape(-1, 5)[j].tolist() if v]
        assert found == pytest.approx(expected, abs=1e-12)


def test_paths_begin_where_relevance_begins_and_keep_to_what_is_let_through():
    model, x = made("mlp")
    start = {"2": torch.tensor([[0.5, 0.0, 0.25, 0.0, 1.0]] * 3, dtype=torch.float64)}
    relevance = klrp.explain(model, x, semiring="viterbi", start=start)
    (path,) = paths.best(relevance)
    assert path.neurons[0][0] == "2" and path.value == pytest.approx(relevance.input[0].max().item())
    mask = torch.arange(11) % 2 == 0
    relevance = klrp.explain(model, x, 1, semiring="viterbi", through={"0": mask})
    ways = [way for some in all_paths(model, x[:1], 1, rules.max_share()) for way in some if mask[way[0][2]]]
    best = max(math.prod(shares(way)) for way in ways)
    assert paths.best(relevance)[0].value == pytest.approx(best) and best > 0


def test_a_path_to_a_hidden_neuron_and_by_its_index():
    model, x = made("cnn")
    relevance = klrp.explain(model, x, semiring="viterbi")
    index = (2, 1, 1)
    for path in paths.best(relevance, index, at="2", k=2):
        assert path.neurons[-1] == ("2", index)
    assert paths.best(relevance, index, at="2")[0].value == pytest.approx(relevance["2"][0][index].item())


def test_a_single_sample_of_a_network_that_squeezes():
    class Squeezing(nn.Module):
        def __init__(self):
            super().__init__()
            self.one = nn.Linear(5, 3)

        def forward(self, x):
            return self.one(x.squeeze()).relu()

    torch.manual_seed(0)
    x = torch.randn(1, 5).double()
    relevance = klrp.explain(Squeezing().double(), x, semiring="viterbi")
    assert paths.best(relevance)[0].value == pytest.approx(relevance.input.max().item())


# --------------------------------------------------------------------- paths by lot


@pytest.mark.parametrize("name, rule", [("real", rules.zplus()), ("log", rules.zplus()), ("counting", rules.epsilon())])
def test_paths_by_lot_come_in_proportion_to_their_weights(name, rule):
    model, x = made("residual")
    with torch.no_grad():
        for p in model.parameters():
            p.abs_()
    x = x.abs()
    relevance = klrp.explain(model, x, 1, semiring=name, rule=rule)
    ways = [way for some in all_paths(model, x[:1], 1, rule) for way in some if math.prod(shares(way)) > 0]
    weights = {tuple(shares(w)): 1.0 if name == "counting" else math.prod(shares(w)) for w in ways}
    n = 4000
    found = paths.sample(relevance, n, seed=5)
    counts = dict.fromkeys(weights, 0)
    rounded = {tuple(round(d, 9) for d in key): key for key in weights}
    assert len(rounded) == len(weights) > 30
    for path in found:
        counts[rounded[tuple(round(d, 9) for d in reversed(path.shares) if d is not None)]] += 1
    total = sum(weights.values())
    chi = sum((counts[key] - n * w / total) ** 2 / (n * w / total) for key, w in weights.items())
    assert chi < len(weights) + 5 * math.sqrt(2 * len(weights))
    again = paths.sample(relevance, n, seed=5)
    assert [path.neurons for path in again] == [path.neurons for path in found]


def test_paths_by_lot_from_one_neuron():
    model, x = made("cnn")
    relevance = klrp.explain(model.float(), x.float(), rule=rules.zplus(), target=0)
    j = int(relevance.input[1].flatten().argmax())
    index = np.unravel_index(j, relevance.input.shape[1:])
    found = paths.sample(relevance, 20, [int(i) for i in index], sample=1)
    assert len(found) == 20 and {path.neurons[-1] for path in found} == {("input", tuple(map(int, index)))}


# ---------------------------------------------------------------------------- errors


def test_what_cannot_be_answered_says_why():
    model, x = made("mlp")
    viterbi = klrp.explain(model, x, semiring="viterbi")
    cases = [
        ("does not choose one", lambda: paths.best(klrp.explain(model, x, rule=rules.flat()))),
        ("is no sum", lambda: paths.sample(viterbi, 3)),
        ("below zero", lambda: paths.sample(klrp.explain(model, x), 3)),
        ("need the maps of all steps", lambda: paths.best(klrp.explain(model, x, semiring="viterbi", keep="input"))),
        ("before the Relevance is copied", lambda: paths.best(copy.deepcopy(viterbi))),
        ("k: got 0", lambda: paths.best(viterbi, k=0)),
        ("n: got True", lambda: paths.sample(viterbi, True)),
        ("neuron: got 7", lambda: paths.best(viterbi, 7)),
        (r"neuron: got \(1, 2\)", lambda: paths.best(viterbi, (1, 2))),
        ("sample: got 3", lambda: paths.best(viterbi, sample=3)),
        ("there is no map 'nowhere'|not there", lambda: paths.best(viterbi, at="nowhere")),
    ]
    for message, call in cases:
        with pytest.raises(klrp.KlrpError, match=message):
            call()
    with torch.no_grad():
        model[0].weight.mul_(2)
    with pytest.raises(klrp.KlrpError, match="changed since"):
        paths.best(viterbi)


def test_where_nothing_is_relevant_there_is_no_path():
    model, x = made("mlp")
    relevance = klrp.explain(model, x, semiring="boolean", theta=conversions.threshold(99.0))
    assert paths.best(relevance, 3, 5) == []
    counts = klrp.explain(model, x, semiring="counting", theta=conversions.threshold(99.0))
    with pytest.raises(klrp.KlrpError, match="no path leads to it"):
        paths.sample(counts, 2)


# ------------------------------------------------------------------------- products


@pytest.mark.parametrize("net", NETS)
def test_one_walk_for_several_semirings(net):
    model, x = made(net)
    semiring = klrp.product("counting", klrp.signed("boolean"), "counting_int")
    settings = dict(rule=rules.epsilon(1e-3), theta=conversions.threshold(THETA))
    together = klrp.explain(model, x, semiring=semiring, **settings)
    with klrp.kernels.only("blocked"):
        slow = klrp.explain(model, x, semiring=semiring, **settings)
    assert semiring.shape == (4,) and torch.equal(together.input, slow.input)
    alone = [klrp.explain(model, x, semiring=k, **settings).input for k in semiring.parts]
    for found, expected in zip(klrp.composed.components(semiring, together.input), alone, strict=True):
        assert found.dtype == expected.dtype and torch.equal(found, expected)


def test_the_product_is_an_operator():
    both = klrp.COUNTING * klrp.signed("boolean") * klrp.VITERBI
    assert both.parts[::2] == (klrp.COUNTING, klrp.VITERBI) and both.parts[1].name == "signed boolean"
    with pytest.raises(klrp.KlrpError, match="semiring"):
        klrp.COUNTING * 3


def test_whether_counts_are_exact_is_asked_of_the_counts():
    """Not of the infinity that is tropical's zero, nor of what stands beside them."""
    layers = [nn.Linear(11, 11) for _ in range(17)]  # 11^16 paths, more than 2^53
    deep, x = nn.Sequential(*layers), torch.ones(1, 11)
    every, one = lambda d: torch.ones_like(d), conversions.threshold(2.0)  # noqa: E731
    for semiring in (
        klrp.TROPICAL * klrp.COUNTING,
        klrp.signed(klrp.COUNTING),
        klrp.COUNTING * klrp.signed("tropical"),
    ):
        for cut, exact in ((one, True), (every, False)):
            thetas = [cut if "counting" in k.name else conversions.positive() for k in semiring.parts]
            theta = conversions.each(*thetas) if semiring.fused == "product" else cut
            assert klrp.explain(deep, x, 0, semiring=semiring, rule=rules.epsilon(), theta=theta).exact is exact
    whole = klrp.VITERBI * klrp.COUNTING_INT  # whole numbers that floats hold
    theta = conversions.each(one, every)
    assert klrp.explain(deep, x, 0, semiring=whole, rule=rules.epsilon(), theta=theta).exact is False


def test_of_several_inputs_one_is_named():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(5, 3), nn.Linear(7, 3)

        def forward(self, x, y):
            return self.a(x) + self.b(y)

    relevance = klrp.explain(Two(), (torch.rand(2, 5), torch.rand(2, 7)), 0, semiring="viterbi")
    with pytest.raises(klrp.KlrpError, match="several inputs; name one of them, input.0 or input.1"):
        paths.best(relevance)
    assert paths.best(relevance, at="input.1")[0].neurons[-1][0] == "input.1"


def test_a_product_of_products_is_flat_and_each_has_its_own_theta():
    model, x = made("mlp")
    semiring = klrp.product(klrp.product("real", "real"), "boolean")
    assert len(semiring.parts) == 3 and semiring.shape == (3,)
    thetas = lambda d: 0.5 * d, conversions.identity(), conversions.threshold(THETA)  # noqa: E731
    rule = rules.epsilon(1e-2)
    found = klrp.explain(model, x, semiring=semiring, rule=rule, theta=conversions.each(*thetas)).input
    for part, theta, piece in zip(semiring.parts, thetas, klrp.composed.components(semiring, found), strict=True):
        assert torch.allclose(
            piece.double(), klrp.explain(model, x, semiring=part, rule=rule, theta=theta).input.double()
        )


def test_bounds_enclose_the_relevance_of_shares_known_to_a_tolerance():
    model, x = made("cnn")
    semiring, t = klrp.product("real", "real"), 0.05
    theta = conversions.each(lambda d: d * (1 - t), lambda d: d * (1 + t))
    pairs = klrp.explain(model, x, semiring=semiring, rule=rules.zplus(), theta=theta).input
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        wobble = lambda d: d * (1 + t * (2 * torch.rand(d.shape, generator=generator, dtype=d.dtype) - 1))  # noqa: E731
        r = klrp.explain(model, x, rule=rules.zplus(), theta=wobble).input
        assert bool((pairs[..., 0] <= r + 1e-12).all()) and bool((r <= pairs[..., 1] + 1e-12).all())
    assert bool((pairs[..., 0] < pairs[..., 1]).any())


def test_products_default_only_where_the_rules_agree():
    assert klrp.product("counting", "boolean").default[0] == rules.epsilon()
    assert klrp.product("counting", "viterbi").default is None
    model, x = made("mlp")
    with pytest.raises(klrp.KlrpError, match="has no default"):
        klrp.explain(model, x, semiring=klrp.product("counting", "viterbi"))
    for bad, message in (
        (lambda: klrp.product("real"), "two or more"),
        (lambda: klrp.composed.components(klrp.REAL, x), "is no product"),
        (lambda: conversions.each(conversions.mass(0.5), conversions.positive()), "several"),
        (
            lambda: klrp.explain(
                model, x, semiring=klrp.product("counting", "boolean"), theta=conversions.each(conversions.positive())
            ),
            "1 of them for 2",
        ),
    ):
        with pytest.raises(klrp.KlrpError, match=message):
            bad()


def test_a_product_is_copied_and_its_laws_hold():
    semiring = klrp.product("viterbi", "counting", "tropical")
    assert semiring.dtype == torch.float64
    other = pickle.loads(pickle.dumps(semiring))
    assert other.mul == semiring.mul and other.parts == semiring.parts
    klrp.check_laws(semiring, torch.tensor([[0.5, 2, 1], [0.25, 3, INF], [1, 0, 4]], dtype=torch.float64))
