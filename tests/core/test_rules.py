"""Rules and conversions: their limits, their arguments, and what each Θ says at its edge."""

import math

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
