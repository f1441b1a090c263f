"""Rules and conversions: their limits, their arguments, and what each Θ says at its edge."""

import copy
import math
import pickle

import numpy as np
import pytest
import torch
from torch import nn

import klrp
from klrp import conversions, rules

torch.manual_seed(0)
NET = nn.Sequential(nn.Linear(7, 5), nn.ReLU(), nn.Linear(5, 3)).double()
X = torch.rand(2, 7, dtype=torch.float64)


def explained(rule, **settings):
    return klrp.explain(NET, X, rule=rule, **settings).input


def test_gamma_tends_to_zplus_where_activations_are_not_negative():
    last = None
    for g in (1e1, 1e3, 1e5):
        distance = float((explained(rules.gamma(g)) - explained(rules.zplus())).abs().max())
        assert last is None or distance < last / 10
        last = distance
    assert last < 1e-4


def test_gamma_zero_and_epsilon_zero_are_lrp0():
    assert torch.equal(explained(rules.gamma(0)), explained(rules.lrp0()))
    assert torch.equal(explained(rules.epsilon(0)), explained(rules.lrp0()))


def test_alpha_one_beta_zero_is_zplus():
    assert torch.equal(explained(rules.alpha_beta(1, 0)), explained(rules.zplus()))


def test_epsilon_takes_relevance_away_from_every_neuron_alike():
    small, large = explained(rules.epsilon(1e-9)), explained(rules.epsilon(1.0))
    assert float(large.abs().sum()) < float(small.abs().sum())


def test_the_stabiliser_has_the_sign_of_z_and_plus_at_zero():
    z = torch.tensor([[-2.0, 0.0, 2.0]])
    assert rules.epsilon(0.5).stabilise(z).tolist() == [[-2.5, 0.5, 2.5]]


def test_the_stabiliser_of_std_is_chosen_for_each_sample_by_itself():
    z = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    rms = math.sqrt(12.5)
    expected = [[3 + 0.1 * rms, 4 + 0.1 * rms], [0.0, 0.0]]
    assert torch.allclose(rules.epsilon(0, std=0.1).stabilise(z), torch.tensor(expected))


def test_a_part_without_contributions_passes_nothing_on_and_nothing_is_nan():
    net = nn.Linear(3, 2, bias=False).double()
    net.weight.data = torch.tensor([[1.0, 2.0, 3.0], [-1.0, -2.0, -3.0]], dtype=torch.float64)
    x = torch.ones(1, 3, dtype=torch.float64)
    up, down = (klrp.explain(net, x, k, rule=rules.alpha_beta(2, 1)) for k in (0, 1))
    assert torch.allclose(up.input, torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.float64) / 3)
    assert torch.allclose(down.input, -torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.float64) / 6)
    (entry,) = up.conservation().values()
    assert (float(entry.received), float(entry.passed), float(entry.lost)) == (1.0, 2.0, -1.0)


def test_an_upper_neuron_with_z_zero_gives_shares_of_zero_and_counts_as_lost():
    for rule in (rules.lrp0(), rules.zplus(), rules.max_share(), rules.alpha_beta(2, 1)):
        relevance = klrp.explain(nn.Linear(3, 2, bias=False), torch.zeros(1, 3), rule=rule)
        assert relevance.input.tolist() == [[0.0, 0.0, 0.0]]
        (entry,) = relevance.conservation().values()
        assert float(entry.lost) == 1.0


def test_zbox_takes_bounds_for_each_channel():
    net = nn.Sequential(nn.Conv2d(3, 5, 3, bias=False), nn.Flatten()).double()
    x = torch.rand(2, 3, 7, 11, dtype=torch.float64)
    low, high = torch.tensor([-1.0, 0.0, -2.0]), torch.tensor([1.0, 2.0, 1.5])
    relevance = klrp.explain(net, x, rule=rules.zbox(low[:, None, None], high[:, None, None]))
    for entry in relevance.conservation().values():
        assert torch.allclose(entry.received, entry.passed)
    alone = klrp.explain(net, x, rule=rules.zbox(-1.0, 1.0))
    assert not torch.allclose(alone.input[:, 2], relevance.input[:, 2])


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: rules.epsilon(-1), "epsilon: got eps = -1"),
        (lambda: rules.epsilon(math.nan), "epsilon: got eps = nan"),
        (lambda: rules.epsilon("0.1"), "epsilon: got eps = '0.1'"),
        (lambda: rules.epsilon(0, std=-0.1), "epsilon: got std = -0.1"),
        (lambda: rules.gamma(-0.1), "gamma: got g = -0.1"),
        (lambda: rules.alpha_beta(2, 2), "alpha - beta must be 1"),
        (lambda: rules.alpha_beta(0.5, -0.5), "alpha_beta: got beta = -0.5"),
        (lambda: rules.zbox(1.0, 0.0), "zbox: got low = 1 above high = 0"),
        (lambda: rules.zbox(math.nan, 0.0), "zbox: got low = nan"),
        (lambda: conversions.threshold(math.nan), "threshold: got nan"),
        (lambda: conversions.threshold("1"), "threshold: got '1'"),
        (lambda: conversions.magnitude(math.inf), "magnitude: got inf"),
        (lambda: conversions.keep(None), "keep: got None"),
        (lambda: conversions.mass(0), "mass: got f = 0"),
        (lambda: conversions.mass(1.5), "mass: got f = 1.5"),
        (lambda: conversions.as_conversion(0.5), "theta: got 0.5"),
    ],
)
def test_an_argument_out_of_range_is_named(call, message):
    with pytest.raises(klrp.KlrpError, match=message):
        call()


D = torch.tensor([-0.5, -0.1, 0.0, 0.1, 0.5], dtype=torch.float64)


@pytest.mark.parametrize(
    "theta, expected",
    [
        (conversions.threshold(0.1), [0, 0, 0, 1, 1]),
        (conversions.threshold(0), [0, 0, 1, 1, 1]),
        (conversions.magnitude(0.1), [1, 1, 0, 1, 1]),
        (conversions.positive(), [0, 0, 0, 1, 1]),
    ],
    ids=str,
)
def test_a_threshold_gives_the_one_and_the_zero_of_its_semiring(theta, expected):
    for semiring in (klrp.REAL, klrp.BOOLEAN, klrp.COUNTING, klrp.COUNTING_INT, klrp.TROPICAL):
        found = theta(D, semiring)
        assert found.tolist() == [semiring.one if e else semiring.zero for e in expected]
        assert found.dtype == semiring.dtype_for(D.dtype)


def test_keep_log_and_neglog_send_what_they_drop_to_zero():
    assert conversions.keep(0.1)(D, klrp.REAL).tolist() == [0, 0, 0, 0.1, 0.5]
    logs, costs = conversions.log()(D, klrp.MAX_PLUS), conversions.neglog()(D, klrp.TROPICAL)
    assert logs[2] == -math.inf and costs[2] == math.inf
    assert torch.equal(logs[3:], -costs[3:]) and logs[:2].isnan().all()


def test_a_number_is_no_element_of_a_semiring_with_axes():
    pair = klrp.Semiring("pair", [0.0, 0.0], [1.0, 1.0], lambda x, dim: x.sum(dim), torch.mul, shape=(2,))
    for theta in (conversions.identity(), conversions.keep(0.1), conversions.log()):
        with pytest.raises(klrp.KlrpError, match="has the shape"):
            theta(D, pair)
    assert conversions.threshold(0.1)(D, pair).shape == (5, 2)


def test_a_threshold_takes_a_single_share():
    for value, expected in ((0.05, 0.0), (0.2, 1.0)):
        assert conversions.threshold(0.1)(torch.tensor(value), klrp.COUNTING) == expected


def test_a_threshold_gives_the_elements_of_a_boolean_semiring_whose_zero_is_true():
    dual = klrp.Semiring("all", True, False, lambda x, dim: x.all(dim), torch.logical_or, (0, 1), dtype=torch.bool)
    klrp.check_laws(dual, torch.tensor([True, False]))
    settings = {"rule": rules.epsilon(), "theta": conversions.threshold(0.1)}
    for name, map in klrp.explain(NET, X, semiring=dual, **settings).items():
        assert torch.equal(map, ~klrp.explain(NET, X, semiring="boolean", **settings)[name])


# --- numbers ---------------------------------------------------------------------------------------------

MAKERS = {
    "epsilon": rules.epsilon,
    "gamma": rules.gamma,
    "alpha": lambda v: rules.alpha_beta(v, 1),
    "low": lambda v: rules.zbox(v, 5.0),
    "threshold": conversions.threshold,
    "magnitude": conversions.magnitude,
    "keep": conversions.keep,
}
TWOS = [2, 2.0, np.float32(2), np.int64(2), np.array(2.0), torch.tensor(2), torch.tensor(2.0), torch.tensor(2.0).half()]


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
@pytest.mark.parametrize("two", TWOS, ids=lambda v: f"{type(v).__name__} {getattr(v, 'dtype', '')}")
def test_a_number_may_be_of_any_kind(make, two):
    assert repr(make(two)) == repr(make(2.0))
    assert make(two) == make(2.0) or isinstance(two, torch.Tensor) and make is MAKERS["low"]


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
@pytest.mark.parametrize(
    "value", [True, np.True_, torch.tensor(True), 1j, "2", torch.ones(2, dtype=torch.bool)], ids=repr
)
def test_what_is_no_number_is_refused(make, value):
    with pytest.raises(klrp.KlrpError, match=": got "):
        make(value)


def test_the_bounds_of_zbox_keep_their_digits():
    _, (low, lift), (high, _) = rules.zbox(-1.7, np.float64(2.3)).parts[0].pairs
    x = torch.zeros(2, 3, dtype=torch.float64)
    assert low(x).tolist() == [[1.7] * 3] * 2 and high(x).tolist() == [[-2.3] * 3] * 2
    byte = rules.zbox(torch.tensor(1, dtype=torch.uint8), 3).parts[0].pairs[1][0]
    assert byte(x)[0, 0] == -1


def test_zbox_in_double_precision_is_the_formula():
    net, low, high = nn.Linear(7, 3, bias=False).double(), -1.7, 2.3
    w = net.weight.detach()
    terms = X[:, None] * w - low * w.clamp_min(0) - high * w.clamp_max(0)
    expected = (terms / terms.sum(2, keepdim=True))[:, 1]
    found = klrp.explain(net, X, 1, rule=rules.zbox(low, high)).input
    torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("low, high", [(-math.inf, 1.0), (0.0, math.inf), (torch.tensor([0.0, -math.inf]), 1.0)])
def test_bounds_of_zbox_are_finite(low, high):
    with pytest.raises(klrp.KlrpError, match="zbox: got .*expected finite"):
        rules.zbox(low, high)


def test_the_stabiliser_of_one_neuron_and_of_no_sample():
    z = torch.tensor([3.0, -4.0, 0.0])
    rule = rules.epsilon(0.5, std=0.1)
    torch.testing.assert_close(rule.margin(z), torch.tensor([0.8, 0.9, 0.5]))
    torch.testing.assert_close(rule.stabilise(z), torch.tensor([3.8, -4.9, 0.5]))
    assert rule.stabilise(z[:0]).shape == (0,) and rule.stabilise(torch.ones(0, 3, 2)).shape == (0, 3, 2)


# --- copies and equality ---------------------------------------------------------------------------------


def halved(d):
    return d / 2


RULES = {
    "lrp0": lambda: rules.lrp0(),
    "epsilon": lambda: rules.epsilon(0.1, std=0.2),
    "gamma": lambda: rules.gamma(0.3),
    "zplus": lambda: rules.zplus(),
    "alpha_beta": lambda: rules.alpha_beta(2, 1),
    "zbox": lambda: rules.zbox(-torch.arange(1.0, 8.0), 1.5),
    "flat": lambda: rules.flat(),
    "wsquare": lambda: rules.wsquare(),
    "max_share": lambda: rules.max_share(),
    "as_average": lambda: rules.as_average(),
}
THETAS = {
    "identity": lambda: conversions.identity(),
    "threshold": lambda: conversions.threshold(0.1),
    "magnitude": lambda: conversions.magnitude(0.1),
    "positive": lambda: conversions.positive(),
    "keep": lambda: conversions.keep(0.1),
    "log": lambda: conversions.log(),
    "neglog": lambda: conversions.neglog(),
    "mass": lambda: conversions.mass(0.5),
    "a function": lambda: conversions.as_conversion(halved),
}


def copies(x, path):
    torch.save(x, path)
    return copy.deepcopy(x), pickle.loads(pickle.dumps(x)), torch.load(path, weights_only=False)


@pytest.mark.parametrize("make", (RULES | THETAS).values(), ids=RULES | THETAS)
def test_rules_and_conversions_are_copied_saved_and_equal(make, tmp_path):
    value = make()
    for again in (make(), *copies(value, tmp_path / "x")):
        assert again == value and hash(again) == hash(value) and repr(again) == repr(value)
    others = [other() for other in (RULES | THETAS).values() if other is not make]
    assert value not in others


@pytest.mark.parametrize("name", [n for n in RULES if n != "as_average"])
def test_a_copied_rule_gives_the_same_map_by_the_same_kernel(name):
    again = pickle.loads(pickle.dumps(RULES[name]()))
    net = NET if name != "zbox" else nn.Linear(7, 3).double()
    for semiring in ("real", "boolean", "viterbi"):
        theta = conversions.threshold(0.05) if semiring == "viterbi" else None
        ours, theirs = ({"semiring": semiring, "rule": r, "theta": theta} for r in (again, RULES[name]()))
        assert klrp.kernel_for(net, X, **ours) == klrp.kernel_for(net, X, **theirs)
        assert torch.equal(klrp.explain(net, X, **ours).input, klrp.explain(net, X, **theirs).input)


@pytest.mark.parametrize("name", ["threshold", "magnitude", "positive", "mass"])
def test_a_copied_conversion_gives_the_same_map_by_the_same_kernel(name):
    again = pickle.loads(pickle.dumps(THETAS[name]()))
    ours, theirs = ({"semiring": "counting", "theta": t} for t in (again, THETAS[name]()))
    assert klrp.kernel_for(NET, X, **ours) == klrp.kernel_for(NET, X, **theirs)
    assert torch.equal(klrp.explain(NET, X, **ours).input, klrp.explain(NET, X, **theirs).input)


def test_rules_with_other_arguments_differ():
    assert rules.gamma(0.3) != rules.gamma(0.4)
    assert rules.zbox(torch.tensor([-1.0, -2.0]), 1.0) != rules.zbox(torch.tensor([-1.0, -3.0]), 1.0)
    assert conversions.mass(0.5) != conversions.mass(0.6)
    assert conversions.as_conversion(halved) != conversions.as_conversion(lambda d: d / 2)


def test_a_threshold_for_each_sample():
    theta = conversions.at_least(torch.tensor([0.2, 0.6]))
    d = torch.tensor([[0.1, 0.3], [0.3, 0.7]])
    assert theta(d, klrp.COUNTING).tolist() == [[0.0, 1.0], [0.0, 1.0]]
    assert theta == theta and theta != conversions.at_least(torch.tensor([0.2, 0.6])) and theta.safe
    assert pickle.loads(pickle.dumps(theta))(d, klrp.BOOLEAN).tolist() == [[False, True], [False, True]]


def test_a_lambda_as_theta_is_copied():
    theta = conversions.as_conversion(lambda d: d / 2)
    assert copy.deepcopy(theta) == theta
    with pytest.raises((pickle.PicklingError, AttributeError), match="lambda"):
        pickle.dumps(theta)
